"""The table of what holds for all agents; it has one row."""

from __future__ import annotations

from pynamodb.attributes import UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import BoundTable, Database, InstantAttribute
from spot_optimizer.domain.pauses import FleetControl


class FleetControlRow(Model):
    """The one row; attributes are those of `FleetControl`."""

    control_id = UnicodeAttribute(hash_key=True)
    paused_at = InstantAttribute(null=True)
    paused_because = UnicodeAttribute(null=True)


def fleet_controls_table(database: Database, table_name: str) -> BoundTable[FleetControl]:
    """Bind the table."""
    return BoundTable(database, table_name, row=FleetControlRow, value=FleetControl)
