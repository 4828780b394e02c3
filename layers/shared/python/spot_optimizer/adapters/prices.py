"""The tables of prices: what was submitted, the one clean row of each bucket, and what was inferred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

from pynamodb.attributes import Attribute, BooleanAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    DecimalAttribute,
    EpochSecondsAttribute,
    InstantAttribute,
    Page,
    WordAttribute,
)
from spot_optimizer.adapters.pools import LISTING, LISTING_INDEX, pools_table
from spot_optimizer.adapters.transactions import Writer
from spot_optimizer.domain.gaps import GapClass, Inferred, InferredRow, Method, put_inferred
from spot_optimizer.domain.pools_of_interest import PoolOfInterest
from spot_optimizer.domain.price_submissions import Submission
from spot_optimizer.domain.prices import CleanRow, Observation, Slot, Source, bucket_of, bucket_start, put_clean
from spot_optimizer.domain.writes import Change, Table, Transaction
from spot_optimizer.errors import ConditionFailed, OutcomeUnknown, Transient

RAW_KEPT_FOR = timedelta(days=30)
WRITERS = 8
"""Rows that one submission writes at a time."""

_ATTEMPTS = 3

type _ByPool = Mapping[str, Mapping[datetime, Decimal]]


class SeenPricesAttribute(Attribute[_ByPool]):
    """Prices by pool and moment, in one attribute: many rows of a submission cost one write, and stay readable."""

    attr_type = "M"

    def serialize(self, value: _ByPool) -> dict[str, Any]:
        return {
            pool_id: {
                "M": {moment.astimezone(UTC).isoformat(): {"S": f"{price:f}"} for moment, price in prices.items()}
            }
            for pool_id, prices in value.items()
        }

    def deserialize(self, value: dict[str, Any]) -> _ByPool:
        return {
            pool_id: {datetime.fromisoformat(moment): Decimal(price["S"]) for moment, price in prices["M"].items()}
            for pool_id, prices in value.items()
        }


class CountsAttribute(Attribute[Mapping[str, int]]):
    """Whole numbers by name."""

    attr_type = "M"

    def serialize(self, value: Mapping[str, int]) -> dict[str, Any]:
        return {name: {"N": str(count)} for name, count in value.items()}

    def deserialize(self, value: dict[str, Any]) -> Mapping[str, int]:
        return {name: int(count["N"]) for name, count in value.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    submitter: str
    kept_under: str
    submission_id: str
    data_source: Source
    submitted_at: datetime
    prices: _ByPool
    refused: Mapping[str, int]


class SubmissionRow(Model):
    """One submission. `kept_under` begins with when its latest price was seen, so that time ranges can be asked for."""

    submitter = UnicodeAttribute(hash_key=True)
    kept_under = UnicodeAttribute(range_key=True)
    submission_id = UnicodeAttribute()
    data_source = WordAttribute(Source)
    submitted_at = InstantAttribute()
    prices = SeenPricesAttribute()
    refused = CountsAttribute()
    forget_at = EpochSecondsAttribute()


class CleanPriceRow(Model):
    """The best price of a bucket; attributes are those of `CleanRow`."""

    pool_id = UnicodeAttribute(hash_key=True)
    bucket_start = UnicodeAttribute(range_key=True)
    usd_per_hour = DecimalAttribute()
    observed_at = InstantAttribute()
    data_source = WordAttribute(Source)
    confidence_score = DecimalAttribute()
    submission_id = UnicodeAttribute()
    precedence = UnicodeAttribute()


class InferredPriceRow(Model):
    """The inferred price of a bucket; attributes are those of `InferredRow`."""

    pool_id = UnicodeAttribute(hash_key=True)
    bucket_start = UnicodeAttribute(range_key=True)
    usd_per_hour = DecimalAttribute()
    data_source = WordAttribute(Source)
    confidence_score = DecimalAttribute()
    gap_type = WordAttribute(GapClass)
    method = WordAttribute(Method)
    price_before = DecimalAttribute()
    price_after = DecimalAttribute(null=True)
    causal = BooleanAttribute()
    inferred_at = InstantAttribute()
    precedence = UnicodeAttribute()


def clean_table(database: Database, table_name: str) -> BoundTable[CleanRow]:
    """Bind the table of clean prices."""
    return BoundTable(database, table_name, row=CleanPriceRow, value=CleanRow)


def inferred_table(database: Database, table_name: str) -> BoundTable[InferredRow]:
    """Bind the table of inferred prices."""
    return BoundTable(database, table_name, row=InferredPriceRow, value=InferredRow)


class DynamoPrices:
    """Implements `Prices`.

    Args:
        database: The connection.
        table_name: Tells the physical name of the pools', the clean and the inferred prices' table; asked on first use.
        raw_table_name: Tells that of the submissions' table.
    """

    def __init__(
        self, database: Database, *, table_name: Callable[[Table], str], raw_table_name: Callable[[], str]
    ) -> None:
        self._database = database
        self._table_name = table_name
        self._raw_table_name = raw_table_name

    @cached_property
    def _pools(self) -> BoundTable[PoolOfInterest]:
        return pools_table(self._database, self._table_name(Table.POOLS))

    @cached_property
    def _submissions(self) -> BoundTable[_Kept]:
        return BoundTable(self._database, self._raw_table_name(), row=SubmissionRow, value=_Kept)

    @cached_property
    def _clean(self) -> BoundTable[CleanRow]:
        return clean_table(self._database, self._table_name(Table.CLEAN_PRICES))

    @cached_property
    def _inferred(self) -> BoundTable[InferredRow]:
        return inferred_table(self._database, self._table_name(Table.INFERRED_PRICES))

    @cached_property
    def _writer(self) -> Writer:
        return Writer(
            self._database,
            {Table.POOLS: self._pools, Table.CLEAN_PRICES: self._clean, Table.INFERRED_PRICES: self._inferred},
        )

    def pools(self) -> tuple[PoolOfInterest, ...]:
        """Every pool of interest, by id; may lag behind."""
        return tuple(self._pools.query_index(LISTING_INDEX, LISTING))

    def pools_page(self, *, after: str | None, limit: int) -> Page[PoolOfInterest]:
        """One page of the pools of interest, by id."""
        return self._pools.page(LISTING_INDEX, LISTING, after=after, limit=limit)

    def known_pools(self, pool_ids: Iterable[str]) -> Mapping[str, PoolOfInterest]:
        """Those of these pools that are of interest, by id."""
        found = self._at_once(self._pools.get, list(pool_ids))
        return {pool.pool_id: pool for pool in found if pool is not None}

    def note_pools(self, changes: Iterable[Change]) -> None:
        """Write pools' rows; a pool that was taken up by somebody else meanwhile is left as it is."""
        self._at_once(self._put_if_better, list(changes))

    def keep(self, submission: Submission) -> None:
        """Keep what was submitted for 30 days; keeping it again changes nothing."""
        prices: dict[str, dict[datetime, Decimal]] = {}
        for seen in submission.observations:
            prices.setdefault(seen.pool_id, {})[seen.observed_at] = seen.usd_per_hour
        self._submissions.put(
            _Kept(
                submitter=submission.submitter,
                kept_under=_kept_under(submission.observed_until, submission.submission_id),
                submission_id=submission.submission_id,
                data_source=submission.source,
                submitted_at=submission.submitted_at,
                prices=prices,
                refused=submission.refused,
            ),
            forget_at=submission.submitted_at + RAW_KEPT_FOR,
        )

    def submitted(self, submitter: str, pool_id: str, since: datetime, until: datetime) -> Iterator[Observation]:
        """What a submitter said of a pool in submissions whose latest price was seen between two moments."""
        for kept in self._submissions.between(submitter, _kept_under(since, ""), _kept_under(until, "~")):
            for moment, price in kept.prices.get(pool_id, {}).items():
                yield Observation(pool_id, moment, price, kept.data_source, kept.submission_id)

    def offer(self, rows: Iterable[Observation]) -> frozenset[Slot]:
        """Write clean rows, each where nothing is or what is there ranks lower.

        Returns:
            Where as good a row or a better one was, and is left.

        Raises:
            Transient: Some row could not be written; every other one was. Offering them all again is harmless.
        """
        offered = list(rows)
        better = self._at_once(self._put_if_better, [put_clean(row) for row in offered])
        return frozenset(row.slot for row, is_better in zip(offered, better, strict=True) if not is_better)

    def measured(self, pool_id: str, buckets: range) -> tuple[Observation, ...]:
        """The clean rows of a pool, in order."""
        if not buckets:
            return ()
        return tuple(map(_observation, self._clean.between(pool_id, *_edges(buckets))))

    def latest(self, pool_id: str) -> Observation | None:
        """The clean row of the latest bucket that has one."""
        row = self._clean.last(pool_id)
        return None if row is None else _observation(row)

    def latest_of(self, pool_ids: Sequence[str]) -> Mapping[str, Observation]:
        """The same of several pools, by pool id."""
        found = self._at_once(self.latest, pool_ids)
        return {row.pool_id: row for row in found if row is not None}

    def inferred(self, pool_id: str, buckets: range) -> tuple[Inferred, ...]:
        """The inferred rows of a pool, in order."""
        if not buckets:
            return ()
        return tuple(map(_inferred, self._inferred.between(pool_id, *_edges(buckets))))

    def put_inferred(self, rows: Sequence[Inferred]) -> None:
        """Write inferred rows, each where nothing is or what is there ranks lower; raises as `offer`."""
        self._at_once(self._put_if_better, [put_inferred(row) for row in rows])

    def withdraw(self, rows: Sequence[Inferred]) -> None:
        """Delete inferred rows, unless they were replaced since they were read; raises as `offer`."""

        def delete(row: Inferred) -> bool:
            as_read = self._inferred.path("precedence") == row.precedence
            return self._inferred.delete(row.pool_id, bucket_start(row.bucket).isoformat(), only_if=as_read)

        self._at_once(delete, list(rows))

    def _put_if_better(self, change: Change) -> bool:
        transaction = Transaction(change.name, (change,))
        for _ in range(_ATTEMPTS):
            try:
                self._writer.commit(transaction)
            except OutcomeUnknown:
                # The condition makes a repetition harmless: at worst our own row is found there.
                continue
            except ConditionFailed:
                return False
            else:
                return True
        raise OutcomeUnknown(f"'{change.name}' was sent {_ATTEMPTS} times and no answer came; send it again")

    def _at_once[I, O](self, act: Callable[[I], O], items: Sequence[I]) -> list[O]:
        """Do the same to many items, some at a time; the failure of one holds up no other.

        Raises:
            Transient: The first failure, after all were tried.
        """
        if not items:
            return []
        # The connection makes its client on first use, and is not made for several threads doing that.
        _ = self._database.connection.client, self._writer

        def attempt(item: I) -> O | Transient:
            try:
                return act(item)
            except Transient as failure:
                return failure

        with ThreadPoolExecutor(max_workers=min(WRITERS, len(items))) as writers:
            outcomes = list(writers.map(attempt, items))
        done: list[O] = []
        for outcome in outcomes:
            if isinstance(outcome, Transient):
                raise outcome
            done.append(outcome)
        return done


def _kept_under(moment: datetime, submission_id: str) -> str:
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')}#{submission_id}"


def _edges(buckets: range) -> tuple[str, str]:
    return bucket_start(buckets.start).isoformat(), bucket_start(buckets.stop - 1).isoformat()


def _observation(row: CleanRow) -> Observation:
    return Observation(row.pool_id, row.observed_at, row.usd_per_hour, row.data_source, row.submission_id)


def _inferred(row: InferredRow) -> Inferred:
    return Inferred(
        pool_id=row.pool_id,
        bucket=bucket_of(datetime.fromisoformat(row.bucket_start)),
        usd_per_hour=row.usd_per_hour,
        source=row.data_source,
        gap_class=row.gap_type,
        method=row.method,
        before=row.price_before,
        after=row.price_after,
        causal=row.causal,
        inferred_at=row.inferred_at,
    )
