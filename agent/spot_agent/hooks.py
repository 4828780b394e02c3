"""Runs the workload's hooks: shell commands from the local file, each in its own process group, with a time limit."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

log = logging.getLogger(__name__)

_SHOWN_BYTES: Final = 4000
_SECRETS: Final = ("CLIENT_TOKEN", "JOIN_TOKEN", "SPOT_SUPERVISOR_FD", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True, slots=True)
class HookOutcome:
    """How a hook ended.

    Attributes:
        code: Exit status, negative for a signal; None if it was killed because its time was up, or it was cancelled.
        seconds: How long it took.
        output: The end of what it wrote, to either stream.
    """

    name: str
    code: int | None
    seconds: float
    output: str

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.code == 0


def workload_environment(
    inherited: Mapping[str, str],
    *,
    epoch: int,
    agent_id: str,
    instance_id: str,
    private_address: str,
    service_address: str,
    state_dir: Path,
) -> dict[str, str]:
    """The environment of the workload and of its hooks: the agent's own, less what only the agent may know."""
    return {
        **{name: value for name, value in inherited.items() if name not in _SECRETS},
        "SPOT_EPOCH": str(epoch),
        "SPOT_AGENT_ID": agent_id,
        "SPOT_INSTANCE_ID": instance_id,
        "SPOT_PRIVATE_ADDRESS": private_address,
        "SPOT_SERVICE_ADDRESS": service_address,
        "SPOT_STATE_DIR": str(state_dir),
    }


class Cancellation:
    """Something that was begun is no longer wanted: whoever does it can wait for that beside other descriptors."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        """Readable from the cancellation on."""
        return self._descriptor

    def cancel(self) -> None:
        """Say so."""
        os.eventfd_write(self._descriptor, 1)

    def wait(self, timeout_seconds: float = 0.0) -> bool:
        """Whether it was cancelled, or is within this time."""
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        return bool(waiting.poll(timeout_seconds * 1000))


class HookRunner:
    """Runs hooks, several at a time, and can end all of them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def run(
        self,
        name: str,
        command: str,
        *,
        environment: Mapping[str, str],
        timeout_seconds: float,
        cancellation: Cancellation | None = None,
        quiet: bool = False,
    ) -> HookOutcome:
        """Run a hook to its end.

        Args:
            name: For the log.
            command: For `/bin/sh -c`.
            environment: All of its environment.
            timeout_seconds: After which its whole process group is killed.
            cancellation: On which it is killed at once.
            quiet: Log only below the level that is shown by default; for hooks that are repeated.

        Returns:
            How it ended; a failing hook is an outcome, not an error.
        """
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            code = self._run(command, environment, timeout_seconds, output, cancellation)
            outcome = HookOutcome(name, code, time.monotonic() - started, _end_of(output))
        details = {"hook": name, "code": code, "seconds": round(outcome.seconds, 3), "output": outcome.output}
        if outcome.succeeded:
            log.log(logging.DEBUG if quiet else logging.INFO, "hook done", extra=details)
        elif code is None:
            log.error("hook was killed: not wanted any more, or not done in %.1f s", timeout_seconds, extra=details)
        else:
            log.log(logging.DEBUG if quiet else logging.ERROR, "hook failed", extra=details)
        return outcome

    def close(self) -> None:
        """Kill what runs, and run nothing any more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill_group(process)

    def _run(
        self,
        command: str,
        environment: Mapping[str, str],
        timeout_seconds: float,
        output: IO[bytes],
        cancellation: Cancellation | None,
    ) -> int | None:
        with self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            self._running.add(process)
        ended = _ended(process.pid, timeout_seconds, cancellation)
        with self._lock:
            self._running.discard(process)
            _kill_group(process)  # what a hook leaves running belongs to nobody
        code = process.wait()
        return code if ended else None


def _ended(pid: int, timeout_seconds: float, cancellation: Cancellation | None) -> bool:
    """Wait for a process; `Popen.wait` with a timeout would notice up to 50 ms late."""
    descriptor = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if cancellation is not None:
            waiting.register(cancellation, select.POLLIN)
        return descriptor in dict(waiting.poll(timeout_seconds * 1000))
    finally:
        os.close(descriptor)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end_of(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _SHOWN_BYTES))
    return output.read().decode(errors="replace").strip()
