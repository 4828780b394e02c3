"""Builders and strategies of prices."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import cycle
from typing import Any

from hypothesis import strategies as st

from spot_optimizer.domain.gaps import Inferred, fill
from spot_optimizer.domain.prices import Observation, PriceChange, Source, bucket_of
from tests.builders import NOON

POOL = "us-east-1a.m5.large"
OTHER_POOL = "us-east-1b.m5.large"
FIRST = bucket_of(NOON)
MEASURED = [source for source in Source if source.is_measured]


def an_observation(**changes: Any) -> Observation:
    """A price of `POOL` at noon, by the primary."""
    values: dict[str, Any] = {
        "pool_id": POOL,
        "observed_at": NOON,
        "usd_per_hour": Decimal("0.035"),
        "source": Source.PRIMARY_AGENT,
        "submission_id": "sub-1",
    }
    return Observation(**(values | changes))


def after_noon(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def a_row(**changes: Any) -> dict[str, Any]:
    """A submitted row that is right in every way; `...` leaves a field out."""
    row = {"pool_id": POOL, "observed_at": NOON.isoformat(), "usd_per_hour": "0.035"} | changes
    return {name: value for name, value in row.items() if value is not ...}


def usd() -> st.SearchStrategy[Decimal]:
    return st.integers(1, 2_000_000).map(lambda micro: Decimal(micro).scaleb(-6))


def observations() -> st.SearchStrategy[Observation]:
    """Few pools, buckets, moments and ids, so that they compete."""
    return st.builds(
        Observation,
        pool_id=st.sampled_from([POOL, OTHER_POOL]),
        observed_at=st.integers(0, 40).map(lambda step: after_noon(30 * step)),
        usd_per_hour=st.sampled_from([Decimal("0.03"), Decimal("0.035"), Decimal("0.1")]) | usd(),
        source=st.sampled_from(MEASURED),
        submission_id=st.sampled_from(["sub", "sub-1", "sub-10", "sub-2"]),
    )


def histories(*, at_least: int = 0) -> st.SearchStrategy[list[PriceChange]]:
    """Changes within twelve hours after noon, some of them published again."""
    change = st.builds(
        PriceChange,
        changed_at=st.integers(0, 12 * 3600).map(after_noon),
        usd_per_hour=st.sampled_from([Decimal("0.03"), Decimal("0.04"), Decimal("0.05")]),
    )
    return st.lists(change, min_size=at_least, max_size=30)


def price_series() -> st.SearchStrategy[dict[int, Decimal]]:
    """Measured prices of some of the buckets after noon: runs of presence, and gaps of every class between them."""
    runs = st.lists(st.tuples(st.integers(1, 8), st.sampled_from([1, 2, 3, 6, 7, 48, 49])), min_size=1, max_size=5)
    return st.builds(_laid_out, st.integers(0, 3), runs, st.lists(usd(), min_size=1, max_size=5))


def _laid_out(lead: int, runs: list[tuple[int, int]], palette: list[Decimal]) -> dict[int, Decimal]:
    prices: dict[int, Decimal] = {}
    at, colours = FIRST + lead, cycle(palette)
    for present, absent in runs:
        prices |= {at + n: next(colours) for n in range(present)}
        at += present + absent
    return prices


def filled(prices: dict[int, Decimal], **changes: Any) -> list[Inferred]:
    """What `fill` infers over all of a series, at noon."""
    return fill(POOL, prices, range(min(prices), max(prices) + 1), at=NOON, **changes)
