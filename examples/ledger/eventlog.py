# ruff: noqa: PTH103, PTH120
# pathlib would lengthen every hook by a fifth, and hooks are part of the outage; see settings.py.
"""Append-only logs, one JSON object per line."""

import json
import os
import time
from collections.abc import Iterable, Iterator

from examples.ledger.clock import boot_ns
from examples.ledger.errors import LogDamaged

type Value = str | int | float | bool | None
type Record = dict[str, Value]


class EventLog:
    """Appends records so that a line that was written survives the death of its writer.

    One `write` call per line, on a file opened for appending: threads and processes may share the file, and SIGKILL
    finds nothing in a buffer of ours. It is evidence for the audit, not state, so it is not fsynced.
    """

    def __init__(self, path: str, **fixed: Value) -> None:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._fixed = fixed

    def append(self, event: str, **fields: Value) -> int:
        """Write one record.

        Returns:
            The CLOCK_BOOTTIME that the record carries, in nanoseconds.
        """
        now = boot_ns()
        record = {"event": event, **self._fixed, **fields, "boot_ns": now, "wall_ns": time.time_ns()}
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")
        return now

    def close(self) -> None:
        os.close(self._file)


def read_records(lines: Iterable[str], *, name: str) -> Iterator[Record]:
    """Parse a log.

    Args:
        lines: The lines with their ends, in file order.
        name: What to call the log in an error.

    Yields:
        Its records. A last line without an end is what a killed writer left, and is no record.

    Raises:
        LogDamaged: Any other line is not a JSON object with an `event` and a `boot_ns`.
    """
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            return
        try:
            record = json.loads(line)
        except ValueError as error:
            raise LogDamaged(f"{name}, line {number}: expected a JSON object, got {line.strip()!r}") from error
        if not (
            isinstance(record, dict) and isinstance(record.get("event"), str) and type(record.get("boot_ns")) is int
        ):
            raise LogDamaged(f"{name}, line {number}: expected an object with event and boot_ns, got {line.strip()!r}")
        yield record
