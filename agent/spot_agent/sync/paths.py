"""Where the watched paths lie on this instance.

On the wire a watched path is its position in the list, so that the same generation fits instances that keep the same
state in different folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WatchedPaths:
    """The watched paths, in the order in which the agent is configured with them on every instance.

    Attributes:
        roots: Absolute, resolved; none lies inside another. Each may be a folder or a single file, and may be missing.
    """

    roots: tuple[Path, ...]

    @staticmethod
    def of(paths: Sequence[Path], *, state_dir: Path | None = None) -> WatchedPaths:
        """Resolve and check the configured paths.

        Args:
            paths: Absolute paths, at least one.
            state_dir: The agent's own folder, which must not be watched.

        Raises:
            PathNotWatchable: A path is relative, contains another one, or contains `state_dir`.
        """
        raise NotImplementedError
