"""How good a pool's prices are: what share was measured, what is missing, and whether the sources agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from spot_optimizer.domain.gaps import GapClass, Inferred, find_gaps
from spot_optimizer.domain.price_series import merged
from spot_optimizer.domain.prices import Observation, Source

_HUNDRED = Decimal(100)
_SHOWN = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far the sources of one pool agree where they overlap.

    Attributes:
        compared: Buckets for which more than one source has a price.
        differing: Those among them in which not all sources say the same.
        largest_percent: The widest difference, in percent of the lower price.
    """

    compared: int
    differing: int
    largest_percent: Decimal


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one pool's prices over a range of buckets.

    Attributes:
        buckets: How many there are.
        coverage_percent: Share with a measured or backfilled price.
        shares_percent: Share of all buckets by source; what is missing to 100 is empty.
        gaps: How many gaps reach into the range, by class, whether filled or not.
        disagreement: Between sources.
    """

    buckets: int
    coverage_percent: Decimal
    shares_percent: Mapping[Source, Decimal]
    gaps: Mapping[GapClass, int]
    disagreement: Disagreement


def assess(
    buckets: range,
    *,
    measured: Iterable[Observation],
    inferred: Iterable[Inferred],
    submitted: Iterable[Observation],
) -> Quality:
    """Assess one pool.

    Args:
        buckets: Consecutive buckets that are over; at least one.
        measured: Clean rows of the pool.
        inferred: Inferred rows of the pool.
        submitted: Everything that was submitted for the pool, as far as it is still kept.
    """
    rows = {row.bucket: row for row in measured}
    shown = [point for point in merged(rows.values(), inferred) if point.bucket in buckets]
    by_source = Counter(point.source for point in shown)
    gaps = Counter(
        gap.gap_class for gap in find_gaps({bucket: row.usd_per_hour for bucket, row in rows.items()}, buckets)
    )
    return Quality(
        buckets=len(buckets),
        coverage_percent=_percent(sum(n for source, n in by_source.items() if source.is_measured), len(buckets)),
        shares_percent={source: _percent(by_source[source], len(buckets)) for source in Source},
        gaps={gap_class: gaps[gap_class] for gap_class in GapClass},
        disagreement=disagreement(row for row in submitted if row.bucket in buckets),
    )


def disagreement(submitted: Iterable[Observation]) -> Disagreement:
    """Compare what each source comes to, bucket by bucket, for one pool."""
    best: dict[tuple[int, Source], Observation] = {}
    for row in submitted:
        held = best.setdefault((row.bucket, row.source), row)
        if row.precedence < held.precedence:
            best[row.bucket, row.source] = row
    by_bucket: dict[int, list[Decimal]] = {}
    for (bucket, _), row in best.items():
        by_bucket.setdefault(bucket, []).append(row.usd_per_hour)
    compared = [prices for prices in by_bucket.values() if len(prices) > 1]
    spreads = [(max(prices) - min(prices)) / min(prices) * _HUNDRED for prices in compared]
    return Disagreement(
        compared=len(compared),
        differing=sum(spread > 0 for spread in spreads),
        largest_percent=max(spreads, default=Decimal(0)).quantize(_SHOWN),
    )


def _percent(part: int, whole: int) -> Decimal:
    return (_HUNDRED * part / whole).quantize(_SHOWN)
