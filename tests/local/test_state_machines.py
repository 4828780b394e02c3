from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local import LocalAws
from tests.local.conftest import Builder, eventually

KEEPS_TOKEN = """
    import boto3, os
    def handle(event, context):
        boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody=event["token"])
"""


def a_task(function: str, *, wait: bool = False, **more: Any) -> dict[str, Any]:
    payload: dict[str, Any] = {"token.$": "$$.Task.Token", "attempt.$": "$$.State.RetryCount"} if wait else {"x.$": "$"}
    return {
        "StartAt": "Do",
        "States": {
            "Do": {
                "Type": "Task",
                "Resource": f"arn:aws:states:::lambda:invoke{'.waitForTaskToken' if wait else ''}",
                "Parameters": {"FunctionName": function, "Payload": payload},
                "End": True,
                **more,
            },
            "Caught": {"Type": "Pass", "End": True},
        },
    }


@pytest.fixture
def queue(build: Builder) -> str:
    return build.a_queue()


@pytest.fixture
def keeper(build: Builder, queue: str) -> str:
    return build.a_function(KEEPS_TOKEN, {"Action": "sqs:SendMessage", "Resource": "*"}, environment={"QUEUE": queue})


def a_token(aws: LocalAws, queue: str) -> str:
    def received() -> str:
        messages = aws.client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=0).get("Messages", [])
        for message in messages:
            aws.client("sqs").delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return messages[0]["Body"] if messages else ""

    return eventually(received)


def test_catch_matches_the_class_name_of_an_error(build: Builder) -> None:
    function = build.a_function("class PoolEmpty(Exception): pass\ndef handle(event, context): raise PoolEmpty('none')")
    catch = [{"ErrorEquals": ["PoolEmpty"], "ResultPath": "$.error", "Next": "Caught"}]
    execution = build.run(build.a_state_machine(a_task(function, Catch=catch)), {"id": 1})
    output = json.loads(execution["output"])
    assert (output["id"], output["error"]["Error"]) == (1, "PoolEmpty")


def test_a_task_token_is_spent_once(aws: LocalAws, build: Builder, queue: str, keeper: str) -> None:
    states = aws.client("stepfunctions")
    machine = build.a_state_machine(a_task(keeper, wait=True))
    execution = states.start_execution(stateMachineArn=machine)["executionArn"]
    token = a_token(aws, queue)
    states.send_task_success(taskToken=token, output='"first"')
    with pytest.raises(ClientError, match="TaskTimedOut"):
        states.send_task_success(taskToken=token, output='"second"')
    with pytest.raises(ClientError, match="TaskDoesNotExist|InvalidToken"):
        states.send_task_success(taskToken="never-given", output="1")
    eventually(lambda: states.describe_execution(executionArn=execution)["status"] == "SUCCEEDED")
    assert states.describe_execution(executionArn=execution)["output"] == '"first"'


def test_a_silent_token_times_out_and_is_then_worthless(aws: LocalAws, build: Builder, queue: str, keeper: str) -> None:
    began = time.monotonic()
    execution = build.run(build.a_state_machine(a_task(keeper, wait=True, TimeoutSeconds=1)))
    assert (execution["status"], execution["error"]) == ("FAILED", "States.Timeout")
    assert 1 <= time.monotonic() - began < 3
    with pytest.raises(ClientError, match="TaskTimedOut"):
        aws.client("stepfunctions").send_task_success(taskToken=a_token(aws, queue), output="1")


def test_heartbeats_keep_a_token_alive(aws: LocalAws, build: Builder, queue: str, keeper: str) -> None:
    states = aws.client("stepfunctions")
    machine = build.a_state_machine(a_task(keeper, wait=True, TimeoutSeconds=20, HeartbeatSeconds=1))
    arn = states.start_execution(stateMachineArn=machine)["executionArn"]
    token = a_token(aws, queue)
    for _ in range(4):
        time.sleep(0.5)
        states.send_task_heartbeat(taskToken=token)
    assert states.describe_execution(executionArn=arn)["status"] == "RUNNING"
    eventually(lambda: states.describe_execution(executionArn=arn)["status"] == "FAILED", within_seconds=4)
    assert states.describe_execution(executionArn=arn)["error"] == "States.HeartbeatTimeout"


def test_an_error_while_handing_out_a_token_surfaces_at_once(build: Builder) -> None:
    function = build.a_function("class Broken(Exception): pass\ndef handle(event, context): raise Broken('no')")
    began = time.monotonic()
    execution = build.run(build.a_state_machine(a_task(function, wait=True, TimeoutSeconds=60)))
    assert (execution["status"], execution["error"]) == ("FAILED", "Broken")
    assert time.monotonic() - began < 5


def test_each_attempt_has_a_token_of_its_own(aws: LocalAws, build: Builder, queue: str, keeper: str) -> None:
    retry = [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 1, "BackoffRate": 1.0}]
    machine = build.a_state_machine(a_task(keeper, wait=True, TimeoutSeconds=30, Retry=retry))
    aws.client("stepfunctions").start_execution(stateMachineArn=machine)
    first = a_token(aws, queue)
    aws.client("stepfunctions").send_task_failure(taskToken=first, error="Nope", cause="")
    assert a_token(aws, queue) != first


def test_starting_again_under_one_name(aws: LocalAws, build: Builder, queue: str, keeper: str) -> None:
    states = aws.client("stepfunctions")
    machine = build.a_state_machine(a_task(keeper, wait=True, TimeoutSeconds=30))
    name = f"agent-1-{uuid.uuid4().hex[:6]}"
    one = states.start_execution(stateMachineArn=machine, name=name, input='{"a": 1}')
    assert (
        states.start_execution(stateMachineArn=machine, name=name, input='{"a":1}')["executionArn"]
        == one["executionArn"]
    )
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        states.start_execution(stateMachineArn=machine, name=name, input='{"a": 2}')
    states.send_task_success(taskToken=a_token(aws, queue), output="1")
    eventually(lambda: states.describe_execution(executionArn=one["executionArn"])["status"] == "SUCCEEDED")
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        states.start_execution(stateMachineArn=machine, name=name, input='{"a": 1}')


def test_many_starts_at_once_give_one_execution(aws: LocalAws, build: Builder, keeper: str) -> None:
    states = aws.client("stepfunctions")
    machine = build.a_state_machine(a_task(keeper, wait=True, TimeoutSeconds=2))
    found: list[str] = []
    starters = [
        threading.Thread(
            target=lambda: found.append(
                states.start_execution(stateMachineArn=machine, name="same", input="{}")["executionArn"]
            )
        )
        for _ in range(8)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(states.list_executions(stateMachineArn=machine)["executions"]) == 1


def test_an_execution_is_held_to_its_time(aws: LocalAws, build: Builder) -> None:
    definition = {"TimeoutSeconds": 1, "StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 3, "End": True}}}
    execution = build.run(build.a_state_machine(definition))
    assert execution["status"] == "TIMED_OUT"


def test_a_stopped_execution_stays_stopped(aws: LocalAws, build: Builder, queue: str, keeper: str) -> None:
    states = aws.client("stepfunctions")
    machine = build.a_state_machine(a_task(keeper, wait=True, TimeoutSeconds=30))
    arn = states.start_execution(stateMachineArn=machine)["executionArn"]
    token = a_token(aws, queue)
    states.stop_execution(executionArn=arn)
    time.sleep(0.3)
    assert states.describe_execution(executionArn=arn)["status"] == "ABORTED"
    with pytest.raises(ClientError, match="TaskTimedOut"):
        states.send_task_success(taskToken=token, output="1")


def test_a_short_execution_is_quick(build: Builder) -> None:
    function = build.a_function("def handle(event, context): return 1")
    machine = build.a_state_machine(a_task(function))
    build.run(machine)
    began = time.monotonic()
    build.run(machine)
    assert time.monotonic() - began < 0.3
