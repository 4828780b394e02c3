"""Service Quotas as the local AWS serves them: of EC2, what a new account has, in vCPUs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ministack.core.iam_actions as iam_actions
import ministack.core.router as router
from ministack import app as ministack_app

from local.market.wire import HttpAnswer

_SERVICE = "servicequotas"
_TARGET = "ServiceQuotasV20190624"

QUOTAS: Mapping[str, tuple[str, float]] = {
    "L-34B43A08": ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 640.0),
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 640.0),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 0.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 0.0),
    "L-7212CCBC": ("All P Spot Instance Requests", 0.0),
    "L-417A185B": ("Running On-Demand P instances", 0.0),
}


def serve() -> None:
    """Make ministack, which has no Service Quotas, route to these, and enforce who may ask."""
    router.SERVICE_PATTERNS[_SERVICE] = {"target_prefixes": [_TARGET]}
    iam_actions.SERVICE_TO_IAM_NAMESPACE[_SERVICE] = _SERVICE
    ministack_app.SERVICE_HANDLERS[_SERVICE] = handle


async def handle(
    _method: str, _path: str, headers: dict[str, str], body: bytes, _query: dict[str, list[str]]
) -> HttpAnswer:
    """Answer GetServiceQuota of EC2."""
    action = headers.get("x-amz-target", "").rpartition(".")[2]
    request: dict[str, Any] = json.loads(body or b"{}")
    code = str(request.get("QuotaCode"))
    if action != "GetServiceQuota":
        return _answer(400, {"__type": "UnknownOperationException", "Message": f"{action} is not served locally"})
    if request.get("ServiceCode") != "ec2" or code not in QUOTAS:
        return _answer(400, {"__type": "NoSuchResourceException", "Message": f"The local account has no quota {code}"})
    name, value = QUOTAS[code]
    quota = {"ServiceCode": "ec2", "QuotaCode": code, "QuotaName": name, "Value": value, "Adjustable": True}
    return _answer(200, {"Quota": quota})


def _answer(status: int, content: dict[str, Any]) -> HttpAnswer:
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(content).encode()
