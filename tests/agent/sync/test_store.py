"""A standby's store says what lies in the watched paths, whatever happens to its disk and its image."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spot_agent.sync.errors import GenerationRefused, GenerationUnsound, ImageDamaged, StorageFailed
from spot_agent.sync.frames import Header, decode_header
from spot_agent.sync.generations import GenerationStore
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from tests.agent.sync.test_crashes import killed_before_disk_event
from tests.agent.sync.trees import Pair, a_folder, frames_of, no_file_longer_than, picture, receive


@pytest.fixture
def pair() -> Iterator[Pair]:
    with a_folder() as folder:
        made = Pair(folder)
        made.here.mkdir()
        yield made


def test_a_note_that_the_disk_cut_off_does_not_hide_the_later_ones(pair: Pair) -> None:
    for number in range(20):
        (pair.here / f"{number}").write_bytes(b"content")
    pair.carry()
    for name in ("a", "b", "c"):
        (pair.here / name).write_bytes(b"content")
        pair.carry()
    (pair.here / "d").write_bytes(b"content")
    receive(pair.store, frames_of(pair.take()))
    log = pair.folder / "store" / "manifest.log"
    with no_file_longer_than(log.stat().st_size + 50), pytest.raises(StorageFailed):
        pair.store.apply_pending()
    pair.store.apply_pending()
    (pair.here / "e").write_bytes(b"content")
    pair.carry()
    pair.reopen()

    current = pair.store.current()
    assert current is not None
    assert current.number == pair.number
    pair.store.verify()


def replaced_by_a_link(image: Path) -> None:
    shutil.move(image / "folder", image.parent / "elsewhere")
    (image / "folder").symlink_to(image.parent / "elsewhere")


def removed(image: Path) -> None:
    shutil.rmtree(image / "folder")


def replaced_by_a_file(image: Path) -> None:
    shutil.rmtree(image / "folder")
    (image / "folder").write_bytes(b"no folder")


def made_a_folder(image: Path) -> None:
    (image / "folder" / "file").unlink()
    (image / "folder" / "file").mkdir()


@pytest.mark.parametrize("touch", [replaced_by_a_link, removed, replaced_by_a_file, made_a_folder])
def test_an_image_of_which_folders_were_replaced_is_damaged_and_mended_by_a_full_generation(
    pair: Pair, touch: Callable[[Path], None]
) -> None:
    (pair.here / "folder").mkdir()
    (pair.here / "folder" / "file").write_bytes(b"one")
    pair.carry()
    touch(pair.there)
    (pair.here / "folder" / "file").write_bytes(b"two")

    with pytest.raises(ImageDamaged):
        pair.carry()
    assert pair.store.current() is None
    pair.carry()
    assert picture(pair.there) == picture(pair.here)


def test_a_journal_that_the_disk_spoiled_is_damage(pair: Pair) -> None:
    (pair.here / "file").write_bytes(os.urandom(100_000))
    pair.carry()
    with (pair.here / "file").open("r+b") as file:
        file.write(b"changed")
    receive(pair.store, frames_of(pair.take()))
    journal = pair.folder / "store" / "committed" / "journal"
    journal.write_bytes(b"\xff" * 5)
    pair.reopen()

    assert pair.store.current() is None
    pair.carry()
    assert picture(pair.there) == picture(pair.here)


def test_a_full_generation_that_mends_a_damaged_image_is_not_there_before_it_is_applied(pair: Pair) -> None:
    """Restored from a snapshot: the generation that mends the image is the very one that it was."""
    (pair.here / "file").write_bytes(b"content")
    frames = frames_of(pair.source.take(5, epoch=1, held=None))

    def restore() -> None:
        store = GenerationStore.open(pair.folder / "store", WatchedPaths.of([pair.there]))
        incoming = store.receive(Header(frames[0].header), decode_header(frames[0].payload), restoring=True)
        for frame in frames[1:-1]:
            (incoming.add_chunk if frame.kind == "chunk" else incoming.add_entries)(frame)
        incoming.commit(frames[-1])
        incoming.drop()
        store.apply_pending()

    restore()
    (pair.there / "file").write_bytes(b"touched")
    pair.reopen()
    with pytest.raises(ImageDamaged):
        pair.store.verify()
    for touch in range(1, 400):
        died = killed_before_disk_event(touch, restore)
        pair.reopen()
        if pair.store.current() is not None:
            pair.store.verify()
            (pair.there / "file").write_bytes(b"touched")
            with pytest.raises(ImageDamaged):
                pair.store.verify()
        if not died:
            return
    pytest.fail("restoring never came to an end")


def test_what_is_given_up_is_not_committed_any_more(pair: Pair) -> None:
    frames = frames_of(pair.take())
    incoming = pair.store.receive(Header(frames[0].header), decode_header(frames[0].payload))
    incoming.add_entries(frames[1])
    pair.store.give_up_incoming()

    with pytest.raises(GenerationRefused):
        incoming.commit(frames[-1])
    incoming.drop()
    assert pair.store.current() is None
    pair.carry()
    assert picture(pair.there) == picture(pair.here)


def test_a_watched_path_that_has_become_a_link_is_not_carried(pair: Pair) -> None:
    pair.here.rename(pair.folder / "elsewhere")
    pair.here.symlink_to(pair.folder / "elsewhere")

    with pytest.raises(GenerationUnsound, match="symbolic link"):
        frames_of(pair.take())


def test_a_file_of_the_future_is_read_once(pair: Pair) -> None:
    file = pair.here / "file"
    file.write_bytes(os.urandom(100_000))
    os.utime(file, ns=(4 * 10**18, 4 * 10**18))
    time.sleep(0.05)
    pair.carry()

    begin, *_ = frames_of(pair.take())
    assert begin.header["total"] == 0


def test_live_state_is_held_in_one_step_where_a_damaged_image_was(pair: Pair) -> None:
    (pair.here / "file").write_bytes(b"content")
    pair.carry()
    manifest, image = pair.store.manifest(), pair.store.current()
    assert manifest is not None
    assert image is not None
    store, watched = pair.folder / "store", WatchedPaths.of([pair.there])
    (pair.there / "file").write_bytes(b"live now")
    with pytest.raises(ImageDamaged):
        pair.store.verify()
    shutil.copytree(store, pair.folder / "kept")
    source = GenerationSource(watched)
    live = source.survey(9, epoch=2, timeout_seconds=20)
    held = (replace(image, number=9, epoch=2, root_hash=live.root_hash, total_bytes=live.total_bytes), live)

    for touch in range(1, 100):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(pair.folder / "kept", store)
        died = killed_before_disk_event(touch, lambda: GenerationStore.found(store, watched, *held))
        pair.reopen()
        if pair.store.current() is not None:
            pair.store.verify()
        if not died:
            assert pair.store.current() == held[0]
            return
    pytest.fail("holding it never came to an end")
