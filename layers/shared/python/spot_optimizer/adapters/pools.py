"""The table of the pools whose prices are kept."""

from __future__ import annotations

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    DecimalAttribute,
    Index,
    InstantAttribute,
    WordsAttribute,
)
from spot_optimizer.domain.pools_of_interest import PoolOfInterest

LISTING = "pool"
LISTING_INDEX = Index("listing-index", "listing", "pool_id")


class PoolRow(Model):
    """One pool; attributes are those of `PoolOfInterest`, and `listing`, which puts all under one key of an index."""

    pool_id = UnicodeAttribute(hash_key=True)
    listing = UnicodeAttribute()
    availability_zone = UnicodeAttribute()
    instance_type = UnicodeAttribute()
    wanted_by = WordsAttribute()
    on_demand_usd_per_hour = DecimalAttribute(null=True)
    on_demand_asked_at = InstantAttribute(null=True)
    changed_at = InstantAttribute(null=True)
    usd_per_hour = DecimalAttribute(null=True)
    advisor_band = NumberAttribute(null=True)
    advisor_asked_at = InstantAttribute(null=True)


def pools_table(database: Database, table_name: str) -> BoundTable[PoolOfInterest]:
    """Bind the table of pools."""
    return BoundTable(
        database,
        table_name,
        row=PoolRow,
        value=PoolOfInterest,
        indexes=(LISTING_INDEX,),
        constants={"listing": LISTING},
    )
