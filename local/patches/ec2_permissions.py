"""IAM: one EC2 call is checked as AWS checks it, action by action and resource by resource, with their tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ministack.core.iam_actions as iam_actions
import ministack.core.iam_evaluator as iam_evaluator

from local.market.errors import Ec2Refusal
from local.market.permissions import Permission, required_permissions
from local.market.spot_market import SpotMarket
from local.market.wire import query_of
from local.patches.rewriting import wrap


class _SeveralChecks(str):
    """A resource ARN to whoever prints it, and to the evaluator the list of checks that it stands for."""

    __slots__ = ("checks",)
    checks: tuple[Permission, ...]


def apply(market: SpotMarket) -> None:
    """Patch the evaluator; the emulator itself names a single resource per call and knows no EC2 tags."""
    wrap(
        "EC2 permissions: resources",
        iam_actions,
        "extract_resource_arn",
        "(service: str, method: str, path: str, headers: dict, body: bytes, query_params: dict, "
        "region: str, account_id: str) -> str",
        lambda original: _with_checks(original, market),
    )
    wrap(
        "EC2 permissions: evaluation",
        iam_evaluator,
        "enforce",
        "(access_key_id: str, iam_action: str, service: str, region: str, resource_arn: str = '*', "
        "service_context: dict[str, typing.Any] | None = None) -> ministack.core.iam_evaluator.EvalResult | "
        "ministack.core.iam_evaluator.AuthError | None",
        _check_each,
    )


def _with_checks(original: Callable[..., str], market: SpotMarket) -> Callable[..., str]:
    def extract(
        service: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        query_params: dict[str, list[str]],
        region: str,
        account_id: str,
    ) -> str:
        arn = original(service, method, path, headers, body, query_params, region, account_id)
        if service != "ec2":
            return arn
        parameters = query_of(body, query_params)
        try:
            checks = required_permissions(parameters.get("Action", ""), parameters, market)
        except Ec2Refusal:
            return arn  # the call itself will say what is wrong with it
        if not checks:
            return arn
        several = _SeveralChecks(checks[0].resource)
        several.checks = tuple(checks)
        return several

    return extract


def _check_each(original: Callable[..., Any]) -> Callable[..., Any]:
    def enforce(
        access_key_id: str,
        iam_action: str,
        service: str,
        region: str,
        resource_arn: str = "*",
        service_context: dict[str, Any] | None = None,
    ) -> Any:
        if not isinstance(resource_arn, _SeveralChecks):
            return original(
                access_key_id, iam_action, service, region, resource_arn=resource_arn, service_context=service_context
            )
        for check in resource_arn.checks:
            denied = original(
                access_key_id,
                check.action,
                service,
                region,
                resource_arn=check.resource,
                service_context=dict(check.context),
            )
            if denied:
                return denied
        return None

    return enforce
