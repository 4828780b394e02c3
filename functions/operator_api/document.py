"""Writes the description of the API from the routes of all functions: `python -m functions.operator_api.document`.

It is written twice: to docs/, for people, and beside the handler that serves it. With `--check` nothing is written; the
exit status tells whether both files are what the routes say.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler.openapi.merge import OpenAPIMerge
from aws_lambda_powertools.event_handler.openapi.models import Contact, License

from spot_optimizer import __version__
from spot_optimizer.api.fields import Problem
from spot_optimizer.api.problems import CONTENT_TYPE
from spot_optimizer.api.router import Router

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = (ROOT / "docs" / "openapi.json", ROOT / "functions" / "operator_api" / "openapi.json")
ROUTERS = (
    "agent_api",
    "replica_api",
    "snapshot_api",
    "price_api",
    "model_api",
    "fleet_api",
    "report_api",
    "doctor_api",
    "operator_api",
)
TITLE = "Spot Optimizer"
ABOUT = "Runs stateful workloads on EC2 Spot and survives interruptions without their users noticing."
BEARER = {"type": "http", "scheme": "bearer", "description": "spo_<kind>_<id>_<secret>"}


def document() -> str:
    """The description of all calls, as it is written."""
    merged = OpenAPIMerge(
        title=TITLE,
        version=__version__,
        description=ABOUT,
        on_conflict="error",
        contact=Contact(name=TITLE),
        license_info=License(name="Apache-2.0", identifier="Apache-2.0"),
    )
    routers: list[Router] = [importlib.import_module(f"functions.{name}.handler").api for name in ROUTERS]
    for router in routers:
        merged.add_schema(json.loads(router.get_openapi_json_schema(title=TITLE, version=__version__)))
    described = merged.get_openapi_schema()
    described["servers"] = [{"url": "/"}]
    _describe_refusals(described, open_paths={path for router in routers for path in router.open_paths})
    return json.dumps(described, indent=2, sort_keys=True) + "\n"


def _describe_refusals(described: dict[str, Any], *, open_paths: Collection[str]) -> None:
    """Say of each call that it needs a token, and how it refuses; the library's own words for that are not ours."""
    components = described.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError", "ResponseValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {"bearer": BEARER}
    refusal = {
        "description": "Refused, or failed",
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path, calls in described["paths"].items():
        for call in calls.values():
            call["operationId"] = call["operationId"].partition("_api_")[0]
            call["responses"].pop("422", None)
            call["responses"]["default"] = refusal
            call["security"] = [] if path in open_paths else [{"bearer": []}]


def main(arguments: Sequence[str]) -> int:
    """Write the files, or compare them."""
    wanted = document()
    if "--check" not in arguments:
        for file in WRITTEN:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted)
        return 0
    stale = [str(file.relative_to(ROOT)) for file in WRITTEN if not file.exists() or file.read_text() != wanted]
    if stale:
        print(
            f"{', '.join(stale)} differ from the routes; run python -m functions.operator_api.document", file=sys.stderr
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
