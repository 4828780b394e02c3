"""Markets made by a coin whose bias is known."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import Decimal

from spot_optimizer.domain.risk import AdvisorBand
from training.recorded import Trace

START = datetime(2026, 4, 1, tzinfo=UTC)
BANDS = {("us-east-1", "m5.large"): [(datetime(2026, 3, 1, tzinfo=UTC), AdvisorBand.OVER_20_PERCENT)]}
GAP_SECONDS = 60


def a_trace(
    zone: str = "us-east-1a",
    *,
    up: str | tuple[bool, ...] = "1111",
    kind: str = "preemption",
    usd_per_hour: str = "0.03",
    gap_seconds: int = GAP_SECONDS,
) -> Trace:
    ticks = tuple(tick == "1" for tick in up) if isinstance(up, str) else up
    return Trace(
        trace_id=f"generated/{zone}",
        kind=kind,
        region="us-east-1",
        availability_zone=zone,
        instance_type="m5.large",
        gap_seconds=gap_seconds,
        start=START,
        up=ticks,
        prices=((Decimal(usd_per_hour), len(ticks)),),
        on_demand_usd_per_hour=Decimal("0.10"),
    )


def a_market(
    *, interruptions_per_hour: dict[str, float], days: float, seed: int, down_minutes: float = 5.0
) -> list[Trace]:
    """One trace per zone; each tick of an instance is its last with the same chance."""
    coin = random.Random(seed)
    traces = []
    for zone, rate in interruptions_per_hour.items():
        up, ticks = True, []
        for _ in range(int(days * 86_400 / GAP_SECONDS)):
            ticks.append(up)
            leaves = rate * GAP_SECONDS / 3600 if up else GAP_SECONDS / 60 / down_minutes
            up = up != (coin.random() < leaves)
        traces.append(a_trace(zone, up=tuple(ticks)))
    return traces
