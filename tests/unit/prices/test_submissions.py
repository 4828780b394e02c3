"""Bad input: refused or resolved by rule, said row by row, and nothing else in the batch is lost."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.price_submissions import Limits, Refusal, Screened, screen
from spot_optimizer.domain.prices import Source, clean
from tests.builders import NOON
from tests.unit.prices.market import OTHER_POOL, POOL, a_row, after_noon

ON_DEMAND = {POOL: Decimal("0.096"), OTHER_POOL: Decimal("0.096")}


def screened(*rows: object, now: datetime = NOON, **changes: Any) -> Screened:
    return screen(rows, source=Source.PRIMARY_AGENT, submission_id="sub-1", on_demand=ON_DEMAND, now=now, **changes)


@pytest.mark.parametrize(
    ("row", "refusal"),
    [
        ("not an object", Refusal.MALFORMED),
        (None, Refusal.MALFORMED),
        (a_row(colour="blue"), Refusal.UNKNOWN_FIELD),
        (a_row(pool_id="us-east-1z.m5.large"), Refusal.UNKNOWN_POOL),
        (a_row(pool_id=7), Refusal.UNKNOWN_POOL),
        (a_row(pool_id=...), Refusal.UNKNOWN_POOL),
        (a_row(currency="EUR"), Refusal.WRONG_CURRENCY),
        (a_row(currency=None), Refusal.WRONG_CURRENCY),
        (a_row(product="Windows"), Refusal.WRONG_PRODUCT),
        (a_row(usd_per_hour=...), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour="cheap"), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour=True), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour=["0.035"]), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour="NaN"), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour="sNaN"), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour=float("inf")), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour=10**5000), Refusal.NOT_A_PRICE),
        (a_row(usd_per_hour="0"), Refusal.NOT_POSITIVE),
        (a_row(usd_per_hour="-0.035"), Refusal.NOT_POSITIVE),
        (a_row(usd_per_hour="9.600001"), Refusal.ABSURD),
        (a_row(usd_per_hour="1e999999"), Refusal.ABSURD),
        (a_row(usd_per_hour="0.0350001"), Refusal.TOO_PRECISE),
        (a_row(usd_per_hour="0.03500000000000000000000000000000001"), Refusal.TOO_PRECISE),
        (a_row(usd_per_hour="1e-999999"), Refusal.TOO_PRECISE),
        (a_row(observed_at=...), Refusal.NOT_A_TIME),
        (a_row(observed_at=1_772_366_400), Refusal.NOT_A_TIME),
        (a_row(observed_at="noon"), Refusal.NOT_A_TIME),
        (a_row(observed_at="2026-03-01T12:00:00"), Refusal.NOT_A_TIME),
        (a_row(observed_at="2026-03-01T12:02:01+00:00"), Refusal.FUTURE),
        (a_row(observed_at="9999-12-31T23:59:59-12:00"), Refusal.FUTURE),
        (a_row(observed_at="2025-12-01T11:59:59+00:00"), Refusal.ANCIENT),
        (a_row(observed_at="0001-01-01T00:00:00+14:00"), Refusal.ANCIENT),
    ],
)
def test_a_bad_row_is_refused_with_its_reason_and_costs_no_other(row: object, refusal: Refusal) -> None:
    result = screened(a_row(), row, a_row(pool_id=OTHER_POOL))
    assert [verdict.refusal for verdict in result.verdicts] == [None, refusal, None]
    assert 0 < len(result.verdicts[1].message) < 200
    assert {seen.pool_id for seen in result.observations} == {POOL, OTHER_POOL}
    assert result.refusals() == {refusal: 1}


@pytest.mark.parametrize("price", ["0.035", 0.035, Decimal("0.035"), "0.0350000000", "3.5e-2"])
def test_a_price_may_be_written_in_any_exact_way(price: object) -> None:
    assert [seen.usd_per_hour for seen in screened(a_row(usd_per_hour=price)).observations] == [Decimal("0.035")]


def test_a_hundred_times_on_demand_is_still_believed() -> None:
    assert screened(a_row(usd_per_hour="9.6")).observations


def test_a_clock_may_be_a_little_ahead_and_any_zone_will_do() -> None:
    (seen,) = screened(a_row(observed_at="2026-03-01T14:02:00+02:00")).observations
    assert seen.observed_at == after_noon(120)


def test_rows_beyond_the_limit_are_refused_and_the_others_are_kept() -> None:
    rows = [a_row(observed_at=(NOON - timedelta(seconds=n)).isoformat()) for n in range(10_000)]
    result = screened(*rows)
    assert len(result.observations) == Limits().rows
    assert len(result.verdicts) == 10_000
    assert result.refusals() == {Refusal.BEYOND_BATCH: 9_000}


def test_a_row_that_repeats_another_is_refused_as_a_duplicate() -> None:
    result = screened(a_row(), a_row(usd_per_hour="0.0350"))
    assert [verdict.refusal for verdict in result.verdicts] == [None, Refusal.DUPLICATE]
    assert len(result.observations) == 1


@given(
    prices=st.lists(st.sampled_from(["0.03", "0.035", "0.04"]), min_size=1, max_size=6),
    seed=st.randoms(use_true_random=False),
)
def test_of_rows_that_contradict_each_other_the_highest_counts_in_any_order(
    prices: list[str], seed: random.Random
) -> None:
    seed.shuffle(prices)
    result = screened(*(a_row(usd_per_hour=price) for price in prices))
    assert [str(seen.usd_per_hour) for seen in result.observations] == [f"{max(prices):0<8}"]
    assert [verdict.refusal for verdict in result.verdicts].count(None) == 1
    accepted = next(verdict.row for verdict in result.verdicts if verdict.refusal is None)
    assert prices[accepted] == max(prices)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(
        JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(("pool_id", "observed_at", "usd_per_hour"), JSON))
    )
)
def test_no_row_whatever_it_holds_breaks_a_submission(rows: list[object]) -> None:
    result = screened(*rows, a_row())
    assert [verdict.row for verdict in result.verdicts] == list(range(len(rows) + 1))
    assert [seen.pool_id for seen in result.observations] == [POOL]


def test_two_primaries_that_disagree_are_resolved_by_rule_in_any_order() -> None:
    rows = [a_row(usd_per_hour="0.03")], [a_row(usd_per_hour="0.04")]
    one, other = (
        screen(row, source=Source.PRIMARY_AGENT, submission_id=name, on_demand=ON_DEMAND, now=NOON).observations
        for row, name in zip(rows, ("sub-1", "sub-2"), strict=True)
    )
    assert list(clean([*one, *other]).values()) == list(clean([*other, *one]).values()) == list(one)
