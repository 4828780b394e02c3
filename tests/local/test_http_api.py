from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local import LocalAws
from tests.local.conftest import Builder

AUTHORIZE = """
    calls = 0
    def handle(event, context):
        global calls
        calls += 1
        token = event["headers"].get("authorization", "")
        if token == "Bearer broken": raise RuntimeError("authorizer broke")
        identity = event["identitySource"][0]
        context = {"client_id": "c-1", "calls": calls, "version": event["version"], "identity": identity}
        return {"isAuthorized": token == "Bearer good", "context": context}
"""
ANSWER = """
    import json
    def handle(event, context):
        if event["rawPath"] == "/api/problem":
            problem = {"Content-Type": "application/problem+json"}
            return {"statusCode": 409, "headers": problem, "body": json.dumps({"title": "stale"})}
        if event["rawPath"] == "/api/crash":
            raise RuntimeError("a secret detail")
        seen = {"path": event["rawPath"], "authorizer": event["requestContext"].get("authorizer")}
        return {"statusCode": 200, "body": json.dumps({**seen, "query": event.get("queryStringParameters")})}
"""


@pytest.fixture(scope="module")
def api(aws: LocalAws) -> Iterator[httpx.Client]:
    build = Builder(aws)
    gateway = aws.client("apigatewayv2")
    api_id = gateway.create_api(Name="api", ProtocolType="HTTP")["ApiId"]

    def integration(code: str) -> tuple[str, str]:
        function = build.a_function(code)
        found = gateway.create_integration(
            ApiId=api_id, IntegrationType="AWS_PROXY", IntegrationUri=function, PayloadFormatVersion="2.0"
        )
        return function, f"integrations/{found['IntegrationId']}"

    _, target = integration(ANSWER)
    authorizer = gateway.create_authorizer(
        ApiId=api_id,
        Name="authorize",
        AuthorizerType="REQUEST",
        AuthorizerUri=f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{build.a_function(AUTHORIZE)}/invocations",
        AuthorizerPayloadFormatVersion="2.0",
        EnableSimpleResponses=True,
        IdentitySource=["$request.header.Authorization"],
        AuthorizerResultTtlInSeconds=60,
    )["AuthorizerId"]
    gateway.create_route(ApiId=api_id, RouteKey="GET /api/health", Target=target)
    gateway.create_route(
        ApiId=api_id, RouteKey="ANY /api/{proxy+}", Target=target, AuthorizationType="CUSTOM", AuthorizerId=authorizer
    )
    gateway.create_stage(ApiId=api_id, StageName="$default", AutoDeploy=True)
    with httpx.Client(base_url=f"{aws.endpoint_url}/_aws/execute-api/{api_id}", trust_env=False) as client:
        yield client


def good(**more: Any) -> dict[str, Any]:
    return {"headers": {"Authorization": "Bearer good"}, **more}


def test_a_public_route_needs_no_token(api: httpx.Client) -> None:
    answer = api.get("/api/health", params={"a": "b"})
    assert (answer.status_code, answer.json()["path"], answer.json()["query"]) == (200, "/api/health", {"a": "b"})


def test_the_authorizers_context_reaches_the_function(api: httpx.Client) -> None:
    context = api.post("/api/agents", json={"x": 1}, **good()).json()["authorizer"]["lambda"]
    assert {name: context[name] for name in ("client_id", "version", "identity")} == {
        "client_id": "c-1",
        "version": "2.0",
        "identity": "Bearer good",
    }


def test_a_missing_token_is_401_and_a_wrong_one_403(api: httpx.Client) -> None:
    assert api.get("/api/agents").status_code == 401
    assert api.get("/api/agents", headers={"Authorization": "Bearer bad"}).status_code == 403


def test_a_broken_authorizer_is_500(api: httpx.Client) -> None:
    assert api.get("/api/agents", headers={"Authorization": "Bearer broken"}).status_code == 500


def test_an_authorizers_answer_is_cached_per_token(api: httpx.Client) -> None:
    calls = {api.get(f"/api/agents/{number}", **good()).json()["authorizer"]["lambda"]["calls"] for number in range(3)}
    assert len(calls) == 1


def test_problem_documents_pass_as_they_are(api: httpx.Client) -> None:
    answer = api.get("/api/problem", **good())
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (
        409,
        "application/problem+json",
        {"title": "stale"},
    )


def test_a_crashed_function_shows_nothing_of_itself(api: httpx.Client) -> None:
    answer = api.get("/api/crash", **good())
    assert (answer.status_code, json.loads(answer.text)) == (500, {"message": "Internal Server Error"})


def test_the_control_plane_can_be_down(aws: LocalAws, api: httpx.Client) -> None:
    aws.market.set_api_reachable(False)
    try:
        assert api.get("/api/health").status_code == 503
        assert aws.client("sts").get_caller_identity()
    finally:
        aws.market.set_api_reachable(True)
    assert api.get("/api/health").status_code == 200
