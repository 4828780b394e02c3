"""Whether the control plane can do its work."""

from __future__ import annotations

from spotctl.screen import Column, Shape
from spotctl.session import AsJson, begin
from spotctl.words import moment, state

HEALTH = Shape(
    "HealthAnswer",
    (
        Column("api", "status", state),
        Column("stage", "stage"),
        Column("version", "version"),
        Column("tables", "checks.tables", state),
        Column("paused since", "paused_at", moment),
        Column("risk model", "model.live"),
    ),
)


def health(as_json: AsJson = False) -> None:
    """Tell whether the API is up. Needs an address, and no token."""
    with begin(as_json=as_json) as session, session.open_api() as api:
        session.screen.show(HEALTH, api.get("/api/health"))
