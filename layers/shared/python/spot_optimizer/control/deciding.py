"""Where agents should run: what is known of them and of their pools is gathered, and decided upon.

A failover neither waits for this nor reads what comes of it. Models are asked elsewhere; here the
pools' own history and the advisor band stand in, and the decision says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import batched
from typing import Protocol

from spot_optimizer.domain import catalogue, decisions, offers
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.decisions import DecisionRules, Offer, Situation
from spot_optimizer.domain.offers import SeenPrice
from spot_optimizer.domain.pools import Pool
from spot_optimizer.domain.stored_decisions import StoredDecision, as_stored
from spot_optimizer.errors import AgentLost, InstanceUnknown, ReplicaUnknown
from spot_optimizer.ports import Compute, Decisions, Fleet, PriceHistory, Prices, Records

READERS = 8
"""Agents that are read at a time."""

_TYPES_AT_ONCE = 100
"""Of instance types that EC2 is asked about; it takes 200 values of a filter."""


class DecidingPlane(Protocol):
    """Everything outside that decisions need."""

    @property
    def records(self) -> Records:
        """The tables."""
        ...

    @property
    def fleet(self) -> Fleet:
        """Agents and pools across agents."""
        ...

    @property
    def compute(self) -> Compute:
        """EC2."""
        ...

    @property
    def prices(self) -> Prices:
        """The tables of prices."""
        ...

    @property
    def price_history(self) -> PriceHistory:
        """Tells where subnets lie."""
        ...

    @property
    def decisions(self) -> Decisions:
        """What was decided."""
        ...

    def clock(self) -> datetime:
        """The time, with its zone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One agent, as it is decided for.

    Attributes:
        agent: Its row.
        situation: How it stands.
        offers: What it can be offered, by rising id; agents of the same zones and types share the tuple.
        launched_at: Since when its primary's instance runs.
        rules: What is decided by.
    """

    agent: Agent
    situation: Situation
    offers: tuple[Offer, ...]
    launched_at: datetime
    rules: DecisionRules


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is known of some agents at one moment.

    Attributes:
        now: Nothing that was known only later is in it.
        standings: One per agent.
        on_demand: USD/hour by instance type, where it is known.
    """

    now: datetime
    standings: tuple[Standing, ...]
    on_demand: Mapping[str, Decimal]


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
    on_demand = {
        pool.instance_type: pool.on_demand_usd_per_hour
        for pool in plane.prices.known_pools(pool_ids).values()
        if pool.on_demand_usd_per_hour is not None
    }
    interruptions = plane.fleet.interruptions_of_pools(pool_ids, plane.clock() - catalogue.LOOKBACK)
    read = _read_each(plane, agents)
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
    return Gathered(now, tuple(standings), on_demand)


def decide_by_rule(standing: Standing, *, now: datetime, without_model_because: str) -> StoredDecision:
    """Decide for one agent without a model."""
    decision = decisions.decide(standing.situation, standing.offers, standing.rules, now=now)
    return as_stored(
        decision,
        standing.offers,
        agent=standing.agent,
        model_version=None,
        without_model_because=without_model_because,
    )


def recommend(plane: DecidingPlane, agent: Agent, *, anew: bool, without_model_because: str) -> StoredDecision:
    """What is recommended for an agent now: the last decision while it may be acted upon, else a new one by the rule.

    Args:
        plane: Ports.
        agent: Its row.
        anew: Decide anew in any case.
        without_model_because: Why no model is asked for a new one.

    Raises:
        AgentLost: There is nothing to run.
        Transient: Something could not be found out.
    """
    if agent.lost:
        raise AgentLost(f"every copy of {agent.agent_id} is gone; there is nothing to be moved")
    latest = None if anew else plane.decisions.latest(agent.agent_id)
    if latest is not None and not latest.stale_because(agent, now=plane.clock()):
        return latest
    gathered = gather(plane, (agent,))
    return decide_by_rule(gathered.standings[0], now=gathered.now, without_model_because=without_model_because)


def _places(agent: Agent, in_zone: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    zones = {in_zone[subnet_id] for subnet_id in agent.subnet_ids if subnet_id in in_zone}
    return tuple(sorted(zones)), agent.instance_types


def _kinds(plane: DecidingPlane, instance_types: Iterable[str]) -> dict[str, InstanceKind]:
    found: dict[str, InstanceKind] = {}
    for some in batched(sorted(instance_types), _TYPES_AT_ONCE, strict=False):
        found |= plane.compute.kinds(some)
    return found


def _read_each(plane: DecidingPlane, agents: Sequence[Agent]) -> list[tuple[Situation, DecisionRules, datetime]]:
    if not agents:
        return []
    # The first alone: connections are made on first use, and not by several threads at once.
    first = _read(plane, agents[0])
    with ThreadPoolExecutor(max_workers=READERS) as readers:
        return [first, *readers.map(lambda agent: _read(plane, agent), agents[1:])]


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
