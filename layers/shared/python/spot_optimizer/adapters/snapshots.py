"""The table of complete snapshots; DynamoDB forgets a row some time after its expiry, which is checked on read."""

from __future__ import annotations

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    EpochSecondsAttribute,
    InstantAttribute,
    WordAttribute,
)
from spot_optimizer.domain.snapshots import Snapshot, SnapshotKind


class SnapshotRow(Model):
    """One complete snapshot; attributes are those of `Snapshot`."""

    agent_id = UnicodeAttribute(hash_key=True)
    snapshot_id = UnicodeAttribute(range_key=True)
    kind = WordAttribute(SnapshotKind)
    epoch = NumberAttribute()
    generation = NumberAttribute()
    instance_id = UnicodeAttribute()
    base_id = UnicodeAttribute()
    previous_id = UnicodeAttribute(null=True)
    taken_at = InstantAttribute()
    completed_at = InstantAttribute()
    frozen = BooleanAttribute()
    root_hash = UnicodeAttribute()
    size_bytes = NumberAttribute()
    state_bytes = NumberAttribute()
    expires_at = EpochSecondsAttribute()


def snapshots_table(database: Database, table_name: str) -> BoundTable[Snapshot]:
    """Bind the table of complete snapshots."""
    return BoundTable(database, table_name, row=SnapshotRow, value=Snapshot)
