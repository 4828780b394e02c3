"""What happened, where, and to whose instances."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spotctl.screen import Column, Shape
from spotctl.session import (
    AgentId,
    AsJson,
    AtMost,
    ClientId,
    Session,
    begin,
    complete_agents,
    complete_clients,
    complete_pools,
)
from spotctl.times import From, To, read_range
from spotctl.words import (
    NOTHING,
    Shown,
    milliseconds,
    moment,
    money,
    percent,
    seconds,
    share,
    size,
    state,
    strong,
)

OfAgent = Annotated[
    str | None, typer.Option("--agent", help="Only of this agent.", autocompletion=complete_agents, show_default=False)
]
OfClient = Annotated[
    str | None,
    typer.Option("--client", help="Only of this client.", autocompletion=complete_clients, show_default=False),
]
OfPool = Annotated[
    str | None, typer.Option("--pool", help="Only in this pool.", autocompletion=complete_pools, show_default=False)
]

#: Where a failover's time goes, in order.
FAILOVER_STEPS = ("claim", "open-handover", "promote", "serve", "move-traffic")


def took_by(step: str) -> Shown:
    """How long one step of a failover took."""

    def shown(steps: Any) -> str:
        return next((milliseconds(taken["ms"]) for taken in steps or () if taken["step"] == step), NOTHING)

    return shown


CANDIDATE = Shape(
    "CandidateAnswer",
    (
        Column("pool", "pool_id", strong, whole=True),
        Column("USD/hour", "usd_per_hour", money, right=True),
        Column("on demand", "on_demand_usd_per_hour", money, right=True),
        Column("saving", "saving_percent", percent, right=True),
        Column("risk in 1 h", "risk_within_1h", share, right=True),
        Column("interruptions", "interruptions", right=True),
        Column("qualifies", "qualifies", state),
        Column("why not, or late", "explanation"),
    ),
    nothing="No pool: none of the agent's subnets is known to EC2.",
)
SWITCH = Shape(
    "SwitchAnswer",
    (
        Column("when", "switched_at", moment, whole=True),
        Column("agent", "agent_id", strong, whole=True),
        Column("from", "from_pool_id", whole=True),
        Column("to", "to_pool_id", whole=True),
        Column("took", "rto_seconds", seconds, right=True, whole=True),
        Column("lost", "rpo_seconds", seconds, right=True),
        Column("because of", "switch_reason"),
    ),
    nothing="There was no switch.",
)
EARNED = Shape(
    "SwitchAnswer",
    (
        Column("when", "switched_at", moment, whole=True),
        Column("agent", "agent_id", strong, whole=True),
        Column("to", "to_pool_id", whole=True),
        Column("bought", "to_lifecycle", whole=True),
        Column("USD/hour", "old_usd_per_hour", money, right=True),
        Column("then", "new_usd_per_hour", money, right=True),
        Column("saves", "estimated_savings", money, right=True),
        Column("saved", "realised_savings", money, right=True),
        Column("  over", "realised_seconds", seconds, right=True, whole=True),
    ),
    nothing="There was no switch.",
)
INTERRUPTION = Shape(
    "InterruptionAnswer",
    (
        Column("when", "detected_at", moment, whole=True),
        Column("agent", "agent_id", strong, whole=True),
        Column("pool", "pool_id", whole=True),
        Column("signal", "signal_type"),
        Column("answer", "response_action"),
        Column("took", "rto_seconds", seconds, right=True, whole=True),
    ),
    nothing="There was no interruption.",
)
STEPS = Shape(
    "InterruptionAnswer",
    (
        Column("when", "detected_at", moment, whole=True),
        Column("agent", "agent_id", strong, whole=True),
        *(Column(name.replace("-", " "), "steps", took_by(name), right=True, whole=True) for name in FAILOVER_STEPS),
        Column("all", "failover_time_ms", milliseconds, right=True, whole=True),
        Column("lost ≤", "rpo_seconds", seconds, right=True, whole=True),
        Column("  about", "rpo_bytes", size, right=True, whole=True),
    ),
    nothing="There was no interruption.",
)
INSTANCE = Shape(
    "InstanceAnswer",
    (
        Column("instance", "instance_id", strong, whole=True),
        Column("role", "role", state),
        Column("agent", "agent_id", whole=True),
        Column("pool", "pool_id", whole=True),
        Column("epoch", "epoch", right=True),
        Column("joined", "joined_at", moment),
        Column("replica", "replica_id"),
    ),
    nothing="No instance of this client ever joined.",
)


def list_candidates(agent_id: AgentId, as_json: AsJson = False) -> None:
    """List the pools an agent could run in: those that qualify first, the cheapest first; the others say why not."""
    with begin(as_json=as_json) as session:
        answer = session.api.get("/api/agents/{agent_id}/pools", agent_id=agent_id)
        session.screen.show_list(CANDIDATE, answer["pools"])


def list_switches(
    agent_id: OfAgent = None,
    client_id: OfClient = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Only for this reason, such as termination-notice.")
    ] = None,
    since: From = None,
    until: To = None,
    earned: Annotated[
        bool, typer.Option("--savings", help="What each was expected to save an hour, and what it did.")
    ] = False,
    at_most: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """List the promotions there were, the latest first."""
    with begin(as_json=as_json) as session:
        query = {"agent_id": agent_id, "client_id": client_id, "switch_reason": reason}
        query |= _span(since, until, session)
        found = session.api.pages("/api/switches", "switches", at_most=at_most, query=query)
        session.screen.show_list(EARNED if earned else SWITCH, found)


def list_interruptions(
    agent_id: OfAgent = None,
    client_id: OfClient = None,
    pool_id: OfPool = None,
    signal: Annotated[
        str | None, typer.Option("--signal", help="Only of this kind, such as rebalance-recommendation.")
    ] = None,
    since: From = None,
    until: To = None,
    steps: Annotated[bool, typer.Option("--steps", help="Where the time of each failover went.")] = False,
    at_most: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """List the signals there were and what came of them, the latest first."""
    with begin(as_json=as_json) as session:
        query = {"agent_id": agent_id, "client_id": client_id, "pool_id": pool_id, "signal_type": signal}
        query |= _span(since, until, session)
        found = session.api.pages("/api/interruptions", "interruptions", at_most=at_most, query=query)
        session.screen.show_list(STEPS if steps else INTERRUPTION, found)


def list_instances(
    client_id: ClientId,
    role: Annotated[
        str | None, typer.Option("--role", help="Only primary, standby, retired-pending or retired.")
    ] = None,
    at_most: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """List a client's instances, and those that were, the last that joined first."""
    with begin(as_json=as_json) as session:
        found = session.api.pages(
            "/api/clients/{client_id}/instances",
            "instances",
            at_most=at_most,
            query={"role": role},
            client_id=client_id,
        )
        session.screen.show_list(INSTANCE, found)


def _span(since: str | None, until: str | None, session: Session) -> dict[str, str | None]:
    edges = zip(("since", "until"), read_range(since, until, session.now), strict=True)
    return {name: moment.isoformat() if moment else None for name, moment in edges}
