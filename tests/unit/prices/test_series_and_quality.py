"""Reading: the better source shows, what looked ahead is not called known, no extreme is lost, quality is counted."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.gaps import GapClass, fill
from spot_optimizer.domain.price_quality import Disagreement, assess, disagreement
from spot_optimizer.domain.price_series import Point, downsampled, known_then, merged
from spot_optimizer.domain.prices import Observation, Source, bucket_start, clean
from tests.builders import NOON
from tests.unit.prices.market import FIRST, POOL, an_observation, filled, observations, price_series, usd


def seen(prices: dict[int, Decimal], source: Source = Source.PRIMARY_AGENT) -> list[Observation]:
    return [Observation(POOL, bucket_start(bucket), price, source, "sub-1") for bucket, price in prices.items()]


@given(prices=price_series(), data=st.data())
def test_a_measured_price_always_shows_over_an_inferred_one(prices: dict[int, Decimal], data: st.DataObject) -> None:
    inferred = filled(prices)
    arrived = {row.bucket: data.draw(usd()) for row in inferred[:3]}
    points = merged(seen(prices | arrived, Source.REPLICA_AGENT), inferred)
    shown = {point.bucket: point for point in points}
    assert [point.bucket for point in points] == sorted({*prices, *(row.bucket for row in inferred)})
    for bucket, price in (prices | arrived).items():
        assert (shown[bucket].usd_per_hour, shown[bucket].source) == (price, Source.REPLICA_AGENT)
        assert shown[bucket].confidence == Decimal("0.95")


@given(prices=price_series(), peer=price_series())
def test_nothing_that_looked_ahead_is_called_known(prices: dict[int, Decimal], peer: dict[int, Decimal]) -> None:
    inferred = filled(prices, peers=[peer])
    known = known_then(seen(prices), inferred)
    assert all(point.causal for point in known)
    assert {point.bucket for point in known} == {*prices, *(row.bucket for row in inferred if row.causal)}


def points() -> st.SearchStrategy[list[Point]]:
    numbered = st.dictionaries(st.integers(FIRST, FIRST + 5_000), usd(), max_size=300)
    return numbered.map(
        lambda prices: [Point(bucket, prices[bucket], Source.PRIMARY_AGENT, causal=True) for bucket in sorted(prices)]
    )


@given(series=points(), at_most=st.integers(4, 120), window=st.integers(1, 400))
def test_downsampling_keeps_extremes_and_ends_and_is_short_enough(
    series: list[Point], at_most: int, window: int
) -> None:
    thin = downsampled(series, at_most=at_most, buckets_per_window=window)
    assert len(thin) <= at_most
    assert thin == sorted(thin) and set(thin) <= set(series)
    if series:
        prices, kept = [point.usd_per_hour for point in series], [point.usd_per_hour for point in thin]
        assert (min(kept), max(kept)) == (min(prices), max(prices))
        assert (thin[0], thin[-1]) == (series[0], series[-1])


@given(series=points(), at_most=st.integers(4, 120))
def test_downsampling_keeps_the_extremes_of_every_stretch_as_wide_as_a_window(
    series: list[Point], at_most: int
) -> None:
    thin = downsampled(series, at_most=at_most)
    if len(series) <= at_most:
        assert thin == series
        return
    start, span = series[0].bucket, series[-1].bucket - series[0].bucket + 1
    width = -(-span // ((at_most - 2) // 2))
    for window in {(point.bucket - start) // width for point in series}:
        everything = [point.usd_per_hour for point in series if (point.bucket - start) // width == window]
        kept = [point.usd_per_hour for point in thin if (point.bucket - start) // width == window]
        assert (min(kept), max(kept)) == (min(everything), max(everything))


def test_two_thousand_points_are_the_most_that_is_answered() -> None:
    series = [Point(FIRST + n, Decimal(n % 7 + 1), Source.AWS_HISTORY, causal=True) for n in range(26_000)]
    assert 1_000 < len(downsampled(series)) <= 2_000
    assert downsampled([]) == []


def test_quality_counts_what_was_measured_filled_and_left_empty() -> None:
    prices = {FIRST + n: Decimal("0.1") for n in range(100) if n not in (10, 20, 21, 22, *range(40, 50))}
    buckets = range(FIRST, FIRST + 100)
    measured = seen(prices)
    quality = assess(buckets, measured=measured, inferred=fill(POOL, prices, buckets, at=NOON), submitted=measured)
    assert quality.coverage_percent == Decimal("86.00")
    assert quality.shares_percent == {
        Source.PRIMARY_AGENT: 86, Source.AWS_HISTORY: 0, Source.REPLICA_AGENT: 0,
        Source.SHORT_GAP: 1, Source.MEDIUM_GAP: 3, Source.LONG_GAP: 0,
    }  # fmt: skip
    assert quality.gaps == {GapClass.SHORT: 1, GapClass.MEDIUM: 1, GapClass.LONG: 1, GapClass.BLACKOUT: 0}
    assert quality.disagreement == Disagreement(0, 0, Decimal("0.00"))


def test_disagreement_is_counted_where_two_sources_say_different_things() -> None:
    here, there = bucket_start(FIRST), bucket_start(FIRST + 1)
    assert disagreement(
        [
            an_observation(observed_at=here, usd_per_hour=Decimal("0.10")),
            an_observation(observed_at=here, usd_per_hour=Decimal("0.12"), source=Source.REPLICA_AGENT),
            an_observation(observed_at=there),
            an_observation(observed_at=there, source=Source.AWS_HISTORY),
        ]
    ) == Disagreement(compared=2, differing=1, largest_percent=Decimal("20.00"))


@given(submitted=st.lists(observations().filter(lambda row: row.pool_id == POOL)))
def test_no_bucket_is_counted_twice(submitted: list[Observation]) -> None:
    buckets = range(FIRST, FIRST + 5)
    quality = assess(buckets, measured=clean(submitted).values(), inferred=(), submitted=submitted)
    assert quality.coverage_percent == sum(quality.shares_percent.values())
    assert quality.coverage_percent == 20 * len({row.bucket for row in submitted} & set(buckets))
    assert quality.disagreement.differing <= quality.disagreement.compared <= len(buckets)
