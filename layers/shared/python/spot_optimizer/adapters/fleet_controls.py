"""The table of what holds for all agents; it has a row or two."""

from __future__ import annotations

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import BoundTable, Database, InstantAttribute, JournalAttribute
from spot_optimizer.domain.pauses import FleetControl


class FleetControlRow(Model):
    """One row; attributes are those of `FleetControl`."""

    control_id = UnicodeAttribute(hash_key=True)
    paused_at = InstantAttribute(null=True)
    paused_because = UnicodeAttribute(null=True)
    sweep_number = NumberAttribute(null=True)
    swept_at = InstantAttribute(null=True)
    sightings = JournalAttribute(null=True)
    ended = JournalAttribute(null=True)
    ended_at = InstantAttribute(null=True)
    halted_because = UnicodeAttribute(null=True)


def fleet_controls_table(database: Database, table_name: str) -> BoundTable[FleetControl]:
    """Bind the table."""
    return BoundTable(database, table_name, row=FleetControlRow, value=FleetControl)
