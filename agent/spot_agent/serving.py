"""Carries out what the protocol wants of the workload: by hooks, and by the supervisor that owns its processes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from spot_agent.fence import boot_clock
from spot_agent.hooks import Cancellation, HookRunner
from spot_agent.settings import Hooks
from spot_agent.workload import (
    HoldWorkload,
    LookAtWorkload,
    MoveFence,
    Order,
    StartWorkload,
    StopWorkload,
    WorkloadStatus,
    name_of,
)
from spot_optimizer.domain.protocol import Event, WorkloadFrozen, WorkloadRunning, WorkloadStopped
from spot_optimizer.errors import SpotOptimizerError

log = logging.getLogger(__name__)

_HEALTH_PAUSE_SECONDS: Final = 0.02
_HOLD_PAUSE_SECONDS: Final = 0.05
_HEALTH_WATCH_SECONDS: Final = 5.0
_STOP_GRACE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Task:
    name: str
    perform: Callable[[Cancellation], None]
    cancellation: Cancellation


class ReceivedImage(Protocol):
    """The state that a standby received from its primary."""

    def is_live(self, epoch: int) -> bool:
        """Whether it was made the live state for this epoch."""
        ...

    def prepare(self) -> None:
        """Bring it into the watched paths, whole.

        Raises:
            SpotOptimizerError: It cannot be used.
            TimeoutError: It took too long.
        """
        ...

    def become_live(self, epoch: int) -> None:
        """Make durable that the workload of this epoch may write to it from now on."""
        ...


class Serving:
    """The workload as the protocol sees it. Calls return at once; what comes of them is emitted as events.

    What is asked for is done in order, by one thread; a stop does not wait its turn: it cancels what is being done.
    """

    def __init__(
        self,
        hooks: Hooks,
        *,
        environment: Callable[[int], Mapping[str, str]],
        image: ReceivedImage,
        remember_frozen: Callable[[bool], None],
        emit: Callable[[Event], None],
        timeout_seconds: float,
    ) -> None:
        """Keep what is given; `begin` makes it work.

        Args:
            hooks: The workload's commands.
            environment: All of the environment for the workload and its hooks, by epoch.
            image: What was received while this was a standby.
            remember_frozen: Makes durable whether the running workload may be frozen.
            emit: Takes the events; called on several threads.
            timeout_seconds: For each hook, and from start to health.
        """
        self._hooks = hooks
        self._runner = HookRunner()
        self._environment = environment
        self._image = image
        self._remember_frozen = remember_frozen
        self._emit = emit
        self._timeout_seconds = timeout_seconds
        self._order: Callable[[Order], None] = lambda _: None
        self._changed = threading.Condition()
        self._status: WorkloadStatus | None = None
        self._start_answers: list[WorkloadStatus] = []
        self._tasks: list[_Task] = []
        self._current: _Task | None = None
        self._fencing = threading.Lock()
        self._fence = MoveFence(0, None)
        self._hold = HoldWorkload(0, None)
        self._let_go_at = float("-inf")
        self._frozen = False
        self._healthy = False
        self._closed = False

    def begin(self, order: Callable[[Order], None], *, frozen: bool) -> WorkloadStatus:
        """Learn from the supervisor what runs, and begin to work.

        Args:
            order: Sends an order to the supervisor; its statuses must come to `take_status`.
            frozen: Whether a workload that runs may be frozen, as remembered.

        Returns:
            What runs.
        """
        self._order = order
        order(LookAtWorkload())
        with self._changed:
            self._changed.wait_for(lambda: self._status is not None)
            status = self._status
            assert status is not None  # noqa: S101 - what was just waited for
            self._frozen = frozen and status.running
            self._fence = MoveFence(status.epoch or 0, status.deadline)
        threading.Thread(target=self._work, name="workload", daemon=True).start()
        threading.Thread(target=self._watch_health, name="health", daemon=True).start()
        return status

    # -- what the protocol asks for

    def start(self, epoch: int, *, restore: bool) -> None:
        """Start it under an epoch; emits `WorkloadRunning` once it is healthy, or `WorkloadStopped`."""
        self._add("start", lambda cancellation: self._start(epoch, cancellation, restore=restore))

    def stop(self, reason: str) -> None:
        """Stop it, instead of whatever is being done with it; emits `WorkloadStopped`."""
        self._add("stop", lambda _: self._stop(reason), at_once=True)

    def freeze(self, handover_id: str) -> None:
        """Have it acknowledge nothing; emits `WorkloadFrozen`, or `WorkloadStopped` where it cannot be frozen."""
        self._add("freeze", lambda cancellation: self._freeze(handover_id, cancellation))

    def thaw(self, epoch: int) -> None:
        """Let it serve again; emits `WorkloadRunning` or `WorkloadStopped`."""
        self._add("thaw", lambda cancellation: self._thaw(epoch, cancellation))

    def fence(self, epoch: int, deadline: float | None, *, hold_at: float | None = None) -> None:
        """Have the supervisor hold, and kill, the run of this epoch, whatever becomes of the agent.

        Args:
            epoch: If it does not run, a start under it takes this along.
            deadline: It is killed then (CLOCK_BOOTTIME); None: never.
            hold_at: Every process of it is stopped from then on, until this is called again; None: never.
        """
        with self._fencing:
            self._fence = MoveFence(epoch, deadline)
            if self._is_held:
                self._let_go_at = boot_clock()
            self._hold = HoldWorkload(epoch, hold_at)
            self._order(self._fence)
            self._order(self._hold)

    def quiesce(self) -> bool:
        """Make the watched paths sound to read; on the caller's thread, beside whatever else is going on."""
        if self._hooks.quiesce is None:
            return True
        status = self._status
        epoch = (status.epoch if status is not None else None) or 0
        outcome = self._runner.run(
            "quiesce",
            self._hooks.quiesce,
            environment=self._environment(epoch),
            timeout_seconds=self._timeout_seconds,
            quiet=True,
        )
        if not outcome.succeeded:
            log.warning("the workload could not be quiesced", extra={"output": outcome.output, "code": outcome.code})
        return outcome.succeeded

    @property
    def healthy(self) -> bool:
        """Whether the health hook succeeded when it ran last."""
        return self._healthy

    @property
    def running(self) -> bool:
        """Whether some process of the workload lives, or may."""
        return self._status is None or self._status.running

    def await_stopped(self, timeout_seconds: float) -> bool:
        """Wait until no process of the workload lives; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.running, timeout_seconds)

    def close(self) -> None:
        """Do nothing more; hooks that run are killed, the workload is left as it is."""
        with self._changed:
            self._closed = True
            if self._current is not None:
                self._current.cancellation.cancel()
            self._changed.notify_all()
        self._runner.close()

    def take_status(self, status: WorkloadStatus) -> None:
        """Hear from the supervisor."""
        with self._changed:
            before, self._status = self._status, status
            if status.answers == "start":
                self._start_answers.append(status)
            if before is not None and before.running and not status.running:
                self._healthy = False
                log.info("workload ended", extra={"epoch": status.epoch, "reason": status.ended, "code": status.code})
                self._emit(WorkloadStopped(str(status.ended)))
            expected = (name_of(self._fence), name_of(self._hold))
            if status.refusal is not None and status.answers not in expected:
                log.warning("the supervisor refused an order", extra={"refusal": status.refusal})
            self._changed.notify_all()

    # -- how it is done

    def _add(self, name: str, perform: Callable[[Cancellation], None], *, at_once: bool = False) -> None:
        with self._changed:
            if at_once:
                self._tasks.clear()
                if self._current is not None:
                    self._current.cancellation.cancel()
            self._tasks.append(_Task(name, perform, Cancellation()))
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._current = None
                self._changed.wait_for(lambda: self._tasks or self._closed)
                if self._closed:
                    return
                self._current = task = self._tasks.pop(0)
            task.perform(task.cancellation)

    def _start(self, epoch: int, cancellation: Cancellation, *, restore: bool) -> None:
        began = time.monotonic()
        if self._runs_under(epoch):
            log.info("adopting the running workload", extra={"epoch": epoch})
        else:
            self._end_run(hook=False)
            if restore and not self._restore(epoch, cancellation):
                self._emit(WorkloadStopped("the image could not be restored"))
                return
            restored = time.monotonic()
            refusal = self._launch(epoch)
            if refusal is not None:
                self._emit(WorkloadStopped(refusal))
                return
            log.info("workload started", extra={"epoch": epoch, "restore_seconds": round(restored - began, 3)})
        self._await_health(epoch, cancellation, began=began)

    def _launch(self, epoch: int) -> str | None:
        """Have the supervisor start it; why not, if it refuses."""
        with self._changed:
            self._start_answers.clear()
        environment = self._environment(epoch)
        self._note_frozen(frozen=False)
        with self._fencing:  # a deadline that is moved meanwhile must reach this run
            fenced = self._fence.epoch == epoch
            deadline = self._fence.deadline if fenced else None
            self._order(StartWorkload(epoch, self._hooks.start, environment, deadline))
            if fenced:
                self._order(self._hold)
        with self._changed:
            self._changed.wait_for(lambda: self._start_answers or self._closed)
            return self._start_answers[-1].refusal if self._start_answers else "the agent ends"

    def _restore(self, epoch: int, cancellation: Cancellation) -> bool:
        """Make the received image the live state, once per epoch: afterwards the workload may have written to it."""
        if self._image.is_live(epoch):
            return True
        try:
            self._image.prepare()
        except (SpotOptimizerError, TimeoutError):
            log.exception("the received image cannot be used")
            return False
        if self._hooks.restore is not None and not self._run("restore", self._hooks.restore, epoch, cancellation):
            return False
        self._image.become_live(epoch)
        return True

    def _stop(self, reason: str) -> None:
        if not self.running:
            self._emit(WorkloadStopped(reason))
            return
        log.info("stopping the workload", extra={"reason": reason})
        self._end_run(hook=True)

    def _freeze(self, handover_id: str, cancellation: Cancellation) -> None:
        if self._hooks.freeze is not None:
            began = time.monotonic()
            self._note_frozen(frozen=True)
            if self._run_unheld("freeze", self._hooks.freeze, cancellation):
                with self._changed:  # once it has ended, that has been emitted
                    if self.running:
                        log.info("workload frozen", extra={"seconds": round(time.monotonic() - began, 3)})
                        self._emit(WorkloadFrozen(handover_id))
                return
        if not cancellation.wait():
            self._stop("it cannot be frozen")

    def _thaw(self, epoch: int, cancellation: Cancellation) -> None:
        began = time.monotonic()
        if self._hooks.thaw is not None and not self._run_unheld("thaw", self._hooks.thaw, cancellation):
            if not cancellation.wait():
                self._stop("it cannot be thawed")
            return
        self._note_frozen(frozen=False)
        self._await_health(epoch, cancellation, began=began)

    def _await_health(self, epoch: int, cancellation: Cancellation, *, began: float) -> None:
        give_up_at = time.monotonic() + self._timeout_seconds
        while self._runs_under(epoch) and not self._check_health(epoch, cancellation):
            if cancellation.wait(_HEALTH_PAUSE_SECONDS):
                return
            if time.monotonic() >= give_up_at:
                log.error("the workload is not healthy", extra={"epoch": epoch, "waited": self._timeout_seconds})
                self._end_run(hook=True)
                return
        with self._changed:  # once it has ended, that has been emitted
            if self._runs_under(epoch) and not cancellation.wait():
                log.info("workload running", extra={"epoch": epoch, "seconds": round(time.monotonic() - began, 3)})
                self._emit(WorkloadRunning(epoch))

    def _end_run(self, *, hook: bool) -> None:
        """Stop whatever runs, and wait until none of it is left."""
        if not self.running:
            return
        if hook and self._hooks.stop is not None:
            # Not cancelled by anything: who wants something else of the workload wants it stopped first.
            self._run("stop", self._hooks.stop, self._epoch, Cancellation())
        self._order(StopWorkload(_STOP_GRACE_SECONDS))
        with self._changed:
            self._changed.wait_for(lambda: not self.running or self._closed)

    def _watch_health(self) -> None:
        while True:
            if self.running and not self._frozen and self._current is None:
                self._check_health(self._epoch, Cancellation())
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, _HEALTH_WATCH_SECONDS):
                    return

    def _check_health(self, epoch: int, cancellation: Cancellation) -> bool:
        healthy = self._hooks.health is None or self._run("health", self._hooks.health, epoch, cancellation, quiet=True)
        self._healthy = healthy and self.running
        return healthy

    def _run(self, name: str, command: str, epoch: int, cancellation: Cancellation, *, quiet: bool = False) -> bool:
        outcome = self._runner.run(
            name,
            command,
            environment=self._environment(epoch),
            timeout_seconds=self._timeout_seconds,
            cancellation=cancellation,
            quiet=quiet,
        )
        return outcome.succeeded

    def _run_unheld(self, name: str, command: str, cancellation: Cancellation) -> bool:
        """Run a hook that needs the workload to answer: not while it is held, and again if it was held meanwhile."""
        while True:
            while self._is_held and self.running:
                if cancellation.wait(_HOLD_PAUSE_SECONDS):
                    return False
            began = boot_clock()
            succeeded = self._run(name, command, self._epoch, cancellation)
            was_held = self._is_held or self._let_go_at >= began
            if not was_held or not self.running or cancellation.wait():
                return succeeded

    @property
    def _is_held(self) -> bool:
        return self._hold.at is not None and boot_clock() >= self._hold.at

    def _note_frozen(self, *, frozen: bool) -> None:
        if frozen != self._frozen:
            self._remember_frozen(frozen)
            self._frozen = frozen

    def _runs_under(self, epoch: int) -> bool:
        status = self._status
        return status is not None and status.running and status.epoch == epoch

    @property
    def _epoch(self) -> int:
        status = self._status
        return (status.epoch if status is not None else None) or 0
