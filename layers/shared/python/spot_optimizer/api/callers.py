"""Who calls: the authorizer's word, carried in the event, and what it opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.clients import Scope
from spot_optimizer.domain.tokens import EXPECTED, Caller, OperatorRole, TokenKind
from spot_optimizer.errors import AgentUnknown, ClientUnknown, ControlPlaneUnavailable, Forbidden, TokenInvalid


def as_context(caller: Caller) -> dict[str, str]:
    """Write a caller as the authorizer's context, whose values are words."""
    values = {
        "kind": caller.kind,
        "token_id": caller.token_id,
        "expires_at": caller.expires_at.isoformat(),
        "role": caller.role,
        "client_id": caller.client_id,
        "agent_id": caller.agent_id,
        "instance_id": caller.instance_id,
        "replica_id": caller.replica_id,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def caller_of(event: Mapping[str, Any]) -> Caller:
    """Read the caller from an event. The gateway puts the authorizer's context there, and nobody else can.

    Raises:
        TokenInvalid: No valid token was presented.
        ControlPlaneUnavailable: Whether one was could not be told.
    """
    authorizer = event.get("requestContext", {}).get("authorizer") or {}
    context = authorizer.get("lambda") or {}
    if "unavailable" in context:
        raise ControlPlaneUnavailable(f"who calls can not be told now: {context['unavailable']}")
    if "kind" not in context:
        raise TokenInvalid(str(context.get("problem") or f"no token was presented; {EXPECTED}"))
    role = context.get("role")
    return Caller(
        kind=TokenKind(context["kind"]),
        token_id=context["token_id"],
        expires_at=datetime.fromisoformat(context["expires_at"]),
        role=OperatorRole(role) if role else None,
        client_id=context.get("client_id"),
        agent_id=context.get("agent_id"),
        instance_id=context.get("instance_id"),
        replica_id=context.get("replica_id"),
    )


def as_agent(caller: Caller, agent_id: str) -> str:
    """Let only the agent itself pass, and tell the one instance it speaks for.

    Raises:
        AgentUnknown: The token is another agent's.
        Forbidden: The token is no agent's.
    """
    if caller.kind is not TokenKind.AGENT or caller.instance_id is None:
        raise Forbidden(f"a token of kind '{caller.kind}' does not allow this; expected the agent's own token")
    if caller.agent_id != agent_id:
        raise AgentUnknown(f"no agent '{agent_id}'; expected the agent this token was issued to")
    return caller.instance_id


def as_instance(caller: Caller, agent_id: str, *, claimed: str | None) -> str:
    """As `as_agent`, for a call that may name the instance as well.

    Raises:
        AgentUnknown: The token is another agent's.
        Forbidden: The token is no agent's, or of another instance.
    """
    instance_id = as_agent(caller, agent_id)
    if claimed is not None and claimed != instance_id:
        raise Forbidden(f"the token speaks for {instance_id}, not for {claimed}; expected the instance's own token")
    return instance_id


def visible_client(caller: Caller, asked: str | None) -> str | None:
    """Tell whose rows a caller lists: None for everybody's.

    Raises:
        Forbidden: The caller may list nobody's, or not those it asks for.
    """
    if caller.has_role(OperatorRole.VIEWER):
        return asked
    if caller.kind is not TokenKind.CLIENT or caller.client_id is None:
        raise Forbidden(f"a token of kind '{caller.kind}' lists nothing; expected an operator's or a client's token")
    if asked not in (None, caller.client_id):
        raise Forbidden(f"the token lists what is of '{caller.client_id}' only; leave client_id out")
    return caller.client_id


def scope(caller: Caller, *, agent_id: str | None, client_id: str | None, find: Callable[[str], Agent]) -> Scope:
    """Tell whose rows a caller looks at.

    Args:
        caller: Who asks.
        agent_id: The one agent it asks for.
        client_id: The one client it asks for.
        find: Reads an agent.

    Raises:
        AgentUnknown: The agent does not exist, for this caller or at all, or is not the client's.
        Forbidden: The caller may list nobody's, or not those it asks for.
    """
    if agent_id is None:
        return Scope(client_id=visible_client(caller, client_id))
    agent = seen(caller, find(agent_id))
    if client_id not in (None, agent.client_id):
        raise AgentUnknown(f"client '{client_id}' has no agent '{agent_id}'")
    return Scope(client_id=agent.client_id, agent_id=agent_id)


def require_client(caller: Caller, client_id: str) -> None:
    """Let the client itself pass, and operators; for others it does not exist.

    Raises:
        ClientUnknown: It is another client.
        Forbidden: The token is an agent's.
    """
    if caller.has_role(OperatorRole.VIEWER):
        return
    if visible_client(caller, None) != client_id:
        raise ClientUnknown(f"no client '{client_id}'")


def as_agent_or_operator(caller: Caller, agent_id: str) -> str | None:
    """Let the agent itself pass, and operators; tell the instance that speaks, if one does.

    Raises:
        AgentUnknown: The token is another agent's.
        Forbidden: The token is neither an agent's nor an operator's.
    """
    return None if caller.has_role(OperatorRole.OPERATOR) else as_agent(caller, agent_id)


def seen(caller: Caller, agent: Agent) -> Agent:
    """Give the agent to those who may see it; to others it does not exist.

    Raises:
        AgentUnknown: It is another client's, or the token is another agent's.
    """
    own = caller.kind is TokenKind.AGENT and caller.agent_id == agent.agent_id
    client = caller.kind is TokenKind.CLIENT and caller.client_id == agent.client_id
    if not (own or client or caller.has_role(OperatorRole.VIEWER)):
        raise AgentUnknown(f"no agent '{agent.agent_id}'; register it first")
    return agent
