"""`python -m spot_optimizer.demo_data`: reads the stacks' outputs, loads, and writes a JSON line for each step.

Needs an operator's own AWS credentials, and the names of the tables: in the environment as the functions have them, or
from the file that `cdk deploy --outputs-file` writes. Ends with 3 where other agents are registered, and nothing was
written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.demo_data import loading
from spot_optimizer.demo_data.loading import TablesInUse

IN_USE = 3


def settings_in(outputs: Mapping[str, Any]) -> dict[str, str]:
    """Turn stack outputs into the settings of functions: `AgentsTable` becomes `AGENTS_TABLE`.

    Args:
        outputs: By stack and name, as CDK writes them, or by name alone.
    """
    settings: dict[str, str] = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            settings |= settings_in(value)
        else:
            settings[re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()] = str(value)
    if "AWS_REGION" not in settings and (arn := settings.get("FAIL_OVER_STATE_MACHINE_ARN")):
        settings["AWS_REGION"] = arn.split(":")[3]
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Load."""
    parser = argparse.ArgumentParser(
        prog="python -m spot_optimizer.demo_data", description="Load something to look at into an empty deployment."
    )
    parser.add_argument("--outputs", type=Path, help="the file that `cdk deploy --outputs-file` wrote")
    parser.add_argument("--days", type=int, default=loading.PRICES_FOR.days, help="how far back prices go")
    parser.add_argument("--force", action="store_true", help="load beside agents that are not the demo's")
    chosen = parser.parse_args(arguments)
    if chosen.outputs is not None:
        os.environ.update(settings_in(json.loads(chosen.outputs.read_text())))
    try:
        loaded = loading.load(
            region=wiring.settings().region,
            now=wiring.clock(),
            force=chosen.force,
            prices_for=timedelta(days=chosen.days),
            progress=lambda part, done, total: _tell({"part": part, "done": done, "total": total}),
        )
    except TablesInUse as refusal:
        _tell({"refused": str(refusal)})
        return IN_USE
    _tell({"loaded": loaded})
    return 0


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
