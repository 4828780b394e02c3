# ruff: noqa: PTH103, PTH104, PTH108, PTH110, PTH116, PTH118, PTH120, PTH123
# pathlib would lengthen every hook by a fifth, and hooks are part of the outage; see settings.py.
"""The image: a copy of the ledger that is sound whenever somebody reads it.

The agent carries the image folder from machine to machine, never the live one. A new image is built beside the folder,
on the same file system, and renamed into place, so the folder holds one complete ledger at every instant and nothing
else.
"""

import contextlib
import os
import sqlite3
import threading
from typing import NamedTuple
from urllib.parse import quote

from examples.ledger.errors import ImageDamaged, LedgerMissing
from examples.ledger.store import Revision, read_revision


class Taken(NamedTuple):
    """What a quiesce did."""

    changed: bool
    entries_up_to: int


class ImageTaker:
    """Takes images of one ledger, and leaves the last one alone while the ledger has not changed."""

    def __init__(self, database_path: str, image_path: str) -> None:
        self._database_path = database_path
        self._image_path = image_path
        self._taking = threading.Lock()
        self._known: tuple[tuple[int, ...], Revision | None] | None = None

    def take(self) -> Taken:
        """Bring the image up to the ledger's last committed entry. Writers are not held up.

        Returns:
            Whether the image was replaced, and the newest `seq` it holds.

        Raises:
            LedgerMissing: There is no ledger to take an image of.
        """
        if not os.path.exists(self._database_path):
            raise LedgerMissing(f"no ledger at {self._database_path}: start it first")
        with self._taking:
            source = sqlite3.connect(f"file:{quote(self._database_path)}?mode=rw", uri=True, isolation_level=None)
            try:
                # One read transaction around both: the copy is of exactly this revision.
                source.execute("BEGIN")
                revision = read_revision(source)
                changed = not self._is_current(revision)
                if changed:
                    self._replace_image(source)
                    self._known = (_signature(self._image_path), revision)
            finally:
                source.close()
        return Taken(changed, 0 if revision is None else revision.seq)

    def _is_current(self, revision: Revision | None) -> bool:
        try:
            signature = _signature(self._image_path)
            if self._known is None or self._known[0] != signature:
                self._known = (signature, _revision_of_image(self._image_path))
        except (FileNotFoundError, sqlite3.DatabaseError):
            return False
        return self._known[1] == revision

    def _replace_image(self, source: sqlite3.Connection) -> None:
        folder = os.path.dirname(self._image_path)
        partial = f"{folder}.partial"
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for leftover in (partial, f"{partial}-journal", f"{partial}-wal", f"{partial}-shm"):
            _remove(leftover)
        target = sqlite3.connect(partial, isolation_level=None)
        try:
            # Nobody reads the partial copy, so it needs no journal of its own; it is synced once, whole, below.
            target.execute("PRAGMA synchronous=OFF")
            # All pages in one step: they come from one moment, and unchanged pages keep their place in the file.
            source.backup(target, pages=-1)
            # The copy inherits WAL mode, in which its reader would put two more files beside it.
            target.execute("PRAGMA journal_mode=DELETE")
        finally:
            target.close()
        sync(partial)
        os.rename(partial, self._image_path)
        sync(folder)


def restore(image_path: str, live_folder: str) -> int:
    """Make the image the live ledger. What was live before is kept in `replaced/`, until the next restore.

    The caller holds the live folder, so nothing serves from it.

    Returns:
        The newest `seq` of the restored ledger.

    Raises:
        LedgerMissing: There is no image.
        ImageDamaged: SQLite finds the image unsound; the live folder is as it was.
    """
    if not os.path.exists(image_path):
        raise LedgerMissing(f"no image at {image_path}: expected the one that the agent received; nothing was restored")
    os.makedirs(live_folder, mode=0o700, exist_ok=True)
    incoming = os.path.join(live_folder, "ledger.db.incoming")
    _copy(image_path, incoming)
    try:
        revision = _checked_revision(incoming)
    except sqlite3.DatabaseError as error:
        raise ImageDamaged(f"{image_path}: {error}; nothing was restored") from error
    replaced = os.path.join(live_folder, "replaced")
    os.makedirs(replaced, exist_ok=True)
    # The log of the old database must not meet the new one: SQLite would replay it. In `replaced` the old pair is kept.
    for name in ("ledger.db-shm", "ledger.db-wal", "ledger.db"):
        _remove(os.path.join(replaced, name))
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        if os.path.exists(os.path.join(live_folder, name)):
            os.rename(os.path.join(live_folder, name), os.path.join(replaced, name))
    os.rename(incoming, os.path.join(live_folder, "ledger.db"))
    sync(live_folder)
    return 0 if revision is None else revision.seq


def sync(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checked_revision(path: str) -> Revision | None:
    connection = _open_image(path)
    try:
        problems = connection.execute("PRAGMA quick_check").fetchall()
        if problems != [("ok",)]:
            raise sqlite3.DatabaseError(f"quick_check says {problems[0][0]}")
        return read_revision(connection)
    finally:
        connection.close()


def _revision_of_image(path: str) -> Revision | None:
    connection = _open_image(path)
    try:
        return read_revision(connection)
    finally:
        connection.close()


def _open_image(path: str) -> sqlite3.Connection:
    # Immutable: no lock and no second file beside an image that the agent may be reading.
    return sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None)


def _signature(path: str) -> tuple[int, ...]:
    status = os.stat(path)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as reading, open(target, "wb") as writing:
        remaining = os.fstat(reading.fileno()).st_size
        while remaining > 0:
            copied = os.copy_file_range(reading.fileno(), writing.fileno(), remaining)
            if copied == 0:
                break
            remaining -= copied
        os.fsync(writing.fileno())


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
