from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from functions.authorize import handler as authorize
from infra import routes
from local.identity import IdentitySigner
from spot_optimizer import bootstrap, wiring
from spot_optimizer.domain.tokens import OperatorRole
from tests.adapters.tables import ACCOUNT, ENVIRONMENT, REGION, TABLES, make_tables

CLIENT = "acme"
CERTIFICATE_BODY = "MIIBszCCAVmgAwIBAgIUQnJlYWQgYW5kIGJ1dHRlciBhbmQgamFtIDAxMA=="
CERTIFICATE = f"-----BEGIN CERTIFICATE-----\n{CERTIFICATE_BODY}\n-----END CERTIFICATE-----\n"
PRIMARY = "i-0aaaaaaaaaaaaaaa1"
STANDBY = "i-0bbbbbbbbbbbbbbb2"
KEY = "primary-key-of-at-least-32-characters"

_ROUTERS: Mapping[str, tuple[str, ...]] = {
    "agent_api": routes.AGENT_API,
    "replica_api": routes.REPLICA_API,
    "snapshot_api": routes.SNAPSHOT_API,
    "price_api": routes.PRICE_API,
    "model_api": routes.MODEL_API,
    "fleet_api": routes.FLEET_API,
    "report_api": routes.REPORT_API,
    "doctor_api": routes.DOCTOR_API,
    "operator_api": (*routes.OPEN, *routes.OPERATOR_API),
}
_BY_ROUTE = tuple(
    (re.compile("[^/]+".join(map(re.escape, re.split(r"\{\w+\}", route)))), router)
    for router, served in _ROUTERS.items()
    for route in sorted(served, key=lambda route: route.count("{"))
)


def _router_of(method: str, path: str) -> Any:
    """The function that the gateway sends a call to; whatever has no route goes to the operators'."""
    found = next((router for route, router in _BY_ROUTE if route.fullmatch(f"{method} {path}")), "operator_api")
    return importlib.import_module(f"functions.{found}.handler")


@dataclass(frozen=True)
class Answered:
    """What came back over HTTP."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def problem(self) -> str:
        """Name of the problem, which is the failure's class."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.body)
        assert self.body["status"] == self.status
        assert self.body["title"]
        assert self.body["detail"]
        assert self.body["request_id"] == "request-1"
        return str(self.body["type"]).rpartition(":")[2]


@dataclass
class Http:
    """Calls the functions as the HTTP API does: the authorizer first, then the router that has the route."""

    signer: IdentitySigner
    admin: str
    client_token: str
    context: Any
    resources: dict[str, str] = field(default_factory=dict)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answered:
        sent = {"content-type": "application/json", **(headers or {})}
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        request: dict[str, Any] = {
            "version": "2.0",
            "routeKey": f"{method} {path}",
            "rawPath": path,
            "rawQueryString": "",
            "headers": sent,
            "queryStringParameters": dict(query or {}),
            "requestContext": {
                "accountId": ACCOUNT,
                "requestId": "request-1",
                "stage": "$default",
                "http": {"method": method, "path": path, "sourceIp": "127.0.0.1"},
            },
            "isBase64Encoded": False,
        }
        if body is not None:
            request["body"] = body if isinstance(body, str) else json.dumps(body)
        allowed = authorize.handle({"version": "2.0", "type": "REQUEST", "headers": sent}, self.context)
        assert allowed["isAuthorized"] is True
        request["requestContext"]["authorizer"] = {"lambda": allowed["context"]}
        answer = _router_of(method, path).handle(request, self.context)
        found = {
            name.lower(): value if isinstance(value, str) else value[0]
            for name, value in {**answer.get("headers", {}), **answer.get("multiValueHeaders", {})}.items()
        }
        text = answer.get("body") or ""
        return Answered(answer["statusCode"], json.loads(text) if text else None, found)

    def identity(self, instance_id: str, **changes: Any) -> dict[str, str]:
        """An identity document as IMDS serves it, and its signature."""
        zone = "us-east-1b" if instance_id == STANDBY else "us-east-1a"
        document = {
            "instanceId": instance_id,
            "region": REGION,
            "accountId": ACCOUNT,
            "availabilityZone": zone,
            "instanceType": "m5.large",
            "pendingTime": (datetime.now(UTC) - timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privateIp": "10.0.1.10",
        } | changes
        text = json.dumps(document, indent=2)
        return {"identity_document": text, "identity_signature": self.signer.sign(text.encode())}

    def registration(self, instance_id: str = PRIMARY, **changes: Any) -> dict[str, Any]:
        """A registration that is right in every way."""
        return {
            **self.identity(instance_id),
            "registration_key": KEY,
            "certificate": CERTIFICATE,
            "private_address": "10.0.1.10",
            "sync_port": 7443,
            "name": "ledger",
            "agent_version": "0.1.0",
            "launch_template_id": self.resources["launch_template_id"],
            "instance_types": ["m5.large"],
            "subnet_ids": [self.resources["subnet_id"], self.resources["other_subnet_id"]],
        } | changes

    def register(self, **changes: Any) -> Registration:
        """Register an agent."""
        answer = self.call("POST", "/api/agents/register", self.registration(**changes), token=self.client_token)
        assert answer.status == 200, answer.body
        return Registration(self, answer.body["agent_id"], answer.body["agent_token"])


@dataclass(frozen=True)
class Registration:
    """A registered agent, as its instance knows it."""

    http: Http
    agent_id: str
    token: str

    def call(self, method: str, below: str, body: Any = None, *, token: str | None = None, **more: Any) -> Answered:
        return self.http.call(method, f"/api/agents/{self.agent_id}{below}", body, token=token or self.token, **more)

    def beat(self, *, token: str | None = None, **changes: Any) -> Answered:
        body = {"epoch": 1, "role": "primary", "serving": True, "healthy": True} | changes
        return self.call("POST", "/heartbeat", body, token=token)


@pytest.fixture(scope="session")
def signer() -> IdentitySigner:
    return IdentitySigner()


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """The environment that the stacks give the functions."""
    machine = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine"
    values = {
        **ENVIRONMENT,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "SNAPSHOTS_BUCKET": "test-snapshots",
        "MODELS_BUCKET": "test-models",
        "ACTIVATE_MODEL_STATE_MACHINE_ARN": f"{machine}:activate-model",
        "FAIL_OVER_STATE_MACHINE_ARN": f"{machine}:fail-over",
        "PREPARE_REPLICA_STATE_MACHINE_ARN": f"{machine}:prepare-replica",
        "FILL_GAPS_STATE_MACHINE_ARN": f"{machine}:fill-gaps",
        "FAIL_OVER_FUNCTION": "fail-over",
        "PREPARE_REPLICA_FUNCTION": "prepare-replica",
        "API_URL_PARAMETER": "/test/api-url",
        "IDENTITY_CERTIFICATE_PARAMETER": "/test/identity-certificate",
        "JOIN_KEY_ID": "alias/test-join",
        "STAGE": "test",
    }
    with pytest.MonkeyPatch.context() as patch, mock_aws(config={"lambda": {"use_docker": False}}):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in values.items():
            patch.setenv(name, value)
        _forget_what_was_wired()
        yield
    _forget_what_was_wired()


def _forget_what_was_wired() -> None:
    for value in vars(wiring).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.fixture(scope="module")
def deployed(environment: None, signer: IdentitySigner) -> Http:
    """The product's functions on AWS in process, and a client with a launch template, a subnet and an address."""
    make_tables()
    ssm = boto3.client("ssm")
    ssm.put_parameter(Name="/test/api-url", Value="http://127.0.0.1:4566", Type="String")
    ssm.put_parameter(Name="/test/identity-certificate", Value=signer.certificate, Type="String")
    boto3.client("s3").create_bucket(Bucket="test-snapshots")
    boto3.client("s3").create_bucket(Bucket="test-models")
    role = boto3.client("iam").create_role(RoleName="machine", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    machines = boto3.client("stepfunctions")
    definition = json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}})
    for name in ("fail-over", "prepare-replica", "activate-model", "fill-gaps"):
        machines.create_state_machine(name=name, definition=definition, roleArn=role)
    context = SimpleNamespace(
        function_name="api",
        memory_limit_in_mb=512,
        invoked_function_arn=f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:api",
        aws_request_id="aws-request-1",
    )
    http = Http(
        signer,
        admin=bootstrap.create_operator_token(OperatorRole.ADMIN),
        client_token=bootstrap.create_client(CLIENT, "Acme"),
        context=context,
    )
    http.resources = _allowed_resources(CLIENT)
    return http


@pytest.fixture(scope="module")
def registered(deployed: Http) -> Registration:
    """A registered agent."""
    return deployed.register()


@pytest.fixture
def http(deployed: Http, registered: Registration) -> Iterator[Http]:
    """As `deployed`, with one registered agent; the tables are put back afterwards."""
    before = _read_rows()
    yield deployed
    _write_rows(before)


def _allowed_resources(client_id: str) -> dict[str, str]:
    ec2 = boto3.client("ec2")
    tags: Any = [{"Key": "spot-optimizer:client", "Value": client_id}]
    template = ec2.create_launch_template(
        LaunchTemplateName="ledger",
        LaunchTemplateData={"InstanceType": "m5.large"},
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
    )
    zones = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]}
    found = {
        "launch_template_id": template["LaunchTemplate"]["LaunchTemplateId"],
        "subnet_id": zones["us-east-1a"],
        "other_subnet_id": zones["us-east-1b"],
        "traffic_target": ec2.allocate_address(Domain="vpc")["AllocationId"],
    }
    ec2.create_tags(Resources=[found["subnet_id"], found["other_subnet_id"], found["traffic_target"]], Tags=tags)
    return found


@pytest.fixture
def agent(http: Http, registered: Registration) -> Registration:
    """A registered agent."""
    return registered


@pytest.fixture
def rows(http: Http) -> Callable[[], dict[str, Any]]:
    """Every row of every table, to tell that nothing was changed."""
    return _read_rows


def _read_rows() -> dict[str, Any]:
    dynamodb = _dynamodb()
    return {
        name: sorted(dynamodb.scan(TableName=name)["Items"], key=lambda item: json.dumps(item, sort_keys=True))
        for name in ENVIRONMENT.values()
    }


def _write_rows(wanted: Mapping[str, Any]) -> None:
    dynamodb = _dynamodb()
    for setting, (hash_key, range_key, _) in TABLES.items():
        name = ENVIRONMENT[setting]
        for item in dynamodb.scan(TableName=name)["Items"]:
            if item not in wanted[name]:
                key = {part: item[part] for part in (hash_key, range_key) if part}
                dynamodb.delete_item(TableName=name, Key=key)
        for item in wanted[name]:
            dynamodb.put_item(TableName=name, Item=item)


@lru_cache
def _dynamodb() -> Any:
    return boto3.client("dynamodb", region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")
