"""AWS's Price List as the local AWS serves it: what the market's instance types cost, alike in every region."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from local.market import json_services
from local.market.instance_types import INSTANCE_TYPES, InstanceType
from local.market.json_services import JsonRefusal

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
    """Make the local AWS answer GetProducts of AmazonEC2."""
    json_services.serve("pricing", target="AWSPriceListService", action="GetProducts", answer=_products)


def _products(request: Mapping[str, Any]) -> dict[str, Any]:
    if request.get("ServiceCode") != "AmazonEC2":
        raise JsonRefusal("InvalidParameterException", "The local Price List has the service code AmazonEC2 only")
    wanted = {each["Field"]: each["Value"] for each in request.get("Filters", [])}
    region = wanted.pop("regionCode", "us-east-1")
    found = [_product(kind, region) for kind in INSTANCE_TYPES.values() if wanted.items() <= _attributes(kind).items()]
    return {"FormatVersion": "aws_v1", "PriceList": found}


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
