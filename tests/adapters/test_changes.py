"""Every attribute that a conditional write names exists on the row it is written to."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import spot_optimizer
from spot_optimizer.domain.writes import Table
from tests.fakes.records import KEYS, VALUES

SOURCES = Path(spot_optimizer.__file__).parent


@dataclasses.dataclass(frozen=True)
class Named:
    """An attribute that is spelled out in a `Change`."""

    where: str
    table: Table
    part: str
    name: str


def spelled_out() -> Iterator[Named]:
    for folder in ("domain", "control"):
        for file in sorted((SOURCES / folder).glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Change":
                    yield from _in(file.stem, node)


def _in(module: str, call: ast.Call) -> Iterator[Named]:
    table = call.args[0]
    assert isinstance(table, ast.Attribute)
    for keyword in call.keywords:
        if keyword.arg in ("only_if", "put") and isinstance(keyword.value, ast.Dict):
            for key in keyword.value.keys:
                if isinstance(key, ast.Constant):
                    yield Named(f"{module}:{key.lineno}", Table[table.attr], keyword.arg, str(key.value))


def test_there_are_changes_to_look_at() -> None:
    assert len(list(spelled_out())) > 80
    assert {named.table for named in spelled_out()} == set(Table)


@pytest.mark.parametrize("table", Table, ids=lambda table: table.value)
def test_each_attribute_exists_on_its_row(table: Table) -> None:
    known = {field.name for field in dataclasses.fields(VALUES[table])}  # type: ignore[arg-type]
    assert [named for named in spelled_out() if named.table is table and named.name not in known] == []


def test_no_change_writes_a_key() -> None:
    assert [named for named in spelled_out() if named.part == "put" and named.name in KEYS[named.table]] == []
