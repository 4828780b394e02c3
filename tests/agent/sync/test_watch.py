"""Nothing is looked at while the watch is quiet, and nothing is missed for it."""

import ctypes
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from spot_agent.sync.manifest import Manifest
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_agent.sync.watch import Watch


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A tree, the source that takes it, and the standby's part: to hold what was taken."""

    def __init__(self, root: Path, *, most: int = 10_000) -> None:
        self.tree = root / "tree"
        (self.tree / "folder").mkdir(parents=True)
        (self.tree / "folder" / "file").write_bytes(b"content")
        (self.tree / "cold").write_bytes(b"content")
        self.clock = Clock()
        self.watch = Watch(most=most, clock=self.clock)
        self.source = GenerationSource(WatchedPaths.of([self.tree]), watch=self.watch, clock=self.clock)
        self.held: Manifest | None = None
        self.number = 0

    def take(self) -> bool:
        """Take a generation; answers whether there was anything to ship."""
        self.number += 1
        generation = self.source.take(self.number, epoch=1, held=self.held, must_settle=False)
        self.held = generation.wait_until_read(20)
        return generation.has_changes(1)

    @property
    def unchanged(self) -> bool:
        return self.source.is_unchanged(self.held)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    watched = Watched(tmp_path)
    assert watched.take()
    return watched


def test_a_tree_that_rests_is_not_looked_at(watched: Watched) -> None:
    assert watched.unchanged
    assert watched.unchanged


def test_a_standby_that_holds_something_else_is_not_up_to_date(watched: Watched) -> None:
    assert not watched.source.is_unchanged(None)
    assert not watched.source.is_unchanged(Manifest({}))
    assert watched.unchanged


def put_another_in_place_of(tree: Path) -> None:
    tree.rename(tree.parent / "former")
    tree.mkdir()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a write": lambda tree: (tree / "folder" / "file").write_bytes(b"CONTENT"),
    "a mode": lambda tree: (tree / "folder" / "file").chmod(0o600),
    "a time": lambda tree: os.utime(tree / "folder" / "file", (1, 1)),
    "a new file": lambda tree: (tree / "folder" / "new").touch(),
    "a new folder": lambda tree: (tree / "folder" / "new").mkdir(),
    "a link": lambda tree: (tree / "link").symlink_to("folder"),
    "a removal": lambda tree: (tree / "cold").unlink(),
    "a rename": lambda tree: (tree / "cold").rename(tree / "warm"),
    "a rename of a folder": lambda tree: (tree / "folder").rename(tree / "other"),
    "a cut": lambda tree: os.truncate(tree / "cold", 3),
    "another tree in its place": lambda tree: put_another_in_place_of(tree),
    "no tree any more": lambda tree: tree.rename(tree.parent / "former"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_noticed_at_once(watched: Watched, change: Callable[[Path], object]) -> None:
    change(watched.tree)
    assert not watched.unchanged
    assert watched.take()
    watched.take()  # letting go of what is no longer there is heard of as well
    assert watched.take() is False


def test_a_watched_path_that_comes_into_being_is_noticed(watched: Watched) -> None:
    watched.tree.rename(watched.tree.parent / "away")
    watched.take()
    watched.take()
    (watched.tree.parent / "away").rename(watched.tree)
    assert not watched.unchanged
    assert watched.take()


def test_what_happens_in_a_new_folder_is_noticed(watched: Watched) -> None:
    deep = watched.tree / "a" / "b" / "c"
    deep.mkdir(parents=True)
    watched.take()
    assert watched.unchanged
    (deep / "file").write_bytes(b"content")
    assert not watched.unchanged
    assert watched.take()


def test_a_write_by_another_name_is_noticed(watched: Watched) -> None:
    outside = watched.tree.parent / "outside"
    os.link(watched.tree / "cold", outside)
    watched.take()
    assert watched.unchanged
    outside.write_bytes(b"CONTENT")
    assert not watched.unchanged
    assert watched.take()


def test_more_events_than_the_kernel_keeps_are_a_change_as_well(watched: Watched) -> None:
    for number in range(12_000):
        (watched.tree / "folder" / f"{number % 2}").touch()
        (watched.tree / "folder" / f"{number % 2}").unlink()
    (watched.tree / "new").mkdir()
    (watched.tree / "new" / "file").touch()
    assert not watched.unchanged
    assert watched.take()
    assert watched.unchanged
    (watched.tree / "new" / "file").write_bytes(b"content")
    assert not watched.unchanged


def test_too_many_folders_are_scanned_instead(tmp_path: Path) -> None:
    watched = Watched(tmp_path, most=1)
    watched.take()
    assert not watched.unchanged
    (watched.tree / "cold").write_bytes(b"CONTENT")
    assert watched.take()
    assert not watched.take()


def test_a_watch_that_found_no_room_is_tried_again_later(tmp_path: Path) -> None:
    watched = Watched(tmp_path, most=2)
    (watched.tree / "third").mkdir()
    watched.take()
    (watched.tree / "third").rmdir()
    watched.take()
    assert not watched.unchanged
    watched.clock.now += 601
    watched.take()
    assert watched.unchanged


def test_a_watch_is_checked_by_a_walk_soon_and_then_ever_more_seldom(watched: Watched) -> None:
    looked_after = []
    for _ in range(8):
        began = watched.clock.now
        while watched.unchanged:
            watched.clock.now += 1
        looked_after.append(watched.clock.now - began)
        assert not watched.take()
    assert looked_after == [2, 4, 8, 16, 32, 60, 60, 60]


def map_into_memory(file: Path) -> mmap.mmap:
    descriptor = os.open(file, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def test_a_write_through_a_memory_map_of_a_lively_file_is_noticed_and_the_watch_no_longer_relied_upon(
    watched: Watched,
) -> None:
    mapped = map_into_memory(watched.tree / "cold")
    watched.take()
    assert watched.unchanged
    mapped[0] = 7
    mapped.flush()
    assert not watched.unchanged
    assert watched.take()
    assert not watched.unchanged
    watched.clock.now += 10_000
    watched.take()
    assert not watched.unchanged


def test_a_write_that_only_a_walk_finds_ends_the_trust_in_the_watch(watched: Watched) -> None:
    for number in range(200):  # newer than the one that is written to
        (watched.tree / "folder" / f"{number}").touch()
    os.utime(watched.tree / "cold", (1, 1))
    mapped = map_into_memory(watched.tree / "cold")
    watched.take()
    mapped[0] = 7
    mapped.flush()
    watched.clock.now += 2
    assert not watched.unchanged
    assert watched.take()
    assert not watched.take()
    assert not watched.unchanged


def test_without_inotify_the_tree_is_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> int:
        ctypes.set_errno(38)
        return -1

    monkeypatch.setattr("spot_agent.sync.watch._init", refuse)
    watched = Watched(tmp_path)
    watched.take()
    assert not watched.unchanged
    assert not watched.take()


def test_a_quiet_watch_never_hides_a_difference(watched: Watched) -> None:
    """Random edits: whenever the source says that nothing changed, a fresh reader finds the very tree that is held."""
    coin = random.Random(7)
    folders = [watched.tree]
    for _ in range(300):
        folder = coin.choice([folder for folder in folders if folder.is_dir()])
        place = folder / str(coin.randrange(6))
        match coin.randrange(6):
            case 0 if not place.exists():
                place.mkdir()
                folders.append(place)
            case 1 if place.exists():
                place.rename(place.with_name(f"moved-{coin.randrange(1 << 30)}"))
            case 2 if place.is_file():
                place.unlink()
            case 3 | 4 if not place.is_dir():
                place.write_bytes(coin.randbytes(9))
            case _:
                pass
        if watched.unchanged:
            fresh = GenerationSource(WatchedPaths.of([watched.tree])).take(1, epoch=1, held=None)
            held = watched.held
            assert held is not None and fresh.wait_until_read(20).root_hash == held.root_hash
        else:
            watched.take()
