"""Pools, and the order in which a launch tries them."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from spot_optimizer.errors import NoPoolQualifies


class Lifecycle(enum.StrEnum):
    """How an instance is bought."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True, order=True)
class Pool:
    """A spot capacity pool of Linux/UNIX instances in one region.

    Attributes:
        availability_zone: For example `us-east-1a`.
        instance_type: For example `m5.large`.
    """

    availability_zone: str
    instance_type: str

    @property
    def pool_id(self) -> str:
        """The pool's name in tables and URLs: `us-east-1a.m5.large`."""
        return f"{self.availability_zone}.{self.instance_type}"

    @classmethod
    def parse(cls, pool_id: str) -> Pool:
        """Read a pool id back.

        Raises:
            ValueError: Not of the form `zone.family.size`.
        """
        zone, _, instance_type = pool_id.partition(".")
        if not zone or instance_type.count(".") != 1 or not all(instance_type.split(".")):
            raise ValueError(
                f"'{pool_id}' is not a pool id; expected zone.family.size, for example us-east-1a.m5.large"
            )
        return cls(zone, instance_type)


@dataclass(frozen=True, slots=True)
class LaunchTarget:
    """One pool to try, and how to buy in it."""

    pool: Pool
    lifecycle: Lifecycle
    subnet_id: str


def launch_order(
    subnets: Mapping[str, str],
    instance_types: Iterable[str],
    *,
    prices: Mapping[str, Decimal],
    primary_pool_id: str,
    cooling_pool_ids: Collection[str] = (),
    excluded_zones: Collection[str] = (),
    interruptions: Mapping[str, int] | None = None,
    safest_first: bool = False,
    struck_pool_ids: Collection[str] = (),
) -> tuple[LaunchTarget, ...]:
    """Order every acceptable way to launch a standby: spot by price, pools in cooldown after the others, on-demand
    last. With the primary's own pool left out, the first is the second cheapest where the primary has the cheapest.

    A pool that interrupted somebody lately is tried late rather than never: a standby there is still better than none.
    On-demand in the primary's own pool is allowed, because its capacity and quota are separate from spot's, but only as
    the very last resort: a zone that fails takes both.

    A pool that was struck minutes ago comes after on-demand: what is launched there now is most likely part of the same
    event, and dies before it has the state. On recorded markets this halves what is lost (`make backtest`).

    Args:
        subnets: Subnet id by availability zone; a zone without a subnet of ours is no candidate.
        instance_types: What the workload may run on, in order of preference.
        prices: Current USD/hour by pool id; a pool without a price is tried after the priced ones.
        primary_pool_id: Never used for spot.
        cooling_pool_ids: Pools that interrupted an instance of ours lately.
        excluded_zones: Zones that an operator ruled out.
        interruptions: How often each pool took instances of ours back lately.
        safest_first: In an emergency what has interrupted us least comes first, and price only then.
        struck_pool_ids: Pools that gave notice to, or interrupted, an instance of ours minutes ago.

    Returns:
        One or more targets.

    Raises:
        NoPoolQualifies: No zone or no instance type is left.
    """
    types = tuple(dict.fromkeys(instance_types))
    preference = {instance_type: rank for rank, instance_type in enumerate(types)}
    candidates = [Pool(zone, kind) for zone in subnets if zone not in excluded_zones for kind in types]

    def by_cost(pool: Pool) -> tuple[bool, int, bool, Decimal, int, str]:
        price = prices.get(pool.pool_id)
        return (
            pool.pool_id in cooling_pool_ids,
            (interruptions or {}).get(pool.pool_id, 0) if safest_first else 0,
            price is None,
            price if price is not None else Decimal(0),
            preference[pool.instance_type],
            pool.availability_zone,
        )

    def last_resort(pool: Pool) -> tuple[bool, int, str]:
        return (pool.pool_id == primary_pool_id, preference[pool.instance_type], pool.availability_zone)

    spot = [pool for pool in sorted(candidates, key=by_cost) if pool.pool_id != primary_pool_id]
    by_spot = [LaunchTarget(pool, Lifecycle.SPOT, subnets[pool.availability_zone]) for pool in spot]
    on_demand = [
        LaunchTarget(pool, Lifecycle.ON_DEMAND, subnets[pool.availability_zone])
        for pool in sorted(candidates, key=last_resort)
    ]
    targets = [target for target in by_spot if target.pool.pool_id not in struck_pool_ids]
    targets += on_demand
    targets += [target for target in by_spot if target.pool.pool_id in struck_pool_ids]
    if not targets:
        raise NoPoolQualifies(
            f"no pool is left: zones with a subnet {sorted(subnets)}, excluded {sorted(excluded_zones)}, "
            f"instance types {list(types)}; allow another zone or instance type for this agent"
        )
    return tuple(targets)
