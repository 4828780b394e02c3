"""What carries our tag on EC2 and is nobody's."""

from __future__ import annotations

from spotctl.screen import Column, Shape
from spotctl.session import AsJson, begin
from spotctl.words import moment, state, strong

ORPHAN = Shape(
    "SightingAnswer",
    (
        Column("what", "resource_id", strong, whole=True),
        Column("kind", "kind"),
        Column("agent", "agent_id", whole=True),
        Column("first seen", "first_seen_at", moment, whole=True),
        Column("finding", "finding", state),
        Column("because", "reason"),
    ),
    nothing="Everything on EC2 that carries our tag is somebody's.",
)


def list_orphans(as_json: AsJson = False) -> None:
    """List what nobody claims: an orphan is ended after a grace; what is kept is left to you, for the reason given."""
    with begin(as_json=as_json) as session:
        report = session.api.get("/api/orphans")
        session.screen.show_list(ORPHAN, report["orphans"])
        if report["halted_because"]:
            session.screen.say(report["halted_because"])
