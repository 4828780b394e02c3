"""The standby's side of the protocol: it grants the lease, and asks for promotion itself when it may.

1. While it grants the lease, its primary may serve. It stops granting durably before it waits the lease out.
2. It asks for promotion on one of three bases: the final generation of a frozen primary is durable here; the lease it
   stopped granting has run out and the control plane has opened a handover to it; EC2 itself says that the primary is
   dead.
3. Handed to behind a dead primary while it holds no complete generation, it declines: only it can know that.
4. It grants again only when the control plane shows a higher readiness number than any promotion of its could still
   use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from spot_optimizer.domain import lease
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.orders import HandoverView, Peer, Role
from spot_optimizer.domain.primary import Primary, Workload
from spot_optimizer.domain.protocol import (
    Abort,
    Action,
    AnswerLease,
    Beat,
    Commit,
    CommitAnswered,
    Disconnect,
    EpochOver,
    Event,
    GenerationCommitted,
    LeaseAsked,
    LinkChanged,
    Listen,
    NoticeRead,
    OrdersReceived,
    Outcome,
    Pace,
    Remember,
    ReportNotice,
    ReportSilent,
    RestoreSnapshot,
    SnapshotRefused,
    SnapshotRestored,
    Start,
)
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.retired import Retired

BEAT_AROUND_HANDOVER_SECONDS = 0.5
BEAT_SECONDS = 5.0
NOTICE_CHECK_SECONDS = 1.0
NOTICE_REPEAT_SECONDS = 10.0
SILENT_REPEAT_SECONDS = 2.0
RETRY_UNKNOWN_SECONDS = 0.3
RETRY_REFUSED_SECONDS = 1.0
DECLINE_AFTER_SECONDS = 3.0
"""So long it waits for what the dead primary may have sent last, before it says that it holds nothing."""
NEVER = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """What a standby knows.

    Attributes:
        status: The replica's state as the control plane last said it.
        status_asked_at: When that was asked for.
        granting: Whether it grants the lease; durable.
        refused_at_readiness: No promotion of its can use a readiness above this; durable.
        granted_at: When it last granted the lease; at the start of a process, that start, for an earlier process may
            have
            granted a moment before.
        heard_at: When the primary last asked.
        asked: Number of its last question on this link that was granted; an earlier one that comes late is no news.
        lag_seconds: How far behind it was when the primary sent that question; None if it was not told.
        generation: The last generation that is durable here, 0 for none.
        held_epoch: Of the primary that took it; None for the one that is followed.
        final_for: The handover whose final generation is durable here.
        commit_in_flight: A promotion was asked for and has not been answered.
        restoring: The handover for which a snapshot is being restored.
        restored: The handover for which a snapshot was restored: it is the newest there is.
        unrestorable: The handover for which no snapshot could be restored.
        empty_since: Since when it knows that it was handed to and holds nothing.
    """

    epoch: int
    replica_id: str
    last_beat: int = 0
    peer: Peer | None = None
    status: ReplicaState | None = None
    status_asked_at: float = NEVER
    readiness: int = 0
    granting: bool = True
    refused_at_readiness: int = -1
    granted_at: float = NEVER
    heard_at: float | None = None
    asked: int = 0
    lag_seconds: float | None = None
    generation: int = 0
    held_epoch: int | None = None
    covered_until: str | None = None
    final_for: str | None = None
    final_readiness: int = 0
    handover: HandoverView | None = None
    commit_in_flight: bool = False
    commit_after: float = NEVER
    restoring: str | None = None
    restored: str | None = None
    unrestorable: str | None = None
    empty_since: float | None = None
    silent_sent_at: float = NEVER
    under_way: bool = False
    notice_deadline: str | None = None
    notice_sent_at: float = NEVER
    pace: Pace | None = None


def decide(state: Standby, event: Event, now: float) -> tuple[Standby | Primary | Retired, tuple[Action, ...]]:
    """Take one event; see `protocol`. Returns a `Primary` once the promotion is certain, `Retired` once it is over."""
    turn = _Turn(state, now)
    successor = turn.take(event)
    if successor is not None:
        return successor, tuple(turn.actions)
    turn.settle()
    return turn.state, tuple(turn.actions)


class _Turn:
    """One decision: the state as it changes, and the actions as they are found."""

    def __init__(self, state: Standby, now: float) -> None:
        self.state = state
        self.now = now
        self.actions: list[Action] = []

    def do(self, *actions: Action) -> None:
        self.actions.extend(actions)

    def put(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    # --- what an event changes ---

    def take(self, event: Event) -> Primary | Retired | None:
        match event:
            case OrdersReceived():
                return self._take_orders(event)
            case EpochOver(current_epoch) if current_epoch > self.state.epoch:
                # The promotion that ended the epoch may have been our own, with its answer lost: ask who we are now.
                self.do(Remember(role=Role.RETIRED, epoch=current_epoch), Disconnect(), Beat())
                return Retired(epoch=current_epoch, last_beat=self.state.last_beat, restore=self.state.generation > 0)
            case CommitAnswered():
                return self._take_commit_answer(event)
            case LeaseAsked():
                self._answer_lease(event)
            case GenerationCommitted():
                self._take_generation(event)
            case SnapshotRestored(handover_id, generation, covered_until):
                self.put(restoring=None, restored=handover_id, generation=generation, covered_until=covered_until)
                self.put(held_epoch=None)
                self.put(final_for=None, lag_seconds=None)
            case SnapshotRefused(handover_id):
                self.put(restoring=None, unrestorable=handover_id)
            case LinkChanged(_, up):
                # A connection counts as hearing from the primary; the loss of one does not: silence has its own clock.
                if up:
                    self.put(asked=0, heard_at=None if self.state.heard_at is None else self.now)
            case NoticeRead(deadline):
                self.put(notice_deadline=deadline)
            case _:
                pass
        return None

    def _take_orders(self, event: OrdersReceived) -> Primary | Retired | None:
        orders = event.orders
        if event.beat <= self.state.last_beat or orders.epoch < self.state.epoch:
            return None
        if orders.epoch > self.state.epoch or orders.role is Role.RETIRED:
            self.do(Remember(role=Role.RETIRED, epoch=orders.epoch), Disconnect(), Beat())
            return Retired(epoch=orders.epoch, last_beat=event.beat, restore=self.state.generation > 0)
        self.put(last_beat=event.beat, under_way=orders.under_way, handover=orders.handover)
        peer = orders.peer
        if peer is None:
            return None
        self.put(status=peer.status, status_asked_at=event.sent_at, readiness=max(self.state.readiness, peer.readiness))
        if self.state.peer is None or self.state.peer.certificate != peer.certificate:
            self.do(Listen(peer))
        self.put(peer=peer)
        if peer.status is ReplicaState.READY and self.state.heard_at is None:
            # Ready, and yet never asked by this process's primary: its silence counts from now.
            self.put(heard_at=self.now)
        may_grant_again = peer.readiness > self.state.refused_at_readiness and not self.state.commit_in_flight
        if not self.state.granting and may_grant_again:
            # The row's number is past every promotion we asked for, or could ask for: none of them can succeed now.
            self.put(granting=True, heard_at=None)
            self.do(Remember(granting=True))
        return None

    def _answer_lease(self, event: LeaseAsked) -> None:
        state, request = self.state, event.request
        if event.epoch != state.epoch:
            self.do(AnswerLease(request, granted=False, reason=f"this standby follows epoch {state.epoch}"))
            return
        if not state.granting:
            self.do(AnswerLease(request, granted=False, reason="this standby is asking for promotion"))
            return
        self.put(granted_at=self.now, heard_at=self.now)
        if event.asked >= state.asked:
            self.put(asked=event.asked, lag_seconds=event.lag_seconds)
        self.do(AnswerLease(request, granted=True, reason=""))

    def _take_generation(self, event: GenerationCommitted) -> None:
        own = self.state.epoch
        if (event.epoch or own, event.generation) < (self.state.held_epoch or own, self.state.generation):
            return
        self.put(generation=event.generation, held_epoch=event.epoch, covered_until=event.covered_until)
        if event.final_for is not None:
            self.put(final_for=event.final_for, final_readiness=event.readiness or 0, commit_after=NEVER)
        else:
            # The primary went on after its final generation: that handover was aborted.
            self.put(final_for=None)

    def _take_commit_answer(self, event: CommitAnswered) -> Primary | None:
        match event.outcome:
            case Outcome.DONE:
                epoch = event.epoch if event.epoch is not None else self.state.epoch + 1
                self.do(Remember(role=Role.PRIMARY, epoch=epoch), Disconnect(), Start(epoch, restore=True), Beat())
                return Primary(
                    epoch=epoch,
                    confirmed=True,
                    workload=Workload.STARTING,
                    restore=True,
                    last_beat=self.state.last_beat,
                    under_way=True,
                    generation=self.state.generation,
                    notice_deadline=self.state.notice_deadline,
                )
            case Outcome.REFUSED:
                self.put(commit_in_flight=False, commit_after=self.now + RETRY_REFUSED_SECONDS)
                if event.handover_id == self.state.final_for:
                    # That handover is over, for good; another may be open behind a primary that has died since.
                    self.put(final_for=None)
                self.do(Beat())
            case Outcome.UNKNOWN:
                self.put(commit_in_flight=False, commit_after=self.now + RETRY_UNKNOWN_SECONDS)
        return None

    # --- what the state, as it is now, calls for ---

    def settle(self) -> None:
        self._report_notice()
        self._suspect()
        self._commit()
        self._set_pace()

    def _report_notice(self) -> None:
        deadline = self.state.notice_deadline
        if deadline is not None and self.now - self.state.notice_sent_at >= NOTICE_REPEAT_SECONDS:
            self.put(notice_sent_at=self.now)
            self.do(ReportNotice(deadline))

    @property
    def _silent_since(self) -> float | None:
        """When the primary's silence became suspicious; None while it is heard, or was never heard."""
        if self.state.heard_at is None or self.now - self.state.heard_at < lease.SILENCE_SECONDS:
            return None
        return self.state.heard_at + lease.SILENCE_SECONDS

    def _suspect(self) -> None:
        state, silent_since = self.state, self._silent_since
        if silent_since is None or state.status is not ReplicaState.READY:
            return
        if state.granting and state.status_asked_at > silent_since:
            # The control plane has confirmed, after the primary fell silent, that we are still ready.
            self.put(granting=False, refused_at_readiness=max(state.refused_at_readiness, state.readiness))
            self.do(Remember(granting=False, refused_at_readiness=self.state.refused_at_readiness))
        due = self.now - state.silent_sent_at >= SILENT_REPEAT_SECONDS
        if due and not self.state.granting and not self._handover_is_ours:
            self.put(silent_sent_at=self.now)
            self.do(ReportSilent())

    @property
    def _handover_is_ours(self) -> bool:
        handover = self.state.handover
        return (
            handover is not None
            and handover.state is HandoverState.OPEN
            and handover.replica_id == self.state.replica_id
        )

    def _commit(self) -> None:
        state = self.state
        if state.commit_in_flight or self.now < state.commit_after:
            return
        if self._restores():
            return
        if state.generation == 0:
            self._decline()
            return
        handover = state.handover
        if state.final_for is not None:
            self._ask_for_promotion(state.final_for, Basis.FINAL_GENERATION, state.final_readiness)
        elif handover is None or not self._handover_is_ours:
            return
        elif handover.primary_dead:
            basis = Basis.SNAPSHOT if state.restored == handover.handover_id else Basis.PRIMARY_DEAD
            self._ask_for_promotion(handover.handover_id, basis, state.readiness)
        elif (
            not state.granting and state.status is ReplicaState.READY and self.now >= lease.safe_after(state.granted_at)
        ):
            # Only on a number at which it was ready: the withdrawal of it has a higher one, and frees us to grant.
            self._ask_for_promotion(handover.handover_id, Basis.LEASE_EXPIRED, state.readiness)

    def _restores(self) -> bool:
        """Whether a snapshot is being restored, because it is newer than what is held, or all there is."""
        state, handover = self.state, self.state.handover
        if state.restoring is not None:
            return True
        if handover is None or not self._handover_is_ours or handover.snapshot_taken_at is None:
            return False
        if handover.handover_id in (state.restored, state.unrestorable) or state.final_for is not None:
            return False
        if state.generation and state.covered_until is not None:
            # Epochs are in order, whatever clocks say; and a demoted primary holds the end of its own.
            held, taken = state.held_epoch or state.epoch, handover.snapshot_epoch or state.epoch
            if taken < held or (taken == held < state.epoch):
                return False
            if taken == held and _instant(state.covered_until) >= _instant(handover.snapshot_taken_at):
                return False
        self.put(restoring=handover.handover_id)
        self.do(RestoreSnapshot(handover.handover_id))
        return True

    def _decline(self) -> None:
        handover = self.state.handover
        if handover is None or not self._handover_is_ours or not handover.primary_dead:
            return
        if self.state.empty_since is None:
            self.put(empty_since=self.now)
        elif self.now - self.state.empty_since >= DECLINE_AFTER_SECONDS:
            self.put(commit_after=self.now + RETRY_REFUSED_SECONDS)
            self.do(Abort(handover.handover_id))

    def _ask_for_promotion(self, handover_id: str, basis: Basis, readiness: int) -> None:
        refused_at = self.state.refused_at_readiness
        if basis is not Basis.FINAL_GENERATION:
            # A final generation is promoted whatever the readiness: its number may be that of a withdrawal, above which
            # the primary will never report while we do not grant.
            refused_at = max(refused_at, readiness)
        if refused_at != self.state.refused_at_readiness:
            self.do(Remember(refused_at_readiness=refused_at))
        self.put(commit_in_flight=True, refused_at_readiness=refused_at)
        state = self.state
        self.do(Commit(handover_id, basis, readiness, state.generation, state.covered_until, state.lag_seconds))

    def _set_pace(self) -> None:
        state = self.state
        around_handover = (
            state.under_way or self._silent_since is not None or not state.granting or state.final_for is not None
        )
        pace = Pace(BEAT_AROUND_HANDOVER_SECONDS if around_handover else BEAT_SECONDS, NOTICE_CHECK_SECONDS)
        if pace != state.pace:
            self.put(pace=pace)
            self.do(pace)


def _instant(written: str) -> datetime:
    return datetime.fromisoformat(written)
