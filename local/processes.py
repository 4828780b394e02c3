"""What Linux knows about processes: who is alive, who descends from whom, and how to end a whole tree."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """A pid together with its start time: a pid alone may belong to somebody else by now."""

    pid: int
    started: int
    """Clock ticks since the machine booted, as /proc tells it."""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Identify a live process; None when there is none (a zombie counts as none)."""
        stat = _stat(pid)
        if stat is None or stat[0] == "Z":
            return None
        return cls(pid, int(stat[19]))

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal this very process, or nobody when it is gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Census:
    """Who descended from whom at one moment; taking it reads all of /proc once."""

    def __init__(self) -> None:
        self._children: dict[int, list[int]] = {}
        self._zombies: set[int] = set()
        for pid in _pids():
            stat = _stat(pid)
            if stat is not None:
                self._children.setdefault(int(stat[1]), []).append(pid)
                if stat[0] == "Z":
                    self._zombies.add(pid)

    def descendants(self, root: int) -> list[int]:
        """Every live process below `root`, whatever its session or process group."""
        found: list[int] = []
        waiting = [root]
        while waiting:
            below = self._children.get(waiting.pop(), [])
            waiting += below
            found += below
        return [pid for pid in found if pid not in self._zombies]


def carrying(variable: str, value: str) -> list[ProcessIdentity]:
    """Every live process that was started with this environment variable, or inherited it."""
    wanted = f"{variable}={value}".encode()
    found = []
    for pid in _pids():
        try:
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue  # gone meanwhile, or somebody else's
        if wanted in environment.split(b"\0") and (identity := ProcessIdentity.of(pid)) is not None:
            found.append(identity)
    return found


def end_all(processes: Iterable[ProcessIdentity], *, within_seconds: float = 5.0) -> None:
    """SIGKILL the given processes and wait until the last one is gone."""
    remaining = [process for process in processes if process.is_alive()]
    for process in remaining:
        process.send(signal.SIGKILL)
    deadline = time.monotonic() + within_seconds
    while remaining and time.monotonic() < deadline:
        time.sleep(0.005)
        remaining = [process for process in remaining if process.is_alive()]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the command's name may itself hold blanks and parentheses."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
