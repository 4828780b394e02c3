"""The demo's prices move as recorded markets do."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import quantiles

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_optimizer.demo_data.price_model import ORIGIN, DemoPool, price_changes
from spot_optimizer.demo_data.scene import demo_pools
from spot_optimizer.domain.prices import PriceChange, StepFunction, bucket_of

DATA = Path(os.environ.get("SPOT_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
MARKETS = ("prices_multiaz_us_east_1_2021.csv.gz", "prices_recent_eu_west_1_2022.csv.gz")
DAYS = 365
POOLS = demo_pools("us-east-1")


def path(pool: DemoPool, days: int = DAYS) -> list[PriceChange]:
    return list(price_changes(pool, ORIGIN + timedelta(days=days)))


def steps(prices: Sequence[Decimal]) -> list[float]:
    """Relative changes, signed."""
    return [float(after / before) - 1 for before, after in itertools.pairwise(prices) if after != before]


def shape(paths: Iterable[Sequence[Decimal]]) -> tuple[list[float], float]:
    """Quartiles of the sizes of all steps, and how often a step goes the way of the one before."""
    moved = [steps(prices) for prices in paths]
    sizes = quantiles((abs(step) for each in moved for step in each), n=20)
    pairs = [(one > 0) == (next_one > 0) for each in moved for one, next_one in itertools.pairwise(each)]
    return [sizes[4], sizes[9], sizes[14], sizes[18]], sum(pairs) / len(pairs)


MADE_UP = [path(pool) for pool in POOLS]


def test_changes_are_as_frequent_as_in_the_typical_recorded_pool() -> None:
    for changes in MADE_UP:
        assert 1.8 <= len(changes) / DAYS <= 3.4


def test_as_many_buckets_repeat_the_one_before_as_in_recorded_markets() -> None:
    buckets = range(bucket_of(ORIGIN), bucket_of(ORIGIN + timedelta(days=DAYS)))
    for changes in MADE_UP:
        prices = StepFunction(changes).over(buckets)
        same = sum(one == other for one, other in itertools.pairwise(prices)) / (len(prices) - 1)
        assert 0.9900 <= same <= 0.9936


def test_steps_are_as_small_as_the_two_recorded_markets() -> None:
    """By the figures in the model's own description; the next test looks at the markets themselves."""
    (_, middle, _, largest), same_way = shape([change.usd_per_hour for change in changes] for changes in MADE_UP)
    assert 0.0020 <= middle <= 0.0051
    assert 0.013 <= largest <= 0.032
    assert same_way == pytest.approx(0.75, abs=0.03)


@pytest.mark.skipif(
    not all((DATA / name).exists() for name in MARKETS), reason=f"recorded markets are not in {DATA} (SPOT_DATA_DIR)"
)
def test_the_shape_of_steps_lies_between_or_near_those_of_recorded_markets() -> None:
    recorded = [shape(recorded_paths(DATA / name)) for name in MARKETS]
    sizes, same_way = shape([change.usd_per_hour for change in changes] for changes in MADE_UP)
    for place, size in enumerate(sizes):
        known = [market[0][place] for market in recorded]
        assert min(known) / 1.25 <= size <= max(known) * 1.25
    assert same_way == pytest.approx(sum(market[1] for market in recorded) / len(recorded), abs=0.04)


def recorded_paths(file: Path) -> Iterable[list[Decimal]]:
    pools: dict[tuple[str, str], list[tuple[str, Decimal]]] = defaultdict(list)
    with gzip.open(file, "rt") as rows:
        for row in csv.DictReader(rows):
            pools[row["availability_zone"], row["instance_type"]].append((row["timestamp"], Decimal(row["spot_price"])))
    return ([price for _, price in sorted(rows)] for rows in pools.values())


def test_prices_stay_near_their_usual_level_and_save_what_spot_saves() -> None:
    for pool, changes in zip(POOLS, MADE_UP, strict=True):
        prices = [change.usd_per_hour for change in changes]
        assert max(prices) <= 2 * min(prices)
        average = sum(prices, Decimal(0)) / len(prices)
        assert Decimal("0.5") <= 1 - average / pool.on_demand_usd_per_hour <= Decimal("0.75")


@given(
    st.sampled_from(POOLS),
    st.datetimes(
        min_value=ORIGIN.replace(tzinfo=None), max_value=(ORIGIN + timedelta(days=150)).replace(tzinfo=None)
    ).map(lambda moment: moment.replace(tzinfo=ORIGIN.tzinfo)),
)
@settings(max_examples=50)
def test_the_price_of_a_moment_does_not_depend_on_when_it_is_asked_for(pool: DemoPool, until: datetime) -> None:
    full = path(pool, 160)
    cut = bisect_left([change.changed_at for change in full], until)
    assert list(price_changes(pool, until)) == full[:cut]


@given(st.text("abcdefgh0123456789-.", min_size=1, max_size=30), st.decimals("0.01", "100", places=4))
@settings(max_examples=50)
def test_any_pool_gets_positive_prices_of_four_decimals_that_change_in_order(pool_id: str, on_demand: Decimal) -> None:
    changes = path(DemoPool(pool_id, on_demand), 30)
    assert all(change.usd_per_hour > 0 for change in changes)
    assert all(-change.usd_per_hour.as_tuple().exponent <= 4 for change in changes)  # type: ignore[operator]
    moments = [change.changed_at for change in changes]
    assert moments == sorted(set(moments))
    assert all(one.usd_per_hour != other.usd_per_hour for one, other in itertools.pairwise(changes))
