"""Walks the watched paths: what is there, by metadata only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from spot_agent.sync.errors import PathNotWatchable
from spot_agent.sync.manifest import STAGING_NAME, Entry, Key, Kind
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.watch import Watch


class Signature(NamedTuple):
    """What changes when a file's content changes. The change time can not be set back by a program, unlike the
    other.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @staticmethod
    def of(status: os.stat_result) -> Signature:
        return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass
class Walk:
    """What one walk over the watched paths found.

    Attributes:
        others: Folders and links, complete.
        files: Status of each file.
        disturbed: Something vanished while it was looked at: the walk is no picture of one moment.
        passed_over: How many sockets, pipes and devices were seen.
    """

    others: dict[Key, Entry] = field(default_factory=dict)
    files: dict[Key, os.stat_result] = field(default_factory=dict)
    disturbed: bool = False
    passed_over: int = 0

    def same_as(self, other: Walk) -> bool:
        """Whether both saw the same tree: same folders and links, same files unchanged."""
        return (
            not self.disturbed
            and not other.disturbed
            and self.others == other.others
            and self.files.keys() == other.files.keys()
            and all(_same(status, other.files[key]) for key, status in self.files.items())
        )


def walk(watched: WatchedPaths, *, watch: Watch | None = None) -> Walk:
    """Look at everything below the watched paths.

    Args:
        watched: Where.
        watch: Is to notice what changes from when it was looked at.

    Raises:
        PathNotWatchable: Something may not be looked at by this process.
    """
    found = Walk()
    for number in range(len(watched.roots)):
        key = Key(number, b"")
        try:
            if watch is not None:
                watch.add_root(watched.place(key))
            status = os.lstat(watched.place(key))
        except FileNotFoundError:
            continue
        pending = [key] if _note(found, key, status, watched) else []
        while pending:
            folder = pending.pop()
            try:
                if watch is not None:
                    watch.add(watched.place(folder))
                pending.extend(_children(watched, folder, found, watch))
            except (FileNotFoundError, NotADirectoryError):
                found.disturbed = True
            except PermissionError as forbidden:
                raise PathNotWatchable(f"{folder} may not be read by the agent") from forbidden
    return found


def describe(key: Key, status: os.stat_result, watched: WatchedPaths) -> Entry:
    """The entry of a folder or link."""
    mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    if stat.S_ISDIR(status.st_mode):
        return Entry(Kind.FOLDER, mode, status.st_uid, status.st_gid, mtime)
    target = os.readlink(watched.place(key))  # noqa: PTH115  a Path would drop trailing slashes
    return Entry(Kind.LINK, 0o777, status.st_uid, status.st_gid, mtime, target=target)


def _children(watched: WatchedPaths, folder: Key, found: Walk, watch: Watch | None) -> Iterator[Key]:
    """Enter all children of a folder into the walk; yields the folders among them."""
    prefix = folder.path + b"/" if folder.path else b""
    with os.scandir(watched.place(folder)) as listing:
        for child in listing:
            if not prefix and child.name.startswith(STAGING_NAME):
                continue
            key = Key(folder.root, prefix + child.name)
            try:
                status = child.stat(follow_symlinks=False)
            except FileNotFoundError:
                found.disturbed = True
                continue
            if watch is not None and status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
                # Who writes to it by another name does so unnoticed by the folder's watch.
                status = _watched_status(watch, child) or status
            if _note(found, key, status, watched):
                yield key


def _watched_status(watch: Watch, child: os.DirEntry[bytes]) -> os.stat_result | None:
    """Watch a file by itself, and look at it again from then on; None if it is gone, which its folder notices."""
    try:
        watch.add(child.path)
        return os.lstat(child.path)
    except FileNotFoundError:
        return None


def _note(found: Walk, key: Key, status: os.stat_result, watched: WatchedPaths) -> bool:
    """Enter one thing into the walk; answers whether it is a folder to go into."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        found.files[key] = status
    elif kind in (stat.S_IFDIR, stat.S_IFLNK):
        try:
            found.others[key] = describe(key, status, watched)
        except OSError:  # no longer a link: seen again by the next walk
            found.disturbed = True
            return False
    else:
        found.passed_over += 1
    return kind == stat.S_IFDIR


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return Signature.of(one) == Signature.of(other) and one.st_mode == other.st_mode and one.st_uid == other.st_uid
