"""Step Functions in memory: executions are remembered, not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spot_optimizer.domain.claims import Execution


class FakeWorkflows:
    """Implements `Workflows`.

    Attributes:
        fail_overs: Payload by name of every failover execution that was started.
        preparations: Payload by name of every execution that prepares a replica.
        ended: Names of executions that no longer run.
        woken: Task tokens that were completed, in order.
    """

    def __init__(self) -> None:
        self.fail_overs: dict[str, Mapping[str, Any]] = {}
        self.preparations: dict[str, Mapping[str, Any]] = {}
        self.ended: set[str] = set()
        self.woken: list[str] = []

    def start_fail_over(self, name: str, payload: Mapping[str, Any]) -> None:
        self.fail_overs.setdefault(name, dict(payload))

    def fail_over_state(self, name: str) -> Execution:
        if name not in self.fail_overs:
            return Execution.UNKNOWN
        return Execution.ENDED if name in self.ended else Execution.RUNNING

    def fail_over_arn(self, name: str) -> str:
        return f"arn:aws:states:us-east-1:000000000000:execution:fail-over:{name}"

    def start_prepare_replica(self, name: str, payload: Mapping[str, Any]) -> None:
        self.preparations.setdefault(name, dict(payload))

    def prepare_replica_arn(self, name: str) -> str:
        return f"arn:aws:states:us-east-1:000000000000:execution:prepare-replica:{name}"

    def prepare_replica_state(self, name: str) -> Execution:
        if name not in self.preparations:
            return Execution.UNKNOWN
        return Execution.ENDED if name in self.ended else Execution.RUNNING

    def wake(self, task_token: str) -> None:
        self.woken.append(task_token)
