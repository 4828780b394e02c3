"""Target groups of load balancers: the one target of an agent's group is its primary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from spot_optimizer.adapters.compute import instances_at
from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.clients import OWNER_TAG
from spot_optimizer.errors import AddressNotMovable, ControlPlaneUnavailable, Throttled

_SERVICE = "Elastic Load Balancing"
_BY_INSTANCE = "instance"
LOOKS = 25
"""So often a load balancer is asked where groups lead."""

NOT_MOVABLE_CODES = frozenset({"InvalidTarget"})
"""The instance is pending, or gone."""
GONE_CODES = frozenset({"TargetGroupNotFound", "ValidationError"})
"""Deleted, or of another region."""


class TargetGroups:
    """Implements `TrafficPath`.

    A network load balancer keeps sending to a target for about two minutes after it was deregistered, and to one that
    fails its health check for some ten seconds per check: the old primary is fenced by then, so it fails the check at
    once. Short checks make the difference, not this adapter.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def move(self, target: str, instance_id: str, *, client_id: str) -> None:
        """Register the instance, deregister every other target, and see that it came so.

        IAM asks whether the group is tagged for a client; whether it still is for this one is asked here.

        Raises:
            AddressNotMovable: Not now, or the group is not the client's any more.
        """
        with _not_movable(target, instance_id):
            if owner_of_group(self._clients, target) != client_id:
                raise AddressNotMovable(
                    f"{target} is not tagged {OWNER_TAG} = {client_id}; tag it, or give the agent another traffic path"
                )
            target_id = self._target_id(target, instance_id)
            self._clients.elb.register_targets(TargetGroupArn=target, Targets=[{"Id": target_id}])
            others = [other for other in self._registered(target) if other["Id"] != target_id]
            if others:
                self._clients.elb.deregister_targets(TargetGroupArn=target, Targets=others)
            left = {one["Id"] for one in self._registered(target)}
        if left != {target_id}:
            raise AddressNotMovable(f"{target} leads to {sorted(left)}; expected {target_id} alone; try again")

    def holders(self, targets: Sequence[str]) -> Mapping[str, str | None]:
        """The instance that is each group's one registered target; None if there is none, or more than one.

        What is in a group can be asked of one at a time only: after `LOOKS` of them the rest is absent, and so is a
        group that is gone.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: A service did not answer.
        """
        only: dict[str, str | None] = {}
        for target in targets[:LOOKS]:
            with service_failures(_SERVICE):
                try:
                    registered = {one["Id"] for one in self._registered(target)}
                except ClientError as error:
                    if error_code(error) not in GONE_CODES:
                        raise
                    continue
            only[target] = registered.pop() if len(registered) == 1 else None
        addresses = [one for one in only.values() if one is not None and not _is_instance(one)]
        with service_failures("EC2"):
            at = instances_at(self._clients, addresses, private=True)
        return {target: one if one is None or _is_instance(one) else at.get(one) for target, one in only.items()}

    def _registered(self, target: str) -> list[dict[str, Any]]:
        """Targets that are not on their way out."""
        health = self._clients.elb.describe_target_health(TargetGroupArn=target)["TargetHealthDescriptions"]
        return [
            {"Id": one["Target"]["Id"], "Port": one["Target"]["Port"]}
            for one in health
            if one["TargetHealth"]["State"] != "draining"
        ]

    def _type_of(self, target: str) -> str:
        groups = self._clients.elb.describe_target_groups(TargetGroupArns=[target])["TargetGroups"]
        return str(groups[0]["TargetType"])

    def _target_id(self, target: str, instance_id: str) -> str:
        if self._type_of(target) == _BY_INSTANCE:
            return instance_id
        for reservation in self._clients.ec2.describe_instances(
            Filters=[{"Name": "instance-id", "Values": [instance_id]}]
        )["Reservations"]:
            for instance in reservation["Instances"]:
                if instance.get("PrivateIpAddress"):
                    return instance["PrivateIpAddress"]
        raise AddressNotMovable(f"{instance_id} has no private address; expected a running instance; try again")


def owner_of_group(clients: Clients, target: str) -> str | None:
    """The client that an admin has allowed to use a target group."""
    [described] = clients.elb.describe_tags(ResourceArns=[target])["TagDescriptions"]
    return next((tag["Value"] for tag in described["Tags"] if tag.get("Key") == OWNER_TAG), None)


def _is_instance(target_id: str) -> bool:
    """Targets are registered by instance, or else by address."""
    return target_id.startswith("i-")


@contextmanager
def _not_movable(target: str, instance_id: str) -> Iterator[None]:
    try:
        with service_failures(_SERVICE):
            yield
    except (Throttled, ControlPlaneUnavailable) as error:
        raise AddressNotMovable(f"{target} can not be moved now: {error}") from error
    except ClientError as error:
        if error_code(error) in NOT_MOVABLE_CODES:
            raise AddressNotMovable(f"{target} can not be moved to {instance_id} now: {error}") from error
        raise
