"""Where agents should run: what is known of them and of their pools is gathered, and decided upon.

A failover neither waits for this nor reads what comes of it. Models are asked elsewhere; here the
pools' own history and the advisor band stand in, and the decision says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import batched
from typing import Protocol

from spot_optimizer.control.plane import MarketPlane
from spot_optimizer.control.reading import at_once
from spot_optimizer.domain import catalogue, decisions, offers, risk
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.decisions import DecisionRules, Situation
from spot_optimizer.domain.offers import PoolPast, SeenPrice, Standing, pool_past
from spot_optimizer.domain.pools import Lifecycle, Pool
from spot_optimizer.domain.prices import bucket_of
from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.stored_decisions import StoredDecision, as_stored
from spot_optimizer.errors import AgentLost, InstanceUnknown, ReplicaUnknown, Transient
from spot_optimizer.ports import Decider

_PRICES_AGO = (timedelta(hours=24), timedelta(hours=1))
"""How old the prices are that a model compares the present one with."""

_BUCKETS_LOOKED_THROUGH = 12
"""A price that nobody confirmed for an hour counts as unknown to a model."""

_TYPES_AT_ONCE = 100
"""Of instance types that EC2 is asked about; it takes 200 values of a filter."""


class DecidingPlane(MarketPlane, Protocol):
    """Everything outside that decisions need."""

    @property
    def decider(self) -> Decider:
        """What decides with a model."""
        ...


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is known of some agents at one moment.

    Attributes:
        now: Nothing that was known only later is in it.
        standings: One per agent.
        seen: The spot price in force, by pool id.
        on_demand: USD/hour by instance type, where it is known.
        bands: The advisor's, likewise.
    """

    now: datetime
    standings: tuple[Standing, ...]
    seen: Mapping[str, SeenPrice]
    on_demand: Mapping[str, Decimal]
    bands: Mapping[str, AdvisorBand]


def gather(plane: DecidingPlane, agents: Sequence[Agent]) -> Gathered:
    """Find out what decisions for these agents need. What several of them share is read once.

    Raises:
        Transient: Something could not be found out; nothing is decided on half of it.
    """
    in_zone = plane.price_history.zones({subnet_id for agent in agents for subnet_id in agent.subnet_ids})
    places = {agent.agent_id: _places(agent, in_zone) for agent in agents}
    kinds = _kinds(plane, {kind for agent in agents for kind in agent.instance_types})
    pool_ids = sorted(
        {Pool(zone, kind).pool_id for zones, types in places.values() for zone in zones for kind in types}
        | {agent.primary_pool_id for agent in agents}
    )
    observed = plane.prices.latest_of(pool_ids)
    of_interest = plane.prices.known_pools(pool_ids).values()
    on_demand = {
        pool.instance_type: pool.on_demand_usd_per_hour
        for pool in of_interest
        if pool.on_demand_usd_per_hour is not None
    }
    bands = {pool.instance_type: pool.band for pool in of_interest if pool.band is not None}
    interruptions = plane.fleet.interruptions_of_pools(pool_ids, plane.clock() - catalogue.LOOKBACK)
    read = at_once(lambda agent: _read(plane, agent), agents)
    # Only now, so that everything that was read was known by then.
    now = plane.clock()
    seen = {
        pool_id: SeenPrice(row.usd_per_hour, row.observed_at, row.source.confidence)
        for pool_id, row in observed.items()
        if row.observed_at <= now
    }
    shared = {
        (zones, types): offers.offers(
            catalogue.list_candidates(
                zones,
                types,
                primary_pool_id="",
                now=now,
                kinds=kinds,
                on_demand=on_demand,
                interruptions=interruptions,
                bands=bands,
            ),
            now=now,
            seen=seen,
        )
        for zones, types in set(places.values())
    }
    standings = []
    for agent, (situation, rules, launched_at) in zip(agents, read, strict=True):
        offered = offers.with_current(shared[places[agent.agent_id]], situation.current, now=now)
        standings.append(
            Standing(agent=agent, situation=situation, offers=offered, launched_at=launched_at, rules=rules)
        )
    return Gathered(now, tuple(standings), seen, on_demand, bands)


def pool_pasts(plane: DecidingPlane, gathered: Gathered) -> tuple[PoolPast, ...]:
    """What a risk model may know of the pools in which the agents run, or could.

    What was inferred of prices is left out: a live decision rests on what somebody saw.

    Raises:
        Transient: Something could not be found out.
    """
    now = gathered.now
    pool_ids = sorted({offer.offer_id.pool_id for one in gathered.standings for offer in one.offers})
    interruptions = plane.fleet.interruptions_of_pools(
        pool_ids, now - catalogue.LOOKBACK, signal_types=(SignalType.TERMINATION_NOTICE,)
    )
    running = defaultdict(list)
    for one in gathered.standings:
        if one.situation.current.lifecycle is Lifecycle.SPOT:
            running[one.situation.current.pool_id].append(one.launched_at)

    def past(pool_id: str) -> PoolPast:
        seen = gathered.seen.get(pool_id)
        earlier = [
            SeenPrice(row.usd_per_hour, row.observed_at, row.source.confidence)
            for ago in _PRICES_AGO
            for row in plane.prices.measured(pool_id, _buckets_before(now - ago))[-1:]
        ]
        return pool_past(
            pool_id,
            running_since=running[pool_id],
            interruptions=interruptions.get(pool_id, ()),
            prices=[*earlier, *([seen] if seen is not None else [])],
            on_demand_usd_per_hour=gathered.on_demand.get(Pool.parse(pool_id).instance_type),
            band=gathered.bands.get(Pool.parse(pool_id).instance_type),
        )

    return tuple(at_once(past, pool_ids))


def decide_by_rule(standing: Standing, *, now: datetime, without_model_because: str) -> StoredDecision:
    """Decide for one agent without a model."""
    offered = tuple(replace(offer, risk=risk.doubted(offer.risk, without_model_because)) for offer in standing.offers)
    decision = decisions.decide(standing.situation, offered, standing.rules, now=now)
    return as_stored(
        decision,
        offered,
        agent=standing.agent,
        model_version=None,
        without_model_because=without_model_because,
    )


def recommend(plane: DecidingPlane, agent: Agent, *, anew: bool) -> StoredDecision:
    """What is recommended for an agent now.

    The last decision while it may be acted upon; asked anew, one that is made now with the model. Where neither is to
    be had, the rule decides here and now, so that there is always an answer.

    Raises:
        AgentLost: There is nothing to run.
        Transient: Something could not be found out.
    """
    if agent.lost:
        raise AgentLost(f"every copy of {agent.agent_id} is gone; there is nothing to be moved")
    because = "no decision with one is fresh, and none was asked for anew"
    if anew:
        try:
            known = plane.decisions.made_at(agent.agent_id, plane.decider.decide_now(agent.agent_id))
        except Transient as failure:
            known, because = None, str(failure)
    else:
        known = plane.decisions.latest(agent.agent_id)
    if known is not None and not known.stale_because(agent, now=plane.clock()):
        return known
    gathered = gather(plane, (agent,))
    return decide_by_rule(gathered.standings[0], now=gathered.now, without_model_because=because)


def agents_named(plane: DecidingPlane, agent_ids: Sequence[str] | None) -> tuple[Agent, ...]:
    """The agents that are asked for, or all; without those that are lost.

    Raises:
        AgentUnknown: One does not exist.
    """
    if agent_ids is None:
        return plane.fleet.agents_with_primary()
    return tuple(agent for agent in map(plane.records.agent, agent_ids) if not agent.lost)


def _places(agent: Agent, in_zone: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    zones = {in_zone[subnet_id] for subnet_id in agent.subnet_ids if subnet_id in in_zone}
    return tuple(sorted(zones)), agent.instance_types


def _kinds(plane: DecidingPlane, instance_types: Iterable[str]) -> dict[str, InstanceKind]:
    found: dict[str, InstanceKind] = {}
    for some in batched(sorted(instance_types), _TYPES_AT_ONCE, strict=False):
        found |= plane.compute.kinds(some)
    return found


def _buckets_before(moment: datetime) -> range:
    last = bucket_of(moment)
    return range(last - _BUCKETS_LOOKED_THROUGH, last)


def _read(plane: DecidingPlane, agent: Agent) -> tuple[Situation, DecisionRules, datetime]:
    records, agent_id = plane.records, agent.agent_id
    rules = offers.rules_of(agent)
    launched_at, promoted, standby = agent.registered_at, None, None
    # The agent's row may be older than those it names; the next decision sees what is missing now.
    with suppress(InstanceUnknown, ReplicaUnknown):
        instance = records.instance(agent.primary_instance_id)
        launched_at = instance.launched_at or instance.joined_at
        if instance.replica_id is not None:
            promoted = records.replica(agent_id, instance.replica_id)
        if agent.active_replica_id is not None:
            standby = records.replica(agent_id, agent.active_replica_id)
    situation = offers.situation(
        agent,
        records.heartbeat(agent_id, agent.primary_instance_id),
        promoted=promoted,
        standby=standby if standby is not None and standby.active else None,
        rules=rules,
    )
    return situation, rules, launched_at
