"""What every command starts with: a screen, and the API once it is needed; and the options that commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated

import typer

from spotctl import signing_in
from spotctl.api import Api
from spotctl.failures import Failure, NotUnderstood
from spotctl.screen import Screen
from spotctl.signing_in import SignIn

COMPLETION_SECONDS = 2.0


class Session:
    """One run of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.screen = Screen(as_json=as_json)
        self.now = datetime.now(UTC)

    @cached_property
    def api(self) -> Api:
        """The API, as whoever is signed in.

        Raises:
            NotSignedIn: Nobody is.
        """
        return Api(signing_in.current(os.environ))

    def open_api(self) -> Api:
        """The API for what it tells everybody.

        Raises:
            NotSignedIn: No address is known.
        """
        url = os.environ.get(signing_in.API_URL)
        return Api(SignIn(signing_in.checked_url(url), "")) if url else self.api

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something that can not be taken back.

        Raises:
            NotUnderstood: Nobody is there to answer, and `--yes` was not given; or the answer is no.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise NotUnderstood(f"{question} Nobody is there to answer", advice="say --yes if it is meant")
        if not typer.confirm(question, err=True):
            raise NotUnderstood("the answer was no; nothing was changed")


@contextmanager
def begin(*, as_json: bool = False) -> Iterator[Session]:
    """Start a command; what it fails with is said before the command ends with the failure's exit status.

    Raises:
        typer.Exit: The command failed.
    """
    session = Session(as_json=as_json)
    try:
        yield session
    except Failure as failure:
        session.screen.fail(failure)
        raise typer.Exit(int(failure.exit_code)) from failure
    finally:
        if "api" in vars(session):
            session.api.__exit__()


def _completed(path: str, key: str, id_field: str, help_field: str) -> list[tuple[str, str]]:
    """What could come next; the prompt is no place for errors or for long waits."""
    try:
        with Api(signing_in.current(os.environ), answer_seconds=COMPLETION_SECONDS) as api:
            page = api.get(path, query={"limit": 100})
    except Failure:
        return []
    return [(str(item[id_field]), str(item.get(help_field) or "")) for item in page.get(key, ())]


def complete_agents() -> list[tuple[str, str]]:
    """The agents there are, by id and name."""
    return _completed("/api/agents", "agents", "agent_id", "name")


def complete_clients() -> list[tuple[str, str]]:
    """The clients there are, by id and name."""
    return _completed("/api/clients", "clients", "client_id", "name")


def complete_pools() -> list[tuple[str, str]]:
    """The pools whose prices are kept."""
    return _completed("/api/pools", "pools", "pool_id", "instance_type")


AsJson = Annotated[bool, typer.Option("--json", help="JSON, for machines; problems too, on stderr.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AtMost = Annotated[int | None, typer.Option("--limit", min=1, help="How many at most; all without.")]
AgentId = Annotated[
    str, typer.Argument(metavar="AGENT", help="The agent's id.", autocompletion=complete_agents, show_default=False)
]
ClientId = Annotated[
    str, typer.Argument(metavar="CLIENT", help="The client's id.", autocompletion=complete_clients, show_default=False)
]
ReplicaId = Annotated[str, typer.Argument(metavar="REPLICA", help="The replica's id.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Stay until it is done, and show how far it is.")]
WithinSeconds = Annotated[float, typer.Option("--within", min=1, help="Seconds that --wait waits at most.")]
