"""Signing in and out."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from spotctl import signing_in
from spotctl.api import Api
from spotctl.failures import NotUnderstood
from spotctl.session import AsJson, begin
from spotctl.signing_in import SignIn


def sign_in(
    api_url: Annotated[
        str | None,
        typer.Argument(metavar="API_URL", help="The stack's output ApiUrl; asked for without.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep the API's address and a token, after trying them.

    The token is asked for, or read from stdin when that is no terminal; never an argument, which others could see. It
    is kept with mode 0600 in $XDG_CONFIG_HOME/spotctl (~/.config/spotctl). SPOTCTL_API_URL and SPOTCTL_TOKEN in the
    environment go before it.
    """
    with begin(as_json=as_json) as session:
        url = signing_in.checked_url(api_url or _asked("API URL"))
        wanted = SignIn(url, _asked("Token", secret=True))
        if wanted.kind not in ("operator", "client"):
            raise NotUnderstood(
                "this is not a token that signs in; expected spo_operator_… or spo_client_…",
                advice="an admin issues tokens; the first one comes from `python -m spot_optimizer.bootstrap`",
            )
        with Api(wanted) as api:
            health = api.get("/api/health")
            api.get("/api/agents", query={"limit": 1})
        file = signing_in.keep(wanted, os.environ)
        session.screen.say(
            f"Signed in to {url} (stage {health['stage']}, version {health['version']}) with the {wanted.kind} token "
            f"{wanted.token_id}, kept in {file}."
        )
        if as_json:
            session.screen.print_json({"api_url": url, "kind": wanted.kind, "token_id": wanted.token_id})


def sign_out() -> None:
    """Forget the address and the token. The token itself stays in force: `spotctl tokens revoke` ends it."""
    with begin() as session:
        forgotten = signing_in.forget(os.environ)
        session.screen.say("Signed out." if forgotten else "Nobody was signed in.")


def _asked(what: str, *, secret: bool = False) -> str:
    answer = str(typer.prompt(what, hide_input=secret, err=True)) if sys.stdin.isatty() else sys.stdin.readline()
    if not answer.strip():
        raise NotUnderstood(f"no {what} was given; expected one line on stdin")
    return answer.strip()
