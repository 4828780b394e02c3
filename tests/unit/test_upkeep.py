"""What a rebalance recommendation is worth, how a standby is kept up, and what a pause stops."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.control import pausing, replication, signals
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.rebalance import rebalance_risk
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.risk import RiskBasis
from spot_optimizer.domain.signals import Signal, SignalType
from spot_optimizer.domain.stored_decisions import FRESH_FOR
from spot_optimizer.domain.upkeep import FIRST_DELAY, LONGEST_DELAY, Nothing, Protect, Release, Replace, decide_upkeep
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import HandoverInProgress, Paused, ReplicaNeeded
from tests.builders import (
    AGENT,
    NOON,
    PRIMARY,
    REPLICA,
    STANDBY,
    a_heartbeat,
    a_ready_replica,
    a_replica,
    an_agent,
    an_interruption,
)
from tests.unit.decisions.test_offers import a_stored_decision
from tests.unit.test_failover import FakePlane, with_a_ready_standby

POOL = "us-east-1a.m5.large"
TUESDAY_NOON_IN_NEW_YORK = datetime(2026, 3, 3, 17, 0, tzinfo=UTC)
SUNDAY_NIGHT = datetime(2026, 3, 1, 7, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def probability(**changes: Any) -> Decimal:
    case: dict[str, Any] = {"age": HOUR, "interruptions": 0, "now": SUNDAY_NIGHT} | changes
    return rebalance_risk(POOL, **case).probability


# --- rebalance recommendations


def test_age_history_and_time_of_day_raise_and_lower_the_risk() -> None:
    assert probability() > Decimal("0.30"), "a young instance in a calm pool is worth a standby"
    assert probability(age=timedelta(days=3)) < Decimal("0.30"), "an old one at night is watched"
    assert probability(age=timedelta(days=3), interruptions=1) > Decimal("0.30")
    assert probability(now=TUESDAY_NOON_IN_NEW_YORK) > probability()


@given(st.integers(0, 30), st.integers(0, 500), st.datetimes(timezones=st.just(UTC)))
def test_a_risk_is_a_probability_and_rises_with_what_the_pool_did(count: int, hours: int, now: datetime) -> None:
    calm, busy = (probability(interruptions=n, age=hours * HOUR, now=now) for n in (count, count + 1))
    assert 0 < calm <= busy < 1


@given(st.decimals("0", "1", places=4), st.integers(0, 9))
def test_a_model_raises_a_risk_and_never_lowers_it(by_model: Decimal, count: int) -> None:
    rule = probability(interruptions=count)
    judged = rebalance_risk(POOL, age=HOUR, interruptions=count, now=NOON, by_model=by_model)
    assert judged.probability == max(rule, by_model)
    assert ("the live model's answer" in judged.reason) == (by_model > rule)


def recommend(plane: FakePlane) -> signals.Started:
    return signals.note_signal(
        plane, Signal(instance_id=PRIMARY, type=SignalType.REBALANCE_RECOMMENDATION, at=plane.clock())
    )


def test_above_the_threshold_a_recommendation_makes_a_standby_whatever_the_toggles_say() -> None:
    plane = FakePlane()
    plane.records.put(an_agent(auto_replica=False, manual_replica=False, auto_switch=False))
    started = recommend(plane)
    assert started.replica_id is not None
    assert "is above 0.3" in started.reason
    assert plane.records.replica(AGENT, started.replica_id).type is ReplicaType.AUTOMATIC_REBALANCE


def by_a_model(plane: FakePlane, **changes: object) -> FakePlane:
    """The agent, watched at 0.9, with a decision by a model that expects the worst."""
    plane.records.put(an_agent(rebalance_threshold=0.9))
    expected = {"risk_basis": RiskBasis.MODEL, "risk_within_6h": Decimal("0.95"), "model_version": "ses-1"}
    plane.fleet.decisions[AGENT] = replace(a_stored_decision(), **(expected | changes))  # type: ignore[arg-type]
    return plane


def test_what_a_model_said_when_it_was_last_decided_can_make_a_recommendation_count() -> None:
    started = recommend(by_a_model(FakePlane()))
    assert started.replica_id is not None
    assert "0.9500 is above 0.9; the live model's answer" in started.reason


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"risk_basis": RiskBasis.OWN_HISTORY}, id="no model answered"),
        pytest.param({"decided_at": NOON - FRESH_FOR - HOUR}, id="long ago"),
        pytest.param({"epoch": 7}, id="about another primary"),
    ],
)
def test_what_no_model_said_of_this_primary_lately_counts_for_nothing(changes: dict[str, object]) -> None:
    assert recommend(by_a_model(FakePlane(), **changes)).replica_id is None


def test_a_decision_that_can_not_be_read_holds_up_no_recommendation() -> None:
    plane = by_a_model(FakePlane())
    plane.records.put(an_agent(rebalance_threshold=0.1))
    plane.fleet.is_silent = True
    assert recommend(plane).replica_id is not None


def test_below_the_threshold_it_is_recorded_and_watched_until_the_pool_raises_the_risk() -> None:
    plane = FakePlane()
    plane.records.put(an_agent(rebalance_threshold=0.5))
    started = recommend(plane)
    assert started.replica_id is None
    assert "watched" in started.reason
    event = plane.records.interruption(AGENT, f"{PRIMARY}#rebalance-recommendation")
    assert event is not None
    assert event.response_action == "watch"
    signals.sweep(plane)
    assert plane.records.replicas(AGENT) == ()
    for number in range(2):
        at = plane.clock() - timedelta(hours=2 + number)
        plane.records.put(an_interruption(event_id=f"i-other-{number}#termination-notice", detected_at=at))
    signals.sweep(plane)
    assert [replica.type for replica in plane.records.replicas(AGENT)] == [ReplicaType.AUTOMATIC_REBALANCE]


# --- upkeep


def lost(number: int = 1, **changes: Any) -> Replica:
    ended = NOON + timedelta(minutes=number)
    failed: dict[str, Any] = {
        "replica_id": f"rep-{number}",
        "status": ReplicaState.FAILED,
        "created_at": ended - timedelta(seconds=30),
        "ended_at": ended,
    }
    return a_replica(**(failed | changes))


def upkeep_at(
    minutes: float,
    *replicas: Replica,
    last_signal_at: datetime | None = None,
    needs_standby: bool = False,
    **agent: Any,
) -> Any:
    return decide_upkeep(
        an_agent(**agent),
        replicas,
        last_signal_at=last_signal_at,
        needs_standby=needs_standby,
        now=NOON + timedelta(minutes=minutes),
    )


def test_a_standby_for_a_recommendation_is_released_after_the_quiet_time_counted_from_the_last_sign() -> None:
    standby = a_ready_replica()
    agent: dict[str, Any] = {"active_replica_id": REPLICA, "quiet_seconds": 3600}
    assert isinstance(upkeep_at(60, standby, **agent), Nothing)
    assert isinstance(upkeep_at(61, standby, **agent), Release)
    assert isinstance(upkeep_at(61, standby, last_signal_at=NOON + timedelta(minutes=30), **agent), Nothing)


@pytest.mark.parametrize("kind", [ReplicaType.MANUAL, ReplicaType.AUTOMATIC_TERMINATION])
def test_no_other_standby_is_released(kind: ReplicaType) -> None:
    standby = a_ready_replica(type=kind)
    assert isinstance(upkeep_at(10_000, standby, active_replica_id=REPLICA), Nothing)


@pytest.mark.parametrize("busy", [{"claim_open": True}, {"handover_state": HandoverState.OPEN}, {"lost": True}])
def test_nothing_is_kept_up_while_a_failover_is_under_way(busy: dict[str, Any]) -> None:
    assert isinstance(upkeep_at(10_000, a_ready_replica(), active_replica_id=REPLICA, **busy), Nothing)
    assert isinstance(upkeep_at(10, lost(), **busy), Nothing)


@pytest.mark.parametrize(
    ("replica", "agent", "replaced"),
    [
        (lost(), {}, True),
        (lost(), {"auto_replica": False}, True),
        (lost(), {"quiet_seconds": 60}, False),
        (lost(type=ReplicaType.MANUAL), {}, True),
        (lost(type=ReplicaType.MANUAL), {"auto_replica": False}, False),
        (lost(type=ReplicaType.AUTOMATIC_TERMINATION), {}, False),
        (lost(status=ReplicaState.TERMINATED), {}, False),
        (lost(status=ReplicaState.PROMOTED), {}, False),
        (lost(epoch=0), {}, False),
    ],
)
def test_a_lost_standby_is_replaced_where_somebody_still_wants_it(
    replica: Replica, agent: dict[str, Any], replaced: bool
) -> None:
    assert isinstance(upkeep_at(10, replica, **agent), Replace) is replaced


@given(st.integers(1, 8))
def test_each_replacement_in_a_row_waits_longer(in_a_row: int) -> None:
    failed = [lost(number) for number in range(1, in_a_row + 1)]
    delay = min(FIRST_DELAY * 2 ** (in_a_row - 1), LONGEST_DELAY) / timedelta(minutes=1)
    assert isinstance(upkeep_at(in_a_row + delay - 0.01, *failed), Nothing)
    assert isinstance(upkeep_at(in_a_row + delay, *failed), Replace)


def test_after_eight_lost_standbys_a_person_is_needed() -> None:
    decided = upkeep_at(500, *(lost(number) for number in range(1, 10)))
    assert isinstance(decided, Nothing)
    assert "when the cause is mended" in decided.reason


# --- state that does not fit through a notice


def test_state_too_big_for_a_notice_gets_a_standby_at_once_whatever_the_toggles_say() -> None:
    decided = upkeep_at(0, needs_standby=True, auto_replica=False, manual_replica=False, auto_switch=False)
    assert decided == Protect("protect:0")
    assert isinstance(upkeep_at(0), Nothing)


@pytest.mark.parametrize("kind", ReplicaType)
def test_its_standby_is_replaced_whichever_kind_was_lost(kind: ReplicaType) -> None:
    assert isinstance(upkeep_at(1.4, lost(type=kind), needs_standby=True), Nothing)
    assert upkeep_at(1.5, lost(type=kind), needs_standby=True) == Protect("protect:1")


@given(st.integers(1, 60))
def test_it_is_tried_for_ever_later_each_time_and_at_least_every_half_hour(in_a_row: int) -> None:
    failed = [lost(number) for number in range(1, in_a_row + 1)]
    delay = min(FIRST_DELAY * 2 ** min(in_a_row - 1, 10), LONGEST_DELAY) / timedelta(minutes=1)
    assert isinstance(upkeep_at(in_a_row + delay - 0.01, *failed, needs_standby=True), Nothing)
    assert isinstance(upkeep_at(in_a_row + delay, *failed, needs_standby=True), Protect)


def test_one_that_an_operator_ended_stays_ended_for_a_while() -> None:
    ended = lost(status=ReplicaState.TERMINATED)
    assert isinstance(upkeep_at(30, ended, needs_standby=True), Nothing)
    assert isinstance(upkeep_at(31, ended, needs_standby=True), Protect)


def test_its_standby_is_not_released_however_quiet_it_is() -> None:
    agent: dict[str, Any] = {"active_replica_id": REPLICA, "quiet_seconds": 3600}
    assert isinstance(upkeep_at(10_000, a_ready_replica(), needs_standby=True, **agent), Nothing)
    assert isinstance(upkeep_at(10_000, a_ready_replica(), **agent), Release)


@pytest.mark.parametrize("busy", [{"claim_open": True}, {"handover_state": HandoverState.OPEN}, {"lost": True}])
def test_none_is_made_while_a_failover_is_under_way(busy: dict[str, Any]) -> None:
    assert isinstance(upkeep_at(10, needs_standby=True, **busy), Nothing)


def a_big_state(plane: FakePlane, **changes: Any) -> None:
    """What does not fit through a notice, by the primary's measure."""
    big: dict[str, Any] = {"state_bytes": 10**12, "state_bytes_per_second": 10.0**8, "at": plane.now}
    plane.records.put_heartbeat(a_heartbeat(**(big | changes)))


def test_the_sweep_makes_a_standby_for_an_agent_that_is_unprotected_without_one_once() -> None:
    plane = FakePlane()
    plane.records.put(an_agent(auto_replica=False, manual_replica=False))
    a_big_state(plane)
    signals.sweep(plane)
    signals.sweep(plane)
    [replica] = plane.records.replicas(AGENT)
    assert replica.type is ReplicaType.AUTOMATIC_PROTECTION
    assert replica.replica_id in plane.workflows.preparations


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"state_bytes": 10**9}, id="it fits"),
        pytest.param({"state_bytes_per_second": None}, id="it was never measured"),
        pytest.param({"epoch": 7}, id="another epoch's word"),
        pytest.param({"serving": False}, id="it does not serve"),
    ],
)
def test_the_sweep_makes_none_where_that_is_not_known(said: dict[str, Any]) -> None:
    plane = FakePlane()
    a_big_state(plane, **said)
    signals.sweep(plane)
    assert plane.records.replicas(AGENT) == ()


def test_the_sweep_makes_none_while_it_is_paused() -> None:
    plane = FakePlane()
    a_big_state(plane)
    pausing.pause_agent(plane, AGENT, reason="maintenance")
    signals.sweep(plane)
    assert plane.records.replicas(AGENT) == ()


def with_a_counted_standby() -> FakePlane:
    plane = with_a_ready_standby()
    plane.records.put(replace(plane.records.agent(AGENT), replica_count=1))
    return plane


def test_the_sweep_replaces_a_lost_standby_once() -> None:
    plane = with_a_counted_standby()
    replication.end_replica(plane, AGENT, REPLICA, reason="its instance died")
    plane.now = NOON + timedelta(minutes=2)
    signals.sweep(plane)
    signals.sweep(plane)
    active = [replica for replica in plane.records.replicas(AGENT) if replica.active]
    assert [replica.created_by for replica in active] == [f"replace:{REPLICA}"]
    assert active[0].replica_id in plane.workflows.preparations


def quiet_for_long(*, heard_seconds_ago: float = 3.0) -> FakePlane:
    plane = with_a_counted_standby()
    plane.now = NOON + timedelta(hours=12, minutes=1)
    plane.records.put_heartbeat(a_heartbeat(at=plane.now - timedelta(seconds=heard_seconds_ago)))
    return plane


def test_the_sweep_releases_a_standby_after_the_quiet_time_and_terminates_its_instance() -> None:
    plane = quiet_for_long()
    signals.sweep(plane)
    released = plane.records.replica(AGENT, REPLICA)
    assert (released.status, released.failure) == (
        ReplicaState.TERMINATED,
        "quiet for 12:00:00: no sign since 2026-03-01T12:00:00+00:00",
    )
    assert plane.records.agent(AGENT).active_replica_id is None
    assert plane.compute.instances[str(released.instance_id)] == "terminated"


@pytest.mark.parametrize("state", ["shutting-down", "stopping"])
def test_the_sweep_releases_no_standby_of_a_primary_that_does_not_run(state: str) -> None:
    plane = quiet_for_long()
    plane.compute.instances[PRIMARY] = state
    signals.sweep(plane)
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.READY
    plane.compute.instances[PRIMARY] = "running"
    signals.sweep(plane)
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.TERMINATED


def test_the_sweep_releases_no_standby_of_a_primary_that_is_not_heard_though_ec2_calls_it_running() -> None:
    plane = quiet_for_long(heard_seconds_ago=16.0)
    signals.sweep(plane)
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.READY


@pytest.mark.parametrize("before", [{}, {"claim_epoch": 1, "claim_attempt": 1}])
def test_a_standby_is_not_released_when_a_failover_has_begun_and_failed_since_the_primary_was_looked_at(
    before: dict[str, Any],
) -> None:
    plane = quiet_for_long()
    plane.records.put(replace(plane.records.agent(AGENT), **before))

    def fails_over(transaction: Transaction) -> None:
        if transaction.name == "release replica":
            agent = plane.records.agent(AGENT)
            plane.records.put(replace(agent, claim_epoch=1, claim_attempt=agent.claim_attempt + 1))

    plane.records.before_commit = fails_over
    signals.sweep(plane)
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.READY
    assert plane.compute.instances[STANDBY] == "running"


# --- what an operator ends


def test_an_operator_ends_a_standby_while_its_primary_is_well_and_again() -> None:
    plane = quiet_for_long()
    for _ in range(2):
        ended = replication.terminate_replica(plane, AGENT, REPLICA, reason="asked")
        assert (ended.status, ended.failure) == (ReplicaState.TERMINATED, "asked")
    assert plane.records.agent(AGENT).active_replica_id is None
    assert plane.compute.instances[STANDBY] == "terminated"


@pytest.mark.parametrize(
    ("state", "heard_seconds_ago", "under_way", "refusal"),
    [
        ("terminated", 3.0, {}, ReplicaNeeded),
        ("running", 16.0, {}, ReplicaNeeded),
        ("running", 3.0, {"claim_open": True}, HandoverInProgress),
        ("running", 3.0, {"handover_state": HandoverState.OPEN}, HandoverInProgress),
    ],
)
def test_an_operator_does_not_end_what_may_be_the_newest_copy(
    state: str, heard_seconds_ago: float, under_way: dict[str, Any], refusal: type[Exception]
) -> None:
    plane = quiet_for_long(heard_seconds_ago=heard_seconds_ago)
    plane.records.put(replace(plane.records.agent(AGENT), **under_way))
    plane.compute.instances[PRIMARY] = state
    with pytest.raises(refusal):
        replication.terminate_replica(plane, AGENT, REPLICA, reason="asked")
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.READY
    assert plane.compute.instances[STANDBY] == "running"


def test_an_operator_ends_a_launch_even_in_a_failover_for_it_holds_nothing() -> None:
    plane = with_a_counted_standby()
    plane.records.put(
        replace(plane.records.agent(AGENT), claim_epoch=1, claim_attempt=1, claim_open=True),
        a_replica(status=ReplicaState.LAUNCHING),
    )
    assert replication.terminate_replica(plane, AGENT, REPLICA, reason="slow").status is ReplicaState.TERMINATED


# --- pauses


def a_notice(plane: FakePlane) -> Signal:
    return Signal(
        instance_id=PRIMARY,
        type=SignalType.TERMINATION_NOTICE,
        at=plane.clock(),
        deadline=plane.clock() + timedelta(seconds=120),
    )


@pytest.mark.parametrize("of_all", [False, True])
def test_while_paused_signals_are_recorded_and_nothing_is_begun(of_all: bool) -> None:
    plane = FakePlane()
    if of_all:
        pausing.pause_all(plane, reason="maintenance")
    else:
        pausing.pause_agent(plane, AGENT, reason="maintenance")
    assert "paused since" in signals.note_signal(plane, a_notice(plane)).reason
    assert "maintenance" in recommend(plane).reason
    signals.sweep(plane)
    with pytest.raises(Paused, match="maintenance; resume first"):
        replication.create_replica(plane, AGENT, replica_type=ReplicaType.MANUAL, created_by="operator")
    assert (plane.workflows.fail_overs, plane.records.replicas(AGENT)) == ({}, ())
    event = plane.records.interruption(AGENT, f"{PRIMARY}#termination-notice")
    assert event is not None
    assert event.response_action == "paused"


@pytest.mark.parametrize("of_all", [False, True])
def test_after_a_pause_the_sweep_takes_up_a_notice_that_still_runs(of_all: bool) -> None:
    plane = FakePlane()
    pausing.pause_all(plane, reason="x") if of_all else pausing.pause_agent(plane, AGENT, reason="x")
    signals.note_signal(plane, a_notice(plane))
    pausing.resume_all(plane) if of_all else pausing.resume_agent(plane, AGENT)
    signals.sweep(plane)
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"]


def test_after_a_pause_a_notice_that_is_over_is_left_to_ec2s_word() -> None:
    plane = FakePlane()
    pausing.pause_agent(plane, AGENT, reason="x")
    signals.note_signal(plane, a_notice(plane))
    plane.now = NOON + timedelta(minutes=5)
    pausing.resume_agent(plane, AGENT)
    signals.sweep(plane)
    assert not plane.workflows.fail_overs
    plane.compute.instances[PRIMARY] = "terminated"
    signals.sweep(plane)
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"]


def test_the_first_pause_stands_and_a_pause_of_all_ends_none_of_an_agent() -> None:
    plane = FakePlane()
    first = pausing.pause_agent(plane, AGENT, reason="first")
    plane.now = NOON + timedelta(minutes=1)
    assert pausing.pause_agent(plane, AGENT, reason="second").pause == first.pause
    pausing.pause_all(plane, reason="all")
    pausing.resume_all(plane)
    pausing.resume_all(plane)
    assert pausing.pause_of(plane, plane.records.agent(AGENT)) == first.pause
    assert pausing.resume_agent(plane, AGENT).pause is None
