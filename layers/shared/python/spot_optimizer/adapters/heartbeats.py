"""The heartbeats' table: one row per instance of an agent, with one writer, so that no promotion ever waits for it."""

from __future__ import annotations

from datetime import timedelta

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    EpochSecondsAttribute,
    FloatAttribute,
    InstantAttribute,
)
from spot_optimizer.domain.agents import Heartbeat

FORGOTTEN_AFTER = timedelta(days=30)


class HeartbeatRow(Model):
    """One instance's last sign of life; attributes are those of `Heartbeat`, and when the row may be forgotten."""

    agent_id = UnicodeAttribute(hash_key=True)
    instance_id = UnicodeAttribute(range_key=True)
    epoch = NumberAttribute()
    role = UnicodeAttribute()
    serving = BooleanAttribute()
    healthy = BooleanAttribute()
    at = InstantAttribute()
    agent_version = UnicodeAttribute()
    protection = UnicodeAttribute(null=True)
    state_bytes = NumberAttribute(null=True)
    state_bytes_per_second = FloatAttribute(null=True)
    changed_bytes_per_second = FloatAttribute(null=True)
    snapshot_usd_per_day = FloatAttribute(null=True)
    forget_at = EpochSecondsAttribute()


class Heartbeats:
    """The last sign of life of each instance."""

    def __init__(self, database: Database, table_name: str) -> None:
        self._table = BoundTable(database, table_name, row=HeartbeatRow, value=Heartbeat)

    def get(self, agent_id: str, instance_id: str) -> Heartbeat | None:
        """The last sign of life of an instance."""
        return self._table.get(agent_id, instance_id)

    def put(self, heartbeat: Heartbeat) -> None:
        """Replace the instance's last sign of life."""
        self._table.put(heartbeat, forget_at=heartbeat.at + FORGOTTEN_AFTER)
