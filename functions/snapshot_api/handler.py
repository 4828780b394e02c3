"""Snapshots: where a primary may put them, and where a new instance may read them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from aws_lambda_powertools.event_handler.openapi.params import Query

from spot_optimizer import wiring
from spot_optimizer.api import callers
from spot_optimizer.api.fields import AgentId, Moment, SnapshotPath
from spot_optimizer.api.router import Router
from spot_optimizer.api.snapshots import (
    CompleteRequest,
    RestoreAnswer,
    SnapshotAnswer,
    SnapshotRequest,
    SnapshotUploadAnswer,
)
from spot_optimizer.control import snapshots

api = Router()

At = Annotated[Moment | None, Query(description="The state up to here, at most; none for the newest.")]


@api.post(
    "/api/agents/<agent_id>/snapshots",
    summary="Begin or go on uploading a snapshot",
    status_code=HTTPStatus.CREATED,
    tags=["snapshots"],
)
def begin_snapshot(agent_id: AgentId, body: SnapshotRequest) -> SnapshotUploadAnswer:
    """For the primary. Each URL takes one PUT of exactly that part: its number, size and SHA-256, encrypted at rest."""
    begun = snapshots.begin(
        wiring.plane(),
        wiring.records(),
        wiring.snapshot_objects(),
        agent_id,
        instance_id=callers.as_agent(api.caller, agent_id),
        epoch=body.epoch,
        generation=body.generation,
        previous_id=body.previous_id,
        upload_id=body.upload_id,
        parts=[part.part() for part in body.parts],
    )
    return SnapshotUploadAnswer.of(begun)


@api.post("/api/agents/<agent_id>/snapshots/<snapshot_id>/complete", summary="Complete a snapshot", tags=["snapshots"])
def complete_snapshot(agent_id: AgentId, snapshot_id: SnapshotPath, body: CompleteRequest) -> SnapshotAnswer:
    """For the primary: all parts are there. It becomes the agent's newest; completing it again is no error."""
    snapshot = snapshots.complete(
        wiring.plane(),
        wiring.records(),
        wiring.snapshot_objects(),
        agent_id,
        snapshot_id,
        instance_id=callers.as_agent(api.caller, agent_id),
        taken=body.taken(),
        upload_id=body.upload_id,
        parts=[part.part() for part in body.parts],
    )
    return SnapshotAnswer.of(snapshot)


@api.get("/api/agents/<agent_id>/snapshots/latest", summary="Find what to restore", tags=["snapshots"])
def latest_snapshot(agent_id: AgentId, at: At = None) -> RestoreAnswer:
    """For the agent's own instances: a base and its deltas, in order. `at` asks for an earlier moment."""
    callers.as_agent(api.caller, agent_id)
    return RestoreAnswer.of(
        snapshots.find(wiring.plane(), wiring.records(), wiring.snapshot_objects(), agent_id, at=at)
    )


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
