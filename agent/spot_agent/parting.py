"""What an instance still has to tell when its part is over: reports that did not get through, and its log's end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from spot_agent.control_plane import Answered, ControlPlane, OutcomeUnknown
from spot_agent.logs import Report, UnsentReports, read_tail

log = logging.getLogger(__name__)

_TAIL_BYTES: Final = 1 << 20
_TRIES: Final = 5
_PAUSE_SECONDS: Final = 2.0


class Parting:
    """Submits what is left; may be asked to more than once, each time with the log as it is then."""

    def __init__(
        self, control_plane: ControlPlane, unsent: UnsentReports, log_file: Path, *, pause: Callable[[float], bool]
    ) -> None:
        """Keep what is given.

        Args:
            control_plane: Takes the reports, and says where the tail may be put.
            unsent: The reports that were kept.
            log_file: The agent's log.
            pause: Waits so many seconds; True when there is no time for that any more.
        """
        self._control_plane = control_plane
        self._unsent = unsent
        self._log_file = log_file
        self._pause = pause

    def flush(self) -> bool:
        """Submit the reports and put the tail; tries a few times, because the machine goes soon.

        Returns:
            Whether all of it arrived.
        """
        for _ in range(_TRIES):
            self._unsent.submit(self._submit)
            if len(self._unsent) == 0 and self._put_tail():
                return True
            if self._pause(_PAUSE_SECONDS):
                break
        log.warning("not all could be told before the end", extra={"reports": len(self._unsent)})
        return False

    def _submit(self, report: Report) -> bool:
        # What is refused would be refused again, and keep back what comes after it.
        return not isinstance(self._control_plane.submit(report), OutcomeUnknown)

    def _put_tail(self) -> bool:
        tail = read_tail(self._log_file, limit_bytes=_TAIL_BYTES)
        destination = self._control_plane.log_tail_destination(size_bytes=len(tail))
        if not isinstance(destination, Answered):
            log.warning("no place for the log's tail", extra={"answer": repr(destination)})
            return False
        url, headers = destination.body.get("url"), destination.body.get("headers", {})
        if not isinstance(url, str) or not isinstance(headers, dict):
            log.warning("no place for the log's tail", extra={"answer": repr(destination)})
            return False
        if not self._control_plane.upload(url, headers, tail):
            return False
        log.info("tail of the log stored", extra={"bytes": len(tail)})
        return True
