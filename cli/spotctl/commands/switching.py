"""Moving a workload on purpose: what is recommended, and the switch itself."""

from __future__ import annotations

import time
import uuid
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from spotctl import watching
from spotctl.commands import fleet
from spotctl.failures import Document, NotUnderstood, Unfinished
from spotctl.screen import Column, Shape, table_of
from spotctl.session import AgentId, AsJson, Session, Wait, WithinSeconds, Yes, begin
from spotctl.waiting import LOOK_EVERY_SECONDS, looks
from spotctl.words import moment, money, percent, plain, seconds, share, strong

SWITCH = Shape(
    "SwitchCommandAnswer",
    (
        Column("agent", "agent_id", strong),
        Column("from", "from_pool_id"),
        Column("  bought", "from_lifecycle"),
        Column("to", "to_pool_id"),
        Column("  bought", "to_lifecycle"),
        Column("because of", "switch_reason"),
        Column("  that is", "explanation"),
        Column("USD/hour now", "old_usd_per_hour", money),
        Column("USD/hour then", "new_usd_per_hour", money),
        Column("saves", "estimated_savings", money),
        Column("replica", "replica_id"),
        Column("look at", "look"),
    ),
)
RECOMMENDATION = Shape(
    "RecommendationAnswer",
    (
        Column("agent", "agent_id", strong),
        Column("verdict", "verdict", strong),
        Column("because", "reason"),
        Column("  that is", "explanation"),
        Column("runs in", "current_pool_id"),
        Column("  bought", "current_lifecycle"),
        Column("  since", "since", moment),
        Column("should run in", "pool_id"),
        Column("  bought", "lifecycle"),
        Column("saves USD/hour", "saving_usd_per_hour", money),
        Column("  of its cost", "saving_percent", percent),
        Column("risk in 1 h", "risk_within_1h", share),
        Column("  says", "risk_note"),
        Column("confidence", "confidence_score", share),
        Column("model", "model_version"),
        Column("decided", "decided_at", moment),
        Column("  ago", "age_seconds", seconds),
    ),
)
OFFERS = (
    Column("pool", "pool_id", strong, whole=True),
    Column("bought", "lifecycle", whole=True),
    Column("USD/hour", "usd_per_hour", money, right=True),
    Column("expected", "expected_usd_per_hour", money, right=True),
    Column("risk in 1 h", "risk_within_1h", share, right=True),
    Column("why not", "excluded_because"),
)


def recommend(
    agent_id: AgentId,
    anew: Annotated[bool, typer.Option("--anew", help="Decide now, whatever was decided before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell where a workload should run, and why; `switch --as-recommended` follows it."""
    with begin(as_json=as_json) as session:
        told = session.api.get(
            "/api/agents/{agent_id}/switch-recommendation", query={"anew": "true"} if anew else {}, agent_id=agent_id
        )
        session.screen.show(RECOMMENDATION, told, below=[Text(), table_of(OFFERS, told["offers"])])


def switch(
    agent_id: AgentId,
    pool_id: Annotated[
        str | None,
        typer.Option(
            "--to", help="Where to, such as us-east-1b.m5.large; without, the standby's or the cheapest pool."
        ),
    ] = None,
    on_demand: Annotated[bool, typer.Option("--on-demand", help="Buy the new primary on demand, not on spot.")] = False,
    exclude_zones: Annotated[
        list[str] | None, typer.Option("--exclude-zone", help="Not to this zone. Can be given several times.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the switch.")] = "",
    as_recommended: Annotated[
        bool,
        typer.Option("--as-recommended", help="Where it is recommended now, if the agent's toggle and rules allow it."),
    ] = False,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key: the same key gives the same switch.", show_default=False),
    ] = None,
    wait: Wait = False,
    within_seconds: WithinSeconds = 1800,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Move a workload to another pool, or to the other way to buy. Nothing is lost; clients wait a moment.

    A replica is prepared there, and takes over as soon as it is ready; then the old primary goes.
    """
    with begin(as_json=as_json) as session:
        body = _command(pool_id, exclude_zones or [], reason, on_demand=on_demand, as_recommended=as_recommended)
        agent = session.api.get("/api/agents/{agent_id}", agent_id=agent_id)
        session.confirm(f"Move {agent['name']} ({agent_id}) away from {agent['primary_pool_id']}?", yes=yes)
        asked = session.api.post(
            "/api/agents/{agent_id}/issue-switch-command",
            body,
            idempotency_key=key or uuid.uuid4().hex,
            agent_id=agent_id,
        )
        if not wait:
            considered: list[RenderableType] = [Text(), table_of(fleet.CANDIDATE.columns, asked["considered"])]
            session.screen.show(SWITCH, asked, below=considered if asked["considered"] else [])
            session.screen.say(f"Watch it with `spotctl agents watch {agent_id}`.")
            return
        until = time.monotonic() + within_seconds
        await_takeover(session, agent, asked["replica_id"], within_seconds=within_seconds)
        left = max(until - time.monotonic(), LOOK_EVERY_SECONDS)
        watching.watch_handover(session, agent, within_seconds=left)


def await_takeover(session: Session, agent: Document, replica_id: str, *, within_seconds: float) -> None:
    """Stay until a replica begins to take over, and show how far it is.

    Args:
        session: The command's.
        agent: As it was before the switch was asked for.
        replica_id: Of the switch.
        within_seconds: How long at most.

    Raises:
        Unfinished: The replica ended instead, or it takes too long.
    """
    agent_id = agent["agent_id"]
    with session.screen.progress(replica_id) as tell:
        for _ in looks(within_seconds):
            latest = watching.look(session, agent_id)
            replica = next(one for one in latest["replicas"] if one["replica_id"] == replica_id)
            tell(replica["sync_percent"], f"{replica['status']} in {plain(replica['pool_id'])}")
            begun = latest["handover_state"] == "open" or latest["handover_id"] != agent["handover_id"]
            if begun or latest["epoch"] != agent["epoch"]:
                return
            if replica["status"] in watching.OVER:
                raise Unfinished(
                    f"Replica {replica['status']}",
                    f"{replica['failure'] or replica_id}; {latest['primary_instance_id']} serves on, nothing was lost",
                )
    raise Unfinished(
        "Still under way",
        f"{replica_id} is '{replica['status']}' after {within_seconds:.0f} s; it goes on without you",
        advice=f"`spotctl agents watch {agent_id}` shows how far it is",
    )


def _command(
    pool_id: str | None, exclude_zones: list[str], reason: str, *, on_demand: bool, as_recommended: bool
) -> Document:
    if as_recommended:
        if pool_id or exclude_zones or reason or on_demand:
            raise NotUnderstood("--as-recommended says where to and why; expected it alone")
        return {"source": "engine"}
    if not reason.strip():
        raise NotUnderstood("a switch needs a reason; expected --reason, or --as-recommended")
    lifecycle = {"lifecycle": "on-demand"} if on_demand else {}
    return {"pool_id": pool_id, "exclude_zones": exclude_zones, "reason": reason, **lifecycle}
