"""Maintenance windows: when an agent may be moved for money; an operator writes `sat,sun 02:00-06:00`, in UTC."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EXPECTED = "days and hours in UTC, such as `daily 02:00-04:00`, `mon-fri 22:00-05:00` or `sat,sun 00:00-24:00`"

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_PER_DAY = 24 * 60
_WINDOW = re.compile(r"^(?P<days>[a-z,-]+) (?P<from>\d\d):(?P<from_minute>\d\d)-(?P<to>\d\d):(?P<to_minute>\d\d)$")
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Some hours of some days of each week, in UTC.

    Attributes:
        days: Of its beginning; 0 is Monday.
        opens_at: Minute of the day.
        minutes: How long it is open, at least 1 and at most a day; it may reach into the next day.
    """

    days: frozenset[int]
    opens_at: int
    minutes: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read what an operator wrote.

        Raises:
            ValueError: It is no window; the message says what one looks like.
        """
        found = _WINDOW.match(text)
        if found is None:
            raise ValueError(EXPECTED)
        opens_at = _minute(found["from"], found["from_minute"])
        closes_at = _minute(found["to"], found["to_minute"])
        if opens_at is None or closes_at is None or opens_at in (_MINUTES_PER_DAY, closes_at):
            raise ValueError(EXPECTED)
        return cls(_days(found["days"]), opens_at, (closes_at - opens_at) % _MINUTES_PER_DAY or _MINUTES_PER_DAY)

    def is_open(self, now: datetime) -> bool:
        """Whether a moment is in it; its end is not."""
        at = now.astimezone(UTC)
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        for begun in (midnight, midnight - timedelta(days=1)):
            opens = begun + self.opens_at * _MINUTE
            if begun.weekday() in self.days and opens <= at < opens + self.minutes * _MINUTE:
                return True
        return False


def is_open(windows: Iterable[Window], now: datetime) -> bool:
    """Whether one of the windows is open; where there is none, it always is."""
    known = tuple(windows)
    return not known or any(window.is_open(now) for window in known)


def _minute(hour: str, minute: str) -> int | None:
    at = int(hour) * 60 + int(minute)
    return at if int(minute) < 60 and at <= _MINUTES_PER_DAY else None


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(EXPECTED)
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 + 1 if dash else 1
        days |= {(begin + offset) % 7 for offset in range(length)}
    return frozenset(days)
