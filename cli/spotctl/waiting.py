"""Waiting for what goes on by itself: looking again and again, for so long."""

from __future__ import annotations

import time
from collections.abc import Iterator

LOOK_EVERY_SECONDS = 1.0


def looks(within_seconds: float) -> Iterator[None]:
    """One turn per look, until the time is over; what was waited for may have come about in the last one."""
    until = time.monotonic() + within_seconds
    while True:
        yield
        if time.monotonic() > until:
            return
        time.sleep(LOOK_EVERY_SECONDS)
