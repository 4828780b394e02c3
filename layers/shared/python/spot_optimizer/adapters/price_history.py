"""AWS's own spot price history, which is exact and reaches back 90 days."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import batched

from spot_optimizer.adapters.sessions import Clients, service_failures
from spot_optimizer.domain.pools import Pool
from spot_optimizer.domain.price_submissions import PRODUCT
from spot_optimizer.domain.prices import PriceChange

_SERVICE = "EC2"
_TYPES_AT_ONCE = 50
_FILTER_VALUES_AT_ONCE = 100


class Ec2PriceHistory:
    """Implements `PriceHistory`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def changes(
        self, pool_ids: Collection[str], since: datetime, until: datetime
    ) -> Mapping[str, Sequence[PriceChange]]:
        """What AWS published of these pools, with the price in force at `since`; by pool id, in no order.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: EC2 did not answer.
        """
        wanted = frozenset(pool_ids)
        pools = [Pool.parse(pool_id) for pool_id in sorted(wanted)]
        zones = sorted({pool.availability_zone for pool in pools})
        found: dict[str, list[PriceChange]] = defaultdict(list)
        for types in batched(sorted({pool.instance_type for pool in pools}), _TYPES_AT_ONCE, strict=False):
            with service_failures(_SERVICE):
                pages = self._clients.ec2.get_paginator("describe_spot_price_history").paginate(
                    StartTime=since,
                    EndTime=until,
                    ProductDescriptions=[PRODUCT],
                    # As a filter, so that a type which EC2 does not know costs nobody else's prices.
                    Filters=[
                        {"Name": "availability-zone", "Values": zones},
                        {"Name": "instance-type", "Values": list(types)},
                    ],
                )
                for page in pages:
                    for row in page["SpotPriceHistory"]:
                        pool_id = Pool(row["AvailabilityZone"], row["InstanceType"]).pool_id
                        if pool_id in wanted:
                            found[pool_id].append(PriceChange(row["Timestamp"], Decimal(row["SpotPrice"])))
        return found

    def zones(self, subnet_ids: Collection[str]) -> Mapping[str, str]:
        """Availability zone by subnet id; a subnet that is gone is absent. Raises as `changes`."""
        found: dict[str, str] = {}
        for some in batched(sorted(set(subnet_ids)), _FILTER_VALUES_AT_ONCE, strict=False):
            with service_failures(_SERVICE):
                pages = self._clients.ec2.get_paginator("describe_subnets").paginate(
                    Filters=[{"Name": "subnet-id", "Values": list(some)}]
                )
                found |= {
                    subnet["SubnetId"]: subnet["AvailabilityZone"] for page in pages for subnet in page["Subnets"]
                }
        return found
