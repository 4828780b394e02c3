"""The primary's side of the protocol: when it may serve, when it freezes, when it must stop.

The rules, in the order of their weight:

1. It serves only under an epoch that the control plane has confirmed to this process, and stops on word of a later one.
2. It is *bound* to a replica from before it reports that replica ready until the control plane has taken the readiness
   back. While bound it serves only under the replica's lease, and an independent fence kills the workload when the
   lease ends. Before that it holds it, so that little is acknowledged which nobody carries to the replica.
3. When it can not renew the lease it takes the readiness back, a write that competes with the promotion. If it can
   reach neither the standby nor the control plane, it stops.
4. Once it froze for a handover it thaws only when that handover is aborted, never on a timer.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from spot_optimizer.domain import lease
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.orders import Orders, Peer, Role
from spot_optimizer.domain.protocol import (
    Abort,
    AbortAnswered,
    Action,
    AskLease,
    Beat,
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
    Pace,
    ReadyAnswered,
    RebalanceRead,
    Remember,
    ReportNotice,
    ReportReady,
    ReportRebalance,
    ReportUnready,
    SetFence,
    ShipFinal,
    ShippingFailed,
    Start,
    Stop,
    TakeLastSnapshot,
    Thaw,
    UnreadyAnswered,
    WorkloadFrozen,
    WorkloadRunning,
    WorkloadStopped,
)
from spot_optimizer.domain.retired import SOON_SECONDS, Retired

LAG_INTERVALS = 2
"""A standby is ready while it is at most so many sync intervals behind."""

LAG_GRACE_SECONDS = 0.5
"""Longer lag than allowed is borne so long before readiness is taken back, so that one slow write does not cost it."""

BEAT_AROUND_HANDOVER_SECONDS = 0.5
BEAT_WHILE_BOUND_SECONDS = 5.0
NOTICE_CHECK_SECONDS = 5.0
NOTICE_CHECK_WHILE_BOUND_SECONDS = 1.0
NOTICE_REPEAT_SECONDS = 5.0
REBALANCE_REPEAT_SECONDS = 30.0
ASK_UNANSWERED_SECONDS = 1.5
RETRY_SECONDS = 0.5
ABORT_WITHOUT_LINK_SECONDS = 2.0
ABORT_WITHOUT_FINAL_SECONDS = 20.0
LONGEST_RESTART_DELAY_SECONDS = 30.0
LAST_SNAPSHOT = "last-snapshot"
"""For what the workload is frozen where that is no handover."""

LAST_SNAPSHOT_SECONDS = 15.0
"""So long before AWS takes the instance the workload is frozen for a last snapshot, if no standby is ready."""

OVERDUE_SECONDS = 60.0
"""An instance that is still there so long after its time is not going to go: it serves on."""

NEVER = float("-inf")


class Workload(enum.StrEnum):
    """What the workload is doing, as far as its agent knows."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    FREEZING = "freezing"
    FROZEN = "frozen"
    THAWING = "thawing"
    STOPPING = "stopping"


QUIET = (Workload.STOPPED, Workload.FROZEN)
BUSY = (Workload.STARTING, Workload.RUNNING, Workload.THAWING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """What a primary knows.

    Attributes:
        epoch: The epoch it serves under.
        confirmed: The control plane has confirmed the epoch to this process.
        workload: At the start of the process: what the supervisor says, `running` only under this very epoch.
        restore: The image has to be restored before the first start: it was a standby until now.
        bound: The replica that may be ready, so that its lease binds this primary.
        bound_since: When the binding began; orders asked for earlier say nothing about it.
        withdrawing: Readiness is being taken back.
        readiness: Number of the last readiness report that may have been sent; durable.
        reported_ready: No report that the replica is ready was sent under a number above this.
        lease_until: Until when the lease holds.
        unanswered_since: When the oldest lease request was sent that nothing has answered since.
        covered_until: The standby holds everything up to here.
        frozen_for: The open handover for which the workload is, or is being, frozen.
        frozen_at: When that began.
        final_sent: The final generation is on its way.
        final_held: The standby holds it durably.
        goes_at: When AWS takes this instance; None while nobody said so.
        frozen_for_last: The workload is, or is being, frozen for a last snapshot: no standby can be had in time.
        last_taken: That snapshot was asked for.
        ended_handovers: Handovers that are known to be aborted; an old answer must not freeze for them again.
    """

    epoch: int
    confirmed: bool = False
    workload: Workload = Workload.STOPPED
    restore: bool = False
    last_beat: int = 0
    standby: Peer | None = None
    link_up: bool = False
    link_down_since: float | None = None
    bound: str | None = None
    bound_since: float = NEVER
    withdrawing: bool = False
    withdrawal_sent_at: float = NEVER
    ready_sent_at: float = NEVER
    ready_acknowledged: bool = False
    readiness: int = 0
    reported_ready: int = 0
    lease_until: float = NEVER
    request: int = 0
    asked_at: float = NEVER
    unanswered_since: float | None = None
    covered_until: float = NEVER
    covered_until_wall: str = ""
    generation: int = 0
    frozen_for: str | None = None
    frozen_at: float = NEVER
    final_sent: bool = False
    final_held: bool = False
    abort_wanted: str | None = None
    abort_sent_at: float = NEVER
    ended_handovers: tuple[str, ...] = ()
    under_way: bool = False
    notice_deadline: str | None = None
    notice_sent_at: float = NEVER
    goes_at: float | None = None
    frozen_for_last: bool = False
    last_taken: bool = False
    rebalance_sent_at: float = NEVER
    start_failures: int = 0
    start_after: float = NEVER
    heartbeat_every_seconds: float = 30.0
    sync_interval_seconds: float = 1.0
    pace: Pace | None = None


def may_serve(state: Primary, now: float) -> bool:
    """Whether the workload may acknowledge anything at this moment."""
    return (
        state.confirmed
        and state.frozen_for is None
        and not state.frozen_for_last
        and (state.bound is None or now < state.lease_until - lease.STOP_EARLY_SECONDS)
    )


def decide(state: Primary, event: Event, now: float) -> tuple[Primary | Retired, tuple[Action, ...]]:
    """Take one event.

    Args:
        state: What the primary knew.
        event: What happened.
        now: CLOCK_BOOTTIME in seconds.

    Returns:
        What it knows now (`Retired` once its epoch is over), and what to do, in this order.
    """
    turn = _Turn(state, now)
    retired = turn.take(event)
    if retired is not None:
        return retired, tuple(turn.actions)
    turn.settle()
    return turn.state, tuple(turn.actions)


class _Turn:
    """One decision: the state as it changes, and the actions as they are found."""

    def __init__(self, state: Primary, now: float) -> None:
        self.state = state
        self.now = now
        self.actions: list[Action] = []

    def do(self, *actions: Action) -> None:
        self.actions.extend(actions)

    def put(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    # --- what an event changes ---

    def take(self, event: Event) -> Retired | None:  # noqa: C901 - one flat case per event
        match event:
            case OrdersReceived():
                return self._take_orders(event)
            case EpochOver(current_epoch):
                if current_epoch > self.state.epoch:
                    return self._retire(current_epoch)
            case LinkChanged(replica_id, up):
                self._take_link(replica_id, up=up)
            case LeaseAnswered():
                self._take_lease(event)
            case Covered():
                self._take_covered(event)
            case ShippingFailed(_, final_for):
                if final_for is not None and final_for == self.state.frozen_for:
                    self.put(final_sent=False)
            case ReadyAnswered():
                self._take_ready_answer(event)
            case UnreadyAnswered():
                self._take_unready_answer(event)
            case AbortAnswered():
                self._take_abort_answer(event)
            case WorkloadRunning(epoch):
                if epoch == self.state.epoch:
                    self.put(workload=Workload.RUNNING, restore=False, start_failures=0)
                    self.do(Beat())
            case WorkloadFrozen():
                self.put(workload=Workload.FROZEN)
            case WorkloadStopped():
                self._take_workload_stopped()
            case NoticeRead(deadline, seconds_left):
                goes_at = self.state.goes_at if seconds_left is None else self.now + seconds_left
                self.put(notice_deadline=deadline, goes_at=goes_at)
            case RebalanceRead():
                self._take_rebalance()
            case _:
                pass
        return None

    def _take_orders(self, event: OrdersReceived) -> Retired | None:
        orders = event.orders
        if event.beat <= self.state.last_beat or orders.epoch < self.state.epoch:
            return None
        if orders.epoch > self.state.epoch or orders.role is not Role.PRIMARY:
            return self._retire(orders.epoch)
        first = not self.state.confirmed
        self.put(
            last_beat=event.beat,
            confirmed=True,
            under_way=orders.under_way,
            heartbeat_every_seconds=orders.heartbeat_every_seconds,
            sync_interval_seconds=orders.sync_interval_seconds,
        )
        self._take_peer(orders, sent_at=event.sent_at, first=first)
        if first and self.state.bound is None:
            # An earlier process may have left a deadline behind, of a lease that binds nobody any more.
            self.do(SetFence(None))
        self._take_handover(orders)
        return None

    def _take_peer(self, orders: Orders, *, sent_at: float, first: bool) -> None:
        peer, bound = orders.peer, self.state.bound
        if peer is not None:
            self.put(readiness=max(self.state.readiness, peer.readiness))
        if first and peer is not None:
            # An earlier process of this primary may have reported the replica ready, even a moment ago: take the
            # readiness back, or hold the lease, before serving.
            self.put(bound=peer.replica_id, bound_since=self.now, withdrawing=True, reported_ready=self.state.readiness)
            bound = peer.replica_id
        if bound is not None and (peer is None or peer.replica_id != bound):
            if sent_at <= self.state.bound_since:
                return
            # The replica is not active any more, and never will be again: its lease binds nobody.
            self._unbind()
        known = self.state.standby
        if peer is None:
            if known is not None:
                self.put(standby=None, link_up=False, covered_until=NEVER, unanswered_since=None)
                self.do(Disconnect())
        elif known is None or known.replica_id != peer.replica_id:
            self.put(
                standby=peer,
                link_up=False,
                link_down_since=self.now,
                covered_until=NEVER,
                # What the process before left is of the replica that may be ready: only that binds.
                lease_until=self.state.lease_until if first else NEVER,
                unanswered_since=None,
            )
            self.do(Connect(peer))
        else:
            self.put(standby=peer)

    def _take_handover(self, orders: Orders) -> None:
        handover = orders.handover
        if handover is None:
            return
        if self.state.frozen_for is not None and (
            handover.handover_id != self.state.frozen_for or handover.state is HandoverState.ABORTED
        ):
            # Another handover of the same epoch can only follow an aborted one.
            self._unfreeze(self.state.frozen_for)
        if handover.state is not HandoverState.OPEN or handover.handover_id in self.state.ended_handovers:
            return
        if handover.replica_id != self.state.bound:
            # The replica is not bound to us, so it is not ready and can not be promoted: make way for the next attempt.
            self.put(abort_wanted=handover.handover_id)
        elif self.state.frozen_for is None:
            self.put(frozen_for=handover.handover_id, frozen_at=self.now, final_sent=False, final_held=False)

    def _take_link(self, replica_id: str, *, up: bool) -> None:
        if self.state.standby is None or self.state.standby.replica_id != replica_id:
            return
        since = None if up else (self.state.link_down_since if not self.state.link_up else self.now)
        self.put(link_up=up, link_down_since=since, unanswered_since=None)

    def _take_lease(self, event: LeaseAnswered) -> None:
        if self.state.standby is None or self.state.standby.replica_id != event.replica_id:
            return
        if not event.granted:
            self.put(unanswered_since=None)
            if self.state.bound is not None and self.state.frozen_for is None:
                self.put(withdrawing=True)
            return
        self.put(lease_until=max(self.state.lease_until, lease.held_until(event.asked_at)), unanswered_since=None)
        if self.state.bound == event.replica_id:
            self.do(self._fence_of_lease)

    def _take_covered(self, event: Covered) -> None:
        if self.state.standby is None or self.state.standby.replica_id != event.replica_id:
            return
        if event.until >= self.state.covered_until:
            self.put(covered_until=event.until, covered_until_wall=event.until_wall, generation=event.generation)
        if event.final_for is not None and event.final_for == self.state.frozen_for:
            self.put(final_held=True)
            self.do(Beat())

    def _take_ready_answer(self, event: ReadyAnswered) -> None:
        if event.replica_id != self.state.bound or event.readiness != self.state.readiness:
            return
        match event.outcome:
            case Outcome.DONE:
                self.put(ready_acknowledged=True)
            case Outcome.REFUSED:
                self.put(withdrawing=True)
            case Outcome.UNKNOWN:
                pass

    def _take_unready_answer(self, event: UnreadyAnswered) -> None:
        # Any withdrawal that is above the last ready report will do, not only the latest: answers may take longer than
        # the next withdrawal, and whatever was sent below it is void.
        if event.replica_id != self.state.bound or event.readiness <= self.state.reported_ready:
            return
        match event.outcome:
            case Outcome.DONE:
                self._unbind()
            case Outcome.REFUSED if event.readiness == self.state.readiness:
                # Our number is not the highest: ask what is, and try again above it.
                self.put(withdrawal_sent_at=NEVER)
                self.do(Beat())
            case _:
                pass

    def _take_abort_answer(self, event: AbortAnswered) -> None:
        match event.outcome:
            case Outcome.DONE:
                self._unfreeze(event.handover_id)
            case Outcome.REFUSED:
                if self.state.abort_wanted == event.handover_id:
                    self.put(abort_wanted=None)
                self.do(Beat())
            case Outcome.UNKNOWN:
                pass

    def _take_workload_stopped(self) -> None:
        if self.state.workload in BUSY:
            failures = self.state.start_failures + 1
            delay = min(0.25 * 2**failures, LONGEST_RESTART_DELAY_SECONDS)
            self.put(start_failures=failures, start_after=self.now + delay)
        self.put(workload=Workload.STOPPED)
        self.do(Beat())

    def _take_rebalance(self) -> None:
        if self.now - self.state.rebalance_sent_at >= REBALANCE_REPEAT_SECONDS and self.state.standby is None:
            self.put(rebalance_sent_at=self.now)
            self.do(ReportRebalance())

    @property
    def _fence_of_lease(self) -> SetFence:
        return SetFence(self.state.lease_until, lease.hold_at(self.state.lease_until))

    def _unbind(self) -> None:
        self.put(bound=None, withdrawing=False, ready_acknowledged=False)
        self.do(SetFence(None))

    def _unfreeze(self, handover_id: str) -> None:
        self.put(ended_handovers=(*self.state.ended_handovers[-7:], handover_id))
        if self.state.abort_wanted == handover_id:
            self.put(abort_wanted=None)
        if self.state.frozen_for == handover_id:
            self.put(frozen_for=None, final_sent=False, final_held=False)

    def _retire(self, current_epoch: int) -> Retired:
        self.do(Remember(role=Role.RETIRED, epoch=current_epoch))
        self.do(Stop(f"epoch {self.state.epoch} is over, the agent is at {current_epoch}"), Disconnect(), FlushTail())
        self.do(Beat())
        return Retired(
            epoch=current_epoch,
            last_beat=self.state.last_beat,
            readiness=self.state.readiness,
            restore=self.state.restore,
            live=not self.state.restore,
            soon_until=self.now + SOON_SECONDS,
            notice_deadline=self.state.notice_deadline,
            notice_sent_at=self.state.notice_sent_at,
        )

    # --- what the state, as it is now, calls for ---

    def settle(self) -> None:
        if self.state.confirmed:
            self._report_notice()
            self._ask_lease()
            self._give_or_take_back_readiness()
            self._hand_over()
            self._take_last_snapshot()
            self._run_workload()
        self._set_pace()

    def _report_notice(self) -> None:
        deadline = self.state.notice_deadline
        if deadline is not None and self.now - self.state.notice_sent_at >= NOTICE_REPEAT_SECONDS:
            self.put(notice_sent_at=self.now)
            self.do(ReportNotice(deadline), Beat())

    @property
    def _close_behind(self) -> bool:
        return self.now - self.state.covered_until <= LAG_INTERVALS * self.state.sync_interval_seconds

    @property
    def _lag_seconds(self) -> float:
        """How far behind the standby is; infinite while this process knows of nothing that it holds."""
        return round(max(self.now - self.state.covered_until, 0.0), 3)

    def _ask_lease(self) -> None:
        state = self.state
        wanted = state.bound is not None or self._close_behind
        due = self.now - state.asked_at >= lease.RENEW_EVERY_SECONDS
        if state.standby is None or not state.link_up or not wanted or not due:
            return
        unanswered = state.unanswered_since if state.unanswered_since is not None else self.now
        self.put(request=state.request + 1, asked_at=self.now, unanswered_since=unanswered)
        lag_seconds = None if state.covered_until == NEVER else self._lag_seconds
        self.do(AskLease(state.standby.replica_id, self.state.request, self.now, lag_seconds))

    def _give_or_take_back_readiness(self) -> None:
        state = self.state
        if state.frozen_for is not None:
            # A frozen primary serves nothing; taking readiness back now would only undo the handover.
            return
        if state.bound is None:
            self._report_ready()
            return
        too_far_behind = self.now - state.covered_until > (
            LAG_INTERVALS * state.sync_interval_seconds + LAG_GRACE_SECONDS
        )
        unanswered = state.unanswered_since is not None and self.now - state.unanswered_since >= ASK_UNANSWERED_SECONDS
        if not state.link_up or too_far_behind or unanswered:
            self.put(withdrawing=True)
        if self.state.withdrawing:
            self._withdraw()
        elif not state.ready_acknowledged and self.now - state.ready_sent_at >= RETRY_SECONDS:
            self._send_ready()

    def _report_ready(self) -> None:
        state = self.state
        # Half the lease must be left, so that the report itself can not eat it up.
        lease_fresh = state.lease_until - self.now >= lease.LEASE_SECONDS / 2
        if state.standby is None or not state.link_up or not lease_fresh or not self._close_behind:
            return
        if state.workload is not Workload.RUNNING:
            return
        self.put(
            bound=state.standby.replica_id,
            bound_since=self.now,
            readiness=state.readiness + 1,
            reported_ready=state.readiness + 1,
            ready_acknowledged=False,
            withdrawing=False,
            withdrawal_sent_at=NEVER,
        )
        self.do(Remember(readiness=self.state.readiness), self._fence_of_lease)
        self._send_ready()

    def _send_ready(self) -> None:
        state = self.state
        if state.bound is None:
            return
        self.put(ready_sent_at=self.now)
        self.do(
            ReportReady(
                state.bound,
                state.readiness,
                lag_seconds=self._lag_seconds,
                covered_until=state.covered_until_wall,
                generation=state.generation,
            )
        )

    def _withdraw(self) -> None:
        state = self.state
        if state.bound is None or self.now - state.withdrawal_sent_at < RETRY_SECONDS:
            return
        # A new number each time: whatever was sent before, ready or unready, is void once this one is in.
        self.put(withdrawal_sent_at=self.now, readiness=state.readiness + 1)
        self.do(Remember(readiness=self.state.readiness), ReportUnready(state.bound, self.state.readiness))

    def _hand_over(self) -> None:
        state = self.state
        if state.abort_wanted is not None and state.abort_wanted != state.frozen_for:
            self._abort(state.abort_wanted)
        if state.frozen_for is None or state.final_held:
            return
        if state.workload is Workload.RUNNING:
            self.put(workload=Workload.FREEZING, frozen_at=self.now)
            self.do(Freeze(state.frozen_for))
        elif state.workload in QUIET and state.bound is not None and state.link_up and not state.final_sent:
            self.put(final_sent=True)
            self.do(ShipFinal(state.bound, state.frozen_for, state.readiness))
        link_gone = state.link_down_since is not None and (
            self.now - max(state.link_down_since, state.frozen_at) >= ABORT_WITHOUT_LINK_SECONDS
        )
        if link_gone or self.now - state.frozen_at >= ABORT_WITHOUT_FINAL_SECONDS:
            self._abort(state.frozen_for)

    def _take_last_snapshot(self) -> None:
        """Freeze before the end if nobody can take over: what is acknowledged after the last snapshot would be lost.

        The link goes as well: what is still on its way over it would only hold up the snapshot.
        """
        state = self.state
        if state.goes_at is None:
            return
        is_time = -LAST_SNAPSHOT_SECONDS <= self.now - state.goes_at < OVERDUE_SECONDS
        if state.frozen_for_last:
            if not is_time:
                self.put(frozen_for_last=False, last_taken=False, goes_at=None)
            elif state.workload in QUIET and not state.last_taken:
                self.put(last_taken=True)
                self.do(TakeLastSnapshot())
        elif is_time and state.bound is None and state.frozen_for is None and state.workload is Workload.RUNNING:
            self.put(frozen_for_last=True, workload=Workload.FREEZING)
            if state.standby is not None:
                self.put(standby=None, link_up=False, covered_until=NEVER, unanswered_since=None)
                self.do(Disconnect())
            self.do(Freeze(LAST_SNAPSHOT))

    def _abort(self, handover_id: str) -> None:
        if self.now - self.state.abort_sent_at >= RETRY_SECONDS:
            self.put(abort_sent_at=self.now)
            self.do(Abort(handover_id))

    def _run_workload(self) -> None:
        state = self.state
        if may_serve(state, self.now):
            if state.workload is Workload.STOPPED and self.now >= state.start_after:
                self.put(workload=Workload.STARTING)
                self.do(Start(state.epoch, restore=state.restore))
            elif state.workload is Workload.FROZEN:
                self.put(workload=Workload.THAWING)
                self.do(Thaw(state.epoch))
        elif state.frozen_for_last and state.workload is Workload.RUNNING:
            self.put(workload=Workload.FREEZING)
            self.do(Freeze(LAST_SNAPSHOT))
        elif state.frozen_for is None and state.workload in BUSY:
            self.put(workload=Workload.STOPPING)
            self.do(Stop("the lease can not be renewed"))
        elif state.frozen_for is not None and state.workload in (Workload.STARTING, Workload.THAWING):
            self.put(workload=Workload.STOPPING)
            self.do(Stop("a handover begins"))

    def _set_pace(self) -> None:
        state = self.state
        around_handover = (
            state.frozen_for is not None
            or state.under_way
            or state.withdrawing
            or state.notice_deadline is not None
            or not state.confirmed
            # The replica that a recommendation calls for will soon want to be connected.
            or self.now - state.rebalance_sent_at < REBALANCE_REPEAT_SECONDS
        )
        if around_handover:
            beat = BEAT_AROUND_HANDOVER_SECONDS
        elif state.standby is not None:
            beat = min(BEAT_WHILE_BOUND_SECONDS, state.heartbeat_every_seconds)
        else:
            beat = state.heartbeat_every_seconds
        check = NOTICE_CHECK_WHILE_BOUND_SECONDS if state.bound is not None else NOTICE_CHECK_SECONDS
        pace = Pace(beat, check)
        if pace != state.pace:
            self.put(pace=pace)
            self.do(pace)
