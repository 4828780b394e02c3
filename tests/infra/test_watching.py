"""What can be seen afterwards, and what calls a person now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from spot_optimizer import wiring
from tests.infra.conftest import ROOT, Deployment


@pytest.mark.parametrize(("stage", "days"), [("dev", 7), ("prod", 90)])
def test_every_log_ends(request: pytest.FixtureRequest, stage: str, days: int) -> None:
    deployment: Deployment = request.getfixturevalue(stage)
    logs = deployment.properties("AWS::Logs::LogGroup")
    assert logs
    assert {log["RetentionInDays"] for log in logs.values()} == {days}


def test_every_function_writes_json_to_a_log_of_its_own_and_is_traced(dev: Deployment) -> None:
    functions = dev.properties("AWS::Lambda::Function")
    logs = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions.values()]
    assert len(set(logs)) == len(functions) == len(list((ROOT / "functions").glob("*/handler.py")))
    for function in functions.values():
        assert function["LoggingConfig"]["LogFormat"] == "JSON"
        assert function["TracingConfig"] == {"Mode": "Active"}


def test_every_state_machine_is_traced_and_logged_without_payloads(dev: Deployment) -> None:
    for machine in dev.properties("AWS::StepFunctions::StateMachine").values():
        assert machine["TracingConfiguration"] == {"Enabled": True}
        assert machine["LoggingConfiguration"]["Level"] == "ALL"
        assert machine["LoggingConfiguration"]["IncludeExecutionData"] is False


@pytest.mark.parametrize("metric", ["ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"])
def test_an_execution_that_does_not_succeed_calls_a_person(dev: Deployment, metric: str) -> None:
    watching = [alarm for alarm in _alarms(dev) if alarm["MetricName"] == metric]
    assert len(watching) == len(dev.resources("AWS::StepFunctions::StateMachine"))
    for alarm in watching:
        assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (0, 1, 60)


def test_a_signal_that_reached_nobody_calls_a_person(dev: Deployment) -> None:
    alarms = [alarm for alarm in _alarms(dev) if alarm["Namespace"] == "AWS/SQS"]
    assert len(alarms) == len(dev.resources("AWS::SQS::Queue"))
    for alarm in alarms:
        assert alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
        assert alarm["Threshold"] == 0


def test_a_sweep_that_stopped_calls_a_person_however_busy_its_function_is(dev: Deployment) -> None:
    # The same function is told of every instance of the account that ends: its being invoked says nothing of the sweep.
    [alarm] = [alarm for alarm in _alarms(dev) if alarm["MetricName"] == "Sweeps"]
    assert alarm["EvaluationPeriods"] == 5
    assert alarm["ComparisonOperator"] == "LessThanThreshold"
    assert alarm["TreatMissingData"] == "breaching"


def test_an_alarm_looks_at_what_its_function_writes(
    dev: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [alarm for alarm in _alarms(dev) if alarm["Namespace"] == "SpotOptimizer"]
    assert len(ours) >= 5
    functions = [one["Environment"]["Variables"] for one in dev.properties("AWS::Lambda::Function").values()]
    for alarm in ours:
        name, looked_at = alarm["MetricName"], {one["Name"]: one["Value"] for one in alarm.get("Dimensions", [])}
        writers = [
            given
            for given in functions
            if f'wiring.count("{name}"'
            in (ROOT / "functions" / given["POWERTOOLS_SERVICE_NAME"] / "handler.py").read_text()
        ]
        [given] = writers
        for variable in ("POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE"):
            monkeypatch.setenv(variable, given[variable])
        capsys.readouterr()
        wiring.count(name, 1)
        written = json.loads(capsys.readouterr().out)
        [metric] = written["_aws"]["CloudWatchMetrics"]
        assert metric["Namespace"] == alarm["Namespace"]
        # CloudWatch takes a metric with other dimensions for another metric.
        [dimensions] = metric["Dimensions"]
        assert {dimension: written[dimension] for dimension in dimensions} == looked_at, name


@pytest.mark.parametrize("metric", ["PriceCollections", "FleetDecisions"])
def test_a_schedule_that_stands_still_calls_a_person(dev: Deployment, metric: str) -> None:
    [alarm] = [alarm for alarm in _alarms(dev) if alarm["MetricName"] == metric]
    assert alarm["Namespace"] == "SpotOptimizer"
    assert (alarm["Threshold"], alarm["EvaluationPeriods"], alarm["Period"]) == (1, 15, 60)
    assert (alarm["ComparisonOperator"], alarm["TreatMissingData"]) == ("LessThanThreshold", "breaching")


def test_a_sweep_for_orphans_that_stopped_itself_or_stands_still_calls_a_person(dev: Deployment) -> None:
    [halted] = [alarm for alarm in _alarms(dev) if alarm["MetricName"] == "OrphanSweepsHalted"]
    assert (halted["Namespace"], halted["Threshold"], halted["EvaluationPeriods"]) == ("SpotOptimizer", 0, 1)
    [silent] = [alarm for alarm in _alarms(dev) if alarm["MetricName"] == "OrphanSweeps"]
    assert (silent["ComparisonOperator"], silent["TreatMissingData"]) == ("LessThanThreshold", "breaching")
    rules = dev.properties("AWS::Events::Rule").values()
    assert [rule["ScheduleExpression"] for rule in rules if "SweepOrphans" in str(rule["Targets"])] == [
        "rate(5 minutes)"
    ]


def test_every_alarm_says_what_it_means_and_speaks_to_the_topic(dev: Deployment) -> None:
    topics = [{"Ref": topic} for topic in dev.resources("AWS::SNS::Topic")]
    for alarm in _alarms(dev):
        [action] = alarm["AlarmActions"]
        assert action in topics
        assert len(alarm["AlarmDescription"].split()) >= 4


def _alarms(deployment: Deployment) -> list[Mapping[str, Any]]:
    return list(deployment.properties("AWS::CloudWatch::Alarm").values())
