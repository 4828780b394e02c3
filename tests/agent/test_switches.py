"""The history of switches goes from primary to primary, with the generations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_agent.journal import Journal, Memory
from spot_agent.receiving import LiveImage
from spot_agent.switches import CARRIED_AS, add, carried
from tests.agent.fence_rig import wait_until
from tests.agent.test_shipping import ShippingRig

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FIRST = {"epoch": 2, "instance_id": "i-2", "at": NOW.isoformat()}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ShippingRig]:
    rig = ShippingRig(tmp_path, quiesce=None)
    yield rig
    rig.close()


def test_a_promoted_standby_carries_on_what_its_primary_knew_and_adds_its_own(rig: ShippingRig, tmp_path: Path) -> None:
    rig.extra = {CARRIED_AS: [FIRST]}
    wait_until(lambda: rig.receiver.image is not None and rig.receiver.image.extra.get(CARRIED_AS) == [FIRST], 20)
    journal = Journal(tmp_path / "standby's")
    journal.begin(Memory("key"))
    image = LiveImage(rig.receiver, journal, instance_id="i-3", adopt=lambda _: None)
    image.prepare()
    image.become_live(3)
    journal.close()
    found = Journal(tmp_path / "standby's").load()
    assert found is not None
    assert found.restored_epoch == 3
    assert found.switches[0] == FIRST
    assert [(each["epoch"], each["instance_id"]) for each in found.switches] == [(2, "i-2"), (3, "i-3")]


@given(st.lists(st.integers(1, 200), max_size=80))
def test_a_history_rises_ends_with_the_newest_and_does_not_grow_for_ever(epochs: list[int]) -> None:
    history: Any = ()
    for epoch in epochs:
        history = add(history, epoch=epoch, instance_id=f"i-{epoch}", at=NOW)
        known = [each["epoch"] for each in history]
        assert known == sorted(set(known))
        assert known[-1] == epoch
        assert len(known) <= 50


@pytest.mark.parametrize(
    "said", [None, "all of them", {}, [1, None], [{"epoch": "2", "instance_id": "i-2", "at": ""}], [{"epoch": 2}]]
)
def test_what_does_not_look_like_a_switch_is_left_out(said: object) -> None:
    assert carried({CARRIED_AS: said}) == ()


def test_what_was_added_is_carried() -> None:
    history = add((), epoch=2, instance_id="i-2", at=NOW)
    assert carried({CARRIED_AS: list(history)}) == history
