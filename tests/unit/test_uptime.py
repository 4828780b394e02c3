"""For how long health checks passed, counted sign by sign and hour by hour; and what failovers came to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.metrics import nearest_rank, tally
from spot_optimizer.domain.uptime import HOUR, HourPassed, count, expected, hour_of, passed_of
from tests.builders import NOON, a_heartbeat, an_interruption

SECOND = timedelta(seconds=1)


def at(seconds: float) -> datetime:
    return NOON + seconds * SECOND


def counted(*signs: tuple[float, bool], epoch: int = 1) -> dict[datetime, HourPassed]:
    """What is kept after some signs of one instance: when, and whether its health check passed."""
    kept: dict[datetime, HourPassed] = {}
    for seconds, healthy in signs:
        latest = max(kept.values(), key=lambda one: one.hour, default=None)
        for one in count(latest, a_heartbeat(at=at(seconds), healthy=healthy, epoch=epoch)):
            kept[one.hour] = one
    return kept


def passed(kept: dict[datetime, HourPassed]) -> timedelta:
    return passed_of(kept.values(), since=NOON - 24 * HOUR, until=NOON + 24 * HOUR)


def test_the_time_between_two_signs_that_are_well_has_passed() -> None:
    assert passed(counted((0, True), (30, True), (60, True))) == 60 * SECOND
    assert passed(counted((0, True), (30, False), (60, True), (61, True))) == SECOND


def test_silence_has_not_passed() -> None:
    assert passed(counted((0, True), (90, True))) == 90 * SECOND
    assert passed(counted((0, True), (91, True))) == timedelta(0)


@pytest.mark.parametrize("changes", [{"serving": False}, {"healthy": False}, {"epoch": 2}])
def test_only_who_serves_in_health_under_one_epoch_counts(changes: dict[str, Any]) -> None:
    [first] = count(None, a_heartbeat(at=at(0)))
    [second] = count(first, a_heartbeat(at=at(30), **changes))
    assert second.passed_us == 0


@given(st.lists(st.floats(0.01, 90), min_size=1, max_size=60), st.integers(0, 3599))
def test_nothing_is_counted_twice_and_hours_add_up(gaps: list[float], begins: int) -> None:
    moments = [float(begins)]
    for gap in gaps:
        moments.append(moments[-1] + gap)
    signs = [(moment, True) for moment in moments]
    kept = counted(*signs)
    whole = at(moments[-1]) - at(moments[0])
    assert abs(passed(kept) - whole) <= timedelta(microseconds=2)
    assert all(timedelta(microseconds=one.passed_us) <= HOUR for one in kept.values())
    doubled = [sign for sign in signs for _ in range(2)]
    assert counted(*doubled) == kept
    assert counted(*signs, signs[0]) == kept, "a sign that comes late changes nothing"


def test_an_hour_has_no_more_than_itself_whoever_served_in_it() -> None:
    one = counted(*((second, True) for second in range(0, 3600, 30)))[NOON]
    other = HourPassed(**{name: getattr(one, name) for name in one.__dataclass_fields__} | {"instance_id": "i-2"})
    assert passed_of([one, other], since=NOON, until=NOON + HOUR) == HOUR
    assert passed_of([one, other], since=NOON + HOUR, until=NOON + 2 * HOUR) == timedelta(0)


def test_what_can_not_be_known_yet_is_not_expected_unless_the_agent_is_silent() -> None:
    kept = counted((0, True), (30, True)).values()
    assert expected(list(kept), since=NOON, until=at(50)) == 30 * SECOND
    assert expected(list(kept), since=NOON, until=at(500)) == 500 * SECOND
    failing = counted((0, True), (30, False)).values()
    assert expected(list(failing), since=NOON, until=at(50)) == 50 * SECOND
    assert expected([], since=at(10), until=NOON) == timedelta(0)


def test_an_hour_is_that_of_utc() -> None:
    assert hour_of(datetime.fromisoformat("2026-03-01T17:59:00+05:30")) == NOON


def an_event(**changes: Any) -> Any:
    done = {"response_action": "fail-over", "failover_completed": True, "rto_seconds": 2.0, "rpo_seconds": 0.0}
    return an_interruption(**(done | changes))


def test_failovers_are_told_apart_by_what_became_of_them() -> None:
    found = tally(
        [
            an_event(),
            an_event(rto_seconds=4.0, rpo_seconds=1.5, rpo_bytes=100),
            an_event(failover_completed=False, failure="no capacity"),
            an_event(failover_completed=False),
            an_event(signal_type="operator"),
            an_event(response_action="prepare-replica", failover_completed=False),
        ]
    )
    assert (found.completed, found.failed, found.under_way, found.planned) == (2, 1, 1, 1)
    assert found.success == pytest.approx(2 / 3)
    assert (found.rto_p50_seconds, found.rto_p99_seconds) == (2.0, 4.0)
    assert (found.with_loss, found.lost_seconds, found.longest_loss_seconds, found.lost_bytes) == (1, 1.5, 1.5, 100)


def test_of_no_failover_nothing_is_claimed() -> None:
    found = tally([])
    assert (found.success, found.rto_p50_seconds, found.rto_p99_seconds) == (None, None, None)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert nearest_rank(range(1, 101), share) == value
