"""What a rebalance recommendation is worth: how likely the interruption is that it warns of.

AWS says only that the risk is elevated. In the one field sample that was published, 9 of 30 instances that were flagged
were interrupted, within 17 minutes to 9 hours (aws-node-termination-handler, issue 141). These odds are the start; what
the pool did to us lately, how long the instance has run, and the time of day raise or lower them. A model may raise
them further. It never lowers them: it has not seen AWS's word, and a bad one must not cost anybody a standby.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.catalogue import region_of
from spot_optimizer.domain.pools import Pool

FLAGGED_AND_INTERRUPTED = Decimal(9) / Decimal(21)
"""Odds, of the field sample."""

MOST_PER_HISTORY = Decimal(4)
YOUNG, YOUNG_FACTOR = timedelta(hours=3), Decimal("1.2")
OLD, OLD_FACTOR = timedelta(hours=24), Decimal("0.8")
WORKING_HOURS, WORKING_FACTOR, QUIET_FACTOR = range(9, 18), Decimal("1.25"), Decimal("0.85")
"""Of weekdays, by the region's own clock: capacity is taken back when others need it."""

_UTC_OFFSETS = {"us-west": -8, "us-east": -5, "ca": -5, "mx": -6, "sa": -3, "eu": 1, "il": 2, "me": 3, "af": 2}
_UTC_OFFSETS |= {"ap-south": 5, "ap-southeast-2": 10, "ap-southeast": 8, "ap-east": 8, "ap-northeast": 9}
_TICK = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class RebalanceRisk:
    """How likely the interruption is.

    Attributes:
        probability: 0 to 1.
        reason: What it was concluded from, for people.
    """

    probability: Decimal
    reason: str


def rebalance_risk(
    pool_id: str, *, age: timedelta, interruptions: int, now: datetime, by_model: Decimal | None = None
) -> RebalanceRisk:
    """Judge a recommendation.

    Args:
        pool_id: Where the instance runs.
        age: How long it has run.
        interruptions: How often its pool took instances of ours back in the last days.
        now: When.
        by_model: What a live model said of the next six hours before the recommendation came; counts if it is higher.
    """
    history = min(Decimal(1 + interruptions), MOST_PER_HISTORY)
    by_age = YOUNG_FACTOR if age < YOUNG else OLD_FACTOR if age > OLD else Decimal(1)
    working = _works(pool_id, now)
    odds = FLAGGED_AND_INTERRUPTED * history * by_age * (WORKING_FACTOR if working else QUIET_FACTOR)
    hours = age / timedelta(hours=1)
    by_rule = (odds / (1 + odds)).quantize(_TICK)
    if by_model is not None and by_model > by_rule:
        return RebalanceRisk(by_model.quantize(_TICK), f"the live model's answer; the rule says {by_rule}")
    return RebalanceRisk(
        by_rule,
        f"{interruptions} interruption(s) in the pool in the last days, the instance is {hours:.1f} h old, "
        f"{'working' if working else 'quiet'} hours",
    )


def _works(pool_id: str, now: datetime) -> bool:
    region = region_of(Pool.parse(pool_id).availability_zone)
    known = max((prefix for prefix in _UTC_OFFSETS if region.startswith(prefix)), key=len, default="")
    there = now + timedelta(hours=_UTC_OFFSETS.get(known, 0))
    return there.weekday() < 5 and there.hour in WORKING_HOURS
