"""Prices as they are read: measured and inferred ones together, for decisions and for graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from spot_optimizer.domain.gaps import Inferred
from spot_optimizer.domain.prices import Observation, Source

POINTS_AT_MOST = 2_000
"""In one answer: more than a screen has columns."""


class Point(NamedTuple):
    """The price of one bucket, and how far it can be trusted.

    Attributes:
        bucket: The bucket.
        usd_per_hour: Its price.
        source: Where that comes from; rank and confidence follow from it.
        causal: Whether it was knowable when the bucket ended. What is not must never reach a live decision or a
            training feature.
    """

    bucket: int
    usd_per_hour: Decimal
    source: Source
    causal: bool

    @property
    def confidence(self) -> Decimal:
        """0 to 1."""
        return self.source.confidence


def merged(measured: Iterable[Observation], inferred: Iterable[Inferred]) -> list[Point]:
    """Lay one pool's clean rows over its inferred ones, in rising order: the better source always shows.

    For people to look at. Decisions read `known_then`.
    """
    ranked = [
        *((row.precedence, Point(row.bucket, row.usd_per_hour, row.source, row.causal)) for row in inferred),
        *((row.precedence, Point(row.bucket, row.usd_per_hour, row.source, causal=True)) for row in measured),
    ]
    # The best of a bucket comes first, and the first one stays.
    points: dict[int, Point] = {}
    for _, point in sorted(ranked):
        points.setdefault(point.bucket, point)
    return [points[bucket] for bucket in sorted(points)]


def known_then(measured: Iterable[Observation], inferred: Iterable[Inferred]) -> list[Point]:
    """The same without anything that looked ahead: what live decisions and training features may use."""
    return merged(measured, (row for row in inferred if row.causal))


def downsampled(points: Sequence[Point], *, at_most: int = POINTS_AT_MOST, buckets_per_window: int = 1) -> list[Point]:
    """Thin a series for a graph without losing a peak or a trough.

    Time is cut into equal windows and each keeps its lowest and its highest point, the earliest of equals; the series
    keeps its first and its last point.

    Args:
        points: In rising order.
        at_most: How many points to return at most, at least 4.
        buckets_per_window: The resolution asked for; it is made coarser until the answer is short enough.

    Returns:
        Some of the points, in rising order; all of them where they are few enough and no resolution is asked for.
    """
    if not points or (len(points) <= at_most and buckets_per_window <= 1):
        return list(points)
    start, span = points[0].bucket, points[-1].bucket - points[0].bucket + 1
    windows_at_most = (at_most - 2) // 2
    width = max(buckets_per_window, -(-span // windows_at_most))
    lowest: dict[int, Point] = {}
    highest: dict[int, Point] = {}
    for point in points:
        window = (point.bucket - start) // width
        if point.usd_per_hour < lowest.setdefault(window, point).usd_per_hour:
            lowest[window] = point
        if point.usd_per_hour > highest.setdefault(window, point).usd_per_hour:
            highest[window] = point
    return sorted({points[0], points[-1], *lowest.values(), *highest.values()})
