"""Every task of `switch_agents.asl.json`, and once an hour what the switches of late came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import realising, switching

Payload = Mapping[str, Any]


def _plan(event: Payload) -> Any:
    earlier = event["state"].get("record", {}).get("value", {})
    return switching.plan_round(wiring.switching_plane(), after=int(earlier.get("next", 0)))


def _consider(event: Payload) -> Any:
    return switching.consider(wiring.switching_plane(), str(event["agent_id"])).as_payload()


def _record_agent_failure(event: Payload) -> Any:
    wiring.logger.error("an agent was not considered", extra={"agent_id": event["agent_id"], "cause": event["cause"]})
    return {"agent_id": event["agent_id"], "failed": True}


def _record(event: Payload) -> Any:
    state = event["state"]
    record = switching.record_round(
        [outcome["value"] for outcome in state["considered"]["outcomes"]],
        following=int(state["plan"]["value"]["next"]),
        earlier=state.get("record", {}).get("value"),
    )
    if record["next"] < 0:
        wiring.count("AgentsConsidered", record["considered"])
        wiring.count("SwitchesBegun", record["begun"])
    return record


def _record_failure(event: Payload) -> Any:
    wiring.logger.error("agents were not considered", extra={"cause": str(event["cause"])})
    return {"recorded": True}


def _realise(_event: Payload) -> Any:
    done = realising.realise(wiring.switching_plane(), wiring.history())
    wiring.count("SwitchesRealised", done["realised"])
    return done


TASKS: Mapping[str, Callable[[Payload], Any]] = {
    "PlanRound": _plan,
    "ConsiderAgent": _consider,
    "RecordAgentFailure": _record_agent_failure,
    "RecordRound": _record,
    "RecordFailure": _record_failure,
    "RealiseSavings": _realise,
}


@wiring.logger.inject_lambda_context
def handle(event: dict[str, Any], _context: Any) -> Any:
    """Run one task; its name is in `task`."""
    return TASKS[event["task"]](event)
