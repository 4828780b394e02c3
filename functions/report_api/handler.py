"""Reports on a period, read off what was recorded anyway. This function can read, and nothing else."""

from __future__ import annotations

from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api import callers
from spot_optimizer.api.fields import Cursor, cursor_after, read_cursor
from spot_optimizer.api.fleet import AgentFilter, ClientFilter
from spot_optimizer.api.reports import FewAgents, From, MetricsAnswer, SavingsAnswer, SavingsPage, To
from spot_optimizer.api.router import Router
from spot_optimizer.control import reporting
from spot_optimizer.domain.clients import Scope

api = Router()


@api.get("/api/savings", summary="What agents cost, and saved", tags=["looking"])
def list_savings(
    agent_id: AgentFilter = None,
    client_id: ClientFilter = None,
    since: From = None,
    until: To = None,
    cursor: Cursor = None,
    limit: FewAgents = 5,
) -> SavingsPage:
    """Net of standbys and of hours on demand; by agent id. A client sees its own agents; an operator all.

    Spot is paid by the second at the price in force. On-demand prices are those of now.
    """
    plane = wiring.reporting_plane()
    period = reporting.period_of(since, until, now=plane.clock())
    agents, last = reporting.agents_asked(plane, _scope(agent_id, client_id), after=read_cursor(cursor), limit=limit)
    return SavingsPage(
        savings=tuple(map(SavingsAnswer.of, reporting.ledgers(plane, agents, period))),
        next_cursor=cursor_after(last),
    )


@api.get("/api/metrics", summary="How well agents were kept going", tags=["looking"])
def get_metrics(
    agent_id: AgentFilter = None, client_id: ClientFilter = None, since: From = None, until: To = None
) -> MetricsAnswer:
    """Failovers, loss, net saving and uptime in a period. A client is told of its own agents; an operator of all."""
    plane = wiring.reporting_plane()
    period = reporting.period_of(since, until, now=plane.clock())
    return MetricsAnswer.of(reporting.report(plane, _scope(agent_id, client_id), period))


def _scope(agent_id: str | None, client_id: str | None) -> Scope:
    return callers.scope(api.caller, agent_id=agent_id, client_id=client_id, find=wiring.records().agent)


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
