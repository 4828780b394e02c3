"""Holds the rate at which generations are sent below a limit, until there is a reason to hurry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_BURST_SECONDS: Final = 0.1


class Throttle:
    """Spreads bytes over time. Safe to use from several threads."""

    def __init__(self, bytes_per_second: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Limit to so much; None for no limit.

        Args:
            bytes_per_second: More than 0.
            clock: Seconds that only go forwards.
        """
        self._rate = bytes_per_second
        self._clock = clock
        self._changed = threading.Condition()
        self._free_at = 0.0
        self._lifted = False

    def lift(self, *, lifted: bool = True) -> None:
        """Hold back nothing, also none that waits now; or begin to hold back again."""
        with self._changed:
            self._lifted = lifted
            self._free_at = 0.0
            self._changed.notify_all()

    def wait(self, count: int, *, deadline: float = float("inf"), until: Callable[[], bool] = lambda: False) -> None:
        """Return when so many bytes more may be sent.

        Args:
            count: Bytes about to be sent.
            deadline: By the clock: returns then in any case.
            until: Asked now and then; True ends the wait as well.
        """
        if self._rate is None:
            return
        with self._changed:
            # What was not used is lost: a pause is no licence for a burst.
            start = max(self._free_at, self._clock() - _BURST_SECONDS)
            self._free_at = start + count / self._rate
            while not self._lifted and not until():
                pause = min(start, deadline) - self._clock()
                if pause <= 0:
                    return
                self._changed.wait(min(pause, _BURST_SECONDS))
