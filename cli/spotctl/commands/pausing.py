"""Pausing: nothing is begun, of one agent or of all; what fences goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from spotctl.screen import Column, Shape
from spotctl.session import AsJson, Yes, begin, complete_agents
from spotctl.words import moment

PAUSE = Shape(
    "PauseAnswer",
    (
        Column("paused since", "paused_at", moment),
        Column("because", "paused_because"),
    ),
)

OneAgent = Annotated[
    str | None,
    typer.Argument(
        metavar="[AGENT]", help="Only this one; all without.", autocompletion=complete_agents, show_default=False
    ),
]


def pause(
    reason: Annotated[str, typer.Option("--reason", help="For everybody who finds it paused.", show_default=False)],
    agent_id: OneAgent = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Begin nothing any more: no failover, no replica, no switch. What is under way ends, and fencing goes on.

    While it lasts, an interruption is an outage. Pausing all is for admins.
    """
    with begin(as_json=as_json) as session:
        session.confirm(f"Protect {agent_id or 'no workload at all'} no more until it is resumed?", yes=yes)
        if agent_id is None:
            answer = session.api.post("/api/pause", {"reason": reason})
        else:
            answer = session.api.post("/api/agents/{agent_id}/pause", {"reason": reason}, agent_id=agent_id)
        session.screen.show(PAUSE, answer)


def resume(agent_id: OneAgent = None, as_json: AsJson = False) -> None:
    """End a pause. What went by meanwhile is looked at within a minute; agents that are paused themselves stay so."""
    with begin(as_json=as_json) as session:
        if agent_id is None:
            answer = session.api.post("/api/resume")
        else:
            answer = session.api.post("/api/agents/{agent_id}/resume", agent_id=agent_id)
        session.screen.show(PAUSE, answer)


def paused(as_json: AsJson = False) -> None:
    """Tell whether everything is paused, since when, and why. Agents that are paused themselves say so when shown."""
    with begin(as_json=as_json) as session:
        session.screen.show(PAUSE, session.api.get("/api/pause"))
