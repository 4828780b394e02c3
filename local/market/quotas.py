"""Service Quotas as the local AWS serves them: of EC2, what a new account has, in vCPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local.market import json_services
from local.market.json_services import JsonRefusal

QUOTAS: Mapping[str, tuple[str, float]] = {
    "L-34B43A08": ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 640.0),
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 640.0),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 0.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 0.0),
    "L-7212CCBC": ("All P Spot Instance Requests", 0.0),
    "L-417A185B": ("Running On-Demand P instances", 0.0),
}


def serve() -> None:
    """Make the local AWS answer GetServiceQuota."""
    json_services.serve("servicequotas", target="ServiceQuotasV20190624", action="GetServiceQuota", answer=_quota)


def _quota(request: Mapping[str, Any]) -> dict[str, Any]:
    code = str(request.get("QuotaCode"))
    if request.get("ServiceCode") != "ec2" or code not in QUOTAS:
        raise JsonRefusal("NoSuchResourceException", f"The local account has no quota {code}")
    name, value = QUOTAS[code]
    return {"Quota": {"ServiceCode": "ec2", "QuotaCode": code, "QuotaName": name, "Value": value, "Adjustable": True}}
