"""The primary's side of state transfer: takes generations from the watched paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spot_agent.sync.manifest import Manifest
from spot_agent.sync.paths import WatchedPaths


@dataclass(frozen=True)
class Progress:
    """How far the reading, or shipping, of one generation is.

    Attributes:
        done_bytes: Bytes of watched files dealt with.
        total_bytes: Bytes of watched files that had to be looked at; 0 until the tree has been walked.
        wire_bytes: Bytes put on the wire for it, compressed.
        bytes_per_second: Rate of `done_bytes` since the start.
    """

    done_bytes: int
    total_bytes: int
    wire_bytes: int
    bytes_per_second: float

    @property
    def percent(self) -> float:
        """Between 0 and 100."""
        return 100.0 if self.done_bytes >= self.total_bytes else 100.0 * self.done_bytes / self.total_bytes


class OutgoingGeneration:
    """A generation being read on a thread of its own while it is shipped.

    Attributes:
        number: Rises by at least one per generation within an epoch.
        epoch: The primary's epoch.
        final_for: Handover id if this is the last generation of a handover.
        taken_at: Epoch seconds by this instance's clock, just before reading began.
    """

    number: int
    epoch: int
    final_for: str | None
    taken_at: float

    def wait_until_read(self, timeout_seconds: float) -> Manifest:
        """Block until everything is read, so that the workload may go on.

        Without somebody shipping it at the same time this only returns for generations of less than the buffer
        (`GenerationSource.buffer_bytes`): reading waits when the link is slower than the disk.

        Raises:
            GenerationUnsound: Files kept changing while they were read.
            TimeoutError: Not read in time.
        """
        raise NotImplementedError

    @property
    def changes(self) -> bool:
        """Whether anything differs from what the standby holds; waits until everything is read."""
        raise NotImplementedError

    @property
    def progress(self) -> Progress:
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop reading; `ship` then raises. Harmless afterwards."""
        raise NotImplementedError


class GenerationSource:
    """Takes generations. One per agent process; knows the hashes of all it has read, so re-reads only what changed."""

    def __init__(self, watched: WatchedPaths, *, buffer_bytes: int = 128 << 20) -> None: ...

    def take(
        self,
        number: int,
        *,
        epoch: int,
        held: Manifest | None,
        final_for: str | None = None,
        extra: Mapping[str, Any] | None = None,
        must_settle: bool = True,
        on_read: Callable[[], None] | None = None,
    ) -> OutgoingGeneration:
        """Begin to read the watched paths; returns at once.

        Args:
            number: Of the new generation; greater than any before in this epoch.
            epoch: The primary's epoch.
            held: What the standby holds (`PrimaryLink.held`); None sends everything.
            final_for: Handover id, for the last generation of a handover.
            extra: JSON-able payload that travels along: configuration, prices, switch history.
            must_settle: True when the workload is quiesced or frozen: a file that changes meanwhile is an error. False
                accepts files of different moments (each by itself whole as far as can be seen).
            on_read: Called on the reading thread once everything is read: thaw here.

        Returns:
            A generation in progress: ship it, or cancel it.
        """
        raise NotImplementedError

    def adopt(self, manifest: Manifest) -> None:
        """Reuse the hashes of a promoted standby: files that look as the manifest says are not read again."""
        raise NotImplementedError
