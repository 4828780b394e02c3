"""Templates to look at: the stacks, built in this process, without their assets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.node import choose_node

choose_node(os.environ)

ROOT = Path(__file__).resolve().parents[2]


class Deployment:
    """All resources of the stacks, by stack and logical id."""

    def __init__(self, templates: dict[str, dict[str, Any]]) -> None:
        self.templates = templates

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Resources of a type, by logical id, from all stacks."""
        return {
            name: resource
            for template in self.templates.values()
            for name, resource in template["Resources"].items()
            if resource["Type"] == kind
        }

    def properties(self, kind: str) -> dict[str, dict[str, Any]]:
        """What was set on the resources of a type."""
        return {name: resource.get("Properties", {}) for name, resource in self.resources(kind).items()}

    def only(self, kind: str, beginning: str) -> dict[str, Any]:
        """Properties of the one resource of a type whose logical id begins so."""
        [found] = [set_ for name, set_ in self.properties(kind).items() if name.startswith(beginning)]
        return found

    def statements(self, role: str) -> list[dict[str, Any]]:
        """Every statement of the policies of the one role whose logical id begins so."""
        [name] = [name for name in self.resources("AWS::IAM::Role") if name.startswith(role)]
        policies = self.properties("AWS::IAM::Policy").values()
        return [
            statement
            for policy in policies
            if {"Ref": name} in policy["Roles"]
            for statement in policy["PolicyDocument"]["Statement"]
        ]

    def all_statements(self) -> list[dict[str, Any]]:
        """Every statement of every role."""
        policies = self.properties("AWS::IAM::Policy").values()
        return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


def as_list(value: Any) -> list[Any]:
    """One or many, as IAM writes them."""
    return value if isinstance(value, list) else [value]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Deployment]:
    """Build the stacks for a stage."""
    from aws_cdk import App

    from infra.settings import Settings
    from infra.stacks.api import ApiStack
    from infra.stacks.data import DataStack
    from infra.stacks.models import ModelStack
    from infra.stacks.workflow import WorkflowStack

    def build_stage(stage: str) -> Deployment:
        context = json.loads((ROOT / "cdk.json").read_text())["context"]
        out = tmp_path_factory.mktemp(f"cdk-{stage}")
        app = App(outdir=str(out), context=context | {"stage": stage, "aws:cdk:disable-asset-staging": True})
        settings = Settings.from_context(app.node)
        data = DataStack(app, "data", settings=settings)
        workflow = WorkflowStack(app, "workflow", settings=settings, data=data)
        models = ModelStack(app, "models", settings=settings, data=data)
        ApiStack(app, "api", settings=settings, data=data, workflow=workflow, models=models)
        app.synth()
        return Deployment(
            {
                name: json.loads((out / f"{name}.template.json").read_text())
                for name in ("data", "workflow", "models", "api")
            }
        )

    return build_stage


@pytest.fixture(scope="session")
def dev(build: Callable[[str], Deployment]) -> Deployment:
    """What may be thrown away."""
    return build("dev")


@pytest.fixture(scope="session")
def prod(build: Callable[[str], Deployment]) -> Deployment:
    """What must not be lost."""
    return build("prod")
