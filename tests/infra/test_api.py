"""The public API as it is deployed."""

from __future__ import annotations

import json

import pytest

from infra import routes
from tests.infra.conftest import ROOT, Deployment


def test_every_call_but_the_open_ones_is_authorized(dev: Deployment) -> None:
    for route in dev.properties("AWS::ApiGatewayV2::Route").values():
        expected = "NONE" if route["RouteKey"] in routes.OPEN else "CUSTOM"
        assert route["AuthorizationType"] == expected, route["RouteKey"]


def test_no_answer_of_the_authorizer_outlives_its_call(dev: Deployment) -> None:
    [authorizer] = dev.properties("AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["AuthorizerResultTtlInSeconds"] == 0
    assert authorizer["EnableSimpleResponses"] is True


def test_a_call_without_a_token_still_reaches_the_authorizer(dev: Deployment) -> None:
    [authorizer] = dev.properties("AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["IdentitySource"] == ["$context.routeKey"]


def test_calls_are_throttled_and_logged_without_what_may_hold_a_token(dev: Deployment) -> None:
    [stage] = dev.properties("AWS::ApiGatewayV2::Stage").values()
    assert stage["StageName"] == "$default"
    assert stage["DefaultRouteSettings"]["ThrottlingRateLimit"] > 0
    logged = json.loads(stage["AccessLogSettings"]["Format"])
    assert "requestId" in logged
    assert not [value for value in logged.values() if "header" in value or "querystring" in value]


def test_what_asks_ec2_or_takes_long_is_throttled_more_and_only_where_there_is_such_a_route(dev: Deployment) -> None:
    [resource] = dev.resources("AWS::ApiGatewayV2::Stage").values()
    routes = dev.resources("AWS::ApiGatewayV2::Route")
    stage = resource["Properties"]
    waited_for = {routes[name]["Properties"]["RouteKey"] for name in resource["DependsOn"] if name in routes}
    assert set(stage["RouteSettings"]) == waited_for
    assert "POST /api/agents/{agent_id}/doctor" in waited_for
    for limits in stage["RouteSettings"].values():
        assert 0 < limits["ThrottlingRateLimit"] <= 10 < stage["DefaultRouteSettings"]["ThrottlingRateLimit"]
        # Each may last half a minute: together they leave most of an account's thousand executions to failovers.
        assert limits["ThrottlingBurstLimit"] <= 50


def test_the_routes_are_those_of_the_published_document(dev: Deployment) -> None:
    document = ROOT / "docs" / "openapi.json"
    published = {
        f"{method.upper()} {path}"
        for path, operations in json.loads(document.read_text())["paths"].items()
        for method in operations
    }
    deployed = {route["RouteKey"] for route in dev.properties("AWS::ApiGatewayV2::Route").values()} - {"$default"}
    assert deployed == published


@pytest.mark.parametrize("parameter", ["api-url", "identity-certificate"])
def test_what_is_looked_up_by_name_is_there(dev: Deployment, parameter: str) -> None:
    names = [one["Name"] for one in dev.properties("AWS::SSM::Parameter").values()]
    assert f"/spot-optimizer/dev/{parameter}" in names


def test_no_function_waits_longer_than_the_gateway(dev: Deployment) -> None:
    for name, function in dev.properties("AWS::Lambda::Function").items():
        if not name.startswith(
            (
                "FailOver",
                "PrepareReplica",
                "ActivateModel",
                "ScoreRisk",
                "DecideFleet",
                "CollectPrices",
                "FillGaps",
                "SweepOrphans",
                "SwitchAgents",
            )
        ):
            assert function["Timeout"] < 30
