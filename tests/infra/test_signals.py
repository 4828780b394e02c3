"""How EC2's events reach the one starter of failovers."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from spot_optimizer.domain.stored_decisions import DECIDED_EVERY
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
            assert target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0].split("Queue")[0].endswith("Failures")


def scheduled(dev: Deployment, every: str) -> dict[str, object]:
    """Input by the function or state machine that is the target."""
    targets = [
        target
        for rule in dev.properties("AWS::Events::Rule").values()
        if rule.get("ScheduleExpression") == every
        for target in rule["Targets"]
    ]
    arns = [target["Arn"] for target in targets]
    names = [arn["Fn::GetAtt"][0] if "Fn::GetAtt" in arn else arn["Ref"] for arn in arns]
    return {
        re.split("Function|Machine", name)[0]: json.loads(target["Input"])
        for name, target in zip(names, targets, strict=True)
    }


def test_prices_are_collected_every_five_minutes_and_gaps_filled_every_fifteen(dev: Deployment) -> None:
    assert scheduled(dev, "rate(5 minutes)")["CollectPrices"] == {}
    assert scheduled(dev, "rate(15 minutes)")["FillGaps"] == {}


def test_it_is_decided_for_every_agent_as_often_as_prices_are_collected(dev: Deployment) -> None:
    assert scheduled(dev, "rate(5 minutes)")["DecideFleet"] == {}
    assert timedelta(minutes=5) == DECIDED_EVERY


def test_agents_are_considered_every_quarter_hour_and_switches_are_realised_every_hour(dev: Deployment) -> None:
    assert scheduled(dev, "rate(15 minutes)")["SwitchAgents"] == {}
    assert scheduled(dev, "rate(1 hour)")["SwitchAgents"] == {"task": "RealiseSavings"}


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
    assert len(configurations) == 5
    for configuration in configurations:
        assert configuration["MaximumRetryAttempts"] == 2
        [destination, _] = configuration["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"]
        assert destination.split("Queue")[0].endswith("Failures")


def test_what_is_kept_is_encrypted_and_refuses_plain_http(dev: Deployment) -> None:
    queues, policies = (dev.properties(f"AWS::SQS::{kind}").values() for kind in ("Queue", "QueuePolicy"))
    assert len(queues) == len(policies)
    for queue in queues:
        assert queue["SqsManagedSseEnabled"] is True
        assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
    for policy in policies:
        assert any(statement["Effect"] == "Deny" for statement in policy["PolicyDocument"]["Statement"])
