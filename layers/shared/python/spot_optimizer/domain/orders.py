"""Orders: what the control plane tells an instance in answer to its heartbeat, read from the rows at that moment."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from spot_optimizer.domain.agents import Agent, HandoverState, Instance
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.snapshots import epoch_of
from spot_optimizer.errors import StaleEpoch


class Role(enum.StrEnum):
    """What the instance is to its agent now."""

    PRIMARY = "primary"
    STANDBY = "standby"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the replication link.

    Attributes:
        status: The replica's state, whichever end the peer is.
        readiness: The replica's readiness number.
        address: Where the standby listens; the primary's address when the peer is the primary.
        certificate: PEM to pin.
    """

    replica_id: str
    instance_id: str
    status: ReplicaState
    readiness: int
    address: str
    port: int
    certificate: str


@dataclass(frozen=True, slots=True)
class HandoverView:
    """The agent's latest handover.

    Attributes:
        snapshot_taken_at: Behind a dead primary: the state up to here is in the newest snapshot (ISO 8601); None if
            there is none. One of an earlier epoch is as old as that: `snapshot_epoch`.
    """

    handover_id: str
    state: HandoverState
    replica_id: str
    readiness: int
    primary_dead: bool
    snapshot_taken_at: str | None = None
    snapshot_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """What an instance is told.

    Attributes:
        peer: Set as soon as the other end can be connected; for a primary, its active replica.
        under_way: A failover, or the launch of a replica, is under way: report often.
    """

    role: Role
    epoch: int
    peer: Peer | None
    handover: HandoverView | None
    under_way: bool
    heartbeat_every_seconds: float
    sync_interval_seconds: float
    lost: bool = False


def orders_for(
    agent: Agent,
    instance_id: str,
    *,
    epoch: int,
    replica: Replica | None,
    primary: Instance | None,
    standby: Instance | None,
    heartbeat_every_seconds: float,
) -> Orders:
    """Tell one instance where it stands.

    Args:
        agent: The agent's row.
        instance_id: Who asks.
        epoch: The epoch it acts under.
        replica: The agent's active replica, or for a replica's instance that very replica.
        primary: The primary's instance row.
        standby: The replica's instance row, once it joined.
        heartbeat_every_seconds: Configured interval.

    Raises:
        StaleEpoch: The asker acts under an epoch that is over: it must stop its workload.
    """
    if epoch != agent.epoch:
        raise StaleEpoch(
            f"epoch {epoch} is over; the agent is at {agent.epoch}: stop the workload", current_epoch=agent.epoch
        )
    handover = None
    if agent.handover_id is not None and agent.handover_replica_id is not None:
        handover = HandoverView(
            handover_id=agent.handover_id,
            state=agent.handover_state,
            replica_id=agent.handover_replica_id,
            readiness=agent.handover_readiness or 0,
            primary_dead=agent.handover_primary_dead,
            **_restorable(agent),
        )
    if instance_id == agent.primary_instance_id:
        role, other = Role.PRIMARY, standby
    elif replica is not None and replica.instance_id == instance_id and replica.active:
        role, other = Role.STANDBY, primary
    else:
        role, other = Role.RETIRED, None
    peer = None
    if replica is not None and replica.active and other is not None:
        peer = Peer(
            replica_id=replica.replica_id,
            instance_id=other.instance_id,
            status=replica.status,
            readiness=replica.readiness,
            address=other.private_address,
            port=other.sync_port,
            certificate=other.certificate,
        )
    return Orders(
        role=role,
        epoch=agent.epoch,
        peer=peer,
        handover=handover,
        under_way=agent.claim_open or (replica is not None and replica.active and peer is None),
        heartbeat_every_seconds=heartbeat_every_seconds,
        sync_interval_seconds=agent.sync_interval_seconds,
        lost=agent.lost,
    )


def _restorable(agent: Agent) -> dict[str, Any]:
    if not agent.handover_primary_dead or agent.handover_snapshot_id is None or agent.snapshot_taken_at is None:
        return {}
    return {
        "snapshot_taken_at": agent.snapshot_taken_at.isoformat(),
        "snapshot_epoch": epoch_of(agent.handover_snapshot_id),
    }
