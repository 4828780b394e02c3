"""Examines agents before it matters. This function can look, and have a launch rehearsed; it can change nothing."""

from __future__ import annotations

from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api import callers
from spot_optimizer.api.examinations import ExaminationAnswer
from spot_optimizer.api.fields import AgentId
from spot_optimizer.api.router import Router
from spot_optimizer.control import examining

api = Router()


@api.post("/api/agents/<agent_id>/doctor", summary="Examine an agent before it matters", tags=["looking"])
def examine_agent(agent_id: AgentId) -> ExaminationAnswer:
    """Quotas, subnets, security groups, launch template, permissions by dry runs, state against the notice.

    Each finding says what to do. It changes nothing, and asks AWS a dozen times.
    """
    agent = callers.seen(api.caller, wiring.records().agent(agent_id))
    findings = examining.examine(wiring.records(), wiring.surroundings(), wiring.rehearsing(), agent)
    return ExaminationAnswer.of(agent_id, findings, examined_at=wiring.clock())


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
