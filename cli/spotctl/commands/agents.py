"""Agents: the protected workloads."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from spotctl import watching
from spotctl.commands import fleet
from spotctl.commands.replicas import replica_columns
from spotctl.failures import Document, NotUnderstood
from spotctl.screen import Column, Shape, table_of
from spotctl.session import AgentId, AsJson, AtMost, Session, begin, complete_clients
from spotctl.words import ago, moment, rate, seconds, share, size, state, strong, usd

app = typer.Typer(name="agents", help="Look at the protected workloads, and change how they are looked after.")
config = typer.Typer(name="config", help="The toggles, and how often state is shipped.")
app.add_typer(config)
app.command("pools")(fleet.list_candidates)

#: Whether state comes through a notice, by what its agent says; `agents show` has the words themselves.
_SAFE = {"standby ready": "yes", "fits through a notice": "yes", "unprotected without standby": "no"}

CONFIGURATION = Shape(
    "Configuration",
    (
        Column("auto_switch", "auto_switch", state),
        Column("auto_replica", "auto_replica", state),
        Column("manual_replica", "manual_replica", state),
        Column("sync_interval", "sync_interval_seconds", seconds),
        Column("rebalance_threshold", "rebalance_threshold"),
        Column("quiet", "quiet_seconds", seconds),
        Column("minimum_saving", "switch_minimum_saving", share),
        Column("dwell", "switch_dwell_seconds", seconds),
        Column("hysteresis", "switch_hysteresis", share),
        Column("switches_per_day", "switches_per_day"),
        Column("maintenance_windows", "maintenance_windows"),
        Column("outage_second", "usd_per_outage_second", usd),
    ),
)


def agents_shape(session: Session) -> Shape:
    """A line per agent."""
    return Shape(
        "AgentAnswer",
        (
            Column("agent", "agent_id", strong, whole=True),
            Column("name", "name"),
            Column("client", "client_id"),
            Column("status", "status", state, whole=True),
            Column("epoch", "epoch", right=True),
            Column("primary's pool", "primary_pool_id", whole=True),
            Column("replica", "active_replica_id", _whether),
            Column("safe", "protection", _is_safe),
            Column("last heartbeat", "last_heartbeat_at", ago(session.now), whole=True),
            Column("paused", "paused_at", _whether),
        ),
        nothing="There is no agent yet: the first instance registers with a client's token.",
    )


def agent_shape(session: Session) -> Shape:
    """All that is known of one agent."""
    return Shape(
        "AgentAnswer",
        (
            Column("agent", "agent_id", strong),
            Column("name", "name"),
            Column("client", "client_id"),
            Column("status", "status", state),
            Column("epoch", "epoch"),
            Column("primary", "primary_instance_id"),
            Column("in pool", "primary_pool_id"),
            Column("serving", "serving", state),
            Column("healthy", "healthy", state),
            Column("last heartbeat", "last_heartbeat_at", ago(session.now)),
            Column("agent version", "agent_version"),
            Column("protection", "protection", state),
            Column("state", "state_bytes", size),
            Column("  is carried at", "state_bytes_per_second", rate),
            Column("newest snapshot", "snapshot_taken_at", ago(session.now)),
            Column("  cost per day", "snapshot_usd_per_day", usd),
            Column("traffic by", "traffic_adapter"),
            Column("traffic target", "traffic_target"),
            Column("traffic epoch", "traffic_epoch"),
            Column("active replica", "active_replica_id"),
            Column("replicas so far", "replica_count"),
            Column("handover", "handover_id"),
            Column("  is", "handover_state", state),
            Column("last failover", "last_failover_at", moment),
            Column("paused since", "paused_at", moment),
            Column("  because", "paused_because"),
            Column("registered", "registered_at", moment),
            Column("auto switch", "configuration.auto_switch", state),
            Column("auto replica", "configuration.auto_replica", state),
            Column("manual replica", "configuration.manual_replica", state),
            Column("state shipped every", "configuration.sync_interval_seconds", seconds),
        ),
    )


@app.command("list")
def list_agents(
    client_id: Annotated[
        str | None, typer.Option("--client", help="Only this client's.", autocompletion=complete_clients)
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", help="Only those: online, offline, failing-over or lost. Can be given several times."),
    ] = None,
    at_most: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """List agents: an operator sees all, a client its own."""
    with begin(as_json=as_json) as session:
        found = session.api.pages("/api/agents", "agents", at_most=at_most, query={"client_id": client_id})
        wanted = (agent for agent in found if not status or agent["status"] in status)
        session.screen.show_list(agents_shape(session), wanted)


@app.command("show")
def show_agent(agent_id: AgentId, as_json: AsJson = False) -> None:
    """Show an agent, and the replicas it has now."""
    with begin(as_json=as_json) as session:
        agent = session.api.get("/api/agents/{agent_id}", agent_id=agent_id)
        replicas = [
            replica
            for replica in session.api.pages("/api/agents/{agent_id}/replicas", "replicas", agent_id=agent_id)
            if replica["ended_at"] is None and replica["status"] != "promoted"
        ]
        if as_json:
            session.screen.print_json({**agent, "replicas": replicas})
            return
        below: list[RenderableType] = [Text(), table_of(replica_columns(session), replicas)] if replicas else []
        session.screen.show(agent_shape(session), agent, below=below)


@app.command("watch")
def watch_agent(
    agent_id: AgentId,
    every_seconds: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    until_settled: Annotated[
        bool,
        typer.Option(
            "--until-settled", help="End when no failover is under way any more: 0 if it serves, 9 if it is lost."
        ),
    ] = False,
    within_seconds: Annotated[
        float | None, typer.Option("--within", min=1, help="Seconds to watch at most.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch an agent live: what it is, how far its standby is, and each step of a failover as it happens.

    With --json, a line per step. Ctrl-C ends it.
    """
    with begin(as_json=as_json) as session:
        watching.watch(
            session,
            agent_id,
            every_seconds=every_seconds,
            until_settled=until_settled,
            within_seconds=within_seconds,
        )


@config.command("get")
def get_config(agent_id: AgentId, as_json: AsJson = False) -> None:
    """Show an agent's configuration."""
    with begin(as_json=as_json) as session:
        session.screen.show(CONFIGURATION, session.api.get("/api/agents/{agent_id}/config", agent_id=agent_id))


@config.command("set")
def set_config(
    agent_id: AgentId,
    auto_switch: Annotated[
        bool | None,
        typer.Option("--auto-switch/--no-auto-switch", help="Recommendations act by themselves.", show_default=False),
    ] = None,
    auto_replica: Annotated[
        bool | None,
        typer.Option("--auto-replica/--no-auto-replica", help="Replicas on rising risk.", show_default=False),
    ] = None,
    manual_replica: Annotated[
        bool | None,
        typer.Option("--manual-replica/--no-manual-replica", help="Operators may create replicas.", show_default=False),
    ] = None,
    sync_interval_seconds: Annotated[
        float | None,
        typer.Option("--sync-interval", help="Seconds between two generations.", show_default=False),
    ] = None,
    rebalance_threshold: Annotated[
        float | None,
        typer.Option(
            "--rebalance-threshold",
            help="Above this probability, a rebalance recommendation makes a standby.",
            show_default=False,
        ),
    ] = None,
    quiet_seconds: Annotated[
        int | None,
        typer.Option("--quiet", help="Seconds without a sign after which it is released.", show_default=False),
    ] = None,
    minimum_saving: Annotated[
        float | None,
        typer.Option("--minimum-saving", help="Share of its cost that moving by itself must save.", show_default=False),
    ] = None,
    dwell_seconds: Annotated[
        int | None, typer.Option("--dwell", help="Seconds that it stays after any move.", show_default=False)
    ] = None,
    hysteresis: Annotated[
        float | None,
        typer.Option("--hysteresis", help="What coming back must save on top of that.", show_default=False),
    ] = None,
    switches_per_day: Annotated[
        int | None,
        typer.Option("--switches-per-day", help="How often at most it moves by itself.", show_default=False),
    ] = None,
    windows: Annotated[
        list[str] | None,
        typer.Option(
            "--window",
            help="When it may move by itself, in UTC: `sat,sun 02:00-06:00`. Can be given several times; `always` "
            "clears them.",
            show_default=False,
        ),
    ] = None,
    usd_per_outage_second: Annotated[
        float | None,
        typer.Option(
            "--usd-per-outage-second", help="What a second of waiting is worth to its users.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change an agent's configuration; what is not named stays. Emergencies go past every toggle."""
    with begin(as_json=as_json) as session:
        changes = _named(
            auto_switch=auto_switch,
            auto_replica=auto_replica,
            manual_replica=manual_replica,
            sync_interval_seconds=sync_interval_seconds,
            rebalance_threshold=rebalance_threshold,
            quiet_seconds=quiet_seconds,
            switch_minimum_saving=minimum_saving,
            switch_dwell_seconds=dwell_seconds,
            switch_hysteresis=hysteresis,
            switches_per_day=switches_per_day,
            maintenance_windows=[] if windows == ["always"] else windows or None,
            usd_per_outage_second=usd_per_outage_second,
        )
        if not changes:
            raise NotUnderstood("nothing is to be changed; expected at least one setting, such as --no-auto-switch")
        changed = session.api.patch("/api/agents/{agent_id}/config", changes, agent_id=agent_id)
        session.screen.show(CONFIGURATION, changed)


def _named(**values: Any) -> Document:
    return {name: value for name, value in values.items() if value is not None}


def _is_safe(protection: Any) -> Text:
    """Whether its state would come through a notice; a dash until the agent has measured it."""
    return state(_SAFE.get(protection))


def _whether(value: Any) -> Text:
    return state("yes" if value else "no")
