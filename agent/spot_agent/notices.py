"""Watches the instance metadata for AWS's two signals."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from spot_agent.imds import Imds, MetadataUnreachable, NoticeUnreadable
from spot_optimizer.domain.protocol import Event, NoticeRead, RebalanceRead

log = logging.getLogger(__name__)


class NoticeWatch:
    """Looks every so often; emits what it sees, each time it sees it."""

    def __init__(self, imds: Imds, *, emit: Callable[[Event], None], every_seconds: float) -> None:
        """Keep what is given; `begin` makes it work.

        Args:
            imds: Where to look.
            emit: Takes the events, on the watch's thread.
            every_seconds: At first, and at most.
        """
        self._imds = imds
        self._emit = emit
        self._configured_seconds = every_seconds
        self._every_seconds = every_seconds
        self._changed = threading.Condition()
        self._closed = False
        self._unreachable = False

    def begin(self) -> None:
        """Look for the first time now."""
        threading.Thread(target=self._work, name="notices", daemon=True).start()

    def pace(self, every_seconds: float) -> None:
        """Look at most so long after the last time, and never less often than configured."""
        with self._changed:
            self._every_seconds = min(every_seconds, self._configured_seconds)
            self._changed.notify()

    def close(self) -> None:
        """Look no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def look(self) -> None:
        """Look once; what cannot be read is logged, and read again the next time."""
        now = datetime.now(UTC)
        notice = self._read(lambda: self._imds.interruption_notice(now=now))
        if notice is not None:
            self._emit(NoticeRead(notice.at.isoformat(), (notice.at - now).total_seconds()))
        if self._read(self._imds.rebalance_recommendation) is not None:
            self._emit(RebalanceRead())

    def _read[Signal](self, read: Callable[[], Signal | None]) -> Signal | None:
        try:
            signal = read()
        except NoticeUnreadable:
            log.warning("notice unreadable; trying again", exc_info=True)
            return None
        except MetadataUnreachable as error:
            if not self._unreachable:  # once per outage, not once per second
                log.warning("metadata unreachable; trying again", extra={"error": str(error)})
            self._unreachable = True
            return None
        self._unreachable = False
        return signal

    def _work(self) -> None:
        while True:
            self.look()
            looked_at = time.monotonic()
            with self._changed:
                while not self._closed and (left := looked_at + self._every_seconds - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._closed:
                    return
