"""What AWS's Price List answers, in its own shape, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from spot_optimizer.adapters.price_list import AwsPriceList
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.errors import ControlPlaneUnavailable, Throttled
from tests.adapters.transport import Transport, ok, refusal


def a_product(price: Mapping[str, str], *, unit: str = "Hrs") -> str:
    """One text of `PriceList`, as GetProducts gives it; a reserved term stands beside, which is no on-demand price."""
    rate = "2223B6PCG6QAUYY6.JRTCKXETXF.6YS6EN2CT7"
    dimension = {
        "unit": unit,
        "endRange": "Inf",
        "description": "$0.096 per On Demand Linux m5.large Instance Hour",
        "appliesTo": [],
        "rateCode": rate,
        "beginRange": "0",
        "pricePerUnit": price,
    }
    reserved = {**dimension, "pricePerUnit": {"USD": "0.0400000000"}}
    terms = {
        "OnDemand": {"2223B6PCG6QAUYY6.JRTCKXETXF": {"sku": "2223B6PCG6QAUYY6", "priceDimensions": {rate: dimension}}},
        "Reserved": {"2223B6PCG6QAUYY6.4NA7Y494T4": {"sku": "2223B6PCG6QAUYY6", "priceDimensions": {rate: reserved}}},
    }
    product = {"productFamily": "Compute Instance", "attributes": {"instanceType": "m5.large"}}
    return json.dumps({"product": product, "serviceCode": "AmazonEC2", "terms": terms})


def asked(clients: Clients, *answers: Any) -> tuple[AwsPriceList, Transport]:
    return AwsPriceList(clients), Transport(clients.pricing, "pricing", *answers)


def test_a_type_is_asked_for_in_its_region_and_exactly(aws: None) -> None:
    clients = Clients("eu-west-1")
    price_list, transport = asked(clients, ok(FormatVersion="aws_v1", PriceList=[a_product({"USD": "0.1070000000"})]))
    assert price_list.on_demand_usd_per_hour("m5.large") == Decimal("0.107")
    sent = json.loads(transport.requests[0])
    assert sent["ServiceCode"] == "AmazonEC2"
    assert {each["Field"]: each["Value"] for each in sent["Filters"]} == {
        "regionCode": "eu-west-1",
        "instanceType": "m5.large",
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    assert {each["Type"] for each in sent["Filters"]} == {"TERM_MATCH"}
    # Ireland has no endpoint of the Price List.
    assert clients.pricing.meta.endpoint_url == "https://api.pricing.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("products", "usd_per_hour"),
    [
        ([], None),
        ([a_product({"USD": "0.0000000000"})], None),
        ([a_product({"CNY": "0.9000000000"})], None),
        ([a_product({"USD": "0.0960000000"}, unit="Quantity")], None),
        ([a_product({"USD": "NaN"})], None),
        ([a_product({"USD": "cheap"})], None),
        ([a_product({"USD": "10.0000000000"})], "10"),
        ([a_product({"USD": "0.2000000000"}), a_product({"USD": "0.0960000000"})], "0.096"),
        (["{", "[]", '{"terms": {}}', '{"terms": {"OnDemand": []}}', a_product({"USD": "0.096"})], "0.096"),
    ],
)
def test_a_price_is_one_per_hour_in_usd_above_zero(
    clients: Clients, products: list[str], usd_per_hour: str | None
) -> None:
    price_list, _ = asked(clients, ok(FormatVersion="aws_v1", PriceList=products))
    found = price_list.on_demand_usd_per_hour("m5.large")
    assert found == (None if usd_per_hour is None else Decimal(usd_per_hour))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal("ThrottlingException"), Throttled),
        (refusal("InternalErrorException", status=500), ControlPlaneUnavailable),
        (refusal("AccessDeniedException"), ControlPlaneUnavailable),
        (EndpointConnectionError(endpoint_url="https://api.pricing.us-east-1.amazonaws.com"), ControlPlaneUnavailable),
    ],
)
def test_a_list_that_does_not_answer_is_asked_once_and_is_no_crash(
    clients: Clients, answer: Any, error: type[Exception]
) -> None:
    price_list, transport = asked(clients, answer)
    with pytest.raises(error):
        price_list.on_demand_usd_per_hour("m5.large")
    assert len(transport.requests) == 1
