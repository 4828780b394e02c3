"""One clean row per pool and bucket, whatever arrives in whatever order; and a price holds until it changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.prices import (
    BUCKET,
    Observation,
    PriceChange,
    Source,
    StepFunction,
    backfill,
    bucket_of,
    bucket_start,
    clean,
    pools_of,
    put_clean,
    rounded,
)
from spot_optimizer.domain.writes import holds
from tests.builders import NOON
from tests.unit.prices.market import (
    FIRST,
    MEASURED,
    OTHER_POOL,
    POOL,
    after_noon,
    an_observation,
    histories,
    observations,
)

Rows = dict[tuple[str, ...], dict[str, object]]


def write(rows: Rows, observation: Observation) -> bool:
    """What DynamoDB makes of a conditional write: all conditions against the row as it is, or nothing."""
    change = put_clean(observation)
    row = rows.get(change.key, {})
    if not all(holds(condition, row.get(name)) for name, condition in change.only_if.items()):
        return False
    rows[change.key] = {**row, **change.put}
    return True


def test_sources_rank_and_are_trusted_as_the_design_says() -> None:
    assert [(source.value, str(source.confidence)) for source in sorted(Source, key=lambda source: source.rank)] == [
        ("primary-agent", "1.00"),
        ("aws-history", "1.00"),
        ("replica-agent", "0.95"),
        ("short-gap", "0.85"),
        ("medium-gap", "0.75"),
        ("long-gap", "0.70"),
    ]


@given(seen=st.lists(observations()), seed=st.randoms(use_true_random=False), data=st.data())
def test_any_permutation_and_duplication_of_submissions_gives_the_same_clean_table(
    seen: list[Observation], seed: random.Random, data: st.DataObject
) -> None:
    repeated = seen + [data.draw(st.sampled_from(seen)) for _ in range(len(seen) and 5)]
    seed.shuffle(repeated)
    assert clean(repeated) == clean(seen)


@given(seen=st.lists(observations()), cut=st.integers(0, 20))
def test_cleaning_in_batches_is_cleaning_at_once(seen: list[Observation], cut: int) -> None:
    assert clean(seen[cut:], clean(seen[:cut])) == clean(seen)
    assert clean(clean(seen).values()) == clean(seen)


@given(seen=st.lists(observations()))
def test_cleaning_leaves_what_was_known_alone(seen: list[Observation]) -> None:
    known = clean([an_observation(source=Source.REPLICA_AGENT)])
    before = dict(known)
    clean(seen, known)
    assert known == before


@given(seen=st.lists(observations(), min_size=1))
def test_a_better_source_always_wins(seen: list[Observation]) -> None:
    for slot, kept in clean(seen).items():
        assert kept.source.rank == min(row.source.rank for row in seen if row.slot == slot)


@given(seen=st.lists(observations(), min_size=1))
def test_of_one_source_the_latest_wins_then_the_smallest_submission_id(seen: list[Observation]) -> None:
    same_source = [replace(row, source=Source.REPLICA_AGENT) for row in seen]
    for slot, kept in clean(same_source).items():
        rivals = [row for row in same_source if row.slot == slot]
        latest = max(row.observed_at for row in rivals)
        assert kept.observed_at == latest
        assert kept.submission_id == min(row.submission_id for row in rivals if row.observed_at == latest)


def test_a_submission_that_contradicts_itself_never_flatters_a_saving() -> None:
    cheap, dear = an_observation(usd_per_hour=Decimal("0.03")), an_observation(usd_per_hour=Decimal("0.04"))
    assert list(clean([cheap, dear]).values()) == list(clean([dear, cheap]).values()) == [dear]


@given(seen=st.lists(observations()), seed=st.randoms(use_true_random=False))
def test_concurrent_writers_leave_the_clean_table_without_reading_anything(
    seen: list[Observation], seed: random.Random
) -> None:
    rows: Rows = {}
    arriving = seen + seen
    seed.shuffle(arriving)
    for observation in arriving:
        write(rows, observation)
    expected: Rows = {}
    for observation in clean(seen).values():
        assert write(expected, observation)
    assert rows == expected


@given(observation=observations())
def test_writing_the_same_row_again_is_refused_and_changes_nothing(observation: Observation) -> None:
    rows: Rows = {}
    assert write(rows, observation)
    assert not write(rows, observation)


@given(one=observations(), other=observations())
def test_precedence_is_a_total_order_that_holds_for_bytes_as_well(one: Observation, other: Observation) -> None:
    assert (one.precedence == other.precedence) == (replace(one, pool_id=POOL) == replace(other, pool_id=POOL))
    assert one.outranks(other) == (one.precedence < other.precedence)
    assert (one.precedence < other.precedence) == (one.precedence.encode() < other.precedence.encode())


def test_a_bucket_holds_its_start_and_not_its_end() -> None:
    assert bucket_start(FIRST) == NOON
    assert bucket_of(NOON + BUCKET - timedelta(microseconds=1)) == FIRST
    assert bucket_of(NOON + BUCKET) == FIRST + 1


def test_a_price_is_never_rounded_to_nothing() -> None:
    assert rounded(Decimal("0.0000001")) == Decimal("0.000001")
    assert rounded(Decimal("0.12345650")) == Decimal("0.123456")


def in_force(history: Sequence[PriceChange], bucket: int) -> Decimal | None:
    """The definition, spelled out: the last change before the bucket's end, the higher one of two at once."""
    earlier = [(change.changed_at, change.usd_per_hour) for change in history if bucket_of(change.changed_at) <= bucket]
    return max(earlier)[1] if earlier else None


BUCKETS = range(FIRST - 3, FIRST + 150)


@given(history=histories())
def test_a_price_holds_until_the_next_change(history: list[PriceChange]) -> None:
    step = StepFunction(history)
    assert step.over(BUCKETS) == [in_force(history, bucket) for bucket in BUCKETS]
    assert [step.in_bucket(bucket) for bucket in BUCKETS] == step.over(BUCKETS)


@given(history=histories(), start=st.integers(-5, 150), length=st.integers(0, 60))
def test_a_range_is_read_as_its_buckets_are(history: list[PriceChange], start: int, length: int) -> None:
    step, buckets = StepFunction(history), range(FIRST + start, FIRST + start + length)
    assert step.over(buckets) == [step.in_bucket(bucket) for bucket in buckets]


@given(history=histories(at_least=1), data=st.data())
def test_publishing_an_unchanged_price_again_is_no_change(history: list[PriceChange], data: st.DataObject) -> None:
    step = StepFunction(history)
    assert all(left.usd_per_hour != right.usd_per_hour for left, right in pairwise(step.changes))
    moment = data.draw(st.integers(1, 12 * 3600).map(after_noon))
    price = step.before(moment)
    already_there = any(change.changed_at == moment for change in history)
    if price is not None and not already_there:
        assert StepFunction([*history, PriceChange(moment, price)]).changes == step.changes


@given(history=histories(), data=st.data())
def test_backfill_is_exact_and_leaves_nothing_that_aws_knows(history: list[PriceChange], data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.sampled_from(BUCKETS)))
    rows = list(backfill(POOL, history, sorted(missing), submission_id="backfill-1"))
    known = {bucket for bucket in missing if in_force(history, bucket) is not None}
    assert {row.bucket: row.usd_per_hour for row in rows} == {bucket: in_force(history, bucket) for bucket in known}
    assert len(rows) == len(known)
    assert all(row.source is Source.AWS_HISTORY for row in rows)


@given(history=histories())
def test_what_a_collector_saw_and_what_is_backfilled_come_to_the_same_prices(history: list[PriceChange]) -> None:
    seen = [
        Observation(POOL, change.changed_at, change.usd_per_hour, Source.AWS_HISTORY, "collector-1")
        for change in history
    ]
    filled = clean([*seen, *backfill(POOL, history, BUCKETS, submission_id="backfill-1")])
    assert [filled[slot].usd_per_hour for slot in sorted(filled)] == [
        price for bucket in BUCKETS if (price := in_force(history, bucket)) is not None
    ]
    assert StepFunction.of_rows(clean(seen).values()).over(BUCKETS) == StepFunction(history).over(BUCKETS)


def test_a_clean_table_comes_apart_into_pools() -> None:
    here, there = an_observation(), an_observation(pool_id=OTHER_POOL)
    assert pools_of(clean([here, there])) == {POOL: {FIRST: here}, OTHER_POOL: {FIRST: there}}


def test_every_measured_source_is_meant_to_be_seen_live() -> None:
    assert MEASURED == [Source.PRIMARY_AGENT, Source.AWS_HISTORY, Source.REPLICA_AGENT]
