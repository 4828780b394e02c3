"""Clients: the tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from spotctl.commands import fleet
from spotctl.screen import Column, Shape
from spotctl.session import AsJson, AtMost, begin
from spotctl.words import moment, strong

app = typer.Typer(name="clients", help="The tenants. One never sees another's workloads.")

app.command("instances")(fleet.list_instances)

CLIENT = Shape(
    "ClientAnswer",
    (
        Column("client", "client_id", strong, whole=True),
        Column("name", "name"),
        Column("created", "created_at", moment),
    ),
    nothing="There is no client yet; `spotctl clients create` makes one.",
)


@app.command("list")
def list_clients(at_most: AtMost = None, as_json: AsJson = False) -> None:
    """List clients."""
    with begin(as_json=as_json) as session:
        session.screen.show_list(CLIENT, session.api.pages("/api/clients", "clients", at_most=at_most))


@app.command("create")
def create_client(
    client_id: Annotated[str, typer.Argument(metavar="CLIENT", help="Its id: small letters, digits and dashes.")],
    name: Annotated[str | None, typer.Option("--name", help="What people call it; its id without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a client; one that exists is given as it is. For admins."""
    with begin(as_json=as_json) as session:
        created = session.api.post("/api/clients", {"client_id": client_id, "name": name or client_id})
        session.screen.show(CLIENT, created)
        session.screen.say(f"Next: `spotctl tokens issue {client_id}` gives the token that its agents register with.")
