"""Tenants, tokens, health and the description of the API."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys

import boto3
import pytest

from functions.operator_api import document
from spot_optimizer import bootstrap, errors
from spot_optimizer.api import problems
from spot_optimizer.domain import tokens
from tests.adapters.tables import ENVIRONMENT
from tests.api.conftest import Http

FUNCTIONS = document.ROOT / "functions"


def test_clients_are_created_once_and_listed(http: Http) -> None:
    body = {"client_id": "globex", "name": "Globex"}
    first = http.call("POST", "/api/clients", body, token=http.admin)
    assert (first.status, first.body["name"]) == (201, "Globex")
    again = http.call("POST", "/api/clients", body | {"name": "Other"}, token=http.admin)
    assert again.body == first.body
    listed = http.call("GET", "/api/clients", token=http.admin, query={"limit": "1"}).body
    rest = http.call("GET", "/api/clients", token=http.admin, query={"cursor": listed["next_cursor"]}).body
    assert [one["client_id"] for one in (*listed["clients"], *rest["clients"])] == ["acme", "globex"]


def test_a_clients_token_is_shown_once_rotated_and_revoked(http: Http) -> None:
    issued = http.call("POST", "/api/clients/acme/tokens", {"name": "ci", "valid_days": 7}, token=http.admin)
    assert issued.status == 201, issued.body
    token = issued.body["token"]
    assert token.startswith("spo_client_")
    assert http.call("GET", "/api/agents", token=token).status == 200
    rotated = http.call("POST", f"/api/tokens/{issued.body['token_id']}/rotate", token=http.admin)
    assert rotated.body["token_id"] == issued.body["token_id"]
    assert http.call("GET", "/api/agents", token=token).status == 401
    assert http.call("GET", "/api/agents", token=rotated.body["token"]).status == 200
    assert http.call("DELETE", f"/api/tokens/{issued.body['token_id']}", token=http.admin).status == 204
    assert http.call("GET", "/api/agents", token=rotated.body["token"]).status == 401
    assert (
        http.call("POST", f"/api/tokens/{issued.body['token_id']}/rotate", token=http.admin).problem == "TokenUnknown"
    )


def test_the_same_idempotency_key_issues_no_second_token(http: Http) -> None:
    headers = {"idempotency-key": "one"}
    assert http.call("POST", "/api/clients/acme/tokens", {}, token=http.admin, headers=headers).status == 201
    again = http.call("POST", "/api/clients/acme/tokens", {}, token=http.admin, headers=headers)
    assert (again.status, again.problem) == (409, "ConditionFailed")
    other = http.call("POST", "/api/clients/acme/tokens", {}, token=http.admin, headers={"idempotency-key": "two"})
    assert other.status == 201


def test_an_agents_token_is_not_rotated(http: Http) -> None:
    agent = http.call("POST", "/api/agents/register", http.registration(), token=http.client_token)
    token_id = tokens.parse(agent.body["agent_token"]).token_id
    answer = http.call("POST", f"/api/tokens/{token_id}/rotate", token=http.admin)
    assert (answer.status, answer.problem) == (403, "Forbidden")


def test_the_command_prints_a_token_that_opens(http: Http, capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap.main(["--role", "admin"])
    token = capsys.readouterr().out.strip().splitlines()[-1]
    assert http.call("GET", "/api/clients", token=token).status == 200
    bootstrap.main(["--client", "acme"])
    token = capsys.readouterr().out.strip().splitlines()[-1]
    assert http.call("GET", "/api/agents", token=token).status == 200


def test_health_tells_version_and_stage(http: Http) -> None:
    answer = http.call("GET", "/api/health")
    told = {name: answer.body[name] for name in ("status", "version", "stage", "checks")}
    assert told == {"status": "ok", "version": "0.1.0", "stage": "test", "checks": {"tables": "ok"}}


def test_health_fails_when_the_tables_are_gone(http: Http) -> None:
    dynamodb = boto3.client("dynamodb")
    name = ENVIRONMENT["TOKENS_TABLE"]
    described = dynamodb.describe_table(TableName=name)["Table"]
    items = dynamodb.scan(TableName=name)["Items"]
    dynamodb.delete_table(TableName=name)
    try:
        answer = http.call("GET", "/api/health")
        assert (answer.status, answer.problem) == (500, "Unexpected")
        assert "ResourceNotFound" not in json.dumps(answer.body)
    finally:
        dynamodb.create_table(
            TableName=name,
            KeySchema=described["KeySchema"],
            AttributeDefinitions=described["AttributeDefinitions"],
            BillingMode="PAY_PER_REQUEST",
            GlobalSecondaryIndexes=[
                {key: index[key] for key in ("IndexName", "KeySchema", "Projection")}  # type: ignore[misc]
                for index in described["GlobalSecondaryIndexes"]
            ],
        )
        for item in items:
            dynamodb.put_item(TableName=name, Item=item)


def test_the_api_serves_the_description_that_docs_holds(http: Http) -> None:
    served = http.call("GET", "/api/openapi.json")
    written = json.loads((document.ROOT / "docs" / "openapi.json").read_text())
    assert served.body == written
    assert json.loads(document.document()) == written


def test_the_description_says_of_each_call_how_it_refuses() -> None:
    described = json.loads(document.document())
    calls = [call for calls in described["paths"].values() for call in calls.values()]
    assert len(calls) > 20
    assert all("application/problem+json" in call["responses"]["default"]["content"] for call in calls)
    assert len({call["operationId"] for call in calls}) == len(calls)
    assert [path for path, calls in described["paths"].items() if calls[next(iter(calls))]["security"] == []] == [
        "/api/health",
        "/api/openapi.json",
    ]


def test_every_deliberate_failure_has_a_status() -> None:
    leaves = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.SpotOptimizerError) and not value.__subclasses__()
    ]
    assert len(leaves) > 20
    for leaf in leaves:
        status = next(problems.STATUS[kind] for kind in leaf.__mro__ if kind in problems.STATUS)
        assert status == 503 if issubclass(leaf, errors.Transient) else 400 <= status < 500


@pytest.mark.parametrize(
    "name",
    ["authorize", "agent_api", "replica_api", "snapshot_api", "price_api", "model_api", "fleet_api", "operator_api"],
)
def test_a_functions_folder_works_as_the_root_of_its_imports(name: str, http: Http) -> None:
    handler = FUNCTIONS / name / "handler.py"
    imported = {
        (node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(handler.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    assert "functions" not in imported
    spec = importlib.util.spec_from_file_location("handler", handler)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.handle)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("authorize", {"pydantic", "cryptography", "boto3", "pynamodb"}),
        *(
            (name, {"pydantic", "boto3", *(f"spot_optimizer.domain.{one}" for one in ("gaps", "models", "orphans"))})
            for name in ("fail_over", "prepare_replica")
        ),
    ],
)
def test_what_has_to_be_quick_starts_without_what_only_others_need(name: str, without: set[str]) -> None:
    code = "import sys, handler; print(*sys.modules)"
    path = os.pathsep.join((str(FUNCTIONS / name), str(document.ROOT / "layers" / "shared" / "python")))
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True, timeout=60
    )
    assert without & set(done.stdout.split()) == set()
