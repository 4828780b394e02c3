"""Switches over tables in memory: begun by themselves or by an operator, carried out, given up, and added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from spot_optimizer.control import failover, pausing, preparation, realising, replication, signals, switching
from spot_optimizer.control.switching import Issued
from spot_optimizer.domain.agents import HandoverState, Switch
from spot_optimizer.domain.decisions import Reason, Verdict
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.pools_of_interest import PoolOfInterest
from spot_optimizer.domain.prices import PriceChange
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.risk import RiskBasis
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.stored_decisions import StoredDecision, WeighedOffer
from spot_optimizer.domain.switching import BETWEEN_HANDOVERS, SWITCH_PATIENCE, Hold, HoldReason
from spot_optimizer.domain.writes import Table
from tests.builders import (
    AGENT,
    NOON,
    PRIMARY,
    REPLICA,
    STANDBY,
    a_heartbeat,
    a_ready_replica,
    a_replica,
    a_standby,
    a_switch,
    an_agent,
)
from tests.fakes import FakePriceHistory
from tests.unit.test_failover import FakePlane, commit

HERE, THERE = "us-east-1a.m5.large", "us-east-1b.m5.large"
LONG_AGO = NOON - timedelta(days=30)
HOUR = timedelta(hours=1)


class FakeOnDemand:
    """As much of `Prices` as switches ask for."""

    def __init__(self, usd_per_hour: Mapping[str, str]) -> None:
        self.usd_per_hour = {kind: Decimal(usd) for kind, usd in usd_per_hour.items()}

    def known_pools(self, pool_ids: Iterable[str]) -> dict[str, PoolOfInterest]:
        return {
            pool_id: PoolOfInterest(
                pool_id=pool_id,
                availability_zone=pool_id.partition(".")[0],
                instance_type=kind,
                on_demand_usd_per_hour=usd,
            )
            for pool_id in pool_ids
            for kind, usd in self.usd_per_hour.items()
            if pool_id.endswith(f".{kind}")
        }


class NothingDecided:
    """Implements `Decisions`: the price rule has to do."""

    def latest(self, agent_id: str) -> None:
        return None


class SwitchingFakes(FakePlane):
    """A plane with prices, on which the other zone costs half."""

    def __init__(self, **agent: Any) -> None:
        super().__init__()
        self.prices: Any = FakeOnDemand({"m5.large": "0.096", "m5a.large": "0.086"})
        self.decisions: Any = NothingDecided()
        self.price_history: Any = FakePriceHistory({})
        self.compute.pool_prices = {
            HERE: Decimal("0.04"),
            THERE: Decimal("0.02"),
            "us-east-1c.m5.large": Decimal("0.03"),
        }
        self.records.put(an_agent(registered_at=LONG_AGO, **agent))

    def switches_between(self, since: datetime, until: datetime) -> Iterator[Switch]:
        for key in sorted(self.records.rows[Table.SWITCHES], reverse=True):
            switch = self.records.switch(*key)
            if switch is not None and since <= switch.switched_at < until:
                yield switch

    def considered(self) -> Issued | Hold:
        return switching.consider(self, AGENT).outcome

    def the_replica(self) -> Replica:
        [replica] = self.records.replicas(AGENT)
        return replica


def ready(plane: SwitchingFakes, replica: Replica) -> None:
    """What the agents report when the launched replica can take over."""
    plane.records.put(
        a_ready_replica(
            replica_id=replica.replica_id,
            type=replica.type,
            pool_id=replica.requested_pool_id,
            lifecycle=replica.requested_lifecycle,
            switch_reason=replica.switch_reason,
            switch_explanation=replica.switch_explanation,
            switch_asked_at=replica.switch_asked_at,
            old_usd_per_hour=replica.old_usd_per_hour,
            new_usd_per_hour=replica.new_usd_per_hour,
        ),
        a_standby(replica_id=replica.replica_id, pool_id=replica.requested_pool_id),
    )


def test_a_workload_that_pays_too_much_is_moved_by_itself_and_the_switch_says_what_it_saves() -> None:
    plane = SwitchingFakes()
    begun = plane.considered()
    assert isinstance(begun, Issued)
    replica = plane.the_replica()
    assert (replica.type, replica.requested_pool_id, replica.created_by) == (ReplicaType.SWITCH, THERE, "auto-switch")
    assert list(plane.workflows.preparations) == [replica.replica_id]
    again = plane.considered()
    assert isinstance(again, Hold) and again.reason is HoldReason.UNDER_WAY
    ready(plane, replica)
    signals.sweep(plane)
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"]
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "hand_over"
    failover.open_handover(plane, AGENT, 1, 1)
    commit(plane)
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    assert (switch.switch_reason, switch.basis, switch.rpo_seconds) == ("auto-switch", "final-generation", 0.0)
    assert (switch.from_pool_id, switch.to_pool_id, switch.to_lifecycle) == (HERE, THERE, "spot")
    assert (switch.old_usd_per_hour, switch.new_usd_per_hour) == (Decimal("0.04"), Decimal("0.02"))
    assert switch.estimated_savings == Decimal("0.02")
    assert switch.explanation is not None and THERE in switch.explanation


def test_after_a_fallback_to_on_demand_a_workload_returns_to_spot_by_itself() -> None:
    plane = SwitchingFakes(epoch=2, last_failover_at=NOON - HOUR)
    fallen = a_switch(
        to_instance_id=PRIMARY,
        from_instance_id="i-0old",
        to_pool_id=HERE,
        to_lifecycle="on-demand",
        switched_at=NOON - timedelta(minutes=29),
    )
    plane.records.put(fallen)
    held = plane.considered()
    assert isinstance(held, Hold) and held.reason is HoldReason.STAYED_TOO_SHORTLY
    plane.now += timedelta(minutes=1)
    begun = plane.considered()
    assert isinstance(begun, Issued)
    assert begun.current.lifecycle is Lifecycle.ON_DEMAND
    replica = plane.the_replica()
    assert (replica.requested_pool_id, replica.requested_lifecycle) == (THERE, "spot")
    assert (replica.old_usd_per_hour, replica.new_usd_per_hour) == (Decimal("0.096"), Decimal("0.02"))


def decided(pool_id: str, *, current: str = HERE, epoch: int = 1) -> StoredDecision:
    """To go to a pool on spot, from on demand."""
    common: dict[str, Any] = {
        "price_seen_at": NOON,
        "price_confidence": Decimal(1),
        "risk_within_1h": Decimal("0.01"),
        "risk_within_6h": Decimal("0.05"),
        "risk_basis": RiskBasis.ADVISOR_BAND,
        "risk_note": "as the test says",
        "excluded_because": "",
    }
    here = WeighedOffer(
        pool_id=current,
        lifecycle=Lifecycle.ON_DEMAND,
        usd_per_hour=Decimal("0.096"),
        expected_usd_per_hour=Decimal("0.096"),
        **common,
    )
    there = replace(here, pool_id=pool_id, lifecycle=Lifecycle.SPOT, usd_per_hour=Decimal("0.03"))
    return StoredDecision(
        agent_id=AGENT,
        decided_at=NOON,
        client_id="acme",
        epoch=epoch,
        verdict=Verdict.SWITCH,
        reason=Reason.SAVES_ENOUGH,
        pool_id=pool_id,
        lifecycle=Lifecycle.SPOT,
        current_pool_id=current,
        current_lifecycle=Lifecycle.ON_DEMAND,
        since=LONG_AGO,
        saving_usd_per_hour=Decimal("0.066"),
        saving=Decimal("0.6875"),
        risk_within_1h=Decimal(0),
        risk_within_6h=Decimal(0),
        risk_basis=RiskBasis.ADVISOR_BAND,
        risk_note="none",
        confidence_score=Decimal(1),
        explanation="as it was decided",
        rules={},
        failover={},
        offers=(here, there),
    )


@pytest.mark.parametrize(
    ("decision", "target", "explanation"),
    [
        (decided("us-east-1c.m5.large", epoch=2), "us-east-1c.m5.large", "as it was decided"),
        (decided("us-east-1c.m5.large", epoch=1), THERE, "against"),
        (decided(HERE, epoch=2), THERE, "against"),
    ],
)
def test_what_was_decided_is_followed_while_it_holds_and_never_into_the_primarys_own_pool(
    decision: StoredDecision, target: str, explanation: str
) -> None:
    plane = SwitchingFakes(epoch=2)
    plane.records.put(a_switch(to_instance_id=PRIMARY, to_pool_id=HERE, to_lifecycle="on-demand", switched_at=LONG_AGO))
    plane.decisions = SimpleNamespace(latest=lambda _: decision)
    begun = plane.considered()
    assert isinstance(begun, Issued), begun
    assert begun.replica.requested_pool_id == target
    assert explanation in str(begun.replica.switch_explanation)


def test_what_was_decided_and_can_not_be_had_any_more_is_held() -> None:
    plane = SwitchingFakes(epoch=2)
    plane.records.put(a_switch(to_instance_id=PRIMARY, to_pool_id=HERE, to_lifecycle="on-demand", switched_at=LONG_AGO))
    plane.decisions = SimpleNamespace(latest=lambda _: decided("us-east-1d.m5.large", epoch=2))
    held = plane.considered()
    assert isinstance(held, Hold) and held.reason is HoldReason.NOTHING_CHEAPER
    assert "none of the agent's" in held.explanation
    assert not plane.records.committed


def test_while_no_pool_qualifies_it_stays_on_demand() -> None:
    plane = SwitchingFakes(epoch=2)
    plane.records.put(a_switch(to_instance_id=PRIMARY, to_pool_id=HERE, to_lifecycle="on-demand", switched_at=LONG_AGO))
    plane.compute.pool_prices = {}
    held = plane.considered()
    assert isinstance(held, Hold) and held.reason is HoldReason.NOTHING_CHEAPER


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"auto_switch": False}, HoldReason.TOGGLED_OFF),
        ({"paused_at": NOON, "paused_because": "a release"}, HoldReason.PAUSED),
        ({"claim_open": True}, HoldReason.UNDER_WAY),
        ({"handover_state": HandoverState.OPEN}, HoldReason.UNDER_WAY),
        ({"lost": True}, HoldReason.UNDER_WAY),
        ({"maintenance_windows": ("mon 02:00-04:00",)}, HoldReason.OUTSIDE_WINDOW),
        ({"switch_minimum_saving": 0.45, "switch_hysteresis": 0.01}, None),
    ],
)
def test_what_holds_an_agent_back_leaves_it_as_it_is(how: dict[str, Any], reason: HoldReason | None) -> None:
    plane = SwitchingFakes(**how)
    outcome = plane.considered()
    assert (outcome.reason if isinstance(outcome, Hold) else None) is reason
    assert bool(plane.records.committed) is (reason is None)


def test_everybodys_pause_holds_the_schedule_too() -> None:
    plane = SwitchingFakes()
    pausing.pause_all(plane, reason="a release")
    held = plane.considered()
    assert isinstance(held, Hold) and held.reason is HoldReason.PAUSED


def test_an_agent_that_holds_a_standby_moves_there_or_not_at_all() -> None:
    plane = SwitchingFakes(active_replica_id=REPLICA)
    plane.records.put(a_ready_replica(), a_standby())
    begun = plane.considered()
    assert isinstance(begun, Issued)
    assert (begun.replica.replica_id, begun.replica.switch_reason) == (REPLICA, SignalType.AUTO_SWITCH)
    assert plane.records.replica(AGENT, REPLICA).switch_asked_at == NOON
    elsewhere = SwitchingFakes(active_replica_id=REPLICA)
    elsewhere.records.put(a_ready_replica(lifecycle="on-demand"), a_standby())
    held = elsewhere.considered()
    assert isinstance(held, Hold) and held.reason is HoldReason.STANDBY_HELD


def test_a_round_pages_through_the_agents_that_may_be_moved_and_adds_up() -> None:
    plane = FakePlane()
    plane.records.rows[Table.AGENTS].clear()
    ids = [f"agt-{number:03}" for number in range(150)]
    for number, agent_id in enumerate(ids):
        plane.records.put(an_agent(agent_id=agent_id, auto_switch=number % 50 != 0))
    first = switching.plan_round(plane, after=0)
    second = switching.plan_round(plane, after=first["next"])
    assert first["agents"] + second["agents"] == [one for number, one in enumerate(ids) if number % 50]
    assert (first["next"], second["next"]) == (100, -1)
    page = switching.record_round([{"begun": True}, {"begun": False}, {"failed": True}], following=100, earlier=None)
    total = switching.record_round([{"begun": True}], following=-1, earlier=page)
    assert total == {"considered": 4, "begun": 2, "failed": 1, "next": -1}


# --- under way


def for_a_switch(**changes: Any) -> Replica:
    asked: dict[str, Any] = {
        "type": ReplicaType.SWITCH,
        "switch_reason": SignalType.AUTO_SWITCH,
        "switch_explanation": "cheaper there",
        "switch_asked_at": NOON,
        "requested_lifecycle": "spot",
    }
    return a_ready_replica(**(asked | changes))


def under_way(**agent: Any) -> SwitchingFakes:
    plane = SwitchingFakes(active_replica_id=REPLICA, replica_count=1, **agent)
    plane.records.put(for_a_switch(), a_standby())
    return plane


def test_a_notice_during_a_switch_makes_an_emergency_of_it() -> None:
    plane = under_way()
    signals.hand_over_if_asked(plane, AGENT, REPLICA)
    assert plane.records.agent(AGENT).claim_urgency == 0
    plane.notice()
    raised = plane.records.agent(AGENT)
    assert (raised.claim_urgency, raised.claim_signal, raised.claim_attempt) == (2, "termination-notice", 1)
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"], "the same execution goes on"
    failover.open_handover(plane, AGENT, 1, 1)
    commit(plane)
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None and switch.switch_reason == "termination-notice"


def test_a_notice_before_the_replica_is_ready_waits_for_that_very_replica() -> None:
    plane = under_way()
    plane.records.put(a_replica(type=ReplicaType.SWITCH, switch_reason=SignalType.AUTO_SWITCH, switch_asked_at=NOON))
    plane.notice()
    chosen = failover.select_standby(plane, AGENT, 1, 1)
    assert chosen == {"decision": "await_ready", "replica_id": REPLICA}


def test_a_switch_that_is_aborted_is_tried_once_more_and_then_given_up() -> None:
    plane = under_way()
    for attempt in (1, 2):
        plane.now += BETWEEN_HANDOVERS
        plane.records.put_heartbeat(a_heartbeat(at=plane.now))
        signals.sweep(plane)
        assert list(plane.workflows.fail_overs)[-1] == f"{AGENT}-1-{attempt}"
        failover.open_handover(plane, AGENT, 1, attempt)
        replication.abort_handover(plane, AGENT, str(plane.records.agent(AGENT).handover_id), epoch=1)
        failover.record_failure(plane, AGENT, 1, attempt, cause="aborted")
        plane.workflows.ended.add(f"{AGENT}-1-{attempt}")
        signals.sweep(plane)
    ended = plane.records.replica(AGENT, REPLICA)
    assert (ended.status, plane.records.agent(AGENT).active_replica_id) == (ReplicaState.TERMINATED, None)
    assert "2 handovers were aborted" in str(ended.failure)
    assert plane.compute.instances[STANDBY] == "terminated"
    assert len(plane.workflows.fail_overs) == 2
    plane.now += HOUR / 4
    held = plane.considered()
    assert isinstance(held, Hold) and held.reason is HoldReason.FAILED_LATELY


def test_a_standby_whose_switch_does_not_come_about_stands_by_again() -> None:
    plane = under_way()
    plane.records.put(for_a_switch(type=ReplicaType.MANUAL, status=ReplicaState.SYNCING))
    plane.now += SWITCH_PATIENCE + HOUR
    signals.sweep(plane)
    standby = plane.records.replica(AGENT, REPLICA)
    assert standby.active
    assert plane.records.agent(AGENT).active_replica_id == REPLICA
    again = plane.considered()
    assert isinstance(again, Issued) and again.replica.switch_asked_at == plane.now


def test_a_replica_made_for_a_switch_that_is_lost_is_not_replaced() -> None:
    plane = under_way()
    replication.end_replica(plane, AGENT, REPLICA, reason="its instance is dead")
    plane.now += 2 * HOUR
    signals.sweep(plane)
    assert not plane.workflows.preparations


@pytest.mark.parametrize(
    ("pool_id", "lifecycle", "expected"),
    [
        (THERE, "spot", [(THERE, "spot")]),
        (HERE, "on-demand", [(HERE, "on-demand")]),
        (None, "spot", [(THERE, "spot"), ("us-east-1c.m5.large", "spot")]),
        (None, "on-demand", [(THERE, "on-demand"), ("us-east-1c.m5.large", "on-demand"), (HERE, "on-demand")]),
    ],
)
def test_a_replica_for_a_switch_is_bought_as_it_was_asked_for(
    pool_id: str | None, lifecycle: str, expected: list[tuple[str, str]]
) -> None:
    plane = SwitchingFakes(active_replica_id=REPLICA, instance_types=("m5.large",))
    tried: list[tuple[str, str]] = []
    for _ in expected:
        plane.records.put(
            for_a_switch(
                status=ReplicaState.LAUNCHING,
                requested_pool_id=pool_id,
                requested_lifecycle=lifecycle,
                launch_number=len(tried),
                attempts=tuple(
                    {"number": number, "pool_id": pool, "lifecycle": bought, "outcome": "no capacity"}
                    for number, (pool, bought) in enumerate(tried, 1)
                ),
            )
        )
        chosen = preparation.select_pool(plane, AGENT, REPLICA)
        tried.append((chosen["pool_id"], chosen["lifecycle"]))
    assert tried == expected


# --- what it came to


def test_a_day_later_a_switch_knows_what_it_saved_from_the_prices_really_in_force() -> None:
    plane = SwitchingFakes(epoch=2)
    plane.records.put(
        a_switch(
            to_lifecycle="spot",
            old_usd_per_hour=Decimal("0.04"),
            new_usd_per_hour=Decimal("0.02"),
            estimated_savings=Decimal("0.02"),
        )
    )
    plane.price_history = FakePriceHistory(
        {
            HERE: [PriceChange(NOON - HOUR, Decimal("0.04")), PriceChange(NOON + 6 * HOUR, Decimal("0.06"))],
            THERE: [PriceChange(NOON - HOUR, Decimal("0.02")), PriceChange(NOON + 12 * HOUR, Decimal("0.05"))],
        }
    )
    plane.now = NOON + timedelta(hours=24) - timedelta(seconds=1)
    assert realising.realise(plane, plane) == {"looked_at": 1, "realised": 0, "left": 1}
    plane.now = NOON + timedelta(hours=24)
    assert realising.realise(plane, plane) == {"looked_at": 1, "realised": 1, "left": 0}
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    # 6 h at 0.04 and 18 h at 0.06, against 12 h at 0.02 and 12 h at 0.05
    assert switch.realised_savings == Decimal("0.055") - Decimal("0.035")
    assert (switch.realised_seconds, switch.estimated_savings) == (86_400, Decimal("0.02"))
    assert realising.realise(plane, plane) == {"looked_at": 0, "realised": 0, "left": 0}


def test_a_switch_that_the_next_one_ended_is_realised_up_to_there_and_a_failovers_prices_are_looked_up() -> None:
    plane = SwitchingFakes(epoch=3)
    plane.records.put(
        a_switch(to_lifecycle="on-demand"),
        a_switch(switch_id="0000000003", epoch=3, from_pool_id=THERE, to_pool_id=HERE, switched_at=NOON + 2 * HOUR),
    )
    plane.price_history = FakePriceHistory({HERE: [PriceChange(NOON - HOUR, Decimal("0.04"))]})
    plane.now = NOON + 3 * HOUR
    realising.realise(plane, plane)
    first = plane.records.switch(AGENT, "0000000002")
    assert first is not None
    assert (first.old_usd_per_hour, first.new_usd_per_hour) == (Decimal("0.04"), Decimal("0.096"))
    assert (first.realised_savings, first.realised_seconds) == (Decimal("-0.056"), 7200)
    assert first.to_lifecycle == "on-demand"
    assert first.estimated_savings == Decimal("-0.056"), "a fallback to on-demand saves nothing"


def test_a_failover_knows_its_prices_within_the_hour_and_what_it_came_to_only_later() -> None:
    plane = SwitchingFakes(epoch=2)
    plane.records.put(a_switch(to_lifecycle="spot"))
    steps = [PriceChange(NOON - HOUR, Decimal("0.04"))]
    plane.price_history = FakePriceHistory({HERE: steps, THERE: [replace(steps[0], usd_per_hour=Decimal("0.03"))]})
    plane.now = NOON + HOUR
    assert realising.realise(plane, plane)["realised"] == 0
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    assert (switch.old_usd_per_hour, switch.new_usd_per_hour) == (Decimal("0.04"), Decimal("0.03"))
    assert (switch.estimated_savings, switch.realised_savings) == (Decimal("0.01"), None)
    asked = len(plane.price_history.asked)
    realising.realise(plane, plane)
    assert len(plane.price_history.asked) == asked, "what is known is not asked for again"


def test_where_no_price_is_known_nothing_is_claimed() -> None:
    plane = SwitchingFakes(epoch=2)
    plane.records.put(a_switch(to_lifecycle="spot"))
    plane.price_history = FakePriceHistory({HERE: [PriceChange(NOON + HOUR, Decimal("0.04"))]})
    plane.now = NOON + timedelta(days=2)
    assert realising.realise(plane, plane) == {"looked_at": 1, "realised": 0, "left": 1}
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None and switch.realised_savings is None
