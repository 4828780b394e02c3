"""Replicas: instances that are prepared to take over."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from spotctl import watching
from spotctl.commands import fleet
from spotctl.failures import Document, Unfinished
from spotctl.screen import Column, Shape, table_of
from spotctl.session import AgentId, AsJson, AtMost, ReplicaId, Session, Wait, WithinSeconds, Yes, begin
from spotctl.waiting import looks
from spotctl.words import ago, moment, plain, progress, rate, seconds, size, state, strong

app = typer.Typer(name="replicas", help="Look at standbys, create them, and hand over to them.")


def _maker(kind: Any) -> str:
    return plain(kind).removeprefix("automatic-")


def replica_columns(session: Session) -> tuple[Column, ...]:
    """A line per replica."""
    return (
        Column("replica", "replica_id", strong, whole=True),
        Column("made by", "type", _maker, whole=True),
        Column("status", "status", state, whole=True),
        Column("pool", "pool_id", whole=True),
        Column("bought", "lifecycle", whole=True),
        Column("synced", "sync_percent", progress, whole=True),
        Column("lag", "lag_seconds", seconds, right=True),
        Column("created", "created_at", ago(session.now), whole=True),
    )


def replicas_shape(session: Session) -> Shape:
    """An agent's replicas, also those that ended."""
    columns = (*replica_columns(session), Column("why it ended", "failure"))
    return Shape("ReplicaAnswer", columns, nothing="This agent never had a replica.")


def active_replicas_shape(session: Session) -> Shape:
    """An agent's replicas now."""
    return Shape("ReplicaAnswer", replica_columns(session), nothing="No replica now; --all shows those that ended.")


REPLICA = Shape(
    "ReplicaAnswer",
    (
        Column("replica", "replica_id", strong),
        Column("of agent", "agent_id"),
        Column("type", "type"),
        Column("status", "status", state),
        Column("pool", "pool_id"),
        Column("bought", "lifecycle"),
        Column("instance", "instance_id"),
        Column("follows epoch", "epoch"),
        Column("generation", "generation"),
        Column("synced", "sync_percent", progress),
        Column("  carried", "sync_done_bytes", size),
        Column("  of", "sync_total_bytes", size),
        Column("  at", "sync_bytes_per_second", rate),
        Column("lag", "lag_seconds", seconds),
        Column("covered until", "covered_until", moment),
        Column("created", "created_at", moment),
        Column("created by", "created_by"),
        Column("ready since", "ready_at", moment),
        Column("ended", "ended_at", moment),
        Column("why it ended", "failure"),
    ),
)
STARTED = Shape(
    "StartedAnswer",
    (
        Column("what came of it", "reason"),
        Column("execution", "execution"),
        Column("attempt", "attempt"),
        Column("replica", "replica_id"),
        Column("look at", "look"),
    ),
)
ATTEMPTS = (
    Column("launch", "number", right=True),
    Column("in pool", "pool_id"),
    Column("bought", "lifecycle"),
    Column("came to", "outcome"),
)


@app.command("list")
def list_replicas(
    agent_id: AgentId,
    every: Annotated[bool, typer.Option("--all", "-a", help="Also those that ended.")] = False,
    at_most: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """List an agent's replicas."""
    with begin(as_json=as_json) as session:
        found = session.api.pages("/api/agents/{agent_id}/replicas", "replicas", at_most=at_most, agent_id=agent_id)
        wanted = (replica for replica in found if every or replica["status"] not in watching.OVER)
        session.screen.show_list(replicas_shape(session) if every else active_replicas_shape(session), wanted)


@app.command("create")
def create_replica(
    agent_id: AgentId,
    pool_id: Annotated[
        str | None,
        typer.Option("--pool", help="Where, such as us-east-1b.m5.large; the cheapest acceptable pool without."),
    ] = None,
    exclude_zones: Annotated[
        list[str] | None, typer.Option("--exclude-zone", help="Not in this zone. Can be given several times.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key: the same key gives the same replica.", show_default=False),
    ] = None,
    wait: Wait = False,
    within_seconds: WithinSeconds = 900,
    as_json: AsJson = False,
) -> None:
    """Create a standby. One is active at a time."""
    with begin(as_json=as_json) as session:
        replica = session.api.post(
            "/api/agents/{agent_id}/replicas",
            {"pool_id": pool_id, "exclude_zones": exclude_zones or []},
            idempotency_key=key or uuid.uuid4().hex,
            agent_id=agent_id,
        )
        considered = replica.get("considered", ())
        if wait:
            replica = await_ready(session, agent_id, replica["replica_id"], within_seconds=within_seconds)
        below: list[RenderableType] = [Text(), table_of(fleet.CANDIDATE.columns, considered)] if considered else []
        session.screen.show(REPLICA, replica, below=below)


@app.command("promote")
def promote_replica(
    agent_id: AgentId,
    replica_id: ReplicaId,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the switch.")] = "",
    demote: Annotated[
        bool | None,
        typer.Option(
            "--demote/--retire",
            help="What becomes of the old primary: the new one's standby, or terminated once another copy exists. Left "
            "out, it becomes the standby if it is fit for that.",
            show_default=False,
        ),
    ] = None,
    wait: Wait = False,
    within_seconds: WithinSeconds = 120,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Hand over to a replica that is ready. Nothing that was acknowledged is lost; clients wait a moment."""
    with begin(as_json=as_json) as session:
        agent = session.api.get("/api/agents/{agent_id}", agent_id=agent_id)
        session.confirm(f"Hand {agent['name']} ({agent_id}) over to {replica_id}?", yes=yes)
        started = session.api.post(
            "/api/agents/{agent_id}/replicas/{replica_id}/promote",
            {"reason": reason} | ({} if demote is None else {"demote_old_primary": demote}),
            agent_id=agent_id,
            replica_id=replica_id,
        )
        if not wait:
            session.screen.show(STARTED, started)
            session.screen.say(f"Watch it with `spotctl agents watch {agent_id} --until-settled`.")
            return
        watching.watch_handover(session, agent, within_seconds=within_seconds)


@app.command("terminate")
def terminate_replica(agent_id: AgentId, replica_id: ReplicaId, yes: Yes = False, as_json: AsJson = False) -> None:
    """End a replica and its instance. Refused once it has taken over, and while it may be the newest copy."""
    with begin(as_json=as_json) as session:
        session.confirm(f"Terminate {replica_id}? Until another is ready, {agent_id} has no standby.", yes=yes)
        ended = session.api.delete(
            "/api/agents/{agent_id}/replicas/{replica_id}", agent_id=agent_id, replica_id=replica_id
        )
        session.screen.show(REPLICA, ended)


def await_ready(session: Session, agent_id: str, replica_id: str, *, within_seconds: float) -> Document:
    """Stay until a replica is ready, and show how far it is.

    Raises:
        Unfinished: It ended instead, or is not ready in time.
    """
    with session.screen.progress(replica_id) as tell:
        for _ in looks(within_seconds):
            replica = _replica(session, agent_id, replica_id)
            at = f", {rate(replica['sync_bytes_per_second'])}" if replica["sync_bytes_per_second"] else ""
            tell(replica["sync_percent"], f"{replica['status']} in {plain(replica['pool_id'])}{at}")
            if replica["status"] == "ready":
                return replica
            if replica["status"] in watching.OVER:
                raise Unfinished(f"Replica {replica['status']}", replica["failure"] or f"{replica_id} is not ready")
    raise Unfinished(
        "Not ready yet",
        f"{replica_id} is '{replica['status']}' after {within_seconds:.0f} s; it goes on without you",
        advice=f"`spotctl replicas list {agent_id}` shows how far it is",
    )


def _replica(session: Session, agent_id: str, replica_id: str) -> Document:
    replicas = session.api.pages("/api/agents/{agent_id}/replicas", "replicas", agent_id=agent_id)
    return next(replica for replica in replicas if replica["replica_id"] == replica_id)
