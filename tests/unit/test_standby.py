"""When a standby grants the lease, and when it asks for promotion."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain import lease, standby
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.orders import HandoverView, Orders, Peer, Role
from spot_optimizer.domain.primary import Primary
from spot_optimizer.domain.protocol import (
    Abort,
    Action,
    AnswerLease,
    Commit,
    CommitAnswered,
    EpochOver,
    Event,
    GenerationCommitted,
    LeaseAsked,
    LinkChanged,
    OrdersReceived,
    Outcome,
    Remember,
    ReportSilent,
    RestoreSnapshot,
    SnapshotRefused,
    SnapshotRestored,
    Start,
    Tick,
)
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.retired import Retired
from spot_optimizer.domain.standby import Standby

HANDOVER = "agt-1-h1-1"


def orders(
    *,
    status: ReplicaState = ReplicaState.READY,
    readiness: int = 1,
    handover: HandoverView | None = None,
    epoch: int = 1,
) -> Orders:
    peer = Peer("rep-1", "i-1", status, readiness, "10.0.0.1", 7443, "pem")
    return Orders(Role.STANDBY, epoch, peer, handover, handover is not None, 30.0, 1.0)


def a_handover(
    *, primary_dead: bool = False, state: HandoverState = HandoverState.OPEN, snapshot_taken_at: str | None = None
) -> HandoverView:
    return HandoverView(HANDOVER, state, "rep-1", 1, primary_dead, snapshot_taken_at)


class Agent:
    """A standby that is fed events."""

    def __init__(self) -> None:
        self.state: Standby | Primary | Retired = Standby(epoch=1, replica_id="rep-1")
        self.now = 100.0
        self.beat = 0

    def sees(self, *events: Event, after: float = 0.0) -> list[Action]:
        self.now += after
        found: list[Action] = []
        for event in events:
            assert isinstance(self.state, Standby)
            self.state, actions = standby.decide(self.state, event, self.now)
            found += actions
        return found

    def is_told(self, told: Orders, *, after: float = 0.0) -> list[Action]:
        self.beat += 1
        return self.sees(OrdersReceived(self.beat, self.now + after, told), after=after)


def a_ready_standby() -> Agent:
    agent = Agent()
    agent.sees(GenerationCommitted(3, "2026-01-01T00:00:00+00:00"))
    agent.sees(LeaseAsked(1, 1))
    agent.is_told(orders())
    return agent


def a_standby_of_a_silent_primary() -> Agent:
    agent = a_ready_standby()
    agent.sees(Tick(), after=lease.SILENCE_SECONDS + 0.1)
    agent.is_told(orders(), after=0.1)
    return agent


def of[A](kind: type[A], actions: list[Action]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def test_the_lease_is_granted_to_the_primary_of_its_epoch_only() -> None:
    agent = a_ready_standby()
    assert of(AnswerLease, agent.sees(LeaseAsked(2, 1)))[0].granted
    assert not of(AnswerLease, agent.sees(LeaseAsked(3, 2)))[0].granted


def test_a_silent_primary_is_reported_once_the_control_plane_confirms_that_the_standby_is_ready() -> None:
    agent = a_ready_standby()
    assert not of(ReportSilent, agent.sees(Tick(), after=lease.SILENCE_SECONDS + 0.1))
    actions = agent.is_told(orders(), after=0.1)
    assert [type(action) for action in actions if isinstance(action, Remember | ReportSilent)] == [
        Remember,
        ReportSilent,
    ]


def test_a_standby_that_is_not_ready_leaves_a_silent_primary_alone() -> None:
    agent = a_ready_standby()
    agent.sees(Tick(), after=lease.SILENCE_SECONDS + 0.1)
    assert not of(ReportSilent, agent.is_told(orders(status=ReplicaState.SYNCING), after=0.1))


def test_once_it_stopped_granting_it_refuses_the_lease() -> None:
    agent = a_standby_of_a_silent_primary()
    assert not of(AnswerLease, agent.sees(LeaseAsked(9, 1)))[0].granted


def test_promotion_on_an_expired_lease_waits_the_lease_out() -> None:
    agent = a_standby_of_a_silent_primary()
    granted_at = 100.0
    agent.is_told(orders(handover=a_handover()), after=0.2)
    commits: list[Commit] = []
    while not commits:
        commits = of(Commit, agent.sees(Tick(), after=0.05))
    assert commits == [Commit(HANDOVER, Basis.LEASE_EXPIRED, 1, 3, "2026-01-01T00:00:00+00:00")]
    assert agent.now >= lease.safe_after(granted_at)


@given(slow=st.floats(0, lease.CLOCK_DRIFT), fast=st.floats(0, lease.CLOCK_DRIFT), wire=st.floats(0, 30))
def test_no_clock_drift_lets_two_serve(slow: float, fast: float, wire: float) -> None:
    """The primary's clock is slow, the standby's fast, the request takes any time to arrive; all in true seconds."""
    asked, granted = 0.0, wire
    primary_killed = asked + lease.LEASE_SECONDS / (1 - slow) + lease.FENCE_LATENCY_SECONDS
    standby_asks = granted + (lease.safe_after(0.0)) / (1 + fast)
    assert standby_asks >= primary_killed


@given(st.permutations([(1, 0.5), (2, 1.5), (3, 2.5)]))
def test_it_says_how_far_behind_it_was_by_the_primarys_last_question_on_the_link(
    questions: list[tuple[int, float]],
) -> None:
    agent = a_ready_standby()
    agent.sees(LinkChanged("rep-1", up=True))
    agent.sees(*(LeaseAsked(10 + asked, 1, asked, lag_seconds) for asked, lag_seconds in questions))
    agent.sees(LeaseAsked(20, 2, 9, 9.5))  # not its primary's
    (commit,) = of(Commit, agent.is_told(orders(handover=a_handover(primary_dead=True))))
    assert commit.lag_seconds == 2.5


def test_on_a_new_link_questions_are_counted_anew_and_one_that_does_not_say_leaves_it_unknown() -> None:
    agent = a_ready_standby()
    agent.sees(LeaseAsked(2, 1, 7, 0.5), LinkChanged("rep-1", up=True), LeaseAsked(3, 1, 1))
    (commit,) = of(Commit, agent.is_told(orders(handover=a_handover(primary_dead=True))))
    assert commit.lag_seconds is None


def test_the_final_generation_is_followed_by_the_promotion_at_once() -> None:
    agent = a_ready_standby()
    final = GenerationCommitted(4, "2026-01-01T00:00:01+00:00", final_for=HANDOVER, readiness=1)
    assert of(Commit, agent.sees(final)) == [
        Commit(HANDOVER, Basis.FINAL_GENERATION, 1, 4, "2026-01-01T00:00:01+00:00")
    ]


def test_word_of_the_primarys_death_is_followed_by_the_promotion_at_once() -> None:
    agent = a_ready_standby()
    actions = agent.is_told(orders(handover=a_handover(primary_dead=True)), after=0.2)
    assert [commit.basis for commit in of(Commit, actions)] == [Basis.PRIMARY_DEAD]


def test_without_a_complete_generation_there_is_nothing_to_promote() -> None:
    agent = Agent()
    told = orders(status=ReplicaState.SYNCING, handover=a_handover(primary_dead=True))
    assert not of(Commit, agent.is_told(told))


def test_a_promotion_whose_outcome_is_unknown_is_asked_for_again() -> None:
    agent = a_ready_standby()
    agent.sees(GenerationCommitted(4, "t", final_for=HANDOVER, readiness=1))
    agent.sees(CommitAnswered(HANDOVER, Outcome.UNKNOWN))
    assert of(Commit, agent.sees(Tick(), after=0.5))


def test_a_granted_promotion_makes_it_the_primary_that_restores_and_starts() -> None:
    agent = a_ready_standby()
    agent.sees(GenerationCommitted(4, "t", final_for=HANDOVER, readiness=1))
    actions = agent.sees(CommitAnswered(HANDOVER, Outcome.DONE, epoch=2))
    assert isinstance(agent.state, Primary)
    assert agent.state.epoch == 2 and agent.state.confirmed
    assert of(Start, actions) == [Start(2, restore=True)]
    assert of(Remember, actions)[0].role == Role.PRIMARY


def test_it_grants_again_only_above_the_readiness_that_its_promotion_could_use() -> None:
    agent = a_standby_of_a_silent_primary()
    agent.is_told(orders(status=ReplicaState.SYNCING, readiness=1), after=0.1)
    assert not of(AnswerLease, agent.sees(LeaseAsked(9, 1)))[0].granted
    agent.is_told(orders(status=ReplicaState.SYNCING, readiness=2), after=0.1)
    assert of(AnswerLease, agent.sees(LeaseAsked(10, 1)))[0].granted


def test_it_does_not_grant_again_while_a_promotion_is_in_flight() -> None:
    agent = a_standby_of_a_silent_primary()
    agent.is_told(orders(handover=a_handover()), after=5)
    agent.is_told(orders(status=ReplicaState.SYNCING, readiness=2), after=0.1)
    assert not of(AnswerLease, agent.sees(LeaseAsked(9, 1)))[0].granted


def test_word_that_the_epoch_is_over_makes_it_ask_who_it_is() -> None:
    agent = a_ready_standby()
    agent.sees(EpochOver(2))
    assert isinstance(agent.state, Retired)
    assert agent.state.restore


MOMENTS = [f"2026-03-01T12:00:0{second}+00:00" for second in range(5)]


def behind_a_dead_primary(*, held: str | None, snapshot: str | None) -> tuple[Agent, list[Action]]:
    agent = Agent()
    if held is not None:
        agent.sees(GenerationCommitted(3, held))
    told = orders(
        status=ReplicaState.SYNCING, readiness=0, handover=a_handover(primary_dead=True, snapshot_taken_at=snapshot)
    )
    return agent, agent.is_told(told)


@given(held=st.none() | st.sampled_from(MOMENTS), snapshot=st.none() | st.sampled_from(MOMENTS))
def test_behind_a_dead_primary_the_newest_copy_is_promoted(held: str | None, snapshot: str | None) -> None:
    agent, actions = behind_a_dead_primary(held=held, snapshot=snapshot)
    restores = snapshot is not None and (held is None or held < snapshot)
    assert (RestoreSnapshot(HANDOVER) in actions) == restores
    if restores:
        assert not any(isinstance(action, Commit) for action in actions)
        assert not any(isinstance(action, Commit) for action in agent.sees(Tick(), after=60.0))
        actions = agent.sees(SnapshotRestored(HANDOVER, 7, str(snapshot)))
    committed = [action for action in actions if isinstance(action, Commit)]
    if held is None and snapshot is None:
        assert not committed
    else:
        [commit] = committed
        assert commit.basis is (Basis.SNAPSHOT if restores else Basis.PRIMARY_DEAD)
        assert commit.covered_until == max(filter(None, (held, snapshot)))


def test_where_no_snapshot_can_be_restored_what_is_held_will_do() -> None:
    agent, _ = behind_a_dead_primary(held=MOMENTS[0], snapshot=MOMENTS[1])
    [commit] = [action for action in agent.sees(SnapshotRefused(HANDOVER)) if isinstance(action, Commit)]
    assert commit.basis is Basis.PRIMARY_DEAD
    assert commit.covered_until == MOMENTS[0]


def test_a_standby_that_holds_nothing_and_can_restore_nothing_declines() -> None:
    agent, _ = behind_a_dead_primary(held=None, snapshot=MOMENTS[1])
    agent.sees(SnapshotRefused(HANDOVER))
    later = agent.sees(Tick(), after=standby.DECLINE_AFTER_SECONDS + 1.0)
    assert Abort(HANDOVER) in later


def test_a_snapshot_is_restored_once_per_handover() -> None:
    agent, _ = behind_a_dead_primary(held=None, snapshot=MOMENTS[1])
    agent.sees(SnapshotRestored(HANDOVER, 7, MOMENTS[0]))
    told = orders(
        status=ReplicaState.SYNCING, readiness=0, handover=a_handover(primary_dead=True, snapshot_taken_at=MOMENTS[1])
    )
    assert RestoreSnapshot(HANDOVER) not in agent.is_told(told)
