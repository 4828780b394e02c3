"""AWS's price history in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from spot_optimizer.domain.prices import PriceChange
from spot_optimizer.errors import ControlPlaneUnavailable


class FakePriceHistory:
    """Implements `PriceHistory`.

    Attributes:
        published: Every row by pool id, republications among them.
        zone_of: Availability zone by subnet id.
        silent: Whether EC2 does not answer.
        asked: Every question, in order.
    """

    def __init__(self, published: Mapping[str, Sequence[PriceChange]], zone_of: Mapping[str, str] = {}) -> None:
        self.published = {pool_id: list(changes) for pool_id, changes in published.items()}
        self.zone_of = dict(zone_of)
        self.silent = False
        self.asked: list[tuple[tuple[str, ...], datetime, datetime]] = []

    def changes(
        self, pool_ids: Collection[str], since: datetime, until: datetime
    ) -> Mapping[str, Sequence[PriceChange]]:
        self.asked.append((tuple(sorted(pool_ids)), since, until))
        if self.silent:
            raise ControlPlaneUnavailable("EC2 did not answer; try again")
        found = {}
        for pool_id in pool_ids:
            rows = sorted(self.published.get(pool_id, ()), key=lambda change: change.changed_at)
            before = [change for change in rows if change.changed_at <= since][-1:]
            found[pool_id] = [*(change for change in rows if since < change.changed_at <= until), *before]
        return found

    def zones(self, subnet_ids: Collection[str]) -> Mapping[str, str]:
        return {subnet_id: self.zone_of[subnet_id] for subnet_id in subnet_ids if subnet_id in self.zone_of}
