"""EC2 as the local AWS serves it: instances, fleets, prices and addresses here; networks and templates in ministack."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from local.market.errors import Ec2Refusal
from local.market.filters import matching, page
from local.market.instance_types import INSTANCE_TYPES, instance_type
from local.market.launches import fleet_options, in_order_of_preference, specification_of, tags_for, with_template
from local.market.prices import PriceChange
from local.market.records import STATE_CODES, Address, Instance
from local.market.spot_market import SpotMarket
from local.market.wire import HttpAnswer, query_of, read_request, write_answer, write_refusal

_log = logging.getLogger(__name__)

type Structure = Mapping[str, Any]
type Handler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Awaitable[HttpAnswer]]


class Ec2Facade:
    """Stands where ministack's EC2 handler stood, and hands on to it what is not the market's."""

    def __init__(self, market: SpotMarket, loop: asyncio.AbstractEventLoop, otherwise: Handler) -> None:
        self._market = market
        self._loop = loop
        self._otherwise = otherwise
        self._remembered: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
        self._one_launch_at_a_time = asyncio.Lock()
        self._actions: dict[str, Callable[[Structure], Awaitable[Structure]]] = {
            "RunInstances": self._run_instances,
            "CreateFleet": self._create_fleet,
            "DescribeInstances": self._describe_instances,
            "DescribeInstanceStatus": self._describe_instance_status,
            "DescribeSpotInstanceRequests": self._describe_spot_instance_requests,
            "TerminateInstances": self._terminate_instances,
            "DescribeSpotPriceHistory": self._describe_spot_price_history,
            "DescribeInstanceTypes": self._describe_instance_types,
            "DescribeInstanceTypeOfferings": self._describe_instance_type_offerings,
            "GetSpotPlacementScores": self._get_spot_placement_scores,
            "AllocateAddress": self._allocate_address,
            "DescribeAddresses": self._describe_addresses,
            "AssociateAddress": self._associate_address,
            "DisassociateAddress": self._disassociate_address,
            "ReleaseAddress": self._release_address,
        }

    async def handle(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> HttpAnswer:
        """Answer one EC2 request, from HTTP or from a Step Functions integration. Runs on ministack's loop."""
        parameters = query_of(body, query)
        action = parameters.get("Action", "")
        try:
            if parameters.get("DryRun", "").lower() == "true":
                raise Ec2Refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", status=412)
            if action in ("CreateTags", "DeleteTags"):
                self._refuse_unknown_resources(parameters)
            if action not in self._actions:
                return await self._otherwise(method, path, headers, body, query)
            # The market lives on a loop of its own, so that nothing ministack does can delay a notice; the caller's
            # account and region travel along in the context.
            answer = asyncio.run_coroutine_threadsafe(self._act(action, parameters), self._loop)
            return await asyncio.wrap_future(answer)
        except Ec2Refusal as refusal:
            return write_refusal(refusal)

    async def _act(self, action: str, parameters: Mapping[str, str]) -> HttpAnswer:
        request = read_request(action, parameters)
        return write_answer(action, await self._once(action, request))

    async def _once(self, action: str, request: dict[str, Any]) -> Structure:
        """Act, or repeat the answer that the same client token got before."""
        token = request.get("ClientToken")
        if action not in ("RunInstances", "CreateFleet") or not token:
            return await self._actions[action](request)
        fingerprint = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()
        async with self._one_launch_at_a_time:
            known = self._remembered.get((action, token))
            if known is None:
                answer = dict(await self._actions[action](request))
                self._remembered[action, token] = (fingerprint, answer)
                return answer
        if known[0] != fingerprint:
            raise Ec2Refusal(
                "IdempotentParameterMismatch",
                f"Arguments on this idempotent request are inconsistent with those of the request before it ({token}).",
            )
        return known[1]

    def _refuse_unknown_resources(self, parameters: Mapping[str, str]) -> None:
        for name, value in parameters.items():
            if name.startswith("ResourceId."):
                if value.startswith("i-"):
                    self._market.find(value)
                elif value.startswith("eipalloc-"):
                    self._market.find_address(value)

    # Instances

    async def _run_instances(self, request: Structure) -> Structure:
        merged, template = with_template(request, self._market.account)
        count = int(request.get("MaxCount", 1))
        specification = replace(
            specification_of(merged, self._market.account),
            reservation_id=f"r-{secrets.token_hex(9)[:17]}",
            client_token=str(request.get("ClientToken", "")),
            launch_template=template,
        )
        launched: list[Instance] = []
        for _ in range(count):
            try:
                launched.append(await self._market.launch(specification))
            except Ec2Refusal:
                if len(launched) < int(request.get("MinCount", 1)):
                    for instance in launched:
                        self._market.terminate(instance)
                    raise
                break
        return self._reservation(launched)

    async def _create_fleet(self, request: Structure) -> Structure:
        if request.get("Type") != "instant":
            raise Ec2Refusal("InvalidParameterValue", "This market serves fleets of type instant only")
        wanted = int(request["TargetCapacitySpecification"]["TotalTargetCapacity"])
        options = in_order_of_preference(fleet_options(request, self._market.account), request, self._market.prices)
        fleet_id = f"fleet-{secrets.token_hex(4)}-{secrets.token_hex(2)}-{secrets.token_hex(2)}-{secrets.token_hex(6)}"
        fleet_tags = tags_for(request.get("TagSpecifications", []), "fleet")
        if fleet_tags:
            self._market.account.tag(fleet_id, fleet_tags)
        instances: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for option in options:
            where = {
                "LaunchTemplateSpecification": option.template,
                "Overrides": {**_override_answer(option.override), "InstanceType": option.specification.instance_type},
            }
            launched: list[str] = []
            while wanted > 0:
                try:
                    instance = await self._market.launch(
                        replace(
                            option.specification,
                            fleet_id=fleet_id,
                            reservation_id=f"r-{secrets.token_hex(9)[:17]}",
                            client_token=str(request.get("ClientToken", "")),
                            launch_template=option.template,
                            tags={**option.specification.tags, "aws:ec2:fleet-id": fleet_id},
                        )
                    )
                except Ec2Refusal as refusal:
                    errors.append(
                        {
                            "LaunchTemplateAndOverrides": where,
                            "Lifecycle": option.specification.lifecycle,
                            "ErrorCode": refusal.code,
                            "ErrorMessage": refusal.message,
                        }
                    )
                    break
                launched.append(instance.instance_id)
                wanted -= 1
            if launched:
                instances.append(
                    {
                        "LaunchTemplateAndOverrides": where,
                        "Lifecycle": option.specification.lifecycle,
                        "InstanceIds": launched,
                        "InstanceType": option.specification.instance_type,
                    }
                )
            if wanted == 0:
                break
        return {"FleetId": fleet_id, "Errors": errors, "Instances": instances}

    async def _describe_instances(self, request: Structure) -> Structure:
        chosen = self._chosen(request)
        shown, more = page(matching(chosen, request.get("Filters", []), self._readers(), self._tags), request)
        return {"Reservations": [self._reservation([instance]) for instance in shown], **more}

    async def _describe_instance_status(self, request: Structure) -> Structure:
        everything = bool(request.get("IncludeAllInstances"))
        readers = {
            "availability-zone": lambda instance: instance.availability_zone,
            "instance-state-name": lambda instance: instance.state,
            "instance-state-code": lambda instance: str(STATE_CODES[instance.state]),
        }
        chosen = [each for each in self._chosen(request) if everything or each.state == "running"]
        shown, more = page(matching(chosen, request.get("Filters", []), readers, self._tags), request)
        return {"InstanceStatuses": [_status_answer(instance) for instance in shown], **more}

    async def _describe_spot_instance_requests(self, request: Structure) -> Structure:
        readers: dict[str, Callable[[Instance], str | Sequence[str] | None]] = {
            "instance-id": lambda instance: instance.instance_id,
            "spot-instance-request-id": lambda instance: instance.spot_request_id,
            "status-code": _spot_status,
        }
        asked = request.get("SpotInstanceRequestIds")
        spot = [each for each in self._market.instances.values() if each.spot_request_id is not None]
        chosen = [each for each in spot if not asked or each.spot_request_id in asked]
        shown, more = page(matching(chosen, request.get("Filters", []), readers, self._tags), request)
        return {"SpotInstanceRequests": [_spot_request_answer(instance) for instance in shown], **more}

    async def _terminate_instances(self, request: Structure) -> Structure:
        found = [self._market.find(instance_id) for instance_id in request.get("InstanceIds", [])]
        answer = []
        for instance in found:
            before = _state_answer(instance.state)
            after = before if instance.state in ("terminated", "shutting-down") else _state_answer("shutting-down")
            self._market.terminate(instance)
            answer.append({"InstanceId": instance.instance_id, "PreviousState": before, "CurrentState": after})
        return {"TerminatingInstances": answer}

    def _chosen(self, request: Structure) -> list[Instance]:
        ids = request.get("InstanceIds")
        return [self._market.find(each) for each in ids] if ids else list(self._market.instances.values())

    def _tags(self, instance: Instance) -> Mapping[str, str]:
        return self._market.account.tags(instance.instance_id)

    def _readers(self) -> dict[str, Callable[[Instance], str | Sequence[str] | None]]:
        return {
            "availability-zone": lambda instance: instance.availability_zone,
            "client-token": lambda instance: instance.specification.client_token,
            "image-id": lambda instance: instance.specification.image_id,
            "instance-id": lambda instance: instance.instance_id,
            # As on AWS: an on-demand instance has no lifecycle at all.
            "instance-lifecycle": lambda instance: "spot" if instance.lifecycle == "spot" else None,
            "instance-state-code": lambda instance: str(STATE_CODES[instance.state]),
            "instance-state-name": lambda instance: instance.state,
            "instance-type": lambda instance: instance.instance_type,
            "instance.group-id": lambda instance: instance.specification.security_group_ids,
            "ip-address": lambda instance: self._market.public_address_of(instance, instance.private_address),
            "network-interface.addresses.private-ip-address": lambda instance: (
                instance.private_address,
                instance.secondary_private_address,
            ),
            "private-ip-address": lambda instance: instance.private_address,
            "reservation-id": lambda instance: instance.specification.reservation_id,
            "spot-instance-request-id": lambda instance: instance.spot_request_id,
            "subnet-id": lambda instance: instance.specification.subnet_id,
            "vpc-id": lambda instance: instance.specification.vpc_id,
        }

    def _reservation(self, instances: Sequence[Instance]) -> dict[str, Any]:
        return {
            "ReservationId": instances[0].specification.reservation_id if instances else "",
            "OwnerId": self._market.account.account_id,
            "Groups": [],
            "Instances": [self._instance_answer(instance) for instance in instances],
        }

    def _instance_answer(self, instance: Instance) -> dict[str, Any]:
        specification = instance.specification
        gone = instance.state == "terminated"
        public = self._market.public_address_of(instance, instance.private_address)
        groups = [
            {"GroupId": group, "GroupName": self._market.account.security_group_name(group)}
            for group in specification.security_group_ids
        ]
        ended = {"StateReason": {"Code": instance.reason_code, "Message": f"{instance.reason_code}: {instance.reason}"}}
        return {
            "InstanceId": instance.instance_id,
            "ImageId": specification.image_id,
            "State": _state_answer(instance.state),
            "StateTransitionReason": instance.reason if instance.reason_code else "",
            **(ended if instance.reason_code else {}),
            "InstanceType": instance.instance_type,
            "KeyName": specification.key_name,
            "LaunchTime": instance.launched_at,
            "AmiLaunchIndex": 0,
            "Architecture": instance_type(instance.instance_type).architecture,
            "ClientToken": specification.client_token,
            "Placement": {"AvailabilityZone": instance.availability_zone, "GroupName": "", "Tenancy": "default"},
            "Monitoring": {"State": "disabled"},
            "RootDeviceName": "/dev/xvda",
            "RootDeviceType": "ebs",
            "VirtualizationType": "hvm",
            "Hypervisor": "xen",
            "EbsOptimized": False,
            "EnaSupport": True,
            "BlockDeviceMappings": [],
            "SecurityGroups": groups,
            "IamInstanceProfile": {key: specification.instance_profile[key] for key in ("Arn", "Id")}
            if specification.instance_profile
            else None,
            "InstanceLifecycle": "spot" if instance.lifecycle == "spot" else None,
            "SpotInstanceRequestId": instance.spot_request_id,
            "Tags": _tag_answer(self._tags(instance)),
            **(
                {}
                if gone
                else {
                    "PrivateIpAddress": instance.private_address,
                    "PrivateDnsName": f"ip-{instance.private_address.replace('.', '-')}.ec2.internal",
                    "PublicIpAddress": public,
                    "SubnetId": specification.subnet_id,
                    "VpcId": specification.vpc_id,
                    "NetworkInterfaces": [self._interface_answer(instance, groups)],
                }
            ),
        }

    def _interface_answer(self, instance: Instance, groups: list[dict[str, str]]) -> dict[str, Any]:
        def association(private: str) -> dict[str, str] | None:
            public = self._market.public_address_of(instance, private)
            return {"PublicIp": public, "IpOwnerId": self._market.account.account_id} if public else None

        return {
            "NetworkInterfaceId": instance.interface_id,
            "MacAddress": instance.mac,
            "SubnetId": instance.specification.subnet_id,
            "VpcId": instance.specification.vpc_id,
            "OwnerId": self._market.account.account_id,
            "Status": "in-use",
            "SourceDestCheck": True,
            "Groups": groups,
            "Attachment": {
                "AttachmentId": f"eni-attach-{instance.interface_id[4:]}",
                "DeviceIndex": 0,
                "Status": "attached",
            },
            "PrivateIpAddress": instance.private_address,
            "PrivateIpAddresses": [
                {
                    "Primary": private == instance.private_address,
                    "PrivateIpAddress": private,
                    "Association": association(private),
                }
                for private in (instance.private_address, instance.secondary_private_address)
            ],
            "Association": association(instance.private_address),
        }

    # Prices, types, scores

    async def _describe_spot_price_history(self, request: Structure) -> Structure:
        now = datetime.now(UTC)
        asked = {
            str(each["Name"]): [str(value) for value in each.get("Values", [])] for each in request.get("Filters", [])
        }
        zones = [request["AvailabilityZone"]] if request.get("AvailabilityZone") else []
        changes = self._market.prices.history(
            types=request.get("InstanceTypes") or asked.pop("instance-type", []),
            zones=zones or asked.pop("availability-zone", []),
            # "Linux/UNIX (Amazon VPC)" is the same product in every VPC, so everywhere today.
            products=[
                str(each).removesuffix(" (Amazon VPC)")
                for each in request.get("ProductDescriptions") or asked.pop("product-description", [])
            ],
            start=request.get("StartTime") or now,
            end=request.get("EndTime") or now,
            now=now,
        )
        for name in asked:
            raise Ec2Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
        shown, more = page(changes, request)
        return {"SpotPriceHistory": [_price_answer(change) for change in shown], "NextToken": "", **more}

    async def _describe_instance_types(self, request: Structure) -> Structure:
        names = request.get("InstanceTypes") or sorted(INSTANCE_TYPES)
        readers: dict[str, Callable[[Any], str | Sequence[str] | None]] = {
            "instance-type": lambda each: each.name,
            "processor-info.supported-architecture": lambda each: each.architecture,
            "vcpu-info.default-vcpus": lambda each: str(each.vcpus),
            "memory-info.size-in-mib": lambda each: str(each.memory_mib),
            "current-generation": lambda _: "true",
            "supported-usage-class": lambda _: ("on-demand", "spot"),
            "bare-metal": lambda _: "false",
        }
        chosen = matching(
            [instance_type(str(name)) for name in names], request.get("Filters", []), readers, lambda _: {}
        )
        shown, more = page(chosen, request, largest=100)
        return {"InstanceTypes": [each.describe() for each in shown], **more}

    async def _describe_instance_type_offerings(self, request: Structure) -> Structure:
        kind = str(request.get("LocationType") or "region")
        account = self._market.account
        places = account.availability_zones() if kind == "availability-zone" else (account.region,)
        offerings = [
            {"InstanceType": name, "LocationType": kind, "Location": place}
            for place in places
            for name in sorted(INSTANCE_TYPES)
        ]
        readers: dict[str, Callable[[Any], str | Sequence[str] | None]] = {
            "instance-type": lambda each: each["InstanceType"],
            "location": lambda each: each["Location"],
        }
        shown, more = page(matching(offerings, request.get("Filters", []), readers, lambda _: {}), request)
        return {"InstanceTypeOfferings": list(shown), **more}

    async def _get_spot_placement_scores(self, request: Structure) -> Structure:
        account = self._market.account
        types = [str(each) for each in request.get("InstanceTypes", [])]
        regions = request.get("RegionNames") or [account.region]
        # AWS scores low whatever is too narrow to choose from.
        best = 9 if len(types) >= 3 else 3
        if not request.get("SingleAvailabilityZone"):
            return {"SpotPlacementScores": [{"Region": str(region), "Score": best} for region in regions]}
        zones = account.availability_zones() if account.region in regions else ()
        scores = [
            {
                "Region": account.region,
                "AvailabilityZoneId": f"use1-az{number}",
                "Score": max(1, best - int(hashlib.sha256(f"{zone} {sorted(types)}".encode()).hexdigest(), 16) % 3),
            }
            for number, zone in enumerate(zones, start=1)
        ]
        return {"SpotPlacementScores": sorted(scores, key=lambda each: -int(str(each["Score"])))}

    # Addresses

    async def _allocate_address(self, request: Structure) -> Structure:
        address = self._market.allocate_address()
        tags = tags_for(request.get("TagSpecifications", []), "elastic-ip")
        if tags:
            self._market.account.tag(address.allocation_id, tags)
        return {"AllocationId": address.allocation_id, "PublicIp": address.public_address, "Domain": "vpc"}

    async def _describe_addresses(self, request: Structure) -> Structure:
        ids, ips = request.get("AllocationIds"), request.get("PublicIps")
        chosen = [self._market.find_address(each) for each in ids] if ids else list(self._market.addresses.values())
        if ips:
            chosen = [address for address in chosen if address.public_address in ips]
        readers: dict[str, Callable[[Address], str | Sequence[str] | None]] = {
            "allocation-id": lambda address: address.allocation_id,
            "association-id": lambda address: address.association_id,
            "domain": lambda _: "vpc",
            "instance-id": lambda address: address.instance_id,
            "private-ip-address": lambda address: address.private_address,
            "public-ip": lambda address: address.public_address,
        }

        def tags_of(address: Address) -> Mapping[str, str]:
            return self._market.account.tags(address.allocation_id)

        found = matching(chosen, request.get("Filters", []), readers, tags_of)
        return {"Addresses": [self._address_answer(address) for address in found]}

    async def _associate_address(self, request: Structure) -> Structure:
        if request.get("AllocationId"):
            address = self._market.find_address(str(request["AllocationId"]))
        else:
            address = self._address_at(str(request.get("PublicIp", "")))
        instance = self._instance_of(request)
        private = str(request.get("PrivateIpAddress") or instance.private_address)
        association = await self._market.associate(
            address, instance, private, may_move=bool(request.get("AllowReassociation", True))
        )
        return {"AssociationId": association}

    async def _disassociate_address(self, request: Structure) -> Structure:
        association = request.get("AssociationId") or self._address_at(str(request.get("PublicIp", ""))).association_id
        await self._market.disassociate(str(association))
        return {}

    async def _release_address(self, request: Structure) -> Structure:
        await self._market.release(self._market.find_address(str(request.get("AllocationId", ""))))
        return {}

    def _address_at(self, public: str) -> Address:
        for address in self._market.addresses.values():
            if address.public_address == public:
                return address
        raise Ec2Refusal("InvalidAddress.NotFound", f"Address {public} not found.")

    def _instance_of(self, request: Structure) -> Instance:
        interface = request.get("NetworkInterfaceId")
        if not interface:
            return self._market.find(str(request.get("InstanceId", "")))
        for instance in self._market.instances.values():
            if instance.interface_id == interface:
                return instance
        raise Ec2Refusal("InvalidNetworkInterfaceID.NotFound", f"The networkInterface ID '{interface}' does not exist")

    def _address_answer(self, address: Address) -> dict[str, Any]:
        holder = self._market.instances.get(address.instance_id or "")
        return {
            "AllocationId": address.allocation_id,
            "PublicIp": address.public_address,
            "Domain": "vpc",
            "PublicIpv4Pool": "amazon",
            "NetworkBorderGroup": self._market.account.region,
            "AssociationId": address.association_id,
            "InstanceId": address.instance_id,
            "PrivateIpAddress": address.private_address,
            "NetworkInterfaceId": holder.interface_id if holder is not None else None,
            "NetworkInterfaceOwnerId": self._market.account.account_id if holder is not None else None,
            "Tags": _tag_answer(self._market.account.tags(address.allocation_id)),
        }


def _state_answer(state: str) -> dict[str, Any]:
    return {"Code": STATE_CODES[state], "Name": state}


def _status_answer(instance: Instance) -> dict[str, Any]:
    health = "ok" if instance.state == "running" else "not-applicable"
    details = [{"Name": "reachability", "Status": "passed" if health == "ok" else "insufficient-data"}]
    return {
        "InstanceId": instance.instance_id,
        "AvailabilityZone": instance.availability_zone,
        "InstanceState": _state_answer(instance.state),
        "InstanceStatus": {"Status": health, "Details": details},
        "SystemStatus": {"Status": health, "Details": details},
    }


def _spot_status(instance: Instance) -> str:
    """How AWS words it (docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html)."""
    if instance.state in ("shutting-down", "terminated"):
        by_us = instance.reason_code.startswith("Client.")
        return "instance-terminated-by-user" if by_us else "instance-terminated-no-capacity"
    if instance.notice is not None:
        return "marked-for-stop" if instance.notice["action"] == "stop" else "marked-for-termination"
    return "fulfilled"


def _spot_request_answer(instance: Instance) -> dict[str, Any]:
    return {
        "SpotInstanceRequestId": instance.spot_request_id,
        "InstanceId": instance.instance_id,
        "State": "active" if instance.is_alive else "closed",
        "Status": {"Code": _spot_status(instance), "Message": ""},
        "Type": "one-time",
        "CreateTime": instance.launched_at,
        "LaunchedAvailabilityZone": instance.availability_zone,
    }


def _tag_answer(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _price_answer(change: PriceChange) -> dict[str, Any]:
    return {
        "AvailabilityZone": change.availability_zone,
        "InstanceType": change.instance_type,
        "ProductDescription": change.product,
        "SpotPrice": str(change.usd_per_hour.quantize(Decimal("0.000001"))),
        "Timestamp": change.changed_at,
    }


def _override_answer(override: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in override.items()
        if key in ("SubnetId", "AvailabilityZone", "MaxPrice", "Priority", "WeightedCapacity")
    }
