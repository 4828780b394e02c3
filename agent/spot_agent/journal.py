"""What the agent must still know after it was killed: small, whole, and on the disk before anything follows from it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from spot_optimizer.errors import Rejected, Transient


class JournalDamaged(Rejected):
    """The journal is not what this agent wrote; move it away to register this instance anew."""


class AgentAlreadyRuns(Transient):
    """Another agent uses the same state folder; it must end first."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The agent's durable state.

    Attributes:
        registration_key: Makes a repeated registration the same registration.
        agent_token: Lets this instance speak for its agent.
        role: What this instance was last told to be, under `epoch`.
        readiness: Primary: number of the last readiness report that may have been sent.
        granting: Standby: whether it grants the lease; None before the first word on it.
        refused_at_readiness: Standby: readiness at which it stopped granting, or asked for a promotion.
        generation: Primary: number up to which generations may have been taken.
        restored_epoch: The last epoch for which the received image was made live; it must not be done twice, as the
            workload may have written since.
        live_epoch: Of a former primary: the last epoch under which the state that is live here was served.
        live_until: When that was over, as far as it knows (ISO 8601).
        frozen: A workload that runs may be frozen.
        sync_port: Where this instance told the control plane that it listens.
        switches: What the agent went through before and up to `restored_epoch`; see `switches`.
    """

    registration_key: str
    agent_id: str | None = None
    agent_token: str | None = field(default=None, repr=False)
    replica_id: str | None = None
    role: str | None = None
    epoch: int | None = None
    readiness: int = 0
    granting: bool | None = None
    refused_at_readiness: int | None = None
    generation: int = 0
    restored_epoch: int | None = None
    live_epoch: int | None = None
    live_until: str | None = None
    frozen: bool = False
    sync_port: int | None = None
    switches: tuple[Mapping[str, Any], ...] = ()


class Journal:
    """One file, replaced as a whole; held by one agent at a time. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Take the folder.

        Args:
            folder: Made if missing; readable by this user only, because the token lies in it.

        Raises:
            AgentAlreadyRuns: Another process holds it.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder: Final = folder
        self._path: Final = folder / "memory.json"
        self._lock = (folder / "agent.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise AgentAlreadyRuns(f"an agent already runs on {folder}; expected to be the only one") from error
        self._memory: Memory | None = None
        self._writing = threading.Lock()

    @property
    def memory(self) -> Memory:
        """What is on the disk.

        Raises:
            JournalDamaged: It was not loaded, nor begun.
        """
        if self._memory is None:
            raise JournalDamaged(f"{self._path} was not loaded; expected load() or begin() first")
        return self._memory

    def load(self) -> Memory | None:
        """What was last written; None on an instance that never registered.

        Raises:
            JournalDamaged: There is something, and it is not whole.
        """
        try:
            written = self._path.read_bytes()
        except FileNotFoundError:
            return None
        self._memory = _decode(written, self._path)
        return self._memory

    def begin(self, memory: Memory) -> Memory:
        """Write a first memory; what was there before is gone."""
        with self._writing:
            self._write(memory)
        return memory

    def remember(self, **changes: Any) -> Memory:
        """Change some fields; when this returns, the change outlives a crash of the process and of the machine.

        Args:
            changes: Fields of `Memory` by name.

        Returns:
            The whole.
        """
        with self._writing:
            changed = replace(self.memory, **changes)
            if changed != self._memory:
                self._write(changed)
            return changed

    def close(self) -> None:
        """Leave the folder to the next agent."""
        self._lock.close()

    def _write(self, memory: Memory) -> None:
        content = json.dumps(asdict(memory), sort_keys=True).encode()
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(content), content))
            file.flush()
            os.fsync(descriptor)
        temporary.replace(self._path)
        sync_folder(self._folder)
        self._memory = memory


def read_memory(folder: Path) -> Memory | None:
    """What an agent last wrote there, read beside it; None if none ever registered there.

    Raises:
        JournalDamaged: There is something, and it is not whole.
    """
    path = folder / "memory.json"
    return _decode(path.read_bytes(), path) if path.exists() else None


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decode(written: bytes, path: Path) -> Memory:
    checksum, _, content = written.strip().partition(b" ")
    with contextlib.suppress(ValueError, TypeError):
        if int(checksum, 16) == zlib.crc32(content):
            said = json.loads(content)
            known = {known.name for known in fields(Memory)}
            # A newer agent's fields mean nothing to this one; it must still find its token.
            values = {name: value for name, value in said.items() if name in known}
            return Memory(**{**values, "switches": tuple(values.get("switches", ()))})
    raise JournalDamaged(f"{path} is not whole; move it away to register this instance anew")
