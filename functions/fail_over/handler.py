"""Every task of `fail_over.asl.json`, the starter that all signals call, and the one-minute sweep.

One function for all of it: a failover pays for one cold start at most, and the sweep keeps that one warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import failover, signals
from spot_optimizer.domain.signals import from_eventbridge

Payload = Mapping[str, Any]


def _attempt(event: Payload) -> tuple[str, int, int]:
    return str(event["agent_id"]), int(event["epoch"]), int(event["attempt"])


def _sweep(_event: Payload) -> Mapping[str, int]:
    # What a failover will need is built here, every minute, and not in the seconds that count.
    wiring.warm_up()
    swept = signals.sweep(wiring.plane())
    # That this comes is what an alarm waits for.
    wiring.count("Sweeps", 1)
    return swept


TASKS: Mapping[str, Callable[[Payload], Any]] = {
    "NoteSignal": lambda e: signals.note_signal(wiring.plane(), from_eventbridge(e["event"])).as_payload(),
    "SweepSilentAgents": _sweep,
    "ReconcileTraffic": lambda e: {"moved": signals.reconcile_traffic(wiring.plane(), e["agent_id"])},
    "RecordInterruption": lambda e: failover.record_interruption(wiring.plane(), *_attempt(e)),
    "SelectStandby": lambda e: failover.select_standby(wiring.plane(), *_attempt(e)),
    "LaunchReplacement": lambda e: failover.launch_replacement(wiring.plane(), *_attempt(e)),
    "AwaitReady": lambda e: failover.await_ready(wiring.plane(), *_attempt(e), task_token=e["task_token"]),
    "OpenHandover": lambda e: failover.open_handover(wiring.plane(), *_attempt(e)),
    "RestoreSnapshot": lambda e: failover.open_handover(wiring.plane(), *_attempt(e)),
    "AwaitServing": lambda e: failover.await_serving(wiring.plane(), *_attempt(e), task_token=e["task_token"]),
    "AssessHandover": lambda e: failover.assess_handover(wiring.plane(), *_attempt(e)),
    "SwitchTraffic": lambda e: failover.switch_traffic(wiring.plane(), e["agent_id"]),
    "ConfirmServing": lambda e: failover.confirm_serving(wiring.plane(), e["agent_id"], int(e["epoch"])),
    "DemoteOldPrimary": lambda e: failover.demote_old_primary(wiring.plane(), e["agent_id"], int(e["epoch"])),
    "RecordSwitch": lambda e: failover.record_switch(wiring.plane(), *_attempt(e)),
    "MarkLost": lambda e: failover.mark_lost(wiring.plane(), *_attempt(e)),
    "AbortHandover": lambda e: failover.abort_handover(wiring.plane(), *_attempt(e)),
    "RecordFailure": lambda e: failover.record_failure(wiring.plane(), *_attempt(e), cause=str(e["cause"])),
}


@wiring.logger.inject_lambda_context
def handle(event: dict[str, Any], _context: Any) -> Any:
    """Run one task; its name is in `task`."""
    return TASKS[event["task"]](event)
