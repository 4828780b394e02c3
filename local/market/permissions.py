"""What a caller must be allowed for one EC2 call: often several actions, each on several resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from local.market.account import Account
from local.market.errors import Ec2Refusal
from local.market.launches import fleet_options, specification_of, tags_for, with_template
from local.market.records import LaunchSpecification
from local.market.spot_market import SpotMarket
from local.market.wire import read_request

type Structure = Mapping[str, Any]


@dataclass(frozen=True)
class Permission:
    """One check of the caller's policies.

    Attributes:
        action: Such as `ec2:TerminateInstances`.
        resource: The ARN that the statement must cover.
        context: Condition keys of this resource and request.
    """

    action: str
    resource: str
    context: Mapping[str, Any] = field(default_factory=dict)


def required_permissions(action: str, parameters: Mapping[str, str], market: SpotMarket) -> list[Permission]:
    """List the checks that AWS makes for a call.

    Returns:
        One or more checks, all of which must pass; empty where ministack's own single check is right.
    """
    checks = _Checks(market)
    match action:
        case "RunInstances":
            return list(checks.run_instances(read_request(action, parameters)))
        case "CreateFleet":
            return list(checks.create_fleet(read_request(action, parameters)))
        case "TerminateInstances":
            request = read_request(action, parameters)
            return [checks.of_instance("ec2:TerminateInstances", each) for each in request.get("InstanceIds", [])]
        case "DeleteVolume":
            return [checks.of_volume("ec2:DeleteVolume", parameters.get("VolumeId", ""))]
        case "AssociateAddress" | "DisassociateAddress" | "ReleaseAddress":
            return list(checks.address_call(f"ec2:{action}", read_request(action, parameters)))
        case "AllocateAddress":
            return list(checks.allocate_address(read_request(action, parameters)))
        case "CreateTags" | "DeleteTags":
            return list(checks.tagging(f"ec2:{action}", read_request(action, parameters)))
        case _:
            return []


class _Checks:
    def __init__(self, market: SpotMarket) -> None:
        self._market = market
        self._account: Account = market.account

    def run_instances(self, request: Structure) -> Iterator[Permission]:
        try:
            merged, template = with_template(request, self._account)
            specification = specification_of(merged, self._account)
        except Ec2Refusal:
            yield Permission("ec2:RunInstances", self._arn("instance/*"))  # the call itself will say what is wrong
            return
        yield from self._launch(specification, template, "RunInstances")

    def create_fleet(self, request: Structure) -> Iterator[Permission]:
        tags = tags_for(request.get("TagSpecifications", []), "fleet")
        yield Permission("ec2:CreateFleet", self._arn("fleet/*"), _request_tags(tags))
        if tags:
            yield Permission(
                "ec2:CreateTags", self._arn("fleet/*"), {**_request_tags(tags), "ec2:createaction": "CreateFleet"}
            )
        try:
            options = fleet_options(request, self._account)
        except Ec2Refusal:
            return
        for template in {option.template["LaunchTemplateId"] for option in options}:
            yield self._of("ec2:CreateFleet", f"launch-template/{template}", template)
        for option in options:
            yield from self._launch(option.specification, option.template, "CreateFleet")

    def _launch(
        self, launched: LaunchSpecification, template: dict[str, str] | None, creator: str
    ) -> Iterator[Permission]:
        """An instant fleet launches with its caller's own right to RunInstances."""
        run = "ec2:RunInstances"
        tags = _request_tags(launched.tags)
        facts = {
            "ec2:instancetype": launched.instance_type,
            "ec2:availabilityzone": launched.availability_zone,
            "ec2:instancemarkettype": launched.lifecycle,
        }
        yield Permission(run, self._arn("instance/*"), {**tags, **facts})
        yield Permission(run, f"arn:aws:ec2:{self._account.region}::image/{launched.image_id}")
        yield self._of(run, f"subnet/{launched.subnet_id}", launched.subnet_id)
        yield Permission(run, self._arn("network-interface/*"))
        yield Permission(run, self._arn("volume/*"))
        for group in launched.security_group_ids:
            yield self._of(run, f"security-group/{group}", group)
        if template is not None:
            yield self._of(run, f"launch-template/{template['LaunchTemplateId']}", template["LaunchTemplateId"])
        if launched.tags:
            yield Permission("ec2:CreateTags", self._arn("instance/*"), {**tags, "ec2:createaction": creator})
        if launched.instance_profile is not None and launched.instance_profile["Role"]:
            yield Permission(
                "iam:PassRole",
                self._account.role_arn(launched.instance_profile["Role"]),
                {"iam:passedtoservice": "ec2.amazonaws.com"},
            )

    def of_instance(self, action: str, instance_id: str) -> Permission:
        return self._of(action, f"instance/{instance_id}", instance_id)

    def of_volume(self, action: str, volume_id: str) -> Permission:
        return self._of(action, f"volume/{volume_id}", volume_id)

    def address_call(self, action: str, request: Structure) -> Iterator[Permission]:
        allocation = request.get("AllocationId") or next(
            (
                address.allocation_id
                for address in list(self._market.addresses.values())
                if request.get("AssociationId", request.get("PublicIp", ""))
                in (address.association_id, address.public_address)
            ),
            "*",
        )
        yield self._of(action, f"elastic-ip/{allocation}", str(allocation))
        if request.get("InstanceId"):
            yield self.of_instance(action, str(request["InstanceId"]))

    def allocate_address(self, request: Structure) -> Iterator[Permission]:
        tags = tags_for(request.get("TagSpecifications", []), "elastic-ip")
        yield Permission("ec2:AllocateAddress", self._arn("elastic-ip/*"), _request_tags(tags))
        if tags:
            context = {**_request_tags(tags), "ec2:createaction": "AllocateAddress"}
            yield Permission("ec2:CreateTags", self._arn("elastic-ip/*"), context)

    def tagging(self, action: str, request: Structure) -> Iterator[Permission]:
        tags = _request_tags({str(tag["Key"]): str(tag.get("Value", "")) for tag in request.get("Tags", [])})
        for resource in request.get("Resources", []):
            kind = {"i": "instance", "eipalloc": "elastic-ip", "fleet": "fleet", "lt": "launch-template"}.get(
                str(resource).partition("-")[0], "*"
            )
            known = self._of(action, f"{kind}/{resource}", str(resource))
            yield Permission(known.action, known.resource, {**known.context, **tags})

    def _of(self, action: str, resource: str, resource_id: str) -> Permission:
        tags = self._account.tags(resource_id)
        context = {
            f"{prefix}:resourcetag/{key}".lower(): value for key, value in tags.items() for prefix in ("aws", "ec2")
        }
        return Permission(action, self._arn(resource), context)

    def _arn(self, resource: str) -> str:
        return f"arn:aws:ec2:{self._account.region}:{self._account.account_id}:{resource}"


def _request_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    context: dict[str, Any] = {f"aws:requesttag/{key}".lower(): value for key, value in tags.items()}
    if tags:
        context["aws:tagkeys"] = list(tags)
    return context
