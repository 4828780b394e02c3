from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from local import InstanceView, LocalAws
from tests.local.conftest import Builder, eventually

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


class Metadata:
    """IMDSv2, asked as an agent asks."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def token(self, ttl: str | None = "60") -> httpx.Response:
        return self._http.put("/latest/api/token", headers={TTL: ttl} if ttl else {})

    def get(self, path: str, *, token: str | None = None) -> httpx.Response:
        return self._http.get(f"/latest/{path}", headers={TOKEN: token if token is not None else self.token().text})

    def text(self, path: str) -> str:
        return self.get(f"meta-data/{path}").raise_for_status().text


@pytest.fixture
def instance(build: Builder) -> InstanceView:
    return build.an_instance(UserData="# spot-agent\nAGENT_ID=a-1\n")


@pytest.fixture
def metadata(instance: InstanceView) -> Iterator[Metadata]:
    with httpx.Client(base_url=instance.metadata_endpoint, trust_env=False) as http:
        yield Metadata(http)


def test_a_token_is_needed_and_expires(metadata: Metadata) -> None:
    assert metadata._http.get("/latest/meta-data/instance-id").status_code == 401
    assert metadata.get("meta-data/instance-id", token="made-up").status_code == 401
    short = metadata.token("1").text
    assert metadata.get("meta-data/instance-id", token=short).status_code == 200
    time.sleep(1.05)
    assert metadata.get("meta-data/instance-id", token=short).status_code == 401


@pytest.mark.parametrize("ttl", [None, "0", "21601", "soon"])
def test_a_token_needs_a_sane_time_to_live(metadata: Metadata, ttl: str | None) -> None:
    assert metadata.token(ttl).status_code == 400


def test_a_token_is_put_not_got(metadata: Metadata) -> None:
    assert metadata._http.get("/latest/api/token").status_code == 405
    assert metadata._http.put("/latest/api/token", headers={TTL: "60", "X-Forwarded-For": "1.2.3.4"}).status_code == 403


def test_an_instance_knows_itself(instance: InstanceView, metadata: Metadata) -> None:
    mac = metadata.text("mac")
    assert {
        "instance-id": metadata.text("instance-id"),
        "instance-type": metadata.text("instance-type"),
        "local-ipv4": metadata.text("local-ipv4"),
        "zone": metadata.text("placement/availability-zone"),
        "region": metadata.text("placement/region"),
        "addresses": metadata.text(f"network/interfaces/macs/{mac}/local-ipv4s").split(),
        "macs": metadata.text("network/interfaces/macs/"),
        "life-cycle": metadata.text("instance-life-cycle"),
    } == {
        "instance-id": instance.instance_id,
        "instance-type": "m5.large",
        "local-ipv4": instance.private_address,
        "zone": "us-east-1a",
        "region": "us-east-1",
        "addresses": [instance.private_address, instance.secondary_private_address],
        "macs": f"{mac}/",
        "life-cycle": "spot",
    }
    assert metadata.get("user-data").text == "# spot-agent\nAGENT_ID=a-1\n"
    assert metadata.get("meta-data/no/such/thing").status_code == 404


def test_the_boot_program_is_told_where_its_metadata_is(build: Builder) -> None:
    instance = build.an_instance(
        image=build.an_image("import os; print(os.environ['AWS_EC2_METADATA_SERVICE_ENDPOINT'], flush=True)")
    )
    assert eventually(instance.log.read_text).strip() == instance.metadata_endpoint


def test_a_notice_appears_with_its_time(aws: LocalAws, instance: InstanceView, metadata: Metadata) -> None:
    assert metadata.get("meta-data/spot/instance-action").status_code == 404
    at = aws.market.interrupt(instance.instance_id, notice_seconds=100)
    notice = json.loads(metadata.text("spot/instance-action"))
    assert notice == {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
    assert 99 < (at - datetime.now(UTC)).total_seconds() < 101


def test_a_rebalance_recommendation_appears(aws: LocalAws, instance: InstanceView, metadata: Metadata) -> None:
    assert metadata.get("meta-data/events/recommendations/rebalance").status_code == 404
    aws.market.recommend_rebalance(instance.instance_id)
    assert "noticeTime" in json.loads(metadata.text("events/recommendations/rebalance"))


def test_the_identity_document_is_signed(aws: LocalAws, instance: InstanceView, metadata: Metadata) -> None:
    document = metadata.get("dynamic/instance-identity/document").content
    signature = base64.b64decode(metadata.get("dynamic/instance-identity/signature").text)
    facts: dict[str, Any] = json.loads(document)
    assert (facts["instanceId"], facts["accountId"], facts["privateIp"]) == (
        instance.instance_id,
        aws.account_id,
        instance.private_address,
    )
    key = x509.load_pem_x509_certificate(aws.identity_certificate.encode()).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(signature, document, padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(InvalidSignature):
        key.verify(signature, document.replace(b"m5.large", b"m5.metal"), padding.PKCS1v15(), hashes.SHA256())


def test_an_instance_profile_gives_credentials_that_are_enforced(aws: LocalAws, build: Builder) -> None:
    role = build.a_role(
        {"Action": "ec2:DescribeSpotPriceHistory", "Resource": "*"}, service="ec2.amazonaws.com"
    ).rsplit("/", 1)[-1]
    iam = aws.client("iam")
    iam.create_instance_profile(InstanceProfileName=f"{role}-profile")
    iam.add_role_to_instance_profile(InstanceProfileName=f"{role}-profile", RoleName=role)
    instance = build.an_instance(IamInstanceProfile={"Name": f"{role}-profile"})
    with httpx.Client(base_url=instance.metadata_endpoint, trust_env=False) as http:
        metadata = Metadata(http)
        assert metadata.text("iam/security-credentials/") == role
        given = json.loads(metadata.text(f"iam/security-credentials/{role}"))
    import boto3
    from botocore.exceptions import ClientError

    ec2 = boto3.session.Session(given["AccessKeyId"], given["SecretAccessKey"], given["Token"], "us-east-1").client(
        "ec2", endpoint_url=aws.endpoint_url
    )
    assert ec2.describe_spot_price_history(InstanceTypes=["m5.large"])["SpotPriceHistory"]
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.describe_instances()


def test_metadata_is_gone_with_its_instance(aws: LocalAws, instance: InstanceView) -> None:
    aws.market.kill(instance.instance_id)
    with pytest.raises(httpx.TransportError):
        httpx.put(f"{instance.metadata_endpoint}/latest/api/token", headers={TTL: "60"}, trust_env=False)
