"""Tokens: issued, rotated, revoked."""

from __future__ import annotations

from typing import Annotated

import typer

from spotctl.failures import Document
from spotctl.screen import Column, Shape
from spotctl.session import AsJson, ClientId, Session, Yes, begin
from spotctl.words import moment, strong

app = typer.Typer(name="tokens", help="Who may call the API. For admins.")

TOKEN = Shape(
    "TokenAnswer",
    (
        Column("token", "token_id", strong),
        Column("speaks for", "kind"),
        Column("client", "client_id"),
        Column("role", "role"),
        Column("expires", "expires_at", moment),
    ),
)

Key = Annotated[
    str | None,
    typer.Option("--key", help="Idempotency key: with the same key no second token is issued.", show_default=False),
]
TokenId = Annotated[str, typer.Argument(metavar="TOKEN_ID", help="The token's id: its third part.", show_default=False)]


@app.command("issue")
def issue_token(
    client_id: ClientId,
    name: Annotated[str | None, typer.Option("--name", help="What it is for.", show_default=False)] = None,
    valid_days: Annotated[int, typer.Option("--days", min=1, max=365, help="How long it is in force.")] = 365,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Issue a client's token. Its secret is shown this once: on stdout, alone on its line."""
    with begin(as_json=as_json) as session:
        issued = session.api.post(
            "/api/clients/{client_id}/tokens",
            {"name": name, "valid_days": valid_days},
            idempotency_key=key,
            client_id=client_id,
        )
        _hand_out(session, issued)


@app.command("issue-operator")
def issue_operator_token(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="viewer, operator or admin.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="Whose it is.", show_default=False)],
    valid_days: Annotated[int, typer.Option("--days", min=1, max=365, help="How long it is in force.")] = 90,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Issue a person's token. Its secret is shown this once: on stdout, alone on its line."""
    with begin(as_json=as_json) as session:
        body = {"role": role, "name": name, "valid_days": valid_days}
        _hand_out(session, session.api.post("/api/tokens", body, idempotency_key=key))


@app.command("rotate")
def rotate_token(token_id: TokenId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Give a token a new secret and a new life; the old secret is void at once."""
    with begin(as_json=as_json) as session:
        session.confirm(f"Whoever uses {token_id} is locked out until they have the new secret. Go on?", yes=yes)
        _hand_out(session, session.api.post("/api/tokens/{token_id}/rotate", token_id=token_id))


@app.command("revoke")
def revoke_token(token_id: TokenId, yes: Yes = False, as_json: AsJson = False) -> None:
    """End a token now."""
    with begin(as_json=as_json) as session:
        session.confirm(f"Whoever uses {token_id} is locked out. Go on?", yes=yes)
        session.api.delete("/api/tokens/{token_id}", token_id=token_id)
        session.screen.say(f"{token_id} is revoked.")
        if as_json:
            session.screen.print_json({"token_id": token_id, "revoked": True})


def _hand_out(session: Session, issued: Document) -> None:
    if session.screen.as_json:
        session.screen.print_json(issued)
        return
    session.screen.show(TOKEN, {**issued})
    session.screen.say("The secret is shown this once:")
    print(issued["token"])
