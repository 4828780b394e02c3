"""What carries our tag on EC2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import (
    THROTTLING_CODES,
    UNAVAILABLE_CODES,
    Clients,
    error_code,
    service_failures,
)
from spot_optimizer.domain.orphans import Kind, Resource
from spot_optimizer.domain.replicas import AGENT_TAG, REPLICA_TAG
from spot_optimizer.errors import ControlPlaneUnavailable

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, TagTypeDef

_SERVICE = "EC2"
LIVE_STATES = ("pending", "running", "stopping", "stopped")
MARKED_CODES = ("marked-for-stop", "marked-for-termination")
GONE_CODES = frozenset(
    {
        "InvalidAllocationID.NotFound",
        "InvalidInstanceID.NotFound",
        "InvalidVolume.NotFound",
        "VolumeInUse",
    }
)
"""It is gone, or was attached in this very moment, and then it is somebody's."""

_OURS: FilterTypeDef = {"Name": "tag-key", "Values": [AGENT_TAG]}


class Ec2Inventory:
    """Implements `Inventory`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def ours(self) -> tuple[Resource, ...]:
        """Instances that have not ended, volumes and addresses that are attached to nothing.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: EC2 did not answer.
        """
        with service_failures(_SERVICE):
            return (*self._instances(), *self._volumes(), *self._addresses())

    def is_taken_back(self, instance_id: str) -> bool:
        """Whether AWS has given notice: then the spot request is marked (docs.aws.amazon.com/AWSEC2/latest/UserGuide/
        spot-request-status.html). Raises as `ours`.
        """
        with service_failures(_SERVICE):
            answer = self._clients.ec2.describe_spot_instance_requests(
                Filters=[{"Name": "instance-id", "Values": [instance_id]}]
            )
        return any(request.get("Status", {}).get("Code") in MARKED_CODES for request in answer["SpotInstanceRequests"])

    def end(self, resource: Resource) -> None:
        """Terminate, delete or release it; what is gone already is no error.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: EC2 did not answer, or refuses: the resource may be protected by its owner.
        """
        ec2, resource_id = self._clients.ec2, resource.resource_id
        with service_failures(_SERVICE):
            try:
                match resource.kind:
                    case Kind.INSTANCE:
                        ec2.terminate_instances(InstanceIds=[resource_id])
                    case Kind.VOLUME:
                        ec2.delete_volume(VolumeId=resource_id)
                    case Kind.ADDRESS:
                        ec2.release_address(AllocationId=resource_id)
            except ClientError as error:
                code = error_code(error)
                if code in THROTTLING_CODES or code in UNAVAILABLE_CODES:
                    raise
                if code not in GONE_CODES:
                    # It must not keep the sweep from the others.
                    raise ControlPlaneUnavailable(f"EC2 refuses to end {resource_id}: {error}") from error

    def _instances(self) -> Iterator[Resource]:
        pages = self._clients.ec2.get_paginator("describe_instances").paginate(
            Filters=[_OURS, {"Name": "instance-state-name", "Values": list(LIVE_STATES)}]
        )
        for page in pages:
            for reservation in page["Reservations"]:
                for instance in reservation["Instances"]:
                    yield _resource(instance["InstanceId"], Kind.INSTANCE, instance.get("Tags", []))

    def _volumes(self) -> Iterator[Resource]:
        pages = self._clients.ec2.get_paginator("describe_volumes").paginate(
            Filters=[_OURS, {"Name": "status", "Values": ["available"]}]
        )
        for page in pages:
            for volume in page["Volumes"]:
                yield _resource(volume["VolumeId"], Kind.VOLUME, volume.get("Tags", []))

    def _addresses(self) -> Iterator[Resource]:
        # This one call has no pages: an account has few addresses.
        for address in self._clients.ec2.describe_addresses(Filters=[_OURS])["Addresses"]:
            if not address.get("AssociationId"):
                yield _resource(address["AllocationId"], Kind.ADDRESS, address.get("Tags", []))


def _resource(resource_id: str, kind: Kind, tags: Sequence[TagTypeDef]) -> Resource:
    named: Mapping[str, str] = {tag["Key"]: tag["Value"] for tag in tags}
    return Resource(
        resource_id=resource_id,
        kind=kind,
        agent_id=named[AGENT_TAG],
        replica_id=named.get(REPLICA_TAG),
    )
