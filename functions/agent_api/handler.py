"""Agents: registration, signs of life, configuration, and what an agent hands in at its end."""

from __future__ import annotations

from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api import callers
from spot_optimizer.api.agents import (
    AgentAnswer,
    AgentsAnswer,
    CommandResultRequest,
    Configuration,
    ConfigurationRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    LogTailAnswer,
    LogTailRequest,
    RegisterAnswer,
    RegisterRequest,
)
from spot_optimizer.api.fields import AgentId, CommandId, Cursor, IdempotencyKey, Limit, Word, cursor_after, read_cursor
from spot_optimizer.api.router import Router
from spot_optimizer.control import configuration, heartbeats, registration
from spot_optimizer.domain import tokens
from spot_optimizer.domain.agents import Agent, Heartbeat, agent_status
from spot_optimizer.domain.tokens import OperatorRole
from spot_optimizer.errors import CommandUnknown

api = Router()


@api.post("/api/agents/register", summary="Register an instance", tags=["agents"])
def register(body: RegisterRequest, idempotency_key: IdempotencyKey = None) -> RegisterAnswer:
    """With a client token: a new agent and its primary. With a join token: the replica that was launched.

    Needs proof of the instance. Repeating it with the same registration_key gets the same answer.
    """
    registered = registration.register(
        wiring.plane(),
        body.newcomer(idempotency_key=idempotency_key),
        body.workload,
        caller=api.caller,
        presented=tokens.bearer(api.header("authorization")),
        token_rows=wiring.records(),
        proofs=wiring.proofs(),
        allowances=wiring.allowances(),
        place=registration.Place(region=wiring.settings().region, account_id=api.account_id),
    )
    return RegisterAnswer.of(registered)


@api.post("/api/agents/<agent_id>/heartbeat", summary="Tell that an instance lives", tags=["agents"])
def heartbeat(agent_id: AgentId, body: HeartbeatRequest) -> HeartbeatAnswer:
    """The answer tells what the instance is to be. 409 with `current_epoch`: its epoch is over, it must not serve."""
    instance_id = callers.as_instance(api.caller, agent_id, claimed=body.instance_id)
    sign = Heartbeat(
        agent_id=agent_id,
        instance_id=instance_id,
        epoch=body.epoch,
        role=body.role,
        serving=body.serving,
        healthy=body.healthy,
        at=wiring.clock(),
        agent_version=body.agent_version,
        protection=body.protection,
        state_bytes=body.state_bytes,
        state_bytes_per_second=body.state_bytes_per_second,
        changed_bytes_per_second=body.changed_bytes_per_second,
        snapshot_usd_per_day=body.snapshot_usd_per_day,
    )
    told = heartbeats.take_heartbeat(wiring.plane(), sign, caller=api.caller, reconciling=wiring.reconciling())
    heartbeats.count_uptime(wiring.uptime(), sign)
    return HeartbeatAnswer.of(told.orders, told.agent)


@api.get("/api/agents", summary="List agents", tags=["agents"])
def list_agents(cursor: Cursor = None, limit: Limit = 50, client_id: Word | None = None) -> AgentsAnswer:
    """A client sees its own agents; an operator sees all, or those of one client."""
    page = wiring.fleet().agents_page(
        client_id=callers.visible_client(api.caller, client_id), after=read_cursor(cursor), limit=limit
    )
    return AgentsAnswer(agents=tuple(map(_shown, page.values)), next_cursor=cursor_after(page.last))


@api.get("/api/agents/<agent_id>", summary="Look at an agent", tags=["agents"])
def get_agent(agent_id: AgentId) -> AgentAnswer:
    """`status` is `offline` when its primary has been silent for HEARTBEAT_TIMEOUT."""
    return _shown(callers.seen(api.caller, wiring.records().agent(agent_id)))


@api.get("/api/agents/<agent_id>/config", summary="Look at an agent's configuration", tags=["agents"])
def get_configuration(agent_id: AgentId) -> Configuration:
    """The toggles, and how often state is shipped."""
    return Configuration.of(callers.seen(api.caller, wiring.records().agent(agent_id)))


@api.patch("/api/agents/<agent_id>/config", summary="Change an agent's configuration", tags=["agents"])
def change_configuration(agent_id: AgentId, body: ConfigurationRequest) -> Configuration:
    """What is not named stays. The agent learns of it with its next heartbeat. Emergencies bypass every toggle."""
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    return Configuration.of(configuration.configure(wiring.plane(), agent_id, body.changes()))


@api.post("/api/agents/<agent_id>/commands/<command_id>/result", summary="Tell how a command ended", tags=["agents"])
def command_result(agent_id: AgentId, command_id: CommandId, body: CommandResultRequest) -> None:  # noqa: ARG001
    """404 unless the command is pending."""
    callers.as_agent(api.caller, agent_id)
    wiring.records().agent(agent_id)
    raise CommandUnknown(f"no command '{command_id}' is pending; expected one that the last heartbeat's answer named")


@api.post("/api/agents/<agent_id>/log-tail", summary="Ask where the log's tail may be put", tags=["agents"])
def log_tail(agent_id: AgentId, body: LogTailRequest) -> LogTailAnswer:
    """A URL that takes one PUT, encrypted at rest, for five minutes, of exactly `size_bytes`."""
    destination = wiring.log_tails().destination(
        agent_id=agent_id,
        instance_id=callers.as_agent(api.caller, agent_id),
        size_bytes=body.size_bytes,
        now=wiring.clock(),
    )
    return LogTailAnswer.model_validate(destination)


def _shown(agent: Agent) -> AgentAnswer:
    last = wiring.records().heartbeat(agent.agent_id, agent.primary_instance_id)
    status = agent_status(agent, last, now=wiring.clock(), heartbeat_timeout=wiring.settings().heartbeat_timeout)
    return AgentAnswer.of(agent, last, status)


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
