"""Pools whose prices are kept: those in which an agent runs, or may be launched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.pools import Pool
from spot_optimizer.domain.prices import PriceChange
from spot_optimizer.domain.writes import Change, Missing, Table

WANTED_BY_AT_MOST = 20
"""So many agents are named on a pool's row; it must not grow with the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOfInterest:
    """A pool whose prices are kept.

    Attributes:
        pool_id: As `pools.Pool.pool_id`.
        availability_zone: For example `us-east-1a`.
        instance_type: For example `m5.large`.
        wanted_by: Agents that run in it or may be launched into it, `WANTED_BY_AT_MOST` of them. None: no agent wants
            it any more; what is known is kept, and nothing new is collected.
        on_demand_usd_per_hour: What the instance type costs on demand; none while nobody has looked.
        changed_at: When AWS last changed the pool's price, as far as was collected.
        usd_per_hour: The price since then.
    """

    pool_id: str
    availability_zone: str
    instance_type: str
    wanted_by: tuple[str, ...] = ()
    on_demand_usd_per_hour: Decimal | None = None
    changed_at: datetime | None = None
    usd_per_hour: Decimal | None = None


def wanted(agents: Iterable[Agent], zones: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Tell which pools agents want.

    Args:
        agents: All that are not lost.
        zones: Availability zone by subnet id; a subnet that is gone is absent.

    Returns:
        The agents that want it by pool id, at most `WANTED_BY_AT_MOST` each, in a fixed order.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for agent in agents:
        found[agent.primary_pool_id].add(agent.agent_id)
        for subnet_id in agent.subnet_ids:
            if zone := zones.get(subnet_id):
                for instance_type in agent.instance_types:
                    found[Pool(zone, instance_type).pool_id].add(agent.agent_id)
    return {pool_id: tuple(sorted(agent_ids)[:WANTED_BY_AT_MOST]) for pool_id, agent_ids in sorted(found.items())}


def want(pool_id: str, agent_ids: tuple[str, ...], known: PoolOfInterest | None) -> Change | None:
    """The write after which a pool's row names who wants it; none where it already does.

    Args:
        pool_id: A well-formed pool id.
        agent_ids: Who wants it, as `wanted` tells; empty for nobody.
        known: The row as it is.
    """
    if known is not None:
        if known.wanted_by == agent_ids:
            return None
        return Change(Table.POOLS, (pool_id,), "name who wants the pool", put={"wanted_by": agent_ids})
    pool = Pool.parse(pool_id)
    return Change(
        Table.POOLS,
        (pool_id,),
        "take up a pool",
        only_if={"pool_id": Missing()},
        put={
            "availability_zone": pool.availability_zone,
            "instance_type": pool.instance_type,
            "wanted_by": agent_ids,
        },
    )


def note_change(pool_id: str, change: PriceChange) -> Change:
    """The write that notes the last change which was collected."""
    return Change(
        Table.POOLS,
        (pool_id,),
        "note the last change of the price",
        put={"changed_at": change.changed_at, "usd_per_hour": change.usd_per_hour},
    )
