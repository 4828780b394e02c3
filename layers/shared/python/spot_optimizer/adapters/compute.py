"""EC2."""

from __future__ import annotations

import base64
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import batched
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import THROTTLING_CODES, UNAVAILABLE_CODES, Clients, error_code, service_failures
from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.pools import LaunchTarget, Lifecycle, Pool
from spot_optimizer.errors import (
    AddressNotMovable,
    ControlPlaneUnavailable,
    LaunchRefused,
    PoolUnavailable,
    SpotOptimizerError,
    Throttled,
)
from spot_optimizer.ports import Launched

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

log = logging.getLogger(__name__)

_SERVICE = "EC2"
PRODUCT = "Linux/UNIX"
"""Prices differ by product; without this filter they are wrong."""

FILTER_VALUES = 200
"""So many values a filter takes [Using_Filtering of the EC2 user guide]."""

POOL_CODES = frozenset(
    {
        "InstanceLimitExceeded",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
        "InsufficientHostCapacity",
        "InsufficientInstanceCapacity",
        "InsufficientReservedInstanceCapacity",
        "InvalidSubnetID.NotFound",
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        "Unsupported",
        "VcpuLimitExceeded",
    }
)
"""No capacity, no quota or no such offer in this pool; the next pool may have."""

NOT_OURS_TO_END: Mapping[str, str] = {
    "OperationNotPermitted": "it is protected from termination",
    "UnauthorizedOperation": "we did not launch it",
}

NOT_MOVABLE_CODES = frozenset(
    {
        "IncorrectInstanceState",
        "IncorrectState",
        "InvalidInstanceID",
        "InvalidInstanceID.NotFound",
        "InvalidNetworkInterfaceID.NotFound",
    }
)


class Ec2Compute:
    """Implements `Compute`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def states(self, instance_ids: Sequence[str]) -> Mapping[str, str]:
        """State names by id; an instance that EC2 does not know is absent.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: EC2 did not answer.
        """
        return {instance["InstanceId"]: instance["State"]["Name"] for instance in self._instances(instance_ids)}

    def subnets(self, subnet_ids: Sequence[str]) -> Mapping[str, str]:
        """Subnet id by availability zone; of several in one zone, the first that was asked for."""
        if not subnet_ids:
            return {}
        with service_failures(_SERVICE):
            answer = self._clients.ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": list(subnet_ids)}])
        rank = {subnet_id: place for place, subnet_id in enumerate(subnet_ids)}
        known = sorted(answer["Subnets"], key=lambda subnet: rank[subnet["SubnetId"]], reverse=True)
        return {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in known}

    def prices(self, zones: Collection[str], instance_types: Sequence[str]) -> Mapping[str, Decimal]:
        """Spot price in force, USD/hour, by pool id; pools without one are absent. Raises as `states`."""
        if not zones or not instance_types:
            return {}
        latest: dict[str, tuple[datetime, Decimal]] = {}
        with service_failures(_SERVICE):
            # Asked from now on, EC2 answers with the last change before: the price in force. As a filter, because a
            # type that is unknown by name, as a tenant may have given it, could fail the whole call.
            pages = self._clients.ec2.get_paginator("describe_spot_price_history").paginate(
                StartTime=datetime.now(UTC),
                ProductDescriptions=[PRODUCT],
                Filters=[
                    {"Name": "availability-zone", "Values": sorted(zones)},
                    {"Name": "instance-type", "Values": sorted(set(instance_types))},
                ],
            )
            for page in pages:
                for price in page["SpotPriceHistory"]:
                    pool_id = Pool(price["AvailabilityZone"], price["InstanceType"]).pool_id
                    found = (price["Timestamp"], Decimal(price["SpotPrice"]))
                    if pool_id not in latest or latest[pool_id][0] < found[0]:
                        latest[pool_id] = found
        return {pool_id: usd_per_hour for pool_id, (_, usd_per_hour) in latest.items()}

    def kinds(self, instance_types: Sequence[str]) -> Mapping[str, InstanceKind]:
        """What instance types offer, by name; types that EC2 does not know are absent. Raises as `states`."""
        if not instance_types:
            return {}
        with service_failures(_SERVICE):
            # As a filter, because a type that is unknown by name fails the whole call.
            pages = self._clients.ec2.get_paginator("describe_instance_types").paginate(
                Filters=[{"Name": "instance-type", "Values": sorted(set(instance_types))}]
            )
            found = [kind for page in pages for kind in page["InstanceTypes"]]
        return {
            kind["InstanceType"]: InstanceKind(
                instance_type=kind["InstanceType"],
                architectures=tuple(kind["ProcessorInfo"]["SupportedArchitectures"]),
                vcpus=kind["VCpuInfo"]["DefaultVCpus"],
                memory_mebibytes=kind["MemoryInfo"]["SizeInMiB"],
            )
            for kind in found
        }

    def launch(
        self,
        target: LaunchTarget,
        *,
        launch_template_id: str,
        client_token: str,
        user_data: str,
        tags: Mapping[str, str],
    ) -> Launched:
        """Launch one instance by CreateFleet of type instant; the same client token gives the same instance.

        No maximum price is set: it would only make interruptions more frequent.

        Raises:
            PoolUnavailable: No capacity or no quota in this pool.
            LaunchRefused: No pool will do, for example a permission is missing.
            Throttled: Try again with the same client token.
        """
        named_tags = [{"Key": key, "Value": value} for key, value in tags.items()]
        spot: dict[str, Any] = {}
        if target.lifecycle is Lifecycle.SPOT:
            spot = {
                "SpotOptions": {
                    "AllocationStrategy": "price-capacity-optimized",
                    "InstanceInterruptionBehavior": "terminate",
                }
            }
        try:
            with service_failures(_SERVICE):
                answer = self._clients.ec2.create_fleet(
                    Type="instant",
                    ClientToken=client_token,
                    TargetCapacitySpecification={
                        "TotalTargetCapacity": 1,
                        "DefaultTargetCapacityType": cast("Any", target.lifecycle.value),
                    },
                    LaunchTemplateConfigs=[
                        {
                            "LaunchTemplateSpecification": {
                                "LaunchTemplateId": launch_template_id,
                                "Version": "$Default",
                                "LaunchTemplateSpecificationUserData": base64.b64encode(user_data.encode()).decode(),
                            },
                            "Overrides": [
                                {
                                    "InstanceType": cast("Any", target.pool.instance_type),
                                    "SubnetId": target.subnet_id,
                                }
                            ],
                        }
                    ],
                    # Its volumes as well: one that outlives it can be found by that.
                    TagSpecifications=[
                        {"ResourceType": kind, "Tags": cast("Any", named_tags)} for kind in ("instance", "volume")
                    ],
                    **spot,
                )
        except ControlPlaneUnavailable as error:
            raise Throttled(f"CreateFleet gave no answer for {client_token}; ask again with the same token") from error
        except ClientError as error:
            raise _launch_failure(target, error_code(error), str(error)) from error
        launched = [
            instance_id for fleet in answer.get("Instances", []) for instance_id in fleet.get("InstanceIds", [])
        ]
        if launched:
            return Launched(launched[0])
        # The call can succeed without an instance; then the errors say why.
        failures = [
            _launch_failure(target, failure.get("ErrorCode", ""), failure.get("ErrorMessage", ""))
            for failure in answer.get("Errors", [])
        ]
        if not failures:
            raise PoolUnavailable(f"CreateFleet launched nothing in {target.pool.pool_id} and did not say why")
        raise min(failures, key=lambda failure: _MILDEST_FIRST.index(type(failure)))

    def terminate(self, instance_id: str) -> bool:
        """Terminate an instance; terminating it again is no error. Our role allows it for what we launched, by tag.

        Returns:
            False where that is refused: an instance which we did not launch, such as an agent's first, or one that its
            launch template protects from termination.
        """
        with service_failures(_SERVICE):
            try:
                self._clients.ec2.terminate_instances(InstanceIds=[instance_id])
            except ClientError as error:
                code = error_code(error)
                if code in NOT_OURS_TO_END:
                    log.warning("%s is left running: %s", instance_id, NOT_OURS_TO_END[code])
                    return False
                if code != "InvalidInstanceID.NotFound":
                    raise
        return True

    def move_address(self, allocation_id: str, instance_id: str) -> None:
        """Associate an Elastic IP with the instance's secondary private address (its only one, if it has no second).

        One idempotent call, which works across zones and takes the address away from wherever it was; then EC2 is asked
        where the address is.

        Raises:
            AddressNotMovable: The instance is pending, EC2 throttles, or calls another instance the address's holder:
                its answer is late, or another mover came after this one.
        """
        try:
            with service_failures(_SERVICE):
                instance = next(iter(self._instances([instance_id])), None)
                if instance is None or instance["State"]["Name"] != "running":
                    state = instance["State"]["Name"] if instance else "unknown to EC2"
                    raise AddressNotMovable(f"{instance_id} is {state}; expected 'running'; try again")
                interface_id, address = _service_address(instance)
                self._clients.ec2.associate_address(
                    AllocationId=allocation_id,
                    NetworkInterfaceId=interface_id,
                    PrivateIpAddress=address,
                    AllowReassociation=True,
                )
                holder = self._holder(allocation_id)
                if holder not in (None, instance_id):
                    raise AddressNotMovable(f"{allocation_id} was moved to {instance_id}; {holder} holds it; try again")
        except (Throttled, ControlPlaneUnavailable) as error:
            raise AddressNotMovable(f"{allocation_id} can not be moved now: {error}") from error
        except ClientError as error:
            if error_code(error) in NOT_MOVABLE_CODES:
                raise AddressNotMovable(f"{allocation_id} can not be moved to {instance_id} now: {error}") from error
            raise

    def address_holders(self, allocation_ids: Collection[str]) -> Mapping[str, str]:
        """Instance id by allocation id of Elastic IPs; those that are associated with none, or unknown, are absent.

        Raises as `states`.
        """
        holders: dict[str, str] = {}
        with service_failures(_SERVICE):
            for chunk in batched(sorted(allocation_ids), FILTER_VALUES, strict=False):
                # As a filter, because an address that is unknown by id fails the whole call.
                answer = self._clients.ec2.describe_addresses(
                    Filters=[{"Name": "allocation-id", "Values": list(chunk)}]
                )
                holders |= {
                    address["AllocationId"]: address["InstanceId"]
                    for address in answer["Addresses"]
                    if address.get("InstanceId")
                }
        return holders

    def _holder(self, allocation_id: str) -> str | None:
        """Who holds an address; None if nobody is named, also where EC2 does not answer: it has taken the move."""
        with suppress(Throttled, ControlPlaneUnavailable):
            return self.address_holders([allocation_id]).get(allocation_id)
        return None

    def _instances(self, instance_ids: Sequence[str]) -> list[InstanceTypeDef]:
        found: list[InstanceTypeDef] = []
        with service_failures(_SERVICE):
            for chunk in batched(instance_ids, FILTER_VALUES, strict=False):
                # A filter, unlike a list of ids, leaves out what EC2 does not know instead of failing.
                pages = self._clients.ec2.get_paginator("describe_instances").paginate(
                    Filters=[{"Name": "instance-id", "Values": list(chunk)}]
                )
                for page in pages:
                    for reservation in page["Reservations"]:
                        found += reservation["Instances"]
        return found


def instances_at(clients: Clients, addresses: Collection[str], *, private: bool) -> Mapping[str, str]:
    """The running instance at each address, by address; one that none has, or several in networks of their own, is
    absent.
    """
    name, kind = ("PrivateIpAddress", "private-ip-address") if private else ("PublicIpAddress", "ip-address")
    found: dict[str, list[str]] = {}
    for chunk in batched(sorted(set(addresses)), FILTER_VALUES, strict=False):
        pages = clients.ec2.get_paginator("describe_instances").paginate(
            Filters=[
                {"Name": kind, "Values": list(chunk)},
                {"Name": "instance-state-name", "Values": ["running"]},
            ]
        )
        for page in pages:
            for reservation in page["Reservations"]:
                for instance in reservation["Instances"]:
                    found.setdefault(str(instance.get(name)), []).append(instance["InstanceId"])
    return {address: ids[0] for address, ids in found.items() if len(ids) == 1}


_MILDEST_FIRST = (Throttled, PoolUnavailable, LaunchRefused)


def _launch_failure(target: LaunchTarget, code: str, message: str) -> SpotOptimizerError:
    where = f"{target.pool.pool_id} ({target.lifecycle})"
    if code in THROTTLING_CODES or code in UNAVAILABLE_CODES:
        return Throttled(f"EC2 asks to slow down ({code}); ask again with the same client token")
    if code in POOL_CODES:
        return PoolUnavailable(f"{where} can not be had: {code}: {message}")
    return LaunchRefused(f"EC2 refused to launch in {where}: {code}: {message}; no other pool will change that")


def _service_address(instance: InstanceTypeDef) -> tuple[str, str]:
    """The primary interface and the address on it that clients' traffic goes to.

    Control and sync traffic stays on the primary private address, which keeps its own way out.
    """
    interface = min(instance["NetworkInterfaces"], key=lambda one: one["Attachment"].get("DeviceIndex", 0))
    addresses = interface["PrivateIpAddresses"]
    secondary = [one["PrivateIpAddress"] for one in addresses if not one.get("Primary", False)]
    primary = [one["PrivateIpAddress"] for one in addresses if one.get("Primary", False)]
    return interface["NetworkInterfaceId"], (secondary or primary)[0]
