"""How EC2's events reach the one starter of failovers."""

from __future__ import annotations

import json

import pytest

from tests.infra.conftest import Deployment


@pytest.mark.parametrize(
    "detail_type",
    [
        "EC2 Spot Instance Interruption Warning",
        "EC2 Instance Rebalance Recommendation",
        "EC2 Instance State-change Notification",
    ],
)
def test_each_signal_of_ec2_reaches_the_starter_whole(dev: Deployment, detail_type: str) -> None:
    [rule] = [
        rule
        for rule in dev.properties("AWS::Events::Rule").values()
        if detail_type in rule.get("EventPattern", {}).get("detail-type", ())
    ]
    assert rule["EventPattern"]["source"] == ["aws.ec2"]
    [target] = rule["Targets"]
    template = target["InputTransformer"]["InputTemplate"]
    assert json.loads(template.replace("<aws.events.event.json>", '"whole event"')) == {
        "task": "NoteSignal",
        "event": "whole event",
    }


def test_silent_agents_are_looked_for_every_minute(dev: Deployment) -> None:
    [rule] = [rule for name, rule in dev.properties("AWS::Events::Rule").items() if "SweepSilentAgents" in name]
    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert json.loads(rule["Targets"][0]["Input"]) == {"task": "SweepSilentAgents"}


def test_a_signal_is_tried_again_and_then_kept(dev: Deployment) -> None:
    for rule in dev.properties("AWS::Events::Rule").values():
        for target in rule["Targets"]:
            assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
            assert target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0].startswith("FailuresQueue")


def test_prices_are_collected_every_five_minutes_and_gaps_filled_every_fifteen(dev: Deployment) -> None:
    targets = {
        rule["ScheduleExpression"]: rule["Targets"][0]
        for name, rule in dev.properties("AWS::Events::Rule").items()
        if name.startswith("Prices")
    }
    assert targets["rate(5 minutes)"]["Arn"]["Fn::GetAtt"][0].startswith("CollectPrices")
    assert targets["rate(15 minutes)"]["Arn"]["Ref"].startswith("FillGapsMachine")
    assert json.loads(targets["rate(15 minutes)"]["Input"]) == {}


def test_every_function_that_is_a_target_may_be_invoked_by_its_rule_and_no_other(dev: Deployment) -> None:
    rules = {
        name
        for name, rule in dev.properties("AWS::Events::Rule").items()
        # A state machine is started by the rule's own role.
        if not any("RoleArn" in target for target in rule["Targets"])
    }
    permissions = dev.properties("AWS::Lambda::Permission").values()
    sources = [
        permission["SourceArn"]["Fn::GetAtt"][0]
        for permission in permissions
        if permission["Principal"] == "events.amazonaws.com"
    ]
    assert sorted(sources) == sorted(rules)


def test_an_event_that_the_starter_failed_on_to_the_end_is_kept(dev: Deployment) -> None:
    configurations = dev.properties("AWS::Lambda::EventInvokeConfig").values()
    assert len(configurations) == 3
    for configuration in configurations:
        assert configuration["MaximumRetryAttempts"] == 2
        [destination, _] = configuration["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"]
        assert destination.startswith("FailuresQueue")


def test_what_is_kept_is_encrypted_and_refuses_plain_http(dev: Deployment) -> None:
    [queue] = dev.properties("AWS::SQS::Queue").values()
    assert queue["SqsManagedSseEnabled"] is True
    assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
    [policy] = dev.properties("AWS::SQS::QueuePolicy").values()
    assert any(statement["Effect"] == "Deny" for statement in policy["PolicyDocument"]["Statement"])
