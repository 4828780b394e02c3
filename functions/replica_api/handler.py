"""Replicas, handovers and emergencies."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api import callers
from spot_optimizer.api.fields import (
    AgentId,
    Cursor,
    HandoverId,
    IdempotencyKey,
    Limit,
    PauseAnswer,
    PauseRequest,
    ReplicaId,
    cursor_after,
    read_cursor,
)
from spot_optimizer.api.replicas import (
    AbortRequest,
    CommitRequest,
    EmergencyReplicaRequest,
    HandoverAnswer,
    PromoteRequest,
    ReplicaAnswer,
    ReplicaAskedAnswer,
    ReplicaRequest,
    ReplicasAnswer,
    StartedAnswer,
    SyncStatusRequest,
    TerminationRequest,
    UnreadyRequest,
)
from spot_optimizer.api.router import Router
from spot_optimizer.api.switching import SwitchCommandAnswer, SwitchCommandRequest
from spot_optimizer.control import (
    emergencies,
    pausing,
    replication,
    selecting,
    signals,
    switching,
    sync_reports,
)
from spot_optimizer.control.signals import Started
from spot_optimizer.domain import tokens
from spot_optimizer.domain.replicas import ReplicaType
from spot_optimizer.domain.tokens import OperatorRole

api = Router()


@api.post(
    "/api/agents/<agent_id>/replicas", summary="Create a replica", status_code=HTTPStatus.ACCEPTED, tags=["replicas"]
)
def create_replica(
    agent_id: AgentId, body: ReplicaRequest, idempotency_key: IdempotencyKey = None
) -> ReplicaAskedAnswer:
    """For operators. One replica is active at a time. The same Idempotency-Key gives the same replica.

    It goes to the cheapest pool that is not the primary's, pools in cooldown last, or to the one that is named.
    """
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    replica = replication.create_replica(
        wiring.plane(),
        agent_id,
        replica_type=ReplicaType.MANUAL,
        created_by=body.created_by or f"operator:{api.caller.token_id}",
        purpose=f"manual:{idempotency_key}" if idempotency_key else None,
        pool_id=body.pool_id,
        exclude_zones=body.exclude_zones,
    )
    considered = selecting.considered(wiring.plane(), agent_id, wiring.prices(), excluded_zones=body.exclude_zones)
    return ReplicaAskedAnswer.asked(replica, considered)


@api.get("/api/agents/<agent_id>/replicas", summary="List an agent's replicas", tags=["replicas"])
def list_replicas(agent_id: AgentId, cursor: Cursor = None, limit: Limit = 50) -> ReplicasAnswer:
    """All it ever had, by id."""
    callers.seen(api.caller, wiring.records().agent(agent_id))
    page = wiring.records().replicas_page(agent_id, after=read_cursor(cursor), limit=limit)
    return ReplicasAnswer(replicas=tuple(map(ReplicaAnswer.of, page.values)), next_cursor=cursor_after(page.last))


@api.delete("/api/agents/<agent_id>/replicas/<replica_id>", summary="Terminate a replica", tags=["replicas"])
def delete_replica(agent_id: AgentId, replica_id: ReplicaId) -> ReplicaAnswer:
    """For operators. Refused once it has taken over, and, where it has joined, while a failover is under way or its
    primary is not known to be well: it may be the newest copy then. Repeating it is no error.
    """
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    by = f"operator:{api.caller.token_id}"
    return ReplicaAnswer.of(
        replication.terminate_replica(wiring.plane(), agent_id, replica_id, reason=f"terminated by {by}")
    )


@api.post(
    "/api/agents/<agent_id>/replicas/<replica_id>/sync-status", summary="Report a replica's state", tags=["replicas"]
)
def sync_status(agent_id: AgentId, replica_id: ReplicaId, body: SyncStatusRequest) -> ReplicaAnswer:
    """`ready` is for the primary alone: it binds the primary to the replica's lease. `syncing` records progress."""
    instance_id = callers.as_agent(api.caller, agent_id)
    return ReplicaAnswer.of(sync_reports.report_sync(wiring.plane(), agent_id, replica_id, instance_id, body.report()))


@api.post("/api/agents/<agent_id>/replicas/<replica_id>/unready", summary="Take readiness back", tags=["replicas"])
def unready(agent_id: AgentId, replica_id: ReplicaId, body: UnreadyRequest) -> ReplicaAnswer:
    """For the primary. Competes with the replica's promotion; whichever comes first wins."""
    instance_id = callers.as_agent(api.caller, agent_id)
    replica = replication.report_unready(
        wiring.plane(), agent_id, replica_id, instance_id=instance_id, epoch=body.epoch, readiness=body.readiness
    )
    return ReplicaAnswer.of(replica)


@api.post(
    "/api/agents/<agent_id>/replicas/<replica_id>/promote",
    summary="Hand over to a replica",
    status_code=HTTPStatus.ACCEPTED,
    tags=["replicas"],
)
def promote(agent_id: AgentId, replica_id: ReplicaId, body: PromoteRequest) -> StartedAnswer:
    """For operators: opens a planned handover to a replica that is ready. The old primary becomes its standby, or is
    retired.
    """
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    return _started(
        emergencies.plan_handover(
            wiring.plane(),
            agent_id,
            replica_id,
            reason=body.reason,
            demote_old_primary=body.demote_old_primary,
        )
    )


@api.post(
    "/api/agents/<agent_id>/issue-switch-command",
    summary="Move a workload to another pool, or to the other way to buy",
    status_code=HTTPStatus.ACCEPTED,
    tags=["switching"],
)
def issue_switch_command(
    agent_id: AgentId, body: SwitchCommandRequest, idempotency_key: IdempotencyKey = None
) -> SwitchCommandAnswer:
    """For operators. A replica is prepared there, and takes over as soon as it is ready; nothing is lost.

    An operator needs no toggle, only a reason. With `source: engine` it is where the engine, or the price rule,
    recommends, and only if `auto_switch` and the agent's rules allow it. One switch at a time; the same Idempotency-Key
    gives the same one.
    """
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    plane, by = wiring.switching_plane(), f"operator:{api.caller.token_id}"
    issued = switching.issue(plane, agent_id, body.wanted(by=by, key=idempotency_key))
    signals.hand_over_if_asked(plane, agent_id, issued.replica.replica_id)
    return SwitchCommandAnswer.of(issued, look=wiring.workflows().prepare_replica_arn(issued.replica.replica_id))


@api.post(
    "/api/agents/<agent_id>/handovers/<handover_id>/commit", summary="Promote the standby that asks", tags=["handovers"]
)
def commit_handover(agent_id: AgentId, handover_id: HandoverId, body: CommitRequest) -> HandoverAnswer:
    """For the standby. The agent moves to its next epoch; asking again after success gets the same answer."""
    agent = replication.commit_handover(
        wiring.plane(),
        agent_id,
        handover_id,
        instance_id=callers.as_agent(api.caller, agent_id),
        epoch=body.epoch,
        basis=body.basis,
        readiness=body.readiness,
        covered_until=body.covered_until,
        lag_seconds=body.lag_seconds,
    )
    return HandoverAnswer.of(agent)


@api.post("/api/agents/<agent_id>/handovers/<handover_id>/abort", summary="Abort a handover", tags=["handovers"])
def abort_handover(agent_id: AgentId, handover_id: HandoverId, body: AbortRequest) -> HandoverAnswer:
    """For the primary, which may thaw only after this has succeeded; for a standby that holds nothing to serve; and for
    operators, who may abort what was planned: the primary serves on. Repeating it is no error.
    """
    instance_id = callers.as_agent_or_operator(api.caller, agent_id)
    if instance_id is None:
        return HandoverAnswer.of(emergencies.abort_planned(wiring.plane(), agent_id, handover_id))
    agent = sync_reports.abort_as_party(wiring.plane(), agent_id, handover_id, instance_id, epoch=body.own_epoch)
    return HandoverAnswer.of(agent)


@api.post(
    "/api/agents/<agent_id>/create-emergency-replica",
    summary="Call for a replica, whatever the toggles say",
    status_code=HTTPStatus.ACCEPTED,
    tags=["emergencies"],
)
def create_emergency_replica(agent_id: AgentId, body: EmergencyReplicaRequest) -> StartedAnswer:
    """A rebalance recommendation prepares a standby. A primary that its standby finds silent is looked after."""
    reporter = callers.as_agent_or_operator(api.caller, agent_id)
    return _started(emergencies.take_alarm(wiring.plane(), agent_id, body.alarm(reporter=reporter)))


@api.post(
    "/api/agents/<agent_id>/termination-imminent",
    summary="Tell that AWS takes an instance back",
    status_code=HTTPStatus.ACCEPTED,
    tags=["emergencies"],
)
def termination_imminent(agent_id: AgentId, body: TerminationRequest) -> StartedAnswer:
    """Answers with the failover that runs, or the next attempt if the last one failed. Repeating it is no error."""
    reporter = callers.as_agent_or_operator(api.caller, agent_id)
    return _started(emergencies.take_alarm(wiring.plane(), agent_id, body.alarm(reporter=reporter)))


@api.post("/api/agents/<agent_id>/pause", summary="Change nothing of an agent", tags=["pausing"])
def pause(agent_id: AgentId, body: PauseRequest) -> PauseAnswer:
    """For operators. No failover, replica or switch is begun until it is resumed; what is under way ends."""
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    agent = pausing.pause_agent(wiring.plane(), agent_id, reason=body.reason)
    return PauseAnswer(paused_at=agent.paused_at, paused_because=agent.paused_because)


@api.post("/api/agents/<agent_id>/resume", summary="End an agent's pause", tags=["pausing"])
def resume(agent_id: AgentId) -> PauseAnswer:
    """For operators. What went by meanwhile is looked at within a minute."""
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    agent = pausing.resume_agent(wiring.plane(), agent_id)
    return PauseAnswer(paused_at=agent.paused_at, paused_because=agent.paused_because)


def _started(started: Started) -> StartedAnswer:
    look = wiring.workflows().fail_over_arn(started.execution) if started.execution else None
    return StartedAnswer.of(started, look=look)


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
