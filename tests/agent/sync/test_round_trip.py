"""Whatever a tree looks like and however it is changed, the standby's tree becomes equal to it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spot_agent.sync.errors import GenerationUnsound, PathNotWatchable
from spot_agent.sync.frames import Frame
from spot_agent.sync.generations import GenerationStore
from spot_agent.sync.manifest import Key
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from tests.agent.sync.trees import BLOCK, Edit, Pair, a_folder, edits, frames_of, picture, receive

generous = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
fates = st.sampled_from(["carried", "carried", "carried", "lost", "carried after a restart of the standby"])


@pytest.fixture
def pair() -> Iterator[Pair]:
    with a_folder() as folder:
        yield Pair(folder)


@generous
@given(st.lists(edits, min_size=6, max_size=20), st.lists(st.tuples(fates, st.lists(edits, max_size=8)), max_size=4))
def test_the_standby_has_what_the_primary_has_after_any_edits(
    first: list[Edit], rounds: list[tuple[str, list[Edit]]]
) -> None:
    with a_folder() as folder:
        pair = Pair(folder)
        pair.here.mkdir()
        for fate, batch in [("carried", first), *rounds, ("carried", [])]:
            for edit in batch:
                edit.apply(pair.here)
            if fate == "lost":
                # Read, and never arrived: the next one must carry it again.
                frames_of(pair.take())
                continue
            if fate == "carried after a restart of the standby":
                pair.reopen()
            pair.carry()
            assert picture(pair.there) == picture(pair.here)
            pair.store.verify()


@settings(generous, max_examples=25)
@given(st.lists(edits, min_size=6, max_size=20), st.lists(edits, min_size=3, max_size=12))
def test_files_that_change_or_vanish_while_they_are_read_never_make_an_image_that_is_not_what_it_says(
    first: list[Edit], meanwhile: list[Edit]
) -> None:
    with a_folder() as folder:
        pair = Pair(folder)
        pair.here.mkdir()
        for edit in first:
            edit.apply(pair.here)
        pair.carry()
        over = threading.Event()

        def keep_editing() -> None:
            for edit in itertools.cycle(meanwhile):
                if over.is_set():
                    return
                edit.apply(pair.here)
                keep_small(pair.here)

        editing = threading.Thread(target=keep_editing)
        editing.start()
        try:
            for _ in range(4):
                # Not sound to read, because everything changed at once, is an answer as well.
                with contextlib.suppress(GenerationUnsound):
                    pair.carry(must_settle=False)
                    pair.store.verify()
        finally:
            over.set()
            editing.join()
        pair.carry()
        assert picture(pair.there) == picture(pair.here)
        pair.store.verify()


def keep_small(root: Path) -> None:
    """Edits that are made over and over let a tree grow without end."""
    files = [where / name for where, _, names in root.walk() for name in names]
    for file in files[40:]:
        file.unlink(missing_ok=True)
    for file in files[:40]:
        if file.is_file() and not file.is_symlink() and file.stat().st_size > 1 << 20:
            os.truncate(file, 100)


def test_a_watched_path_may_be_a_single_file(pair: Pair) -> None:
    pair.here.write_bytes(b"one")
    pair.carry()
    pair.here.write_bytes(b"two" * 5000)
    pair.carry()

    assert pair.there.read_bytes() == b"two" * 5000


def test_a_missing_watched_path_goes_missing_on_the_standby(pair: Pair) -> None:
    (pair.here / "deep" / "er").mkdir(parents=True)
    pair.carry()
    shutil.rmtree(pair.here)
    pair.carry()

    assert not pair.there.exists()


def test_what_lay_on_the_standby_before_the_first_generation_is_gone_after_it(pair: Pair) -> None:
    (pair.there / "from the image" / "of the instance").mkdir(parents=True)
    (pair.there / "file").symlink_to("/etc/passwd")
    pair.here.mkdir()
    (pair.here / "file").write_bytes(b"content")
    pair.carry()

    assert picture(pair.there) == picture(pair.here)


def test_sockets_and_pipes_are_passed_over(pair: Pair) -> None:
    pair.here.mkdir()
    os.mkfifo(pair.here / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(pair.here / "socket"))
    (pair.here / "file").write_bytes(b"content")
    pair.carry()

    assert [path.name for path in pair.there.iterdir()] == ["file"]


def test_a_renamed_file_is_not_sent_again(pair: Pair) -> None:
    pair.here.mkdir()
    (pair.here / "log").write_bytes(os.urandom(1 << 20))
    pair.carry()
    (pair.here / "log").rename(pair.here / "log.1")
    (pair.here / "log").write_bytes(b"fresh")

    assert _content_bytes(pair) < 100
    assert picture(pair.there) == picture(pair.here)


def test_a_renamed_folder_is_neither_read_nor_sent_again(pair: Pair) -> None:
    (pair.here / "old").mkdir(parents=True)
    for number in range(20):
        (pair.here / "old" / str(number)).write_bytes(os.urandom(50_000))
    pair.carry()
    pair.carry()
    (pair.here / "old").rename(pair.here / "new")

    assert _content_bytes(pair) == 0
    assert picture(pair.there) == picture(pair.here)


def test_one_changed_page_sends_one_block(pair: Pair) -> None:
    pair.here.mkdir()
    (pair.here / "database").write_bytes(os.urandom(256 * BLOCK))
    pair.carry()
    with (pair.here / "database").open("r+b") as file:
        file.seek(100 * BLOCK)
        file.write(os.urandom(BLOCK))

    assert _content_bytes(pair) < BLOCK + 200


def test_a_huge_hole_costs_neither_time_nor_space(pair: Pair) -> None:
    pair.here.mkdir()
    with (pair.here / "sparse").open("wb") as file:
        file.truncate(40 << 30)
        file.seek(20 << 30)
        file.write(b"in the middle")
    pair.carry()
    with (pair.here / "sparse").open("r+b") as file:
        file.truncate(60 << 30)

    pair.carry()
    status = (pair.there / "sparse").stat()
    assert status.st_size == 60 << 30
    assert status.st_blocks * 512 < 32 << 20


def test_a_growing_file_changes_its_block_size_without_being_sent_again(pair: Pair) -> None:
    pair.here.mkdir()
    with (pair.here / "growing").open("wb") as file:
        file.truncate(1 << 30)
        file.write(os.urandom(1 << 20))
    pair.carry()
    with (pair.here / "growing").open("r+b") as file:
        file.truncate((2 << 30) + BLOCK)
        file.write(b"changed")

    assert _content_bytes(pair) < 300_000
    assert (pair.there / "growing").stat().st_size == (pair.here / "growing").stat().st_size
    pair.store.verify()


def test_reading_waits_for_a_link_that_is_slower_than_the_disk(pair: Pair) -> None:
    pair.here.mkdir()
    (pair.here / "large").write_bytes(os.urandom(8 << 20))
    source = GenerationSource(WatchedPaths.of([pair.here]), buffer_bytes=1 << 20)
    generation = source.take(1, epoch=1, held=None)
    with pytest.raises(TimeoutError):
        generation.wait_until_read(0.3)
    frames = frames_of(generation)
    assert sum(len(frame.payload) for frame in frames) > 8 << 20
    assert generation.wait_until_read(10).total_bytes == 8 << 20


def test_a_generation_that_nobody_ships_is_given_up_at_once_when_it_is_cancelled(pair: Pair) -> None:
    pair.here.mkdir()
    (pair.here / "large").write_bytes(os.urandom(8 << 20))
    source = GenerationSource(WatchedPaths.of([pair.here]), buffer_bytes=1 << 20)
    given_up = source.take(1, epoch=1, held=None)
    given_up.cancel()
    with pytest.raises(GenerationUnsound):
        given_up.wait_until_read(10)
    assert len(frames_of(source.take(2, epoch=1, held=None))) > 8


def test_what_travels_along_arrives(pair: Pair) -> None:
    pair.here.mkdir()
    carried = pair.carry(final_for="handover-1", extra={"configuration": {"auto_replica": True}}, epoch=7)
    pair.reopen()

    assert pair.store.current() == carried
    assert (carried.epoch, carried.final_for) == (7, "handover-1")
    assert carried.extra == {"configuration": {"auto_replica": True}}
    assert carried.settled


def test_a_promoted_standby_reuses_its_hashes(pair: Pair) -> None:
    pair.here.mkdir()
    (pair.here / "database").write_bytes(os.urandom(1 << 20))
    pair.carry()
    manifest = pair.store.release()
    assert manifest is not None

    source = GenerationSource(WatchedPaths.of([pair.there]))
    source.adopt(manifest)
    begin = frames_of(source.take(2, epoch=2, held=manifest))[0]

    assert begin.header["total"] == 0
    assert not (pair.folder / "store").exists()
    assert [path.name for path in pair.there.parent.iterdir()] == ["state"]


def test_an_agent_that_is_not_root_carries_what_is_its_own() -> None:
    with a_folder() as folder:
        folder.chmod(0o777)
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                carry_closed_folders(folder)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def carry_closed_folders(folder: Path) -> None:
    pair = Pair(folder)
    closed = pair.here / "closed"
    closed.mkdir(parents=True)
    (closed / "read only").write_bytes(b"one" * 5000)
    (closed / "read only").chmod(0o400)
    closed.chmod(0o500)
    pair.carry()
    assert picture(pair.there) == picture(pair.here)
    closed.chmod(0o700)
    (closed / "read only").chmod(0o600)
    (closed / "read only").write_bytes(b"two" * 4000)
    (closed / "read only").chmod(0o400)
    (closed / "new").write_bytes(b"new")
    closed.chmod(0o500)
    pair.carry()
    assert picture(pair.there) == picture(pair.here)
    pair.store.verify()
    for state in (pair.here, pair.there):
        (state / "closed").chmod(0o700)


class MovingPaths(WatchedPaths):
    """Watched paths in which, once, a file moves to a folder that was listed before the one that it is in."""

    listed: list[bytes] | None = None

    def place(self, key: Key) -> bytes:
        if self.listed is not None and key.path in (b"a", b"b"):
            self.listed.append(key.path)
            if len(self.listed) == 2:
                before, now = (os.fsdecode(name) for name in self.listed)
                (self.roots[0] / now / f"from {now}").rename(self.roots[0] / before / f"from {now}")
        return super().place(key)


def test_a_file_that_moves_behind_the_back_of_a_walk_is_not_lost(pair: Pair) -> None:
    for name in ("a", "b"):
        (pair.here / name).mkdir(parents=True)
        (pair.here / name / f"from {name}").write_bytes(b"content")
    time.sleep(0.05)
    watched = MovingPaths((pair.here,))
    pair.source = GenerationSource(watched)
    pair.carry(must_settle=False)
    object.__setattr__(watched, "listed", [])
    pair.carry(must_settle=False)

    assert sorted(file.name for file in pair.there.glob("*/*")) == ["from a", "from b"]
    assert picture(pair.there) == picture(pair.here)


def test_the_unit_lets_each_mode_be_carried() -> None:
    unit = (Path(__file__).parents[3] / "agent" / "spot-agent.service").read_text()
    assert not [line for line in unit.splitlines() if line.startswith("RestrictSUIDSGID=")]


def test_a_store_whose_image_is_to_lie_elsewhere_begins_anew(pair: Pair) -> None:
    pair.here.mkdir()
    pair.carry()
    pair.there = pair.folder / "there" / "elsewhere"
    pair.reopen()

    assert pair.store.current() is None
    (pair.here / "file").write_bytes(b"content")
    pair.carry()
    assert picture(pair.there) == picture(pair.here)


def test_a_store_in_a_watched_path_is_refused(pair: Pair) -> None:
    with pytest.raises(PathNotWatchable):
        GenerationStore.open(pair.there / "store", WatchedPaths.of([pair.there]))


def test_watched_paths_that_can_not_work_are_refused(tmp_path: Path) -> None:
    for paths, state_dir in (
        ([], None),
        ([Path("relative")], None),
        ([Path("/")], None),
        ([tmp_path / "a", tmp_path / "a" / "b"], None),
        ([tmp_path / "a"], tmp_path / "a" / "state"),
    ):
        with pytest.raises(PathNotWatchable):
            WatchedPaths.of(paths, state_dir=state_dir)


def _content_bytes(pair: Pair) -> int:
    """Carry a generation; answers how many bytes of content it took."""
    frames: list[Frame] = frames_of(pair.take())
    receive(pair.store, frames)
    pair.store.apply_pending(check_all=True)
    return sum(len(frame.payload) for frame in frames if frame.kind == "chunk")
