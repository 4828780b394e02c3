"""Where a standby may go: the catalogue of an agent's pools, with what can be found out about them now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from spot_optimizer.control.plane import Plane
from spot_optimizer.domain import catalogue, pools
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.catalogue import Candidate, InstanceKind
from spot_optimizer.domain.pools import LaunchTarget, Pool
from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.errors import Transient
from spot_optimizer.ports import Prices


@dataclass(frozen=True, slots=True)
class TypesTold:
    """What AWS tells of instance types at its leisure, by type; what it has not told (yet) is absent.

    Attributes:
        on_demand: USD/hour.
        bands: How often it interrupts them.
    """

    on_demand: Mapping[str, Decimal]
    bands: Mapping[str, AdvisorBand]


_NOTHING_TOLD = TypesTold({}, {})


def candidates(
    plane: Plane,
    agent: Agent,
    zones: Sequence[str],
    *,
    excluded_zones: Sequence[str] = (),
    told: TypesTold = _NOTHING_TOLD,
) -> tuple[Candidate, ...]:
    """The agent's pools in these zones.

    What can not be found out now is left out: prices, histories and sizes only order pools, or keep out what would not
    boot, and a standby in a worse place is better than none.
    """
    pool_ids = [Pool(zone, kind).pool_id for zone in zones for kind in agent.instance_types]
    prices: Mapping[str, Decimal] = {}
    interruptions: Mapping[str, Sequence[datetime]] = {}
    kinds: Mapping[str, InstanceKind] = {}
    now = plane.clock()
    try:
        kinds = plane.compute.kinds(agent.instance_types)
        prices = plane.compute.prices(zones, agent.instance_types)
        interruptions = plane.fleet.interruptions_of_pools(pool_ids, now - catalogue.LOOKBACK)
    except Transient:
        pass
    return catalogue.list_candidates(
        zones,
        agent.instance_types,
        primary_pool_id=agent.primary_pool_id,
        now=now,
        excluded_zones=excluded_zones,
        kinds=kinds,
        prices=prices,
        on_demand=told.on_demand,
        interruptions=interruptions,
        bands=told.bands,
    )


def launch_order(
    plane: Plane,
    agent: Agent,
    subnets: Mapping[str, str],
    *,
    excluded_zones: Sequence[str],
    safest_first: bool,
    under_notice: bool = False,
) -> tuple[LaunchTarget, ...]:
    """Every way to launch a standby of the agent, in the order in which they are tried.

    What is not urgent may go to a pool that was struck minutes ago, when nothing better is left on spot. A replacement
    under notice has no time to lose there.

    Raises:
        NoPoolQualifies: There is none.
    """
    known = candidates(plane, agent, tuple(subnets), excluded_zones=excluded_zones)
    unfit = {one.pool.instance_type for one in known if one.unfit_because}
    return pools.launch_order(
        subnets,
        [kind for kind in agent.instance_types if kind not in unfit],
        prices={one.pool.pool_id: one.usd_per_hour for one in known if one.usd_per_hour is not None},
        primary_pool_id=agent.primary_pool_id,
        cooling_pool_ids={one.pool.pool_id for one in known if one.cooling_until is not None},
        excluded_zones=excluded_zones,
        interruptions={one.pool.pool_id: one.interruptions for one in known},
        safest_first=safest_first,
        struck_pool_ids={one.pool.pool_id for one in known if under_notice and one.struck(plane.clock())},
    )


def check_wanted(plane: Plane, agent: Agent, *, pool_id: str | None, excluded_zones: Sequence[str]) -> None:
    """Refuse a replica that could never be launched as an operator asks for it.

    Raises:
        InvalidRequest: The pool is unknown, of another region, the primary's, or does not fit.
        NoPoolQualifies: Nothing is left.
        Transient: EC2 did not tell the agent's zones; ask again.
    """
    zones = tuple(plane.compute.subnets(agent.subnet_ids))
    known = candidates(plane, agent, zones, excluded_zones=excluded_zones)
    catalogue.check_wanted(known, pool_id=pool_id, excluded_zones=excluded_zones)


def shown(plane: Plane, agent: Agent, prices: Prices, *, excluded_zones: Sequence[str] = ()) -> tuple[Candidate, ...]:
    """The agent's pools as people are told of them, with what they cost on demand, and how often AWS interrupts them.

    Raises:
        Transient: EC2 did not tell the agent's zones, or DynamoDB what is known of the pools; ask again.
    """
    zones = tuple(plane.compute.subnets(agent.subnet_ids))
    known = candidates(
        plane,
        agent,
        zones,
        excluded_zones=excluded_zones,
        told=types_told(prices, zones, agent.instance_types),
    )
    return catalogue.as_shown(known)


def considered(plane: Plane, agent_id: str, prices: Prices, *, excluded_zones: Sequence[str]) -> tuple[Candidate, ...]:
    """What a replica was chosen from; nothing where that can not be told now, for the replica is under way."""
    try:
        return shown(plane, plane.records.agent(agent_id), prices, excluded_zones=excluded_zones)
    except Transient:
        return ()


def types_told(prices: Prices, zones: Sequence[str], instance_types: Sequence[str]) -> TypesTold:
    """What is known of instance types, as far as the pools of these zones tell."""
    pool_ids = [Pool(zone, instance_type).pool_id for zone in zones for instance_type in instance_types]
    pools = prices.known_pools(pool_ids).values()
    return TypesTold(
        on_demand={
            pool.instance_type: pool.on_demand_usd_per_hour for pool in pools if pool.on_demand_usd_per_hour is not None
        },
        bands={pool.instance_type: pool.band for pool in pools if pool.band is not None},
    )
