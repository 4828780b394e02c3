"""Markets for where no recorded ones are: pools that come and go by a coin."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import Decimal

from backtest.market import Market, Track
from spot_optimizer.domain.risk import AdvisorBand

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK_SECONDS = 40.0


def generate(
    *, seed: int, days: float, zones: str = "abc", up_hours: float = 2.0, away_minutes: float = 15.0
) -> Market:
    """Make a market whose pools are up and away for exponentially distributed times, on whole ticks.

    Args:
        seed: The same seed makes the same market.
        days: How long it lasts.
        zones: One pool in each.
        up_hours: In the mean.
        away_minutes: In the mean.
    """
    coin = random.Random(seed)  # noqa: S311  # repeatable on purpose
    seconds = days * 86_400
    tracks = []
    for zone in zones:
        up, at = [], 0.0
        while at < seconds:
            end = at + TICK_SECONDS * max(1, round(coin.expovariate(1 / (up_hours * 3600)) / TICK_SECONDS))
            up.append((at, end))
            at = end + TICK_SECONDS * max(1, round(coin.expovariate(1 / (away_minutes * 60)) / TICK_SECONDS))
        times = [0.0, *(day * 86_400.0 for day in range(1, int(days)))]
        prices = [Decimal(coin.randint(280, 420)).scaleb(-4) for _ in times]
        tracks.append(Track(f"us-east-1{zone}.m5.large", up, times, prices, AdvisorBand.OVER_20_PERCENT))
    return Market("generated", "preemption", TICK_SECONDS, START, seconds, tracks, Decimal("0.096"))
