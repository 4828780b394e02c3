"""The ports that the control plane works through, in one value; the clock is one of them."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.ports import Compute, Fleet, Joining, Records, Workflows

DEAD_STATES = ("stopped", "terminated")
"""EC2 states that prove that nothing runs on an instance; `shutting-down` is not death yet."""


class Plane(Protocol):
    """Everything outside that the control plane's work needs; a port that is not asked for need not be built."""

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
    def workflows(self) -> Workflows:
        """Step Functions."""
        ...

    @property
    def joining(self) -> Joining:
        """What a launched instance needs to join."""
        ...

    def clock(self) -> datetime:
        """The time, with its zone."""
        ...


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
