"""Times as people write them on a command line."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from spotctl.failures import NotUnderstood

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

From = Annotated[
    str | None,
    typer.Option("--from", help="Since when: a time (ISO 8601, UTC without a zone), or 6h or 7d ago."),
]
To = Annotated[str | None, typer.Option("--to", help="Until when, in the same way; now without.")]


def read_time(text: str, now: datetime) -> datetime:
    """Read a time.

    Args:
        text: ISO 8601, in UTC if it names no zone; or `90m`, `6h`, `7d` for that long before now.
        now: Now, in UTC.

    Raises:
        NotUnderstood: It is neither.
    """
    if text[:-1].isdecimal() and text[-1:] in _UNITS:
        return now - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise NotUnderstood(
            f"'{text}' is not a time; expected 2026-03-01, 2026-03-01T12:00, or 90m, 6h, 7d for that long ago"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def read_range(since: str | None, until: str | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Read both ends of a stretch of time; None where nothing was said.

    Raises:
        NotUnderstood: One is no time.
    """
    return (read_time(since, now) if since else None, read_time(until, now) if until else None)
