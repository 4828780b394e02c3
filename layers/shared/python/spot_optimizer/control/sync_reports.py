"""What the two ends of a replication link report: who may report what, before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spot_optimizer.control import replication, signals
from spot_optimizer.control.plane import Plane
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.replicas import Replica, SyncPace
from spot_optimizer.errors import Forbidden, StaleEpoch


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """How far a replica is.

    Attributes:
        readiness: Number of the report that the replica is ready; None reports progress only.
    """

    epoch: int
    generation: int
    sync_percent: float
    lag_seconds: float | None
    covered_until: datetime | None
    readiness: int | None
    pace: SyncPace | None = None


def report_sync(plane: Plane, agent_id: str, replica_id: str, instance_id: str, report: SyncReport) -> Replica:
    """Record what an end of the link reports. Only the primary makes a replica ready.

    Raises:
        StaleEpoch: The reporter's epoch is over.
        Forbidden: The reporter is neither end of this link.
        ReplicaNotReady: The replica's state forbids it, or a later report came in before.
    """
    if report.readiness is not None and report.lag_seconds is not None and report.covered_until is not None:
        ready = replication.report_ready(
            plane,
            agent_id,
            replica_id,
            instance_id=instance_id,
            epoch=report.epoch,
            readiness=report.readiness,
            lag_seconds=report.lag_seconds,
            covered_until=report.covered_until,
        )
        if ready.switch_reason is not None:
            signals.hand_over_if_asked(plane, agent_id, replica_id)
        return ready
    agent = plane.records.agent(agent_id)
    replica = plane.records.replica(agent_id, replica_id)
    if report.epoch == agent.epoch and instance_id not in (agent.primary_instance_id, replica.instance_id):
        raise Forbidden(
            f"{instance_id} is no end of the link to replica {replica_id}; expected its primary or its standby"
        )
    return replication.report_progress(
        plane,
        agent_id,
        replica_id,
        epoch=report.epoch,
        generation=report.generation,
        sync_percent=report.sync_percent,
        lag_seconds=report.lag_seconds,
        covered_until=report.covered_until,
        pace=report.pace,
    )


def abort_as_party(plane: Plane, agent_id: str, handover_id: str, instance_id: str, *, epoch: int) -> Agent:
    """End a handover on behalf of one of its two parties: the primary aborts it, the standby declines it.

    Raises:
        Forbidden: The caller is no party to it.
        StaleEpoch: The handover was committed: the epoch is over.
        HandoverUnknown: The agent's handover is another one.
        HandoverNotOpen: It ended otherwise, or the standby declines while the primary may live.
    """
    agent = plane.records.agent(agent_id)
    if agent.epoch != epoch:
        raise StaleEpoch(
            f"epoch {epoch} is over; the agent is at {agent.epoch}: stop the workload", current_epoch=agent.epoch
        )
    if agent.primary_instance_id == instance_id:
        return replication.abort_handover(plane, agent_id, handover_id, epoch=epoch)
    replica_id = agent.handover_replica_id
    if replica_id is None or plane.records.replica(agent_id, replica_id).instance_id != instance_id:
        raise Forbidden(f"{instance_id} is no party to {handover_id}; expected its primary, or its standby")
    return replication.decline_handover(plane, agent_id, handover_id, epoch=epoch)
