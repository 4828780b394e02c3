"""The instances' table."""

from __future__ import annotations

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import BoundTable, Database, Index, InstantAttribute, WordAttribute
from spot_optimizer.domain.agents import Instance, InstanceRole

AGENT_INDEX = Index("agent-index", "agent_id", "joined_at")
CLIENT_INDEX = Index("client-index", "client_id", "joined_at")


class InstanceRow(Model):
    """One instance; attributes are those of `Instance`."""

    instance_id = UnicodeAttribute(hash_key=True)
    agent_id = UnicodeAttribute()
    client_id = UnicodeAttribute()
    role = WordAttribute(InstanceRole)
    pool_id = UnicodeAttribute()
    epoch = NumberAttribute()
    private_address = UnicodeAttribute()
    sync_port = NumberAttribute()
    certificate = UnicodeAttribute()
    joined_at = InstantAttribute()
    replica_id = UnicodeAttribute(null=True)
    launched_at = InstantAttribute(null=True)


def instances_table(database: Database, table_name: str) -> BoundTable[Instance]:
    """Bind the instances' table."""
    return BoundTable(database, table_name, row=InstanceRow, value=Instance, indexes=(AGENT_INDEX, CLIENT_INDEX))
