"""A run's folder, what it records of itself, and the cleaning up after runs that were killed.

Every run holds a lock on its folder for as long as its owner or its server lives. A folder whose lock is free belongs
to nobody any more: what its state file names and whatever still carries its mark is killed, and the folder removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from local.instances import RUN_VARIABLE
from local.processes import ProcessIdentity, carrying, end_all

_STATE = "state.json"
_LOCK = "lock"
_UNFINISHED = ".new-"
_UNFINISHED_SECONDS = 60.0


def runs_root() -> Path:
    """Where the folders of this user's runs are."""
    return Path(tempfile.gettempdir()) / f"spot-optimizer-local-{os.getuid()}"


@dataclass
class RunFolder:
    """One run's folder, held by a lock."""

    path: Path
    _lock: IO[str]

    @property
    def run_id(self) -> str:
        """The mark that every process of the run carries in its environment."""
        return self.path.name

    @classmethod
    def create(cls) -> RunFolder:
        """Make and lock a new folder; nobody ever sees it unlocked."""
        root = runs_root()
        root.mkdir(mode=0o700, exist_ok=True)
        name = secrets.token_hex(6)
        growing = root / f"{_UNFINISHED}{name}"
        growing.mkdir(mode=0o700)
        lock = _hold(growing)
        return cls(growing.rename(root / name), lock)

    @classmethod
    def join(cls, path: Path) -> RunFolder:
        """Hold the lock of an existing folder too."""
        return cls(path, _hold(path))

    def record(self, **processes: ProcessIdentity | Iterable[ProcessIdentity] | None) -> None:
        """Remember processes of this run under names; earlier records of other names stay."""
        known = _read_state(self.path)
        for name, value in processes.items():
            if isinstance(value, ProcessIdentity):
                known[name] = [[value.pid, value.started]]
            else:
                known[name] = [[each.pid, each.started] for each in value or ()]
        growing = self.path / f"{_STATE}.{os.getpid()}"
        growing.write_text(json.dumps(known))
        growing.replace(self.path / _STATE)

    def remove(self) -> None:
        """End whatever still belongs to the run, this process excepted, and remove its folder."""
        _end_run(self.path, spare=(os.getpid(),))
        self._lock.close()
        _remove(self.path)


def clean_up_after_others() -> list[str]:
    """Remove what killed runs left behind.

    Returns:
        The ids of the runs that were cleaned up.
    """
    cleaned = []
    root = runs_root()
    for path in sorted(root.iterdir()) if root.exists() else []:
        if path.name.startswith(_UNFINISHED):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS:
                    _remove(path)
        elif _is_abandoned(path):
            _end_run(path, spare=(os.getpid(),))
            _remove(path)
            cleaned.append(path.name)
    return cleaned


def _is_abandoned(path: Path) -> bool:
    owner = _processes(path, "owner")
    if owner and not any(process.is_alive() for process in owner):
        return True  # its server, if it lives, is on its way out
    try:
        with (path / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not (path / _LOCK).exists() and path.exists()
    return True


def _end_run(path: Path, *, spare: tuple[int, ...]) -> None:
    recorded = [process for name in ("server", "guards") for process in _processes(path, name)]
    marked = carrying(RUN_VARIABLE, path.name)
    end_all(process for process in {*recorded, *marked} if process.pid not in spare)


def _processes(path: Path, name: str) -> list[ProcessIdentity]:
    return [ProcessIdentity(int(pid), int(started)) for pid, started in _read_state(path).get(name, [])]


def _read_state(path: Path) -> dict[str, list[list[int]]]:
    try:
        state: dict[str, list[list[int]]] = json.loads((path / _STATE).read_text())
    except (OSError, ValueError):
        return {}
    return state


def _hold(path: Path) -> IO[str]:
    lock = (path / _LOCK).open("a")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # the last one turns off the light
