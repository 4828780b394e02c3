"""Spot prices: a step function per pool, generated or recorded, always the same for the same moment."""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from local.market.instance_types import INSTANCE_TYPES, instance_type

LINUX = "Linux/UNIX"
WINDOWS = "Windows"
_KEPT_FOR = timedelta(days=90)
_CHANGES_A_DAY = 4


@dataclass(frozen=True)
class PriceChange:
    """From this moment on, the pool costs so much."""

    availability_zone: str
    instance_type: str
    product: str
    usd_per_hour: Decimal
    changed_at: datetime


class SpotPrices:
    """Prices of every pool of a region.

    A pool named in `recorded` follows its record; every other pool follows a walk that is a pure function of pool and
    time: a mean between a quarter and a half of on-demand, a weekly swing, some noise, re-published at least daily.
    """

    def __init__(self, availability_zones: Iterable[str], recorded: Iterable[PriceChange] = ()) -> None:
        self._zones = tuple(availability_zones)
        self._recorded: dict[tuple[str, str, str], list[PriceChange]] = defaultdict(list)
        for change in recorded:
            self.record(change)

    def record(self, change: PriceChange) -> None:
        """Add a change; from the first one on, the pool's walk no longer counts."""
        known = self._recorded[change.availability_zone, change.instance_type, change.product]
        known.insert(bisect_right(known, change.changed_at, key=lambda each: each.changed_at), change)

    def current(self, availability_zone: str, type_name: str, *, now: datetime, product: str = LINUX) -> Decimal:
        """The price in force."""
        return self._changes(availability_zone, type_name, product, now, now)[-1].usd_per_hour

    def history(
        self,
        *,
        types: Iterable[str],
        zones: Iterable[str],
        products: Iterable[str],
        start: datetime,
        end: datetime,
        now: datetime,
    ) -> list[PriceChange]:
        """As DescribeSpotPriceHistory: changes in range plus the one in force at its start, newest first.

        Args:
            types: Instance types; empty for all.
            zones: Availability zones; empty for all.
            products: Product descriptions; empty for all.
            start: Clipped to 90 days ago.
            end: Clipped to now.
            now: The market's clock.
        """
        start, end = max(start, now - _KEPT_FOR), min(end, now)
        chosen_types = tuple(types) or tuple(INSTANCE_TYPES)
        chosen_zones = tuple(zones) or self._zones
        chosen_products = tuple(products) or (LINUX, WINDOWS)
        found = [
            change
            for zone in chosen_zones
            if zone in self._zones
            for name in chosen_types
            if name in INSTANCE_TYPES
            for product in chosen_products
            if product in (LINUX, WINDOWS)
            for change in self._changes(zone, name, product, start, end)
        ]
        return sorted(found, key=lambda change: change.changed_at, reverse=True)

    def _changes(self, zone: str, name: str, product: str, start: datetime, end: datetime) -> list[PriceChange]:
        """In rising order; the first is in force at `start`."""
        known = self._recorded.get((zone, name, product)) or self._walk(zone, name, product, start, end)
        in_force = max(0, bisect_right(known, start, key=lambda change: change.changed_at) - 1)
        until = bisect_right(known, end, key=lambda change: change.changed_at)
        return known[in_force : max(until, in_force + 1)]

    def _walk(self, zone: str, name: str, product: str, start: datetime, end: datetime) -> list[PriceChange]:
        on_demand = instance_type(name).usd_per_hour * (2 if product == WINDOWS else 1)
        share = random.Random(f"{zone} {name} {product}").uniform(0.26, 0.48)
        first_day, last_day = math.floor(start.timestamp() / 86_400) - 1, math.floor(end.timestamp() / 86_400)
        changes = []
        for day in range(first_day, last_day + 1):
            coin = random.Random(f"{zone} {name} {product} {day}")
            moments = sorted(coin.randrange(86_400) for _ in range(coin.randint(1, _CHANGES_A_DAY)))
            for moment in moments:
                swing = 0.06 * math.sin((day % 7 + moment / 86_400) * math.tau / 7) + coin.gauss(0, 0.02)
                price = on_demand * Decimal(str(round(min(0.95, max(0.1, share * (1 + swing))), 6)))
                changes.append(
                    PriceChange(
                        zone,
                        name,
                        product,
                        max(price.quantize(Decimal("0.0001")), Decimal("0.0001")),
                        datetime.fromtimestamp(day * 86_400 + moment, UTC),
                    )
                )
        return changes


def read_price_file(path: Path) -> list[PriceChange]:
    """Read a recorded trace.

    Args:
        path: CSV with the columns timestamp, availability_zone, instance_type, product, usd_per_hour.
    """
    with path.open(newline="") as file:
        return [
            PriceChange(
                row["availability_zone"],
                row["instance_type"],
                row["product"],
                Decimal(row["usd_per_hour"]),
                datetime.fromisoformat(row["timestamp"]).astimezone(UTC),
            )
            for row in csv.DictReader(file)
        ]
