"""The agent's loop: one thread owns the protocol's state, everything else is carried to it and away from it.

No rule of the protocol lies here. Events come through one queue; each is given to the role's `decide`, with the clock,
and the actions that come of it are performed in order: what must be durable is made so on the spot, whatever may take
time is handed to threads, whose outcome is an event again.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from spot_agent import wire
from spot_agent.control_plane import Answer, Answered, ControlPlane, OutcomeUnknown, Rejected, StaleEpoch
from spot_agent.fence import boot_clock
from spot_agent.heartbeats import Heartbeats
from spot_agent.holding import Holding
from spot_agent.journal import Journal
from spot_agent.notices import NoticeWatch
from spot_agent.parting import Parting
from spot_agent.pricing import PriceReports
from spot_agent.receiving import Receiver
from spot_agent.restoring import Restoring
from spot_agent.serving import Serving
from spot_agent.shipping import Destination, Shipper
from spot_agent.snapshots import Situation, Snapshots
from spot_agent.sync.link import Peer as LinkPeer
from spot_optimizer.domain import primary, retired, standby
from spot_optimizer.domain.orders import Role
from spot_optimizer.domain.primary import Primary, Workload
from spot_optimizer.domain.protocol import (
    Abort,
    AbortAnswered,
    Action,
    AnswerLease,
    AskLease,
    Beat,
    Commit,
    CommitAnswered,
    Connect,
    Covered,
    Disconnect,
    EpochOver,
    Event,
    FlushTail,
    Freeze,
    HoldState,
    LeaseAsked,
    Listen,
    OrdersReceived,
    Outcome,
    Pace,
    ReadyAnswered,
    Remember,
    ReportNotice,
    ReportReady,
    ReportRebalance,
    ReportSilent,
    ReportUnready,
    RestoreSnapshot,
    SetFence,
    ShipFinal,
    Start,
    Stop,
    TakeLastSnapshot,
    Thaw,
    Tick,
    UnreadyAnswered,
)
from spot_optimizer.domain.retired import Retired
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.snapshots import protection
from spot_optimizer.domain.standby import Standby

log = logging.getLogger(__name__)

State = Primary | Standby | Retired

_TICK_SECONDS: Final = 0.1
_LIFE_SIGN_SECONDS: Final = 2.0
_REQUESTS_AT_ONCE: Final = 16
_LEASES_AT_ONCE: Final = 4
_LAST_GENERATION_SECONDS: Final = 20.0
_LAST_STOP_SECONDS: Final = 40.0
_LAST_WORDS_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop drives.

    Attributes:
        heartbeat_seconds: As configured here: heartbeats are never further apart.
        sync_report_seconds: How often the state of synchronisation is reported.
    """

    instance_id: str
    control_plane: ControlPlane
    journal: Journal
    serving: Serving
    shipper: Shipper
    receiver: Receiver
    snapshots: Snapshots
    restoring: Restoring
    holding: Holding
    notices: NoticeWatch
    pricing: PriceReports
    parting: Parting
    heartbeat_seconds: float
    sync_report_seconds: float


class Runtime:
    """Drives one instance's protocol until it is told to stop."""

    def __init__(
        self,
        state: State,
        events: queue.SimpleQueue[Event],
        parts: Parts,
        *,
        stopping: threading.Event,
        give_life_sign: Callable[[], None],
    ) -> None:
        """Keep what is given; `run` makes it work.

        Args:
            state: What the protocol knows at the start of the process.
            events: Where the parts put their events.
            parts: What the loop drives.
            stopping: Set when the loop is to leave in good order.
            give_life_sign: Tells the supervisor that the loop still turns.
        """
        self._state: State = state
        self._events = events
        self._parts = parts
        self._give_life_sign = give_life_sign
        self._stopping = stopping
        self._failure: BaseException | None = None
        self._heartbeats = Heartbeats(
            compose=self._compose_heartbeat,
            send=parts.control_plane.heartbeat,
            take_answer=self._take_heartbeat_answer,
        )
        self._requests = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="request")
        self._leases = ThreadPoolExecutor(_LEASES_AT_ONCE, thread_name_prefix="lease")
        self._listening = ThreadPoolExecutor(1, thread_name_prefix="listening")
        self._restores = ThreadPoolExecutor(1, thread_name_prefix="restoring")
        self._background = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._sync_reported_at = float("-inf")
        self._sync_reporting = False
        self._ticked_at = float("-inf")
        self._life_sign_at = float("-inf")
        self._leaving = False
        self._commands_answered: set[str] = set()

    def run(self) -> None:
        """Drive the protocol until it is told to leave, and leave.

        Raises:
            BaseException: What broke in a thread that works for the loop. The process should end: its successor
                finds everything that matters in the journal, and the workload goes on as long as the fence lets it.
        """
        self._parts.shipper.begin()
        self._parts.snapshots.begin()
        self._parts.notices.begin()
        self._parts.pricing.begin()
        self._heartbeats.begin()
        while not self._stopping.is_set():
            self._turn()
        self._leave()

    def _turn(self) -> None:
        """Take the next event, and whatever time has brought since the last."""
        try:
            event = self._events.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            event = Tick()
        self._take(event)
        now = boot_clock()
        if not isinstance(event, Tick) and now - self._ticked_at >= _TICK_SECONDS:
            event = Tick()
            self._take(event)
        if isinstance(event, Tick):
            self._ticked_at = now
        if now - self._life_sign_at >= _LIFE_SIGN_SECONDS:
            self._life_sign_at = now
            self._give_life_sign()
        self._report_sync(now)
        if self._failure is not None:
            raise self._failure

    # -- one event

    def _take(self, event: Event) -> None:
        before = self._state
        self._state, actions = decide(before, event, boot_clock())
        if type(before) is not type(self._state):
            log.info("role changed", extra={"role": role_of(self._state), "epoch": self._state.epoch})
        for action in actions:
            self._perform(action, before)
        self._parts.snapshots.situate(situation_of(self._state))
        if isinstance(event, LeaseAsked) and not any(isinstance(action, AnswerLease) for action in actions):
            self._parts.receiver.refuse(event)
        if isinstance(event, Covered) and isinstance(before, Primary) and before.generation == 0:
            self._sync_reported_at = float("-inf")  # a standby that holds something is news

    def _perform(self, action: Action, decided_in: State) -> None:
        """Carry out one action of a decision that was taken in this state: in that role, under that epoch."""
        epoch = decided_in.epoch
        match action:
            case Remember():
                self._remember(action)
            case Beat():
                self._heartbeats.send_now()
            case Pace(heartbeat_seconds, notice_check_seconds):
                self._heartbeats.pace(min(heartbeat_seconds, self._parts.heartbeat_seconds))
                self._parts.notices.pace(notice_check_seconds)
            case AnswerLease():
                self._parts.receiver.answer(action)
            case AskLease():
                self._leases.submit(self._guarded, lambda: self._parts.shipper.ask_lease(action, epoch=epoch))
            case Start() | Stop() | Freeze() | Thaw() | SetFence():
                self._perform_on_workload(action, epoch)
            case Connect() | Listen() | Disconnect() | ShipFinal():
                self._perform_on_link(action, epoch)
            case RestoreSnapshot(handover_id):
                self._restores.submit(self._guarded, lambda: self._parts.restoring.restore(handover_id))
            case HoldState():
                self._restores.submit(self._guarded, self._parts.holding.hold)
            case TakeLastSnapshot():
                log.warning("nobody can take over in time: the workload is frozen for a last snapshot")
            case FlushTail():
                self._background.submit(self._guarded, self._flush_tail)
            case _:
                self._requests.submit(self._guarded, lambda: self._request(action, decided_in))

    def _perform_on_workload(self, action: Start | Stop | Freeze | Thaw | SetFence, epoch: int) -> None:
        serving, shipper = self._parts.serving, self._parts.shipper
        match action:
            case Start() | Thaw() if self._leaving:
                log.info("not started: the agent leaves", extra={"epoch": action.epoch})
            case Start(new_epoch, restore):
                shipper.rest(resting=False)
                serving.start(new_epoch, restore=restore)
            case Stop(reason):
                serving.stop(reason)
            case Freeze(handover_id):
                log.info("freezing", extra={"handover_id": handover_id})
                shipper.rest(resting=True)
                serving.freeze(handover_id)
            case Thaw(new_epoch):
                shipper.rest(resting=False)
                serving.thaw(new_epoch)
            case SetFence(deadline, hold_at):
                serving.fence(epoch, deadline, hold_at=hold_at)

    def _perform_on_link(self, action: Connect | Listen | Disconnect | ShipFinal, epoch: int) -> None:
        receiver, shipper = self._parts.receiver, self._parts.shipper
        match action:
            case Connect(peer):
                to = LinkPeer(address=peer.address, port=peer.port, certificate=peer.certificate)
                shipper.connect(Destination(to, peer.replica_id, epoch))
                self._sync_reported_at = float("-inf")
            case Listen(peer):
                self._listening.submit(self._guarded, lambda: receiver.listen(peer))
            case Disconnect():
                shipper.disconnect()
                self._listening.submit(self._guarded, receiver.stop)
            case ShipFinal():
                shipper.ship_final(action)

    def _remember(self, remembered: Remember) -> None:
        fields = ("readiness", "granting", "refused_at_readiness", "role", "epoch")
        changes = {name: value for name in fields if (value := getattr(remembered, name)) is not None}
        if remembered.role == Role.STANDBY and isinstance(self._state, Standby):
            # Nothing that an earlier replica on this instance promised binds this one; what it holds is an image.
            changes = {"granting": None, "refused_at_readiness": None, "replica_id": self._state.replica_id, **changes}
            changes |= {"live_epoch": None, "live_until": None}
        memory = self._parts.journal.memory
        if remembered.role == Role.RETIRED and memory.role == Role.PRIMARY:
            changes |= {"live_epoch": memory.epoch, "live_until": datetime.now(UTC).isoformat()}
        self._parts.journal.remember(**changes)

    # -- requests to the control plane

    def _request(self, action: Action, state: State) -> None:
        api, instance_id, epoch = self._parts.control_plane, self._parts.instance_id, state.epoch
        match action:
            case ReportReady(replica_id, readiness):
                answer = api.report_sync(replica_id, wire.ready(action, epoch=epoch))
                self._conclude(answer, lambda outcome: ReadyAnswered(replica_id, readiness, outcome))
            case ReportUnready(replica_id, readiness):
                answer = api.report_unready(replica_id, {"epoch": epoch, "readiness": readiness})
                self._conclude(answer, lambda outcome: UnreadyAnswered(replica_id, readiness, outcome))
            case Commit(handover_id, basis):
                log.info(
                    "asking for promotion",
                    extra={"handover_id": handover_id, "basis": basis, "covered_until": action.covered_until},
                )
                answer = api.commit(handover_id, wire.commit(action, epoch=epoch))
                new_epoch = answer.body.get("epoch") if isinstance(answer, Answered) else None
                self._conclude(answer, lambda outcome: CommitAnswered(handover_id, outcome, new_epoch))
            case Abort(handover_id):
                answer = api.abort(handover_id, {"epoch": epoch})
                self._conclude(answer, lambda outcome: AbortAnswered(handover_id, outcome))
            case ReportNotice(deadline):
                self._parts.shipper.hurry()
                self._parts.pricing.stop()
                log.warning("interruption notice", extra={"termination_time": deadline})
                own = state.replica_id if isinstance(state, Standby) else None
                self._tell(api.report_termination(wire.termination(instance_id, deadline, own, epoch=epoch)))
            case ReportRebalance():
                log.warning("rebalance recommendation")
                signal = wire.signal(instance_id, SignalType.REBALANCE_RECOMMENDATION, epoch=epoch)
                self._tell(api.ask_for_replica(signal))
            case ReportSilent():
                log.warning("the primary is silent")
                if isinstance(state, Standby) and state.peer is not None:
                    signal = wire.signal(state.peer.instance_id, SignalType.PRIMARY_SILENT, epoch=epoch)
                    self._tell(api.ask_for_replica(signal))
            case _:
                raise TypeError(f"no way to perform {action!r}")

    def _conclude(self, answer: Answer, event: Callable[[Outcome], Event]) -> None:
        """Turn the end of a request into the one event that the protocol waits for."""
        match answer:
            case StaleEpoch(current_epoch):
                self._events.put(EpochOver(current_epoch))
            case Answered():
                self._events.put(event(Outcome.DONE))
            case Rejected(status, problem):
                log.info("refused", extra={"status": status, "problem": dict(problem)})
                self._events.put(event(Outcome.REFUSED))
            case OutcomeUnknown(reason):
                log.warning("no answer to rely on", extra={"reason": reason})
                self._events.put(event(Outcome.UNKNOWN))

    def _tell(self, answer: Answer) -> None:
        """Note the end of a request that the protocol does not wait for; it repeats what matters."""
        match answer:
            case StaleEpoch(current_epoch):
                self._events.put(EpochOver(current_epoch))
            case Rejected(status, problem):
                log.warning("a report was refused", extra={"status": status, "problem": dict(problem)})
            case OutcomeUnknown(reason):
                log.warning("a report may not have arrived", extra={"reason": reason})
            case Answered():
                pass

    # -- heartbeats and reports

    def _compose_heartbeat(self) -> Mapping[str, Any]:
        state = self._state
        return wire.heartbeat(
            instance_id=self._parts.instance_id,
            epoch=state.epoch,
            role=role_of(state),
            serving=isinstance(state, Primary) and state.workload is Workload.RUNNING,
            healthy=self._parts.serving.healthy,
            beat_at=datetime.now(UTC),
            protected=self._protected(state),
        )

    def _protected(self, state: State) -> Mapping[str, Any]:
        """How well the state is protected, and from what that follows; nothing where this is no primary."""
        if not isinstance(state, Primary):
            return {}
        measured = self._parts.snapshots.measured
        # What was carried to a standby says most about a standby; the way to S3 stands in.
        carried = self._parts.shipper.carried
        sizes = [each.state_bytes for each in (measured, carried) if each is not None]
        rates = [each.bytes_per_second for each in (carried, measured) if each is not None]
        changed = self._parts.shipper.changed_bytes_per_second
        if changed is None and measured is not None:
            changed = measured.changed_bytes_per_second
        state_bytes, rate = next(iter(sizes), None), next((rate for rate in rates if rate is not None), None)
        cost = None if measured is None else measured.usd_per_day
        said = protection(standby_ready=state.bound is not None, state_bytes=state_bytes, bytes_per_second=rate)
        found = {
            "protection": said,
            "state_bytes": state_bytes,
            "state_bytes_per_second": rate,
            "changed_bytes_per_second": changed,
            "snapshot_usd_per_day": None if cost is None else float(cost),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _take_heartbeat_answer(self, number: int, sent_at: float, answer: Answer) -> None:
        match answer:
            case Answered(body):
                try:
                    orders = wire.parse_orders(body)
                except wire.AnswerNotUnderstood:
                    log.exception("orders not understood; keeping to what was known")
                    return
                self._events.put(OrdersReceived(number, sent_at, orders))
                self._parts.shipper.pace(orders.sync_interval_seconds)
                self._answer_commands(body)
            case _:
                self._tell(answer)

    def _answer_commands(self, body: Mapping[str, Any]) -> None:
        """Say of each pending command that this version does not know it, so that it does not wait for ever."""
        for command_id in wire.parse_command_ids(body):
            if command_id not in self._commands_answered:
                self._commands_answered.add(command_id)
                self._requests.submit(self._guarded, partial(self._answer_command, command_id))

    def _answer_command(self, command_id: str) -> None:
        self._tell(self._parts.control_plane.answer_command(command_id, wire.UNKNOWN))

    def _report_sync(self, now: float) -> None:
        state = self._state
        due = now - self._sync_reported_at >= self._parts.sync_report_seconds
        if not isinstance(state, Primary) or state.standby is None or not due or self._sync_reporting:
            return
        shipped, under_way = self._parts.shipper.shipped, self._parts.shipper.progress
        if shipped is None and under_way is None:
            return
        self._sync_reported_at = now
        self._sync_reporting = True
        replica_id = state.standby.replica_id
        body = wire.progress(
            epoch=state.epoch,
            generation=0 if shipped is None else shipped.generation,
            percent=100.0 if shipped is not None else under_way.percent if under_way is not None else 0.0,
            lag_seconds=None if shipped is None else round(max(now - shipped.until, 0.0), 3),
            covered_until=None if shipped is None else shipped.until_wall,
            under_way=under_way,
        )

        def report() -> None:
            try:
                self._tell(self._parts.control_plane.report_sync(replica_id, body))
            finally:
                self._sync_reporting = False

        self._requests.submit(self._guarded, report)

    # -- the end

    def fail(self, error: BaseException) -> None:
        """Have `run` raise what broke somewhere else."""
        self._failure = error
        self._events.put(Tick())

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again, by the loop
            self.fail(error)

    def _flush_tail(self) -> None:
        self._parts.serving.await_stopped(_LAST_WORDS_SECONDS)  # the tail should tell of that as well
        self._parts.parting.flush()

    def _leave(self) -> None:
        """SIGTERM: the workload ends in good order, and what it wrote last is shipped, while the supervisor waits."""
        log.info("leaving", extra={"role": role_of(self._state), "epoch": self._state.epoch})
        parts = self._parts
        self._leaving = True
        give_up_at = boot_clock() + _LAST_STOP_SECONDS
        parts.serving.stop("the agent was told to end")
        while parts.serving.running and boot_clock() < give_up_at:
            self._turn()  # the lease goes on being renewed while the workload takes its time to stop
        if parts.serving.running:
            log.error("the workload does not end; leaving it to the supervisor")
        parts.notices.close()
        parts.pricing.stop()
        parts.snapshots.close()
        parts.shipper.close()
        if not parts.serving.running and parts.shipper.ship_last(_LAST_GENERATION_SECONDS):
            log.info("last generation shipped")
        while not self._events.empty():
            self._turn()
        self._heartbeats.close()
        self._tell(parts.control_plane.heartbeat(self._compose_heartbeat()))
        parts.receiver.stop()
        parts.parting.flush()
        parts.serving.close()


def decide(state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """Let the role decide."""
    match state:
        case Primary():
            return primary.decide(state, event, now)
        case Standby():
            return standby.decide(state, event, now)
        case Retired():
            return retired.decide(state, event, now)


def situation_of(state: State) -> Situation | None:
    """What the protocol's state means for snapshots; None where none are taken.

    A workload that was never started under this epoch has written nothing yet: what lies there is an image received.
    """
    if not isinstance(state, Primary) or not state.confirmed or state.restore:
        return None
    return Situation(
        epoch=state.epoch,
        standby_ready=state.bound is not None,
        noticed=state.notice_deadline is not None,
        last=state.last_taken,
    )


def role_of(state: State) -> Role:
    """What this instance takes itself for."""
    match state:
        case Primary():
            return Role.PRIMARY
        case Standby():
            return Role.STANDBY
        case Retired():
            return Role.RETIRED
