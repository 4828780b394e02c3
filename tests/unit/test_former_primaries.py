"""What becomes of a primary that handed over: kept, retired and terminated, or left to AWS; each told on its switch."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from spot_optimizer.control import emergencies, failover, former_primaries, pausing, preparation, signals
from spot_optimizer.domain import retired, standby
from spot_optimizer.domain.agents import HandoverState, InstanceRole
from spot_optimizer.domain.former_primaries import KEPT_WITHOUT_A_COPY, retire
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.orders import HandoverView, Orders, Peer, Role, orders_for
from spot_optimizer.domain.protocol import (
    Action,
    Commit,
    GenerationCommitted,
    HoldState,
    OrdersReceived,
    Remember,
    RestoreSnapshot,
    StateHeld,
)
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.retired import Retired
from spot_optimizer.domain.signals import Signal, SignalType
from spot_optimizer.domain.snapshots import snapshot_id_for
from spot_optimizer.domain.standby import Standby
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import ConditionFailed, DemotionRefused, ReplicaNotReady
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
    an_instance,
    an_interruption,
)
from tests.unit.test_failover import FakePlane, commit, in_handover, with_a_ready_standby

SECOND_STANDBY = "i-0ccccccccccccccc3"
LATER = NOON + timedelta(seconds=40)


def switched(*, beside: str = "standby", **changes: Any) -> FakePlane:
    """The standby took over, by an operator's word who retires the old primary; beside it there is another copy."""
    plane = FakePlane()
    agent: dict[str, Any] = {"epoch": 2, "primary_instance_id": STANDBY, "primary_pool_id": "us-east-1b.m5.large"}
    if beside == "standby":
        agent |= {"active_replica_id": "rep-next"}
        plane.records.put(a_ready_replica(replica_id="rep-next", epoch=2, instance_id=SECOND_STANDBY))
    elif beside == "snapshot":
        agent |= snapshot_of(epoch=2)
    plane.records.put(
        an_agent(**agent),
        an_instance(role=InstanceRole.RETIRED_PENDING),
        a_standby(role=InstanceRole.PRIMARY, epoch=2),
        a_switch(**({"switch_reason": "operator", "demote_old_primary": False} | changes)),
    )
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=LATER))
    plane.compute.instances[SECOND_STANDBY] = "running"
    plane.now = LATER
    return plane


def snapshot_of(*, epoch: int) -> dict[str, Any]:
    return {
        "snapshot_id": snapshot_id_for(epoch=epoch, generation=5),
        "snapshot_taken_at": LATER,
        "snapshot_expires_at": LATER + timedelta(days=1),
    }


def notice_of(instance_id: str) -> Signal:
    goes_at = LATER + timedelta(minutes=2)
    return Signal(instance_id=instance_id, type=SignalType.TERMINATION_NOTICE, at=LATER, deadline=goes_at)


def fate(plane: FakePlane) -> str | None:
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    return switch.old_primary


def sweep(plane: FakePlane) -> None:
    signals.sweep(plane)


@pytest.mark.parametrize("beside", ["standby", "snapshot"])
def test_an_old_primary_is_terminated_once_its_successor_serves_beside_another_copy(beside: str) -> None:
    plane = switched(beside=beside)
    sweep(plane)
    assert plane.records.instance(PRIMARY).role is InstanceRole.RETIRED
    assert plane.compute.instances[PRIMARY] == "terminated"
    sweep(plane)
    assert fate(plane) == "terminated"


def test_one_that_nobody_planned_to_replace_goes_the_same_way() -> None:
    plane = switched(switch_reason="primary-silent", basis="lease-expired", demote_old_primary=None)
    sweep(plane)
    assert plane.compute.instances[PRIMARY] == "terminated"


def kept(plane: FakePlane) -> None:
    sweep(plane)
    assert plane.records.instance(PRIMARY).role is InstanceRole.RETIRED_PENDING
    assert plane.compute.instances[PRIMARY] == "running"
    assert fate(plane) is None


def test_it_is_kept_while_there_is_no_other_copy() -> None:
    kept(switched(beside="nothing"))


def test_a_snapshot_of_the_epoch_before_is_no_copy_of_what_its_successor_wrote() -> None:
    plane = switched(beside="nothing")
    plane.records.put(
        an_agent(epoch=2, primary_instance_id=STANDBY, primary_pool_id="us-east-1b.m5.large", **snapshot_of(epoch=1))
    )
    kept(plane)


def test_it_is_kept_while_its_successor_is_not_confirmed_serving() -> None:
    plane = switched()
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=LATER, serving=False))
    kept(plane)


def test_it_is_kept_while_its_successor_has_not_been_heard_of_for_long() -> None:
    plane = switched()
    plane.now = LATER + timedelta(seconds=61)
    kept(plane)


def test_it_is_kept_while_a_failover_is_under_way() -> None:
    plane = switched()
    signals.note_signal(plane, notice_of(STANDBY))
    kept(plane)


def test_it_is_kept_while_an_operator_pauses_the_agent() -> None:
    plane = switched()
    pausing.pause_agent(plane, AGENT, reason="looking")
    kept(plane)


def test_the_one_that_aws_gave_notice_to_is_left_to_aws() -> None:
    plane = switched(switch_reason="termination-notice", demote_old_primary=None)
    kept(plane)
    plane.compute.instances[PRIMARY] = "terminated"
    sweep(plane)
    assert fate(plane) == "gone"


def test_one_that_is_given_notice_after_it_stepped_down_is_left_to_aws_as_well() -> None:
    plane = switched()
    assert "former primary" in signals.note_signal(plane, notice_of(PRIMARY)).reason
    kept(plane)


def test_without_any_other_copy_it_is_kept_for_long_and_then_no_more() -> None:
    plane = switched(beside="nothing")
    plane.now = NOON + KEPT_WITHOUT_A_COPY + timedelta(seconds=1)
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=plane.now))
    sweep(plane)
    assert plane.compute.instances[PRIMARY] == "terminated"


def test_one_that_we_did_not_launch_is_left_running_and_that_is_told() -> None:
    plane = switched()
    plane.compute.not_ours.add(PRIMARY)
    sweep(plane)
    assert plane.compute.instances[PRIMARY] == "running"
    assert fate(plane) == "left"


def test_one_that_is_the_primary_again_is_not_looked_at_any_more() -> None:
    plane = switched()
    plane.records.put(an_instance(role=InstanceRole.PRIMARY))
    sweep(plane)
    assert fate(plane) == "recalled"


def test_a_sweep_that_died_before_it_terminated_leaves_that_to_the_next() -> None:
    plane = switched()
    plane.records.put(an_instance(role=InstanceRole.RETIRED))
    sweep(plane)
    assert plane.compute.instances[PRIMARY] == "terminated"


def test_switches_are_concluded_in_their_order() -> None:
    plane = switched()
    plane.records.put(
        an_agent(epoch=3, primary_instance_id=SECOND_STANDBY, primary_pool_id="us-east-1c.m5.large"),
        an_instance(instance_id=SECOND_STANDBY, role=InstanceRole.PRIMARY, epoch=3),
        a_standby(role=InstanceRole.RETIRED_PENDING, epoch=2),
        a_switch(switch_id="0000000003", epoch=3, from_instance_id=STANDBY, to_instance_id=SECOND_STANDBY),
    )
    plane.compute.instances[STANDBY] = "terminated"
    sweep(plane)
    later = plane.records.switch(AGENT, "0000000003")
    assert later is not None
    assert later.old_primary is None, "the one before is not dealt with yet, and must not be forgotten"


def test_giving_up_a_copy_competes_with_the_end_of_the_other_one() -> None:
    plane = switched()

    class StandbyEnds:
        """The standby fails in the moment before the write."""

        def __init__(self) -> None:
            self.commit_now = plane.records.commit

        def __call__(self, transaction: Transaction) -> None:
            if transaction.name == "retire":
                plane.records.put(a_replica(replica_id="rep-next", epoch=2, status=ReplicaState.FAILED))
            self.commit_now(transaction)

    plane.records.commit = StandbyEnds()  # type: ignore[method-assign]
    sweep(plane)
    assert plane.records.instance(PRIMARY).role is InstanceRole.RETIRED_PENDING
    assert plane.compute.instances[PRIMARY] == "running"


# --- what an operator wishes


def planned(plane: FakePlane, wish: bool | None) -> bool | None:
    emergencies.plan_handover(plane, AGENT, REPLICA, reason="", demote_old_primary=wish)
    return plane.records.agent(AGENT).claim_demotes


@pytest.mark.parametrize(("wish", "recorded"), [(True, True), (False, False), (None, True)])
def test_the_wish_for_the_old_primary_is_recorded_with_the_claim_and_the_switch(
    wish: bool | None, recorded: bool
) -> None:
    plane = with_a_ready_standby()
    assert planned(plane, wish) is recorded
    failover.open_handover(plane, AGENT, 1, 1)
    commit(plane)
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    assert switch.demote_old_primary is recorded


def test_a_handover_that_became_an_emergency_carries_no_wish() -> None:
    plane = in_handover()
    commit(plane)
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    assert switch.demote_old_primary is None


def test_nor_does_one_that_did_not_come_through_as_planned() -> None:
    plane = with_a_ready_standby()
    planned(plane, True)
    failover.open_handover(plane, AGENT, 1, 1)
    commit(plane, basis=Basis.LEASE_EXPIRED)
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    assert switch.demote_old_primary is None


def sharing_its_pool(plane: FakePlane) -> str:
    plane.records.put(a_ready_replica(pool_id="us-east-1a.m5.large", lifecycle="on-demand"))
    return "would share pool us-east-1a.m5.large"


def with_its_pool_struck(plane: FakePlane) -> str:
    plane.records.put(an_interruption(event_id="i-0other#termination-notice", instance_id="i-0other", agent_id="agt-2"))
    return "was struck"


def under_notice(plane: FakePlane) -> str:
    plane.records.put(an_interruption())
    return "AWS gave"


@pytest.mark.parametrize("unfit", [sharing_its_pool, with_its_pool_struck, under_notice])
def test_a_primary_that_would_be_no_good_standby_is_not_demoted_and_nothing_is_changed(unfit: Any) -> None:
    plane = with_a_ready_standby()
    reason = unfit(plane)
    with pytest.raises(DemotionRefused, match=reason):
        planned(plane, True)
    assert not plane.records.agent(AGENT).claim_open
    assert planned(plane, None) is False, "left to us, it is retired instead"


@pytest.mark.parametrize(
    ("replica", "reason"),
    [
        (a_replica(sync_percent=40.0, lag_seconds=12.0), "'syncing': 40 % of the state is there, 12.0 s behind"),
        (a_replica(status=ReplicaState.LAUNCHING), "'launching'"),
        (a_replica(status=ReplicaState.FAILED, failure="its instance is dead"), "'failed': its instance is dead"),
        (a_replica(status=ReplicaState.TERMINATED, failure="terminated by op"), "'terminated': terminated by op"),
        (a_replica(status=ReplicaState.PROMOTED), "'promoted'"),
    ],
)
def test_a_replica_that_is_not_ready_is_not_promoted_and_says_why(replica: Any, reason: str) -> None:
    plane = with_a_ready_standby()
    plane.records.put(replica)
    with pytest.raises(ReplicaNotReady, match=reason):
        planned(plane, False)
    assert not plane.records.agent(AGENT).claim_open


def test_retiring_twice_changes_nothing() -> None:
    plane = switched()
    agent, former = plane.records.agent(AGENT), plane.records.instance(PRIMARY)
    write = retire(agent, former, standby=None)
    plane.records.commit(write)
    with pytest.raises(ConditionFailed):
        plane.records.commit(write)


def test_a_fleet_without_open_switches_costs_one_read_each() -> None:
    plane = switched(old_primary="gone")
    assert former_primaries.look_after(plane, plane.records.agent(AGENT)) == 0
    assert plane.records.instance(PRIMARY).role is InstanceRole.RETIRED_PENDING


# --- demotion


def wanted_as_standby(**changes: Any) -> FakePlane:
    return switched(beside="nothing", demote_old_primary=True, **changes)


def test_an_old_primary_that_is_wanted_becomes_the_standby_of_its_successor() -> None:
    plane = wanted_as_standby()
    assert failover.demote_old_primary(plane, AGENT, 1) == {"old_primary": "demoted"}
    agent, former = plane.records.agent(AGENT), plane.records.instance(PRIMARY)
    replica = plane.records.replica(AGENT, str(agent.active_replica_id))
    assert (former.role, former.replica_id) == (InstanceRole.STANDBY, replica.replica_id)
    assert (replica.status, replica.epoch, replica.instance_id, replica.pool_id) == (
        ReplicaState.SYNCING,
        2,
        PRIMARY,
        "us-east-1a.m5.large",
    )
    assert list(plane.workflows.preparations) == [replica.replica_id], "somebody waits until it is ready"
    assert preparation.select_pool(plane, AGENT, replica.replica_id)["pool_id"] == "us-east-1a.m5.large"
    assert preparation.launch_instance(
        plane, AGENT, replica.replica_id, number=0, pool_id="", lifecycle="", subnet_id=""
    ) == {"instance_id": PRIMARY}
    assert not plane.compute.launches


def test_demoting_again_changes_nothing() -> None:
    plane = wanted_as_standby()
    failover.demote_old_primary(plane, AGENT, 1)
    before = plane.records.agent(AGENT)
    assert failover.demote_old_primary(plane, AGENT, 1) == {"old_primary": "demoted"}
    assert plane.records.agent(AGENT) == before


def test_what_a_failover_could_not_demote_the_sweep_does() -> None:
    plane = wanted_as_standby()
    plane.records.put(replace(plane.records.agent(AGENT), replica_count=1))
    sweep(plane)
    assert fate(plane) == "demoted"


def test_the_demoted_primary_is_told_with_its_next_heartbeat() -> None:
    plane = wanted_as_standby()
    failover.demote_old_primary(plane, AGENT, 1)
    agent, former = plane.records.agent(AGENT), plane.records.instance(PRIMARY)
    replica = plane.records.replica(AGENT, str(agent.active_replica_id))
    told = [
        orders_for(
            agent,
            instance_id,
            epoch=2,
            replica=replica,
            primary=plane.records.instance(STANDBY),
            standby=former,
            heartbeat_every_seconds=30.0,
        )
        for instance_id in (PRIMARY, STANDBY)
    ]
    assert [orders.role for orders in told] == [Role.STANDBY, Role.PRIMARY]
    assert [orders.peer.instance_id for orders in told if orders.peer] == [STANDBY, PRIMARY]


def not_demoted(plane: FakePlane) -> None:
    failover.demote_old_primary(plane, AGENT, 1)
    assert plane.records.instance(PRIMARY).role is InstanceRole.RETIRED_PENDING


def test_one_that_aws_gave_notice_to_meanwhile_is_not_demoted() -> None:
    plane = wanted_as_standby()
    signals.note_signal(plane, notice_of(PRIMARY))
    not_demoted(plane)


def test_one_in_the_pool_of_its_successor_is_not_demoted() -> None:
    plane = wanted_as_standby()
    plane.records.put(an_instance(role=InstanceRole.RETIRED_PENDING, pool_id="us-east-1b.m5.large"))
    not_demoted(plane)


def test_one_whose_successor_does_not_serve_is_not_demoted() -> None:
    plane = wanted_as_standby()
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=LATER, serving=False))
    not_demoted(plane)


def test_where_another_standby_was_made_meanwhile_it_is_retired_instead() -> None:
    plane = switched(demote_old_primary=True)
    sweep(plane)
    assert plane.compute.instances[PRIMARY] == "terminated"


def test_only_the_latest_old_primary_is_demoted() -> None:
    plane = wanted_as_standby()
    agent = plane.records.agent(AGENT)
    plane.records.put(
        replace(agent, epoch=3, primary_instance_id=SECOND_STANDBY, primary_pool_id="us-east-1c.m5.large"),
        a_switch(switch_id="0000000003", epoch=3, from_instance_id=STANDBY, to_instance_id=SECOND_STANDBY),
        a_standby(role=InstanceRole.RETIRED_PENDING, epoch=2),
    )
    plane.records.put_heartbeat(a_heartbeat(instance_id=SECOND_STANDBY, epoch=3, at=LATER))
    not_demoted(plane)


@pytest.mark.parametrize(
    ("claim", "decision"),
    [
        ({"claim_demotes": True}, "demote"),
        ({"claim_demotes": False}, "record"),
        ({"claim_demotes": True, "claim_urgency": 2}, "record"),
        ({"claim_demotes": True, "claim_epoch": 2}, "record"),
    ],
)
def test_only_a_planned_handover_waits_for_a_demotion(claim: dict[str, Any], decision: str) -> None:
    plane = wanted_as_standby()
    plane.records.put(replace(plane.records.agent(AGENT), **({"claim_open": True, "claim_epoch": 1} | claim)))
    assert failover.confirm_serving(plane, AGENT, 1)["decision"] == decision


# --- what its agent makes of it


def peer(replica_id: str = "rep-next") -> Peer:
    return Peer(replica_id, STANDBY, ReplicaState.SYNCING, 0, "10.0.2.10", 7443, "certificate")


def told(role: Role, *, beat: int = 1, replica_id: str = "rep-next") -> OrdersReceived:
    orders = Orders(role, 2, peer(replica_id) if role is Role.STANDBY else None, None, True, 30.0, 1.0)
    return OrdersReceived(beat, 0.0, orders)


A_FORMER_PRIMARY = Retired(epoch=2, live=True)


def test_a_former_primary_makes_its_state_an_image_before_it_follows() -> None:
    state, actions = retired.decide(A_FORMER_PRIMARY, told(Role.STANDBY), 10.0)
    assert isinstance(state, Retired)
    assert HoldState() in actions
    again, actions = retired.decide(state, told(Role.STANDBY, beat=2), 10.5)
    assert isinstance(again, Retired)
    assert HoldState() not in actions, "once is enough"
    following, actions = retired.decide(again, StateHeld(7, NOON.isoformat(), 1), 11.0)
    assert isinstance(following, Standby)
    assert (following.generation, following.held_epoch, following.granting) == (7, 1, True)
    assert Remember(role=Role.STANDBY, epoch=2) in actions


def test_one_that_is_not_wanted_any_more_when_that_is_done_stays_retired() -> None:
    state, _ = retired.decide(A_FORMER_PRIMARY, told(Role.STANDBY), 10.0)
    assert isinstance(state, Retired)
    state, _ = retired.decide(state, told(Role.RETIRED, beat=2), 10.5)
    assert isinstance(state, Retired)
    state, _ = retired.decide(state, StateHeld(7, NOON.isoformat(), 1), 11.0)
    assert isinstance(state, Retired)


def test_a_fresh_instance_has_nothing_to_hold_and_follows_at_once() -> None:
    state, actions = retired.decide(Retired(epoch=2), told(Role.STANDBY), 10.0)
    assert isinstance(state, Standby)
    assert HoldState() not in actions


def a_demoted(**changes: Any) -> Standby:
    return Standby(
        **({"epoch": 2, "replica_id": "rep-next", "generation": 900, "held_epoch": 1} | changes),  # type: ignore[arg-type]
        covered_until=NOON.isoformat(),
    )


def test_generations_of_its_successor_follow_whatever_their_numbers() -> None:
    final = GenerationCommitted(3, LATER.isoformat(), final_for="handover", readiness=1, epoch=2)
    state, actions = standby.decide(a_demoted(), final, 20.0)
    assert isinstance(state, Standby)
    assert (state.generation, state.held_epoch, state.final_for) == (3, 2, "handover")
    assert any(isinstance(action, Commit) for action in actions)


def behind_a_dead_successor(*, snapshot_epoch: int | None) -> OrdersReceived:
    handover = HandoverView(
        "handover",
        HandoverState.OPEN,
        "rep-next",
        0,
        primary_dead=True,
        snapshot_taken_at=None if snapshot_epoch is None else LATER.isoformat(),
        snapshot_epoch=snapshot_epoch,
    )
    return OrdersReceived(1, 0.0, Orders(Role.STANDBY, 2, peer(), handover, True, 30.0, 1.0))


@pytest.mark.parametrize(
    ("snapshot_epoch", "action"), [(None, Commit), (1, Commit), (2, RestoreSnapshot)], ids=["none", "its own", "later"]
)
def test_if_its_successor_dies_at_once_it_serves_the_newest_there_is(
    snapshot_epoch: int | None, action: type[Action]
) -> None:
    """A snapshot of its successor is newer than what it held; one of its own epoch is not, whatever clocks say."""
    _, actions = standby.decide(a_demoted(), behind_a_dead_successor(snapshot_epoch=snapshot_epoch), 20.0)
    assert [type(one) for one in actions if isinstance(one, (Commit, RestoreSnapshot))] == [action]
