"""Snapshots: which count, what is restored, when one is taken, and what it says of the protection."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain import snapshots
from spot_optimizer.domain.snapshots import Cadence, Chain, Protection, Snapshot, SnapshotKind, snapshot_id_for
from spot_optimizer.errors import AgentLost, ConditionFailed, SnapshotOutOfOrder, StaleEpoch
from tests.builders import NOON, PRIMARY, STANDBY, a_snapshot, an_agent
from tests.fakes.records import FakeRecords

SECOND = timedelta(seconds=1)


def one_after_another(kinds: list[SnapshotKind]) -> list[Snapshot]:
    """Snapshots of consecutive generations, a second apart; the first is always a base."""
    made: list[Snapshot] = []
    for number, kind in enumerate([SnapshotKind.BASE, *kinds], start=1):
        snapshot_id = snapshot_id_for(epoch=1, generation=number)
        follows = kind is SnapshotKind.DELTA
        made.append(
            a_snapshot(
                snapshot_id=snapshot_id,
                kind=kind,
                generation=number,
                base_id=made[-1].base_id if follows else snapshot_id,
                previous_id=made[-1].snapshot_id if follows else None,
                taken_at=NOON + number * SECOND,
                expires_at=made[-1].expires_at if follows else NOON + number * SECOND + snapshots.KEPT_FOR,
            )
        )
    return made


histories = st.lists(st.sampled_from(SnapshotKind), max_size=12).map(one_after_another)


@given(rows=histories, at=st.none() | st.integers(0, 14))
def test_what_is_restored_is_one_whole_chain_up_to_the_newest_that_is_old_enough(
    rows: list[Snapshot], at: int | None
) -> None:
    moment = None if at is None else NOON + at * SECOND
    chain = snapshots.chain_at(reversed(rows), at=moment, now=NOON + timedelta(hours=1))
    old_enough = [row for row in rows if moment is None or row.taken_at <= moment]
    assert (chain[-1] if chain else None) == (old_enough[-1] if old_enough else None)
    if chain:
        assert chain[0].kind is SnapshotKind.BASE
        assert [row.previous_id for row in chain[1:]] == [row.snapshot_id for row in chain[:-1]]


@given(rows=histories, missing=st.integers(0, 12), late=st.booleans())
def test_a_delta_whose_base_is_gone_is_never_restored(rows: list[Snapshot], missing: int, late: bool) -> None:
    now = NOON + (snapshots.KEPT_FOR + missing * SECOND if late else SECOND)
    left = rows if late else [row for index, row in enumerate(rows) if index != missing]
    chain = snapshots.chain_at(left, at=None, now=now)
    assert all(row.expires_at > now for row in chain)
    assert not chain or chain[0].kind is SnapshotKind.BASE


def committed(records: FakeRecords, snapshot: Snapshot) -> bool:
    try:
        records.commit(snapshots.complete(records.agent(snapshot.agent_id), snapshot))
    except ConditionFailed:
        return False
    return True


def test_a_complete_snapshot_becomes_the_newest() -> None:
    records = FakeRecords().put(an_agent())
    assert committed(records, a_snapshot())
    agent = records.agent(a_snapshot().agent_id)
    assert snapshots.newest_usable(agent, now=NOON) == a_snapshot().snapshot_id
    assert snapshots.newest_usable(agent, now=NOON + snapshots.KEPT_FOR) is None


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"primary_instance_id": STANDBY},
        {"lost": True},
        {"snapshot_id": snapshot_id_for(epoch=1, generation=9)},
    ],
)
def test_a_snapshot_counts_only_for_the_agent_as_it_was_read(change: dict[str, object]) -> None:
    records = FakeRecords().put(an_agent(**change))
    with pytest.raises(ConditionFailed):
        records.commit(snapshots.complete(an_agent(), a_snapshot()))


def test_a_delta_does_not_count_without_what_it_changes() -> None:
    base, delta = one_after_another([SnapshotKind.DELTA])
    records = FakeRecords().put(an_agent(snapshot_id=base.snapshot_id))
    assert not committed(records, delta)
    records.put(base)
    assert committed(records, delta)


@given(
    newest=st.integers(1, 5),
    previous=st.none() | st.integers(1, 5),
    generation=st.integers(1, 6),
    age=st.integers(0, 40).map(lambda hours: timedelta(hours=hours)),
)
def test_a_snapshot_follows_the_newest_or_begins_a_chain(
    newest: int, previous: int | None, generation: int, age: timedelta
) -> None:
    ids = {number: snapshot_id_for(epoch=1, generation=number) for number in range(1, 7)}
    row = None if previous is None else a_snapshot(snapshot_id=ids[previous], base_id=ids[previous])
    try:
        kind, base_id, expires_at = snapshots.joined_to(
            an_agent(snapshot_id=ids[newest]),
            row,
            previous_id=None if previous is None else ids[previous],
            snapshot_id=ids[generation],
            now=NOON + age,
        )
    except SnapshotOutOfOrder:
        too_old = age > snapshots.BASE_AFTER + snapshots.BASE_GRACE
        assert generation <= newest or (previous is not None and (previous != newest or too_old))
        return
    assert generation > newest
    if kind is SnapshotKind.DELTA:
        assert row is not None
        assert (base_id, expires_at) == (row.base_id, row.expires_at)
        assert expires_at > NOON + age
    else:
        assert previous is None
        assert base_id == ids[generation]


def test_only_the_primary_of_the_present_epoch_uploads() -> None:
    snapshots.check_begin(an_agent(), instance_id=PRIMARY, epoch=1)
    for instance_id, epoch in ((STANDBY, 1), (PRIMARY, 2)):
        with pytest.raises(StaleEpoch):
            snapshots.check_begin(an_agent(), instance_id=instance_id, epoch=epoch)
    with pytest.raises(AgentLost):
        snapshots.check_begin(an_agent(lost=True), instance_id=PRIMARY, epoch=1)


chains = st.builds(
    Chain,
    begun_at=st.floats(0, 1e6),
    taken_at=st.floats(0, 1e6),
    deltas=st.integers(0, 400),
    base_bytes=st.integers(0, 10**9),
    delta_bytes=st.integers(0, 10**9),
)


@given(chain=chains, now=st.floats(0, 2e6))
def test_a_chain_is_neither_long_nor_large_nor_old(chain: Chain, now: float) -> None:
    if snapshots.next_kind(chain, now) is SnapshotKind.DELTA:
        assert chain.deltas < snapshots.DELTAS_PER_BASE
        assert chain.delta_bytes <= chain.base_bytes
        assert now - chain.begun_at < snapshots.BASE_AFTER.total_seconds()


@given(chain=chains, standby_ready=st.booleans(), noticed=st.booleans())
def test_snapshots_come_as_often_as_is_promised(chain: Chain, standby_ready: bool, noticed: bool) -> None:
    due = snapshots.next_due(Cadence(), chain, standby_ready=standby_ready, noticed=noticed)
    assert due == (None if standby_ready else chain.taken_at + (5 if noticed else 300))
    first = snapshots.next_due(Cadence(), None, standby_ready=standby_ready, noticed=noticed)
    assert first == (None if standby_ready else -math.inf)
    assert snapshots.next_due(Cadence(every_seconds=0), chain, standby_ready=standby_ready, noticed=False) is None


@given(state_bytes=st.integers(0, 10**13), rate=st.floats(1, 1e10))
def test_state_that_can_not_be_sent_inside_a_notice_is_unprotected(state_bytes: int, rate: float) -> None:
    said = snapshots.protection(standby_ready=False, state_bytes=state_bytes, bytes_per_second=rate)
    assert said is (Protection.FITS if state_bytes / rate <= 60 else Protection.UNPROTECTED)
    assert (
        snapshots.protection(standby_ready=True, state_bytes=state_bytes, bytes_per_second=rate) is Protection.STANDBY
    )


def test_nothing_is_claimed_of_a_rate_that_was_never_measured() -> None:
    said = snapshots.protection(standby_ready=False, state_bytes=10, bytes_per_second=None)
    assert said is Protection.UNKNOWN


def test_a_days_snapshots_cost_what_s3_asks_for_them() -> None:
    usd = snapshots.usd_per_day(
        base_bytes_per_day=10 * 10**9, delta_bytes_per_day=10**9, snapshots_per_day=288, parts_per_day=1000
    )
    assert float(usd) == pytest.approx((10 * 11 + 9) * 0.023 / 30 + 1576 * 0.000005)
