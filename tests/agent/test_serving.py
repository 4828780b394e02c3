"""What the agent does with a workload that the fence may hold meanwhile; the supervisor is the test."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spot_agent.fence import boot_clock
from spot_agent.serving import Serving
from spot_agent.settings import Hooks
from spot_agent.workload import HoldWorkload, LookAtWorkload, MoveFence, Order, StartWorkload, WorkloadStatus
from spot_optimizer.domain.protocol import Event, WorkloadFrozen, WorkloadRunning
from tests.agent.fence_rig import wait_until


class NoImage:
    def is_live(self, epoch: int) -> bool:
        return True

    def prepare(self) -> None:
        raise AssertionError("nothing is to be restored")

    def become_live(self, epoch: int) -> None:
        raise AssertionError("nothing is to be restored")


class Rig:
    """A workload that runs under epoch 1, by the word of its supervisor."""

    def __init__(self, folder: Path, *, freeze_seconds: float = 0.0) -> None:
        self.folder = folder
        self.orders: list[Order] = []
        self.events: queue.Queue[Event] = queue.Queue()
        hooks = Hooks(
            start="exec sleep 600",
            freeze=f"sleep {freeze_seconds}; echo frozen >> {folder}/hooks",
            thaw=f"echo thawed >> {folder}/hooks",
        )
        self.serving = Serving(
            hooks,
            environment=lambda _: {"PATH": "/usr/bin:/bin"},
            image=NoImage(),
            remember_frozen=lambda _: None,
            emit=self.events.put,
            timeout_seconds=10,
        )
        self.serving.begin(self._obey, frozen=False)

    def _obey(self, order: Order) -> None:
        self.orders.append(order)
        if isinstance(order, LookAtWorkload):
            self.serving.take_status(WorkloadStatus(running=True, epoch=1, answers="look"))

    @property
    def hooks_run(self) -> list[str]:
        path = self.folder / "hooks"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.serving.close()


def test_a_lease_moves_deadline_and_hold_together(rig: Rig) -> None:
    rig.serving.fence(1, 104.0, hold_at=102.0)
    rig.serving.fence(1, None)
    assert rig.orders[1:] == [
        MoveFence(1, 104.0),
        HoldWorkload(1, 102.0),
        MoveFence(1, None),
        HoldWorkload(1, None),
    ]


def test_a_start_takes_the_hold_along(rig: Rig) -> None:
    rig.serving.fence(2, boot_clock() + 60, hold_at=boot_clock() + 58)
    rig.serving.take_status(WorkloadStatus(running=False, epoch=1))
    rig.serving.start(2, restore=False)
    wait_until(lambda: isinstance(rig.orders[-1], HoldWorkload) and isinstance(rig.orders[-2], StartWorkload))
    assert rig.orders[-1] == rig.orders[2]


def test_a_workload_that_is_held_is_frozen_and_thawed_when_it_goes_on(rig: Rig) -> None:
    rig.serving.fence(1, boot_clock() + 60, hold_at=boot_clock() - 1)
    rig.serving.freeze("h-1")
    time.sleep(0.3)
    assert rig.hooks_run == []
    rig.serving.fence(1, boot_clock() + 60, hold_at=boot_clock() + 58)
    assert rig.events.get(timeout=10) == WorkloadFrozen("h-1")
    assert rig.hooks_run == ["frozen"]

    rig.serving.fence(1, boot_clock() + 60, hold_at=boot_clock() - 1)
    rig.serving.thaw(1)
    time.sleep(0.3)
    assert rig.hooks_run == ["frozen"]
    rig.serving.fence(1, boot_clock() + 60, hold_at=boot_clock() + 58)
    assert rig.events.get(timeout=10) == WorkloadRunning(1)
    assert rig.hooks_run == ["frozen", "thawed"]


def test_a_workload_that_was_held_while_it_was_frozen_is_frozen_once_more(tmp_path: Path) -> None:
    """What stops processes is no freeze to one that is stopped already, and is undone when that goes on."""
    rig = Rig(tmp_path, freeze_seconds=0.5)
    rig.serving.fence(1, boot_clock() + 60, hold_at=boot_clock() + 0.2)
    rig.serving.freeze("h-1")
    wait_until(lambda: rig.hooks_run == ["frozen"])
    assert rig.events.empty()
    rig.serving.fence(1, boot_clock() + 60, hold_at=boot_clock() + 58)
    assert rig.events.get(timeout=10) == WorkloadFrozen("h-1")
    assert rig.hooks_run == ["frozen", "frozen"]
    rig.serving.close()
