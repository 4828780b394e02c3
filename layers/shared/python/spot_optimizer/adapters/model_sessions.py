"""The tables of uploaded models: their sessions, and the one row that says which is live."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    EpochSecondsAttribute,
    Index,
    InstantAttribute,
    JournalAttribute,
    Page,
    WordAttribute,
    WordsAttribute,
)
from spot_optimizer.adapters.transactions import Writer
from spot_optimizer.domain.model_sessions import MODEL, ModelSession, SessionStatus, Slots
from spot_optimizer.domain.writes import Table, Transaction
from spot_optimizer.errors import ModelSessionUnknown

LISTING = "model"
LISTING_INDEX = Index("listing-index", "listing", "session_id")


class ModelSessionRow(Model):
    """One session; attributes are those of `ModelSession`, and `listing`, which puts all under one key of an index."""

    session_id = UnicodeAttribute(hash_key=True)
    listing = UnicodeAttribute()
    status = WordAttribute(SessionStatus)
    created_at = InstantAttribute()
    created_by = UnicodeAttribute()
    file_names = WordsAttribute()
    trained_from = InstantAttribute()
    trained_until = InstantAttribute()
    metrics = UnicodeAttribute()
    is_live = BooleanAttribute()
    is_fallback = BooleanAttribute()
    reason = UnicodeAttribute(null=True)
    forced_because = UnicodeAttribute(null=True)
    findings = JournalAttribute()
    activated_at = InstantAttribute(null=True)
    forget_at = EpochSecondsAttribute(null=True)


class SlotsRow(Model):
    """What is live; attributes are those of `Slots`."""

    model = UnicodeAttribute(hash_key=True)
    revision = NumberAttribute()
    activation = NumberAttribute()
    live_session_id = UnicodeAttribute(null=True)
    fallback_session_id = UnicodeAttribute(null=True)
    activating_session_id = UnicodeAttribute(null=True)
    activation_key = UnicodeAttribute(null=True)
    begun_at = InstantAttribute(null=True)
    unconfirmed = BooleanAttribute()
    displaced_session_id = UnicodeAttribute(null=True)
    fallback_key = UnicodeAttribute(null=True)
    changed_at = InstantAttribute(null=True)


class DynamoModels:
    """Implements `ModelRecords`.

    Args:
        database: The connection.
        sessions_table_name: Tells the physical name; asked when the table is first used.
        slots_table_name: As well.
    """

    def __init__(
        self, database: Database, *, sessions_table_name: Callable[[], str], slots_table_name: Callable[[], str]
    ) -> None:
        self._database = database
        self._sessions_table_name = sessions_table_name
        self._slots_table_name = slots_table_name

    @cached_property
    def _sessions(self) -> BoundTable[ModelSession]:
        return BoundTable(
            self._database,
            self._sessions_table_name(),
            row=ModelSessionRow,
            value=ModelSession,
            indexes=(LISTING_INDEX,),
            constants={"listing": LISTING},
        )

    @cached_property
    def _slots(self) -> BoundTable[Slots]:
        return BoundTable(self._database, self._slots_table_name(), row=SlotsRow, value=Slots)

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self._database, {Table.MODEL_SESSIONS: self._sessions, Table.MODEL_SLOTS: self._slots})

    def slots(self) -> Slots:
        """What serves, and what is under way."""
        return self._slots.get(MODEL) or Slots()

    def session(self, session_id: str) -> ModelSession:
        """Raises: ModelSessionUnknown."""
        session = self._sessions.get(session_id)
        if session is None:
            raise ModelSessionUnknown(f"no model session '{session_id}'; expected one that GET lists; upload the model")
        return session

    def page(self, *, after: str | None, limit: int) -> Page[ModelSession]:
        """One page of all sessions, by id; forgotten ones may be among them."""
        return self._sessions.page(LISTING_INDEX, LISTING, after=after, limit=limit)

    def commit(self, transaction: Transaction) -> None:
        """Write all changes or none; raises as `Records.commit`."""
        self._writer.commit(transaction)
