"""Restores snapshots: downloads a chain, and brings a standby's store to the end of it."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from spot_agent.control_plane import Answered, ControlPlane, Rejected, StaleEpoch
from spot_agent.receiving import Receiver, as_event
from spot_agent.sync.errors import ImageDamaged, StorageFailed
from spot_agent.sync.generations import Generation, GenerationStore
from spot_agent.sync.spool import restore_chain
from spot_optimizer.domain.protocol import Event, SnapshotRefused, SnapshotRestored

log = logging.getLogger(__name__)

_CHAINS: Final = 5
_TRIES: Final = 10
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 5.0


class NothingToRestore(Exception):
    """There is no snapshot, or none of that time, or none that can be used."""


class NotNow(Exception):
    """What is needed could not be reached; try again."""


@dataclass(frozen=True, slots=True)
class Step:
    """A base or a delta, and where it lies."""

    snapshot_id: str
    root_hash: str
    taken_at: datetime
    size_bytes: int
    url: str


def fetch_and_restore(
    control_plane: ControlPlane, folder: Path, store: Callable[[], GenerationStore], *, at: datetime | None
) -> Generation:
    """Bring a store to the newest state that can be restored, or to that of an earlier moment.

    A chain of which not even the base can be used gives way to the one before it.

    Args:
        control_plane: Says what there is, and where.
        folder: For what is downloaded; removed when it is done with.
        store: Where it goes; asked once everything is there.
        at: The state up to here, at most; None for the newest.

    Raises:
        NothingToRestore: There is none.
        NotNow: Try again; what was downloaded is kept.
    """
    spoiled: set[str] = set()
    for _ in range(2 * _CHAINS):
        steps = _find(control_plane, at)
        files = _download(control_plane, folder, steps)
        try:
            restored = restore_chain(store(), files)
        except ImageDamaged as unusable:
            log.exception("a chain of snapshots can not be used", extra={"base": steps[0].snapshot_id})
            shutil.rmtree(folder, ignore_errors=True)
            broken = unusable
            base = steps[0]
            if base.snapshot_id in spoiled:
                at = base.taken_at - timedelta(microseconds=1)
            spoiled.add(base.snapshot_id)  # here, on the way or on this disk, perhaps: read it once more
        except StorageFailed as failed:
            raise NotNow(str(failed)) from failed
        else:
            shutil.rmtree(folder, ignore_errors=True)
            return restored
    raise NothingToRestore(f"none of the newest {_CHAINS} chains of snapshots can be used: {broken}")


def _find(control_plane: ControlPlane, at: datetime | None) -> tuple[Step, ...]:
    answer = control_plane.latest_snapshot(at=None if at is None else at.isoformat())
    match answer:
        case Answered(body):
            return _parse(body)
        case Rejected(_, problem):
            raise NothingToRestore(str(problem.get("detail") or problem.get("title")))
        case StaleEpoch():
            raise NotNow("the epoch is over")
        case _:
            raise NotNow(answer.reason)


def _parse(body: Mapping[str, Any]) -> tuple[Step, ...]:
    try:
        steps = tuple(
            Step(
                snapshot_id=str(said["snapshot"]["snapshot_id"]),
                root_hash=str(said["snapshot"]["root_hash"]),
                taken_at=datetime.fromisoformat(said["snapshot"]["taken_at"]),
                size_bytes=int(said["snapshot"]["size_bytes"]),
                url=str(said["url"]),
            )
            for said in body["steps"]
        )
    except (LookupError, TypeError, ValueError) as error:
        raise NotNow(f"the answer about snapshots is not understood: {error!r}") from error
    if not steps or any("/" in step.snapshot_id for step in steps):
        raise NotNow("the answer about snapshots names none")
    return steps


def _download(control_plane: ControlPlane, folder: Path, steps: tuple[Step, ...]) -> list[tuple[str, Path]]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as broken:
        raise NotNow(f"there is no room for what is downloaded: {broken}") from broken
    files = []
    for step in steps:
        file = folder / step.snapshot_id
        if not control_plane.download(step.url, file, size_bytes=step.size_bytes):
            raise NotNow(f"snapshot {step.snapshot_id} is not downloaded yet")
        files.append((step.root_hash, file))
    return files


class Restoring:
    """Restores the newest snapshot into the standby's store, by a thread of its own, and says how that ended."""

    def __init__(
        self,
        folder: Path,
        control_plane: ControlPlane,
        receiver: Receiver,
        *,
        emit: Callable[[Event], None],
        pause: Callable[[float], bool],
    ) -> None:
        """Keep what is given.

        Args:
            folder: For what is downloaded.
            control_plane: Says what there is, and where.
            receiver: Has the store.
            emit: Takes the events.
            pause: Waits so many seconds; True when the agent ends.
        """
        self._folder = folder
        self._control_plane = control_plane
        self._receiver = receiver
        self._emit = emit
        self._pause = pause
        self._one_at_a_time = threading.Lock()

    def restore(self, handover_id: str) -> None:
        """Restore the newest snapshot; blocks until that is done, or known to be impossible."""
        with self._one_at_a_time:
            seconds = _FIRST_PAUSE_SECONDS
            for _ in range(_TRIES):
                try:
                    restored = fetch_and_restore(
                        self._control_plane, self._folder, self._receiver.store_for_restoring, at=None
                    )
                except NothingToRestore as nothing:
                    log.error("nothing to restore", extra={"reason": str(nothing)})
                    break
                except NotNow as not_now:
                    log.warning("not restored yet", extra={"reason": str(not_now), "after_seconds": seconds})
                else:
                    log.info("snapshot restored", extra={"generation": restored.number, "bytes": restored.total_bytes})
                    said = as_event(restored)
                    self._emit(SnapshotRestored(handover_id, said.generation, said.covered_until))
                    return
                if self._pause(seconds):
                    return
                seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)
            self._emit(SnapshotRefused(handover_id))
