"""The command line and the API's description agree: on every call, and on every field that is shown."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

import spotctl
from spotctl import commands
from spotctl.screen import Shape
from spotctl.session import Session

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(spotctl.__file__).parent
DESCRIBED = json.loads((ROOT / "docs" / "openapi.json").read_text())
METHODS = {"get": "get", "pages": "get", "post": "post", "patch": "patch", "delete": "delete"}


def calls() -> Iterator[tuple[str, str, str]]:
    """Each call in the source: file and line, method, path."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            path = node.args[0]
            if node.func.attr in METHODS and isinstance(path, ast.Constant) and str(path.value).startswith("/api"):
                yield f"{file.relative_to(SOURCE)}:{node.lineno}", METHODS[node.func.attr], str(path.value)


def shapes() -> Iterator[tuple[str, Shape]]:
    """Everything that is shown."""
    session = Session(as_json=False)
    for found in iter_modules(commands.__path__):
        module = import_module(f"spotctl.commands.{found.name}")
        for name, value in vars(module).items():
            if isinstance(value, Shape):
                yield f"{found.name}.{name}", value
            elif inspect.isfunction(value) and name.endswith("_shape") and value.__module__ == module.__name__:
                yield f"{found.name}.{name}", value(session)


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The fields of a schema, or of what it refers to; of an object or nothing, the object's."""
    if "$ref" in schema:
        return properties(DESCRIBED["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for kind in schema.get("anyOf", ()):
        if found := properties(kind):
            return found
    known: dict[str, Any] = schema.get("properties", {})
    return known


CALLS = list(calls())
SHAPES = list(shapes())


def test_something_was_found() -> None:
    assert len(CALLS) > 15
    assert len(SHAPES) > 7


@pytest.mark.parametrize(("where", "method", "path"), CALLS, ids=[call[0] for call in CALLS])
def test_every_call_is_one_that_the_api_describes(where: str, method: str, path: str) -> None:
    assert method in DESCRIBED["paths"].get(path, {}), f"{where} calls {method.upper()} {path}"


#: Calls that agents alone make, and the description itself.
NOBODYS_COMMANDS = (
    "get /api/agents/{agent_id}/snapshots/latest",
    "get /api/openapi.json",
    "post /api/agents/register",
    "post /api/agents/{agent_id}/commands/{command_id}/result",
    "post /api/agents/{agent_id}/handovers/{handover_id}/commit",
    "post /api/agents/{agent_id}/heartbeat",
    "post /api/agents/{agent_id}/log-tail",
    "post /api/agents/{agent_id}/pricing",
    "post /api/agents/{agent_id}/replicas/{replica_id}/sync-status",
    "post /api/agents/{agent_id}/replicas/{replica_id}/unready",
    "post /api/agents/{agent_id}/snapshots",
    "post /api/agents/{agent_id}/snapshots/{snapshot_id}/complete",
)


def test_every_call_of_the_api_has_a_command() -> None:
    described = {f"{method} {path}" for path, methods in DESCRIBED["paths"].items() for method in methods}
    called = {f"{method} {path}" for _, method, path in CALLS}
    assert described - called == set(NOBODYS_COMMANDS)


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=[shape[0] for shape in SHAPES])
def test_every_field_that_is_shown_is_one_that_the_api_answers(name: str, shape: Shape) -> None:
    schema = DESCRIBED["components"]["schemas"][shape.schema]
    for column in shape.columns:
        first, *below = column.field.split(".")
        known = properties(schema)
        assert first in known, f"{name}: {shape.schema} has no {first}"
        for level in below:
            inner = known[first]
            if "additionalProperties" in inner:
                break
            assert level in properties(inner), f"{name}: {shape.schema}.{first} has no {level}"


def test_every_command_has_a_help_text_and_every_option_too() -> None:
    from typer.main import get_command

    from spotctl.main import app

    def walk(command: Any, path: str) -> None:
        assert command.help, path
        for parameter in command.params:
            assert parameter.help or parameter.name == "help", f"{path} {parameter.name}"
        for name, below in getattr(command, "commands", {}).items():
            walk(below, f"{path} {name}")

    walk(get_command(app), "spotctl")
