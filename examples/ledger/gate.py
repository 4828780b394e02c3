"""Whether writes may be acknowledged, and how many are on their way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from examples.ledger.errors import StillInFlight, WritesFrozen


class WriteGate:
    """Lets writes through while it is open; closing it waits for those inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frozen = False
        self._stopped = False
        self._in_flight = 0

    @property
    def is_frozen(self) -> bool:
        return self._frozen or self._stopped

    @contextmanager
    def one_write(self) -> Iterator[None]:
        """Hold the gate from before a write touches the ledger until its acknowledgement is sent.

        Raises:
            WritesFrozen: The gate is closed.
        """
        with self._changed:
            if self.is_frozen:
                raise WritesFrozen("the ledger acknowledges no writes now: try again, here or at its next address")
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def freeze(self, *, within_seconds: float) -> None:
        """Let no write in, then wait until none is inside. Freezing twice is freezing once.

        Raises:
            StillInFlight: A write outlasted the wait. The gate stays closed: only `thaw` opens it.
        """
        with self._changed:
            self._frozen = True
            self._drain(within_seconds)

    def thaw(self) -> None:
        """Let writes in again.

        Raises:
            WritesFrozen: The ledger is stopping, which nothing undoes.
        """
        with self._changed:
            if self._stopped:
                raise WritesFrozen("the ledger is stopping and cannot be thawed: start it again")
            self._frozen = False

    def stop(self, *, within_seconds: float) -> None:
        """Close for good, then wait as `freeze` does."""
        with self._changed:
            self._stopped = True
            self._drain(within_seconds)

    def _drain(self, within_seconds: float) -> None:
        if not self._changed.wait_for(lambda: self._in_flight == 0, timeout=within_seconds):
            raise StillInFlight(f"{self._in_flight} write(s) still in flight after {within_seconds} s")
