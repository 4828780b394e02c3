"""The public HTTP API: explicit routes, one authorizer, a throttle, and a log of every call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

import jsii
from aws_cdk import Duration
from aws_cdk import aws_apigatewayv2 as gateway
from aws_cdk import aws_logs as logs
from aws_cdk.aws_apigateway import AccessLogFormat
from aws_cdk.aws_apigatewayv2_authorizers import HttpLambdaAuthorizer, HttpLambdaResponseType
from aws_cdk.aws_apigatewayv2_integrations import HttpLambdaIntegration
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.nag import acknowledge
from infra.settings import Settings

#: What the access log keeps of a call. Neither headers nor query strings: they may carry tokens.
_ACCESS_LOG_FORMAT: Mapping[str, str] = {
    "requestId": "$context.requestId",
    "at": "$context.requestTime",
    "from": "$context.identity.sourceIp",
    "route": "$context.routeKey",
    "path": "$context.path",
    "status": "$context.status",
    "protocol": "$context.protocol",
    "responseBytes": "$context.responseLength",
    "milliseconds": "$context.responseLatency",
    "authorizerError": "$context.authorizer.error",
    "integrationError": "$context.integrationErrorMessage",
}


class PublicApi(Construct):
    """The API as agents, operators and the console see it.

    Attributes:
        url: Without a trailing slash; paths begin with `/api`.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, authorize: Function) -> None:
        super().__init__(scope, construct_id)
        self._authorizer = HttpLambdaAuthorizer(
            "Bearer",
            authorize.function,
            response_types=[HttpLambdaResponseType.SIMPLE],
            # Always present, so that a call without a token is refused by us, in words, and not by the gateway.
            identity_source=["$context.routeKey"],
            # A revoked token, or one of an epoch that is over, must not live on in a cache.
            results_cache_ttl=Duration.seconds(0),
        )
        self._api = gateway.HttpApi(self, "Api", api_name=settings.physical_name("api"), create_default_stage=False)
        log_group = logs.LogGroup(
            self,
            "AccessLog",
            retention=logs.RetentionDays.THREE_MONTHS if settings.keeps_data else logs.RetentionDays.ONE_WEEK,
            removal_policy=settings.removal_policy,
        )
        self._stage = gateway.HttpStage(
            self,
            "Stage",
            http_api=self._api,
            stage_name="$default",
            auto_deploy=True,
            throttle=gateway.ThrottleSettings(rate_limit=500, burst_limit=1000),
            detailed_metrics_enabled=True,
            access_log_settings=_AccessLog(log_group),
        )
        self.url = self._api.api_endpoint

    def limit(self, limits: Mapping[str, tuple[int, int]]) -> None:
        """Let fewer calls of some routes through than of the others, all callers together.

        Args:
            limits: Calls a second, and at once, by route; each is served already.
        """
        stage = cast("gateway.CfnStage", self._stage.node.default_child)
        stage.route_settings = {
            route: {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": burst, "DetailedMetricsEnabled": True}
            for route, (rate, burst) in limits.items()
        }
        for route in limits:
            # API Gateway refuses settings of a route that is not there yet.
            stage.node.add_dependency(self.node.find_child(_construct_id(route)))

    def serve(self, routes: Iterable[str], *, by: Function) -> None:
        """Send these routes, such as `GET /api/agents`, to a function, behind the authorizer."""
        self._serve(routes, by, self._authorizer)

    def serve_anyone(self, routes: Iterable[str], *, by: Function, reason: str) -> None:
        """As `serve`, without a token, because of a reason."""
        for route in self._serve(routes, by, gateway.HttpNoneAuthorizer()):
            acknowledge(route, "AwsSolutions-APIG4", reason)

    def _serve(
        self, routes: Iterable[str], function: Function, authorizer: gateway.IHttpRouteAuthorizer
    ) -> list[gateway.HttpRoute]:
        integration = HttpLambdaIntegration(f"{function.node.id}Integration", function.function)
        return [
            gateway.HttpRoute(
                self,
                _construct_id(route),
                http_api=self._api,
                route_key=_route_key(route),
                integration=integration,
                authorizer=authorizer,
            )
            for route in routes
        ]


def _route_key(route: str) -> gateway.HttpRouteKey:
    if route == "$default":
        return gateway.HttpRouteKey.DEFAULT
    method, path = route.split(" ")
    return gateway.HttpRouteKey.with_(path, gateway.HttpMethod[method])


def _construct_id(route: str) -> str:
    return "".join(word.capitalize() for word in route.replace("$", " ").replace("/", " ").replace("-", " ").split())


@jsii.implements(gateway.IAccessLogSettings)
class _AccessLog:
    """Where the log of calls goes, and what it keeps."""

    def __init__(self, log_group: logs.LogGroup) -> None:
        self._log_group = log_group

    @property
    def destination(self) -> gateway.IAccessLogDestination:
        return gateway.LogGroupLogDestination(self._log_group)

    @property
    def format(self) -> AccessLogFormat:
        return AccessLogFormat.custom(json.dumps(_ACCESS_LOG_FORMAT))
