"""Gaps: found and classed, filled by rule, left empty where nothing is known; and whoever looked ahead says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.gaps import (
    Gap,
    GapClass,
    Inferred,
    Method,
    Rules,
    changes_to,
    fill,
    find_gaps,
    guesses,
    put_inferred,
)
from spot_optimizer.domain.prices import Source
from spot_optimizer.domain.writes import holds
from tests.builders import NOON
from tests.unit.prices.market import FIRST, POOL, filled, price_series

DIME, FIFTH = Decimal("0.1"), Decimal("0.2")


def a_series_with_a_gap(length: int, before: Decimal = DIME, after: Decimal = FIFTH) -> dict[int, Decimal]:
    """Thirteen buckets at one price, a gap, thirteen at another."""
    left = range(FIRST - 13, FIRST)
    right = range(FIRST + length, FIRST + length + 13)
    return dict.fromkeys(left, before) | dict.fromkeys(right, after)


@pytest.mark.parametrize(
    ("buckets", "gap_class"),
    [
        (1, GapClass.SHORT), (2, GapClass.SHORT), (3, GapClass.MEDIUM), (6, GapClass.MEDIUM),
        (7, GapClass.LONG), (48, GapClass.LONG), (49, GapClass.BLACKOUT), (10_000, GapClass.BLACKOUT),
    ],
)  # fmt: skip
def test_a_gap_is_classed_by_its_length(buckets: int, gap_class: GapClass) -> None:
    assert GapClass.of(buckets) is gap_class


@given(prices=price_series())
def test_gaps_and_prices_together_are_all_buckets(prices: dict[int, Decimal]) -> None:
    buckets = range(FIRST, max(prices) + 10)
    missing = [bucket for gap in find_gaps(prices, buckets) for bucket in gap.buckets]
    assert sorted([*missing, *prices]) == list(buckets)
    for gap in find_gaps(prices, buckets):
        assert gap.before == prices.get(gap.first - 1)
        assert gap.after == prices.get(gap.first + gap.length)


def test_a_gap_at_the_edge_of_what_is_asked_for_keeps_its_length() -> None:
    prices = {FIRST - 10: DIME, FIRST + 3: FIFTH}
    assert find_gaps(prices, range(FIRST, FIRST + 4)) == [Gap(FIRST - 9, 12, DIME, FIFTH)]
    assert find_gaps(prices, range(FIRST, FIRST + 1)) == [Gap(FIRST - 9, 12, DIME, FIFTH)]
    whole = fill(POOL, a_series_with_a_gap(6), range(FIRST, FIRST + 6), at=NOON)
    assert fill(POOL, a_series_with_a_gap(6), range(FIRST + 2, FIRST + 4), at=NOON) == whole[2:4]


def test_a_pool_without_any_price_is_one_gap_and_stays_empty() -> None:
    assert find_gaps({}, range(FIRST, FIRST + 3)) == [Gap(FIRST, 3, None, None)]
    assert fill(POOL, {}, range(FIRST, FIRST + 3), at=NOON) == []
    assert find_gaps({}, range(FIRST, FIRST)) == []


def test_a_short_gap_is_a_straight_line_between_its_neighbours() -> None:
    first, second = filled(a_series_with_a_gap(2))
    assert (first.usd_per_hour, second.usd_per_hour) == (Decimal("0.133333"), Decimal("0.166667"))
    assert first == Inferred(
        pool_id=POOL,
        bucket=FIRST,
        usd_per_hour=Decimal("0.133333"),
        source=Source.SHORT_GAP,
        gap_class=GapClass.SHORT,
        method=Method.LINEAR,
        before=DIME,
        after=FIFTH,
        causal=False,
        inferred_at=NOON,
    )


def test_a_medium_gap_is_an_average_that_forgets_by_the_minute_within_an_hour() -> None:
    prices = a_series_with_a_gap(3)
    middle = filled(prices)[1]
    assert middle.method is Method.TIME_DECAY
    assert middle.usd_per_hour == Decimal("0.15")  # both sides weigh the same
    # By hand, for the bucket next to the left side: distances 1..12 to the left, 3..12 to the right.
    left = sum(Decimal(1) / (5 * away + 1) for away in range(1, 13))
    right = sum(Decimal(1) / (5 * away + 1) for away in range(3, 13))
    expected = (left * DIME + right * FIFTH) / (left + right)
    assert filled(prices)[0].usd_per_hour == expected.quantize(Decimal("0.000001"))


def test_a_long_gap_moves_as_its_peers_moved() -> None:
    quiet = a_series_with_a_gap(8)
    doubling = dict.fromkeys(range(FIRST - 1, FIRST + 4), DIME) | dict.fromkeys(range(FIRST + 4, FIRST + 8), FIFTH)
    absent_before = {bucket: Decimal(9) for bucket in range(FIRST, FIRST + 8)}
    rows = filled(quiet, peers=[doubling, absent_before])
    assert [row.usd_per_hour for row in rows] == [DIME] * 4 + [FIFTH] * 4
    assert all(row.causal and row.source is Source.LONG_GAP for row in rows)


def test_a_long_gap_without_a_peer_and_a_blackout_are_left_empty() -> None:
    flat = dict.fromkeys(range(FIRST - 1, FIRST + 60), DIME)
    assert filled(a_series_with_a_gap(7)) == []
    assert len(filled(a_series_with_a_gap(48), peers=[flat])) == 48
    assert filled(a_series_with_a_gap(49), peers=[flat]) == []


def test_another_rule_can_be_set_for_a_class_but_none_for_a_blackout() -> None:
    rules = Rules(medium=Method.LINEAR, long=Method.CARRY_FORWARD)
    assert {row.method for row in filled(a_series_with_a_gap(6), rules=rules)} == {Method.LINEAR}
    assert {row.method for row in filled(a_series_with_a_gap(7), rules=rules)} == {Method.CARRY_FORWARD}
    assert filled(a_series_with_a_gap(49), rules=rules) == []


def test_an_open_gap_carries_the_last_price_forward_at_the_lowest_rank() -> None:
    rows = fill(POOL, {FIRST: DIME}, range(FIRST, FIRST + 3), at=NOON)
    assert [(row.bucket, row.usd_per_hour, row.after) for row in rows] == [
        (FIRST + 1, DIME, None),
        (FIRST + 2, DIME, None),
    ]
    assert all(row.causal and row.method is Method.CARRY_FORWARD and row.source is Source.LONG_GAP for row in rows)


def test_an_open_gap_that_became_a_blackout_is_emptied_again() -> None:
    prices = {FIRST: DIME}
    while_long = fill(POOL, prices, range(FIRST, FIRST + 49), at=NOON)
    as_blackout = fill(POOL, prices, range(FIRST, FIRST + 50), at=NOON)
    assert len(while_long) == 48
    assert changes_to(while_long, as_blackout).obsolete == tuple(while_long)


@given(prices=price_series(), peer=price_series(), rules=st.builds(Rules))
def test_filling_is_idempotent(prices: dict[int, Decimal], peer: dict[int, Decimal], rules: Rules) -> None:
    once = filled(prices, peers=[peer], rules=rules)
    buckets = range(min(prices), max(prices) + 1)
    again = fill(POOL, prices, buckets, at=NOON + timedelta(minutes=15), peers=[peer], rules=rules)
    assert again == once
    first_run = changes_to((), once)
    assert first_run.put == tuple(once) and not first_run.obsolete
    second_run = changes_to(once, again)
    assert not second_run.put and not second_run.obsolete


@given(prices=price_series(), peer=price_series())
def test_inferred_rows_lie_in_gaps_between_what_was_measured(
    prices: dict[int, Decimal], peer: dict[int, Decimal]
) -> None:
    for row in filled(prices, peers=[peer]):
        assert row.bucket not in prices
        assert row.gap_class is not GapClass.BLACKOUT
        assert row.usd_per_hour > 0
        if row.method is Method.LINEAR:
            assert row.after is not None
            assert min(row.before, row.after) <= row.usd_per_hour <= max(row.before, row.after)


@given(prices=price_series(), peer=price_series(), method=st.sampled_from(Method), data=st.data())
def test_a_causal_row_does_not_change_with_what_comes_after_its_bucket(
    prices: dict[int, Decimal], peer: dict[int, Decimal], method: Method, data: st.DataObject
) -> None:
    gaps = [gap for gap in find_gaps(prices, range(min(prices), max(prices) + 1)) if gap.before is not None]
    if not gaps:
        return
    gap = data.draw(st.sampled_from(gaps))
    for bucket, guess in zip(gap.buckets, guesses(gap, method, prices, [peer]), strict=True):
        if guess is None or not guess.causal:
            continue
        then = {other: price for other, price in prices.items() if other <= bucket}
        peer_then = {other: price for other, price in peer.items() if other <= bucket}
        open_gap = replace(gap, length=bucket - gap.first + 1, after=None)
        assert guesses(open_gap, method, then, [peer_then])[-1] == guess


@given(prices=price_series(), data=st.data())
def test_a_row_measured_later_replaces_and_never_worsens_what_was_inferred(
    prices: dict[int, Decimal], data: st.DataObject
) -> None:
    before = filled(prices)
    if not before:
        return
    arrived = data.draw(st.sampled_from(before)).bucket
    after = filled(prices | {arrived: DIME})
    filling = changes_to(before, after)
    assert arrived in {row.bucket for row in filling.obsolete}
    held = {row.bucket: row for row in before}
    for row in filling.put:
        stored = held.get(row.bucket)
        assert stored is None or row.source.rank <= stored.source.rank


def test_the_write_of_an_inference_yields_to_a_better_one_and_to_a_later_one() -> None:
    (row,) = filled(a_series_with_a_gap(1))
    condition = put_inferred(row).only_if["precedence"]
    worse, later = replace(row, source=Source.MEDIUM_GAP), replace(row, inferred_at=NOON + timedelta(minutes=15))
    assert holds(condition, None)
    assert holds(condition, worse.precedence)
    assert not holds(condition, row.precedence)
    assert not holds(condition, later.precedence)


def test_an_inferred_row_is_stored_with_how_it_came_to_be() -> None:
    (row,) = filled(a_series_with_a_gap(1))
    stored = put_inferred(row).put
    assert {name: str(stored[name]) for name in ("gap_type", "method", "confidence_score", "causal")} == {
        "gap_type": "short", "method": "linear", "confidence_score": "0.85", "causal": "False",
    }  # fmt: skip
    assert (stored["price_before"], stored["price_after"]) == (DIME, FIFTH)


def test_rules_are_read_as_a_deployment_writes_them() -> None:
    assert Rules.parse("linear,time-decay,cross-pool-median-change") == Rules()
    assert Rules.parse("linear, linear, carry-forward").long is Method.CARRY_FORWARD


@pytest.mark.parametrize("text", ["", "linear", "linear,linear,guess", "linear,linear,linear,linear"])
def test_rules_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected three of"):
        Rules.parse(text)
