"""The replicas' table, keyed by agent."""

from __future__ import annotations

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    DecimalAttribute,
    FloatAttribute,
    InstantAttribute,
    JournalAttribute,
    WordAttribute,
    WordsAttribute,
)
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.signals import SignalType


class ReplicaRow(Model):
    """One replica; attributes are those of `Replica`."""

    agent_id = UnicodeAttribute(hash_key=True)
    replica_id = UnicodeAttribute(range_key=True)
    type = WordAttribute(ReplicaType)
    status = WordAttribute(ReplicaState)
    epoch = NumberAttribute()
    created_by = UnicodeAttribute()
    created_at = InstantAttribute()
    requested_pool_id = UnicodeAttribute(null=True)
    exclude_zones = WordsAttribute()
    pool_id = UnicodeAttribute(null=True)
    lifecycle = UnicodeAttribute(null=True)
    instance_id = UnicodeAttribute(null=True)
    readiness = NumberAttribute()
    launch_number = NumberAttribute()
    attempts = JournalAttribute()
    generation = NumberAttribute()
    sync_percent = FloatAttribute()
    lag_seconds = FloatAttribute(null=True)
    covered_until = InstantAttribute(null=True)
    sync_done_bytes = NumberAttribute(null=True)
    sync_total_bytes = NumberAttribute(null=True)
    sync_bytes_per_second = FloatAttribute(null=True)
    ready_at = InstantAttribute(null=True)
    ended_at = InstantAttribute(null=True)
    failure = UnicodeAttribute(null=True)
    task_token = UnicodeAttribute(null=True)
    requested_lifecycle = UnicodeAttribute(null=True)
    switch_reason = WordAttribute(SignalType, null=True)
    switch_explanation = UnicodeAttribute(null=True)
    switch_asked_at = InstantAttribute(null=True)
    switch_handovers_before = NumberAttribute()
    old_usd_per_hour = DecimalAttribute(null=True)
    new_usd_per_hour = DecimalAttribute(null=True)


def replicas_table(database: Database, table_name: str) -> BoundTable[Replica]:
    """Bind the replicas' table."""
    return BoundTable(database, table_name, row=ReplicaRow, value=Replica)
