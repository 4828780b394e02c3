"""The failover's tasks over tables in memory: where they lead, that they can be repeated, and whom they fence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from spot_optimizer.control import failover, preparation, replication, signals
from spot_optimizer.domain import handover, snapshots
from spot_optimizer.domain.agents import HandoverState, TrafficAdapter
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.replicas import ReplicaState, ReplicaType
from spot_optimizer.domain.signals import Signal, SignalType
from spot_optimizer.domain.upkeep import FIRST_DELAY
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import (
    ClaimLost,
    HandoverFailed,
    HandoverNotOpen,
    HandoverUnknown,
    NoPoolQualifies,
    NoStandbyObtainable,
    OutcomeUnknown,
    PoolUnavailable,
    PromotionUnproven,
    ReplicaFailed,
    ReplicaNotReady,
    SnapshotFound,
    StaleEpoch,
)
from spot_optimizer.ports import TrafficPath
from tests.builders import (
    AGENT,
    NOON,
    PRIMARY,
    REPLICA,
    STANDBY,
    a_heartbeat,
    a_ready_replica,
    a_replica,
    a_snapshot,
    a_standby,
    an_agent,
    an_instance,
    an_interruption,
)
from tests.fakes import FakeCompute, FakeFleet, FakeJoining, FakeRecords, FakeWorkflows


class FakePlane:
    """The control plane's ports in memory, and a clock that tests move."""

    def __init__(self) -> None:
        self.records = FakeRecords().put(an_agent(), an_instance())
        self.fleet = FakeFleet(self.records)
        self.compute = FakeCompute()
        self.compute.instances |= {PRIMARY: "running", STANDBY: "running"}
        self.paths: dict[TrafficAdapter, TrafficPath] = {}
        self.workflows = FakeWorkflows()
        self.joining = FakeJoining()
        self.now = NOON

    def clock(self) -> datetime:
        return self.now

    def notice(self) -> None:
        """AWS gives notice of the primary's interruption."""
        signals.note_signal(
            self,
            Signal(
                instance_id=PRIMARY,
                type=SignalType.TERMINATION_NOTICE,
                at=NOON,
                deadline=NOON + timedelta(seconds=120),
            ),
        )


def with_a_ready_standby() -> FakePlane:
    plane = FakePlane()
    plane.records.put(an_agent(active_replica_id=REPLICA), a_ready_replica(), a_standby())
    return plane


def in_handover() -> FakePlane:
    plane = with_a_ready_standby()
    plane.notice()
    failover.open_handover(plane, AGENT, 1, 1)
    return plane


def commit(plane: FakePlane, **changes: object) -> int:
    agent = plane.records.agent(AGENT)
    values: dict[str, object] = {
        "instance_id": STANDBY,
        "epoch": 1,
        "basis": Basis.FINAL_GENERATION,
        "readiness": 1,
        "covered_until": NOON,
        "lag_seconds": 0.4,
    }
    promoted = replication.commit_handover(plane, AGENT, str(agent.handover_id), **(values | changes))  # type: ignore[arg-type]
    return promoted.epoch


def test_a_notice_delivered_many_times_starts_one_execution() -> None:
    plane = with_a_ready_standby()
    for _ in range(6):
        plane.notice()
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"]


def test_a_notice_after_a_failed_attempt_starts_the_next_attempt() -> None:
    plane = with_a_ready_standby()
    plane.notice()
    failover.record_failure(plane, AGENT, 1, 1, cause="capacity")
    plane.workflows.ended.add(f"{AGENT}-1-1")
    plane.notice()
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1", f"{AGENT}-1-2"]


def test_a_notice_for_an_instance_that_is_not_ours_changes_nothing() -> None:
    plane = FakePlane()
    signals.note_signal(plane, Signal(instance_id="i-0other", type=SignalType.TERMINATION_NOTICE, at=NOON))
    assert not plane.workflows.fail_overs and not plane.records.committed


def test_a_rebalance_prepares_one_standby_and_cuts_nothing_over() -> None:
    plane = FakePlane()
    for _ in range(3):
        signals.note_signal(plane, Signal(instance_id=PRIMARY, type=SignalType.REBALANCE_RECOMMENDATION, at=NOON))
    assert len(plane.workflows.preparations) == 1 and not plane.workflows.fail_overs
    assert [replica.type for replica in plane.records.replicas(AGENT)] == [ReplicaType.AUTOMATIC_REBALANCE]


def test_a_ready_standby_is_handed_to() -> None:
    plane = with_a_ready_standby()
    plane.notice()
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "hand_over"


def test_without_a_standby_one_is_launched_and_a_repeated_task_launches_no_second() -> None:
    plane = FakePlane()
    plane.notice()
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "launch"
    first = failover.launch_replacement(plane, AGENT, 1, 1)
    assert failover.launch_replacement(plane, AGENT, 1, 1) == first
    assert len(plane.workflows.preparations) == 1


def test_a_death_with_no_copy_anywhere_makes_the_agent_lost() -> None:
    plane = FakePlane()
    plane.compute.instances[PRIMARY] = "terminated"
    signals.note_signal(plane, Signal(instance_id=PRIMARY, type=SignalType.STATE_CHANGE, at=NOON, state="terminated"))
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "lost"
    failover.mark_lost(plane, AGENT, 1, 1)
    assert plane.records.agent(AGENT).lost
    plane.notice()
    assert len(plane.workflows.fail_overs) == 1


@pytest.mark.parametrize(
    "task",
    [
        failover.record_interruption,
        failover.select_standby,
        failover.launch_replacement,
        failover.open_handover,
        failover.assess_handover,
        failover.record_switch,
        failover.abort_handover,
    ],
)
def test_every_task_may_run_twice(task: Callable[..., object]) -> None:
    plane = with_a_ready_standby()
    plane.notice()
    first = task(plane, AGENT, 1, 1)
    if task is failover.record_switch:
        return
    rows = {table: dict(row) for table, row in plane.records.rows.items()}
    assert task(plane, AGENT, 1, 1) == first
    assert {table: dict(row) for table, row in plane.records.rows.items()} == rows


def test_an_attempt_whose_claim_was_retaken_does_nothing_more() -> None:
    plane = with_a_ready_standby()
    plane.notice()
    plane.workflows.ended.add(f"{AGENT}-1-1")
    plane.notice()
    for task in (failover.select_standby, failover.open_handover, failover.launch_replacement):
        with pytest.raises(ClaimLost):
            task(plane, AGENT, 1, 1)


def test_a_dead_standby_ends_the_handover_and_its_replica() -> None:
    plane = in_handover()
    plane.compute.instances[STANDBY] = "terminated"
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "select"
    assert plane.records.agent(AGENT).handover_state is HandoverState.ABORTED
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.FAILED
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "launch"


def test_a_dead_primary_lets_the_standby_go_ahead() -> None:
    plane = in_handover()
    plane.compute.instances[PRIMARY] = "terminated"
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "wait"
    assert commit(plane, basis=Basis.PRIMARY_DEAD) == 2


@pytest.mark.parametrize("state", ["running", "shutting-down", "stopping"])
def test_nothing_but_ec2s_word_lets_the_standby_go_ahead_without_the_primary(state: str) -> None:
    plane = in_handover()
    plane.compute.instances[PRIMARY] = state
    failover.assess_handover(plane, AGENT, 1, 1)
    assert not plane.records.agent(AGENT).handover_primary_dead


def test_a_handover_that_nobody_completes_is_aborted_in_the_end() -> None:
    plane = in_handover()
    plane.now += failover.HANDOVER_PATIENCE + timedelta(seconds=1)
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "select"
    assert plane.records.agent(AGENT).handover_state is HandoverState.ABORTED


def test_a_promotion_asked_for_twice_gives_the_same_answer_and_one_epoch() -> None:
    plane = in_handover()
    assert commit(plane) == 2
    assert commit(plane) == 2
    assert plane.records.agent(AGENT).epoch == 2


def test_a_promotion_whose_answer_was_lost_is_found_to_have_happened() -> None:
    plane = in_handover()

    def lose(transaction: Transaction) -> None:
        if transaction.name == "promote":
            plane.records.after_commit = lambda _: None
            raise OutcomeUnknown("no answer")

    plane.records.after_commit = lose
    assert commit(plane) == 2


def test_the_old_primary_is_told_that_its_epoch_is_over() -> None:
    plane = in_handover()
    commit(plane)
    with pytest.raises(StaleEpoch):
        replication.report_unready(plane, AGENT, REPLICA, instance_id=PRIMARY, epoch=1, readiness=2)
    with pytest.raises(StaleEpoch):
        replication.abort_handover(plane, AGENT, f"{AGENT}-h1-1", epoch=1)


def test_traffic_follows_the_promotion_and_a_repeated_move_moves_nothing() -> None:
    plane = in_handover()
    plane.records.put(plane.records.agent(AGENT))
    commit(plane)
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=NOON + timedelta(seconds=3)))
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "serving"
    assert failover.switch_traffic(plane, AGENT) == {"moved": True}
    assert failover.switch_traffic(plane, AGENT) == {"moved": False}
    summary = failover.record_switch(plane, AGENT, 1, 1)
    assert (summary["epoch_before"], summary["epoch_after"], summary["basis"]) == (1, 2, "final-generation")
    assert not plane.records.agent(AGENT).claim_open


class OvertakenCompute(FakeCompute):
    """While the first call to move an address is on its way, the next epoch comes, and its traffic is moved."""

    def __init__(self, records: FakeRecords) -> None:
        super().__init__()
        self.instances |= {STANDBY: "running", "i-0third": "running"}
        self.moves: list[str] = []
        self._records = records

    def move_address(self, allocation_id: str, instance_id: str) -> None:
        super().move_address(allocation_id, instance_id)
        self.moves.append(instance_id)
        agent = self._records.agent(AGENT)
        if agent.epoch == 2:
            self._records.put(replace(agent, epoch=3, primary_instance_id="i-0third", traffic_epoch=3))


def test_a_mover_that_was_overtaken_gives_the_address_to_whom_the_later_one_gave_it() -> None:
    plane = in_handover()
    commit(plane)
    agent = plane.records.agent(AGENT)
    plane.records.put(replace(agent, traffic_adapter=TrafficAdapter.EIP, traffic_target="eipalloc-1"))
    plane.compute = compute = OvertakenCompute(plane.records)
    assert failover.move_traffic(plane, AGENT)
    assert compute.moves == [STANDBY, "i-0third"]


def test_a_promoted_instance_that_dies_before_it_serves_fails_the_attempt_and_the_next_epoch_is_free_to_act() -> None:
    plane = in_handover()
    commit(plane)
    plane.compute.instances[STANDBY] = "terminated"
    with pytest.raises(HandoverFailed):
        failover.assess_handover(plane, AGENT, 1, 1)
    started = signals.note_signal(
        plane, Signal(instance_id=STANDBY, type=SignalType.STATE_CHANGE, at=NOON, state="terminated")
    )
    assert started.execution == f"{AGENT}-2-1"


def test_an_attempt_that_fails_after_its_promotion_says_why() -> None:
    plane = in_handover()
    failover.record_interruption(plane, AGENT, 1, 1)
    commit(plane)
    failover.record_failure(plane, AGENT, 1, 1, cause="the promoted instance died before it served")
    found = plane.records.interruption(AGENT, f"{PRIMARY}#termination-notice")
    assert found is not None
    assert (found.failover_completed, found.failure) == (False, "the promoted instance died before it served")
    assert not plane.records.agent(AGENT).claim_open


def test_whoever_waits_finds_what_happened_before_it_left_its_token() -> None:
    plane = in_handover()
    commit(plane)
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2))
    failover.await_serving(plane, AGENT, 1, 1, task_token="token")
    assert plane.workflows.woken == ["token"]


def test_whoever_waits_is_woken_by_the_first_serving_heartbeat() -> None:
    plane = in_handover()
    failover.await_serving(plane, AGENT, 1, 1, task_token="token")
    assert plane.workflows.woken == []
    commit(plane)
    heartbeat = a_heartbeat(instance_id=STANDBY, epoch=2)
    plane.records.put_heartbeat(heartbeat)
    signals.wake_if_serving(plane, plane.records.agent(AGENT), heartbeat)
    assert plane.workflows.woken == ["token"]


def test_a_planned_handover_needs_a_ready_replica() -> None:
    plane = FakePlane()
    signals.start_fail_over(plane, AGENT, Signal(instance_id=PRIMARY, type=SignalType.OPERATOR, at=NOON))
    with pytest.raises(HandoverFailed):
        failover.select_standby(plane, AGENT, 1, 1)


def test_a_planned_handover_in_flight_becomes_an_emergency() -> None:
    plane = with_a_ready_standby()
    signals.start_fail_over(plane, AGENT, Signal(instance_id=PRIMARY, type=SignalType.OPERATOR, at=NOON))
    plane.notice()
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"]
    agent = plane.records.agent(AGENT)
    assert agent.claim_urgency == 2 and agent.claim_deadline == NOON + timedelta(seconds=120)


def test_the_sweep_asks_ec2_about_silent_primaries_and_believes_only_that() -> None:
    plane = with_a_ready_standby()
    plane.now = NOON + timedelta(minutes=10)
    assert signals.sweep(plane) == {"agents": 1, "silent": 1, "acted_upon": 0}
    plane.compute.instances[PRIMARY] = "terminated"
    assert signals.sweep(plane)["acted_upon"] == 1
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"]


def test_an_instance_that_died_before_its_agent_joined_is_replaced_while_the_notice_lasts() -> None:
    plane = FakePlane()
    plane.notice()
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "launch"
    replica_id = failover.launch_replacement(plane, AGENT, 1, 1)["replica_id"]
    plane.records.put(replace(plane.records.replica(AGENT, replica_id), instance_id=STANDBY))
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "await_ready"
    plane.compute.instances[STANDBY] = "shutting-down"
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "await_ready", "that is not death yet"
    plane.compute.instances[STANDBY] = "terminated"
    assert failover.select_standby(plane, AGENT, 1, 1) == {"decision": "launch_again", "replica_id": None}
    assert plane.records.replica(AGENT, replica_id).status is ReplicaState.FAILED


def test_the_sweep_ends_a_replica_whose_preparation_has_ended_without_a_word() -> None:
    plane = a_replica_to_launch()
    (replica,) = plane.records.replicas(AGENT)
    signals.sweep(plane)
    assert plane.records.agent(AGENT).active_replica_id == replica.replica_id
    plane.workflows.ended.add(replica.replica_id)
    signals.sweep(plane)
    assert plane.records.agent(AGENT).active_replica_id is None
    assert plane.records.replicas(AGENT)[0].status is ReplicaState.FAILED


def a_replica_to_launch() -> FakePlane:
    plane = FakePlane()
    replication.create_replica(plane, AGENT, replica_type=ReplicaType.MANUAL, created_by="operator")
    return plane


def launch(plane: FakePlane) -> dict[str, object]:
    replica_id = plane.records.replicas(AGENT)[0].replica_id
    target = preparation.select_pool(plane, AGENT, replica_id)
    return preparation.launch_instance(plane, AGENT, replica_id, **target)


def test_a_launch_falls_through_pool_by_pool_to_on_demand_and_records_every_attempt() -> None:
    plane = a_replica_to_launch()
    refusal = PoolUnavailable("InsufficientInstanceCapacity")
    for zone in "abc":
        for kind in ("m5.large", "m5a.large"):
            plane.compute.refusals[f"us-east-1{zone}.{kind}/spot"] = refusal
    for _ in range(5):
        with pytest.raises(PoolUnavailable):
            launch(plane)
    assert launch(plane)["instance_id"]
    attempts = plane.records.replicas(AGENT)[0].attempts
    assert [attempt["outcome"] for attempt in attempts] == ["InsufficientInstanceCapacity"] * 5 + ["launched"]
    assert attempts[-1]["lifecycle"] == Lifecycle.ON_DEMAND
    assert "us-east-1a.m5.large" not in {attempt["pool_id"] for attempt in attempts[:-1]}


def test_a_launch_whose_answer_was_lost_is_repeated_under_the_same_client_token() -> None:
    plane = a_replica_to_launch()
    replica_id = plane.records.replicas(AGENT)[0].replica_id
    target = preparation.select_pool(plane, AGENT, replica_id)
    preparation.launch_instance(plane, AGENT, replica_id, **target)
    again = preparation.select_pool(plane, AGENT, replica_id)
    assert again == target
    preparation.launch_instance(plane, AGENT, replica_id, **again)
    first, second = plane.compute.launches
    assert first == second
    assert len([state for state in plane.compute.instances.values() if state == "running"]) == 3


def test_when_every_way_to_launch_was_tried_the_replica_fails_and_the_agent_is_free_again() -> None:
    plane = a_replica_to_launch()
    for zone in "abc":
        for kind in ("m5.large", "m5a.large"):
            plane.compute.refusals[f"us-east-1{zone}.{kind}"] = PoolUnavailable("VcpuLimitExceeded")
    for _ in range(11):
        with pytest.raises(PoolUnavailable):
            launch(plane)
    with pytest.raises(NoPoolQualifies):
        launch(plane)
    replica_id = plane.records.replicas(AGENT)[0].replica_id
    preparation.fail_replica(plane, AGENT, replica_id, cause="NoPoolQualifies")
    assert plane.records.agent(AGENT).active_replica_id is None


@pytest.mark.parametrize(
    ("replica_type", "minutes_ago", "lifecycle"),
    [
        (ReplicaType.AUTOMATIC_TERMINATION, 3, Lifecycle.ON_DEMAND),
        (ReplicaType.AUTOMATIC_TERMINATION, 30, Lifecycle.SPOT),
        (ReplicaType.AUTOMATIC_REBALANCE, 3, Lifecycle.SPOT),
        (ReplicaType.MANUAL, 3, Lifecycle.SPOT),
    ],
)
def test_under_notice_pools_that_were_struck_minutes_ago_come_after_on_demand(
    replica_type: ReplicaType, minutes_ago: int, lifecycle: Lifecycle
) -> None:
    plane = FakePlane()
    plane.records.put(
        an_agent(active_replica_id=REPLICA),
        a_replica(status=ReplicaState.LAUNCHING, type=replica_type, instance_id=None, launch_number=0, attempts=()),
        *(
            an_interruption(
                event_id=f"i-{zone}-{kind}#termination-notice",
                pool_id=f"{zone}.{kind}",
                detected_at=NOON - timedelta(minutes=minutes_ago),
            )
            for zone in ("us-east-1a", "us-east-1b", "us-east-1c")
            for kind in an_agent().instance_types
            if f"{zone}.{kind}" != an_agent().primary_pool_id
        ),
    )
    assert preparation.select_pool(plane, AGENT, REPLICA)["lifecycle"] == lifecycle


def test_a_replica_ended_while_it_is_launched_leaves_no_instance() -> None:
    plane = a_replica_to_launch()
    replica_id = plane.records.replicas(AGENT)[0].replica_id
    target = preparation.select_pool(plane, AGENT, replica_id)

    def end_meanwhile(transaction: Transaction) -> None:
        if transaction.name == "end launch":
            plane.records.put(a_replica(replica_id=replica_id, status=ReplicaState.TERMINATED))

    plane.records.before_commit = end_meanwhile
    with pytest.raises(ReplicaFailed):
        preparation.launch_instance(plane, AGENT, replica_id, **target)
    assert "terminated" in plane.compute.instances.values()


def test_failing_a_replica_that_was_promoted_leaves_its_instance_alone() -> None:
    plane = in_handover()
    commit(plane)
    preparation.fail_replica(plane, AGENT, REPLICA, cause="late")
    assert plane.compute.instances[STANDBY] == "running"


@pytest.mark.parametrize("status", [ReplicaState.SYNCING, ReplicaState.READY])
@pytest.mark.parametrize("primary_state", ["running", "shutting-down", "terminated"])
@pytest.mark.parametrize("standby_state", ["running", "shutting-down", "terminated"])
def test_a_failed_preparation_ends_no_standby_that_has_joined_and_lives(
    status: ReplicaState, primary_state: str, standby_state: str
) -> None:
    plane = with_a_ready_standby()
    plane.records.put(a_replica(status=status))
    plane.compute.instances |= {PRIMARY: primary_state, STANDBY: standby_state}
    preparation.fail_replica(plane, AGENT, REPLICA, cause="its task token could not be stored")
    left = standby_state != "terminated"
    assert plane.records.replica(AGENT, REPLICA).status == (status if left else ReplicaState.FAILED)
    assert plane.compute.instances[STANDBY] == standby_state


def test_a_replica_that_never_reports_in_time_fails_its_instance_is_terminated_and_another_is_made_later() -> None:
    plane = with_a_ready_standby()
    plane.records.put(a_replica(status=ReplicaState.LAUNCHING), replace(plane.records.agent(AGENT), replica_count=1))
    for _ in range(2):
        preparation.fail_replica(plane, AGENT, REPLICA, cause="it did not join in time")
        failed = plane.records.replica(AGENT, REPLICA)
        assert (failed.status, failed.failure) == (ReplicaState.FAILED, "it did not join in time")
        assert plane.compute.instances[STANDBY] == "terminated"
        assert plane.records.agent(AGENT).active_replica_id is None
    signals.sweep(plane)
    assert plane.records.agent(AGENT).active_replica_id is None
    plane.now += FIRST_DELAY
    plane.records.put_heartbeat(a_heartbeat(at=plane.now))
    signals.sweep(plane)
    assert plane.records.agent(AGENT).active_replica_id not in (None, REPLICA)


def test_a_launch_is_not_given_up_that_was_joined_in_this_very_moment() -> None:
    plane = with_a_ready_standby()
    plane.records.put(a_replica(status=ReplicaState.LAUNCHING))

    def joins(transaction: Transaction) -> None:
        if transaction.name == "give up launch":
            plane.records.put(a_replica(status=ReplicaState.SYNCING))

    plane.records.before_commit = joins
    preparation.fail_replica(plane, AGENT, REPLICA, cause="it did not join in time")
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.SYNCING
    assert plane.compute.instances[STANDBY] == "running"


def declining() -> FakePlane:
    plane = with_a_ready_standby()
    plane.records.put(a_replica(status=ReplicaState.SYNCING, generation=0))
    plane.compute.instances[PRIMARY] = "terminated"
    signals.note_signal(
        plane, Signal(instance_id=PRIMARY, type=SignalType.STATE_CHANGE, at=NOON, state="terminated", reason="dead")
    )
    failover.open_handover(plane, AGENT, 1, 1)
    return plane


def test_a_standby_that_declines_ends_its_handover_and_its_replica_at_once_and_once() -> None:
    plane = declining()
    for _ in range(2):
        agent = replication.decline_handover(plane, AGENT, f"{AGENT}-h1-1", epoch=1)
        assert (agent.handover_state, agent.active_replica_id) == (HandoverState.ABORTED, None)
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.FAILED
    assert plane.compute.instances[STANDBY] == "terminated"


@pytest.mark.parametrize("opened_again", [False, True])
def test_a_late_word_that_a_standby_declines_ends_no_later_handover_and_no_replica(opened_again: bool) -> None:
    plane = declining()

    def aborted_meanwhile(transaction: Transaction) -> None:
        if transaction.name == "decline handover":
            plane.records.before_commit = lambda _: None
            failing = plane.records.agent(AGENT)
            plane.records.put(replace(failing, handover_state=HandoverState.ABORTED))
            if opened_again:
                failover.open_handover(plane, AGENT, 1, 1)

    plane.records.before_commit = aborted_meanwhile
    with pytest.raises(HandoverUnknown if opened_again else HandoverNotOpen):
        replication.decline_handover(plane, AGENT, f"{AGENT}-h1-1", epoch=1)
    assert plane.records.agent(AGENT).handover_open is opened_again
    assert plane.records.replica(AGENT, REPLICA).status is ReplicaState.SYNCING
    assert plane.compute.instances[STANDBY] == "running"


def with_an_address(**changes: object) -> FakePlane:
    """Promoted to epoch 2, and the row says that traffic is there; EC2 says that the address is still elsewhere."""
    plane = FakePlane()
    values: dict[str, object] = {
        "epoch": 2,
        "primary_instance_id": STANDBY,
        "traffic_epoch": 2,
        "traffic_adapter": TrafficAdapter.EIP,
        "traffic_target": "eipalloc-1",
    }
    plane.records.put(an_agent(**(values | changes)))
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2))
    plane.compute.addresses = {"eipalloc-1": PRIMARY, "eipalloc-2": PRIMARY}
    return plane


def test_the_sweep_returns_an_address_that_a_late_mover_took_back_and_died() -> None:
    plane = with_an_address()
    assert signals.sweep(plane)["acted_upon"] == 1
    assert plane.compute.addresses == {"eipalloc-1": STANDBY, "eipalloc-2": PRIMARY}
    assert signals.sweep(plane)["acted_upon"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"claim_epoch": 2, "claim_attempt": 1, "claim_open": True},
        {"traffic_adapter": TrafficAdapter.NONE},
        {"traffic_target": None},
    ],
)
def test_the_sweep_leaves_an_address_alone_that_others_are_at_or_that_is_not_ours(changes: dict[str, object]) -> None:
    plane = with_an_address(**changes)
    plane.workflows.fail_overs[f"{AGENT}-2-1"] = {}
    signals.sweep(plane)
    assert plane.compute.addresses["eipalloc-1"] == PRIMARY


def test_the_sweep_returns_no_address_to_a_primary_that_does_not_serve() -> None:
    plane = with_an_address()
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, serving=False))
    signals.sweep(plane)
    assert plane.compute.addresses["eipalloc-1"] == PRIMARY


@pytest.mark.parametrize("seconds", [61, -61])
def test_the_sweep_asks_ec2_about_a_primary_that_was_last_heard_long_ago_or_in_the_future(seconds: int) -> None:
    plane = FakePlane()
    plane.records.put_heartbeat(a_heartbeat(at=plane.now - timedelta(seconds=seconds)))
    plane.compute.instances[PRIMARY] = "terminated"
    assert signals.sweep(plane)["silent"] == 1
    assert list(plane.workflows.fail_overs) == [f"{AGENT}-1-1"]


def test_a_handover_that_was_opened_in_the_future_is_given_no_longer_than_another() -> None:
    plane = in_handover()
    plane.now = NOON - timedelta(seconds=31)
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "select"
    assert plane.records.agent(AGENT).handover_state is HandoverState.ABORTED


def test_an_operator_is_refused_while_another_replica_is_active() -> None:
    plane = with_a_ready_standby()
    with pytest.raises(Exception, match="one is active at a time"):
        replication.create_replica(plane, AGENT, replica_type=ReplicaType.MANUAL, created_by="operator")


def test_a_replica_that_lost_readiness_is_not_handed_to() -> None:
    plane = with_a_ready_standby()
    plane.notice()
    replication.report_unready(plane, AGENT, REPLICA, instance_id=PRIMARY, epoch=1, readiness=2)
    with pytest.raises(ReplicaNotReady):
        failover.open_handover(plane, AGENT, 1, 1)
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "await_ready"


# --- snapshots


def with_a_snapshot(**changes: object) -> FakePlane:
    """The primary is dead, and there is a snapshot."""
    plane = FakePlane()
    snapshot = a_snapshot(**changes)
    plane.records.put(
        an_agent(
            snapshot_id=snapshot.snapshot_id,
            snapshot_taken_at=snapshot.taken_at,
            snapshot_expires_at=snapshot.expires_at,
        ),
        snapshot,
    )
    plane.now = NOON + timedelta(seconds=30)
    plane.compute.instances[PRIMARY] = "terminated"
    died = Signal(
        instance_id=PRIMARY, type=SignalType.STATE_CHANGE, at=NOON + timedelta(seconds=20), state="terminated"
    )
    signals.note_signal(plane, died)
    return plane


def restoring(**changes: object) -> FakePlane:
    """A replica that holds nothing has joined behind the dead primary, and is handed to."""
    plane = with_a_snapshot(**changes)
    plane.records.put(replace(plane.records.agent(AGENT), active_replica_id=REPLICA), a_replica(), a_standby())
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "restore"
    failover.open_handover(plane, AGENT, 1, 1)
    return plane


def test_a_death_without_a_standby_launches_one_that_restores_the_snapshot() -> None:
    plane = with_a_snapshot()
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "launch"
    replica_id = failover.launch_replacement(plane, AGENT, 1, 1)["replica_id"]
    assert failover.select_standby(plane, AGENT, 1, 1) == {"decision": "await_ready", "replica_id": replica_id}


def test_a_promotion_from_a_snapshot_records_what_is_missing() -> None:
    plane = restoring()
    assert commit(plane, basis=Basis.SNAPSHOT, readiness=0, covered_until=NOON, lag_seconds=None) == 2
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    # EventBridge tells of the death 20 s later, in whole seconds.
    assert (switch.basis, switch.rpo_seconds, switch.rpo_breached) == ("snapshot", 21.0, True)


@pytest.mark.parametrize("newest", [2, 3])
@pytest.mark.parametrize(
    ("told", "seconds_between", "lost_bytes"), [(None, 10, 2100), (50.0, 10, 1050), (None, 0, None)]
)
def test_what_is_missing_is_told_in_bytes_by_the_primarys_last_word_or_by_its_latest_delta(
    told: float | None, seconds_between: int, lost_bytes: int | None, newest: int
) -> None:
    plane = restoring()
    delta = a_snapshot(
        snapshot_id=snapshots.snapshot_id_for(epoch=1, generation=2),
        kind=snapshots.SnapshotKind.DELTA,
        generation=2,
        previous_id=plane.records.agent(AGENT).snapshot_id,
        size_bytes=1000,
        taken_at=a_snapshot().taken_at + timedelta(seconds=seconds_between),
    )
    base = a_snapshot(snapshot_id=snapshots.snapshot_id_for(epoch=1, generation=3), generation=3)
    newest_id = snapshots.snapshot_id_for(epoch=1, generation=newest)
    plane.records.put(delta, base, replace(plane.records.agent(AGENT), snapshot_id=newest_id))
    plane.records.put_heartbeat(a_heartbeat(serving=False, changed_bytes_per_second=told))
    commit(plane, basis=Basis.SNAPSHOT, readiness=0, covered_until=NOON, lag_seconds=None)
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    assert switch.rpo_bytes == lost_bytes


@pytest.mark.parametrize(("served_after", "lost_seconds"), [(False, 0.0), (True, 21.0)])
def test_a_last_snapshot_of_a_frozen_primary_misses_nothing_unless_it_served_on(
    served_after: bool, lost_seconds: float
) -> None:
    plane = restoring(frozen=True)
    plane.records.put_heartbeat(a_heartbeat(serving=served_after, at=NOON + timedelta(seconds=5)))
    commit(plane, basis=Basis.SNAPSHOT, readiness=0, covered_until=NOON, lag_seconds=None)
    switch = plane.records.switch(AGENT, "0000000002")
    assert switch is not None
    assert switch.rpo_seconds == lost_seconds


def test_no_snapshot_is_promoted_while_the_primary_may_live() -> None:
    plane = in_handover()
    with pytest.raises(PromotionUnproven):
        commit(plane, basis=Basis.SNAPSHOT)


def test_no_snapshot_is_promoted_that_the_handover_does_not_offer() -> None:
    plane = in_handover()
    plane.compute.instances[PRIMARY] = "terminated"
    failover.assess_handover(plane, AGENT, 1, 1)
    with pytest.raises(PromotionUnproven):
        commit(plane, basis=Basis.SNAPSHOT)


def test_a_restore_is_given_the_time_that_its_size_takes_and_no_more() -> None:
    plane = restoring(state_bytes=3_000_000_000)
    plane.now += timedelta(seconds=300)
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "wait"
    plane.now += timedelta(seconds=100)
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "select"


def test_an_agent_is_not_lost_while_a_snapshot_has_just_come() -> None:
    plane = FakePlane()
    plane.compute.instances[PRIMARY] = "terminated"
    signals.note_signal(plane, Signal(instance_id=PRIMARY, type=SignalType.STATE_CHANGE, at=NOON, state="terminated"))
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "lost"
    plane.records.commit(snapshots.complete(plane.records.agent(AGENT), a_snapshot()))
    with pytest.raises(SnapshotFound):
        failover.mark_lost(plane, AGENT, 1, 1)
    assert not plane.records.agent(AGENT).lost


def test_a_snapshot_that_has_expired_keeps_nothing_from_being_lost() -> None:
    plane = with_a_snapshot(expires_at=NOON)
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "lost"


def refuse_to_restore(plane: FakePlane, number: int) -> None:
    """One more standby joins, finds that no snapshot can be restored, and declines."""
    agent = plane.records.agent(AGENT)
    replica_id, instance_id = f"rep-{number}", f"i-{number:017x}"
    plane.compute.instances[instance_id] = "running"
    plane.records.put(
        replace(agent, active_replica_id=replica_id),
        a_replica(replica_id=replica_id, instance_id=instance_id, created_at=plane.now),
        a_standby(instance_id=instance_id, replica_id=replica_id),
    )
    opened = failover.open_handover(plane, AGENT, 1, agent.claim_attempt)
    replication.decline_handover(plane, AGENT, opened["handover_id"], epoch=1)
    assert plane.records.replica(AGENT, replica_id).failure == "no snapshot could be restored"


def next_attempt(plane: FakePlane) -> int:
    attempt = plane.records.agent(AGENT).claim_attempt
    failover.record_failure(plane, AGENT, 1, attempt, cause="no standby could be had")
    died = Signal(instance_id=PRIMARY, type=SignalType.STATE_CHANGE, at=plane.now, state="terminated")
    assert signals.start_fail_over(plane, AGENT, died).attempt == attempt + 1
    return attempt + 1


def test_a_snapshot_that_can_not_be_restored_is_tried_again_later_each_time_and_at_last_the_agent_is_lost() -> None:
    plane = with_a_snapshot()
    attempt = 1
    for number in range(1, handover.RESTORES):
        refuse_to_restore(plane, number)
        delay = handover.FIRST_RESTORE_DELAY * 2 ** (number - 1)
        plane.now += delay - timedelta(seconds=1)
        with pytest.raises(NoStandbyObtainable):
            failover.select_standby(plane, AGENT, 1, attempt)
        with pytest.raises(SnapshotFound):
            failover.mark_lost(plane, AGENT, 1, attempt)
        attempt = next_attempt(plane)
        plane.now += timedelta(seconds=1)
        assert failover.select_standby(plane, AGENT, 1, attempt)["decision"] == "launch"
    refuse_to_restore(plane, handover.RESTORES)
    assert failover.select_standby(plane, AGENT, 1, attempt)["decision"] == "lost"
    assert failover.mark_lost(plane, AGENT, 1, attempt) == {"lost": True}
    recorded = plane.records.interruption(AGENT, f"{PRIMARY}#state-change")
    assert recorded is None or recorded.failure == "no snapshot could be restored"


def test_refusals_of_an_earlier_epoch_and_other_failures_count_for_nothing() -> None:
    refused = a_replica(status=ReplicaState.FAILED, failure=handover.NOTHING_RESTORED, ended_at=NOON)
    others = (replace(refused, epoch=0), replace(refused, failure=handover.NOTHING_HELD), a_replica())
    many = others * handover.RESTORES
    assert handover.may_restore(many, epoch=1, now=NOON) is handover.Restoring.GO_ON
    assert handover.may_restore((*many, refused), epoch=1, now=NOON) is handover.Restoring.WAIT


@pytest.mark.parametrize(("epoch", "decision"), [(1, "promoted"), (2, "launch")])
def test_behind_a_dead_primary_the_newer_of_snapshot_and_former_primary_wins(epoch: int, decision: str) -> None:
    plane = in_handover()
    if epoch == 1:
        plane.records.commit(snapshots.complete(plane.records.agent(AGENT), a_snapshot()))
    assert commit(plane) == 2
    failover.record_switch(plane, AGENT, 1, 1)
    if epoch == 2:
        snapshot = a_snapshot(
            snapshot_id=snapshots.snapshot_id_for(epoch=2, generation=1), epoch=2, instance_id=STANDBY
        )
        plane.records.commit(snapshots.complete(plane.records.agent(AGENT), snapshot))
    plane.compute.instances[STANDBY] = "terminated"
    signals.note_signal(plane, Signal(instance_id=STANDBY, type=SignalType.STATE_CHANGE, at=NOON, state="terminated"))
    assert failover.select_standby(plane, AGENT, 2, 1)["decision"] == decision


def test_a_failover_records_what_it_took_and_where_the_time_went() -> None:
    plane = with_a_ready_standby()
    plane.notice()
    plane.now = NOON + timedelta(seconds=1)
    failover.record_interruption(plane, AGENT, 1, 1)
    failover.open_handover(plane, AGENT, 1, 1)
    plane.now = NOON + timedelta(seconds=3)
    commit(plane)
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=NOON + timedelta(seconds=4)))
    plane.now = NOON + timedelta(seconds=5)
    failover.record_switch(plane, AGENT, 1, 1)
    found = plane.records.interruption(AGENT, f"{PRIMARY}#termination-notice")
    assert found is not None
    assert (found.rto_seconds, found.rpo_seconds, found.rpo_bytes) == (4.0, 0.0, 0)
    assert [(step["step"], step["ms"]) for step in found.steps] == [
        ("claim", 0),
        ("open-handover", 1000),
        ("promote", 2000),
        ("serve", 1000),
        ("move-traffic", 1000),
    ]
