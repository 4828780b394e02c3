"""What a former primary holds is what its workload wrote last, also where that lies beside the watched paths."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from spot_agent.holding import Holding
from spot_agent.joining import new_memory
from spot_agent.journal import Journal
from spot_agent.receiving import Receiver
from spot_agent.sync.identity import Identity
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_optimizer.domain.protocol import Event, StateHeld


class StoppedWorkload:
    """Its quiesce copies what it wrote into the watched path, if it can."""

    def __init__(self, folder: Path) -> None:
        self.live, self.image = folder / "live", folder / "image"
        self.image.mkdir()
        self.sound = True

    def await_stopped(self, timeout_seconds: float) -> bool:
        return True

    def quiesce(self) -> bool:
        if self.sound:
            (self.image / "database").write_bytes(self.live.read_bytes())
        return self.sound


class HoldingRig:
    def __init__(self, folder: Path) -> None:
        self.workload = StoppedWorkload(folder)
        self.events: list[Event] = []
        watched = WatchedPaths.of([self.workload.image])
        self.journal = Journal(folder / "journal")
        self.journal.begin(new_memory())
        self.journal.remember(live_epoch=3, live_until="2026-01-01T00:00:00+00:00")
        identity = Identity.load_or_create(folder / "identity", name="former")
        self.receiver = Receiver(
            folder / "store", watched, address="127.0.0.1", port=0, identity=identity, emit=self.events.append
        )
        serving: Any = self.workload
        self.holding = Holding(
            self.journal,
            self.receiver,
            GenerationSource(watched),
            serving,
            reading=threading.Lock(),
            next_number=lambda: 7,
            extra=_nothing,
            emit=self.events.append,
            pause=lambda _: False,
        )


def _nothing() -> Mapping[str, Any]:
    return {}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HoldingRig]:
    rig = HoldingRig(tmp_path)
    yield rig
    rig.journal.close()


def test_what_is_held_has_what_the_workload_wrote_last(rig: HoldingRig) -> None:
    (rig.workload.image / "database").write_bytes(b"as of the last generation")
    rig.workload.live.write_bytes(b"the last word")
    rig.holding.hold()

    assert rig.events == [StateHeld(7, "2026-01-01T00:00:00+00:00", 3)]
    assert (rig.workload.image / "database").read_bytes() == b"the last word"
    assert rig.receiver.image is not None
    assert rig.receiver.image.total_bytes == len(b"the last word")


def test_nothing_is_held_of_a_workload_that_can_not_be_quiesced(rig: HoldingRig) -> None:
    rig.workload.sound = False
    rig.holding.hold()

    assert rig.events == [StateHeld(0)]
    assert rig.receiver.image is None
