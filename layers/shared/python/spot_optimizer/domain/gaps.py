"""Gaps in a pool's prices: how long they are, what may be inferred in them, and what must be said about that.

Nothing here is needed where AWS's own history can be asked: `prices.backfill` is exact. What is left is inferred from
measured prices alone, never from inferred ones, so filling again comes to the same rows; and each row says whether it
looked ahead, because one that did must never reach a live decision or a training feature.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from spot_optimizer.domain.prices import BUCKET_SECONDS, Source, bucket_start, precedence, rounded
from spot_optimizer.domain.writes import Change, MissingOrAbove, Table

SHORT_BUCKETS = 2
MEDIUM_BUCKETS = 6
LONG_BUCKETS = 48
"""Four hours; what is longer is a blackout."""

DECAY_BUCKETS = 12
"""An hour: how far the time-decayed average looks to each side."""

_DECAY_WEIGHTS = tuple(
    Decimal(1) / (away * BUCKET_SECONDS // 60 + 1)
    for away in range(1, DECAY_BUCKETS + 1)  # 1 / (minutes + 1)
)

Prices = Mapping[int, Decimal]
"""Measured prices of one pool, by bucket."""


class GapClass(enum.StrEnum):
    """How long a gap is; stored as `gap_type`."""

    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"
    BLACKOUT = "blackout"

    @classmethod
    def of(cls, buckets: int) -> GapClass:
        """Classify a length in buckets, at least 1."""
        if buckets <= SHORT_BUCKETS:
            return cls.SHORT
        if buckets <= MEDIUM_BUCKETS:
            return cls.MEDIUM
        return cls.LONG if buckets <= LONG_BUCKETS else cls.BLACKOUT


class Method(enum.StrEnum):
    """How a price is inferred; stored as `method`."""

    CARRY_FORWARD = "carry-forward"
    LINEAR = "linear"
    TIME_DECAY = "time-decay"
    PEER_CHANGE = "cross-pool-median-change"


@dataclass(frozen=True, slots=True)
class Gap:
    """Consecutive buckets without a measured price.

    Attributes:
        first: The first missing bucket.
        length: How many are missing.
        before: The price in the bucket before, if one is known.
        after: The price in the bucket after; none while the gap is open.
    """

    first: int
    length: int
    before: Decimal | None
    after: Decimal | None

    @property
    def gap_class(self) -> GapClass:
        """By length; that of an open gap can still rise."""
        return GapClass.of(self.length)

    @property
    def buckets(self) -> range:
        """The missing buckets."""
        return range(self.first, self.first + self.length)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which method fills which class of gap; a blackout is always left empty.

    The defaults are the product's own. `bench/prices.py` measures them against the others.
    """

    short: Method = Method.LINEAR
    medium: Method = Method.TIME_DECAY
    long: Method = Method.PEER_CHANGE

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Read the methods of short, medium and long gaps, such as `linear,linear,linear`.

        Raises:
            ValueError: Not three methods.
        """
        methods = [method.strip() for method in text.split(",")]
        if len(methods) != len(("short", "medium", "long")) or not set(methods) <= set(Method):
            raise ValueError(f"gap rules are '{text}'; expected three of {', '.join(Method)}: short, medium, long")
        return cls(*map(Method, methods))

    def method(self, gap: Gap) -> Method | None:
        """How to fill a gap; `None` to leave it empty.

        Nobody knows yet how long an open gap will be, nor what comes after it: the last price is carried forward.
        """
        match gap.gap_class:
            case GapClass.BLACKOUT:
                return None
            case _ if gap.after is None:
                return Method.CARRY_FORWARD
            case GapClass.SHORT:
                return self.short
            case GapClass.MEDIUM:
                return self.medium
            case GapClass.LONG:
                return self.long


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """An inferred price, and how it came to be.

    Attributes:
        pool_id: The pool.
        bucket: The bucket.
        usd_per_hour: The price.
        source: Its rank and confidence: that of the gap's class, of a long gap while the gap is open. So what is known
            about a bucket only ever gets better.
        gap_class: Of the gap it lies in, at the time.
        method: How it was inferred.
        before: The measured price before the gap.
        after: The measured price after the gap; none while it is open.
        causal: Whether everything it was inferred from was known when its bucket ended.
        inferred_at: When; two rows that differ in this alone are equal.
    """

    pool_id: str
    bucket: int
    usd_per_hour: Decimal
    source: Source
    gap_class: GapClass
    method: Method
    before: Decimal
    after: Decimal | None
    causal: bool
    inferred_at: datetime = field(compare=False)

    @property
    def precedence(self) -> str:
        """As `prices.Observation.precedence`; of two inferences of one rank the later one knew more."""
        return precedence(self.source, self.inferred_at, "", self.usd_per_hour)


class Guess(NamedTuple):
    """What a method says about one bucket."""

    usd_per_hour: Decimal
    causal: bool


def find_gaps(prices: Prices, buckets: range) -> list[Gap]:
    """Find the gaps that reach into a range of buckets.

    Args:
        prices: Measured prices; those outside the range tell how far a gap at its edge extends.
        buckets: Consecutive buckets that are over.

    Returns:
        Gaps in rising order, each in full. One before the first price has no `before`, one after the last no `after`.
    """
    measured = sorted(prices)
    if not buckets or not measured:
        return [Gap(buckets.start, len(buckets), None, None)] if buckets else []
    gaps = []
    if buckets.start < measured[0]:
        gaps.append(Gap(buckets.start, measured[0] - buckets.start, None, prices[measured[0]]))
    gaps += [
        Gap(left + 1, right - left - 1, prices[left], prices[right])
        for left, right in pairwise(measured)
        if right - left > 1 and right > buckets.start and left + 1 < buckets.stop
    ]
    last = measured[-1]
    if last + 1 < buckets.stop:
        gaps.append(Gap(last + 1, buckets.stop - last - 1, prices[last], None))
    return gaps


def guesses(gap: Gap, method: Method, prices: Prices, peers: Sequence[Prices] = ()) -> list[Guess | None]:
    """Apply one method to one gap.

    Args:
        gap: With a price before it; the result is empty otherwise, because nothing holds without one.
        method: How to infer.
        prices: Measured prices of the pool.
        peers: Measured prices of the pools that it is compared with.

    Returns:
        One guess per bucket of the gap; `None` where the method has nothing to go by.
    """
    if gap.before is None:
        return [None] * gap.length
    match method:
        case Method.CARRY_FORWARD:
            return [Guess(gap.before, causal=True)] * gap.length
        case Method.LINEAR:
            return _linear(gap, gap.before)
        case Method.TIME_DECAY:
            return [_time_decay(bucket, prices) for bucket in gap.buckets]
        case Method.PEER_CHANGE:
            return _peer_change(gap, gap.before, peers)


def _linear(gap: Gap, before: Decimal) -> list[Guess | None]:
    if gap.after is None:
        return [None] * gap.length
    if gap.after == before:
        # Still no causal price: that the price would come back unchanged was not known.
        return [Guess(before, causal=False)] * gap.length
    rise = (gap.after - before) / (gap.length + 1)
    return [Guess(rounded(before + rise * step), causal=False) for step in range(1, gap.length + 1)]


def _time_decay(bucket: int, prices: Prices) -> Guess | None:
    weights, weighted, looked_ahead = Decimal(0), Decimal(0), False
    for away, weight in enumerate(_DECAY_WEIGHTS, start=1):
        earlier, later = prices.get(bucket - away), prices.get(bucket + away)
        if earlier is not None:
            weights += weight
            weighted += weight * earlier
        if later is not None:
            weights += weight
            weighted += weight * later
            looked_ahead = True
    return Guess(rounded(weighted / weights), causal=not looked_ahead) if weights else None


def _peer_change(gap: Gap, before: Decimal, peers: Sequence[Prices]) -> list[Guess | None]:
    anchored = [(peer, peer[gap.first - 1]) for peer in peers if gap.first - 1 in peer]
    found: list[Guess | None] = []
    for bucket in gap.buckets:
        changes = [peer[bucket] / then for peer, then in anchored if bucket in peer]
        # What peers cost in this bucket was known when it ended.
        found.append(Guess(rounded(before * median(changes)), causal=True) if changes else None)
    return found


def fill(
    pool_id: str,
    prices: Prices,
    buckets: range,
    *,
    at: datetime,
    peers: Sequence[Prices] = (),
    rules: Rules = Rules(),
) -> list[Inferred]:
    """Infer what can be inferred about the missing buckets of a pool.

    Args:
        pool_id: The pool.
        prices: Its measured prices, best from `LONG_BUCKETS` before the range on.
        buckets: Consecutive buckets that are over.
        at: Now.
        peers: Measured prices of pools that move with it, such as the same instance type in other zones.
        rules: Which method fills which class.

    Returns:
        Rows in rising order. Blackouts, long gaps without a peer, and what lies before the first price stay empty.
    """
    rows = []
    for gap in find_gaps(prices, buckets):
        method = rules.method(gap)
        if method is None or gap.before is None:
            continue
        gap_class, source = gap.gap_class, _source(gap)
        rows += [
            Inferred(
                pool_id=pool_id,
                bucket=bucket,
                usd_per_hour=guess.usd_per_hour,
                source=source,
                gap_class=gap_class,
                method=method,
                before=gap.before,
                after=gap.after,
                causal=guess.causal,
                inferred_at=at,
            )
            for bucket, guess in zip(gap.buckets, guesses(gap, method, prices, peers), strict=True)
            if guess is not None and bucket in buckets
        ]
    return rows


def _source(gap: Gap) -> Source:
    if gap.after is None:
        return Source.LONG_GAP
    match gap.gap_class:
        case GapClass.SHORT:
            return Source.SHORT_GAP
        case GapClass.MEDIUM:
            return Source.MEDIUM_GAP
        case _:
            return Source.LONG_GAP


@dataclass(frozen=True, slots=True)
class Filling:
    """What must be written so that the inferred rows are the wanted ones.

    Attributes:
        put: Rows that are missing or differ.
        obsolete: Stored rows that nothing infers any more: measured meanwhile, or in a gap that became a blackout.
    """

    put: tuple[Inferred, ...]
    obsolete: tuple[Inferred, ...]


def changes_to(stored: Iterable[Inferred], wanted: Iterable[Inferred]) -> Filling:
    """Compare what is stored with what is wanted, over the same pool and buckets; equal rows are not written again."""
    held = {row.bucket: row for row in stored}
    put = tuple(row for row in wanted if held.pop(row.bucket, None) != row)
    return Filling(put, tuple(held.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredRow:
    """The inferred price of one pool and bucket, as it is stored: `Inferred` under the names of the table."""

    pool_id: str
    bucket_start: str
    usd_per_hour: Decimal
    data_source: Source
    confidence_score: Decimal
    gap_type: GapClass
    method: Method
    price_before: Decimal
    price_after: Decimal | None = None
    causal: bool
    inferred_at: datetime
    precedence: str


def put_inferred(row: Inferred) -> Change:
    """The conditional write of an inferred row; refused where as good a row or a better one is."""
    return Change(
        Table.INFERRED_PRICES,
        (row.pool_id, bucket_start(row.bucket).isoformat()),
        "keep the best inference of the bucket",
        only_if={"precedence": MissingOrAbove(row.precedence)},
        put={
            "usd_per_hour": row.usd_per_hour,
            "data_source": row.source,
            "confidence_score": row.source.confidence,
            "gap_type": row.gap_class,
            "method": row.method,
            "price_before": row.before,
            "price_after": row.after,
            "causal": row.causal,
            "inferred_at": row.inferred_at,
            "precedence": row.precedence,
        },
    )
