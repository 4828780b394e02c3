"""How the demo's prices move: as the recorded markets after 2017 do, with a seed instead of a market.

What was measured on two recorded markets (us-east-1 2021, 905 pools; eu-west-1 2022, 15 pools), and what follows here:

* AWS looks at a pool's price every 4.6 to 7.2 hours (the middle half of all changes is 5.4 to 7.1 hours after the one
  before), so there are at most about four changes a day. Here: uniform between 4.6 and 7.2 hours.
* Often the price stays: the typical pool changed 1.8 (2021) and 3.4 (2022) times a day, and 99.36 % and 99.00 % of
  5-minute buckets repeat the one before. Here: 60 looks in 100 move the price, 2.4 changes a day, 99.15 %.
* Steps are small with a long tail: the middle one is 0.20 % (2021) and 0.51 % (2022), one in twenty is above 1.3 % and
  3.2 %. Here: log-normal around 0.32 % with sigma 1.1.
* A step goes the way of the one before it in 74 and 76 of 100 cases. Here: 75. Beyond a third from its usual level, a
  price turns back.
* Prices have four decimals.

A pool's path begins at a fixed moment and depends on its name alone, so that the price of a moment is the same
whenever, and for whatever range, it is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.prices import PriceChange

ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)
"""Every path begins here; there are no demo prices before."""

SHORTEST_LOOK_HOURS = 4.6
LONGEST_LOOK_HOURS = 7.2
CHANCE_OF_A_CHANGE = 0.60
MIDDLE_STEP = 0.0032
STEP_SIGMA = 1.1
CHANCE_OF_THE_SAME_WAY = 0.75
FARTHEST_FROM_USUAL = 1 / 3
USUAL_SHARE_OF_ON_DEMAND = 0.36
_TICK = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class DemoPool:
    """A pool with made-up prices.

    Attributes:
        pool_id: As everywhere: `zone.family.size`.
        on_demand_usd_per_hour: What the type costs on demand; spot moves around 36 % of it.
    """

    pool_id: str
    on_demand_usd_per_hour: Decimal


def price_changes(pool: DemoPool, until: datetime) -> Iterator[PriceChange]:
    """The changes of a pool's price from `ORIGIN` on, up to a moment, in order; the first is the price at `ORIGIN`."""
    dice = random.Random(pool.pool_id)  # noqa: S311 -- a market, no secret
    usual = float(pool.on_demand_usd_per_hour) * USUAL_SHARE_OF_ON_DEMAND * dice.uniform(0.85, 1.15)
    at, price, way = ORIGIN, _rounded(usual), dice.choice((-1, 1))
    while at < until:
        yield PriceChange(at, price)
        moved = price
        while moved == price:
            at += timedelta(hours=dice.uniform(SHORTEST_LOOK_HOURS, LONGEST_LOOK_HOURS))
            if dice.random() < CHANCE_OF_A_CHANGE:
                way = _next_way(dice, way, float(price) / usual)
                moved = _rounded(float(price) * (1 + way * dice.lognormvariate(0, STEP_SIGMA) * MIDDLE_STEP))
        price = moved
        at = at.replace(microsecond=0)


def _next_way(dice: random.Random, way: int, level: float) -> int:
    if abs(level - 1) > FARTHEST_FROM_USUAL:
        return -1 if level > 1 else 1
    return way if dice.random() < CHANCE_OF_THE_SAME_WAY else -way


def _rounded(usd_per_hour: float) -> Decimal:
    return max(Decimal(usd_per_hour).quantize(_TICK), _TICK)
