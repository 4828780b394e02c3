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
        code: Exit status, negative for a signal; None if it was killed because its time was up.
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


class HookRunner:
    """Runs hooks, several at a time, and can end all of them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def run(
        self, name: str, command: str, *, environment: Mapping[str, str], timeout_seconds: float, quiet: bool = False
    ) -> HookOutcome:
        """Run a hook to its end.

        Args:
            name: For the log.
            command: For `/bin/sh -c`.
            environment: All of its environment.
            timeout_seconds: After which its whole process group is killed.
            quiet: Log only below the level that is shown by default; for hooks that are repeated.

        Returns:
            How it ended; a failing hook is an outcome, not an error.
        """
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            code = self._run(command, environment, timeout_seconds, output)
            outcome = HookOutcome(name, code, time.monotonic() - started, _end_of(output))
        details = {"hook": name, "code": code, "seconds": round(outcome.seconds, 3), "output": outcome.output}
        if outcome.succeeded:
            log.log(logging.DEBUG if quiet else logging.INFO, "hook done", extra=details)
        elif code is None:
            log.error("hook took longer than %.1f s and was killed", timeout_seconds, extra=details)
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
        self, command: str, environment: Mapping[str, str], timeout_seconds: float, output: IO[bytes]
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
        ended = _ended(process.pid, timeout_seconds)
        with self._lock:
            self._running.discard(process)
            _kill_group(process)  # what a hook leaves running belongs to nobody
        code = process.wait()
        return code if ended else None


def _ended(pid: int, timeout_seconds: float) -> bool:
    """Wait for a process; `Popen.wait` with a timeout would notice up to 50 ms late."""
    descriptor = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        return bool(waiting.poll(timeout_seconds * 1000))
    finally:
        os.close(descriptor)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end_of(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _SHOWN_BYTES))
    return output.read().decode(errors="replace").strip()
