"""Dry runs of a launch: asked for by the function that launches, which another function asks to do so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.examination import RehearsedLaunch
from spot_optimizer.domain.pools import LaunchTarget, Lifecycle
from spot_optimizer.domain.replicas import AGENT_TAG
from spot_optimizer.errors import ControlPlaneUnavailable

_WOULD_BE_DONE = "DryRunOperation"


class Ec2DryRuns:
    """Implements `DryRuns`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def refusal(self, target: LaunchTarget, *, launch_template_id: str, agent_id: str) -> str:
        """Why EC2 would refuse this launch; empty if it would not.

        RunInstances is what an instant fleet needs its caller's own permission for, on each resource that it uses.

        Raises:
            Throttled, ControlPlaneUnavailable: EC2 did not say.
        """
        market: dict[str, Any] = {}
        if target.lifecycle is Lifecycle.SPOT:
            market = {"InstanceMarketOptions": {"MarketType": "spot"}}
        request: dict[str, Any] = {
            "DryRun": True,
            "MinCount": 1,
            "MaxCount": 1,
            "LaunchTemplate": {"LaunchTemplateId": launch_template_id, "Version": "$Default"},
            "InstanceType": target.pool.instance_type,
            "SubnetId": target.subnet_id,
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": AGENT_TAG, "Value": agent_id}]}],
            **market,
        }
        with service_failures("EC2"):
            try:
                self._clients.ec2.run_instances(**request)
            except ClientError as error:
                code = error_code(error)
                if code == _WOULD_BE_DONE:
                    return ""
                return f"{code}: {error.response.get('Error', {}).get('Message', '')}"[:300]
        raise AssertionError("a dry run never succeeds")


class LambdaRehearsing:
    """Implements `Rehearsing`.

    Args:
        clients: SDK clients.
        function_name: Tells the name of the function that launches; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, function_name: Callable[[], str]) -> None:
        self._clients = clients
        self._function_name = function_name

    def launches(self, agent_id: str) -> tuple[RehearsedLaunch, ...]:
        """The first ways to launch a standby, as dry runs.

        Raises:
            Throttled, ControlPlaneUnavailable: The function did not answer, or failed.
        """
        with service_failures("Lambda"):
            answer = self._clients.waited_for_functions.invoke(
                FunctionName=self._function_name(),
                InvocationType="RequestResponse",
                Payload=json.dumps({"task": "RehearseLaunch", "agent_id": agent_id}).encode(),
            )
        said: dict[str, Any] = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            raise ControlPlaneUnavailable(
                f"the launch could not be rehearsed: {said.get('errorType')}: {said.get('errorMessage')}"
            )
        return tuple(
            RehearsedLaunch(
                pool_id=launch["pool_id"],
                lifecycle=Lifecycle(launch["lifecycle"]),
                refused_because=launch["refused_because"],
            )
            for launch in said["launches"]
        )
