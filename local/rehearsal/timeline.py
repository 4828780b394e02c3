"""What happened from a notice to the first write that the new primary acknowledged, step by step, from the evidence."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from examples.ledger.audit import ServerEvent, read_server_log
from examples.ledger.clock import boot_ns
from examples.ledger.eventlog import read_records
from local.rehearsal.workload import LedgerWorkload

FIRST_WRITE = "first write acknowledged by the new primary"
SERVING = "new primary serving"
_ENTERED = {
    "RecordInterruption": "failover started",
    "LaunchReplacement": "replacement ordered",
    "OpenHandover": "standby selected",
    "AwaitServing": "handover opened",
    "SwitchTraffic": "new primary reported serving",
    "ConfirmServing": "traffic moved to the new primary",
    "ReportSuccess": "failover recorded",
}
_LEDGER = {
    "frozen": "old primary frozen, nothing more acknowledged",
    "restored": "promoted: state restored on the standby",
    "serving": SERVING,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a failover.

    Attributes:
        step: What happened.
        at_seconds: Since the notice was published.
    """

    step: str
    at_seconds: float


class Timeline:
    """Collects the steps of one failover while it runs: from Step Functions, and from the logs of ledger and client.

    Attributes:
        began_ns: CLOCK_BOOTTIME when the notice was published.
        steps: What was found so far, in the order in which it was found.
    """

    def __init__(self, workload: LedgerWorkload, *, began_ns: int, epoch: int) -> None:
        """Watch the failover that ends `epoch`."""
        self.began_ns = began_ns
        self.steps: list[Step] = []
        self._workload = workload
        self._epoch = epoch
        # Both clocks read together: Step Functions tells wall-clock time, everything else counts on CLOCK_BOOTTIME.
        self._wall_at_boot_zero = time.time() - boot_ns() / 1e9

    def look(self) -> list[Step]:
        """The steps that were found since the last look."""
        known = {step.step for step in self.steps}
        new = [step for step in self._evidence() if step.step not in known and step.at_seconds >= 0]
        unique = list({step.step: step for step in sorted(new, key=lambda step: -step.at_seconds)}.values())[::-1]
        self.steps += unique
        return unique

    @property
    def in_order(self) -> list[Step]:
        """Every step by its time."""
        return sorted(self.steps, key=lambda step: step.at_seconds)

    def seconds_to(self, step: str) -> float | None:
        """When a step happened, seconds since the notice; None if it did not."""
        return next((found.at_seconds for found in self.in_order if found.step == step), None)

    def _evidence(self) -> Iterator[Step]:
        yield from self._from_execution()
        yield from self._from_ledgers()
        yield from self._from_client()

    def _from_execution(self) -> Iterator[Step]:
        name = f"{self._workload.agent_id}-{self._epoch}-1"
        events: list[dict[str, Any]] = []
        with contextlib.suppress(ClientError):
            events = self._workload.tenancy.execution_events(name)
        for event in events:
            state = event.get("stateEnteredEventDetails", {}).get("name")
            if state in _ENTERED:
                at = event["timestamp"].timestamp() - self._wall_at_boot_zero - self.began_ns / 1e9
                yield Step(_ENTERED[state], round(at, 3))

    def _from_ledgers(self) -> Iterator[Step]:
        for path in self._workload.logs.glob("i-*.jsonl"):
            for event in read_server_log(path):
                if event.event in _LEDGER and event.boot_ns >= self.began_ns and self._concerns(event):
                    yield self._step(_LEDGER[event.event], event.boot_ns)

    def _from_client(self) -> Iterator[Step]:
        if self._workload.client.last_epoch is None or self._workload.client.last_epoch <= self._epoch:
            return
        path = self._workload.logs / "client.jsonl"
        with path.open(encoding="utf-8", newline="\n") as lines:
            for record in read_records(lines, name=str(path)):
                if record["event"] == "acknowledged" and int(record["epoch"] or 0) > self._epoch:
                    yield self._step(FIRST_WRITE, int(record["boot_ns"] or 0))
                    return

    def _concerns(self, event: ServerEvent) -> bool:
        return (event.epoch > self._epoch) == (event.event != "frozen")

    def _step(self, step: str, at_ns: int) -> Step:
        return Step(step, round((at_ns - self.began_ns) / 1e9, 3))
