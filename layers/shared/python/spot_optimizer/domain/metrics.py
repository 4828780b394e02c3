"""How well agents were kept going in a period, against what is promised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from spot_optimizer.domain.agents import FAIL_OVER, Interruption
from spot_optimizer.domain.signals import SignalType

SUCCESS_TARGET = 0.99
"""More than this share of failovers completes."""

UPTIME_TARGET = 0.999
"""At least this share of seconds passes the health check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failovers:
    """What became of the failovers that nobody had planned.

    Attributes:
        completed: The new primary serves.
        failed: Given up, and not made good for by a later attempt.
        under_way: Neither yet.
        planned: Completed handovers that an operator, or a recommendation, had asked for; in none of the others.
        rto_p50_seconds: From the signal to the new primary's passed health check, of what completed; nearest rank.
        rto_p99_seconds: The same, for all but one in a hundred.
        with_loss: How many may have lost anything at all.
        lost_seconds: At most, of all of them; the longest is `longest_loss_seconds`.
        lost_bytes: Of those of which it is known.
    """

    completed: int
    failed: int
    under_way: int
    planned: int
    rto_p50_seconds: float | None
    rto_p99_seconds: float | None
    with_loss: int
    lost_seconds: float
    longest_loss_seconds: float
    lost_bytes: int

    @property
    def success(self) -> float | None:
        """Share of those that are over which completed; None where there was none."""
        over = self.completed + self.failed
        return self.completed / over if over else None


def tally(events: Iterable[Interruption]) -> Failovers:
    """Add up what is recorded of signals; those that led to no failover are passed over."""
    led = [event for event in events if event.response_action == FAIL_OVER]
    planned = [event for event in led if event.signal_type == SignalType.OPERATOR]
    forced = [event for event in led if event.signal_type != SignalType.OPERATOR]
    completed = [event for event in forced if event.failover_completed]
    times = sorted(event.rto_seconds for event in completed if event.rto_seconds is not None)
    losses = [event.rpo_seconds or 0.0 for event in completed]
    failed = sum(event.failure is not None for event in forced if not event.failover_completed)
    return Failovers(
        completed=len(completed),
        failed=failed,
        under_way=len(forced) - len(completed) - failed,
        planned=sum(event.failover_completed for event in planned),
        rto_p50_seconds=nearest_rank(times, 0.50),
        rto_p99_seconds=nearest_rank(times, 0.99),
        with_loss=sum(loss > 0 for loss in losses),
        lost_seconds=round(sum(losses), 3),
        longest_loss_seconds=max(losses, default=0.0),
        lost_bytes=sum(event.rpo_bytes or 0 for event in completed),
    )


def nearest_rank(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None of none."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


@dataclass(frozen=True, slots=True)
class Uptime:
    """For how long health checks passed, of how long they should have."""

    passed: timedelta
    expected: timedelta

    @property
    def share(self) -> float | None:
        """None where nothing was expected yet."""
        return min(self.passed / self.expected, 1.0) if self.expected else None
