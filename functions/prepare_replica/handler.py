"""Every task of `prepare_replica.asl.json`: from a row that says `launching` to a standby that is ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import preparation, rehearsing

Payload = Mapping[str, Any]


def _replica(event: Payload) -> tuple[str, str]:
    return str(event["agent_id"]), str(event["replica_id"])


def _launch(event: Payload) -> Any:
    target = event["target"]
    return preparation.launch_instance(
        wiring.plane(),
        *_replica(event),
        number=int(target["number"]),
        pool_id=target["pool_id"],
        lifecycle=target["lifecycle"],
        subnet_id=target["subnet_id"],
    )


TASKS: Mapping[str, Callable[[Payload], Any]] = {
    "SelectPool": lambda e: preparation.select_pool(wiring.plane(), *_replica(e)),
    "LaunchInstance": _launch,
    "AwaitAgent": lambda e: preparation.await_agent(wiring.plane(), *_replica(e), task_token=e["task_token"]),
    "AwaitSync": lambda e: preparation.await_sync(wiring.plane(), *_replica(e), task_token=e["task_token"]),
    "ConfirmReady": lambda e: preparation.confirm_ready(wiring.plane(), *_replica(e)),
    # Of no state machine: an examination asks for it, so that this function's own permissions are tested.
    "RehearseLaunch": lambda e: rehearsing.rehearse_launch(wiring.plane(), wiring.dry_runs(), str(e["agent_id"])),
    "FailReplica": lambda e: preparation.fail_replica(wiring.plane(), *_replica(e), cause=str(e["cause"])),
}


@wiring.logger.inject_lambda_context
def handle(event: dict[str, Any], _context: Any) -> Any:
    """Run one task; its name is in `task`."""
    return TASKS[event["task"]](event)
