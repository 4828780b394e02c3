"""What the agent tells, and what it could not tell yet.

Records are one JSON object per line, on stderr and in a file whose tail outlives the instance.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

_FILE_BYTES: Final = 4 << 20
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_MOST_REPORTS: Final = 10_000


class JsonLines(logging.Formatter):
    """One object per record: when, how grave, from where, what; then whatever the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record as one line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name.removeprefix("spot_agent."),
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def write_logs(folder: Path) -> Path:
    """Send every record from now on to stderr and to a file.

    Args:
        folder: Where the file lies; the file before it is kept beside it.

    Returns:
        The file.
    """
    file = folder / "agent.log"
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per request is noise, and it has the address
    for handler in (
        logging.StreamHandler(sys.stderr),
        RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8"),
    ):
        handler.setFormatter(JsonLines())
        root.addHandler(handler)
    return file


def read_tail(file: Path, *, limit_bytes: int) -> bytes:
    """The last whole lines of a log file and of the one before it.

    Args:
        file: As `write_logs` returned it.
        limit_bytes: At most so many.

    Returns:
        The lines, oldest first; empty if there are none.
    """
    kept = b""
    for part in (file, file.with_name(file.name + ".1")):
        room = limit_bytes - len(kept)
        if room <= 0 or not part.exists():
            break
        with part.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - room))
            read = opened.read()
        if size > room:
            read = read[read.find(b"\n") + 1 :]
        kept = read + kept
    return kept


@dataclass(frozen=True, slots=True)
class Report:
    """Something the control plane should know, sooner or later.

    Attributes:
        path: Below the agent's own path of the API.
        key: Makes a repeated submission the same submission.
    """

    path: str
    key: str
    body: Mapping[str, Any]


class UnsentReports:
    """Reports that did not get through, on disk, oldest first. Safe to use from several threads."""

    def __init__(self, file: Path) -> None:
        """Take up what an earlier agent left.

        Args:
            file: One JSON object per line; a line that a crash cut off is passed over.
        """
        self._file: Final = file
        self._lock = threading.Lock()
        self._reports: list[Report] = []
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    self._reports.append(Report(**json.loads(line)))
                except (ValueError, TypeError):
                    continue

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: Report) -> None:
        """Keep a report; beyond a bound the oldest is dropped."""
        with self._lock:
            self._reports.append(report)
            if len(self._reports) > _MOST_REPORTS:
                self._reports = self._reports[-_MOST_REPORTS:]
                self._rewrite()
            else:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(report)) + "\n")

    def submit(self, submit: Callable[[Report], bool]) -> int:
        """Try to send what is kept, oldest first, up to the first that does not get through.

        Args:
            submit: Sends one report; False when it should be kept.

        Returns:
            How many got through.
        """
        sent = 0
        while True:
            with self._lock:
                if not self._reports:
                    break
                report = self._reports[0]
            if not submit(report):
                break
            sent += 1
            with self._lock:
                if self._reports and self._reports[0] is report:
                    self._reports.pop(0)
        if sent:
            with self._lock:
                self._rewrite()
        return sent

    def _rewrite(self) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text("".join(json.dumps(asdict(report)) + "\n" for report in self._reports), encoding="utf-8")
        temporary.replace(self._file)
