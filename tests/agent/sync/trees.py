"""Trees of files for the tests: comparing them, editing them at random, and carrying them without a network."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from spot_agent.sync.frames import Frame, Header, decode_header
from spot_agent.sync.generations import Generation, GenerationStore
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource, OutgoingGeneration

BLOCK = 4096

type Picture = dict[bytes, tuple[object, ...]]


def picture(root: Path) -> Picture:
    """Everything about a tree that has to be equal on both sides."""
    seen: Picture = {}
    pending = [root]
    while pending:
        place = pending.pop()
        try:
            status = place.lstat()
        except FileNotFoundError:
            continue
        name = os.fsencode(place.relative_to(root))
        facts: tuple[object, ...] = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
        if stat.S_ISDIR(status.st_mode):
            seen[name] = ("folder", *facts)
            pending += place.iterdir()
        elif stat.S_ISLNK(status.st_mode):
            seen[name] = ("link", *facts, str(place.readlink()))
        elif stat.S_ISREG(status.st_mode):
            seen[name] = ("file", *facts, place.read_bytes())
    return seen


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder of its own, in memory where there is such a place: these tests write a lot."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="spot-sync-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@contextmanager
def no_file_longer_than(count: int) -> Iterator[None]:
    """The kernel takes no byte of any file beyond so many, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- carrying without a network --------------------------------------------------------------------------------------


def frames_of(generation: OutgoingGeneration) -> list[Frame]:
    return list(generation.frames(deadline=float("inf")))


def receive(store: GenerationStore, frames: list[Frame]) -> Generation:
    """What the listener does with the frames of a generation."""
    begin, *others = frames
    incoming = store.receive(Header(begin.header), decode_header(begin.payload))
    try:
        for frame in others:
            if frame.kind == "end":
                return incoming.commit(frame)
            take: Mapping[str, Callable[[Frame], None]] = {
                "chunk": incoming.add_chunk,
                "entries": incoming.add_entries,
                "removed": incoming.add_removed,
            }
            take[frame.kind](frame)
        raise AssertionError("a generation without an end")
    finally:
        incoming.drop()


@dataclass
class Pair:
    """A primary's tree and its standby's, and the way between them."""

    folder: Path
    number: int = 0

    def __post_init__(self) -> None:
        for name in ("here", "there"):
            (self.folder / name).mkdir()
        self.here = self.folder / "here" / "state"
        self.there = self.folder / "there" / "state"
        self.source = GenerationSource(WatchedPaths.of([self.here]))
        self.reopen()

    def reopen(self) -> None:
        self.store = GenerationStore.open(self.folder / "store", WatchedPaths.of([self.there]))

    def take(self, *, epoch: int = 1, **more: Any) -> OutgoingGeneration:
        self.number += 1
        return self.source.take(self.number, epoch=epoch, held=self.store.manifest(), **more)

    def carry(self, **more: Any) -> Generation:
        generation = receive(self.store, frames_of(self.take(**more)))
        self.store.apply_pending(check_all=True)
        return generation


# --- random trees and edits ------------------------------------------------------------------------------------------

names = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"a b", b"a-", b"new\nline", b"\xff\xfe", b"-rf", b"~", b"x" * 255]),
    st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 0x2F} & set(name) and name not in (b".", b"..")),
)
sizes = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7])
fillings = st.sampled_from([b"\0", b"a", b"bc", b"0123456789abcdef!"])
contents = st.builds(lambda filling, size: (filling * size)[:size], fillings, sizes)
places = st.integers(0, 30)
kinds = st.sampled_from(
    [
        "write",
        "write",
        "patch",
        "patch",
        "append",
        "truncate",
        "hole",
        "insert",
        "remove",
        "folder",
        "link",
        "rename",
        "swap",
        "chmod",
        "chown",
        "replace",
        "hard_link",
        "touch",
    ]
)


@dataclass(frozen=True)
class Edit:
    """One change of a tree; `place` and `other` pick among what is there."""

    kind: str
    place: int
    other: int
    name: bytes
    content: bytes
    number: int

    def apply(self, root: Path) -> None:
        """Do it, as far as it makes sense in this tree."""
        with suppress(OSError, shutil.Error):
            getattr(self, f"_{self.kind}")(root)

    def _pick(self, root: Path, number: int, *, folders: bool = False) -> Path:
        found = [root]
        for where, inside, files in root.walk():
            found += [where / name for name in (inside if folders else (*inside, *files))]
        return sorted(found)[number % len(found)]

    def _file(self, root: Path) -> Path:
        files = sorted(where / name for where, _, names_here in root.walk() for name in names_here)
        files = [file for file in files if file.is_file() and not file.is_symlink()]
        if files:
            return files[self.place % len(files)]
        self._write(root)
        return self._new(root)

    def _new(self, root: Path) -> Path:
        return self._pick(root, self.place, folders=True) / os.fsdecode(self.name)

    def _write(self, root: Path) -> None:
        self._new(root).write_bytes(self.content)

    def _patch(self, root: Path) -> None:
        with self._file(root).open("r+b") as file:
            file.seek(self.number % (6 * BLOCK))
            file.write(self.content[: self.number % (2 * BLOCK)])

    def _append(self, root: Path) -> None:
        with self._file(root).open("ab") as file:
            file.write(self.content)

    def _truncate(self, root: Path) -> None:
        os.truncate(self._file(root), self.number % (6 * BLOCK))

    def _hole(self, root: Path) -> None:
        with self._file(root).open("ab") as file:
            file.truncate(file.tell() + self.number)
            file.seek(0, os.SEEK_END)
            file.write(self.content[:10])

    def _insert(self, root: Path) -> None:
        with self._file(root).open("r+b") as file:
            old = file.read()
            at = self.number % (len(old) + 1)
            file.seek(0)
            file.write(old[:at] + b"inserted" + old[at:])

    def _remove(self, root: Path) -> None:
        place = self._pick(root, self.place)
        if _is_folder(place):
            shutil.rmtree(place)
        else:
            place.unlink()

    def _folder(self, root: Path) -> None:
        self._new(root).mkdir()

    def _link(self, root: Path) -> None:
        self._new(root).symlink_to(["a", "../outside", "/etc", "dangling\udcff"][self.number % 4])

    def _rename(self, root: Path) -> None:
        self._pick(root, self.other).rename(self._new(root))

    def _swap(self, root: Path) -> None:
        one, other = self._pick(root, self.place), self._pick(root, self.other)
        aside = root.with_name("aside")
        one.rename(aside)
        try:
            other.rename(one)
            aside.rename(other)
        except OSError:
            aside.rename(one)

    def _chmod(self, root: Path) -> None:
        place = self._pick(root, self.place)
        if not place.is_symlink():
            place.chmod(self.number & 0o7777)

    def _chown(self, root: Path) -> None:
        os.chown(self._pick(root, self.place), self.number % 50_000, 7, follow_symlinks=False)

    def _replace(self, root: Path) -> None:
        """Another kind of thing takes the place."""
        place = self._pick(root, self.place)
        was_folder = _is_folder(place)
        self._remove(root)
        if was_folder and place != root:
            place.write_bytes(self.content)
        else:
            place.mkdir()

    def _hard_link(self, root: Path) -> None:
        self._new(root).hardlink_to(self._file(root))

    def _touch(self, root: Path) -> None:
        when = self.number * 1_000_003
        os.utime(self._pick(root, self.place), ns=(when, when), follow_symlinks=False)


def _is_folder(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink()


edits = st.builds(
    Edit,
    kind=kinds,
    place=places,
    other=places,
    name=names,
    content=contents,
    number=st.integers(0, 1 << 18),
)
