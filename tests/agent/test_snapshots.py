"""A primary's copies in S3, whatever becomes of disk, uploads and clocks; and what a new instance makes of them."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spot_agent.control_plane import ControlPlane
from spot_agent.restoring import fetch_and_restore
from spot_agent.snapshots import Situation, Snapshots
from spot_agent.sync.errors import StorageFailed
from spot_agent.sync.frames import PREFIX
from spot_agent.sync.generations import GenerationStore
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_agent.sync.spool import PART_BYTES, Spool
from spot_agent.sync.throttle import Throttle
from spot_optimizer.domain.snapshots import Cadence
from tests.agent.fence_rig import wait_until
from tests.agent.snapshot_rig import AGENT, Cloud
from tests.agent.sync.trees import no_file_longer_than, picture

RUNNING = Situation(epoch=1)
FROZEN = Situation(epoch=1, noticed=True, last=True)


class Primary:
    """A tree, and the snapshots of it; `again` is what a restart of the agent makes of them."""

    def __init__(self, folder: Path, cloud: Cloud) -> None:
        self.here = folder / "here"
        self.here.mkdir()
        self.control_plane = ControlPlane(cloud.url)
        self.control_plane.authenticate(AGENT, "token")
        self._folder = folder
        self._number = 0
        self.clock: Callable[[], float] = time.time
        self.every_seconds = 0.05
        self.snapshots: Snapshots | None = None

    def run(self, situation: Situation = RUNNING) -> Snapshots:
        self.close()
        self.snapshots = Snapshots(
            Spool(self._folder / "spool", roots=1),
            GenerationSource(WatchedPaths.of([self.here])),
            self.control_plane,
            cadence=Cadence(every_seconds=self.every_seconds),
            quiesce=lambda: True,
            must_settle=False,
            reading=threading.Lock(),
            next_number=self._next_number,
            extra=dict,
            throttle=Throttle(None),
            clock=lambda: self.clock(),
        )
        self.snapshots.begin()
        self.snapshots.situate(situation)
        return self.snapshots

    def close(self) -> None:
        """End, and wait for what is under way: a killed process does not go on either."""
        if self.snapshots is not None:
            self.snapshots.close()
            wait_until(lambda: not any(thread.name == "snapshots" for thread in threading.enumerate()))

    @property
    def parts(self) -> Path:
        return self._folder / "spool" / "parts"

    def fill(self) -> None:
        """Three parts."""
        (self.here / "file").write_bytes(random.Random(1).randbytes(2 * PART_BYTES + 1000))

    def _next_number(self) -> int:
        self._number += 1
        return self._number


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()
    yield made
    made.close()


@pytest.fixture
def primary(tmp_path: Path, cloud: Cloud) -> Iterator[Primary]:
    made = Primary(tmp_path, cloud)
    yield made
    made.close()
    made.control_plane.close()


def restored(primary: Primary, folder: Path) -> Path:
    there = folder / "there"

    def store() -> GenerationStore:
        return GenerationStore.open(folder / "store", WatchedPaths.of([there]))

    fetch_and_restore(primary.control_plane, folder / "restoring", store, at=None)
    store().verify()
    return there


def test_a_base_and_its_deltas_restore_the_newest_state(primary: Primary, cloud: Cloud, tmp_path: Path) -> None:
    primary.fill()
    primary.run()
    wait_until(lambda: len(cloud.rows) >= 2)
    (primary.here / "new").write_bytes(b"new")
    so_far = len(cloud.rows)
    wait_until(lambda: len(cloud.rows) >= so_far + 2)
    primary.close()

    assert cloud.rows[0].previous_id is None
    assert all(row.previous_id == before.snapshot_id for before, row in zip(cloud.rows, cloud.rows[1:], strict=False))
    assert picture(restored(primary, tmp_path)) == picture(primary.here)


def test_an_upload_that_was_cut_off_goes_on_where_it_stopped(primary: Primary, cloud: Cloud) -> None:
    primary.fill()
    cloud.bucket.refuses = lambda number: number == 2
    primary.run()
    wait_until(lambda: ("upload-1", 2) in cloud.bucket.puts)
    cloud.bucket.refuses = lambda _: False
    primary.run()
    wait_until(lambda: cloud.rows)

    assert cloud.bucket.puts.count(("upload-1", 1)) == 1
    assert cloud.rows[0].generation == 1


def test_an_upload_that_s3_has_forgotten_is_begun_anew(primary: Primary, cloud: Cloud, tmp_path: Path) -> None:
    primary.fill()
    cloud.bucket.refuses = lambda number: number == 2
    primary.run()
    wait_until(lambda: ("upload-1", 2) in cloud.bucket.puts)
    cloud.bucket.refuses = lambda _: False
    cloud.bucket.uploads.clear()  # its lifecycle rule, a day later
    primary.run()
    wait_until(lambda: cloud.rows)
    primary.close()

    assert picture(restored(primary, tmp_path)) == picture(primary.here)


def test_a_part_that_a_crash_cut_off_is_not_tried_for_ever(primary: Primary, cloud: Cloud, tmp_path: Path) -> None:
    primary.fill()
    cloud.bucket.refuses = lambda number: number == 2
    primary.run()
    wait_until(lambda: ("upload-1", 2) in cloud.bucket.puts)
    primary.close()
    os.truncate(primary.parts / "2", 1000)
    cloud.bucket.refuses = lambda _: False
    primary.run()
    wait_until(lambda: cloud.rows)
    primary.close()

    assert picture(restored(primary, tmp_path)) == picture(primary.here)


def test_a_full_disk_ends_nothing(primary: Primary, cloud: Cloud) -> None:
    primary.fill()
    cloud.bucket.refuses = lambda _: True
    primary.run(Situation(epoch=1, noticed=True))
    wait_until(lambda: len(cloud.bucket.puts) > 0)
    with no_file_longer_than(20):
        cloud.bucket.refuses = lambda _: False
        so_far = len(cloud.begun)
        wait_until(lambda: len(cloud.begun) >= so_far + 2, 30)
    assert not cloud.rows
    wait_until(lambda: cloud.rows)


def test_a_clock_that_is_set_back_does_not_put_off_the_next_snapshot(primary: Primary, cloud: Cloud) -> None:
    primary.every_seconds = 0.2
    primary.clock = lambda: time.time() + 3600
    primary.run()
    wait_until(lambda: cloud.rows)
    so_far = len(cloud.rows)
    primary.clock = time.time
    wait_until(lambda: len(cloud.rows) >= so_far + 2)


def test_what_was_measured_is_known_after_a_restart(primary: Primary, cloud: Cloud) -> None:
    primary.every_seconds = 300
    primary.fill()
    before = primary.run()
    wait_until(lambda: before.measured is not None)
    measured, after = before.measured, primary.run().measured

    assert measured is not None
    assert after is not None
    assert measured.bytes_per_second is not None
    assert (after.state_bytes, after.bytes_per_second) == (measured.state_bytes, measured.bytes_per_second)


def test_a_restarted_primary_reads_only_what_changed_since_its_last_snapshot(primary: Primary, cloud: Cloud) -> None:
    primary.fill()
    (primary.here / "other").write_bytes(b"other")
    time.sleep(0.1)
    primary.run()
    wait_until(lambda: cloud.rows)
    primary.close()
    so_far = len(cloud.rows)
    (primary.here / "other").write_bytes(b"OTHER")
    primary.run()
    wait_until(lambda: len(cloud.rows) > so_far)

    delta = cloud.bucket.objects[cloud.rows[so_far].snapshot_id]
    length, _ = PREFIX.unpack_from(delta)
    assert json.loads(delta[PREFIX.size : PREFIX.size + length])["total"] == len(b"OTHER")


def test_the_last_one_is_taken_once_and_says_that_it_was_frozen(primary: Primary, cloud: Cloud) -> None:
    running = primary.run()
    wait_until(lambda: cloud.rows)
    running.situate(FROZEN)
    wait_until(lambda: cloud.rows[-1].frozen)
    time.sleep(0.2)
    assert [row.frozen for row in cloud.rows].count(True) == 1


def test_a_download_that_was_spoiled_here_is_made_once_more(primary: Primary, cloud: Cloud, tmp_path: Path) -> None:
    (primary.here / "file").write_bytes(b"content")
    primary.every_seconds = 300
    primary.run()
    wait_until(lambda: cloud.rows)
    primary.close()
    base = cloud.rows[0]
    (tmp_path / "restoring").mkdir()
    (tmp_path / "restoring" / base.snapshot_id).write_bytes(bytes(base.size_bytes))

    assert picture(restored(primary, tmp_path)) == picture(primary.here)


@pytest.mark.parametrize("there", [10, 100_000])
def test_a_download_goes_on_or_begins_anew(primary: Primary, cloud: Cloud, tmp_path: Path, there: int) -> None:
    (primary.here / "file").write_bytes(b"content")
    primary.every_seconds = 300
    primary.run()
    wait_until(lambda: cloud.rows)
    primary.close()
    base = cloud.rows[0]
    content = cloud.bucket.objects[base.snapshot_id]
    (tmp_path / "restoring").mkdir()
    (tmp_path / "restoring" / base.snapshot_id).write_bytes((content + bytes(100_000))[:there])

    assert picture(restored(primary, tmp_path)) == picture(primary.here)


def test_the_spool_leaves_the_workload_room_until_it_is_frozen(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    source = GenerationSource(WatchedPaths.of([tmp_path / "here"]))
    spool = Spool(tmp_path / "spool", roots=1, least_free_share=1.0)
    deadline = time.monotonic() + 60
    with pytest.raises(StorageFailed):
        spool.write(source.take(1, epoch=1, held=None), previous_id=None, frozen=False, deadline=deadline)
    assert spool.waiting is None
    assert not (tmp_path / "spool" / "parts").exists()

    spool.write(source.take(2, epoch=1, held=None), previous_id=None, frozen=True, deadline=deadline)
    assert spool.waiting is not None
