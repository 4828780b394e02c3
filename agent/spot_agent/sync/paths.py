"""Where the watched paths lie on this instance, and how to get below them without ever leaving them.

On the wire a watched path is its position in the list, so that the same generation fits instances that keep the same
state in different folders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from spot_agent.sync.errors import PathNotWatchable
from spot_agent.sync.manifest import STAGING_NAME, Key

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
        if not paths:
            raise PathNotWatchable("no path is watched; configure at least one")
        roots = tuple(_resolved(path) for path in paths)
        for position, root in enumerate(roots):
            if state_dir is not None and state_dir.resolve().is_relative_to(root):
                raise PathNotWatchable(f"{root} contains the agent's state folder {state_dir}; keep that elsewhere")
            for other in roots[position + 1 :]:
                if root.is_relative_to(other) or other.is_relative_to(root):
                    raise PathNotWatchable(f"{root} and {other} overlap; watch only the outer one")
        return WatchedPaths(roots)

    def place(self, key: Key) -> bytes:
        """The full path of an entry here, for reading and for messages."""
        root = os.fsencode(self.roots[key.root])
        return root + b"/" + key.path if key.path else root


@dataclass(frozen=True)
class Staging:
    """The folder in which a generation waits to be moved to a watched path; on the same file system, so that it can.

    Beside the watched path, or in it where that is a mount point of its own.

    Attributes:
        folder: The folder, which may not exist yet.
        inside: Whether it is in the watched path.
    """

    folder: Path

    inside: bool

    @staticmethod
    def of(root: Path) -> Staging:
        """Staging for a watched path as it lies now."""
        return Staging.at(root, inside=os.path.ismount(root))

    @staticmethod
    def at(root: Path, *, inside: bool) -> Staging:
        name = os.fsdecode(STAGING_NAME)
        return Staging(root / name if inside else root.parent / f"{name}-{root.name}", inside)


class Folders:
    """Opens the folder that holds an entry, name by name, refusing symbolic links on the way.

    Whatever a peer sends and whatever lies on the disk, what is opened lies below the watched path. The folders on the
    way to the last entry stay open, which makes sorted access cheap.
    """

    def __init__(self, root: Path) -> None:
        self._name = os.fsencode(root.name)
        # The way to the watched path comes from the configuration and may contain links; the way below may not.
        self._open: list[tuple[bytes, int]] = [(b"", os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]

    def holding(self, key: Key) -> tuple[int, bytes]:
        """Descriptor of the folder that holds an entry, valid until the next call, and the entry's name in it.

        Raises:
            FileNotFoundError: A folder on the way is missing.
            NotADirectoryError: Something on the way is no folder, but a link for example.
        """
        names = [self._name, *key.path.split(b"/")] if key.path else [self._name]
        depth = 0
        while depth < len(names) - 1 and depth + 1 < len(self._open) and self._open[depth + 1][0] == names[depth]:
            depth += 1
        self._shrink(depth)
        for name in names[depth:-1]:
            self._open.append((name, os.open(name, _OPEN_FOLDER, dir_fd=self._open[-1][1])))
        return self._open[-1][1], names[-1]

    def forget(self) -> None:
        """Close all but the first, after folders were removed or replaced."""
        self._shrink(0)

    def close(self) -> None:
        self._shrink(-1)

    def _shrink(self, depth: int) -> None:
        while len(self._open) > depth + 1:
            os.close(self._open.pop()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _resolved(path: Path) -> Path:
    if not path.is_absolute():
        raise PathNotWatchable(f"{path} is relative; watched paths are absolute")
    root = path.resolve()
    if root == root.parent:
        raise PathNotWatchable("/ can not be watched as a whole; name the folders that hold state")
    return root
