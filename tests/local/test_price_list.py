"""The local Price List: what it answers, and whom."""

from __future__ import annotations

from decimal import Decimal

import pytest
from botocore.exceptions import ClientError

from local import LocalAws
from spot_optimizer.adapters.price_list import AwsPriceList
from spot_optimizer.adapters.sessions import Clients
from tests.local.conftest import Builder

ASK = """
    import boto3
    from botocore.exceptions import ClientError
    def handle(event, context):
        try:
            return len(boto3.client("pricing").get_products(ServiceCode="AmazonEC2")["PriceList"])
        except ClientError as error:
            return error.response["Error"]["Code"]
"""


def test_the_products_adapter_reads_what_a_type_costs(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    price_list = AwsPriceList(Clients("eu-central-1"))
    assert price_list.on_demand_usd_per_hour("r5.large") == Decimal("0.126")
    assert price_list.on_demand_usd_per_hour("r5.colossal") is None


def test_another_service_than_ec2_is_refused(aws: LocalAws) -> None:
    with pytest.raises(ClientError, match="AmazonEC2 only"):
        aws.client("pricing").get_products(ServiceCode="AmazonS3")


def test_only_a_role_that_may_asks(build: Builder) -> None:
    assert build.invoke(build.a_function(ASK)) == "AccessDeniedException"
    assert build.invoke(build.a_function(ASK, {"Action": "pricing:GetProducts", "Resource": "*"})) > 50
