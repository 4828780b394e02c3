"""The ports that the control plane works through, in one value; the clock is one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from spot_optimizer.domain.agents import Agent, Instance, Switch, TrafficAdapter
from spot_optimizer.domain.handover import switch_id_for
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.errors import InstanceUnknown, ReplicaUnknown
from spot_optimizer.ports import (
    Compute,
    Decisions,
    Fleet,
    Joining,
    PriceHistory,
    Prices,
    Records,
    TrafficPath,
    Workflows,
)

DEAD_STATES = ("stopped", "terminated")
"""EC2 states that prove that nothing runs on an instance; `shutting-down` is not death yet."""

LATEST_SWITCHES = 20

HEARD_LATELY = timedelta(seconds=15)
"""A primary that has a standby says something at least every 5 s."""


class FleetPlane(Protocol):
    """Where agents are, and what runs; a port that is not asked for need not be built."""

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

    def clock(self) -> datetime:
        """The time, with its zone."""
        ...


class Plane(FleetPlane, Protocol):
    """Everything outside that looking after agents needs."""

    @property
    def paths(self) -> Mapping[TrafficAdapter, TrafficPath]:
        """Traffic paths, but for Elastic IPs, which are EC2's."""
        ...

    @property
    def workflows(self) -> Workflows:
        """Step Functions."""
        ...

    @property
    def joining(self) -> Joining:
        """What a launched instance needs to join."""
        ...


class MarketPlane(FleetPlane, Protocol):
    """What it costs to run somewhere, and what was decided about it; no failover needs any of it."""

    @property
    def prices(self) -> Prices:
        """The tables of prices."""
        ...

    @property
    def price_history(self) -> PriceHistory:
        """AWS's own price history, and where subnets lie."""
        ...

    @property
    def decisions(self) -> Decisions:
        """What was decided for agents."""
        ...


def find_instance(plane: FleetPlane, instance_id: str | None) -> Instance | None:
    """An instance's row, read consistently; None where there is none."""
    if instance_id is None:
        return None
    try:
        return plane.records.instance(instance_id)
    except InstanceUnknown:
        return None


def find_replica(plane: FleetPlane, agent_id: str, replica_id: str | None) -> Replica | None:
    """An agent's replica, read consistently; None where there is none."""
    if replica_id is None:
        return None
    try:
        return plane.records.replica(agent_id, replica_id)
    except ReplicaUnknown:
        return None


def latest_switches(plane: FleetPlane, agent_id: str, *, until: int, only: Callable[[Switch], bool]) -> list[Switch]:
    """An agent's latest switches, up to the one that began an epoch, as far back as all are such; the oldest first.

    At most `LATEST_SWITCHES`: what comes before them has been dealt with long ago.
    """
    found: list[Switch] = []
    for epoch in range(until, max(until - LATEST_SWITCHES, 1), -1):
        switch = plane.records.switch(agent_id, switch_id_for(epoch))
        if switch is None or not only(switch):
            break
        found.insert(0, switch)
    return found


def active_replica(plane: Plane, agent: Agent) -> Replica | None:
    """The agent's one active replica, read consistently."""
    if agent.active_replica_id is None:
        return None
    replica = plane.records.replica(agent.agent_id, agent.active_replica_id)
    return replica if replica.active else None


def proven_dead(plane: Plane, *instance_ids: str) -> frozenset[str]:
    """Those of the instances that EC2 itself calls stopped or terminated."""
    states = plane.compute.states(instance_ids)
    return frozenset(instance_id for instance_id in instance_ids if states.get(instance_id) in DEAD_STATES)


def primary_is_well(plane: Plane, agent: Agent) -> bool:
    """Whether the agent's primary runs, by EC2's word and by its own of a moment ago.

    EC2 alone will not do: it may go on calling running what has died. To be asked with an agent that was read before;
    what is done on the strength of it must be refused if a failover has begun since then.
    """
    if plane.compute.states([agent.primary_instance_id]).get(agent.primary_instance_id) != "running":
        return False
    beat = plane.records.heartbeat(agent.agent_id, agent.primary_instance_id)
    return beat is not None and beat.epoch == agent.epoch and abs(plane.clock() - beat.at) <= HEARD_LATELY
