from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spotctl.main import app
from tests.api.conftest import (  # noqa: F401 -- fixtures
    Http,
    Registration,
    agent,
    deployed,
    environment,
    http,
    registered,
    rows,
    signer,
)
from tests.cli.served import ServedApi, serve


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str
    both: str

    @property
    def document(self) -> Any:
        """What a machine reads."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        """What a machine reads when it did not work."""
        assert self.status != 0, self.out
        assert self.out == ""
        return json.loads(self.err)


@dataclass
class Spotctl:
    """Runs the command line in this process, with an environment of its own.

    Attributes:
        environment: What it finds, beside a wide screen without colours; None takes a variable away.
    """

    environment: dict[str, str | None] = field(default_factory=dict)

    def __call__(self, *arguments: str, say: str = "") -> Ended:
        plain = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "120"}
        ended = CliRunner().invoke(app, arguments, input=say, env={**plain, **self.environment})
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr, ended.output)


@pytest.fixture
def served(http: Http) -> Iterator[ServedApi]:  # noqa: F811
    with serve(http) as api:
        yield api


@pytest.fixture
def spotctl(served: ServedApi, http: Http, tmp_path: Path) -> Spotctl:  # noqa: F811
    """The command line, with an admin's token in its environment."""
    return Spotctl(
        {
            "SPOTCTL_API_URL": served.url,
            "SPOTCTL_TOKEN": http.admin,
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "HOME": str(tmp_path),
        }
    )


type Rows = Callable[[], dict[str, Any]]
