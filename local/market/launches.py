"""From a request to launch specifications: templates, overrides, defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from local.market.account import Account
from local.market.errors import Ec2Refusal
from local.market.instance_types import instance_type
from local.market.prices import SpotPrices
from local.market.records import LaunchSpecification

type Structure = Mapping[str, Any]


@dataclass(frozen=True)
class FleetOption:
    """One pool that a fleet may launch in, in the words of the request."""

    specification: LaunchSpecification
    template: dict[str, str]
    override: dict[str, Any]
    priority: float


def tags_for(specifications: Iterable[Structure], resource_type: str) -> dict[str, str]:
    """The tags of one resource type in a request's TagSpecifications."""
    return {
        str(tag["Key"]): str(tag.get("Value", ""))
        for specification in specifications
        if specification.get("ResourceType") == resource_type
        for tag in specification.get("Tags", [])
    }


def specification_of(data: Structure, account: Account, *, lifecycle: str | None = None) -> LaunchSpecification:
    """Complete RunInstances parameters (or launch template data) with EC2's defaults.

    Args:
        data: RunInstances parameters, or launch template data with a fleet's overrides laid over it.
        account: Where subnets, groups and profiles are looked up.
        lifecycle: What a fleet decided; None leaves it to InstanceMarketOptions.

    Raises:
        Ec2Refusal: Something that it names does not exist, or it names no image.
    """
    if not data.get("ImageId"):
        raise Ec2Refusal("MissingParameter", "The request must contain the parameter ImageId")
    interface: Structure = next(
        (each for each in data.get("NetworkInterfaces", []) if int(each.get("DeviceIndex", 0)) == 0), {}
    )
    subnet_id = data.get("SubnetId") or interface.get("SubnetId")
    zone = (data.get("Placement") or {}).get("AvailabilityZone")
    subnet = account.subnet(str(subnet_id)) if subnet_id else account.default_subnet(zone)
    groups = tuple(data.get("SecurityGroupIds") or interface.get("Groups") or ())
    for group in groups:
        account.security_group_name(group)
    market = data.get("InstanceMarketOptions") or {}
    spot = market.get("SpotOptions") or {}
    public = interface.get("AssociatePublicIpAddress")
    profile = data.get("IamInstanceProfile")
    return LaunchSpecification(
        image_id=str(data["ImageId"]),
        instance_type=str(data.get("InstanceType") or "m5.large"),
        availability_zone=str(subnet["AvailabilityZone"]),
        subnet_id=str(subnet["SubnetId"]),
        vpc_id=str(subnet["VpcId"]),
        lifecycle=lifecycle or ("spot" if market.get("MarketType") == "spot" else "on-demand"),
        security_group_ids=groups or (account.default_security_group(str(subnet["VpcId"])),),
        user_data=str(data.get("UserData") or ""),
        instance_profile=account.instance_profile(dict(profile)) if profile else None,
        key_name=data.get("KeyName"),
        public_address=_is_true(public) if public is not None else _is_true(subnet.get("MapPublicIpOnLaunch", False)),
        tags=tags_for(data.get("TagSpecifications", []), "instance"),
        max_price=Decimal(str(spot["MaxPrice"])) if spot.get("MaxPrice") else None,
    )


def _is_true(value: object) -> bool:
    """CloudFormation leaves booleans of a launch template as strings."""
    return str(value).lower() == "true"


def with_template(request: Structure, account: Account) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Lay a RunInstances request over the launch template that it names."""
    reference = request.get("LaunchTemplate")
    if not reference:
        return dict(request), None
    data, resolved = account.launch_template(reference)
    tags = [*data.get("TagSpecifications", []), *request.get("TagSpecifications", [])]
    return {**data, **request, "TagSpecifications": tags}, resolved


def fleet_options(request: Structure, account: Account) -> list[FleetOption]:
    """Every (template, override) pair of a CreateFleet request, in the order written.

    Raises:
        Ec2Refusal: A template, subnet or group does not exist.
    """
    lifecycle = str(request.get("TargetCapacitySpecification", {}).get("DefaultTargetCapacityType") or "on-demand")
    options: list[FleetOption] = []
    for config in request.get("LaunchTemplateConfigs", []):
        reference = config.get("LaunchTemplateSpecification") or {}
        data, resolved = account.launch_template(reference)
        user_data = reference.get("LaunchTemplateSpecificationUserData")
        if user_data:
            data["UserData"] = user_data
        for override in config.get("Overrides") or [{}]:
            laid_over = {
                **data,
                **{
                    key: override[key]
                    for key in ("InstanceType", "SubnetId", "Placement", "ImageId")
                    if key in override
                },
            }
            if "AvailabilityZone" in override:
                laid_over["Placement"] = {"AvailabilityZone": override["AvailabilityZone"]}
            tags = [*data.get("TagSpecifications", []), *request.get("TagSpecifications", [])]
            specification = specification_of({**laid_over, "TagSpecifications": tags}, account, lifecycle=lifecycle)
            if override.get("MaxPrice"):
                specification = _with_max_price(specification, str(override["MaxPrice"]))
            options.append(
                FleetOption(specification, resolved, dict(override), float(override.get("Priority", len(options))))
            )
    if not options:
        raise Ec2Refusal("InvalidParameterValue", "A fleet needs at least one launch template configuration")
    return options


def _with_max_price(specification: LaunchSpecification, usd: str) -> LaunchSpecification:
    return LaunchSpecification(**{**specification.__dict__, "max_price": Decimal(usd)})


def in_order_of_preference(options: Sequence[FleetOption], request: Structure, prices: SpotPrices) -> list[FleetOption]:
    """Order a fleet's options as its allocation strategy says.

    Capacity is known only once it is asked for, so the capacity-optimized strategies keep the order written or,
    prioritized, the priorities; the price strategies take the cheapest first.
    """
    lifecycle = options[0].specification.lifecycle
    chosen = request.get("SpotOptions" if lifecycle == "spot" else "OnDemandOptions", {}).get("AllocationStrategy")
    strategy = str(chosen or ("lowest-price"))
    if strategy in ("prioritized", "capacity-optimized-prioritized", "capacityOptimizedPrioritized"):
        return sorted(options, key=lambda option: option.priority)
    if strategy in ("capacity-optimized", "capacityOptimized", "diversified"):
        return list(options)
    now = datetime.now(UTC)

    def usd(option: FleetOption) -> Decimal:
        pool = option.specification
        if lifecycle == "spot":
            return prices.current(pool.availability_zone, pool.instance_type, now=now)
        return instance_type(pool.instance_type).usd_per_hour

    return sorted(options, key=usd)
