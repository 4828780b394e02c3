"""Step Functions: what a start, a look and a wake mean."""

from __future__ import annotations

import json

import boto3
import pytest

from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.adapters.workflows import StepFunctionsWorkflows
from spot_optimizer.domain.claims import Execution
from spot_optimizer.errors import Throttled
from tests.adapters.tables import ACCOUNT, REGION
from tests.adapters.transport import Transport, ok, refusal

MACHINE = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:fail-over"


@pytest.fixture
def workflows(clients: Clients) -> StepFunctionsWorkflows:
    return StepFunctionsWorkflows(
        clients,
        fail_over_machine=lambda: MACHINE,
        prepare_replica_machine=lambda: MACHINE.replace("fail-over", "prepare"),
    )


def test_an_execution_runs_and_ends_under_its_name(workflows: StepFunctionsWorkflows) -> None:
    role = boto3.client("iam").create_role(RoleName="machine", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    machines = boto3.client("stepfunctions")
    definition = json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}})
    machines.create_state_machine(name="fail-over", definition=definition, roleArn=role)
    assert workflows.fail_over_state("agt-1-1-1") is Execution.UNKNOWN
    workflows.start_fail_over("agt-1-1-1", {"agent_id": "agt-1"})
    assert workflows.fail_over_state("agt-1-1-1") is Execution.RUNNING
    machines.stop_execution(executionArn=workflows.fail_over_arn("agt-1-1-1"))
    assert workflows.fail_over_state("agt-1-1-1") is Execution.ENDED
    workflows.start_fail_over("agt-1-1-1", {"agent_id": "agt-1"})
    assert workflows.fail_over_state("agt-1-1-1") is Execution.ENDED


def test_whoever_starts_second_finds_the_work_started(clients: Clients, workflows: StepFunctionsWorkflows) -> None:
    transport = Transport(clients.step_functions, "stepfunctions", refusal("ExecutionAlreadyExists"))
    workflows.start_prepare_replica("rep-1", {"replica_id": "rep-1", "agent_id": "agt-1"})
    sent = json.loads(transport.requests[0])
    assert sent["name"] == "rep-1"
    assert sent["stateMachineArn"].endswith(":prepare")
    assert json.loads(sent["input"]) == {"agent_id": "agt-1", "replica_id": "rep-1"}


def test_what_became_of_a_preparation_is_asked_by_its_name(clients: Clients, workflows: StepFunctionsWorkflows) -> None:
    transport = Transport(clients.step_functions, "stepfunctions", refusal("ExecutionDoesNotExist"))
    assert workflows.prepare_replica_state("rep-1") is Execution.UNKNOWN
    assert json.loads(transport.requests[0]) == {
        "executionArn": f"{MACHINE.replace(':stateMachine:', ':execution:').replace('fail-over', 'prepare')}:rep-1"
    }


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_a_late_token_is_a_success(clients: Clients, workflows: StepFunctionsWorkflows, code: str) -> None:
    Transport(clients.step_functions, "stepfunctions", refusal(code))
    workflows.wake("token")


def test_a_token_is_completed(clients: Clients, workflows: StepFunctionsWorkflows) -> None:
    transport = Transport(clients.step_functions, "stepfunctions", ok())
    workflows.wake("token")
    assert json.loads(transport.requests[0]) == {"taskToken": "token", "output": "{}"}


def test_throttling_is_told(clients: Clients, workflows: StepFunctionsWorkflows) -> None:
    Transport(clients.step_functions, "stepfunctions", *[refusal("ThrottlingException")] * 3)
    with pytest.raises(Throttled):
        workflows.wake("token")
