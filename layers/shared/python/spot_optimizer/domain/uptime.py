"""Uptime: for how many seconds an agent's workload passed its health check, kept hour by hour.

Every instance says with each sign of life whether it serves and whether its health check passes. The time between two
signs in a row that both say so has passed; no other time has. So an outage is at least as long here as it was: up to
one sign's distance longer at either end, and a second is that distance around a handover.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from spot_optimizer.domain.agents import Heartbeat

HOUR = timedelta(hours=1)
LONGEST_SILENCE = timedelta(seconds=90)
"""Three times as long as an instance is silent at most while all is well (`heartbeats.EVERY_SECONDS`)."""

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class HourPassed:
    """What one instance came to in one hour.

    Attributes:
        hour: Its start.
        passed_us: For so many microseconds its health check passed, up to `seen_at`.
        seen_at: When its last sign of life in this hour came.
        passing: By that sign it served, and its health check passed.
        epoch: Under which that was.
    """

    agent_id: str
    instance_id: str
    hour: datetime
    passed_us: int
    seen_at: datetime
    passing: bool
    epoch: int


def count(last: HourPassed | None, heartbeat: Heartbeat) -> tuple[HourPassed, ...]:
    """Go on counting with the next sign of life.

    Counting the same sign again adds nothing, and neither does one that comes late.

    Args:
        last: The latest hour that was counted of this instance, if there is one.
        heartbeat: The sign.

    Returns:
        The hours as they are now: of the sign, and before it the one that ended since, if it came to more.
    """
    at, hour = heartbeat.at, hour_of(heartbeat.at)
    passing = heartbeat.serving and heartbeat.healthy
    begun = HourPassed(
        agent_id=heartbeat.agent_id,
        instance_id=heartbeat.instance_id,
        hour=hour,
        passed_us=0,
        seen_at=at,
        passing=passing,
        epoch=heartbeat.epoch,
    )
    if last is None:
        return (begun,)
    if at <= last.seen_at:
        return ()
    counts = last.passing and passing and last.epoch == heartbeat.epoch and at - last.seen_at <= LONGEST_SILENCE
    passed = at - max(last.seen_at, hour) if counts else timedelta(0)
    if last.hour == hour:
        return (replace(begun, passed_us=last.passed_us + passed // _MICROSECOND),)
    before = last.hour + HOUR - last.seen_at if counts else timedelta(0)
    ended = (replace(last, passed_us=last.passed_us + before // _MICROSECOND),) if before else ()
    return (*ended, replace(begun, passed_us=passed // _MICROSECOND))


def hour_of(moment: datetime) -> datetime:
    """When the hour of a moment began."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def passed_of(hours: Iterable[HourPassed], *, since: datetime, until: datetime) -> timedelta:
    """For how long health checks passed in a period of whole hours; an hour has no more than itself."""
    by_hour: dict[datetime, int] = {}
    for one in hours:
        if since <= one.hour < until:
            by_hour[one.hour] = by_hour.get(one.hour, 0) + one.passed_us
    longest = HOUR // _MICROSECOND
    return sum((min(passed, longest) * _MICROSECOND for passed in by_hour.values()), timedelta(0))


def expected(hours: Sequence[HourPassed], *, since: datetime, until: datetime) -> timedelta:
    """For how long health checks should have passed.

    Args:
        hours: What was counted.
        since: When that began.
        until: Up to now, of which the time since an instance's last sign can not be known yet, if it is not silent.
    """
    latest = max(hours, key=lambda one: one.seen_at, default=None)
    if latest is not None and latest.passing and until - LONGEST_SILENCE <= latest.seen_at < until:
        until = latest.seen_at
    return max(until - since, timedelta(0))
