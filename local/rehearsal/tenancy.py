"""The product deployed on a local AWS, with an operator and one client of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
from botocore.exceptions import ClientError

from local.launcher import LocalAws

REPOSITORY = Path(__file__).resolve().parents[2]
ASSEMBLY = REPOSITORY / "build" / "cdk.out"
ALLOWED_TAG = "spot-optimizer:client"
_TIMEOUT_SECONDS = 60.0
_READS = 20
_READ_PAUSE_SECONDS = 0.5


class ApiRefused(Exception):
    """The API answered with a problem.

    Attributes:
        status: HTTP status.
        problem: The problem document.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('title', '')}: {problem.get('detail', problem)}")
        self.status = status
        self.problem = problem


class Tenancy:
    """A deployed product, an operator's token, and one client with the token that its agents register with.

    Attributes:
        aws: The AWS it is deployed on.
        outputs: The stacks' outputs.
        api_url: Where the API answers; paths begin with `/api`.
        operator_token: An admin's.
        client_id: The client.
        client_token: What its agents register with.
    """

    def __init__(self, aws: LocalAws, outputs: Mapping[str, str], *, client_id: str = "acme") -> None:
        """Create the operator's token as the first one is created on AWS, and the client through the API."""
        self.aws = aws
        self.outputs = outputs
        self.api_url = outputs["ApiUrl"].rstrip("/")
        self.client_id = client_id
        self.operator_token = self._first_token()
        self._operator = httpx.Client(
            base_url=self.api_url,
            headers={"authorization": f"Bearer {self.operator_token}"},
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
        )
        self.post("/api/clients", {"client_id": client_id, "name": "Acme"})
        self.client_token = str(self.post(f"/api/clients/{client_id}/tokens", {})["token"])
        self.subnet_ids = self._allow_subnets()

    @classmethod
    def deploy(cls, aws: LocalAws, assembly: Path = ASSEMBLY) -> Self:
        """Deploy the synthesized product, and move in."""
        outputs = aws.deploy(assembly, parameters={"InstanceIdentityCertificate": aws.identity_certificate})
        return cls(aws, outputs)

    def get(self, path: str, **query: str) -> Any:
        """Read from the API as the operator.

        Raises:
            ApiRefused: It answered with a problem.
        """
        for _ in range(_READS):
            answer = self._operator.get(path, params=query)
            if not answer.is_server_error and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            time.sleep(_READ_PAUSE_SECONDS)  # the API is throttled, as an account's functions are
        return self._answer(answer)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Write to the API as the operator; raises as `get`."""
        return self._answer(self._operator.post(path, json=body))

    def delete(self, path: str) -> Any:
        """End something through the API as the operator; raises as `get`."""
        return self._answer(self._operator.delete(path))

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something through the API as the operator; raises as `get`."""
        return self._answer(self._operator.patch(path, json=body))

    def allow(self, *resource_ids: str) -> None:
        """Do what an admin does: allow the client to use these EC2 resources."""
        self.aws.client("ec2").create_tags(
            Resources=list(resource_ids), Tags=[{"Key": ALLOWED_TAG, "Value": self.client_id}]
        )

    def execution_events(self, name: str) -> list[dict[str, Any]]:
        """The history of a failover execution, as the console shows it."""
        arn = self.outputs["FailOverStateMachineArn"].replace(":stateMachine:", ":execution:") + f":{name}"
        client = self.aws.client("stepfunctions")
        events: list[dict[str, Any]] = client.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        return events

    def executions(self) -> list[dict[str, Any]]:
        """Every failover execution there was."""
        client = self.aws.client("stepfunctions")
        found: list[dict[str, Any]] = client.list_executions(
            stateMachineArn=self.outputs["FailOverStateMachineArn"], maxResults=1000
        )["executions"]
        return found

    def close(self) -> None:
        """Hang up."""
        self._operator.close()

    def _first_token(self) -> str:
        # The very command of the README, with the stacks' outputs in its environment.
        done = subprocess.run(
            [sys.executable, "-m", "spot_optimizer.bootstrap", "--role", "admin"],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": str(REPOSITORY / "layers" / "shared" / "python"),
                **self.aws.environment,
                "CLIENTS_TABLE": self.outputs["ClientsTable"],
                "TOKENS_TABLE": self.outputs["TokensTable"],
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the first operator token could not be created:\n{done.stderr}")
        return done.stdout.strip().splitlines()[-1]

    def _allow_subnets(self) -> tuple[str, ...]:
        ec2 = self.aws.client("ec2")
        subnets = ec2.describe_subnets()["Subnets"]
        # As AWS makes a VPC's default group; the emulator's lets nobody in.
        defaults = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])
        for group in defaults["SecurityGroups"]:
            members: Any = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}
            with suppress(ClientError):  # it is there since the last tenancy
                ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[members])
        subnet_ids = tuple(sorted(subnet["SubnetId"] for subnet in subnets))
        self.allow(*subnet_ids)
        return subnet_ids

    @staticmethod
    def _answer(response: httpx.Response) -> Any:
        if response.is_error:
            try:
                problem = response.json()
            except ValueError:
                problem = {"detail": response.text[:500]}
            raise ApiRefused(response.status_code, problem)
        return response.json() if response.content else None
