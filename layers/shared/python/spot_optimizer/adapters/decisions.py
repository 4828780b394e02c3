"""The table of decisions: of each agent one row per decision, the latest last; DynamoDB forgets them by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from pynamodb.attributes import Attribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    DecimalAttribute,
    EpochSecondsAttribute,
    InstantAttribute,
    WordAttribute,
)
from spot_optimizer.domain.decisions import Reason, Verdict
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import RiskBasis
from spot_optimizer.domain.stored_decisions import KEPT_FOR, StoredDecision, WeighedOffer
from spot_optimizer.errors import Transient

WRITERS = 8
"""Rows that are written at a time."""


class WordsByNameAttribute(Attribute[Mapping[str, str]]):
    """Words by name, as JSON: they are only ever read together."""

    attr_type = "S"

    def serialize(self, value: Mapping[str, str]) -> str:
        return json.dumps(dict(value), separators=(",", ":"))

    def deserialize(self, value: str) -> Mapping[str, str]:
        words: dict[str, str] = json.loads(value)
        return words


class OffersAttribute(Attribute[tuple[WeighedOffer, ...]]):
    """Offers as JSON, each a list in the order of the fields: a decision has dozens, and a fleet thousands of those."""

    attr_type = "S"

    def serialize(self, value: tuple[WeighedOffer, ...]) -> str:
        return json.dumps([[_plain(getattr(offer, name)) for name in _NAMES] for offer in value], separators=(",", ":"))

    def deserialize(self, value: str) -> tuple[WeighedOffer, ...]:
        return tuple(_offer(dict(zip(_NAMES, row, strict=True))) for row in json.loads(value))


class DecisionRow(Model):
    """One decision; attributes are those of `StoredDecision`."""

    agent_id = UnicodeAttribute(hash_key=True)
    decided_at = InstantAttribute(range_key=True)
    client_id = UnicodeAttribute()
    epoch = NumberAttribute()
    verdict = WordAttribute(Verdict)
    reason = WordAttribute(Reason)
    pool_id = UnicodeAttribute()
    lifecycle = WordAttribute(Lifecycle)
    current_pool_id = UnicodeAttribute()
    current_lifecycle = WordAttribute(Lifecycle)
    since = InstantAttribute()
    standby_pool_id = UnicodeAttribute(null=True)
    held_standby_pool_id = UnicodeAttribute(null=True)
    saving_usd_per_hour = DecimalAttribute()
    saving = DecimalAttribute()
    risk_within_1h = DecimalAttribute()
    risk_within_6h = DecimalAttribute()
    risk_basis = WordAttribute(RiskBasis)
    risk_note = UnicodeAttribute()
    confidence_score = DecimalAttribute()
    model_version = UnicodeAttribute(null=True)
    without_model_because = UnicodeAttribute()
    explanation = UnicodeAttribute()
    rules = WordsByNameAttribute()
    failover = WordsByNameAttribute()
    offers = OffersAttribute()
    forget_at = EpochSecondsAttribute()


def decisions_table(database: Database, table_name: str) -> BoundTable[StoredDecision]:
    """Bind the table of decisions."""
    return BoundTable(database, table_name, row=DecisionRow, value=StoredDecision)


class DynamoDecisions:
    """Implements `Decisions`.

    Args:
        database: The connection.
        table_name: Tells the physical name; asked when the table is first used.
    """

    def __init__(self, database: Database, *, table_name: Callable[[], str]) -> None:
        self._database = database
        self._table_name = table_name

    @cached_property
    def _decisions(self) -> BoundTable[StoredDecision]:
        return decisions_table(self._database, self._table_name())

    def latest(self, agent_id: str) -> StoredDecision | None:
        """The last decision for an agent; may lag behind."""
        return self._decisions.last(agent_id)

    def made_at(self, agent_id: str, decided_at: datetime) -> StoredDecision | None:
        """One decision, read consistently."""
        return self._decisions.get(agent_id, decided_at.astimezone(UTC).isoformat(timespec="microseconds"))

    def keep(self, decisions: Sequence[StoredDecision]) -> int:
        """Keep decisions; one that can not be kept holds up no other.

        Returns:
            How many could not be kept; the next decision for their agents makes up for it.
        """
        if not decisions:
            return 0
        # The connection makes its client on first use, and is not made for several threads doing that.
        _ = self._database.connection.client, self._decisions

        def put(decision: StoredDecision) -> bool:
            try:
                self._decisions.put(decision, forget_at=decision.decided_at + KEPT_FOR)
            except Transient:
                return False
            return True

        with ThreadPoolExecutor(max_workers=min(WRITERS, len(decisions))) as writers:
            return sum(not is_kept for is_kept in writers.map(put, decisions))


_NAMES = tuple(field.name for field in fields(WeighedOffer))


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
    return value


def _offer(stored: Mapping[str, Any]) -> WeighedOffer:
    def number(name: str) -> Decimal | None:
        return None if stored[name] is None else Decimal(stored[name])

    seen_at = stored["price_seen_at"]
    return WeighedOffer(
        pool_id=stored["pool_id"],
        lifecycle=Lifecycle(stored["lifecycle"]),
        usd_per_hour=number("usd_per_hour"),
        price_seen_at=None if seen_at is None else datetime.fromisoformat(seen_at),
        price_confidence=Decimal(stored["price_confidence"]),
        risk_within_1h=Decimal(stored["risk_within_1h"]),
        risk_within_6h=Decimal(stored["risk_within_6h"]),
        risk_basis=RiskBasis(stored["risk_basis"]),
        risk_note=stored["risk_note"],
        expected_usd_per_hour=number("expected_usd_per_hour"),
        excluded_because=stored["excluded_because"],
    )
