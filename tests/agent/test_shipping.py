"""What a primary ships when, and what both sides then claim to be covered."""

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from spot_agent.receiving import Receiver
from spot_agent.shipping import ChangeRate, Destination, Shipper
from spot_agent.sync.errors import ImageDamaged
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import Peer as LinkPeer
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_agent.sync.throttle import Throttle
from spot_agent.sync.watch import Watch
from spot_optimizer.domain.orders import Peer
from spot_optimizer.domain.protocol import Covered, Event, GenerationCommitted, LinkChanged, ShipFinal, ShippingFailed
from spot_optimizer.domain.replicas import ReplicaState
from tests.agent.fence_rig import wait_until
from tests.agent.sync.trees import picture

EVERY_SECONDS = 0.05


class CountingSource(GenerationSource):
    """Counts how often the tree was read."""

    taken = 0

    def take(self, number: int, **more: Any) -> Any:
        self.taken += 1
        return super().take(number, **more)


class ShippingRig:
    """A shipper and a receiver, linked over loopback."""

    def __init__(
        self, folder: Path, *, quiesce: Callable[[], None] | None, bytes_per_second: float | None = None
    ) -> None:
        self.here, self.there = folder / "here", folder / "there"
        self.here.mkdir()
        (self.here / "file").write_bytes(b"content")
        own, other = (Identity.load_or_create(folder / name, name=name) for name in ("primary", "standby"))
        self.events: list[Event] = []
        self.received: list[GenerationCommitted] = []
        self.extra: Mapping[str, Any] = {"configuration": 1}
        self.quiesces = 0
        self.numbers: Any = iter(range(1, 1_000_000))

        def run_quiesce() -> bool:
            self.quiesces += 1
            if quiesce is not None:
                quiesce()
            return True

        def take(event: Event) -> None:
            if isinstance(event, GenerationCommitted):
                self.received.append(event)

        port = 7443
        self.receiver = Receiver(
            folder / "store",
            WatchedPaths.of([self.there]),
            address="127.66.9.1",
            port=port,
            identity=other,
            emit=take,
        )
        self.peer = Peer(
            replica_id="replica",
            instance_id="i-1",
            status=ReplicaState.SYNCING,
            readiness=0,
            address="127.66.9.2",
            port=port,
            certificate=own.certificate,
        )
        self.receiver.listen(self.peer)
        self.destination = Destination(LinkPeer("127.66.9.1", port, other.certificate), "replica", 1)
        self._own, self._throttle = own, Throttle(bytes_per_second)
        self._run_quiesce, self._must_settle = run_quiesce, quiesce is not None
        self.begin()

    def begin(self) -> None:
        """Ship, as a process does that has just been started."""
        self.source = CountingSource(WatchedPaths.of([self.here]), watch=Watch())
        self.shipper = Shipper(
            self.source,
            identity=self._own,
            agent_id="agent",
            emit=self.events.append,
            quiesce=self._run_quiesce,
            must_settle=self._must_settle,
            reading=threading.Lock(),
            next_number=lambda: next(self.numbers),
            extra=lambda: self.extra,
            every_seconds=EVERY_SECONDS,
            throttle=self._throttle,
        )
        self.shipper.begin()
        self.shipper.connect(self.destination)

    def is_in_place(self) -> bool:
        """Whether both trees are the same; not while one is being changed."""
        try:
            return picture(self.there) == picture(self.here)
        except FileNotFoundError:
            return False

    def restart(self, *, epoch: int = 1) -> int:
        """What a restarted agent reads for its first generation: bytes."""
        self.shipper.disconnect()
        self.shipper.close()
        so_far = len(self.covered)
        self.destination = replace(self.destination, epoch=epoch)
        self.begin()
        wait_until(lambda: len(self.covered) > so_far, 20)
        progress = self.shipper.progress
        assert progress is not None
        return progress.total_bytes

    def close(self) -> None:
        self.shipper.disconnect()
        self.shipper.close()
        self.receiver.stop()

    @property
    def covered(self) -> list[Covered]:
        return [event for event in list(self.events) if isinstance(event, Covered)]

    def rounds(self, count: int) -> None:
        """Wait until the standby is known to be covered so many times more."""
        so_far = len(self.covered)
        wait_until(lambda: len(self.covered) >= so_far + count, 20)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ShippingRig]:
    rig = ShippingRig(tmp_path, quiesce=None)
    yield rig
    rig.close()


def test_nothing_is_shipped_when_nothing_changed_and_the_coverage_goes_on(rig: ShippingRig) -> None:
    rig.rounds(3)
    generation, committed, read = rig.covered[-1].generation, len(rig.received), rig.source.taken
    began = time.time()
    rig.rounds(8)
    assert {covered.generation for covered in rig.covered[3:]} == {generation}
    assert rig.source.taken <= read + 1  # a check of the watch may be due
    # The standby hears of it as well, and claims no more than the primary said.
    assert len(rig.received) >= committed + 8
    assert datetime.fromisoformat(rig.received[-1].covered_until).timestamp() >= began - 1
    assert {event.generation for event in rig.received} == {generation}
    moments = [covered.until for covered in rig.covered]
    assert moments == sorted(moments)


def test_a_change_is_shipped_and_only_then_covered(rig: ShippingRig) -> None:
    rig.rounds(3)
    generation = rig.covered[-1].generation
    (rig.here / "file").write_bytes(b"CONTENT")
    written = time.clock_gettime(time.CLOCK_BOOTTIME)
    wait_until(lambda: rig.covered[-1].until > written, 20)
    assert rig.covered[-1].generation > generation
    wait_until(lambda: (rig.there / "file").read_bytes() == b"CONTENT")


def test_with_a_quiesce_hook_the_state_is_written_down_and_read_each_time(tmp_path: Path) -> None:
    rig = ShippingRig(tmp_path, quiesce=lambda: None)
    try:
        rig.rounds(3)
        quiesces, read, generation = rig.quiesces, rig.source.taken, rig.covered[-1].generation
        rig.rounds(5)
        assert rig.quiesces >= quiesces + 5
        assert rig.source.taken >= read + 5
        assert rig.covered[-1].generation == generation
    finally:
        rig.close()


def test_what_a_quiesce_hook_writes_is_shipped(tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "here" / "image").write_text(str(time.time_ns()))

    rig = ShippingRig(tmp_path, quiesce=write)
    try:
        rig.rounds(5)
        assert len({covered.generation for covered in rig.covered}) == len(rig.covered)
    finally:
        rig.close()


def test_other_news_travel_although_no_file_changed(rig: ShippingRig) -> None:
    rig.rounds(3)
    generation = rig.covered[-1].generation
    rig.extra = {"configuration": 2}
    rig.rounds(3)
    assert rig.covered[-1].generation > generation
    image = rig.receiver.image
    assert image is not None and image.extra == {"configuration": 2}


def test_a_standby_that_no_longer_holds_it_is_sent_everything_again(rig: ShippingRig) -> None:
    rig.rounds(3)
    generation = rig.covered[-1].generation
    (rig.there / "file").write_bytes(b"touched by somebody")
    store = rig.receiver._store
    assert store is not None
    with pytest.raises(ImageDamaged):
        store.verify()
    wait_until(lambda: rig.covered[-1].generation > generation, 20)
    wait_until(lambda: (rig.there / "file").read_bytes() == b"content", 20)


def test_nothing_follows_a_final_generation_even_where_nothing_had_to_be_frozen(rig: ShippingRig) -> None:
    rig.rounds(3)
    rig.shipper.ship_final(ShipFinal("replica", "handover", 4))
    wait_until(lambda: rig.received[-1].final_for == "handover", 20)
    (rig.here / "file").write_bytes(b"CONTENT")
    link = rig.shipper._link
    assert link is not None
    rig.shipper._drop(link)  # a new link would be shipped to at once
    wait_until(lambda: rig.shipper._link not in (None, link), 20)
    time.sleep(0.5)
    assert rig.received[-1].final_for == "handover"
    image = rig.receiver.image
    assert image is not None and image.final_for == "handover"


def test_after_a_handover_that_was_given_up_a_generation_says_that_the_primary_went_on(rig: ShippingRig) -> None:
    rig.rounds(3)
    rig.shipper.rest(resting=True)
    rig.shipper.ship_final(ShipFinal("replica", "handover", 4))
    wait_until(lambda: rig.covered[-1].final_for == "handover", 20)
    final = rig.covered[-1].generation
    wait_until(lambda: rig.received[-1].final_for == "handover")
    rig.shipper.rest(resting=False)
    rig.rounds(2)
    assert rig.covered[-1].generation > final
    wait_until(lambda: rig.received[-1].final_for is None)


def test_a_disk_that_is_full_for_a_while_ends_nothing(rig: ShippingRig) -> None:
    rig.rounds(1)
    numbers, tries = rig.numbers, iter(range(3))

    class Numbers:
        def __next__(self) -> int:
            if next(tries, None) is not None:
                raise OSError(errno.ENOSPC, "No space left on device")
            number: int = next(numbers)
            return number

    def fails_to_ship_what_is_written() -> bool:
        (rig.here / "file").write_text(str(time.time_ns()))
        return ShippingFailed("replica", None) in rig.events

    rig.numbers = Numbers()
    wait_until(fails_to_ship_what_is_written, 20)
    (rig.here / "file").write_bytes(b"CONTENT")
    wait_until(lambda: (rig.there / "file").read_bytes() == b"CONTENT", 20)


def test_what_a_peer_says_of_its_readiness_is_a_number_or_nothing(rig: ShippingRig) -> None:
    rig.extra = {"readiness": "soon"}
    rig.rounds(3)
    image = rig.receiver.image
    assert image is not None and image.extra == {"readiness": "soon"}
    assert rig.received[-1].readiness is None


def test_a_standby_that_is_told_of_another_primary_hangs_up_on_the_one_before(rig: ShippingRig) -> None:
    rig.rounds(1)
    rig.receiver.listen(replace(rig.peer, certificate=rig.peer.certificate + "\n"))
    wait_until(lambda: LinkChanged("replica", up=False) in rig.events)


def test_a_restarted_primary_reads_only_what_changed_since_its_last_generation(rig: ShippingRig) -> None:
    (rig.here / "large").write_bytes(bytes(range(256)) * 4000)
    (rig.here / "other").write_bytes(b"other")
    rig.rounds(2)
    time.sleep(0.1)
    # So that a generation is taken that much after all else was written.
    (rig.here / "other").write_bytes(b"OTHER")
    wait_until(lambda: (rig.there / "other").read_bytes() == b"OTHER", 20)
    time.sleep(0.1)
    # By its size and its modification time, it is what it was.
    file = rig.here / "file"
    before = file.stat()
    rig.shipper.disconnect()
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert rig.restart() < 1000
    wait_until(lambda: (rig.there / "file").read_bytes() == b"CONTENT", 20)


def test_a_restarted_primary_is_not_deceived_by_folders_that_changed_places(rig: ShippingRig) -> None:
    for name in ("one", "two"):
        (rig.here / name / "deep").mkdir(parents=True)
        (rig.here / name / "deep" / "file").write_text(name)
        os.utime(rig.here / name / "deep" / "file", ns=(10**18, 10**18))
    time.sleep(0.1)
    (rig.here / "file").write_bytes(b"CONTENT")
    wait_until(lambda: (rig.there / "file").read_bytes() == b"CONTENT", 20)
    time.sleep(0.1)
    rig.shipper.disconnect()
    (rig.here / "one").rename(rig.here / "aside")
    (rig.here / "two").rename(rig.here / "one")
    (rig.here / "aside").rename(rig.here / "two")
    rig.restart()
    wait_until(rig.is_in_place, 20)
    assert (rig.there / "one" / "deep" / "file").read_text() == "two"


def test_a_primary_of_another_epoch_reads_everything(rig: ShippingRig) -> None:
    (rig.here / "large").write_bytes(bytes(range(256)) * 4000)
    rig.rounds(2)
    assert rig.restart(epoch=2) > 1_000_000


def test_a_notice_lifts_the_limit_of_the_rate(tmp_path: Path) -> None:
    rig = ShippingRig(tmp_path, quiesce=None, bytes_per_second=20_000)
    try:
        rig.rounds(1)
        (rig.here / "large").write_bytes(random.Random(1).randbytes(1 << 20))
        began = time.monotonic()
        time.sleep(1)
        assert not (rig.there / "large").exists()
        rig.shipper.hurry()
        wait_until(lambda: (rig.there / "large").exists(), 20)
        assert time.monotonic() - began < 20
    finally:
        rig.close()


def test_the_rate_of_change_is_what_was_sent_over_the_time_it_covers_of_the_last_minute() -> None:
    changes = ChangeRate()
    assert changes.bytes_per_second is None
    changes.note(10.0, 11.0, 3000)
    changes.note(11.0, 13.0, 0)
    assert changes.bytes_per_second == 1000
    changes.note(13.0, 100.0, 8700)
    assert changes.bytes_per_second == 100
