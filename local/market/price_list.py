"""AWS's Price List as the local AWS serves it: what the market's instance types cost, alike in every region."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import ministack.core.iam_actions as iam_actions
import ministack.core.router as router
from ministack import app as ministack_app

from local.market.instance_types import INSTANCE_TYPES, InstanceType
from local.market.wire import HttpAnswer

_SERVICE = "pricing"
_TARGET = "AWSPriceListService"
_ON_DEMAND_TERM = "JRTCKXETXF"
_PER_HOUR = "6YS6EN2CT7"
_ANY_PRODUCT = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "operation": "RunInstances",
    "marketoption": "OnDemand",
}


def serve() -> None:
    """Make ministack, which has no Price List, route to this one, and enforce who may ask it."""
    router.SERVICE_PATTERNS[_SERVICE] = {"target_prefixes": [_TARGET]}
    iam_actions.SERVICE_TO_IAM_NAMESPACE[_SERVICE] = _SERVICE
    ministack_app.SERVICE_HANDLERS[_SERVICE] = handle


async def handle(
    _method: str, _path: str, headers: dict[str, str], body: bytes, _query: dict[str, list[str]]
) -> HttpAnswer:
    """Answer GetProducts of AmazonEC2."""
    action = headers.get("x-amz-target", "").rpartition(".")[2]
    request: dict[str, Any] = json.loads(body or b"{}")
    if action != "GetProducts":
        return _refusal("UnknownOperationException", f"The local Price List does not serve {action}")
    if request.get("ServiceCode") != "AmazonEC2":
        return _refusal("InvalidParameterException", "The local Price List has the service code AmazonEC2 only")
    wanted = {each["Field"]: each["Value"] for each in request.get("Filters", [])}
    region = wanted.pop("regionCode", "us-east-1")
    found = [_product(kind, region) for kind in INSTANCE_TYPES.values() if wanted.items() <= _attributes(kind).items()]
    return _answer(200, {"FormatVersion": "aws_v1", "PriceList": found})


def _attributes(kind: InstanceType) -> dict[str, str]:
    return {**_ANY_PRODUCT, "instanceType": kind.name, "vcpu": str(kind.vcpus)}


def _product(kind: InstanceType, region: str) -> str:
    sku = hashlib.sha256(f"{region}/{kind.name}".encode()).hexdigest()[:16].upper()
    offer = f"{sku}.{_ON_DEMAND_TERM}"
    rate = f"{offer}.{_PER_HOUR}"
    dimension = {
        "rateCode": rate,
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "description": f"${kind.usd_per_hour} per On Demand Linux {kind.name} Instance Hour",
        "appliesTo": [],
        "pricePerUnit": {"USD": f"{kind.usd_per_hour:.10f}"},
    }
    term = {
        "sku": sku,
        "offerTermCode": _ON_DEMAND_TERM,
        "effectiveDate": "2026-01-01T00:00:00Z",
        "termAttributes": {},
        "priceDimensions": {rate: dimension},
    }
    return json.dumps(
        {
            "product": {
                "productFamily": "Compute Instance",
                "sku": sku,
                "attributes": {**_attributes(kind), "regionCode": region},
            },
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {offer: term}},
        }
    )


def _refusal(code: str, message: str) -> HttpAnswer:
    return _answer(400, {"__type": code, "Message": message})


def _answer(status: int, content: dict[str, Any]) -> HttpAnswer:
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(content).encode()
