"""The table of promotions."""

from __future__ import annotations

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    DecimalAttribute,
    FloatAttribute,
    Index,
    InstantAttribute,
    JournalAttribute,
)
from spot_optimizer.domain.agents import Switch

LISTING = "switch"
AGENT_INDEX = Index("agent-index", "agent_id", "switched_at")
CLIENT_INDEX = Index("client-index", "client_id", "switched_at")
LISTING_INDEX = Index("listing-index", "listing", "switched_at")


class SwitchRow(Model):
    """One promotion; attributes are those of `Switch`, and `listing`, as on the agents' rows."""

    agent_id = UnicodeAttribute(hash_key=True)
    switch_id = UnicodeAttribute(range_key=True)
    listing = UnicodeAttribute()
    client_id = UnicodeAttribute(null=True)
    epoch = NumberAttribute()
    from_instance_id = UnicodeAttribute()
    to_instance_id = UnicodeAttribute()
    from_pool_id = UnicodeAttribute()
    to_pool_id = UnicodeAttribute()
    switch_reason = UnicodeAttribute()
    basis = UnicodeAttribute()
    switched_at = InstantAttribute()
    signal_at = InstantAttribute(null=True)
    claimed_at = InstantAttribute(null=True)
    handover_opened_at = InstantAttribute(null=True)
    replica_id = UnicodeAttribute(null=True)
    served_at = InstantAttribute(null=True)
    rpo_seconds = FloatAttribute(null=True)
    lag_seconds = FloatAttribute(null=True)
    rpo_breached = BooleanAttribute()
    rto_seconds = FloatAttribute(null=True)
    rpo_bytes = NumberAttribute(null=True)
    steps = JournalAttribute()
    demote_old_primary = BooleanAttribute(null=True)
    old_primary = UnicodeAttribute(null=True)
    explanation = UnicodeAttribute(null=True)
    to_lifecycle = UnicodeAttribute(null=True)
    old_usd_per_hour = DecimalAttribute(null=True)
    new_usd_per_hour = DecimalAttribute(null=True)
    estimated_savings = DecimalAttribute(null=True)
    realised_savings = DecimalAttribute(null=True)
    realised_seconds = NumberAttribute(null=True)


def switches_table(database: Database, table_name: str) -> BoundTable[Switch]:
    """Bind the table of promotions."""
    return BoundTable(
        database,
        table_name,
        row=SwitchRow,
        value=Switch,
        indexes=(AGENT_INDEX, CLIENT_INDEX, LISTING_INDEX),
        constants={"listing": LISTING},
    )
