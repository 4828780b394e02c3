"""Handovers: what an operator may still do about one that is under way."""

from __future__ import annotations

from typing import Annotated

import typer

from spotctl.screen import Column, Shape
from spotctl.session import AgentId, AsJson, Yes, begin
from spotctl.words import state, strong

app = typer.Typer(name="handovers", help="Call a planned handover off.")

HANDOVER = Shape(
    "HandoverAnswer",
    (
        Column("handover", "handover_id", strong),
        Column("of agent", "agent_id"),
        Column("state", "handover_state", state),
        Column("primary", "primary_instance_id"),
        Column("epoch", "epoch"),
    ),
)


@app.command("abort")
def abort_handover(
    agent_id: AgentId,
    handover_id: Annotated[
        str | None, typer.Option("--handover", help="Which; the agent's latest, if left out.", show_default=False)
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Abort a handover that was planned: its primary serves on. One that answers an interruption is not aborted."""
    with begin(as_json=as_json) as session:
        agent = session.api.get("/api/agents/{agent_id}", agent_id=agent_id)
        latest = handover_id or agent["handover_id"] or "none"
        session.confirm(f"Abort handover {latest} of {agent['name']} ({agent_id})?", yes=yes)
        aborted = session.api.post(
            "/api/agents/{agent_id}/handovers/{handover_id}/abort", {}, agent_id=agent_id, handover_id=latest
        )
        session.screen.show(HANDOVER, aborted)
