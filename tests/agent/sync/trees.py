"""Trees of files for the tests: comparing them, editing them at random, and carrying them without a network."""

from __future__ import annotations

import os
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
    pending = [b""]
    top = os.fsencode(root)
    while pending:
        relative = pending.pop()
        place = top + relative
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            continue
        facts: tuple[object, ...] = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
        if stat.S_ISDIR(status.st_mode):
            seen[relative] = ("folder", *facts)
            pending += [relative + b"/" + name for name in os.listdir(place)]
        elif stat.S_ISLNK(status.st_mode):
            seen[relative] = ("link", *facts, os.readlink(place))
        elif stat.S_ISREG(status.st_mode):
            seen[relative] = ("file", *facts, Path(os.fsdecode(place)).read_bytes())
    return seen


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder of its own, in memory where there is such a place: these tests write a lot."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="spot-sync-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


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
kinds = st.sampled_from([
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
])


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

    def _pick(self, root: Path, number: int, *, folders: bool = False) -> bytes:
        top = os.fsencode(root)
        found = [top]
        for where, inside, files in os.walk(top):
            found += [where + b"/" + name for name in (inside if folders else (*inside, *files))]
        return sorted(found)[number % len(found)]

    def _file(self, root: Path) -> bytes:
        place = self._pick(root, self.place)
        return place if Path(os.fsdecode(place)).is_file() else self._new(root)

    def _new(self, root: Path) -> bytes:
        return self._pick(root, self.place, folders=True) + b"/" + self.name

    def _write(self, root: Path) -> None:
        with open(self._new(root), "wb") as file:
            file.write(self.content)

    def _patch(self, root: Path) -> None:
        with open(self._file(root), "r+b") as file:
            file.seek(self.number % (6 * BLOCK))
            file.write(self.content[: self.number % (2 * BLOCK)])

    def _append(self, root: Path) -> None:
        with open(self._file(root), "ab") as file:
            file.write(self.content)

    def _truncate(self, root: Path) -> None:
        os.truncate(self._file(root), self.number % (6 * BLOCK))

    def _hole(self, root: Path) -> None:
        with open(self._file(root), "ab") as file:
            file.truncate(file.tell() + self.number)
            file.seek(0, os.SEEK_END)
            file.write(self.content[:10])

    def _insert(self, root: Path) -> None:
        place = self._file(root)
        with open(place, "r+b") as file:
            old = file.read()
            at = self.number % (len(old) + 1)
            file.seek(0)
            file.write(old[:at] + b"inserted" + old[at:])

    def _remove(self, root: Path) -> None:
        place = self._pick(root, self.place)
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        else:
            os.unlink(place)

    def _folder(self, root: Path) -> None:
        os.mkdir(self._new(root))

    def _link(self, root: Path) -> None:
        os.symlink([b"a", b"../outside", b"/etc", b"dangling\xff"][self.number % 4], self._new(root))

    def _rename(self, root: Path) -> None:
        os.rename(self._pick(root, self.other), self._new(root))

    def _swap(self, root: Path) -> None:
        one, other = self._pick(root, self.place), self._pick(root, self.other)
        aside = os.fsencode(root) + b".aside"
        os.rename(one, aside)
        try:
            os.rename(other, one)
            os.rename(aside, other)
        except OSError:
            os.rename(aside, one)

    def _chmod(self, root: Path) -> None:
        place = self._pick(root, self.place)
        if not os.path.islink(place):
            os.chmod(place, self.number & 0o7777)

    def _chown(self, root: Path) -> None:
        os.chown(self._pick(root, self.place), self.number % 50_000, 7, follow_symlinks=False)

    def _replace(self, root: Path) -> None:
        """Another kind of thing takes the place."""
        place = self._pick(root, self.place)
        if place == os.fsencode(root):
            return
        was_folder = os.path.isdir(place) and not os.path.islink(place)
        self._remove(root)
        if was_folder:
            with open(place, "wb") as file:
                file.write(self.content)
        else:
            os.mkdir(place)

    def _hard_link(self, root: Path) -> None:
        os.link(self._file(root), self._new(root))

    def _touch(self, root: Path) -> None:
        when = self.number * 1_000_003
        os.utime(self._pick(root, self.place), ns=(when, when), follow_symlinks=False)


edits = st.builds(
    Edit,
    kind=kinds,
    place=places,
    other=places,
    name=names,
    content=contents,
    number=st.integers(0, 1 << 18),
)
