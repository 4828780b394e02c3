# ruff: noqa: PTH103, PTH120
# pathlib would lengthen every hook by a fifth, and hooks are part of the outage; see settings.py.
"""The ledger itself: one SQLite database, which commits durably before anybody hears of it."""

import os
import sqlite3
import threading
import time
from typing import NamedTuple

from examples.ledger.errors import EntryDiffers

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    amount INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    accepted_ns INTEGER NOT NULL
)
"""


class Entry(NamedTuple):
    """One line of the ledger. `epoch` is the one under which it was first acknowledged."""

    seq: int
    id: str
    amount: int
    epoch: int


class Revision(NamedTuple):
    """What tells two states of a ledger apart: entries are only ever added, so the newest one names them all.

    All its columns count, because after a failover that lost entries the same `seq` is given out again.
    """

    seq: int
    id: str
    amount: int
    epoch: int
    accepted_ns: int


class Store:
    """An open ledger. Any thread may use it."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self._path = path
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer = _connect(path)
        self._writer.execute("PRAGMA journal_mode=WAL")
        # FULL syncs the log at every commit. NORMAL does not in WAL mode, and would lose acknowledged entries.
        self._writer.execute("PRAGMA synchronous=FULL")
        self._writer.execute(SCHEMA)
        self._reader = _connect(path)
        self._reader.execute("PRAGMA query_only=ON")

    def add(self, entry_id: str, amount: int, *, epoch: int) -> tuple[Entry, bool]:
        """Commit an entry durably, once.

        Returns:
            The entry as the ledger holds it, and whether this call added it.

        Raises:
            EntryDiffers: The id is there already, with another amount.
        """
        with self._writing:
            cursor = self._writer.execute(
                "INSERT INTO entries (id, amount, epoch, accepted_ns) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (entry_id, amount, epoch, time.time_ns()),
            )
            if cursor.rowcount == 1 and cursor.lastrowid is not None:
                return Entry(cursor.lastrowid, entry_id, amount, epoch), True
        # Whoever added it has committed it: the writer's lock lies between us and any commit.
        entry = self.find(entry_id)
        if entry is None or entry.amount != amount:
            raise EntryDiffers(f"{entry_id} is in the ledger with another amount: expected a new id for a new entry")
        return entry, False

    def find(self, entry_id: str) -> Entry | None:
        with self._reading:
            row = self._reader.execute(
                "SELECT seq, id, amount, epoch FROM entries WHERE id = ?", (entry_id,)
            ).fetchone()
        return None if row is None else Entry(*row)

    def after(self, seq: int, *, limit: int) -> tuple[Entry, ...]:
        """The entries that follow `seq`, oldest first, at most `limit`."""
        with self._reading:
            rows = self._reader.execute(
                "SELECT seq, id, amount, epoch FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
            ).fetchall()
        return tuple(Entry(*row) for row in rows)

    def revision(self) -> Revision | None:
        """The state the ledger is in; None when it has no entry."""
        with self._reading:
            return read_revision(self._reader)

    def close(self) -> None:
        """Move what is in the log into the database file, and let go of it."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()


def read_revision(connection: sqlite3.Connection) -> Revision | None:
    row = connection.execute(
        "SELECT seq, id, amount, epoch, accepted_ns FROM entries ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return None if row is None else Revision(*row)


def _connect(path: str) -> sqlite3.Connection:
    # Each statement is its own transaction, and locks of ours keep the threads apart.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
