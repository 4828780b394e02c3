"""The standby's store: exactly one complete generation, whatever dies and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot_agent.sync.manifest import Manifest
from spot_agent.sync.paths import WatchedPaths


@dataclass(frozen=True)
class Generation:
    """A committed generation.

    Attributes:
        number: As the primary counted.
        epoch: The primary's epoch when it was taken.
        root_hash: Stands for every name, metadata and byte of it.
        final_for: Handover id if it was the last one of a handover.
        taken_at: Epoch seconds by the primary's clock, just before it was read.
        extra: What travelled along: configuration, prices, switch history.
        settled: Whether it is an image of one point in time.
        entry_count: Files, folders and links.
        total_bytes: Of all files.
    """

    number: int
    epoch: int
    root_hash: str
    final_for: str | None
    taken_at: float
    extra: Mapping[str, Any]
    settled: bool
    entry_count: int
    total_bytes: int


class GenerationStore:
    """Holds the current generation in the watched paths themselves, and the next one in a journal until it is whole."""

    @staticmethod
    def open(folder: Path, watched: WatchedPaths) -> GenerationStore:
        """Open the store and recover: drop a half-received generation, finish applying a committed one.

        Args:
            folder: The store's own folder, outside the watched paths; made if missing.
            watched: Where the image lies on this instance.

        Raises:
            StorageFailed: Recovery could not write.
        """
        raise NotImplementedError

    def current(self) -> Generation | None:
        """The newest committed generation; None before the first one, or when the image was found damaged."""
        raise NotImplementedError

    def manifest(self) -> Manifest | None:
        """What the current generation contains."""
        raise NotImplementedError

    def settle(self, *, timeout_seconds: float) -> Generation:
        """Wait until the current generation is in the watched paths; call it before the workload starts.

        Raises:
            ImageDamaged: There is none, or it could not be applied as promised.
            StorageFailed: The disk did not take it.
            TimeoutError: It took longer.
        """
        raise NotImplementedError

    def verify(self) -> None:
        """Read the whole image and compare it with the current generation.

        Raises:
            ImageDamaged: They differ; `current` is None from now on and the next generation must be a full one.
        """
        raise NotImplementedError

    def release(self) -> Manifest | None:
        """Stop being a standby's store: remove journal and staging, leave the image. For the promoted instance.

        Returns:
            What the image contains, for `GenerationSource.adopt`.
        """
        raise NotImplementedError
