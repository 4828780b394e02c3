"""Somebody at a prompt: `spotctl`, as `make setup` installs it, against the deployed product."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from local.rehearsal import Tenancy

SPOTCTL = Path(sys.executable).parent / "spotctl"


class Operator:
    """An admin, signed in, with a home folder of their own."""

    def __init__(self, tenancy: Tenancy, home: Path) -> None:
        self.environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), **tenancy.aws.environment}
        signed_in = self.run("sign-in", tenancy.api_url, say=tenancy.operator_token)
        assert signed_in.returncode == 0, signed_in.stderr

    def run(self, *arguments: str, say: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SPOTCTL, *arguments],
            env=self.environment,
            input=say,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)
