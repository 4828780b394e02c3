"""AWS's price list in memory."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from spot_optimizer.errors import ControlPlaneUnavailable


class FakePriceList:
    """Implements `PriceList`.

    Attributes:
        usd_per_hour: By instance type.
        silent: The list answers for all types but these.
        asked: Every question, in order.
    """

    def __init__(self, usd_per_hour: Mapping[str, str]) -> None:
        self.usd_per_hour = {instance_type: Decimal(usd) for instance_type, usd in usd_per_hour.items()}
        self.silent: set[str] = set()
        self.asked: list[str] = []

    def on_demand_usd_per_hour(self, instance_type: str) -> Decimal | None:
        self.asked.append(instance_type)
        if instance_type in self.silent:
            raise ControlPlaneUnavailable("the price list did not answer; try again")
        return self.usd_per_hour.get(instance_type)
