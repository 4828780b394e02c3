"""How a former primary comes to hold its state as a standby does: what is live here becomes an image, unread twice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from spot_agent.journal import Journal
from spot_agent.receiving import Receiver, as_event
from spot_agent.serving import Serving
from spot_agent.sync.errors import GenerationUnsound, StorageFailed
from spot_agent.sync.generations import Generation
from spot_agent.sync.source import GenerationSource
from spot_optimizer.domain.protocol import Event, StateHeld

log = logging.getLogger(__name__)

_TRIES: Final = 3
_PAUSE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 60.0
_READ_SECONDS: Final = 3600.0


class Holding:
    """Makes the live state an image, by a thread of its own, and says what is held."""

    def __init__(
        self,
        journal: Journal,
        receiver: Receiver,
        source: GenerationSource,
        serving: Serving,
        *,
        reading: threading.Lock,
        next_number: Callable[[], int],
        extra: Callable[[], Mapping[str, Any]],
        emit: Callable[[Event], None],
        pause: Callable[[float], bool],
    ) -> None:
        """Keep what is given.

        Args:
            journal: Remembers whose state is live here.
            receiver: Has the store.
            source: Knows the hashes of what it read as a primary.
            serving: The workload; nothing is held while a process of it lives.
            reading: Held from a quiesce until all is read, by whoever reads: the next quiesce writes.
            next_number: Numbers generations, durably.
            extra: What travels along with each generation.
            emit: Takes the event.
            pause: Waits so many seconds; True when the agent ends.
        """
        self._journal = journal
        self._receiver = receiver
        self._source = source
        self._serving = serving
        self._reading = reading
        self._next_number = next_number
        self._extra = extra
        self._emit = emit
        self._pause = pause

    def hold(self) -> None:
        """Hold what lies here; blocks until that is done, or known to be impossible: then all has to be sent anew."""
        for _ in range(_TRIES):
            try:
                held = self._held()
            except (GenerationUnsound, StorageFailed, TimeoutError):
                log.exception("the live state is not held yet")
            else:
                self._emit(held)
                return
            if self._pause(_PAUSE_SECONDS):
                return
        self._emit(StateHeld(0))

    def _held(self) -> StateHeld:
        image = self._receiver.image
        epoch = self._journal.memory.live_epoch
        if image is None and epoch is None:
            return StateHeld(0)
        if image is None:
            image = self._make_image(epoch or 0)
        said = as_event(image)
        return StateHeld(said.generation, said.covered_until, said.epoch)

    def _make_image(self, epoch: int) -> Generation:
        if not self._serving.await_stopped(_STOP_SECONDS):
            raise TimeoutError("the workload does not end")
        number = self._next_number()
        with self._reading:
            # What it wrote last is in the watched paths only then, where they hold an image.
            if not self._serving.quiesce():
                raise GenerationUnsound("the stopped workload could not be quiesced")
            manifest = self._source.survey(number, epoch=epoch, timeout_seconds=_READ_SECONDS)
        until = self._journal.memory.live_until
        image = Generation(
            number=number,
            epoch=epoch,
            root_hash=manifest.root_hash,
            final_for=None,
            taken_at=(datetime.now(UTC) if until is None else datetime.fromisoformat(until)).timestamp(),
            extra=dict(self._extra()),
            settled=True,
            entry_count=len(manifest),
            total_bytes=manifest.total_bytes,
        )
        self._receiver.hold(image, manifest)
        log.info("the live state is held as an image", extra={"epoch": epoch, "bytes": manifest.total_bytes})
        return image
