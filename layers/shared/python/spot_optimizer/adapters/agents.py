"""The agents' table."""

from __future__ import annotations

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    FloatAttribute,
    Index,
    InstantAttribute,
    WordAttribute,
    WordsAttribute,
)
from spot_optimizer.domain.agents import Agent, HandoverState, TrafficAdapter

LISTING = "agent"
LISTING_INDEX = Index("listing-index", "listing", "agent_id")
CLIENT_INDEX = Index("client-index", "client_id", "agent_id")


class AgentRow(Model):
    """One agent; attributes are those of `Agent`, and `listing`, which puts all agents under one key of an index."""

    agent_id = UnicodeAttribute(hash_key=True)
    listing = UnicodeAttribute()
    client_id = UnicodeAttribute()
    name = UnicodeAttribute()
    epoch = NumberAttribute()
    primary_instance_id = UnicodeAttribute()
    primary_pool_id = UnicodeAttribute()
    registered_at = InstantAttribute()
    launch_template_id = UnicodeAttribute()
    instance_types = WordsAttribute()
    subnet_ids = WordsAttribute()
    traffic_adapter = WordAttribute(TrafficAdapter)
    traffic_target = UnicodeAttribute(null=True)
    traffic_epoch = NumberAttribute()
    auto_switch = BooleanAttribute()
    auto_replica = BooleanAttribute()
    manual_replica = BooleanAttribute()
    sync_interval_seconds = FloatAttribute()
    replica_count = NumberAttribute()
    active_replica_id = UnicodeAttribute(null=True)
    claim_epoch = NumberAttribute()
    claim_attempt = NumberAttribute()
    claim_handovers_before = NumberAttribute()
    claim_open = BooleanAttribute()
    claim_urgency = NumberAttribute()
    claim_signal = UnicodeAttribute(null=True)
    claim_signal_at = InstantAttribute(null=True)
    claim_deadline = InstantAttribute(null=True)
    claim_demotes = BooleanAttribute(null=True)
    claimed_at = InstantAttribute(null=True)
    handover_id = UnicodeAttribute(null=True)
    handover_state = WordAttribute(HandoverState)
    handover_replica_id = UnicodeAttribute(null=True)
    handover_readiness = NumberAttribute(null=True)
    handover_opened_at = InstantAttribute(null=True)
    handover_primary_dead = BooleanAttribute()
    handover_snapshot_id = UnicodeAttribute(null=True)
    handover_count = NumberAttribute()
    task_token = UnicodeAttribute(null=True)
    last_failover_at = InstantAttribute(null=True)
    snapshot_id = UnicodeAttribute(null=True)
    snapshot_taken_at = InstantAttribute(null=True)
    snapshot_expires_at = InstantAttribute(null=True)
    lost = BooleanAttribute()
    rebalance_threshold = FloatAttribute()
    quiet_seconds = NumberAttribute()
    paused_at = InstantAttribute(null=True)
    paused_because = UnicodeAttribute(null=True)
    usd_per_outage_second = FloatAttribute()
    switch_minimum_saving = FloatAttribute()
    switch_dwell_seconds = NumberAttribute()
    switch_hysteresis = FloatAttribute()
    switches_per_day = NumberAttribute()
    maintenance_windows = WordsAttribute()


def agents_table(database: Database, table_name: str) -> BoundTable[Agent]:
    """Bind the agents' table."""
    return BoundTable(
        database,
        table_name,
        row=AgentRow,
        value=Agent,
        indexes=(LISTING_INDEX, CLIENT_INDEX),
        constants={"listing": LISTING},
    )
