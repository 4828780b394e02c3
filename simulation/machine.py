"""An instance from within: its clocks, its disk, the workload it owns, and the fence that needs nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from spot_agent.journal import Memory
from spot_optimizer.domain import lease
from spot_optimizer.domain.protocol import Event, WorkloadFrozen, WorkloadRunning, WorkloadStopped

if TYPE_CHECKING:
    from simulation.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Image:
    """A generation as a standby holds it durably: a prefix of its primary's log.

    Attributes:
        log: The primary's log itself, which only grows; `length` entries of it are meant.
        taken_at: True time at which it was taken.
    """

    number: int
    epoch: int
    log: list[int]
    length: int
    covered_until: str
    taken_at: float
    final_for: str | None = None
    readiness: int | None = None

    def entries(self) -> list[int]:
        return self.log[: self.length]


@dataclass(slots=True)
class Disk:
    """What survives everything but the instance.

    Attributes:
        memory: The agent's journal.
        log: The workload's data: numbers of the writes it took, in order; None before there was any.
        image: What was received as a standby and is not live yet.
    """

    memory: Memory = field(default_factory=lambda: Memory(registration_key=""))
    log: list[int] | None = None
    image: Image | None = None


class Machine:
    """One EC2 instance: alive until EC2 says otherwise.

    Attributes:
        died_at: When that ended; None while it lives.
        rate: How fast its monotonic clock runs.
        wall_error: How far its wall clock is off, in seconds.
    """

    def __init__(self, kernel: Kernel, instance_id: str, pool_id: str, *, epoch_of_time: datetime) -> None:
        self.kernel = kernel
        self.instance_id = instance_id
        self.pool_id = pool_id
        self.alive = True
        self.died_at: float | None = None
        self.disk = Disk()
        self.rate = 1.0
        self.boot_offset = kernel.between(10.0, 5000.0)
        self.wall_error = 0.0
        self._epoch_of_time = epoch_of_time
        self.workload = Workload(self)

    @property
    def boot_clock(self) -> float:
        """CLOCK_BOOTTIME."""
        return self.boot_offset + self.kernel.now * self.rate

    @property
    def wall_clock(self) -> datetime:
        return self._epoch_of_time + timedelta(seconds=self.kernel.now + self.wall_error)

    def true_delay(self, boot_seconds: float) -> float:
        """How long, truly, until the boot clock has moved so far."""
        return boot_seconds / self.rate

    def die(self) -> None:
        """Everything on it ends at this moment, and its disk with it."""
        self.alive = False
        self.died_at = self.kernel.now
        self.workload.end("the instance died", told=False)


class Workload:
    """The supervisor's side: one run at a time, under an epoch, until the fence's deadline.

    The supervisor and the fence are no part of the agent: they go on while the agent is dead, paused or mad.

    Attributes:
        running: Some process of it lives.
        frozen: It acknowledges nothing.
        paused: Its processes are stopped (SIGSTOP).
        hold_at: From when on the fence holds it, by the boot clock.
        serves_since: When it last began to acknowledge writes; for histories.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._kernel = machine.kernel
        self.running = False
        self.epoch = 0
        self.frozen = False
        self.paused = False
        self.deadline: float | None = None
        self.hold_at: float | None = None
        self._run = 0
        self._fence_armed = False
        self.emit: Callable[[Event], None] = lambda _: None
        self.on_serving_changed: Callable[[Machine], None] = lambda _: None

    @property
    def serves(self) -> bool:
        """Whether a client's write would be acknowledged at this moment, but for the hold.

        No promotion rests on the hold, so what must not happen while somebody serves must not happen while he is held.
        """
        return self.running and not self.frozen and not self.paused

    @property
    def is_held(self) -> bool:
        """Whether the fence holds it, which it does as late as its promise allows."""
        if not self.running or self.hold_at is None:
            return False
        latency = lease.FENCE_LATENCY_SECONDS * self._machine.rate
        return self._machine.boot_clock >= self.hold_at + latency

    def start(self, epoch: int, deadline: float | None) -> str | None:
        """Start a run; why not, if that is refused."""
        if self.running:
            return f"the run of epoch {self.epoch} has not ended"
        if epoch < self.epoch:
            return f"epoch {epoch} is below {self.epoch}"
        if deadline is not None and deadline <= self._machine.boot_clock:
            return "the deadline has passed"
        self._run += 1
        self.running, self.epoch, self.frozen, self.paused, self.deadline = True, epoch, False, False, deadline
        self.hold_at = None
        self._kernel.tell(self._machine.instance_id, "WORKLOAD SERVES under epoch %s", epoch)
        self._arm()
        self.on_serving_changed(self._machine)
        return None

    def move_fence(self, epoch: int, deadline: float | None, hold_at: float | None) -> None:
        if self.running and epoch == self.epoch:
            self.deadline, self.hold_at = deadline, hold_at
            self._arm()

    def freeze(self) -> None:
        if self.running and not self.frozen:
            self.frozen = True
            self._kernel.tell(self._machine.instance_id, "workload frozen")
            self.on_serving_changed(self._machine)

    def thaw(self) -> None:
        if self.running and self.frozen:
            self.frozen = False
            self._kernel.tell(self._machine.instance_id, "WORKLOAD SERVES again under epoch %s", self.epoch)
            self.on_serving_changed(self._machine)

    def pause(self, *, paused: bool) -> None:
        if self.running and self.paused != paused:
            self.paused = paused
            self._kernel.tell(self._machine.instance_id, "workload %s", "paused" if paused else "continues")
            self.on_serving_changed(self._machine)

    def end(self, reason: str, *, told: bool = True) -> None:
        """No process of it is left."""
        if not self.running:
            return
        self.running = False
        self.deadline = None
        self._kernel.tell(self._machine.instance_id, "workload ended: %s", reason)
        self.on_serving_changed(self._machine)
        if told:
            self.emit(WorkloadStopped(reason))

    def _arm(self) -> None:
        if self.deadline is not None and not self._fence_armed:
            self._fence_armed = True
            wait = self._machine.true_delay(self.deadline - self._machine.boot_clock)
            self._kernel.after(wait, self._fence_due, self._run)

    def _fence_due(self, run: int) -> None:
        self._fence_armed = False
        if not self.running or not self._machine.alive or self.deadline is None:
            return
        if run != self._run or self._machine.boot_clock < self.deadline - 1e-9:
            self._arm()
            return
        # Often the latest moment that its promise allows: a margin that is too thin must show.
        latency = lease.FENCE_LATENCY_SECONDS * (1.0 if self._kernel.chance.random() < 0.5 else 0.3)
        self._kernel.after(latency, self._fence_kills, self._run)

    def _fence_kills(self, run: int) -> None:
        if self.running and run == self._run and self._machine.alive:
            # A deadline that was moved while the fence already acted comes too late.
            self.end("fenced")


class Serving:
    """The agent's side: what the protocol wants of the workload, done one after the other; a stop does not wait."""

    def __init__(
        self,
        machine: Machine,
        emit: Callable[[Event], None],
        *,
        start_fails: Callable[[], bool],
        on_restored: Callable[[Machine], None],
    ) -> None:
        self.on_restored = on_restored
        self._machine = machine
        self._kernel = machine.kernel
        self._workload = machine.workload
        self._emit = emit
        self._start_fails = start_fails
        self._queue: list[tuple[str, Callable[[int], None]]] = []
        self._current = 0
        self._busy = False
        self._closed = False
        self._fence = (self._workload.epoch, self._workload.deadline, self._workload.hold_at)

    def close(self) -> None:
        """The agent is gone; what it had begun is not finished."""
        self._closed = True
        self._current += 1

    def remember(self, **changes: Any) -> None:
        self._machine.disk.memory = replace(self._machine.disk.memory, **changes)

    def fence(self, epoch: int, deadline: float | None, hold_at: float | None) -> None:
        self._fence = (epoch, deadline, hold_at)
        self._workload.move_fence(epoch, deadline, hold_at)

    def start(self, epoch: int, *, restore: bool) -> None:
        self._add("start", lambda turn: self._start(turn, epoch, restore=restore))

    def freeze(self, handover_id: str) -> None:
        self._add("freeze", lambda turn: self._freeze(turn, handover_id))

    def thaw(self, epoch: int) -> None:
        self._add("thaw", lambda turn: self._thaw(turn, epoch))

    def stop(self, reason: str) -> None:
        self._queue.clear()
        self._current += 1
        self._busy = False
        self._add("stop", lambda turn: self._stop(turn, reason))

    def _add(self, name: str, perform: Callable[[int], None]) -> None:
        self._queue.append((name, perform))
        self._next()

    def _next(self) -> None:
        if self._queue and not self._busy and not self._closed:
            self._busy = True
            self._current += 1
            _, perform = self._queue.pop(0)
            perform(self._current)

    def _later(self, turn: int, delay: float, act: Callable[..., None], *arguments: Any) -> None:
        def unless_cancelled() -> None:
            if self._current == turn and not self._closed and self._machine.alive:
                act(*arguments)

        self._kernel.after(delay, unless_cancelled)

    def _done(self, *events: Event) -> None:
        self._busy = False
        for event in events:
            self._emit(event)
        self._next()

    def _start(self, turn: int, epoch: int, *, restore: bool) -> None:
        if self._workload.running and self._workload.epoch == epoch:
            self._await_health(turn, epoch)
        else:
            self._later(turn, self._kernel.soon(0.05), self._launch, turn, epoch, restore)

    def _launch(self, turn: int, epoch: int, restore: bool) -> None:
        disk = self._machine.disk
        if self._workload.running:
            self._workload.end("another epoch begins", told=False)
        if restore and disk.memory.restored_epoch != epoch:
            if disk.image is None:
                self._done(WorkloadStopped("there is no image to start on"))
                return
            disk.log, disk.image = disk.image.entries(), None
            self.remember(restored_epoch=epoch)
            self.on_restored(self._machine)
        if disk.log is None:
            self._done(WorkloadStopped("there is nothing to start on"))
            return
        self.remember(frozen=False)
        refusal = self._workload.start(epoch, self._fence[1] if self._fence[0] == epoch else None)
        self._workload.move_fence(*self._fence)
        if refusal is not None:
            self._done(WorkloadStopped(refusal))
        elif self._start_fails():
            self._later(turn, self._kernel.soon(0.2), self._exit)
        else:
            self._await_health(turn, epoch)

    def _exit(self) -> None:
        self._busy = False
        self._workload.end("it exited")
        self._next()

    def _await_health(self, turn: int, epoch: int) -> None:
        self._later(turn, self._kernel.soon(0.2), self._report_health, turn, epoch, self._kernel.now)

    def _report_health(self, turn: int, epoch: int, began: float) -> None:
        if not self._workload.running or self._workload.epoch != epoch:
            self._done()  # it ended, and that was told
        elif self._workload.serves and not self._workload.is_held:
            self._done(WorkloadRunning(epoch))
        elif self._kernel.now - began > 20.0:
            self._later(turn, self._kernel.soon(0.3), self._end_run, "it is not healthy")
        else:
            self._later(turn, 0.5, self._report_health, turn, epoch, began)

    def _freeze(self, turn: int, handover_id: str) -> None:
        if not self._workload.running:
            self._done(WorkloadStopped("it does not run"))
            return
        self.remember(frozen=True)
        self._later(turn, self._kernel.soon(0.05), self._frozen, turn, handover_id)

    def _frozen(self, turn: int, handover_id: str) -> None:
        if self._workload.paused:
            # Its hook hangs with it: it is stopped instead.
            self._end_run("it can not be frozen")
        elif self._workload.is_held:
            self._later(turn, 0.5, self._frozen, turn, handover_id)
        elif self._workload.running:
            self._workload.freeze()
            self._later(turn, self._kernel.soon(0.02), self._tell_frozen, handover_id)
        else:
            self._done()

    def _tell_frozen(self, handover_id: str) -> None:
        self._done(*((WorkloadFrozen(handover_id),) if self._workload.running else ()))

    def _thaw(self, turn: int, epoch: int) -> None:
        self._later(turn, self._kernel.soon(0.05), self._thawed, turn, epoch)

    def _thawed(self, turn: int, epoch: int) -> None:
        if not self._workload.running or self._workload.epoch != epoch:
            self._done(WorkloadStopped("it does not run"))
            return
        self._workload.thaw()
        self.remember(frozen=False)
        self._await_health(turn, epoch)

    def _stop(self, turn: int, reason: str) -> None:
        if not self._workload.running:
            self._done(WorkloadStopped(reason))
            return
        # SIGTERM first: it may go on serving until it is gone.
        self._later(turn, self._kernel.soon(0.15), self._end_run, reason)

    def _end_run(self, reason: str) -> None:
        self._busy = False
        if self._workload.running:
            self._workload.end(reason)
        self._next()
