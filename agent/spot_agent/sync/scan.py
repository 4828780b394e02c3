"""Walks the watched paths: what is there, by metadata only.

Most of a tree is as it was a moment ago, so a walker remembers its last walk: what is still the same costs one status
and one comparison, and the walk says what is not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from spot_agent.sync.errors import PathNotWatchable
from spot_agent.sync.manifest import STAGING_NAME, Entry, Key, Kind
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.watch import Watch

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STAGING_NAME: Final = os.fsdecode(STAGING_NAME)


class Signature(NamedTuple):
    """What changes when a file's content or metadata changes. The change time can not be set back by a program, unlike
    the other.

    Attributes:
        head: Mode, inode, device, links, owner, group and size, as a status begins.
    """

    head: tuple[int, ...]
    mtime_ns: int
    ctime_ns: int

    @staticmethod
    def of(status: os.stat_result) -> Signature:
        return Signature(status[:7], status.st_mtime_ns, status.st_ctime_ns)

    @property
    def mode(self) -> int:
        """Permission bits."""
        return stat.S_IMODE(self.head[0])

    @property
    def inode(self) -> tuple[int, int]:
        """Device and number."""
        return self.head[2], self.head[1]

    @property
    def uid(self) -> int:
        return self.head[4]

    @property
    def gid(self) -> int:
        return self.head[5]

    @property
    def size(self) -> int:
        return self.head[6]


class _Child(NamedTuple):
    """Something in a folder, as it was seen last.

    Attributes:
        is_special: There is more to do each time than to see that it is the same: folders, files with several names.
    """

    signature: Signature
    is_special: bool
    key: Key
    is_folder: bool


_NOTHING: Final[Mapping[str, _Child]] = {}
# Where the watched paths themselves are remembered, by their numbers.
_ROOTS: Final = Key(-1, b"")


@dataclass
class Walk:
    """What one walk over the watched paths found. The mappings may be shared with other walks.

    Attributes:
        others: Folders and links, complete.
        files: Each file's signature.
        differing: What is not as the walk before found it, or is gone; everything, if there was none.
        disturbed: Something vanished while it was looked at: the walk is no picture of one moment.
    """

    others: dict[Key, Entry] = field(default_factory=dict)
    files: dict[Key, Signature] = field(default_factory=dict)
    differing: set[Key] = field(default_factory=set)
    disturbed: bool = False


def walk(watched: WatchedPaths) -> Walk:
    """Look at everything below the watched paths once.

    Raises:
        PathNotWatchable: Something may not be looked at by this process.
    """
    return Walker(watched).walk()


class Walker:
    """Looks at everything below the watched paths, again and again."""

    def __init__(self, watched: WatchedPaths, *, watch: Watch | None = None) -> None:
        """Keep what is given.

        Args:
            watched: Where.
            watch: Is to notice what changes from when it was looked at.
        """
        self._watched = watched
        self._watch = watch
        self._last = Walk()
        self._listings: dict[Key, dict[str, _Child]] = {}

    def walk(self) -> Walk:
        """Look at everything.

        Raises:
            PathNotWatchable: Something may not be looked at by this process. The next walk says that all differs.
        """
        looking = _Looking(self._watched, self._watch, self._listings)
        self._listings = {}
        looking.run()
        self._listings = looking.listings
        self._last = looking.since(self._last)
        return self._last

    def folders_changed_since(self, moment_ns: int) -> Set[Key]:
        """The folders of the last walk that have changed since, or were moved, with all folders below them.

        Args:
            moment_ns: Nanoseconds since the epoch.
        """
        changed: set[Key] = set()
        for folder, children in self._listings.items():  # each after the one that holds it
            for child in children.values():
                if child.is_folder and (folder in changed or child.signature.ctime_ns >= moment_ns):
                    changed.add(child.key)
        return changed


class _Looking:
    """One walk under way."""

    def __init__(self, watched: WatchedPaths, watch: Watch | None, former: Mapping[Key, Mapping[str, _Child]]) -> None:
        self._watched = watched
        self._watch = watch
        self._former = former
        self.listings: dict[Key, dict[str, _Child]] = {}
        self._files: dict[Key, Signature] = {}
        self._others: dict[Key, Entry] = {}
        self._disturbed = False

    def run(self) -> None:
        for number in range(len(self._watched.roots)):
            self._look_at_root(Key(number, b""))

    def since(self, before: Walk) -> Walk:
        """What was found, given the walk whose listings were known."""
        if not self._former:
            differing = {*before.files, *before.others, *self._files, *self._others}
            return Walk(self._others, self._files, differing, self._disturbed)
        differing = {*self._gone(), *self._files, *self._others}
        files, others = before.files, before.others
        if differing:
            files, others = dict(files), dict(others)
            for key in differing:
                files.pop(key, None)
                others.pop(key, None)
            files.update(self._files)
            others.update(self._others)
        return Walk(others, files, differing, self._disturbed)

    def _gone(self) -> Iterator[Key]:
        """What the walk before found at a place where there is nothing to carry any more."""
        for folder, former in self._former.items():
            now = self.listings.get(folder, _NOTHING)
            if len(now) < len(former) or now.keys() != former.keys():
                yield from (child.key for name, child in former.items() if name not in now)

    def _look_at_root(self, key: Key) -> None:
        place = self._watched.place(key)
        now = self.listings.setdefault(_ROOTS, {})
        try:
            if self._watch is not None:
                self._watch.add_root(place)
            status = os.lstat(place)
        except FileNotFoundError:
            return
        name = str(key.root)
        former = self._former.get(_ROOTS, _NOTHING).get(name)
        child = former if former is not None and former.signature == Signature.of(status) else self._note(key, status)
        if child is None:
            return
        now[name] = child
        pending = [key] if child.is_folder else []
        while pending:
            folder = pending.pop()
            try:
                pending.extend(self._look_into(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._disturbed = True
            except PermissionError as forbidden:
                raise PathNotWatchable(f"{folder} may not be read by the agent") from forbidden

    def _look_into(self, folder: Key) -> list[Key]:
        """Look at the children of a folder; answers the folders among them."""
        place = self._watched.place(folder)
        if self._watch is not None:
            self._watch.add(place)
        former = self._former.get(folder, _NOTHING)
        now: dict[str, _Child] = {}
        folders = []
        descriptor = os.open(place, _OPEN_FOLDER)
        try:
            with os.scandir(descriptor) as listing:
                for entry in listing:
                    name = entry.name
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        self._disturbed = True
                        continue
                    child = former.get(name)
                    # Written out, because nearly all of the time goes here: the same as it was, and nothing special.
                    if child is not None and child[0] == (status[:7], status.st_mtime_ns, status.st_ctime_ns):
                        now[name] = child
                        if not child[1]:
                            continue
                    elif name.startswith(_STAGING_NAME) and not folder.path:
                        continue
                    child = self._look_closely(folder, descriptor, name, status, child)
                    if child is not None:
                        now[name] = child
                        if child.is_folder:
                            folders.append(child.key)
        finally:
            os.close(descriptor)
        self.listings[folder] = now
        return folders

    def _look_closely(
        self, folder: Key, descriptor: int, name: str, status: os.stat_result, former: _Child | None
    ) -> _Child | None:
        """Look at a child that differs, or that has to be watched by itself; None if it is nothing to carry."""
        if former is not None:
            key = former.key
        else:
            key = Key(folder.root, (folder.path + b"/" if folder.path else b"") + os.fsencode(name))
        if self._watch is not None and _has_names(status):
            # Who writes to it by another name does so unnoticed by the folder's watch.
            try:
                self._watch.add(self._watched.place(key))
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                self._disturbed = True
        if former is not None and former.signature == Signature.of(status):
            return former
        return self._note(key, status)

    def _note(self, key: Key, status: os.stat_result) -> _Child | None:
        """Enter one thing that differs; None if it is nothing to carry (a socket, say), or could not be looked at."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._files[key] = signature = Signature.of(status)
            return _Child(signature, _has_names(status), key, is_folder=False)
        if kind not in (stat.S_IFDIR, stat.S_IFLNK):
            return None
        try:
            self._others[key] = describe(key, status, self._watched)
        except OSError:  # no longer a link: seen again by the next walk
            self._disturbed = True
            return None
        return _Child(Signature.of(status), is_special=kind == stat.S_IFDIR, key=key, is_folder=kind == stat.S_IFDIR)


def describe(key: Key, status: os.stat_result, watched: WatchedPaths) -> Entry:
    """The entry of a folder or link."""
    mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    if stat.S_ISDIR(status.st_mode):
        return Entry(Kind.FOLDER, mode, status.st_uid, status.st_gid, mtime)
    target = os.readlink(watched.place(key))  # noqa: PTH115  a Path would drop trailing slashes
    return Entry(Kind.LINK, 0o777, status.st_uid, status.st_gid, mtime, target=target)


def _has_names(status: os.stat_result) -> bool:
    return status.st_nlink > 1 and stat.S_ISREG(status.st_mode)
