"""The ports that the control plane works through, in one value; the clock is one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.ports import Compute, Fleet, Joining, Records, Workflows

DEAD_STATES = ("stopped", "terminated")
"""EC2 states that prove that nothing runs on an instance; `shutting-down` is not death yet."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Everything outside that the control plane's work needs."""

    records: Records
    fleet: Fleet
    compute: Compute
    workflows: Workflows
    joining: Joining
    clock: Callable[[], datetime]


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
