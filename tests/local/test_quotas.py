"""The local Service Quotas: what they answer, and whom."""

from __future__ import annotations

from decimal import Decimal

import pytest
from botocore.exceptions import ClientError

from local import LocalAws
from spot_optimizer.adapters.compute import Ec2Compute
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.adapters.surroundings import Ec2Surroundings
from spot_optimizer.domain.examination import QuotaName, quota_of
from spot_optimizer.domain.pools import Lifecycle
from tests.local.conftest import Builder

ASK = """
    import boto3
    from botocore.exceptions import ClientError
    def handle(event, context):
        quotas = boto3.client("service-quotas")
        try:
            return quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-34B43A08")["Quota"]["Value"]
        except ClientError as error:
            return error.response["Error"]["Code"]
"""


def test_the_products_adapter_reads_quotas_and_counts_what_runs(
    aws: LocalAws, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    clients = Clients(aws.region)
    surroundings = Ec2Surroundings(clients, Ec2Compute(clients))
    quota = quota_of("m5.large", Lifecycle.SPOT)
    assert quota is not None
    assert surroundings.quota(quota) == Decimal(640)
    assert surroundings.quota(QuotaName("L-00000000", "none")) is None
    build.an_instance(InstanceType="m5.large")
    running = surroundings.vcpus_running()
    assert running is not None
    assert running[quota, Lifecycle.SPOT] >= 2


def test_what_is_not_of_ec2_is_refused(aws: LocalAws) -> None:
    with pytest.raises(ClientError, match="has no quota"):
        aws.client("service-quotas").get_service_quota(ServiceCode="s3", QuotaCode="L-34B43A08")


def test_only_a_role_that_may_asks(build: Builder) -> None:
    assert build.invoke(build.a_function(ASK)) == "AccessDeniedException"
    allowed = {"Action": "servicequotas:GetServiceQuota", "Resource": "*"}
    assert build.invoke(build.a_function(ASK, allowed)) == 640.0
