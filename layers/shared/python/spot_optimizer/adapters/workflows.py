"""Step Functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.claims import Execution

_SERVICE = "Step Functions"


class StepFunctionsWorkflows:
    """Implements `Workflows`.

    Args:
        clients: SDK clients.
        fail_over_machine: Tells the ARN of the failover's state machine; asked when it is first used.
        prepare_replica_machine: As well.
    """

    def __init__(
        self, clients: Clients, *, fail_over_machine: Callable[[], str], prepare_replica_machine: Callable[[], str]
    ) -> None:
        self._clients = clients
        self._fail_over_machine = fail_over_machine
        self._prepare_replica_machine = prepare_replica_machine

    def start_fail_over(self, name: str, payload: Mapping[str, Any]) -> None:
        """Start the execution, or find it running; an execution of that name that already ended is left as it is."""
        _start(self._clients, self._fail_over_machine(), name, payload)

    def fail_over_state(self, name: str) -> Execution:
        """What became of the execution."""
        return _state(self._clients, self.fail_over_arn(name))

    def fail_over_arn(self, name: str) -> str:
        """Where to look at the execution."""
        return _execution_arn(self._fail_over_machine(), name)

    def start_prepare_replica(self, name: str, payload: Mapping[str, Any]) -> None:
        """As `start_fail_over`."""
        _start(self._clients, self._prepare_replica_machine(), name, payload)

    def prepare_replica_arn(self, name: str) -> str:
        """Where to look at the execution."""
        return _execution_arn(self._prepare_replica_machine(), name)

    def prepare_replica_state(self, name: str) -> Execution:
        """What became of the execution."""
        return _state(self._clients, self.prepare_replica_arn(name))

    def wake(self, task_token: str) -> None:
        """Complete a waiting task; a token that was used or has timed out is a success."""
        with service_failures(_SERVICE):
            try:
                self._clients.step_functions.send_task_success(taskToken=task_token, output="{}")
            except ClientError as error:
                if error_code(error) not in ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken"):
                    raise


class StepFunctionsActivations:
    """Implements `Activations`.

    Args:
        clients: SDK clients.
        machine: Tells the state machine's ARN; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, machine: Callable[[], str]) -> None:
        self._clients = clients
        self._machine = machine

    def start(self, name: str, payload: Mapping[str, Any]) -> None:
        """Start the execution, or find it."""
        _start(self._clients, self._machine(), name, payload)

    def state(self, name: str) -> Execution:
        """What became of it."""
        return _state(self._clients, self.arn(name))

    def arn(self, name: str) -> str:
        """Where to look at it."""
        return _execution_arn(self._machine(), name)


class StepFunctionsFilling:
    """Implements `Filling`.

    Args:
        clients: SDK clients.
        machine: Tells the ARN of the state machine that fills gaps; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, machine: Callable[[], str]) -> None:
        self._clients = clients
        self._machine = machine

    def start(self, name: str, payload: Mapping[str, Any]) -> str:
        """Start filling, or find it started under this name; tell where to look at it."""
        machine = self._machine()
        _start(self._clients, machine, name, payload)
        return _execution_arn(machine, name)


def _start(clients: Clients, machine: str, name: str, payload: Mapping[str, Any]) -> None:
    with service_failures(_SERVICE):
        try:
            clients.step_functions.start_execution(
                stateMachineArn=machine, name=name, input=json.dumps(payload, sort_keys=True)
            )
        except ClientError as error:
            # The name is what makes a start idempotent: whoever was first has started the same work.
            if error_code(error) != "ExecutionAlreadyExists":
                raise


def _state(clients: Clients, execution_arn: str) -> Execution:
    with service_failures(_SERVICE):
        try:
            answer = clients.step_functions.describe_execution(executionArn=execution_arn)
        except ClientError as error:
            if error_code(error) == "ExecutionDoesNotExist":
                return Execution.UNKNOWN
            raise
    return Execution.RUNNING if answer["status"] == "RUNNING" else Execution.ENDED


def _execution_arn(machine: str, name: str) -> str:
    return f"{machine.replace(':stateMachine:', ':execution:', 1)}:{name}"
