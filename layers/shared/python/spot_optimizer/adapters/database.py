"""DynamoDB: one connection for all tables, pynamodb models as the description of rows, and typed reads.

The SDK's own retries are switched off: after a timeout, a retried write that had succeeded would come back as a failed
condition. Reads are repeated here, because repeating a read changes nothing; writes are in `transactions.py`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import reduce
from typing import Any, cast

from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnected
from pynamodb.attributes import Attribute
from pynamodb.connection.base import Connection, MetaTable
from pynamodb.constants import (
    ATTR_DEFINITIONS,
    ATTR_NAME,
    ATTR_TYPE,
    GLOBAL_SECONDARY_INDEXES,
    INDEX_NAME,
    KEY_SCHEMA,
    KEY_TYPE,
    TABLE_NAME,
)
from pynamodb.exceptions import DeleteError, PynamoDBException
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.operand import Path
from pynamodb.models import Model
from pynamodb.types import HASH, RANGE

from spot_optimizer.adapters.sessions import (
    CONNECT_SECONDS,
    READ_SECONDS,
    THROTTLING_CODES,
    UNAVAILABLE_CODES,
    Clients,
    error_code,
)
from spot_optimizer.errors import ControlPlaneUnavailable, InvalidRequest, Throttled

READ_ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.05

RESOLUTION = timedelta(microseconds=1)
"""Of `InstantAttribute`."""


class InstantAttribute(Attribute[datetime]):
    """A point in time as ISO 8601 in UTC with microseconds, so that text order is time order."""

    attr_type = "S"

    def serialize(self, value: datetime) -> str:
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def deserialize(self, value: str) -> datetime:
        return datetime.fromisoformat(value)


class EpochSecondsAttribute(Attribute[datetime]):
    """A point in time as whole seconds, which is what DynamoDB's time to live reads."""

    attr_type = "N"

    def serialize(self, value: datetime) -> str:
        return str(int(value.timestamp()))

    def deserialize(self, value: str) -> datetime:
        return datetime.fromtimestamp(int(value), UTC)


class FloatAttribute(Attribute[float]):
    """A number that stays a float, also when it has no fraction."""

    attr_type = "N"

    def serialize(self, value: float) -> str:
        return repr(float(value))

    def deserialize(self, value: str) -> float:
        return float(value)


class DecimalAttribute(Attribute[Decimal]):
    """A number that is exact: money."""

    attr_type = "N"

    def serialize(self, value: Decimal) -> str:
        return f"{value:f}"

    def deserialize(self, value: str) -> Decimal:
        return Decimal(value)


class WordAttribute[E: StrEnum](Attribute[E]):
    """A word out of an enumeration."""

    attr_type = "S"

    def __init__(self, words: type[E], *, null: bool = False) -> None:
        super().__init__(null=null)
        self.words = words

    def serialize(self, value: E) -> str:
        return str(self.words(value))

    def deserialize(self, value: str) -> E:
        return self.words(value)


class WordsAttribute(Attribute[tuple[str, ...]]):
    """A sequence of words."""

    attr_type = "L"

    def serialize(self, value: tuple[str, ...]) -> list[dict[str, str]]:
        return [{"S": word} for word in value]

    def deserialize(self, value: list[dict[str, str]]) -> tuple[str, ...]:
        return tuple(word["S"] for word in value)


class JournalAttribute(Attribute[tuple[Mapping[str, Any], ...]]):
    """A sequence of small records whose values are words and whole numbers."""

    attr_type = "L"

    def serialize(self, value: tuple[Mapping[str, Any], ...]) -> list[dict[str, Any]]:
        return [
            {
                "M": {
                    key: {"N": str(int(item))} if isinstance(item, int) else {"S": str(item)}
                    for key, item in entry.items()
                }
            }
            for entry in value
        ]

    def deserialize(self, value: list[dict[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        return tuple(
            {key: int(item["N"]) if "N" in item else item["S"] for key, item in entry["M"].items()} for entry in value
        )


@dataclass(frozen=True, slots=True)
class Index:
    """A secondary index; it projects everything."""

    name: str
    hash_key: str
    range_key: str | None = None


@dataclass(frozen=True, slots=True)
class Page[V]:
    """Some values, and the key of the last one if more may follow."""

    values: tuple[V, ...]
    last: str | None


class Database:
    """One connection, shared by all tables."""

    def __init__(self, clients: Clients) -> None:
        self.connection = Connection(
            region=clients.region,
            connect_timeout_seconds=CONNECT_SECONDS,
            read_timeout_seconds=READ_SECONDS,
            max_retry_attempts=0,
        )
        self._described: set[str] = set()

    def describe(self, meta_table: MetaTable) -> None:
        """Make a table's keys and indexes known to the connection; several adapters may read one table."""
        if meta_table.table_name not in self._described:
            self._described.add(meta_table.table_name)
            self.connection.add_meta_table(meta_table)

    def wait(self, attempt: int) -> None:
        """Wait before the next attempt, with full jitter; far below what a caller would notice."""
        time.sleep(random.uniform(0, FIRST_WAIT_SECONDS * 2**attempt))  # noqa: S311 -- jitter, not a secret


class BoundTable[V]:
    """One physical table: reads its rows as values of the domain.

    Args:
        database: The connection.
        table_name: The physical name.
        row: The pynamodb model that describes the attributes; it is bound to no table itself.
        value: The frozen dataclass a row becomes.
        indexes: Secondary indexes.
        constants: Attributes that every row carries for its indexes, and no value shows.
    """

    def __init__(
        self,
        database: Database,
        table_name: str,
        *,
        row: type[Model],
        value: Callable[..., V],
        indexes: tuple[Index, ...] = (),
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        self.database = database
        self.table_name = table_name
        self.attributes = row.get_attributes()
        self.constants = constants or {}
        self._value = value
        self._names = {field.name for field in fields(cast("Any", value))}
        self.hash_key = next(name for name, attribute in self.attributes.items() if attribute.is_hash_key)
        self.range_key = next((name for name, attribute in self.attributes.items() if attribute.is_range_key), None)
        database.describe(_meta_table(table_name, self, indexes))

    @property
    def key_names(self) -> tuple[str, ...]:
        """The hash key's name, then the range key's where there is one."""
        return (self.hash_key,) if self.range_key is None else (self.hash_key, self.range_key)

    def path(self, name: str) -> Path:
        """An attribute in an expression."""
        return Path(self.attributes[name])

    def serialized(self, name: str, value: Any) -> Any:
        """A value as DynamoDB stores it under this attribute, with its type."""
        attribute = self.attributes[name]
        return {attribute.attr_type: attribute.serialize(value)}

    def get(self, *key: str) -> V | None:
        """Read one row, consistently."""
        data = self._patiently(
            lambda: self.database.connection.get_item(
                self.table_name, key[0], range_key=key[1] if len(key) > 1 else None, consistent_read=True
            )
        )
        item = data.get("Item") if data else None
        return self._read(item) if item else None

    def query(self, hash_value: str) -> tuple[V, ...]:
        """All rows under a hash key, by range key, consistently."""
        return tuple(self._pages(hash_value, index=None, condition=None, consistent=True))

    def between(self, hash_value: str, first: Any, last: Any) -> Iterator[V]:
        """The rows under a hash key whose range key is between two values, both included, in order; may lag behind."""
        condition = self.path(str(self.range_key)).between(first, last)
        return self._pages(hash_value, index=None, condition=condition, consistent=False)

    def last(self, hash_value: str) -> V | None:
        """The row under a hash key with the greatest range key; may lag behind."""
        data = self._query(
            hash_value, index=None, condition=None, consistent=False, start=None, limit=1, newest_first=True
        )
        return next((self._read(item) for item in data["Items"]), None)

    def query_index(self, index: Index, hash_value: str, condition: Condition | None = None) -> Iterator[V]:
        """All rows of an index under a hash key; an index may lag behind its table."""
        return self._pages(hash_value, index=index, condition=condition, consistent=False)

    def page(self, index: Index, hash_value: str, *, after: str | None, limit: int) -> Page[V]:
        """One page of an index whose range key is the table's hash key, behind the row with that key."""
        start = None
        if after is not None:
            start = {index.hash_key: {"S": hash_value}, self.hash_key: {"S": after}}
        data = self._query(hash_value, index=index, condition=None, consistent=False, start=start, limit=limit)
        last = data.get("LastEvaluatedKey")
        return Page(tuple(self._read(item) for item in data["Items"]), last[self.hash_key]["S"] if last else None)

    def range_page(self, hash_value: str, *, after: str | None, limit: int) -> Page[V]:
        """One page of the rows under a hash key, behind the row with that range key."""
        range_key = str(self.range_key)
        start = None if after is None else {self.hash_key: {"S": hash_value}, range_key: {"S": after}}
        data = self._query(hash_value, index=None, condition=None, consistent=True, start=start, limit=limit)
        last = data.get("LastEvaluatedKey")
        return Page(tuple(self._read(item) for item in data["Items"]), last[range_key]["S"] if last else None)

    def newest(
        self,
        index: Index,
        hash_value: str,
        *,
        after: str | None,
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
        only: Mapping[str, Any] | None = None,
    ) -> Page[V]:
        """One page of an index that is ordered by time, the latest first.

        Args:
            index: Its range key is an `InstantAttribute`.
            hash_value: Whose rows.
            after: `Page.last` of the page before.
            limit: How many rows are looked at; with `only`, fewer may be found while more follow.
            since: Inclusive.
            until: Exclusive.
            only: Values that further attributes must have.

        Raises:
            InvalidRequest: `after` is no place in this list.
        """
        if since is not None and until is not None and since >= until:
            return Page((), None)
        start = None if after is None else self._place(index, hash_value, after, since=since, until=until)
        at = self.path(str(index.range_key))
        condition: Condition | None = None
        if since is not None and until is not None:
            # A query takes one condition on the range key, and `between` includes both its ends.
            condition = at.between(since, until - RESOLUTION)
        elif since is not None:
            condition = at >= since
        elif until is not None:
            condition = at < until
        wanted = [self.path(name) == value for name, value in (only or {}).items() if value is not None]
        data = self._query(
            hash_value,
            index=index,
            condition=condition,
            consistent=False,
            start=start,
            limit=limit,
            newest_first=True,
            only=reduce(lambda all_of, one: all_of & one, wanted) if wanted else None,
        )
        last = data.get("LastEvaluatedKey")
        place = json.dumps({name: value["S"] for name, value in last.items()}, sort_keys=True) if last else None
        return Page(tuple(self._read(item) for item in data["Items"]), place)

    def _place(
        self, index: Index, hash_value: str, after: str, *, since: datetime | None, until: datetime | None
    ) -> dict[str, Any]:
        """Read where a page ended. What a caller hands back is checked, and never leads into another one's rows.

        DynamoDB refuses empty keys, and a place outside of the period that is asked for.
        """
        try:
            place = json.loads(after)
        except ValueError:
            place = None
        names = {*self.key_names, index.hash_key, index.range_key}
        known = (
            isinstance(place, dict) and set(place) == names and all(at and isinstance(at, str) for at in place.values())
        )
        if (
            not known
            or place[index.hash_key] != hash_value
            or not self._is_within(place[index.range_key], since, until)
        ):
            raise InvalidRequest(
                "the cursor belongs to another list",
                field="cursor",
                expected="`next_cursor` of the page before, or none",
            )
        return {name: {"S": value} for name, value in place.items()}

    def _is_within(self, at: str, since: datetime | None, until: datetime | None) -> bool:
        # As text, because that is how the times are kept, and what DynamoDB compares.
        first, end = (None if moment is None else InstantAttribute().serialize(moment) for moment in (since, until))
        return (first is None or first <= at) and (end is None or at < end)

    def put(self, value: V, *, only_if: Condition | None = None, **extra: Any) -> None:
        """Replace a row, whatever it holds: only for rows that have one writer and no condition."""
        items = (
            {field.name: getattr(value, field.name) for field in fields(cast("Any", value))}
            | dict(self.constants)
            | extra
        )
        attributes = {name: self.serialized(name, item) for name, item in items.items() if item is not None}
        keys = [attributes.pop(name)["S"] for name in self.key_names]
        self._patiently(
            lambda: self.database.connection.put_item(
                self.table_name,
                keys[0],
                range_key=keys[1] if len(keys) > 1 else None,
                attributes=attributes,
                condition=only_if,
            )
        )

    def delete(self, *key: str, only_if: Condition) -> bool:
        """Delete a row if it is still as expected; tell whether it was."""
        try:
            self._patiently(
                lambda: self.database.connection.delete_item(
                    self.table_name, key[0], range_key=key[1] if len(key) > 1 else None, condition=only_if
                )
            )
        except DeleteError as error:
            if not isinstance(error.cause, ClientError) or error_code(error.cause) != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def _pages(
        self, hash_value: str, *, index: Index | None, condition: Condition | None, consistent: bool
    ) -> Iterator[V]:
        start: Mapping[str, Any] | None = None
        while True:
            data = self._query(
                hash_value, index=index, condition=condition, consistent=consistent, start=start, limit=None
            )
            yield from (self._read(item) for item in data["Items"])
            start = data.get("LastEvaluatedKey")
            if not start:
                return

    def _query(
        self,
        hash_value: str,
        *,
        index: Index | None,
        condition: Condition | None,
        consistent: bool,
        start: Mapping[str, Any] | None,
        limit: int | None,
        newest_first: bool = False,
        only: Condition | None = None,
    ) -> dict[str, Any]:
        return self._patiently(
            lambda: self.database.connection.query(
                self.table_name,
                hash_value,
                range_key_condition=condition,
                filter_condition=only,
                scan_index_forward=not newest_first,
                index_name=index.name if index else None,
                consistent_read=consistent,
                exclusive_start_key=dict(start) if start else None,
                limit=limit,
            )
        )

    def _read(self, item: Mapping[str, Any]) -> V:
        values = {}
        for name, stored in item.items():
            if name in self._names:
                attribute = self.attributes[name]
                values[name] = attribute.deserialize(attribute.get_value(stored))
        return self._value(**values)

    def _patiently(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Repeat what may be repeated: a read, or the replacement of a whole row.

        Raises:
            Throttled: DynamoDB asked to slow down each time.
            ControlPlaneUnavailable: DynamoDB did not answer, or failed, each time.
        """
        for attempt in range(READ_ATTEMPTS):
            try:
                return call()
            except PynamoDBException as error:
                failure = transient_failure(error)
                if failure is None:
                    raise
                if attempt == READ_ATTEMPTS - 1:
                    raise failure from error
                self.database.wait(attempt)
        raise AssertionError("unreachable")


def transient_failure(error: PynamoDBException) -> Throttled | ControlPlaneUnavailable | None:
    """What a failed call to DynamoDB means, if another try can help."""
    cause = error.cause
    if isinstance(cause, ClientError):
        code = error_code(cause)
        if code in THROTTLING_CODES or code == "TransactionConflictException":
            return Throttled(f"DynamoDB asks to slow down ({code}); try again")
        if code in UNAVAILABLE_CODES:
            return ControlPlaneUnavailable(f"DynamoDB failed ({code}); try again")
    if isinstance(cause, HTTPClientError | NotConnected):
        return ControlPlaneUnavailable(f"DynamoDB did not answer: {cause}; try again")
    return None


def _meta_table(table_name: str, table: BoundTable[Any], indexes: tuple[Index, ...]) -> MetaTable:
    def schema(hash_key: str, range_key: str | None) -> list[dict[str, str]]:
        keys = [{ATTR_NAME: hash_key, KEY_TYPE: HASH}]
        if range_key is not None:
            keys.append({ATTR_NAME: range_key, KEY_TYPE: RANGE})
        return keys

    names = {*table.key_names, *(name for index in indexes for name in (index.hash_key, index.range_key) if name)}
    return MetaTable(
        {
            TABLE_NAME: table_name,
            KEY_SCHEMA: schema(table.hash_key, table.range_key),
            ATTR_DEFINITIONS: [
                {ATTR_NAME: name, ATTR_TYPE: table.attributes[name].attr_type} for name in sorted(names)
            ],
            GLOBAL_SECONDARY_INDEXES: [
                {INDEX_NAME: index.name, KEY_SCHEMA: schema(index.hash_key, index.range_key)} for index in indexes
            ],
        }
    )
