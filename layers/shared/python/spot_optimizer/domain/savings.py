"""The savings ledger: what an agent's instances cost, at the prices that were in force, against on-demand.

A spot price is a step function of time: each change holds until the next. What an instance cost is the integral of it,
summed exactly and rounded once. Standbys, the hours on demand that stood in for spot, and both instances of a handover
are costs like any other: a saving that leaves them out is none.

Spot instances are billed by the second; one that AWS takes back within its first hour is free
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/billing-for-interrupted-spot-instances.html). Storage, addresses
and traffic are not in here.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.pools import Lifecycle, Pool
from spot_optimizer.domain.prices import Observation, PriceChange, bucket_start

FREE_IF_INTERRUPTED_WITHIN = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR = timedelta(hours=1) // _MICROSECOND
_TICK = Decimal("0.000001")


CARRIED_FOR = timedelta(hours=1)
"""So far a price is taken to hold behind the last bucket in which somebody saw it; then it counts as unknown."""


class Part(enum.StrEnum):
    """What an instance was to its agent for some time. One that has handed over and still runs stands by."""

    PRIMARY = "primary"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True)
class PriceUnknown:
    """From this moment on, nobody saw what a pool cost."""

    changed_at: datetime


type Step = PriceChange | PriceUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A stretch of time in which an instance was paid for.

    Attributes:
        lifecycle: How it was bought; a primary on demand is a fallback.
        part: What it was to its agent.
        since: Inclusive.
        until: Exclusive; not before `since`.
        interrupted: AWS ended it.
        launched_at: Of the instance, where the stretch is not its first; `since` without.
    """

    instance_id: str
    pool_id: str
    lifecycle: Lifecycle
    part: Part
    since: datetime
    until: datetime
    interrupted: bool = False
    launched_at: datetime | None = None

    @property
    def is_free(self) -> bool:
        """AWS took it back within its first hour."""
        since = self.launched_at or self.since
        on_spot = self.lifecycle is Lifecycle.SPOT
        return on_spot and self.interrupted and self.until - since < FREE_IF_INTERRUPTED_WITHIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What an agent cost in a period, in USD with six decimals.

    Attributes:
        spot_usd: Of primaries on spot.
        standby_usd: Of standbys, however they were bought.
        on_demand_fallback_usd: Of primaries that had to be bought on demand.
        counterfactual_usd: Of the same hours of a primary, on demand throughout, on the type the workload is sized for.
        unpriced: For how long something ran whose price is not known; it is in no sum, nor is what a primary would have
            cost on demand meanwhile. Of a standby, the saving is overstated by it.
    """

    spot_usd: Decimal
    standby_usd: Decimal
    on_demand_fallback_usd: Decimal
    counterfactual_usd: Decimal
    unpriced: timedelta

    @property
    def paid_usd(self) -> Decimal:
        """All of it."""
        return self.spot_usd + self.standby_usd + self.on_demand_fallback_usd

    @property
    def net_saving_usd(self) -> Decimal:
        """Against on-demand; negative where standbys and fallbacks cost more than spot saved."""
        return self.counterfactual_usd - self.paid_usd

    @property
    def net_saving(self) -> Decimal | None:
        """The same as a share of what on-demand would have cost."""
        return self.net_saving_usd / self.counterfactual_usd if self.counterfactual_usd else None


def save(
    runs: Iterable[Ran],
    *,
    since: datetime,
    until: datetime,
    prices: Mapping[str, Sequence[Step]],
    on_demand: Mapping[str, Decimal],
    sized_for: str,
) -> Savings:
    """Add up a period.

    Args:
        runs: Of one agent; what lies outside the period is cut off.
        since: Inclusive.
        until: Exclusive.
        prices: Steps by pool id, in order, with the one in force when the first instance began.
        on_demand: USD/hour by instance type.
        sized_for: The instance type the workload would run on, on demand.
    """
    sums = {"spot": Decimal(0), "standby": Decimal(0), "fallback": Decimal(0), "counterfactual": Decimal(0)}
    unpriced = timedelta(0)
    for ran in runs:
        begin, end = max(ran.since, since), min(ran.until, until)
        if begin >= end:
            continue
        steps: Sequence[Step]
        if ran.is_free:
            steps = (PriceChange(begin, Decimal(0)),)
        elif ran.lifecycle is Lifecycle.SPOT:
            steps = prices.get(ran.pool_id, ())
        else:
            known = on_demand.get(Pool.parse(ran.pool_id).instance_type)
            steps = () if known is None else (PriceChange(begin, known),)
        cost, without = _integral(steps, begin, end)
        unpriced += without
        if ran.part is Part.PRIMARY and sized_for in on_demand:
            # What was paid is compared with the same hours, so where it is not known, nothing is.
            sums["counterfactual"] += on_demand[sized_for] * ((end - begin - without) // _MICROSECOND)
        kind = "standby" if ran.part is Part.STANDBY else "spot" if ran.lifecycle is Lifecycle.SPOT else "fallback"
        sums[kind] += cost
    usd = {kind: (total / _MICROSECONDS_PER_HOUR).quantize(_TICK) for kind, total in sums.items()}
    return Savings(
        spot_usd=usd["spot"],
        standby_usd=usd["standby"],
        on_demand_fallback_usd=usd["fallback"],
        counterfactual_usd=usd["counterfactual"],
        unpriced=unpriced,
    )


def steps_seen(rows: Sequence[Observation], *, until: datetime) -> tuple[Step, ...]:
    """One pool's clean rows as steps of its price.

    A bucket without a row is one in which nobody looked. Over a few of them the price is carried, as it is nearly
    always the same; what lies behind a longer hole is not guessed.

    Args:
        rows: In order.
        until: The end of the time that is looked at, at most now.
    """
    steps: list[Step] = []
    for place, row in enumerate(rows):
        steps.append(PriceChange(row.observed_at, row.usd_per_hour))
        seen_until = bucket_start(row.bucket + 1)
        following = bucket_start(rows[place + 1].bucket) if place + 1 < len(rows) else until
        if following - seen_until > CARRIED_FOR:
            steps.append(PriceUnknown(seen_until))
    return tuple(steps)


def price_at(steps: Sequence[PriceChange], at: datetime) -> Decimal | None:
    """USD/hour in force at a moment; None before the first step.

    Args:
        steps: In order.
        at: When.
    """
    place = bisect_right(steps, at, key=lambda step: step.changed_at)
    return steps[place - 1].usd_per_hour if place else None


def average_usd_per_hour(steps: Sequence[PriceChange], *, since: datetime, until: datetime) -> Decimal | None:
    """What an hour cost on average over a period, in USD with six decimals; None where some of it has no known price.

    Args:
        steps: In order, with the one in force at `since`.
        since: Inclusive.
        until: Exclusive, and later.
    """
    total, without = _integral(steps, since, until)
    if without:
        return None
    return (total / ((until - since) // _MICROSECOND)).quantize(_TICK)


def _integral(steps: Sequence[Step], begin: datetime, end: datetime) -> tuple[Decimal, timedelta]:
    """Price times microseconds, which is exact, and for how long no price was in force yet."""
    first = bisect_right(steps, begin, key=lambda step: step.changed_at) - 1
    total = Decimal(0)
    without = timedelta(0)
    if first < 0:
        known_from = steps[0].changed_at if steps else end
        without = min(known_from, end) - begin
    for place in range(max(first, 0), len(steps)):
        step = steps[place]
        if step.changed_at >= end:
            break
        until = min(steps[place + 1].changed_at, end) if place + 1 < len(steps) else end
        held = until - max(step.changed_at, begin)
        if isinstance(step, PriceUnknown):
            without += held
        else:
            total += step.usd_per_hour * (held // _MICROSECOND)
    return total, without
