"""Looking at the fleet: what happened, where, and to whose instances. This function can read, and nothing else."""

from __future__ import annotations

from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api import callers
from spot_optimizer.api.fields import AgentId, ClientPath, Cursor, Limit, cursor_after, read_cursor
from spot_optimizer.api.fleet import (
    AgentFilter,
    Anew,
    CandidateAnswer,
    CandidatesAnswer,
    ClientFilter,
    InstanceAnswer,
    InstancesAnswer,
    InterruptionAnswer,
    InterruptionsAnswer,
    PoolFilter,
    RecommendationAnswer,
    Since,
    SwitchAnswer,
    SwitchesAnswer,
    Until,
    WordFilter,
)
from spot_optimizer.api.router import Router
from spot_optimizer.control import deciding, selecting
from spot_optimizer.domain.agents import InstanceRole
from spot_optimizer.domain.clients import Scope

api = Router()


@api.get("/api/agents/<agent_id>/pools", summary="List the pools an agent could run in", tags=["switching"])
def list_agent_pools(agent_id: AgentId) -> CandidatesAnswer:
    """Those that qualify first, the cheapest first; each of the others says why it does not qualify now."""
    agent = callers.seen(api.caller, wiring.records().agent(agent_id))
    return CandidatesAnswer(
        agent_id=agent_id,
        primary_pool_id=agent.primary_pool_id,
        pools=tuple(map(CandidateAnswer.of, selecting.shown(wiring.plane(), agent, wiring.prices()))),
    )


@api.get(
    "/api/agents/<agent_id>/switch-recommendation",
    summary="Recommend where an agent should run, and say why",
    tags=["switching"],
)
def recommend_switch(agent_id: AgentId, anew: Anew = False) -> RecommendationAnswer:
    """The last decision for the agent while it may be acted upon; else, or `anew`, one that is made now."""
    agent = callers.seen(api.caller, wiring.records().agent(agent_id))
    plane = wiring.deciding_plane()
    decision = deciding.recommend(plane, agent, anew=anew)
    return RecommendationAnswer.of(decision, now=plane.clock())


@api.get("/api/switches", summary="List promotions", tags=["looking"])
def list_switches(
    agent_id: AgentFilter = None,
    client_id: ClientFilter = None,
    switch_reason: WordFilter = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> SwitchesAnswer:
    """The latest first. A client sees those of its own agents; an operator all. A list may lag by a moment."""
    page = wiring.history().switches_page(
        _scope(agent_id, client_id),
        after=read_cursor(cursor),
        limit=limit,
        since=since,
        until=until,
        switch_reason=switch_reason,
    )
    return SwitchesAnswer(switches=tuple(map(SwitchAnswer.of, page.values)), next_cursor=cursor_after(page.last))


@api.get("/api/interruptions", summary="List signals and what came of them", tags=["looking"])
def list_interruptions(
    agent_id: AgentFilter = None,
    client_id: ClientFilter = None,
    pool_id: PoolFilter = None,
    signal_type: WordFilter = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> InterruptionsAnswer:
    """The latest first. A client sees those of its own agents; an operator all. A list may lag by a moment."""
    page = wiring.history().interruptions_page(
        _scope(agent_id, client_id),
        after=read_cursor(cursor),
        limit=limit,
        since=since,
        until=until,
        signal_type=signal_type,
        pool_id=pool_id,
    )
    return InterruptionsAnswer(
        interruptions=tuple(map(InterruptionAnswer.of, page.values)), next_cursor=cursor_after(page.last)
    )


@api.get("/api/clients/<client_id>/instances", summary="List a client's instances", tags=["tenants"])
def list_instances(
    client_id: ClientPath, role: InstanceRole | None = None, cursor: Cursor = None, limit: Limit = 50
) -> InstancesAnswer:
    """Those that carry its agents, and those that did; the last that joined first."""
    callers.require_client(api.caller, client_id)
    page = wiring.history().instances_page(client_id, after=read_cursor(cursor), limit=limit, role=role)
    return InstancesAnswer(instances=tuple(map(InstanceAnswer.of, page.values)), next_cursor=cursor_after(page.last))


def _scope(agent_id: str | None, client_id: str | None) -> Scope:
    return callers.scope(api.caller, agent_id=agent_id, client_id=client_id, find=wiring.records().agent)


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
