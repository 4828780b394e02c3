"""Sends heartbeats: in time, and at once when something changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from spot_agent.control_plane import Answer
from spot_agent.fence import boot_clock

log = logging.getLogger(__name__)

_MOST_IN_FLIGHT: Final = 3
_UNANSWERED_SECONDS: Final = 1.0


class Heartbeats:
    """Numbers heartbeats and sends them, each by a thread of its own: one that hangs does not hold up the next."""

    def __init__(
        self,
        *,
        compose: Callable[[], Mapping[str, Any]],
        send: Callable[[Mapping[str, Any]], Answer],
        take_answer: Callable[[int, float, Answer], None],
    ) -> None:
        """Keep what is given; `begin` makes it work.

        Args:
            compose: Makes the body, from what is so at that moment.
            send: Sends it.
            take_answer: Takes the number of the heartbeat, when it was sent (CLOCK_BOOTTIME), and how it ended.
        """
        self._compose = compose
        self._send = send
        self._take_answer = take_answer
        self._changed = threading.Condition()
        self._every_seconds = 5.0
        self._wanted = True
        self._sent_at = float("-inf")
        self._number = 0
        self._in_flight = 0
        self._closed = False

    def begin(self) -> None:
        """Send the first one now."""
        for number in range(_MOST_IN_FLIGHT):
            threading.Thread(target=self._work, name=f"heartbeat-{number}", daemon=True).start()

    def send_now(self) -> None:
        """Send one out of turn; what is in flight does not know of the change yet."""
        with self._changed:
            self._wanted = True
            self._changed.notify()

    def pace(self, every_seconds: float) -> None:
        """Send one at most so long after the last."""
        with self._changed:
            self._every_seconds = every_seconds
            self._changed.notify()

    def close(self) -> None:
        """Send no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._due():
                    self._changed.wait(self._patience())
                if self._closed:
                    return
                self._wanted = False
                self._number += 1
                number = self._number
                sent_at = self._sent_at = boot_clock()
                body = self._compose()
                self._in_flight += 1
            answer = self._send(body)
            with self._changed:
                self._in_flight -= 1
                self._changed.notify()
            self._take_answer(number, sent_at, answer)

    def _due(self) -> bool:
        return self._wanted or boot_clock() >= self._next_at

    @property
    def _next_at(self) -> float:
        """When the next one is sent in turn.

        One that is not answered yet is waited for a while, as more of the same would only add to a backlog, but not
        for as long as its time limit: its answer may be lost, and orders with it.
        """
        unanswered = self._in_flight > 0
        return self._sent_at + (max(self._every_seconds, _UNANSWERED_SECONDS) if unanswered else self._every_seconds)

    def _patience(self) -> float:
        return max(self._next_at - boot_clock(), 0.001)
