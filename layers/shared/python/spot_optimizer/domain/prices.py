"""Spot prices: what was seen, which of it counts, and the one clean row that each pool and 5-minute bucket keeps.

Everything that is known about a bucket competes for it by `precedence`, a total order that depends on the rows alone.
So the clean table is a maximum over a set: the order of arrival, repetitions and concurrent writers can not change it,
and a writer needs no read, only the condition that what is there ranks lower.

A bucket's price is the one in force at its end: of several changes inside a bucket the last one counts.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from spot_optimizer.domain.writes import Change, MissingOrAbove, Table

BUCKET = timedelta(minutes=5)
BUCKET_SECONDS = 300
DECIMALS = 6
"""AWS publishes prices in USD with up to six decimals; so does everything that is inferred."""

HIGHEST_USD_PER_HOUR = Decimal(1_000_000)
"""Above any instance's price; `precedence` counts on it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST_MICROSECOND = 10**17
_MICRO_USD = 10**DECIMALS
_TICK = Decimal(1).scaleb(-DECIMALS)


class Source(enum.StrEnum):
    """Where a price comes from, best first; stored as `data_source`."""

    PRIMARY_AGENT = "primary-agent"
    AWS_HISTORY = "aws-history"
    REPLICA_AGENT = "replica-agent"
    SHORT_GAP = "short-gap"
    MEDIUM_GAP = "medium-gap"
    LONG_GAP = "long-gap"

    @property
    def rank(self) -> int:
        """0 is the best; a lower rank always replaces a higher one."""
        return _RANKS[self]

    @property
    def confidence(self) -> Decimal:
        """How far the price can be trusted, 0 to 1; stored as `confidence_score`."""
        return _CONFIDENCES[self]

    @property
    def is_measured(self) -> bool:
        """Whether somebody saw the price, as opposed to inferring it."""
        return self in _MEASURED


_RANKS = {source: rank for rank, source in enumerate(Source)}
_CONFIDENCES = {
    Source.PRIMARY_AGENT: Decimal("1.00"),
    Source.AWS_HISTORY: Decimal("1.00"),
    Source.REPLICA_AGENT: Decimal("0.95"),
    Source.SHORT_GAP: Decimal("0.85"),
    Source.MEDIUM_GAP: Decimal("0.75"),
    Source.LONG_GAP: Decimal("0.70"),
}
_MEASURED = frozenset({Source.PRIMARY_AGENT, Source.AWS_HISTORY, Source.REPLICA_AGENT})


class Slot(NamedTuple):
    """The key of a clean row.

    Attributes:
        pool_id: The pool.
        bucket: Number of the 5-minute bucket since 1970.
    """

    pool_id: str
    bucket: int


@dataclass(frozen=True, slots=True)
class Observation:
    """One price that somebody saw.

    Attributes:
        pool_id: Of which pool.
        observed_at: When, with a zone.
        usd_per_hour: Positive, below `HIGHEST_USD_PER_HOUR`, with at most six decimals.
        source: Who saw it; a measured source.
        submission_id: The submission that brought it.
        slot: The bucket that it competes for.
    """

    pool_id: str
    observed_at: datetime
    usd_per_hour: Decimal
    source: Source
    submission_id: str
    slot: Slot = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot", Slot(self.pool_id, bucket_of(self.observed_at)))

    @property
    def bucket(self) -> int:
        """Number of the 5-minute bucket since 1970."""
        return self.slot.bucket

    @property
    def precedence(self) -> str:
        """Sorts before that of every observation that it outranks, in Python as in DynamoDB.

        The better source first, then the latest, then the smallest submission id. Two rows of one submission about one
        moment can still disagree: then the higher price counts, so that a doubt never flatters a saving.
        """
        return precedence(self.source, self.observed_at, self.submission_id, self.usd_per_hour)

    def outranks(self, other: Observation) -> bool:
        """What comparing `precedence` says, without making the strings."""
        if self.source is not other.source:
            return self.source.rank < other.source.rank
        if self.observed_at != other.observed_at:
            return self.observed_at > other.observed_at
        if self.submission_id != other.submission_id:
            return self.submission_id < other.submission_id
        return self.usd_per_hour > other.usd_per_hour


CleanTable = Mapping[Slot, Observation]
"""One row per pool and bucket: the one that outranks all others that were ever seen for it."""


def precedence(source: Source, at: datetime, submission_id: str, usd_per_hour: Decimal) -> str:
    """Order rows that compete for one bucket; the smallest wins.

    Numbers are padded to a fixed width, so that comparing strings compares numbers. The id stands before the price and
    is of any length: its end is marked by a character that sorts before any that an id may hold.
    """
    until_last = _LAST_MICROSECOND - (at - _EPOCH) // _MICROSECOND
    below_highest = int((HIGHEST_USD_PER_HOUR - usd_per_hour) * _MICRO_USD)
    return f"{source.rank}#{until_last:018d}#{submission_id}\t{below_highest:013d}"


def bucket_of(moment: datetime) -> int:
    """The bucket that holds a moment; its start belongs to it, its end to the next one."""
    return int((moment - _EPOCH) // BUCKET)


def bucket_start(bucket: int) -> datetime:
    """When a bucket begins."""
    return _EPOCH + bucket * BUCKET


def rounded(usd_per_hour: Decimal) -> Decimal:
    """A price as AWS would publish it; never zero."""
    return max(usd_per_hour.quantize(_TICK), _TICK)


def clean(observations: Iterable[Observation], known: CleanTable | None = None) -> dict[Slot, Observation]:
    """Keep for each pool and bucket the observation that outranks the others.

    Idempotent and indifferent to order, so batches can be cleaned one after another or apart and merged.

    Args:
        observations: In any order, with any repetition.
        known: What earlier batches came to; it is not changed.

    Returns:
        A new table.
    """
    table = dict(known) if known else {}
    held_or_put = table.setdefault
    for seen in observations:
        held = held_or_put(seen.slot, seen)
        if held is not seen and seen.outranks(held):
            table[seen.slot] = seen
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRow:
    """The best price of one pool and bucket, as it is stored: `Observation` under the names of the table.

    Attributes:
        bucket_start: ISO 8601.
        precedence: What `put_clean` compares; lower wins.
    """

    pool_id: str
    bucket_start: str
    usd_per_hour: Decimal
    observed_at: datetime
    data_source: Source
    confidence_score: Decimal
    submission_id: str
    precedence: str


def put_clean(row: Observation) -> Change:
    """The conditional write of a clean row: it succeeds only where nothing is, or what is there ranks lower.

    A writer reads nothing first. Whatever order concurrent writers come in, the best row is left; a refusal means that
    as good a row or a better one is there, which is success.
    """
    return Change(
        Table.CLEAN_PRICES,
        (row.pool_id, bucket_start(row.bucket).isoformat()),
        "keep the best price of the bucket",
        only_if={"precedence": MissingOrAbove(row.precedence)},
        put={
            "usd_per_hour": row.usd_per_hour,
            "observed_at": row.observed_at,
            "data_source": row.source,
            "confidence_score": row.source.confidence,
            "submission_id": row.submission_id,
            "precedence": row.precedence,
        },
    )


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From this moment on, a pool costs so much: a row of AWS's price history."""

    changed_at: datetime
    usd_per_hour: Decimal


class StepFunction:
    """A pool's price over time: each price holds until the next change.

    Attributes:
        changes: In rising order. A price that AWS published again, as it does daily, is no change and left out.
    """

    def __init__(self, history: Iterable[PriceChange]) -> None:
        """Read a history.

        Args:
            history: In any order. Of two prices for one moment the higher counts, as in `precedence`.
        """
        ordered = sorted(history, key=lambda change: (change.changed_at, change.usd_per_hour))
        in_force = {change.changed_at: change for change in ordered}
        changes: list[PriceChange] = []
        for change in in_force.values():
            if not changes or changes[-1].usd_per_hour != change.usd_per_hour:
                changes.append(change)
        self.changes: tuple[PriceChange, ...] = tuple(changes)
        self._moments = [change.changed_at for change in changes]

    @classmethod
    def of_rows(cls, rows: Iterable[Observation]) -> StepFunction:
        """Read one pool's clean rows, in any order, as changes."""
        return cls(PriceChange(row.observed_at, row.usd_per_hour) for row in rows)

    def before(self, moment: datetime) -> Decimal | None:
        """The price in force just before a moment; none if that was before the first change."""
        position = bisect_left(self._moments, moment)
        return self.changes[position - 1].usd_per_hour if position else None

    def in_bucket(self, bucket: int) -> Decimal | None:
        """The price of a bucket: the one in force at its end."""
        return self.before(bucket_start(bucket + 1))

    def over(self, buckets: range) -> list[Decimal | None]:
        """The price of each of consecutive buckets.

        Built run by run, so that its cost is that of the changes, not of the buckets.
        """
        prices: list[Decimal | None] = []
        if not buckets:
            return prices
        price = self.in_bucket(buckets.start)
        for change in self.changes[bisect_left(self._moments, bucket_start(buckets.start + 1)) :]:
            reached = min(bucket_of(change.changed_at), buckets.stop) - buckets.start
            prices.extend([price] * (reached - len(prices)))
            price = change.usd_per_hour
            if reached == len(buckets):
                break
        prices.extend([price] * (len(buckets) - len(prices)))
        return prices


def backfill(
    pool_id: str, history: Sequence[PriceChange], missing: Iterable[int], *, submission_id: str
) -> Iterator[Observation]:
    """Complete a pool from AWS's own history, exactly.

    A bucket in which the price changed gets the last change at the moment it happened; one in which it did not gets the
    price in force, at the bucket's start. So a collector that sees the same change writes the same row.

    Args:
        pool_id: The pool.
        history: What AWS answers for the time around the missing buckets: the changes in range and the last one before.
        missing: Buckets that are over; one that is before the whole history stays missing.
        submission_id: Of the backfill.

    Yields:
        At most one observation per missing bucket.
    """
    step = StepFunction(history)
    published = {bucket_of(change.changed_at): change.changed_at for change in step.changes}
    for bucket in missing:
        price = step.in_bucket(bucket)
        if price is not None:
            at = published.get(bucket) or bucket_start(bucket)
            yield Observation(pool_id, at, price, Source.AWS_HISTORY, submission_id)


def pools_of(table: CleanTable) -> dict[str, dict[int, Observation]]:
    """Take a clean table apart into one series per pool."""
    series: dict[str, dict[int, Observation]] = {}
    for (pool_id, bucket), row in table.items():
        series.setdefault(pool_id, {})[bucket] = row
    return series
