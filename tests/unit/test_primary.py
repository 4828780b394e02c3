"""When a primary may serve, when it freezes, when it stops."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain import lease, primary
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.orders import HandoverView, Orders, Peer, Role
from spot_optimizer.domain.primary import Primary, Workload
from spot_optimizer.domain.protocol import (
    Abort,
    AbortAnswered,
    Action,
    AskLease,
    Connect,
    Covered,
    Disconnect,
    EpochOver,
    Event,
    FlushTail,
    Freeze,
    LeaseAnswered,
    LinkChanged,
    NoticeRead,
    OrdersReceived,
    Outcome,
    ReadyAnswered,
    Remember,
    ReportReady,
    ReportUnready,
    SetFence,
    ShipFinal,
    Start,
    Stop,
    TakeLastSnapshot,
    Thaw,
    Tick,
    UnreadyAnswered,
    WorkloadFrozen,
    WorkloadRunning,
    WorkloadStopped,
)
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.retired import Retired

HANDOVER = "agt-1-h1-1"


def a_peer(**changes: object) -> Peer:
    values: dict[str, object] = {
        "replica_id": "rep-1",
        "instance_id": "i-2",
        "status": ReplicaState.SYNCING,
        "readiness": 0,
        "address": "10.0.0.2",
        "port": 7443,
        "certificate": "pem",
    }
    return Peer(**(values | changes))  # type: ignore[arg-type]


def orders(**changes: object) -> Orders:
    values: dict[str, object] = {
        "role": Role.PRIMARY,
        "epoch": 1,
        "peer": None,
        "handover": None,
        "under_way": False,
        "heartbeat_every_seconds": 30.0,
        "sync_interval_seconds": 1.0,
    }
    return Orders(**(values | changes))  # type: ignore[arg-type]


def a_handover(state: HandoverState = HandoverState.OPEN, **changes: object) -> HandoverView:
    values: dict[str, object] = {
        "handover_id": HANDOVER,
        "state": state,
        "replica_id": "rep-1",
        "readiness": 1,
        "primary_dead": False,
    }
    return HandoverView(**(values | changes))  # type: ignore[arg-type]


class Agent:
    """A primary that is fed events; remembers every action."""

    def __init__(self, state: Primary | None = None) -> None:
        self.state: Primary | Retired = state or Primary(epoch=1)
        self.now = 100.0
        self.beat = 0
        self.actions: list[Action] = []

    def sees(self, *events: Event, after: float = 0.0) -> list[Action]:
        self.now += after
        found: list[Action] = []
        for event in events:
            assert isinstance(self.state, Primary)
            self.state, actions = primary.decide(self.state, event, self.now)
            found += actions
        self.actions += found
        return found

    def is_told(self, told: Orders, *, after: float = 0.0) -> list[Action]:
        self.beat += 1
        return self.sees(OrdersReceived(self.beat, self.now + after, told), after=after)

    @property
    def primary(self) -> Primary:
        assert isinstance(self.state, Primary)
        return self.state


def a_serving_primary() -> Agent:
    agent = Agent()
    agent.is_told(orders())
    agent.sees(WorkloadRunning(1))
    return agent


def a_bound_primary() -> Agent:
    """A primary that serves under the lease of rep-1, which it has reported ready at readiness 1."""
    agent = a_serving_primary()
    agent.is_told(orders(peer=a_peer()), after=1)
    agent.sees(LinkChanged("rep-1", up=True))
    agent.sees(Covered("rep-1", agent.now, "2026-01-01T00:00:00+00:00", 1))
    agent.sees(LeaseAnswered("rep-1", agent.primary.request, agent.primary.asked_at, granted=True))
    agent.sees(ReadyAnswered("rep-1", agent.primary.readiness, Outcome.DONE))
    assert agent.primary.bound == "rep-1"
    return agent


def a_frozen_primary() -> Agent:
    agent = a_bound_primary()
    agent.is_told(orders(peer=a_peer(status=ReplicaState.READY, readiness=1), handover=a_handover()), after=0.2)
    agent.sees(WorkloadFrozen(HANDOVER))
    return agent


def of[A](kind: type[A], actions: list[Action]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def test_nothing_is_started_before_the_control_plane_confirmed_the_epoch() -> None:
    agent = Agent()
    assert not of(Start, agent.sees(Tick(), Tick(), after=60))
    assert of(Start, agent.is_told(orders())) == [Start(1, restore=False)]


def test_word_of_a_later_epoch_stops_the_workload_and_flushes_the_tail() -> None:
    agent = a_serving_primary()
    actions = agent.sees(EpochOver(2))
    assert isinstance(agent.state, Retired)
    assert {type(action) for action in actions} >= {Stop, FlushTail}


def test_word_of_an_earlier_epoch_changes_nothing() -> None:
    agent = a_serving_primary()
    agent.sees(EpochOver(1))
    agent.is_told(orders(epoch=0, role=Role.RETIRED))
    assert agent.primary.workload is Workload.RUNNING


def test_a_standby_is_reported_ready_only_under_its_lease_and_fenced_before() -> None:
    agent = a_serving_primary()
    assert of(Connect, agent.is_told(orders(peer=a_peer()), after=1))
    agent.sees(LinkChanged("rep-1", up=True))
    actions = agent.sees(Covered("rep-1", agent.now, "t", 1))
    assert of(AskLease, actions) and not of(ReportReady, actions)
    asked_at = agent.primary.asked_at
    actions = agent.sees(LeaseAnswered("rep-1", agent.primary.request, asked_at, granted=True), after=0.5)
    assert [type(action) for action in actions[:3]] == [Remember, SetFence, ReportReady]
    fence = SetFence(asked_at + lease.LEASE_SECONDS, hold_at=asked_at + lease.HOLD_SECONDS)
    assert of(SetFence, actions)[0] == fence


def test_a_standby_that_is_far_behind_is_not_reported_ready() -> None:
    agent = a_serving_primary()
    agent.is_told(orders(peer=a_peer()), after=1)
    agent.sees(LinkChanged("rep-1", up=True), Covered("rep-1", agent.now - 2.5, "t", 1))
    assert not of(ReportReady, agent.sees(LeaseAnswered("rep-1", 1, agent.now, granted=True)))


def test_the_lease_is_asked_for_every_second() -> None:
    agent = a_bound_primary()
    asked = 0
    for _ in range(40):
        actions = agent.sees(Tick(), after=0.25)
        for ask in of(AskLease, actions):
            asked += 1
            agent.sees(LeaseAnswered("rep-1", ask.request, ask.asked_at, granted=True))
            agent.sees(Covered("rep-1", agent.now, "t", 1))
    assert asked in (9, 10)
    assert agent.primary.workload is Workload.RUNNING


def test_a_lost_link_takes_readiness_back_at_once_and_then_lifts_the_fence() -> None:
    agent = a_bound_primary()
    reports = of(ReportUnready, agent.sees(LinkChanged("rep-1", up=False), after=0.2))
    assert reports == [ReportUnready("rep-1", 2)]
    actions = agent.sees(UnreadyAnswered("rep-1", 2, Outcome.DONE))
    assert SetFence(None) in actions
    assert agent.primary.workload is Workload.RUNNING
    assert not of(Stop, agent.sees(Tick(), after=30))


def test_a_primary_that_reaches_neither_standby_nor_control_plane_stops_before_the_lease_ends() -> None:
    agent = a_bound_primary()
    lease_until = agent.primary.lease_until
    agent.sees(LinkChanged("rep-1", up=False))
    while not of(Stop, agent.sees(Tick(), UnreadyAnswered("rep-1", agent.primary.readiness, Outcome.UNKNOWN))):
        agent.now += 0.25
    assert agent.now < lease_until


def test_a_stopped_primary_starts_again_once_readiness_is_back() -> None:
    agent = a_bound_primary()
    agent.sees(LinkChanged("rep-1", up=False))
    agent.sees(Tick(), after=lease.LEASE_SECONDS)
    agent.sees(WorkloadStopped("stopped"))
    assert agent.primary.workload is Workload.STOPPED
    actions = agent.sees(UnreadyAnswered("rep-1", agent.primary.readiness, Outcome.DONE), after=1)
    assert of(Start, actions) == [Start(1, restore=False)]


def test_an_open_handover_freezes_ships_the_final_generation_and_waits() -> None:
    agent = a_bound_primary()
    told = orders(peer=a_peer(status=ReplicaState.READY, readiness=1), handover=a_handover())
    assert of(Freeze, agent.is_told(told, after=0.2)) == [Freeze(HANDOVER)]
    assert of(ShipFinal, agent.sees(WorkloadFrozen(HANDOVER))) == [ShipFinal("rep-1", HANDOVER, 1)]
    agent.sees(Covered("rep-1", agent.now, "t", 5, final_for=HANDOVER), after=0.2)
    later = agent.sees(*[Tick()] * 50, after=60)
    assert not of(Thaw, later) and not of(Abort, later) and not of(Start, later) and not of(ReportUnready, later)


@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=40))
def test_no_amount_of_time_thaws_a_frozen_primary(gaps: list[float]) -> None:
    agent = a_frozen_primary()
    agent.sees(LinkChanged("rep-1", up=False))
    for gap in gaps:
        actions = agent.sees(Tick(), after=gap)
        assert not of(Thaw, actions) and not of(Start, actions)


def test_a_frozen_primary_thaws_when_its_handover_is_aborted() -> None:
    agent = a_frozen_primary()
    agent.sees(LeaseAnswered("rep-1", 9, agent.now, granted=True))
    told = orders(
        peer=a_peer(status=ReplicaState.READY, readiness=1), handover=a_handover(HandoverState.ABORTED), under_way=True
    )
    assert of(Thaw, agent.is_told(told, after=0.5)) == [Thaw(1)]


def test_a_frozen_primary_whose_lease_is_over_takes_readiness_back_before_it_thaws() -> None:
    agent = a_frozen_primary()
    agent.sees(LinkChanged("rep-1", up=False))
    agent.sees(Tick(), after=10)
    assert not of(Thaw, agent.sees(AbortAnswered(HANDOVER, Outcome.DONE)))
    actions = agent.sees(Tick(), after=1)
    actions += agent.sees(UnreadyAnswered("rep-1", agent.primary.readiness, Outcome.DONE))
    assert of(Thaw, actions) == [Thaw(1)]


def test_an_old_answer_does_not_freeze_for_a_handover_that_was_aborted() -> None:
    agent = a_frozen_primary()
    agent.sees(LeaseAnswered("rep-1", 9, agent.now, granted=True))
    agent.sees(AbortAnswered(HANDOVER, Outcome.DONE))
    agent.sees(WorkloadRunning(1))
    told = orders(peer=a_peer(status=ReplicaState.READY, readiness=1), handover=a_handover())
    assert not of(Freeze, agent.is_told(told))


def test_a_handover_to_a_replica_that_is_not_bound_is_aborted_and_nothing_freezes() -> None:
    agent = a_serving_primary()
    actions = agent.is_told(orders(peer=a_peer(), handover=a_handover()), after=1)
    assert of(Abort, actions) == [Abort(HANDOVER)]
    assert not of(Freeze, actions)


def test_a_restarted_primary_takes_readiness_back_before_it_serves_without_a_lease() -> None:
    agent = Agent(Primary(epoch=1, readiness=7))
    actions = agent.is_told(orders(peer=a_peer(status=ReplicaState.READY, readiness=7)))
    assert not of(Start, actions)
    assert of(ReportUnready, actions) == [ReportUnready("rep-1", 8)]
    assert of(Start, agent.sees(UnreadyAnswered("rep-1", 8, Outcome.DONE)))


def test_a_workload_that_keeps_failing_is_started_again_ever_more_slowly() -> None:
    agent = a_serving_primary()
    starts: list[float] = []
    agent.sees(WorkloadStopped("exit 1"))
    while agent.now < 220:
        if of(Start, agent.sees(Tick(), after=0.25)):
            starts.append(agent.now)
            agent.sees(WorkloadStopped("exit 1"))
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(primary.LONGEST_RESTART_DELAY_SECONDS, abs=0.5)


def test_a_noticed_primary_without_a_standby_is_frozen_for_a_last_snapshot_before_it_goes() -> None:
    agent = a_serving_primary()
    assert not of(Freeze, agent.sees(NoticeRead("t", seconds_left=120.0)))
    assert not of(Freeze, agent.sees(Tick(), after=120.0 - primary.LAST_SNAPSHOT_SECONDS - 1.0))
    assert of(Freeze, agent.sees(Tick(), after=2.0)) == [Freeze(primary.LAST_SNAPSHOT)]
    assert of(TakeLastSnapshot, agent.sees(WorkloadFrozen(primary.LAST_SNAPSHOT))) == [TakeLastSnapshot()]
    assert not primary.may_serve(agent.primary, agent.now)
    later = agent.sees(Tick(), Tick(), after=10.0)
    assert not of(Thaw, later) and not of(Start, later) and not of(TakeLastSnapshot, later)


def test_a_primary_that_is_still_there_long_after_its_time_serves_on() -> None:
    agent = a_serving_primary()
    agent.sees(NoticeRead("t", seconds_left=5.0))
    agent.sees(WorkloadFrozen(primary.LAST_SNAPSHOT))
    assert of(Thaw, agent.sees(Tick(), after=5.0 + primary.OVERDUE_SECONDS + 1.0)) == [Thaw(1)]


def test_a_noticed_primary_with_a_ready_standby_serves_on_for_the_handover() -> None:
    agent = a_bound_primary()
    actions = agent.sees(NoticeRead("t", seconds_left=1.0))
    assert not of(Freeze, actions)


def test_a_standby_that_still_syncs_is_let_go_of_for_the_last_snapshot_and_never_becomes_ready() -> None:
    agent = a_serving_primary()
    agent.is_told(orders(peer=a_peer()), after=1)
    agent.sees(LinkChanged("rep-1", up=True))
    assert of(Disconnect, agent.sees(NoticeRead("t", seconds_left=5.0)))
    agent.sees(WorkloadFrozen(primary.LAST_SNAPSHOT))
    agent.is_told(orders(peer=a_peer()), after=0.5)
    agent.sees(LinkChanged("rep-1", up=True), Covered("rep-1", agent.now, "t", 1))
    agent.sees(LeaseAnswered("rep-1", agent.primary.request, agent.now, granted=True))
    assert not of(ReportReady, agent.sees(Tick(), after=0.5))
