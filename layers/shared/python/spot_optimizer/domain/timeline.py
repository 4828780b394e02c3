"""Where the time of a failover went, and what it cost: recorded with each interruption."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer.domain.agents import Switch


def steps(switch: Switch, *, served_at: datetime | None, now: datetime) -> tuple[Mapping[str, Any], ...]:
    """The steps from the signal to the end, in order: `{step, ms}`, where `ms` is what the step took.

    `claim` is from when the signal was published to when a failover was at work on it; `open-handover` until a replica
    was handed to (launching and syncing one, if there was none); `promote` is the freeze, the last generation and the
    promotion, or the restore of a snapshot; `serve` until the new primary passed its health check; `move-traffic` until
    clients reach it and all is written down. Clocks of several parts of AWS meet here: a step that would be negative
    took 0.

    Args:
        switch: The promotion.
        served_at: When the new primary was first known to serve; None if it never did: the steps end before that.
        now: When traffic had been moved.
    """
    moments = (
        ("claim", switch.claimed_at),
        ("open-handover", switch.handover_opened_at),
        ("promote", switch.switched_at),
        ("serve", served_at),
        ("move-traffic", now if served_at is not None else None),
    )
    taken = []
    before = switch.signal_at
    for step, moment in moments:
        if moment is None:
            continue
        if before is not None:
            taken.append({"step": step, "ms": max(int((moment - before) / timedelta(milliseconds=1)), 0)})
        before = moment if before is None else max(moment, before)
    return tuple(taken)


def lost_bytes(*, rpo_seconds: float | None, changed_bytes_per_second: float | None) -> int | None:
    """About how much is missing: the time that is missing, at the rate at which the state changed; None if unknown."""
    if rpo_seconds == 0:
        return 0
    if rpo_seconds is None or changed_bytes_per_second is None:
        return None
    return round(rpo_seconds * changed_bytes_per_second)
