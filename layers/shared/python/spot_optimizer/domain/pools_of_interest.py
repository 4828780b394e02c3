"""Pools whose prices are kept: those in which an agent runs, or may be launched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.pools import Pool
from spot_optimizer.domain.prices import PriceChange
from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.domain.writes import Change, Equals, Missing, Table

WANTED_BY_AT_MOST = 20
"""So many agents are named on a pool's row; it must not grow with the fleet."""

ON_DEMAND_KEPT_FOR = timedelta(days=1)
"""On-demand prices change a few times in the life of an instance type; AWS's price list is asked no more often."""

BAND_KEPT_FOR = timedelta(days=1)
"""The advisor tells of the trailing month, and is brought up to date about daily."""

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOfInterest:
    """A pool whose prices are kept.

    Attributes:
        pool_id: As `pools.Pool.pool_id`.
        availability_zone: For example `us-east-1a`.
        instance_type: For example `m5.large`.
        wanted_by: Agents that run in it or may be launched into it, `WANTED_BY_AT_MOST` of them. None: no agent wants
            it any more; what is known is kept, and nothing new is collected.
        on_demand_usd_per_hour: What the instance type costs on demand; none while AWS's price list has told none.
        on_demand_asked_at: When the price list was last asked, and answered.
        changed_at: When AWS last changed the pool's price, as far as was collected.
        usd_per_hour: The price since then.
        advisor_band: Of the instance type, in AWS's Spot Instance Advisor; none while it has told none.
        advisor_asked_at: When the advisor was last asked, and answered.
    """

    pool_id: str
    availability_zone: str
    instance_type: str
    wanted_by: tuple[str, ...] = ()
    on_demand_usd_per_hour: Decimal | None = None
    on_demand_asked_at: datetime | None = None
    changed_at: datetime | None = None
    usd_per_hour: Decimal | None = None
    advisor_band: int | None = None
    advisor_asked_at: datetime | None = None

    @property
    def band(self) -> AdvisorBand | None:
        """How often AWS interrupts the type, as last told."""
        return None if self.advisor_band is None else AdvisorBand(self.advisor_band)


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


def types_to_ask(pools: Iterable[PoolOfInterest], now: datetime) -> Mapping[str, Sequence[PoolOfInterest]]:
    """Tell for which instance types AWS's price list is to be asked.

    Returns:
        The wanted pools by instance type: of every type with a pool for which it was not asked within
        `ON_DEMAND_KEPT_FOR`; first the types for which it was never asked, then those whose answer is oldest.
    """
    by_type: dict[str, list[PoolOfInterest]] = defaultdict(list)
    for pool in pools:
        if pool.wanted_by:
            by_type[pool.instance_type].append(pool)
    oldest = {
        instance_type: min(pool.on_demand_asked_at or _NEVER for pool in some)
        for instance_type, some in by_type.items()
    }
    due = sorted((at, instance_type) for instance_type, at in oldest.items() if at <= now - ON_DEMAND_KEPT_FOR)
    return {instance_type: by_type[instance_type] for _, instance_type in due}


def note_on_demand(pool: PoolOfInterest, usd_per_hour: Decimal | None, now: datetime) -> Change:
    """The write that notes what AWS's price list said, unless somebody else has asked since the row was read.

    Args:
        pool: The row as it was read.
        usd_per_hour: None: the price list does not know the type (any more); what was known stays.
        now: When it was asked.
    """
    as_read = pool.on_demand_asked_at
    told = {} if usd_per_hour is None else {"on_demand_usd_per_hour": usd_per_hour}
    return Change(
        Table.POOLS,
        (pool.pool_id,),
        "note the on-demand price",
        only_if={"on_demand_asked_at": Missing() if as_read is None else Equals(as_read)},
        put={"on_demand_asked_at": now, **told},
    )


def bands_due(pools: Iterable[PoolOfInterest], now: datetime) -> tuple[PoolOfInterest, ...]:
    """The wanted pools for which the advisor was not asked within `BAND_KEPT_FOR`."""
    return tuple(pool for pool in pools if pool.wanted_by and (pool.advisor_asked_at or _NEVER) <= now - BAND_KEPT_FOR)


def note_band(pool: PoolOfInterest, band: AdvisorBand | None, now: datetime) -> Change:
    """The write that notes what the advisor said, unless somebody else has asked since the row was read.

    Args:
        pool: The row as it was read.
        band: None: the advisor does not know the type (any more); what was known stays.
        now: When it was asked.
    """
    as_read = pool.advisor_asked_at
    told = {} if band is None else {"advisor_band": int(band)}
    return Change(
        Table.POOLS,
        (pool.pool_id,),
        "note the advisor's band",
        only_if={"advisor_asked_at": Missing() if as_read is None else Equals(as_read)},
        put={"advisor_asked_at": now, **told},
    )
