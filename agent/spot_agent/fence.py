"""The fence: holds the workload, and ends it when its deadline passes, whatever else hangs, stops or dies.

Each run of the workload is owned by a *keeper*, a process that does nothing but own it: the supervisor forks it, and it
starts the command in a process group of its own. The keeper ends the run when

* its deadline (CLOCK_BOOTTIME) passes: nobody renewed the right to serve,
* its channel to the supervisor closes: the supervisor died,
* it is asked to,
* the command exits: what it left behind must not go on serving.

From an earlier moment on, if nobody moves that, the keeper *holds* the run: every process of it is stopped (SIGSTOP),
and continues when the moment is moved. A process that is stopped acknowledges nothing.

The keeper is the subreaper of everything the command starts, so a descendant that changed its group or session is found
and killed as well. The supervisor holds the same deadline a moment later, so that a stopped keeper does not save the
workload, and a killed keeper takes the command with it (PDEATHSIG). Nothing here needs a thread, a library or an agent.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn

EndReason = Literal["exited", "stopped", "fenced"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc = ctypes.CDLL(None, use_errno=True)


def boot_clock() -> float:
    """Seconds on the clock that leases are counted on; it goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def become_subreaper() -> None:
    """Let orphaned descendants of this process become its children, instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, signal_number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel signal this process when its parent dies; call it between fork and exec.

    Args:
        parent: The process expected to be the parent; if it is gone already, this process ends here.
        signal_number: What the kernel sends.
    """
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os._exit(1)


class DeadlineTimer:
    """A file descriptor that becomes readable when a moment on the boot clock has come."""

    def __init__(self) -> None:
        self._descriptor = os.timerfd_create(time.CLOCK_BOOTTIME, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._descriptor

    def set(self, deadline: float | None) -> None:
        """Wait for this moment instead; None waits for nothing. A moment in the past comes at once."""
        at = 0.0 if deadline is None else max(deadline, 1e-9)  # zero would disarm
        os.timerfd_settime(self._descriptor, flags=os.TFD_TIMER_ABSTIME, initial=at)

    def clear(self) -> bool:
        """Take note that the moment came, so that the descriptor is quiet again; False if it has not, or was moved."""
        try:
            return bool(os.read(self._descriptor, 8))
        except BlockingIOError:
            return False


@dataclass(frozen=True, slots=True)
class Launch:
    """One run of the workload.

    Attributes:
        command: Shell command; the run lasts as long as it does.
        environment: All of the environment it gets.
        deadline: When it must be dead unless the deadline was moved; None: it may go on until asked to stop.
    """

    command: str
    environment: Mapping[str, str]
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        reason: `exited` by itself, `stopped` on request, or `fenced`.
        code: Exit status of the command, negative for a signal; None if the keeper died and nobody saw it.
    """

    reason: EndReason
    code: int | None


class Keeper:
    """The supervisor's end of a running keeper."""

    def __init__(self, launch: Launch) -> None:
        """Fork the keeper, which starts the workload; the calling process must have one thread only."""
        self.channel, far_end = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _KeeperLoop(launch, far_end).run()
        far_end.close()

    def fence(self, deadline: float | None) -> None:
        """Move the deadline."""
        self._tell({"fence": deadline})

    def hold(self, at: float | None) -> None:
        """Move the moment from which on the run is held; one that is held, and now is not to be, continues."""
        self._tell({"hold": at})

    def stop(self, grace_seconds: float) -> None:
        """End the run: SIGTERM, and SIGKILL after the grace; at once if it is held, for it can do nothing with it."""
        self._tell({"stop": grace_seconds})

    def ending(self) -> Ending | None:
        """Read what the keeper said; None while the run goes on.

        The keeper says it only when no process of the run is left. A keeper that dies without a word gives code None.
        """
        try:
            said = self.channel.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            said = b""
        if not said:
            return Ending("exited", None)
        ending = json.loads(said)  # one short line, written at once
        return Ending(ending["reason"], ending["code"])

    def close(self) -> None:
        """Let go of the keeper; one that still lives ends its run."""
        self.channel.close()

    def _tell(self, message: Mapping[str, float | None]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dying: `ending` will tell
            self.channel.sendall(json.dumps(message).encode() + b"\n")


class _KeeperLoop:
    """What the keeper does; runs in the forked process and never returns."""

    def __init__(self, launch: Launch, channel: socket.socket) -> None:
        self._launch = launch
        self._channel = channel
        self._received = b""
        self._reason: EndReason = "exited"
        self._code: int | None = None
        self._held: set[int] | None = None

    def run(self) -> NoReturn:
        status = 1
        try:
            self._run()
            status = 0
        finally:
            os._exit(status)  # never unwind into the supervisor's code

    def _run(self) -> None:
        become_subreaper()
        signal.set_wakeup_fd(-1)
        # Whatever the supervisor holds open is not the keeper's: a held end would hide the supervisor's death.
        os.closerange(3, self._channel.fileno())
        os.closerange(self._channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        children_changed = _wake_on_child_signals()
        spare = _prefer_self()
        timer, hold, grace = DeadlineTimer(), DeadlineTimer(), DeadlineTimer()
        timer.set(self._launch.deadline)
        workload = self._start(spare)
        waiting = selectors.DefaultSelector()
        for source in (self._channel, children_changed, timer, hold, grace):
            waiting.register(source, selectors.EVENT_READ)
        while not self._reaped(workload):
            ready = {key.fileobj for key, _ in waiting.select()}
            if timer in ready:
                self._reason = "fenced"
                break
            if grace in ready or (self._channel in ready and not self._obey(workload, timer, hold, grace)):
                self._reason = "stopped"
                break
            if hold in ready and hold.clear():
                if self._reason == "stopped":
                    break
                self._hold()
            if children_changed in ready:
                children_changed.recv(4096)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(workload, signal.SIGKILL)
        for pid, code in end_all_children():
            self._code = code if pid == workload else self._code
        with contextlib.suppress(OSError):
            self._channel.sendall(json.dumps({"reason": self._reason, "code": self._code}).encode() + b"\n")

    def _start(self, spare: tuple[int, str | None]) -> int:
        keeper = os.getpid()

        def become_workload() -> None:
            die_with_parent(keeper)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            _prefer_others(spare)

        process = subprocess.Popen(
            ["/bin/sh", "-c", self._launch.command],
            env=dict(self._launch.environment),
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=become_workload,
        )
        process.returncode = 0  # reaped below, with everybody else's orphans
        return process.pid

    def _obey(self, workload: int, timer: DeadlineTimer, hold: DeadlineTimer, grace: DeadlineTimer) -> bool:
        """Do what the supervisor says; False when it said nothing because it died."""
        received = self._channel.recv(4096)
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "fence" in order:
                timer.set(order["fence"])
            if "hold" in order:
                hold.set(order["hold"])
                if self._held is not None and (order["hold"] is None or order["hold"] > boot_clock()):
                    self._let_go()
            if "stop" in order:
                self._reason = "stopped"
                grace.set(boot_clock() + (order["stop"] if self._held is None else 0.0))
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(workload, signal.SIGTERM)
                    if self._held is None:
                        os.killpg(workload, signal.SIGCONT)  # a stopped process does not see SIGTERM
        return bool(received)

    def _hold(self) -> None:
        """Stop every process of the run; one that is born meanwhile is found in the next round.

        What somebody else has stopped stays as it is afterwards: that may be how the workload was frozen.
        """
        seen: set[int] = set()
        self._held = set() if self._held is None else self._held
        while born := set(descendants(os.getpid())) - seen:
            running = {pid for pid in born if not _is_stopped(pid)}
            send(running, signal.SIGSTOP)
            self._held |= running
            seen |= born

    def _let_go(self) -> None:
        held, self._held = self._held or set(), None
        send(held.intersection(descendants(os.getpid())), signal.SIGCONT)

    def _reaped(self, workload: int) -> bool:
        """Reap whoever died; True when the command itself did."""
        for pid, code in reap():
            if pid == workload:
                self._code = code
        return self._code is not None


def reap() -> Iterator[tuple[int, int]]:
    """Take leave of every dead child: its pid, and its exit status (negative: the signal)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def end_all_children() -> Iterator[tuple[int, int]]:
    """Kill every descendant of this process, which must be their subreaper, until none is left.

    A process may fork between the look and the kill, so it looks again until it has no child; one that cannot be killed
    (stuck in the kernel, another user's) keeps it here, because the run has not ended while it lives.

    Returns:
        Each child that died, as `reap` gives it.
    """
    pause = 0.0005
    while True:
        end(descendants(os.getpid()))
        yield from reap()
        if not _has_children():
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def end(pids: Iterable[int]) -> None:
    """SIGKILL each of them; those already gone, or not ours to kill, are passed over."""
    send(pids, signal.SIGKILL)


def send(pids: Iterable[int], signal_number: signal.Signals) -> None:
    """Signal each of them; those already gone, or not ours to signal, are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal_number)


def descendants(root: int) -> tuple[int, ...]:
    """Every process below `root`, nearest first."""
    found: list[int] = []
    generation = [root]
    while generation:
        generation = [child for pid in generation for child in children(pid)]
        found += generation
    return tuple(found)


def children(parent: int) -> tuple[int, ...]:
    """The living and zombie children of a process; none if it is gone."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{parent}/task").iterdir():
            try:
                found += map(int, (task / "children").read_text().split())
            except FileNotFoundError:
                if task.exists():
                    return _children_by_search(parent)  # a kernel without CONFIG_PROC_CHILDREN
    except (FileNotFoundError, ProcessLookupError):
        pass  # gone since
    return tuple(found)


def _children_by_search(parent: int) -> tuple[int, ...]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if int((process / "stat").read_bytes().rpartition(b")")[2].split()[1]) == parent:
                    found.append(int(process.name))
    return tuple(found)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _wake_on_child_signals() -> socket.socket:
    """Become deaf to requests to end (they are for the supervisor), and readable when a child dies."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _prefer_self() -> tuple[int, str | None]:
    """Ask to run before others and to be killed after them when memory is short; returns what was before."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    return niceness, _exchange_oom_score("-900")


def _prefer_others(before: tuple[int, str | None]) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, before[0])
    if before[1] is not None:
        _exchange_oom_score(before[1])


def _exchange_oom_score(score: str) -> str | None:
    path = Path("/proc/self/oom_score_adj")
    try:
        before = path.read_text(encoding="ascii").strip()
        path.write_text(score, encoding="ascii")
    except OSError:
        return None
    return before


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {argument}) was refused")
