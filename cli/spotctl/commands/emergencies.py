"""Emergencies, called by a human: what AWS or an agent would otherwise say."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from spotctl.commands.replicas import STARTED
from spotctl.failures import NotUnderstood
from spotctl.session import AgentId, AsJson, Session, Yes, begin

app = typer.Typer(name="emergencies", help="Call for a standby, or for a failover, whatever the toggles say.")

Instance = Annotated[
    str | None,
    typer.Option("--instance", help="Which instance; the primary without.", show_default=False),
]


@app.command("replica")
def call_for_replica(agent_id: AgentId, instance_id: Instance = None, as_json: AsJson = False) -> None:
    """Have a standby prepared, as if AWS recommended a rebalance."""
    with begin(as_json=as_json) as session:
        started = session.api.post(
            "/api/agents/{agent_id}/create-emergency-replica",
            {"instance_id": instance_id or _primary(session, agent_id)},
            agent_id=agent_id,
        )
        session.screen.show(STARTED, started)


@app.command("termination")
def announce_termination(
    agent_id: AgentId,
    in_seconds: Annotated[
        float, typer.Option("--in", min=0, max=3600, help="Seconds until AWS takes the instance back.")
    ] = 120,
    instance_id: Instance = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Tell that AWS takes an instance back: the failover starts at once.

    For a notice that reached you and not the control plane. A primary that is handed over is stopped.
    """
    with begin(as_json=as_json) as session:
        instance = instance_id or _primary(session, agent_id)
        session.confirm(f"Fail {agent_id} over, away from {instance}?", yes=yes)
        at: datetime = session.now + timedelta(seconds=in_seconds)
        started = session.api.post(
            "/api/agents/{agent_id}/termination-imminent",
            {"instance_id": instance, "termination_time": at.isoformat()},
            agent_id=agent_id,
        )
        session.screen.show(STARTED, started)
        session.screen.say(f"Watch it with `spotctl agents watch {agent_id} --until-settled`.")


def _primary(session: Session, agent_id: str) -> str:
    agent = session.api.get("/api/agents/{agent_id}", agent_id=agent_id)
    if agent["status"] == "lost":
        raise NotUnderstood(f"{agent_id} is lost and has no primary; expected --instance")
    return str(agent["primary_instance_id"])
