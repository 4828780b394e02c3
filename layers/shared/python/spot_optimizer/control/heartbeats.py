"""Signs of life: an instance says how it is, and is told what it is to be."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from spot_optimizer.control import signals
from spot_optimizer.control.plane import Plane, find_instance, find_replica
from spot_optimizer.domain import claims, orders, tokens
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance
from spot_optimizer.domain.orders import Orders, Role
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.tokens import Caller
from spot_optimizer.errors import (
    ConditionFailed,
    OutcomeUnknown,
    StaleEpoch,
    Transient,
)

TRIES = 4
EVERY_SECONDS = 30.0
"""How often an instance says that it lives while nothing is under way; around a handover it does so more often."""


class Reconciling(Protocol):
    """Has an agent's traffic path moved, without waiting for it."""

    def reconcile_traffic(self, agent_id: str) -> None:
        """Ask; asking again is harmless."""
        ...


class Uptime(Protocol):
    """Counts for how long health checks pass."""

    def note(self, heartbeat: Heartbeat) -> None:
        """Go on counting with a sign of life."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What an instance is told."""

    agent: Agent
    orders: Orders


def take_heartbeat(plane: Plane, heartbeat: Heartbeat, *, caller: Caller, reconciling: Reconciling) -> Told:
    """Note a sign of life and tell the instance where it stands.

    The heartbeat is written before the rows are read, so that of this call and a failover that waits for the new
    primary, whichever comes second sees the other's write.

    Raises:
        AgentUnknown: No such agent.
        StaleEpoch: The instance acts under an epoch that is over; nothing was written.
    """
    agent = plane.records.agent(heartbeat.agent_id)
    if heartbeat.epoch != agent.epoch:
        raise StaleEpoch(
            f"epoch {heartbeat.epoch} is over; the agent is at {agent.epoch}: stop the workload",
            current_epoch=agent.epoch,
        )
    instance = plane.records.instance(heartbeat.instance_id)
    plane.records.put_heartbeat(heartbeat)
    _renew_token(plane, caller)
    agent, told = _tell(plane, agent, instance, epoch=heartbeat.epoch)
    signals.wake_if_serving(plane, agent, heartbeat)
    if _traffic_lags(agent, heartbeat):
        # If it can not be asked now, the next heartbeat asks again, and so does the sweep.
        with suppress(Transient):
            reconciling.reconcile_traffic(agent.agent_id)
    return Told(agent, told)


def count_uptime(uptime: Uptime, heartbeat: Heartbeat) -> None:
    """Count a primary's sign of life, once it was told what it is to be.

    No failover waits for this or reads it: a sign that can not be counted now is a moment that did not pass.
    """
    if heartbeat.role == Role.PRIMARY:
        with suppress(Transient):
            uptime.note(heartbeat)


def _tell(plane: Plane, agent: Agent, instance: Instance, *, epoch: int) -> tuple[Agent, Orders]:
    """Read the rows around the agent, and the agent last: what it names is then at least as old as the agent itself.

    Read the other way round, a promotion in between would show a standby its replica as over and its agent as before.
    """
    for _ in range(TRIES):
        replica = _replica_of(plane, agent, instance)
        primary = plane.records.instance(agent.primary_instance_id)
        standby = find_instance(plane, replica.instance_id if replica is not None else None)
        latest = plane.records.agent(agent.agent_id)
        same = (agent.epoch, agent.primary_instance_id, agent.active_replica_id)
        if (latest.epoch, latest.primary_instance_id, latest.active_replica_id) == same or latest.epoch != epoch:
            return latest, orders.orders_for(
                latest,
                instance.instance_id,
                epoch=epoch,
                replica=replica,
                primary=primary,
                standby=standby,
                heartbeat_every_seconds=EVERY_SECONDS,
            )
        agent = latest
    raise OutcomeUnknown(f"agent {agent.agent_id} kept changing; the next heartbeat will tell")


def _replica_of(plane: Plane, agent: Agent, instance: Instance) -> Replica | None:
    replica_id = instance.replica_id
    if instance.instance_id == agent.primary_instance_id:
        replica_id = agent.active_replica_id
    return find_replica(plane, agent.agent_id, replica_id)


def _traffic_lags(agent: Agent, heartbeat: Heartbeat) -> bool:
    """Whether the traffic path has to be moved to this very instance, and nobody is on it.

    A claim of the present epoch is about the next primary; until there is one, clients should reach this one.
    """
    return (
        agent.traffic_epoch < agent.epoch
        and heartbeat.instance_id == agent.primary_instance_id
        and heartbeat.serving
        and not claims.concludes(agent)
        and not agent.lost
    )


def _renew_token(plane: Plane, caller: Caller) -> None:
    renewal = tokens.renew(caller, now=plane.clock())
    if renewal is None:
        return
    # If it fails, half of the token's life is left to try again.
    with suppress(ConditionFailed, Transient):
        plane.records.commit(renewal)
