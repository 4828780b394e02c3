"""Conditional writes as data.

Every rule that fences or makes a step idempotent is a condition on a row. Rules build these values; an adapter turns
them into DynamoDB expressions, a simulator evaluates them on its own tables. So the conditions that run in production
are the conditions that were tested, and each can be removed alone to prove that a test notices.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Table(enum.Enum):
    """The tables that conditional writes address; the value is the aggregate's name."""

    AGENTS = "agents"
    REPLICAS = "replica_instances"
    INSTANCES = "instances"
    INTERRUPTIONS = "spot_interruption_events"
    SWITCHES = "instance_switches"
    FLEET_CONTROLS = "fleet_controls"
    TOKENS = "tokens"
    MODEL_SESSIONS = "model_upload_sessions"
    MODEL_SLOTS = "model_slots"
    SNAPSHOTS = "state_snapshots"
    POOLS = "pools"
    CLEAN_PRICES = "pricing_snapshots_clean"
    INFERRED_PRICES = "pricing_snapshots_interpolated"


@dataclass(frozen=True, slots=True)
class Equals:
    """The attribute holds this value."""

    value: Any


@dataclass(frozen=True, slots=True)
class OneOf:
    """The attribute holds one of these values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Below:
    """The attribute is a number less than this."""

    value: int


@dataclass(frozen=True, slots=True)
class AtMost:
    """The attribute is a number, this or less."""

    value: int


@dataclass(frozen=True, slots=True)
class Missing:
    """The attribute (or, on a key attribute, the row) does not exist."""


@dataclass(frozen=True, slots=True)
class Present:
    """The attribute (or, on a key attribute, the row) exists."""


@dataclass(frozen=True, slots=True)
class MissingOrAbove:
    """The attribute does not exist, or is a string that sorts after this one."""

    value: str


Condition = Equals | OneOf | Below | AtMost | Missing | Present | MissingOrAbove


@dataclass(frozen=True, slots=True)
class Change:
    """One conditional write of one row.

    Attributes:
        table: Which table.
        key: The hash key, then the range key where the table has one.
        only_if: Conditions by attribute; all must hold, or nothing of the transaction is written.
        put: Values to set by attribute. `None` removes the attribute.
        name: What the change is for; names the condition in histories and in messages.
    """

    table: Table
    key: tuple[str, ...]
    name: str
    only_if: Mapping[str, Condition] = field(default_factory=dict)
    put: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_check(self) -> bool:
        """Whether the change only asserts its conditions and writes nothing."""
        return not self.put


@dataclass(frozen=True, slots=True)
class Transaction:
    """Changes that are written all or not at all.

    Attributes:
        name: What the transaction is for.
        changes: One to 100; one change is a plain conditional write.
    """

    name: str
    changes: tuple[Change, ...]


def holds(condition: Condition, value: Any) -> bool:
    """Evaluate a condition as DynamoDB does; a missing attribute is `None` and satisfies `Missing` alone."""
    match condition:
        case Missing():
            return value is None
        case Present():
            return value is not None
        case Equals(expected):
            return value is not None and bool(value == expected)
        case OneOf(values):
            return value is not None and value in values
        case Below(limit):
            return value is not None and bool(value < limit)
        case AtMost(limit):
            return value is not None and bool(value <= limit)
        case MissingOrAbove(limit):
            return value is None or bool(value > limit)
