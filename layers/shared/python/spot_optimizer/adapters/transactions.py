"""Compiles the domain's conditional writes into DynamoDB's, and its answers into our errors.

One change becomes a conditional UpdateItem, several become one TransactWriteItems. That one carries a request token, so
repeating it after a lost answer is safe: DynamoDB remembers the token for ten minutes and repeats its answer. A single
UpdateItem has no such token, so a lost answer is reported as unknown, and the caller reads back.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import reduce
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnected
from pynamodb.exceptions import PynamoDBException, TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.operand import Value
from pynamodb.expressions.update import Action, RemoveAction, SetAction

from spot_optimizer.adapters.database import BoundTable, Database
from spot_optimizer.adapters.sessions import THROTTLING_CODES, UNAVAILABLE_CODES, error_code
from spot_optimizer.domain import writes
from spot_optimizer.domain.writes import (
    AtMost,
    Below,
    Change,
    Equals,
    Missing,
    MissingOrAbove,
    OneOf,
    Present,
    Table,
    Transaction,
)
from spot_optimizer.errors import ConditionFailed, OutcomeUnknown, SpotOptimizerError, Throttled

ATTEMPTS = 5
"""Tries of one write while other writers touch the same rows, or while DynamoDB throttles."""


class Writer:
    """Commits transactions to the tables it was given."""

    def __init__(self, database: Database, tables: Mapping[Table, BoundTable[Any]]) -> None:
        self._database = database
        self._tables = tables

    def commit(self, transaction: Transaction) -> None:
        """Write all changes or none.

        Raises:
            ConditionFailed: A condition did not hold; nothing was written.
            Throttled: Nothing was written; try again.
            OutcomeUnknown: No answer came; read back.
        """
        request_token = str(uuid.uuid4())
        for attempt in range(ATTEMPTS):
            try:
                self._send(transaction, request_token)
            except PynamoDBException as error:
                failure = _failure(transaction, error)
                repeatable = isinstance(failure, Throttled) or (
                    isinstance(failure, OutcomeUnknown) and len(transaction.changes) > 1
                )
                if not repeatable or attempt == ATTEMPTS - 1:
                    raise failure from error
                self._database.wait(attempt)
            else:
                return

    def _send(self, transaction: Transaction, request_token: str) -> None:
        connection = self._database.connection
        if len(transaction.changes) == 1 and not transaction.changes[0].is_check:
            change = transaction.changes[0]
            table = self._tables[change.table]
            connection.update_item(
                table.table_name,
                change.key[0],
                range_key=change.key[1] if len(change.key) > 1 else None,
                actions=_actions(table, change),
                condition=_condition(table, change),
            )
            return
        connection.transact_write_items(
            condition_check_items=[self._item(change) for change in transaction.changes if change.is_check],
            delete_items=(),
            put_items=(),
            update_items=[self._item(change) for change in transaction.changes if not change.is_check],
            client_request_token=request_token,
        )

    def _item(self, change: Change) -> dict[str, Any]:
        table = self._tables[change.table]
        return self._database.connection.get_operation_kwargs(
            table.table_name,
            change.key[0],
            range_key=change.key[1] if len(change.key) > 1 else None,
            actions=None if change.is_check else _actions(table, change),
            condition=_condition(table, change),
        )


def _actions(table: BoundTable[Any], change: Change) -> list[Action]:
    values = dict(change.put)
    if any(isinstance(change.only_if.get(name), Missing) for name in table.key_names):
        values |= table.constants
    actions: list[Action] = []
    for name, value in values.items():
        path = table.path(name)
        actions.append(RemoveAction(path) if value is None else SetAction(path, Value(table.serialized(name, value))))
    return actions


def _condition(table: BoundTable[Any], change: Change) -> Condition | None:
    conditions: list[Condition] = [_compiled(table, name, condition) for name, condition in change.only_if.items()]
    return reduce(lambda all_of, one: all_of & one, conditions) if conditions else None


def _compiled(table: BoundTable[Any], name: str, condition: writes.Condition) -> Condition:
    path = table.path(name)

    def value(item: Any) -> Value:
        return Value(table.serialized(name, item))

    match condition:
        case Missing():
            return path.does_not_exist()
        case Present():
            return path.exists()
        case Equals(expected) if expected is not None:
            return path == value(expected)
        case OneOf(values) if known := [item for item in values if item is not None]:
            return path.is_in(*(value(item) for item in known))
        case Below(limit):
            return path < value(limit)
        case AtMost(limit):
            return path <= value(limit)
        case MissingOrAbove(limit):
            lower_or_none: Condition = path.does_not_exist() | (path > value(limit))
            return lower_or_none
    # Equal to nothing, or one of nothing: no row satisfies that, and DynamoDB has no word for it.
    never: Condition = path.exists() & path.does_not_exist()
    return never


def _failure(transaction: Transaction, error: PynamoDBException) -> SpotOptimizerError:
    """Name what a failed write means; what is not known crashes."""
    cause = error.cause
    name = transaction.name
    if isinstance(cause, NotConnected):
        return Throttled(f"'{name}' was not sent: {cause}; try again")
    if isinstance(cause, HTTPClientError):
        return OutcomeUnknown(f"'{name}' was sent and no answer came: {cause}; read back")
    if isinstance(cause, ClientError):
        code = error_code(cause)
        if code == "ConditionalCheckFailedException":
            return ConditionFailed(f"'{name}' was refused: {_describe(transaction.changes[0])}; nothing was changed")
        if code == "TransactionCanceledException":
            return _cancelled(transaction, error)
        if code in THROTTLING_CODES or code in ("TransactionConflictException", "TransactionInProgressException"):
            return Throttled(f"'{name}' was not written ({code}); try again")
        if code in UNAVAILABLE_CODES:
            return OutcomeUnknown(f"'{name}' may or may not be written ({code}); read back")
    raise error


def _cancelled(transaction: Transaction, error: PynamoDBException) -> SpotOptimizerError:
    # The items were sent as checks first, then updates; the reasons come in that order.
    sent = sorted(transaction.changes, key=lambda change: not change.is_check)
    reasons = error.cancellation_reasons if isinstance(error, TransactWriteError) else []
    codes = ["None" if reason is None else reason.code for reason in reasons]
    refused = [change for change, code in zip(sent, codes, strict=False) if code == "ConditionalCheckFailed"]
    if refused:
        broken = "; ".join(_describe(change) for change in refused)
        return ConditionFailed(f"'{transaction.name}' was refused: {broken}; nothing was changed")
    others = {code for code in codes if code != "None"}
    if others <= {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}:
        return Throttled(
            f"'{transaction.name}' was not written ({', '.join(sorted(others)) or 'cancelled'}); try again"
        )
    raise error


def _describe(change: Change) -> str:
    conditions = ", ".join(f"{name}: {condition}" for name, condition in change.only_if.items())
    return f"{change.name} ({change.table.value} {'/'.join(change.key)}: {conditions})"
