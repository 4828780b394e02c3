from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from local import LocalAws
from tests.local.conftest import Builder, eventually

FORWARD = """
    import boto3, json, os
    def handle(event, context):
        boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody=json.dumps(event))
"""


class Inbox:
    """What a function that EventBridge calls has seen."""

    def __init__(self, aws: LocalAws, queue: str) -> None:
        self._aws = aws
        self._queue = queue
        self.seen: list[dict[str, Any]] = []

    def of(self, kind: str, instance_id: str) -> list[dict[str, Any]]:
        for message in (
            self._aws.client("sqs").receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10).get("Messages", [])
        ):
            self._aws.client("sqs").delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
            self.seen.append(json.loads(message["Body"]))
        return [
            each["event"]
            for each in self.seen
            if each["event"]["detail-type"] == kind and each["event"]["detail"]["instance-id"] == instance_id
        ]


@pytest.fixture(scope="module")
def inbox(aws: LocalAws) -> Iterator[Inbox]:
    build = Builder(aws)
    queue = build.a_queue()
    function = build.a_function(FORWARD, {"Action": "sqs:SendMessage", "Resource": "*"}, environment={"QUEUE": queue})
    rule, events = f"rule-{uuid.uuid4().hex[:8]}", aws.client("events")
    events.put_rule(Name=rule, EventPattern=json.dumps({"source": ["aws.ec2"]}))
    events.put_targets(
        Rule=rule,
        Targets=[
            {
                "Id": "1",
                "Arn": function,
                "InputTransformer": {"InputTemplate": '{"task":"NoteSignal","event":<aws.events.event.json>}'},
            }
        ],
    )
    yield Inbox(aws, queue)
    events.remove_targets(Rule=rule, Ids=["1"])
    events.delete_rule(Name=rule)


def test_a_warning_has_the_shape_that_aws_gives_it(aws: LocalAws, build: Builder, inbox: Inbox) -> None:
    instance = build.an_instance()
    aws.market.interrupt(instance.instance_id, notice_seconds=60)
    (event,) = eventually(lambda: inbox.of("EC2 Spot Instance Interruption Warning", instance.instance_id))
    assert event.pop("id")
    assert event.pop("time").endswith("Z")
    assert event == {
        "version": "0",
        "detail-type": "EC2 Spot Instance Interruption Warning",
        "source": "aws.ec2",
        "account": aws.account_id,
        "region": "us-east-1",
        "resources": [f"arn:aws:ec2:us-east-1a:instance/{instance.instance_id}"],
        "detail": {"instance-id": instance.instance_id, "instance-action": "terminate"},
    }
    assert inbox.seen[-1]["task"] == "NoteSignal"
    aws.market.publish_warning(instance.instance_id)
    eventually(lambda: len(inbox.of("EC2 Spot Instance Interruption Warning", instance.instance_id)) == 2)


def test_a_notice_may_stay_unpublished(aws: LocalAws, build: Builder, inbox: Inbox) -> None:
    instance = build.an_instance()
    aws.market.interrupt(instance.instance_id, notice_seconds=60, publish=False)
    aws.market.recommend_rebalance(instance.instance_id)
    (event,) = eventually(lambda: inbox.of("EC2 Instance Rebalance Recommendation", instance.instance_id))
    assert event["resources"] == [f"arn:aws:ec2:us-east-1:{aws.account_id}:instance/{instance.instance_id}"]
    assert inbox.of("EC2 Spot Instance Interruption Warning", instance.instance_id) == []


def test_state_changes_are_told_from_birth_to_death(aws: LocalAws, build: Builder, inbox: Inbox) -> None:
    instance = build.an_instance()
    aws.market.kill(instance.instance_id)

    def states() -> set[str]:
        return {
            each["detail"]["state"] for each in inbox.of("EC2 Instance State-change Notification", instance.instance_id)
        }

    eventually(lambda: states() == {"pending", "running", "shutting-down", "terminated"})


def test_only_the_market_speaks_as_aws(aws: LocalAws) -> None:
    answer = aws.client("events").put_events(
        Entries=[{"Source": "aws.ec2", "DetailType": "EC2 Spot Instance Interruption Warning", "Detail": "{}"}]
    )
    assert answer["Entries"][0]["ErrorCode"] == "NotAuthorizedForSourceException"


def test_an_event_that_a_function_fails_on_is_tried_again(aws: LocalAws, build: Builder, inbox: Inbox) -> None:
    queue = build.a_queue()
    function = build.a_function(
        """
        import boto3, os
        calls = 0
        def handle(event, context):
            global calls
            calls += 1
            if calls == 1: raise RuntimeError("not yet")
            boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody=str(calls))
        """,
        {"Action": "sqs:SendMessage", "Resource": "*"},
        environment={"QUEUE": queue},
    )
    rule, events = f"rule-{uuid.uuid4().hex[:8]}", aws.client("events")
    events.put_rule(Name=rule, EventPattern=json.dumps({"source": [rule]}))
    events.put_targets(Rule=rule, Targets=[{"Id": "1", "Arn": function}])
    events.put_events(Entries=[{"Source": rule, "DetailType": "x", "Detail": "{}"}])
    received = eventually(lambda: aws.client("sqs").receive_message(QueueUrl=queue).get("Messages"))
    assert received[0]["Body"] == "2"
