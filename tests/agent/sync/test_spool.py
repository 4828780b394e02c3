"""A snapshot is a generation on its way: spooled, cut into parts, put together elsewhere, it is the same tree."""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spot_agent.sync.errors import ImageDamaged
from spot_agent.sync.generations import GenerationStore
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_agent.sync.spool import Spool, Spooled, restore_chain
from tests.agent.sync.trees import Edit, a_folder, edits, frames_of, picture, receive

PART_BYTES = 2000


class Bucket:
    """A primary that spools and uploads, and a place to restore to."""

    def __init__(self, folder: Path) -> None:
        self.here, self.there = folder / "here", folder / "there"
        self.here.mkdir()
        self.objects = folder / "objects"
        self.objects.mkdir()
        self.spool = Spool(folder / "spool", roots=1)
        self.source = GenerationSource(WatchedPaths.of([self.here]))
        self.store = GenerationStore.open(folder / "store", WatchedPaths.of([self.there]))
        self.chain: list[tuple[str, Path]] = []
        self.number = 0

    def spooled(self) -> Spooled:
        self.number += 1
        held = self.spool.held()
        generation = self.source.take(self.number, epoch=1, held=None if held is None else held[1])
        return self.spool.write(
            generation, previous_id=None, frozen=False, deadline=time.monotonic() + 60, part_bytes=PART_BYTES
        )

    def upload(self) -> None:
        """Put every part of what waits into its object, as S3 does: whole, and only if it is what was announced."""
        waiting = self.spool.waiting
        assert waiting is not None
        content = b""
        for part in waiting.parts:
            piece = self.spool.part(part.number).read_bytes()
            assert len(piece) == part.size_bytes
            assert base64.b64encode(hashlib.sha256(piece).digest()).decode() == part.sha256
            content += piece
            self.spool.uploaded(part, etag="etag")
        file = self.objects / str(waiting.generation)
        file.write_bytes(content)
        self.chain.append((waiting.root_hash, file))
        self.spool.complete({})


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_folder() as folder:
        yield Bucket(folder)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.lists(edits, min_size=1, max_size=10), min_size=1, max_size=4), st.data())
def test_every_point_of_a_chain_is_restored_as_it_was(batches: list[list[Edit]], data: st.DataObject) -> None:
    with a_folder() as folder:
        bucket = Bucket(folder)
        seen = []
        for batch in batches:
            for edit in batch:
                edit.apply(bucket.here)
            bucket.spooled()
            bucket.upload()
            seen.append(picture(bucket.here))
        # From any state that a store is in, forwards or backwards.
        for _ in range(2):
            point = data.draw(st.integers(1, len(seen)))
            restored = restore_chain(bucket.store, bucket.chain[:point])
            # By what it is, not by its number: nothing may have changed between two points.
            assert restored.root_hash == bucket.chain[point - 1][0]
            assert picture(bucket.there) == seen[point - 1]
            bucket.store.verify()


def test_an_upload_that_was_cut_off_goes_on_after_a_restart(bucket: Bucket) -> None:
    (bucket.here / "file").write_bytes(random.Random(1).randbytes(3 << 20))
    spooled = bucket.spooled()
    assert len(spooled.parts) > 1
    bucket.spool.uploaded(spooled.parts[0], etag="first")
    again = Spool(bucket.spool.part(1).parents[1], roots=1).waiting
    assert again is not None
    assert [part.etag for part in again.parts] == ["first", *[None] * (len(spooled.parts) - 1)]
    assert not bucket.spool.part(1).exists()


def test_a_spool_that_lacks_a_part_is_dropped(bucket: Bucket) -> None:
    (bucket.here / "file").write_bytes(random.Random(1).randbytes(3 << 20))
    bucket.spooled()
    bucket.spool.part(2).unlink()
    assert Spool(bucket.spool.part(1).parents[1], roots=1).waiting is None


def test_a_chain_with_a_broken_delta_is_restored_as_far_as_it_goes(bucket: Bucket) -> None:
    for number in range(3):
        (bucket.here / "file").write_bytes(b"%d" % number * 5000)
        bucket.spooled()
        bucket.upload()
    _, last = bucket.chain[-1]
    last.write_bytes(last.read_bytes()[:-1])
    assert restore_chain(bucket.store, bucket.chain).number == 2
    assert (bucket.there / "file").read_bytes() == b"1" * 5000


@pytest.mark.parametrize("held", [1, 2, 3])
def test_a_chain_in_which_nothing_changed_for_a_while_is_restored_to_its_end(bucket: Bucket, held: int) -> None:
    for content in (b"one", None, None, b"two"):
        if content is not None:
            (bucket.here / "file").write_bytes(content)
        bucket.spooled()
        bucket.upload()
    assert len({root for root, _ in bucket.chain}) == 2
    restore_chain(bucket.store, bucket.chain[:held])
    assert restore_chain(bucket.store, bucket.chain).root_hash == bucket.chain[-1][0]
    assert (bucket.there / "file").read_bytes() == b"two"


def test_what_is_held_under_a_later_number_does_not_keep_a_chain_from_its_end(bucket: Bucket) -> None:
    (bucket.here / "file").write_bytes(b"one")
    bucket.spooled()
    bucket.upload()
    # The same state, as a standby has it from the link, later than the delta below was taken.
    receive(bucket.store, frames_of(bucket.source.take(900, epoch=1, held=None)))
    bucket.store.apply_pending()
    (bucket.here / "file").write_bytes(b"two")
    bucket.spooled()
    bucket.upload()
    assert restore_chain(bucket.store, bucket.chain).root_hash == bucket.chain[-1][0]
    assert (bucket.there / "file").read_bytes() == b"two"


def test_a_broken_base_leaves_what_was_held(bucket: Bucket) -> None:
    (bucket.here / "file").write_bytes(b"1" * 5000)
    bucket.spooled()
    bucket.upload()
    restore_chain(bucket.store, bucket.chain)
    _, base = bucket.chain[0]
    broken = base.with_name("broken")
    broken.write_bytes(base.read_bytes()[:-1])
    with pytest.raises(ImageDamaged):
        restore_chain(bucket.store, [("another", broken)])
    assert (bucket.there / "file").read_bytes() == b"1" * 5000
    bucket.store.verify()


def test_a_delta_alone_restores_nothing(bucket: Bucket) -> None:
    for number in range(2):
        (bucket.here / "file").write_bytes(b"%d" % number * 5000)
        bucket.spooled()
        bucket.upload()
    with pytest.raises(ImageDamaged):
        restore_chain(bucket.store, bucket.chain[1:])
