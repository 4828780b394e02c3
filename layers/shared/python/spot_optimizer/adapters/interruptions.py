"""The table of interruption events."""

from __future__ import annotations

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    FloatAttribute,
    Index,
    InstantAttribute,
    JournalAttribute,
)
from spot_optimizer.domain.agents import Interruption

LISTING = "interruption"
AGENT_INDEX = Index("agent-index", "agent_id", "detected_at")
CLIENT_INDEX = Index("client-index", "client_id", "detected_at")
LISTING_INDEX = Index("listing-index", "listing", "detected_at")
POOL_INDEX = Index("pool-index", "pool_id", "detected_at")


class InterruptionRow(Model):
    """One recorded signal; attributes are those of `Interruption`, and `listing`, as on the agents' rows."""

    agent_id = UnicodeAttribute(hash_key=True)
    event_id = UnicodeAttribute(range_key=True)
    listing = UnicodeAttribute()
    client_id = UnicodeAttribute(null=True)
    instance_id = UnicodeAttribute()
    pool_id = UnicodeAttribute()
    signal_type = UnicodeAttribute()
    detected_at = InstantAttribute()
    termination_time = InstantAttribute(null=True)
    response_action = UnicodeAttribute(null=True)
    replica_id = UnicodeAttribute(null=True)
    epoch = NumberAttribute(null=True)
    failover_completed = BooleanAttribute()
    failover_time_ms = NumberAttribute(null=True)
    failure = UnicodeAttribute(null=True)
    rto_seconds = FloatAttribute(null=True)
    rpo_seconds = FloatAttribute(null=True)
    lag_seconds = FloatAttribute(null=True)
    rpo_bytes = NumberAttribute(null=True)
    steps = JournalAttribute()


def interruptions_table(database: Database, table_name: str) -> BoundTable[Interruption]:
    """Bind the table of interruption events."""
    return BoundTable(
        database,
        table_name,
        row=InterruptionRow,
        value=Interruption,
        indexes=(AGENT_INDEX, CLIENT_INDEX, LISTING_INDEX, POOL_INDEX),
        constants={"listing": LISTING},
    )
