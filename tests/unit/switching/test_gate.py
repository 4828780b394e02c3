"""The gate that every move for money passes: each thing that holds one back, and what lets it through."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain import maintenance, risk
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.catalogue import Candidate
from spot_optimizer.domain.decisions import OfferId
from spot_optimizer.domain.maintenance import Window
from spot_optimizer.domain.pools import Lifecycle, Pool
from spot_optimizer.domain.replicas import ReplicaState, ReplicaType
from spot_optimizer.domain.risk import Exposure
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.switching import (
    BETWEEN_HANDOVERS,
    FIRST_RETRY,
    REMEMBERED,
    SWITCH_PATIENCE,
    Begin,
    GiveUp,
    History,
    Hold,
    HoldReason,
    Move,
    Proposal,
    SwitchRules,
    Wait,
    judge,
    next_step,
    propose_by_price,
    retry_after,
)
from tests.builders import NOON, a_ready_replica, a_replica, an_agent

HERE, THERE = OfferId("us-east-1a.m5.large"), OfferId("us-east-1b.m5.large")
ON_DEMAND = OfferId(HERE.pool_id, Lifecycle.ON_DEMAND)
LONG_AGO = NOON - timedelta(days=30)
HOUR = timedelta(hours=1)


def a_proposal(saving: str = "0.20", **changes: Any) -> Proposal:
    share = Decimal(saving)
    values: dict[str, Any] = {
        "current": HERE,
        "target": THERE,
        "current_usd_per_hour": Decimal("0.04"),
        "target_usd_per_hour": Decimal("0.04") * (1 - share),
        "saving_usd_per_hour": Decimal("0.04") * share,
        "saving": share,
        "explanation": "cheaper there",
    }
    return Proposal(**(values | changes))


def a_history(*moves: Move, **changes: Any) -> History:
    values: dict[str, Any] = {"registered_at": LONG_AGO, "moves": moves} | changes
    return History(**values)


def moved(ago: timedelta, *, left: OfferId = THERE, entered: OfferId = HERE, by_itself: bool = True) -> Move:
    return Move(NOON - ago, left, entered, by_itself)


def verdict(proposal: Proposal, history: History, **rules: Any) -> HoldReason | None:
    judged = judge(proposal, SwitchRules(**rules), history, now=NOON)
    return judged.reason if isinstance(judged, Hold) else None


def test_what_saves_enough_goes_through_as_it_is() -> None:
    proposal = a_proposal()
    assert judge(proposal, SwitchRules(), a_history(), now=NOON) is proposal


@pytest.mark.parametrize(
    ("saving", "left_ago", "reason"),
    [
        ("0.05", None, None),
        ("0.0499", None, HoldReason.SAVES_TOO_LITTLE),
        ("0.05", 2 * HOUR, HoldReason.RETURNS_FOR_TOO_LITTLE),
        ("0.0999", 2 * HOUR, HoldReason.RETURNS_FOR_TOO_LITTLE),
        ("0.10", 2 * HOUR, None),
        ("0.04", 2 * HOUR, HoldReason.SAVES_TOO_LITTLE),
        ("0.05", REMEMBERED, None),
    ],
)
def test_coming_back_must_save_more(saving: str, left_ago: timedelta | None, reason: HoldReason | None) -> None:
    history = a_history() if left_ago is None else a_history(moved(left_ago))
    assert verdict(a_proposal(saving), history) is reason


@pytest.mark.parametrize("by_itself", [True, False])
def test_whatever_moved_it_the_workload_stays_for_the_dwell(*, by_itself: bool) -> None:
    for minutes, reason in ((29, HoldReason.STAYED_TOO_SHORTLY), (30, None)):
        last = moved(timedelta(minutes=minutes), left=OfferId("us-east-1c.m5.large"), by_itself=by_itself)
        assert verdict(a_proposal(), a_history(last)) is reason
    fresh = a_history(registered_at=NOON - timedelta(minutes=29))
    assert verdict(a_proposal(), fresh) is HoldReason.STAYED_TOO_SHORTLY


def test_only_so_many_moves_are_made_in_a_day_and_those_of_others_do_not_count() -> None:
    elsewhere = OfferId("us-east-1c.m5.large")
    made = [moved(hours * HOUR, left=elsewhere) for hours in (2, 5, 9, 23)]
    assert verdict(a_proposal(), a_history(*made)) is HoldReason.MOVED_TOO_OFTEN
    assert verdict(a_proposal(), a_history(*made[:3], replace(made[3], by_itself=False))) is None
    assert verdict(a_proposal(), a_history(*made[:3], replace(made[3], at=NOON - 24 * HOUR))) is None


def test_a_switch_that_failed_is_tried_again_later_and_later() -> None:
    failed = a_history(failed_at=(NOON - timedelta(minutes=29),))
    assert verdict(a_proposal(), failed) is HoldReason.FAILED_LATELY
    assert verdict(a_proposal(), a_history(failed_at=(NOON - FIRST_RETRY,))) is None
    waits = [
        retry_after([NOON - number * HOUR for number in range(count)], since=LONG_AGO, now=NOON) - NOON
        for count in range(1, 9)
    ]
    assert waits == [FIRST_RETRY * 2**number for number in range(6)] + [timedelta(days=1)] * 2
    assert retry_after([NOON - HOUR], since=NOON - HOUR, now=NOON) == NOON, "a later move forgives"


def test_a_switch_that_costs_more_than_it_earns_in_a_day_is_not_made() -> None:
    earns = Decimal("0.008") * 24
    assert verdict(a_proposal(switch_usd=earns), a_history()) is None
    assert verdict(a_proposal(switch_usd=earns + Decimal("0.001")), a_history()) is HoldReason.PAYS_BACK_TOO_LATE


def test_outside_its_windows_nothing_is_moved() -> None:
    # NOON is a Sunday's.
    for window, reason in (
        ("sun 12:00-13:00", None),
        ("sun 11:00-12:00", HoldReason.OUTSIDE_WINDOW),
        ("sat 22:00-12:01", None),
        ("mon-sat 00:00-24:00", HoldReason.OUTSIDE_WINDOW),
    ):
        assert verdict(a_proposal(), a_history(), windows=(Window.parse(window),)) is reason, window


# --- maintenance windows


@pytest.mark.parametrize(
    "text",
    [
        "",
        "daily",
        "02:00-04:00",
        "daily 2:00-4:00",
        "daily 02:00-24:01",
        "daily 24:00-02:00",
        "daily 02:60-04:00",
        "daily 02:00-02:00",
        "Mon 02:00-04:00",
        "mon-funday 02:00-04:00",
        "mon,,tue 02:00-04:00",
        "daily 02:00-04:00 CET",
    ],
)
def test_what_is_no_window_is_refused_and_says_what_one_is(text: str) -> None:
    with pytest.raises(ValueError, match="days and hours in UTC"):
        Window.parse(text)


@given(
    st.integers(0, 7 * 24 * 60 - 1), st.integers(0, 1439), st.integers(1, 1440), st.sets(st.integers(0, 6), min_size=1)
)
def test_a_window_is_open_for_as_long_as_it_says_from_when_it_says(
    at: int, opens: int, minutes: int, days: set[int]
) -> None:
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    closes = (opens + minutes) % 1440
    text = f"{','.join(names[day] for day in sorted(days))} {opens // 60:02}:{opens % 60:02}-"
    text += f"{closes // 60:02}:{closes % 60:02}" if closes != opens else "24:00"
    if closes == opens and opens:
        return  # a whole day that begins within one can not be written
    starts = [day * 1440 + opens + week * 7 * 1440 for day in days for week in (-1, 0)]
    expected = any(start <= at < start + minutes for start in starts)
    assert Window.parse(text).is_open(monday + timedelta(minutes=at)) is expected


def test_without_windows_it_is_always_open_and_with_some_one_is_enough() -> None:
    windows = [Window.parse("mon 01:00-02:00"), Window.parse("sun 11:30-12:30")]
    assert maintenance.is_open((), NOON)
    assert maintenance.is_open(windows, NOON)
    assert not maintenance.is_open(windows[:1], NOON)


# --- the price rule


def a_candidate(pool_id: str, usd: str | None, **changes: Any) -> Candidate:
    known = risk.assess(None, Exposure(), now=NOON)
    price = None if usd is None else Decimal(usd)
    return Candidate(pool=Pool.parse(pool_id), usd_per_hour=price, risk=known, **changes)


def test_the_cheapest_pool_that_qualifies_is_proposed() -> None:
    candidates = [
        a_candidate("us-east-1a.c5.large", None),
        a_candidate("us-east-1b.c5.large", "0.010", excluded_because="its architecture is arm64"),
        a_candidate("us-east-1c.c5.large", "0.011", cooling_until=NOON + HOUR),
        a_candidate("us-east-1b.m5.large", "0.030"),
        a_candidate("us-east-1c.m5.large", "0.035"),
    ]
    proposal = propose_by_price(HERE, Decimal("0.04"), candidates, overlap=timedelta(minutes=6))
    assert isinstance(proposal, Proposal)
    assert (proposal.target, proposal.saving) == (THERE, Decimal("0.25"))
    assert proposal.switch_usd == Decimal("0.003")
    for usd, reason in (("0.03", HoldReason.NOTHING_CHEAPER), (None, HoldReason.CURRENT_PRICE_UNKNOWN)):
        held = propose_by_price(HERE, None if usd is None else Decimal(usd), candidates)
        assert isinstance(held, Hold) and held.reason is reason
    nowhere = propose_by_price(HERE, Decimal("0.04"), candidates[:3])
    assert isinstance(nowhere, Hold) and nowhere.reason is HoldReason.NOTHING_CHEAPER


def test_a_workload_on_demand_returns_to_spot_also_where_nobody_knows_what_on_demand_costs() -> None:
    spot = [a_candidate(THERE.pool_id, "0.03")]
    for usd in (Decimal("0.096"), None):
        proposal = propose_by_price(ON_DEMAND, usd, spot)
        assert isinstance(proposal, Proposal)
        assert verdict(proposal, a_history(moved(HOUR, left=HERE, entered=ON_DEMAND, by_itself=False))) is None


# --- the switch that is under way


def for_a_switch(**changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "type": ReplicaType.SWITCH,
        "switch_reason": SignalType.AUTO_SWITCH,
        "switch_explanation": "cheaper there",
        "switch_asked_at": NOON,
    }
    return asked | changes


def test_a_switch_begins_when_its_replica_is_ready() -> None:
    assert next_step(an_agent(), a_ready_replica(**for_a_switch()), now=NOON) == Begin(
        SignalType.AUTO_SWITCH, "cheaper there"
    )
    assert isinstance(next_step(an_agent(), a_replica(**for_a_switch()), now=NOON), Wait)
    assert isinstance(next_step(an_agent(), a_ready_replica(), now=NOON), Wait), "a standby only stands by"


@pytest.mark.parametrize("busy", [{"claim_open": True}, {"handover_state": HandoverState.OPEN}, {"lost": True}])
def test_a_switch_waits_for_a_failover(busy: dict[str, Any]) -> None:
    assert isinstance(next_step(an_agent(**busy), a_ready_replica(**for_a_switch()), now=NOON), Wait)


def test_a_window_that_has_closed_meanwhile_holds_back_what_nobody_asked_for_and_only_that() -> None:
    agent = an_agent(maintenance_windows=("mon 02:00-04:00",), auto_switch=False)
    asked = a_ready_replica(**for_a_switch(switch_reason=SignalType.OPERATOR))
    assert isinstance(next_step(agent, asked, now=NOON), Begin)
    by_itself = a_ready_replica(**for_a_switch())
    assert isinstance(next_step(replace(agent, auto_switch=True), by_itself, now=NOON), Wait)
    off = an_agent(auto_switch=False)
    assert isinstance(next_step(off, by_itself, now=NOON), Wait), "the toggle was switched off"
    assert isinstance(next_step(off, asked, now=NOON), Begin)


def test_a_switch_is_given_up_after_two_aborted_handovers_or_half_a_day() -> None:
    replica = a_ready_replica(**for_a_switch(switch_handovers_before=1))
    aborted = {"handover_state": HandoverState.ABORTED, "handover_opened_at": NOON}
    once = an_agent(handover_count=2, **aborted)
    assert isinstance(next_step(once, replica, now=NOON + BETWEEN_HANDOVERS / 2), Wait)
    assert isinstance(next_step(once, replica, now=NOON + BETWEEN_HANDOVERS), Begin)
    assert isinstance(next_step(an_agent(handover_count=3, **aborted), replica, now=NOON + HOUR), GiveUp)
    syncing = a_replica(**for_a_switch(), status=ReplicaState.SYNCING)
    assert isinstance(next_step(an_agent(), syncing, now=NOON + SWITCH_PATIENCE), Wait)
    late = NOON + SWITCH_PATIENCE + timedelta(seconds=1)
    assert isinstance(next_step(an_agent(), syncing, now=late), GiveUp)
