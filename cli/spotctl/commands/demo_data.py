"""Demo data: loaded by the product's own adapters, which are another program than this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import spotctl
from spotctl.failures import ExitCode, Failure, Unfinished
from spotctl.session import AsJson, begin
from spotctl.words import several

app = typer.Typer(name="demo-data", help="Something to look at in a deployment without workloads.")

LOADER = "spot_optimizer.demo_data"
IN_USE = 3


@app.command("load")
def load_demo_data(
    outputs: Annotated[
        Path | None,
        typer.Option(
            "--outputs",
            exists=True,
            dir_okay=False,
            help="What `cdk deploy --outputs-file` wrote; the environment without.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=30, help="How far back prices go.")] = 7,
    force: Annotated[bool, typer.Option("--force", help="Load beside agents that are not the demo's.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load four clients with a workload each, their replicas and interruptions, and a week of prices in five pools.

    Writes to the tables directly, so it needs AWS credentials and a checkout with `make setup` done. Loading again
    changes nothing but the time that has passed. Refused where agents are registered that are not the demo's.
    """
    with begin(as_json=as_json) as session, session.screen.progress("demo data") as tell:
        loaded: dict[str, Any] = {}
        for line in _lines(outputs, days=days, force=force):
            if "refused" in line:
                raise Failure(ExitCode.CONFLICT, "Tables in use", line["refused"])
            if "part" in line:
                tell(100 * line["done"] / max(1, line["total"]), line["part"])
            loaded = line
        counts: dict[str, int] = loaded.get("loaded", {})
        session.screen.say(f"There are now {several(f'{count} {part}' for part, count in counts.items())}.")
        if as_json:
            session.screen.print_json(loaded)


def _lines(outputs: Path | None, *, days: int, force: bool) -> Iterator[dict[str, Any]]:
    """What the loader tells, line by line.

    Raises:
        Unfinished: It can not be run from here, or it failed.
    """
    source = Path(spotctl.__file__).parents[2] / "layers" / "shared" / "python"
    if not (source / "spot_optimizer" / "demo_data").is_dir():
        raise Unfinished(
            "No loader here",
            "demo data is written by the product itself; expected spotctl from a checkout",
            advice="in a checkout, `make setup`, then `.venv/bin/spotctl demo-data load`",
        )
    command = [sys.executable, "-m", LOADER, "--days", str(days)]
    command += ["--outputs", str(outputs)] if outputs else []
    command += ["--force"] if force else []
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as loader:
        assert loader.stdout is not None  # noqa: S101 -- it is a pipe
        assert loader.stderr is not None  # noqa: S101
        for line in loader.stdout:
            yield json.loads(line)
        complaint = loader.stderr.read().strip()
    if loader.returncode not in (0, IN_USE):
        why = complaint.splitlines()[-1] if complaint else f"it ended with {loader.returncode}"
        raise Unfinished(
            "Demo data not loaded",
            why,
            advice="are AWS credentials there, and --outputs, or the tables' names in the environment?",
        )
