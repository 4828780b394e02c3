"""One local AWS for all tests here, and the small things that they build in it."""

from __future__ import annotations

import io
import json
import textwrap
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from local import InstanceView, LocalAws

SLEEPER = "ami-sleeper"


@pytest.fixture(scope="session")
def aws() -> Iterator[LocalAws]:
    with LocalAws() as local_aws:
        local_aws.market.set_boot_seconds(0.1)
        local_aws.market.set_shutdown_seconds(grace=0.5, shutting_down=0.2)
        local_aws.market.register_image(SLEEPER, ["python", "-c", "import time; time.sleep(600)"])
        yield local_aws


@pytest.fixture
def build(aws: LocalAws) -> Iterator[Builder]:
    before = {each.instance_id for each in aws.market.instances()}
    yield Builder(aws)
    for each in aws.market.instances():
        if each.instance_id not in before and each.state in ("pending", "running"):
            aws.market.kill(each.instance_id)


def eventually[T](read: Callable[[], T | None], *, within_seconds: float = 10.0) -> T:
    """Wait until `read` gives something true, and return it."""
    deadline = time.monotonic() + within_seconds
    while not (value := read()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {within_seconds} s")
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class Builder:
    """Builds small real things in the local AWS."""

    aws: LocalAws

    def an_instance(
        self, *, image: str = SLEEPER, spot: bool = True, wait: bool = True, **request: Any
    ) -> InstanceView:
        """Launch one instance and wait until it runs."""
        market = {"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}
        answer = self.aws.client("ec2").run_instances(
            **{"ImageId": image, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1, **market, **request}
        )
        instance_id = answer["Instances"][0]["InstanceId"]
        if wait:
            self.await_state(instance_id, "running")
        return self.aws.market.instance(instance_id)

    def await_state(self, instance_id: str, state: str) -> InstanceView:
        def arrived() -> InstanceView | None:
            instance = self.aws.market.instance(instance_id)
            return instance if instance.state == state else None

        return eventually(arrived)

    def an_image(self, program: str, **more: Any) -> str:
        """Register an image whose instances run a Python program."""
        image = f"ami-{uuid.uuid4().hex[:17]}"
        self.aws.market.register_image(
            image, ["python", "boot.py"], files={"boot.py": textwrap.dedent(program)}, **more
        )
        return image

    def a_role(self, *statements: Mapping[str, Any], service: str = "lambda.amazonaws.com") -> str:
        """Create a role with exactly these permissions; returns its ARN."""
        name = f"role-{uuid.uuid4().hex[:8]}"
        iam = self.aws.client("iam")
        trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]}
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        if statements:
            policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **each} for each in statements]}
            iam.put_role_policy(RoleName=name, PolicyName="policy", PolicyDocument=json.dumps(policy))
        return arn

    def a_function(
        self,
        code: str,
        *statements: Mapping[str, Any],
        layers: Sequence[str] = (),
        timeout: int = 10,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Create a function `index.handle` from source; returns its ARN."""
        arn: str = self.aws.client("lambda").create_function(
            FunctionName=f"function-{uuid.uuid4().hex[:8]}",
            Runtime="python3.13",
            Role=self.a_role(*statements),
            Handler="index.handle",
            Code={"ZipFile": zipped({"index.py": textwrap.dedent(code)})},
            Timeout=timeout,
            Layers=list(layers),
            Environment={"Variables": dict(environment or {})},
        )["FunctionArn"]
        return arn

    def invoke(self, function: str, event: Any = None) -> Any:
        """Call a function; its error payload comes back as it is."""
        answer = self.aws.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event or {}))
        return json.loads(answer["Payload"].read())

    def a_queue(self) -> str:
        """Create a queue; returns its URL."""
        url: str = self.aws.client("sqs").create_queue(QueueName=f"queue-{uuid.uuid4().hex[:8]}")["QueueUrl"]
        return url

    def a_state_machine(self, definition: Mapping[str, Any]) -> str:
        """Create a standard state machine; returns its ARN."""
        arn: str = self.aws.client("stepfunctions").create_state_machine(
            name=f"machine-{uuid.uuid4().hex[:8]}",
            definition=json.dumps(definition),
            roleArn=self.a_role(service="states.amazonaws.com"),
        )["stateMachineArn"]
        return arn

    def run(self, machine: str, payload: Any = None, **request: Any) -> dict[str, Any]:
        """Start an execution and wait for its end."""
        states = self.aws.client("stepfunctions")
        arn = states.start_execution(stateMachineArn=machine, input=json.dumps(payload or {}), **request)[
            "executionArn"
        ]

        def ended() -> dict[str, Any] | None:
            execution: dict[str, Any] = states.describe_execution(executionArn=arn)
            return execution if execution["status"] != "RUNNING" else None

        return eventually(ended)


def zipped(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()
