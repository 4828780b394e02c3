"""An agent's process: the product's own `decide`, driven as its own loop drives it, able to die at any step.

Mirrors `spot_agent.runtime` and the parts that it drives. What an action takes (threads, HTTP, TLS, disks) is modelled;
what is decided, and what is taken up again after a restart (`spot_agent.joining.resume`), is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulation import api
from simulation.machine import Image, Machine, Serving
from simulation.network import CONTROL_PLANE, Link
from simulation.snapshots import Snapshotting
from spot_agent.joining import resume
from spot_agent.runtime import decide, role_of
from spot_agent.workload import WorkloadStatus
from spot_optimizer.domain import lease, primary, standby
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.orders import Peer, Role
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
    GenerationCommitted,
    HoldState,
    LeaseAnswered,
    LeaseAsked,
    LinkChanged,
    Listen,
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
    ReportSilent,
    ReportUnready,
    RestoreSnapshot,
    SetFence,
    ShipFinal,
    ShippingFailed,
    Start,
    StateHeld,
    Stop,
    TakeLastSnapshot,
    Thaw,
    Tick,
    UnreadyAnswered,
)
from spot_optimizer.domain.retired import Retired
from spot_optimizer.domain.standby import Standby
from spot_optimizer.errors import OutcomeUnknown, SpotOptimizerError, StaleEpoch, Transient

if TYPE_CHECKING:
    from simulation.world import World

REQUEST_SECONDS = 3.0
TICK_SECONDS = 0.25
BEATS_IN_FLIGHT = 3
PROGRESS_SECONDS = 10.0
LEASE_ANSWER_SECONDS = 2.0
FIRST_JOIN_PAUSE_SECONDS = 0.5
LONGEST_JOIN_PAUSE_SECONDS = 10.0

State = Primary | Standby | Retired
Answer = Callable[[Any, SpotOptimizerError | None], None]


class AgentProcess:
    """One run of the agent on one machine; a restart is another one.

    Attributes:
        alive: The process exists.
        paused: It exists and does nothing; what reaches it waits.
    """

    def __init__(self, world: World, machine: Machine, *, replica_id: str | None = None) -> None:
        self.world = world
        self.kernel = world.kernel
        self.machine = machine
        self.instance_id = machine.instance_id
        self.alive = True
        self.paused = False
        self.state: State | None = None
        self._replica_to_join = replica_id
        self._join_again_after = FIRST_JOIN_PAUSE_SECONDS / 2
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._serving = Serving(
            machine, self._emit, start_fails=self._start_fails, on_restored=world.ledger.check_restored
        )
        self._beat_every = 5.0
        self._beat_number = 0
        self._beats_in_flight = 0
        self._beat_wanted = False
        self._beat_sent_at = float("-inf")
        self._beat_alarm_at = float("inf")
        self._tick_due = float("inf")
        self._notice_check = 5.0
        self._listening_to: Peer | None = None
        self._destination: tuple[Peer, int] | None = None
        self.link: Link | None = None
        self._final: ShipFinal | None = None
        self._resting = False
        self._shipping = False
        self._ship_turn = 0
        self._covered: Covered | None = None
        self._progress_at = float("-inf")
        self._sync_interval = 1.0
        self._snapshots = Snapshotting(self)

    # --- life ---

    def begin(self) -> None:
        self.machine.workload.emit = self._emit
        if self.machine.disk.memory.agent_id is None:
            self._join()
        else:
            self._resume()

    def _join(self) -> None:
        if self._replica_to_join is None:
            raise AssertionError("an instance without a replica to join")
        world, replica_id = self.world, self._replica_to_join
        row = api.standby_row(
            world.agent_id,
            replica_id,
            instance_id=self.instance_id,
            pool_id=self.machine.pool_id,
            epoch=0,
            now=self.machine.wall_clock,
        )

        def joined(epoch: Any, failure: SpotOptimizerError | None) -> None:
            if failure is None:
                self._change_memory(agent_id=world.agent_id, epoch=epoch, role=Role.RETIRED)
                self._resume()
            else:
                self.kernel.tell(self.instance_id, "can not join: %s", type(failure).__name__)
                self._join_again_after = min(self._join_again_after * 2, LONGEST_JOIN_PAUSE_SECONDS)
                self.kernel.after(self._join_again_after, self._unless_gone, self._join)

        self._request(
            "join", lambda plane: api.join(plane, world.agent_id, replica_id=replica_id, instance=row), joined
        )

    def _resume(self) -> None:
        disk, workload = self.machine.disk, self.machine.workload
        memory = disk.memory
        if workload.running and not (memory.role == Role.PRIMARY and workload.epoch == memory.epoch):
            workload.end("it runs under an epoch that is over", told=False)
        if memory.restored_epoch is not None and memory.restored_epoch == memory.epoch:
            disk.image = None
        held = None if disk.image is None else _as_event(disk.image)
        status = WorkloadStatus(running=workload.running, epoch=workload.epoch, deadline=workload.deadline)
        self.state = resume(memory, status, held, now=self.machine.boot_clock)
        self.kernel.tell(self.instance_id, "agent runs as %s, epoch %s", role_of(self.state), self.state.epoch)
        if isinstance(self.state, Primary) and self.state.workload is Workload.FREEZING:
            self._rest(resting=True)
            self._serving.freeze("")
        self._beat_wanted = True
        self._beat()
        self._set_tick()
        self.look_for_notices()

    def end(self, reason: str) -> None:
        """Killed: everything but the disk, the workload and the fence is gone."""
        if not self.alive:
            return
        self.alive = False
        self.kernel.tell(self.instance_id, "AGENT ENDS: %s", reason)
        self._serving.close()
        self._waiting.clear()
        if self.link is not None:
            self.link.broken(slowly=not self.machine.alive)

    def pause(self, *, paused: bool) -> None:
        if not self.alive or self.paused == paused:
            return
        self.paused = paused
        self.kernel.tell(self.instance_id, "agent %s", "paused" if paused else "continues")
        while not self.paused and self._waiting and self.alive:
            act, arguments = self._waiting.popleft()
            act(*arguments)

    def _unless_gone(self, act: Callable[..., None], *arguments: Any) -> None:
        """Do something now; if the process is paused, when it continues; if it is gone, never."""
        if not self.alive:
            return
        if self.paused:
            self._waiting.append((act, arguments))
        else:
            act(*arguments)

    def _later(self, delay: float, act: Callable[..., None], *arguments: Any) -> None:
        self.kernel.after(delay, self._unless_gone, act, *arguments)

    # --- events and actions ---

    def _emit(self, event: Event) -> None:
        self._later(0.0005, self._take, event)

    def _take(self, event: Event) -> None:
        before = self.state
        if before is None:
            return
        self.world.cover_event(before, event)
        self.state, actions = decide(before, event, self.machine.boot_clock)
        self.world.invariants.check_decision(self.instance_id, before, event, self.state, actions)
        if type(before) is not type(self.state):
            self.kernel.tell(self.instance_id, "becomes %s at epoch %s", role_of(self.state), self.state.epoch)
        for action in actions:
            if self.world.strikes(self, f"agent:{type(action).__name__}"):
                return
            self._perform(action, before)
            if self.world.strikes(self, f"agent:{type(action).__name__}!"):
                return
        if isinstance(event, LeaseAsked) and not any(isinstance(action, AnswerLease) for action in actions):
            self._answer_lease(AnswerLease(event.request, granted=False, reason="this is no standby now"))
        if isinstance(event, Covered):
            first = self._covered is None
            self._covered = event
            if first:
                self._progress_at = float("-inf")
        self._report_progress()
        self._snapshots.consider()
        self._set_tick()

    def _tick(self, due: float) -> None:
        if due != self._tick_due or not self.alive:
            return
        self._tick_due = float("inf")
        if self.paused:
            self._waiting.append((self._take, (Tick(),)))
        else:
            self._take(Tick())

    def _set_tick(self) -> None:
        """Tick when time alone would next change something; ticks before that are skipped, see `next_change`."""
        state, now = self.state, self.machine.boot_clock
        if state is None:
            return
        due = max(next_change(state, now), now) + TICK_SECONDS * (0.1 + 0.9 * self.kernel.chance.random())
        if due < self._tick_due - TICK_SECONDS or self._tick_due <= now:
            self._tick_due = due
            self.kernel.after(self.machine.true_delay(due - now), self._tick, due)

    def _perform(self, action: Action, decided_in: State) -> None:  # noqa: C901 - one flat case per action
        epoch = decided_in.epoch
        kernel = self.kernel
        match action:
            case Remember():
                self._remember(action)
            case Beat():
                self._beat_wanted = True
                self._later(0.0, self._beat)
            case Pace(heartbeat_seconds, notice_check_seconds):
                self._beat_every = heartbeat_seconds
                self._notice_check = min(notice_check_seconds, 5.0)
                self._beat_later()
            case AnswerLease():
                self._answer_lease(action)
            case AskLease():
                self._ask_lease(action, epoch)
            case Start(new_epoch, restore):
                kernel.tell(self.instance_id, "starts the workload under epoch %s", new_epoch)
                self._rest(resting=False)
                self._serving.start(new_epoch, restore=restore)
            case Stop(reason):
                kernel.tell(self.instance_id, "stops the workload: %s", reason)
                self._serving.stop(reason)
            case Freeze(handover_id):
                kernel.tell(self.instance_id, "freezes for %s", handover_id)
                self._rest(resting=True)
                self._serving.freeze(handover_id)
            case Thaw(new_epoch):
                kernel.tell(self.instance_id, "thaws")
                ended = self.state.ended_handovers if isinstance(self.state, Primary) else ()
                self.world.invariants.check_thaw(self.instance_id, ended)
                self._rest(resting=False)
                self._serving.thaw(new_epoch)
            case SetFence(deadline, hold_at):
                self._serving.fence(epoch, deadline, hold_at)
            case Connect(peer):
                self._connect_to(peer, epoch)
            case Listen(peer):
                self._listening_to = peer
            case Disconnect():
                self._listening_to = None
                self._destination = None
                self._covered = None
                self._drop_link()
            case ShipFinal():
                kernel.tell(self.instance_id, "ships the final generation of %s", action.handover_id)
                self._rest(resting=True)
                self._final = action
                self._ship()
            case HoldState():
                self._later(kernel.soon(0.3), self._hold_state)
            case TakeLastSnapshot():
                kernel.tell(self.instance_id, "is frozen for a last snapshot")
            case RestoreSnapshot(handover_id):
                kernel.tell(self.instance_id, "restores a snapshot for %s", handover_id)
                self._snapshots.restore(handover_id)
            case FlushTail():
                pass
            case _:
                self._perform_request(action, decided_in)

    def _remember(self, remembered: Remember) -> None:
        fields = ("readiness", "granting", "refused_at_readiness", "role", "epoch")
        changes = {name: value for name in fields if (value := getattr(remembered, name)) is not None}
        if remembered.role == Role.STANDBY and isinstance(self.state, Standby):
            changes = {"granting": None, "refused_at_readiness": None, "replica_id": self.state.replica_id, **changes}
            changes |= {"live_epoch": None, "live_until": None}
        memory = self.machine.disk.memory
        if remembered.role == Role.RETIRED and memory.role == Role.PRIMARY:
            changes |= {"live_epoch": memory.epoch, "live_until": self.machine.wall_clock.isoformat()}
        self._change_memory(**changes)

    def _hold_state(self) -> None:
        """As `spot_agent.holding`: what was last live becomes an image, once nothing of the workload is left."""
        disk, workload = self.machine.disk, self.machine.workload
        memory = disk.memory
        if disk.image is None and memory.live_epoch is not None and disk.log is not None:
            if workload.running:
                self._later(0.2, self._hold_state)
                return
            disk.image = Image(
                number=self.next_generation(),
                epoch=memory.live_epoch,
                log=disk.log,
                length=len(disk.log),
                covered_until=memory.live_until or self.machine.wall_clock.isoformat(),
                taken_at=self.kernel.now,
            )
            if self.world.strikes(self, "agent:state held"):
                return
        held = disk.image
        self.kernel.tell(self.instance_id, "holds %s", "nothing" if held is None else f"{held.length} writes")
        self._emit(StateHeld(0) if held is None else StateHeld(held.number, held.covered_until, held.epoch))

    def _change_memory(self, **changes: Any) -> None:
        self.machine.disk.memory = replace(self.machine.disk.memory, **changes)

    # --- requests ---

    def _perform_request(self, action: Action, state: State) -> None:
        caller = api.Caller(self.world.agent_id, self.instance_id, state.epoch)
        tell = self.kernel.tell
        match action:
            case ReportReady(replica_id, readiness, lag_seconds, covered_until, _):
                tell(self.instance_id, "reports %s ready (%s)", replica_id, readiness)
                self._request(
                    "ready",
                    lambda plane: api.ready(
                        plane,
                        caller,
                        replica_id=replica_id,
                        readiness=readiness,
                        lag_seconds=lag_seconds,
                        covered_until=covered_until,
                    ),
                    self._concluding(lambda outcome, _: ReadyAnswered(replica_id, readiness, outcome)),
                )
            case ReportUnready(replica_id, readiness):
                tell(self.instance_id, "takes readiness of %s back (%s)", replica_id, readiness)
                self._request(
                    "unready",
                    lambda plane: api.unready(plane, caller, replica_id=replica_id, readiness=readiness),
                    self._concluding(lambda outcome, _: UnreadyAnswered(replica_id, readiness, outcome)),
                )
            case Commit(handover_id, basis, readiness, _, held_until, lag):
                tell(self.instance_id, "asks for promotion by %s on %s (%s)", handover_id, basis, readiness)
                self.world.invariants.check_commit_asked(self.instance_id, handover_id, basis, readiness)
                self._request(
                    "commit",
                    lambda plane: api.commit(
                        plane,
                        caller,
                        handover_id=handover_id,
                        basis=basis,
                        readiness=readiness,
                        covered_until=held_until,
                        lag_seconds=lag,
                    ),
                    self._concluding(lambda outcome, epoch: CommitAnswered(handover_id, outcome, epoch)),
                )
            case Abort(handover_id):
                tell(self.instance_id, "asks to abort %s", handover_id)
                self._request(
                    "abort",
                    lambda plane: api.abort(plane, caller, handover_id=handover_id),
                    self._concluding(lambda outcome, _: AbortAnswered(handover_id, outcome)),
                    about=handover_id,
                )
            case ReportNotice(deadline):
                self._request("notice", lambda plane: api.notice(plane, caller, deadline=deadline), self._telling)
            case ReportRebalance():
                self._request("rebalance", lambda plane: api.rebalance(plane, caller), self._telling)
            case ReportSilent():
                if isinstance(state, Standby) and state.peer is not None:
                    primary = state.peer.instance_id
                    tell(self.instance_id, "reports %s silent", primary)
                    self._request(
                        "silent", lambda plane: api.silent(plane, caller, primary_instance_id=primary), self._telling
                    )
            case _:
                raise TypeError(f"no way to perform {action!r}")

    def _request(self, name: str, work: Callable[[Any], Any], answer: Answer, *, about: str | None = None) -> None:
        """Ask the control plane; answers once: with the result, with its failure, or with `OutcomeUnknown` in time."""
        answered = False
        network = self.world.network

        def take(result: Any, failure: SpotOptimizerError | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                self._unless_gone(answer, result, failure)

        def send_back(result: Any, failure: SpotOptimizerError | None) -> None:
            if not network.send(CONTROL_PLANE, self.instance_id, f"answer to {name}", take, result, failure):
                give_up()

        def give_up() -> None:
            self.kernel.after(sent_at + REQUEST_SECONDS - self.kernel.now, take, None, OutcomeUnknown("no answer"))

        sent_at = self.kernel.now
        if self.world.is_troubled:
            give_up()
        serve = self.world.serve
        if not network.send(self.instance_id, CONTROL_PLANE, name, serve, name, work, send_back, give_up, about):
            give_up()

    def _concluding(self, event: Callable[[Outcome, Any], Event]) -> Answer:
        def conclude(result: Any, failure: SpotOptimizerError | None) -> None:
            match failure:
                case None:
                    self._take(event(Outcome.DONE, result))
                case StaleEpoch():
                    self._take(EpochOver(failure.current_epoch))
                case Transient():
                    self._take(event(Outcome.UNKNOWN, None))
                case _:
                    self.kernel.tell(self.instance_id, "is refused: %s: %s", type(failure).__name__, failure)
                    self._take(event(Outcome.REFUSED, None))

        return conclude

    def _telling(self, _result: Any, failure: SpotOptimizerError | None) -> None:
        if isinstance(failure, StaleEpoch):
            self._take(EpochOver(failure.current_epoch))

    # --- for its snapshots ---

    def later(self, delay: float, act: Callable[..., None], *arguments: Any) -> None:
        """Do something later, unless the process is gone by then."""
        self._later(delay, act, *arguments)

    def take(self, event: Event) -> None:
        """Have the protocol take an event."""
        self._take(event)

    def request(self, name: str, work: Callable[[Any], Any], answer: Answer) -> None:
        """Ask the control plane."""
        self._request(name, work, answer)

    def next_generation(self) -> int:
        """A number for a generation, used once on this instance."""
        number = self.machine.disk.memory.generation + 1
        self._change_memory(generation=number)
        return number

    # --- heartbeats ---

    def _beat(self) -> None:
        """Send one if one is due or wanted, as `spot_agent.heartbeats` does."""
        state = self.state
        if state is None or self.paused:
            return
        now = self.machine.boot_clock
        in_turn = self._beats_in_flight == 0 and now - self._beat_sent_at >= self._beat_every - 1e-6
        if not (self._beat_wanted or in_turn) or self._beats_in_flight >= BEATS_IN_FLIGHT:
            return
        self._beat_wanted = False
        self._beat_number += 1
        self._beats_in_flight += 1
        self._beat_sent_at = now
        number = self._beat_number
        caller = api.Caller(self.world.agent_id, self.instance_id, state.epoch)
        role = role_of(state)
        serving = isinstance(state, Primary) and state.workload is Workload.RUNNING

        def answered(orders: Any, failure: SpotOptimizerError | None) -> None:
            self._beats_in_flight -= 1
            if failure is None:
                self._sync_interval = orders.sync_interval_seconds
                self._take(OrdersReceived(number, now, orders))
            else:
                self._telling(None, failure)
            self._beat_later()
            if self._beat_wanted:
                self._later(0.0, self._beat)

        self._request(
            "heartbeat",
            lambda plane: api.heartbeat(plane, caller, role=role, serving=serving, reconciling=self.world),
            answered,
        )

    def _beat_later(self) -> None:
        due = self._beat_sent_at + self._beat_every
        if due < self._beat_alarm_at - 1e-6:
            self._beat_alarm_at = due
            wait = max(due - self.machine.boot_clock, 0.0)
            self._later(self.machine.true_delay(wait) + 1e-5, self._beat_alarm, due)

    def _beat_alarm(self, due: float) -> None:
        if due == self._beat_alarm_at:
            self._beat_alarm_at = float("inf")
            self._beat()
            if self._beats_in_flight == 0:
                self._beat_later()

    def _report_progress(self) -> None:
        state, covered, now = self.state, self._covered, self.machine.boot_clock
        if not isinstance(state, Primary) or state.standby is None or covered is None:
            return
        if covered.replica_id != state.standby.replica_id or now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        caller = api.Caller(self.world.agent_id, self.instance_id, state.epoch)
        lag = max(now - covered.until, 0.0)
        self._request(
            "progress",
            lambda plane: api.progress(
                plane,
                caller,
                replica_id=covered.replica_id,
                generation=covered.generation,
                lag_seconds=lag,
                covered_until=covered.until_wall,
            ),
            self._telling,
        )

    # --- notices ---

    def look_for_notices(self) -> None:
        """Once there is something to see, look as often as the protocol wants."""
        instance = self.world.ec2.instances[self.instance_id]
        if instance.going_at is not None or instance.rebalance:
            self._later(self.kernel.between(0.0, self._notice_check), self._look)

    def _look(self) -> None:
        instance = self.world.ec2.instances[self.instance_id]
        if instance.going_at is not None and instance.going_at > self.kernel.now:
            self._take(NoticeRead(self.world.wall(instance.going_at).isoformat(), instance.going_at - self.kernel.now))
        if instance.rebalance:
            self._take(RebalanceRead())
        # It is seen again and again; only the first time changes anything.
        self._later(30.0, self._look)

    # --- the link, at the primary ---

    def _connect_to(self, peer: Peer, epoch: int) -> None:
        self._drop_link()
        self._destination = (peer, epoch)
        self._final = None
        self._covered = None
        self._try_to_connect(peer)

    def _try_to_connect(self, peer: Peer) -> None:
        if self._destination is None or self._destination[0] is not peer or self.link is not None:
            return
        epoch = self._destination[1]
        other = self.world.processes.get(peer.instance_id)
        network = self.world.network
        if (
            other is not None
            and other.alive
            and not other.paused
            and network.reaches(self.instance_id, other.instance_id)
            and network.reaches(other.instance_id, self.instance_id)
            and other.accepts(self.instance_id)
            and not self.world.weather.hits("lose", "connect")
        ):
            self.link = link = Link(self, other, peer.replica_id, epoch)
            other.take_link(link)
            self._emit(LinkChanged(peer.replica_id, up=True))
            self._later(self.kernel.soon(0.05), self._ship)
        else:
            self._later(self.kernel.between(0.3, 2.0), self._try_to_connect, peer)

    def accepts(self, instance_id: str) -> bool:
        """Whether the listener lets this instance in: it pins the certificate of the primary that it was told of."""
        return self._listening_to is not None and self._listening_to.instance_id == instance_id

    def take_link(self, link: Link) -> None:
        """At the standby: a new connection replaces an earlier one."""
        earlier, self.link = self.link, link
        if earlier is not None:
            earlier.up_at_standby = False
            earlier.broken(slowly=False)
        self._emit(LinkChanged(link.replica_id, up=True))

    def note_link_lost(self, link: Link) -> None:
        if self.link is not link:
            return
        self.link = None
        self._ship_turn += 1
        self._shipping = False
        self._emit(LinkChanged(link.replica_id, up=False))
        if link.primary is self:
            link.broken(slowly=False)
            if self._destination is not None:
                self._later(self.kernel.soon(0.2), self._try_to_connect, self._destination[0])

    def _drop_link(self) -> None:
        link, self.link = self.link, None
        self._final = None
        self._ship_turn += 1
        self._shipping = False
        if link is not None:
            link.up_at_primary = link.up_at_primary and link.primary is not self
            link.up_at_standby = link.up_at_standby and link.standby is not self
            link.broken(slowly=False)

    def _rest(self, *, resting: bool) -> None:
        self._resting = resting
        if not resting:
            self._later(0.0, self._ship)

    def _ship(self) -> None:
        """Take a generation if one is due, and send it; one at a time."""
        link = self.link
        final = self._final
        if link is None or self._shipping or link.primary is not self or (self._resting and final is None):
            return
        self._final = None
        self._shipping = True
        self._ship_turn += 1
        turn = self._ship_turn
        handover_id = None if final is None else final.handover_id
        until, until_wall = self.machine.boot_clock, self.machine.wall_clock.isoformat()
        log = self.machine.disk.log
        if log is None or self.world.weather.hits("fail", "quiesce"):
            self.world.weather.count("failed", "quiesce")
            self._later(self.kernel.soon(0.3), self._shipping_failed, turn, link, handover_id)
            return
        number = self.next_generation()
        image = Image(
            number=number,
            epoch=link.epoch,
            log=log,
            length=len(log),
            covered_until=until_wall,
            taken_at=self.kernel.now,
            final_for=handover_id,
            readiness=None if final is None else final.readiness,
        )
        covered = Covered(link.replica_id, until, until_wall, number, handover_id)
        first = self._covered is None
        takes = self.kernel.between(0.3, 5.0) if first else self.kernel.soon(0.05)
        self._later(takes, link.send_to_standby, "generation", link.standby.take_generation, link, image, turn, covered)

    def take_generation(self, link: Link, image: Image, turn: int, covered: Covered) -> None:
        """At the standby: it is durable before anybody is told."""
        if self.paused:
            self._waiting.append((self.take_generation, (link, image, turn, covered)))
            return
        if self.link is not link:
            return
        held = self.machine.disk.image
        if held is not None and held.epoch == image.epoch and held.number >= image.number:
            return
        if not isinstance(self.state, Standby):
            return
        self.machine.disk.image = image
        if self.world.strikes(self, "agent:generation durable"):
            return
        self._emit(_as_event(image))
        link.send_to_primary("acknowledgement", link.primary.take_acknowledgement, link, turn, covered)

    def take_acknowledgement(self, link: Link, turn: int, covered: Covered) -> None:
        if self.link is not link or self._ship_turn != turn:
            return
        self._shipping = False
        self._ship_turn += 1
        self._unless_gone(self._take, covered)
        if self._final is not None:
            self._ship()
        wait = self._sync_interval - (self.machine.boot_clock - covered.until)
        self._later(self.machine.true_delay(max(wait, 0.0)), self._ship)

    def _shipping_failed(self, turn: int, link: Link, handover_id: str | None) -> None:
        if self._ship_turn != turn:
            return
        self._ship_turn += 1
        self._shipping = False
        self._take(ShippingFailed(link.replica_id, handover_id))
        self._later(self._sync_interval, self._ship)

    # --- the lease ---

    def _ask_lease(self, asked: AskLease, epoch: int) -> None:
        link = self.link
        if link is None or link.replica_id != asked.replica_id or link.primary is not self:
            return
        link.send_to_standby("lease", link.standby.take_lease_ask, link, asked, epoch, self.kernel.now)

    def take_lease_ask(self, link: Link, asked: AskLease, epoch: int, sent_at: float) -> None:
        """At the standby: its loop answers, or nobody does."""
        heard_at = self.world.last_heard_at
        if isinstance(self.state, Standby) and self.state.granting:
            heard_at[link.primary.instance_id] = max(heard_at.get(link.primary.instance_id, 0.0), sent_at)
        number = self.world.next_number()
        self._asks[number] = (link, asked)
        self._unless_gone(self._take, LeaseAsked(number, epoch, asked.request, asked.lag_seconds))

    @property
    def _asks(self) -> dict[int, tuple[Link, AskLease]]:
        return self.world.lease_asks

    def _answer_lease(self, answer: AnswerLease) -> None:
        waiting = self._asks.pop(answer.request, None)
        if waiting is not None:
            link, asked = waiting
            if answer.granted:
                self.world.invariants.granted_at = self.kernel.now
            link.send_to_primary("lease answer", link.primary.take_lease_answer, asked, answer.granted)

    def take_lease_answer(self, asked: AskLease, granted: bool) -> None:
        if self.machine.boot_clock - asked.asked_at <= LEASE_ANSWER_SECONDS or self.paused:
            self._unless_gone(self._take, LeaseAnswered(asked.replica_id, asked.request, asked.asked_at, granted))

    def _start_fails(self) -> bool:
        return self.world.weather.hits("fail", "start")


def next_change(state: State, now: float) -> float:
    """Until when ticks change nothing, as far as is known; `now` where that is not known.

    Agents tick all the time; in a run, most of these steps would be idle. tests/simulation holds this against `decide`.
    """
    match state:
        case Retired():
            return now + 3600.0
        case Primary(confirmed=False):
            return now + 3600.0
        case Primary(workload=Workload.RUNNING, frozen_for=None, frozen_for_last=False, abort_wanted=None):
            return _next_change_at_primary(state, now)
        case Standby(granting=True, commit_in_flight=False, final_for=None, handover=None):
            return _next_change_at_standby(state)
        case Standby(granting=True, commit_in_flight=False, final_for=None) if not (
            state.handover and state.handover.state is HandoverState.OPEN
        ):
            return _next_change_at_standby(state)
        case _:
            return now


def _next_change_at_primary(state: Primary, now: float) -> float:
    moments = [now + 3600.0]
    if state.notice_deadline is not None:
        moments.append(state.notice_sent_at + primary.NOTICE_REPEAT_SECONDS)
    if state.goes_at is not None and state.bound is None and now < state.goes_at + primary.OVERDUE_SECONDS:
        moments.append(max(now, state.goes_at - primary.LAST_SNAPSHOT_SECONDS))
    if state.standby is not None and state.link_up:
        moments.append(state.asked_at + lease.RENEW_EVERY_SECONDS)
    if state.bound is not None:
        lag = primary.LAG_INTERVALS * state.sync_interval_seconds + primary.LAG_GRACE_SECONDS
        moments += [state.lease_until - lease.STOP_EARLY_SECONDS, state.covered_until + lag]
        if state.withdrawing:
            return max(now, state.withdrawal_sent_at + primary.RETRY_SECONDS)
        if not state.ready_acknowledged or not state.link_up:
            return now
        if state.unanswered_since is not None:
            moments.append(state.unanswered_since + primary.ASK_UNANSWERED_SECONDS)
    return min(moments)


def _next_change_at_standby(state: Standby) -> float:
    moments = [float("inf")]
    if state.heard_at is not None:
        moments.append(state.heard_at + lease.SILENCE_SECONDS)
    if state.notice_deadline is not None:
        moments.append(state.notice_sent_at + standby.NOTICE_REPEAT_SECONDS)
    return min(moments)


def _as_event(image: Image) -> GenerationCommitted:
    return GenerationCommitted(
        generation=image.number,
        covered_until=image.covered_until,
        final_for=image.final_for,
        readiness=image.readiness,
        epoch=image.epoch,
    )
