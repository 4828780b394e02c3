"""What boots on an instance: keeps the agent running, and the workload only as long as it may run.

    python -m spot_agent.supervisor --config agent.env

One process, one thread. It starts the agent and starts it again when it dies or hangs; the workload it starts only when
the agent orders it, under an epoch, and it outlives the agent: whether it may is the fence's question alone. SIGTERM
goes to the agent first, which leaves its role in good order; then the workload is stopped.
"""

import argparse
import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from spot_agent.fence import (
    DeadlineTimer,
    Ending,
    Keeper,
    Launch,
    become_subreaper,
    boot_clock,
    children,
    descendants,
    end,
    reap,
)
from spot_agent.workload import (
    SUPERVISOR_DESCRIPTOR,
    HoldWorkload,
    LookAtWorkload,
    MoveFence,
    Order,
    StartWorkload,
    StopWorkload,
    WorkloadStatus,
    decode_order,
    encode_status,
    name_of,
)

CANNOT_BE_CONFIGURED: Final = 78
"""Exit status (EX_CONFIG) of an agent that restarting will not mend."""

_BACKSTOP_SECONDS: Final = 0.02
"""How long after the deadline the keeper is taken for stuck, and everything it owns is killed from here."""

_AGENT_SILENCE_SECONDS: Final = 20.0
_AGENT_START_SECONDS: Final = 60.0
_AGENT_LEAVE_SECONDS: Final = 75.0
"""How long a SIGTERMed agent may take to leave its role; below the unit's TimeoutStopSec."""

_WORKLOAD_GRACE_SECONDS: Final = 10.0
_FIRST_RESTART_SECONDS: Final = 0.1
_LONGEST_RESTART_SECONDS: Final = 5.0
_STEADY_AFTER_SECONDS: Final = 10.0


class Supervisor:
    """Owns two children: the agent, and the keeper of the workload while one runs."""

    def __init__(self, agent_command: Sequence[str]) -> None:
        """Prepare; `run` does it.

        Args:
            agent_command: The agent's argument vector. It finds its socket's number in SPOT_SUPERVISOR_FD.
        """
        self._agent_command = list(agent_command)
        self._notifications = _ServiceNotifications()
        self._agent_pid: int | None = None
        self._agent_channel: socket.socket | None = None
        self._agent_received = b""
        self._agent_started_at = 0.0
        self._agent_due_at = 0.0
        self._agent_silent_at = 0.0
        self._restart_seconds = _FIRST_RESTART_SECONDS
        self._keeper: Keeper | None = None
        self._ending: Ending | None = None
        self._status = WorkloadStatus(running=False)
        self._backstop = DeadlineTimer()
        self._sweeping = False
        self._leaving_until: float | None = None
        self._workload_asked_to_stop = False
        self._status_on_exit = 0
        self._exit_status: int | None = None
        self._waiting = selectors.DefaultSelector()

    def run(self) -> int:
        """Supervise until SIGTERM, or until an agent that cannot be configured leaves nothing to supervise.

        Returns:
            The exit status for this process.
        """
        become_subreaper()
        signals = _signals_as_bytes()
        self._waiting.register(signals, selectors.EVENT_READ)
        self._waiting.register(self._backstop, selectors.EVENT_READ)
        while True:
            self._advance()
            if self._exit_status is not None:
                return self._exit_status
            ready = {key.fileobj for key, _ in self._waiting.select(self._patience())}
            if self._backstop in ready:
                self._fence_from_here()
            if signals in ready and not {signal.SIGTERM, signal.SIGINT}.isdisjoint(signals.recv(4096)):
                self._leave()
            if self._agent_channel is not None and self._agent_channel in ready:
                self._hear_agent(self._agent_channel)
            self._bury_the_dead()

    # -- what time brings

    def _advance(self) -> None:
        now = boot_clock()
        self._notifications.ping(now)
        if self._sweeping:
            self._sweep()
        if self._agent_pid is not None and now >= self._agent_silent_at:
            _say("the agent gives no sign of life any more; killing it")
            end([self._agent_pid])
            self._agent_silent_at = now + _AGENT_SILENCE_SECONDS
        if self._leaving_until is None:
            if self._agent_pid is None and not self._sweeping and now >= self._agent_due_at:
                self._start_agent(now)
        elif self._agent_pid is None:
            self._leave_workload()
        elif now >= self._leaving_until:
            _say("the agent did not leave in time; killing it")
            end([self._agent_pid])

    def _patience(self) -> float:
        """How long nothing but an event needs attention."""
        if self._sweeping:
            return 0.002
        now = boot_clock()
        moments = [self._notifications.due_at]
        if self._agent_pid is not None:
            moments.append(self._agent_silent_at)
            if self._leaving_until is not None:
                moments.append(max(self._leaving_until, now + 0.1))
        elif self._leaving_until is None:
            moments.append(self._agent_due_at)
        return min(max(min(moments) - now, 0.0), 5.0)

    # -- the agent

    def _start_agent(self, now: float) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name not in _ServiceNotifications.NAMES}
        with theirs:
            environment[SUPERVISOR_DESCRIPTOR] = str(theirs.fileno())
            agent = subprocess.Popen(self._agent_command, env=environment, pass_fds=[theirs.fileno()])
        agent.returncode = 0  # buried below, with everybody else
        self._agent_pid = agent.pid
        self._agent_channel = ours
        self._agent_received = b""
        self._agent_started_at = now
        self._agent_silent_at = now + _AGENT_START_SECONDS
        self._waiting.register(ours, selectors.EVENT_READ)
        self._tell_agent()

    def _hear_agent(self, channel: socket.socket) -> None:
        try:
            received = channel.recv(65536)
        except ConnectionResetError:
            received = b""
        if not received:  # it is dying, or gave up on its socket: either way it is of no use
            self._waiting.unregister(channel)
            channel.close()
            self._agent_channel = None
            self._agent_silent_at = boot_clock() + 1.0
            return
        self._notifications.ready()
        self._agent_silent_at = boot_clock() + _AGENT_SILENCE_SECONDS
        *lines, self._agent_received = (self._agent_received + received).split(b"\n")
        for line in lines:
            try:
                order = decode_order(line)
            except (LookupError, TypeError, ValueError):  # an agent of another version; its workload must not die of it
                self._tell_agent(answers="unknown", refusal=f"not understood: {line[:80]!r}")
            else:
                self._tell_agent(answers=name_of(order), refusal=self._obey(order))

    def _tell_agent(self, *, answers: str | None = None, refusal: str | None = None) -> None:
        if self._agent_channel is not None:
            # A stopped agent must not stop the supervisor: what does not fit into its buffer is not waited for.
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                self._agent_channel.send(
                    encode_status(replace(self._status, answers=answers, refusal=refusal)), socket.MSG_DONTWAIT
                )

    def _agent_died(self, code: int) -> None:
        now = boot_clock()
        self._agent_pid = None
        if self._agent_channel is not None:
            self._waiting.unregister(self._agent_channel)
            self._agent_channel.close()
            self._agent_channel = None
        self._sweeping = True  # its hooks go with it
        if self._leaving_until is not None:
            return
        if code == 0 or (code == CANNOT_BE_CONFIGURED and self._keeper is None):
            self._leaving_until = now
            self._status_on_exit = code
            return
        if now - self._agent_started_at >= _STEADY_AFTER_SECONDS:
            self._restart_seconds = _FIRST_RESTART_SECONDS
        self._agent_due_at = now + self._restart_seconds
        _say(f"the agent ended with status {code}; starting it again in {self._restart_seconds:.1f} s")
        self._restart_seconds = min(self._restart_seconds * 2, _LONGEST_RESTART_SECONDS)

    # -- the workload

    def _obey(self, order: Order) -> str | None:
        """Carry out an order; the refusal, if it is refused."""
        match order:
            case StartWorkload() as start:
                return self._start_workload(start)
            case StopWorkload(grace_seconds):
                if self._keeper is not None:
                    self._keeper.stop(grace_seconds)
            case MoveFence(epoch, deadline):
                if self._keeper is None or epoch != self._status.epoch:
                    return f"epoch {epoch} does not run"
                self._keeper.fence(deadline)
                self._expect_fence(deadline)
            case HoldWorkload(epoch, at):
                if self._keeper is None or epoch != self._status.epoch:
                    return f"epoch {epoch} does not run"
                self._keeper.hold(at)
            case LookAtWorkload():
                pass
        return None

    def _start_workload(self, start: StartWorkload) -> str | None:
        if self._keeper is not None or self._sweeping or self._leaving_until is not None:
            return f"the run of epoch {self._status.epoch} has not ended"
        if self._status.epoch is not None and start.epoch < self._status.epoch:
            return f"epoch {start.epoch} is below {self._status.epoch}"
        if start.deadline is not None and start.deadline <= boot_clock():
            return "the deadline has passed"
        try:
            self._keeper = Keeper(Launch(start.command, start.environment, start.deadline))
        except OSError as error:
            return f"no process could be made: {error.strerror}"
        self._ending = None
        self._status = WorkloadStatus(running=True, epoch=start.epoch)
        self._expect_fence(start.deadline)
        return None

    def _expect_fence(self, deadline: float | None) -> None:
        self._status = replace(self._status, deadline=deadline)
        self._backstop.set(None if deadline is None else deadline + _BACKSTOP_SECONDS)

    def _fence_from_here(self) -> None:
        """The deadline passed and the keeper has not ended the run: it may be stuck."""
        self._backstop.clear()
        if self._keeper is not None:
            pids = (self._keeper.pid, *descendants(self._keeper.pid))
            self._ending = Ending("fenced", None)
            end(pids)

    def _keeper_died(self, keeper: Keeper) -> None:
        said = keeper.ending()
        if said is None or said.code is None:  # without a word: what was done to it from here is why
            said = self._ending or said or Ending("exited", None)
        self._ending = said
        keeper.close()
        self._keeper = None
        self._backstop.set(None)
        self._sweeping = True  # a keeper that was killed leaves its processes to us

    # -- the dead and the left behind

    def _bury_the_dead(self) -> None:
        for pid, code in reap():
            if pid == self._agent_pid:
                self._agent_died(code)
            elif self._keeper is not None and pid == self._keeper.pid:
                self._keeper_died(self._keeper)

    def _sweep(self) -> None:
        """Kill what neither agent nor keeper owns any more; the workload has ended when nothing is left."""
        ours = {self._agent_pid, None if self._keeper is None else self._keeper.pid}
        strays = [child for child in children(os.getpid()) if child not in ours]
        end([pid for stray in strays for pid in (stray, *descendants(stray))])
        self._sweeping = bool(strays)
        if not strays and self._keeper is None and self._status.running and self._ending is not None:
            self._status = replace(
                self._status, running=False, deadline=None, ended=self._ending.reason, code=self._ending.code
            )
            self._tell_agent()

    # -- leaving

    def _leave(self) -> None:
        if self._leaving_until is None:
            self._notifications.stopping()
            self._leaving_until = boot_clock() + _AGENT_LEAVE_SECONDS
            if self._agent_pid is not None:
                os.kill(self._agent_pid, signal.SIGTERM)

    def _leave_workload(self) -> None:
        if self._keeper is None:
            if not self._sweeping:
                self._exit_status = self._status_on_exit
        elif not self._workload_asked_to_stop:
            self._workload_asked_to_stop = True
            self._keeper.stop(_WORKLOAD_GRACE_SECONDS)


class _ServiceNotifications:
    """What systemd wants to hear (sd_notify); says nothing where there is no systemd."""

    NAMES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every_seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 4
        self._ready = False
        self.due_at = 0.0 if self._every_seconds else float("inf")

    def ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def ping(self, now: float) -> None:
        if now >= self.due_at:
            self.due_at = now + self._every_seconds
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.sendto(message.encode(), self._address)


def _signals_as_bytes() -> socket.socket:
    """A socket on which each signal that concerns a supervisor arrives as a byte."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader


def _say(what: str) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f'{{"at":"{moment}","from":"supervisor","message":"{what}"}}', file=sys.stderr, flush=True)


def main() -> int:
    """Read the command line and supervise."""
    parser = argparse.ArgumentParser(prog="python -m spot_agent.supervisor", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="settings of the agent (KEY=VALUE lines)")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "spot_agent"]
    if arguments.config is not None:
        command += ["--config", arguments.config]
    return Supervisor(command).run()


if __name__ == "__main__":
    sys.exit(main())
