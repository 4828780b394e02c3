"""Every task of `fill_gaps.asl.json`: which gaps there are, filling those of one pool, and adding up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import pricing
from spot_optimizer.control.pricing import Window
from spot_optimizer.domain.gaps import Rules

Payload = Mapping[str, Any]


def _plan(event: Payload) -> Any:
    state = event["state"]
    earlier = state.get("record", {}).get("value", {})
    return pricing.plan_filling(
        wiring.prices(), now=wiring.clock(), asked=state.get("asked"), after=int(earlier.get("next", 0))
    )


def _fill(event: Payload) -> Any:
    window, rules = Window.of(event["window"]), Rules.parse(wiring.settings().gap_rules)
    return pricing.fill_pool(wiring.prices(), wiring.price_history(), window, now=wiring.clock(), rules=rules)


def _record_pool_failure(event: Payload) -> Any:
    wiring.logger.error("a pool's gaps were not filled", extra={"window": event["window"], "cause": event["cause"]})
    return {"pool_id": event["window"]["pool_id"], "failed": True}


def _record(event: Payload) -> Any:
    state = event["state"]
    record = pricing.record_filling(
        [outcome["value"] for outcome in state["filled"]["outcomes"]],
        following=int(state["plan"]["value"]["next"]),
        earlier=state.get("record", {}).get("value"),
    )
    if record["next"] < 0:
        for metric, name in (
            ("PriceBucketsMissing", "missing"),
            ("PriceBucketsBackfilled", "backfilled"),
            ("PriceBucketsInferred", "inferred"),
        ):
            wiring.count(metric, record[name])
    return record


def _record_failure(event: Payload) -> Any:
    wiring.logger.error("gaps were not filled", extra={"cause": str(event["cause"])})
    return {"recorded": True}


TASKS: Mapping[str, Callable[[Payload], Any]] = {
    "PlanFilling": _plan,
    "FillPool": _fill,
    "RecordPoolFailure": _record_pool_failure,
    "RecordFilling": _record,
    "RecordFailure": _record_failure,
}


@wiring.logger.inject_lambda_context
def handle(event: dict[str, Any], _context: Any) -> Any:
    """Run one task; its name is in `task`."""
    return TASKS[event["task"]](event)
