"""What AWS says of the account that an agent lives in: networks, launch templates, quotas, what runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from spot_optimizer.adapters.allowances import TaggedResources
from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.agents import TrafficAdapter
from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.clients import OWNER_TAG
from spot_optimizer.domain.examination import (
    GroupFacts,
    QuotaName,
    Rule,
    SubnetFacts,
    TemplateFacts,
    quota_of,
)
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.errors import ControlPlaneUnavailable

if TYPE_CHECKING:
    from spot_optimizer.ports import Compute

PAGES_AT_MOST = 10
"""Of 1,000 instances each: of an account with more, the vCPUs in use are not counted."""


class Ec2Surroundings:
    """Implements `Surroundings`.

    Args:
        clients: SDK clients.
        compute: Tells what instance types offer.
    """

    def __init__(self, clients: Clients, compute: Compute) -> None:
        self._clients = clients
        self._compute = compute
        self._tagged = TaggedResources(clients)

    def subnets(self, subnet_ids: Sequence[str]) -> tuple[SubnetFacts, ...]:
        """Those that exist."""
        with _looking("EC2"):
            # As a filter, because one id that is unknown fails the whole call.
            answer = self._clients.ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": list(subnet_ids)}])
        return tuple(
            SubnetFacts(
                subnet_id=subnet["SubnetId"],
                zone=subnet["AvailabilityZone"],
                vpc_id=subnet["VpcId"],
                cidr=subnet["CidrBlock"],
                free_addresses=subnet["AvailableIpAddressCount"],
                owner=_owner(subnet.get("Tags", [])),
            )
            for subnet in answer["Subnets"]
        )

    def template(self, launch_template_id: str) -> TemplateFacts | None:
        """Its default version; None if it does not exist."""
        ec2 = self._clients.ec2
        with _looking("EC2"):
            try:
                templates = ec2.describe_launch_templates(LaunchTemplateIds=[launch_template_id])["LaunchTemplates"]
                versions = ec2.describe_launch_template_versions(
                    LaunchTemplateId=launch_template_id, Versions=["$Default"]
                )["LaunchTemplateVersions"]
            except ClientError as error:
                if error_code(error).startswith("InvalidLaunchTemplateId"):
                    return None
                raise
        if not templates or not versions:
            return None
        data: Mapping[str, Any] = versions[0]["LaunchTemplateData"]
        profile = data.get("IamInstanceProfile", {})
        interfaces: list[Mapping[str, Any]] = data.get("NetworkInterfaces", [])
        groups = data.get("SecurityGroupIds") or [group for one in interfaces for group in one.get("Groups", [])]
        return TemplateFacts(
            owner=_owner(templates[0].get("Tags", [])),
            image_id=data.get("ImageId"),
            instance_profile=profile.get("Arn") or profile.get("Name"),
            security_group_ids=tuple(groups),
            spot_max_price=data.get("InstanceMarketOptions", {}).get("SpotOptions", {}).get("MaxPrice"),
            has_user_data=bool(data.get("UserData")),
        )

    def groups(self, group_ids: Sequence[str], *, vpc_id: str | None) -> tuple[GroupFacts, ...]:
        """These groups; of none, the VPC's default group."""
        wanted: list[Any] = [{"Name": "group-id", "Values": list(group_ids)}]
        if not group_ids:
            wanted = [{"Name": "group-name", "Values": ["default"]}, {"Name": "vpc-id", "Values": [str(vpc_id)]}]
        with _looking("EC2"):
            answer = self._clients.ec2.describe_security_groups(Filters=wanted)
        return tuple(
            GroupFacts(
                group_id=group["GroupId"],
                ingress=tuple(map(_rule, group.get("IpPermissions", []))),
                egress=tuple(map(_rule, group.get("IpPermissionsEgress", []))),
            )
            for group in answer["SecurityGroups"]
        )

    def groups_of(self, instance_id: str) -> tuple[str, ...]:
        """Groups that an instance is in; none if EC2 does not know it."""
        with _looking("EC2"):
            answer = self._clients.ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": [instance_id]}])
        return tuple(
            group["GroupId"]
            for reservation in answer["Reservations"]
            for instance in reservation["Instances"]
            for group in instance.get("SecurityGroups", [])
        )

    def path_owner(self, adapter: TrafficAdapter, target: str) -> str | None:
        """Whom a traffic path's target is tagged for; None if for nobody, or if it is gone."""
        with _looking("AWS"):
            return self._tagged.owner_of_target(adapter, target)

    def kinds(self, instance_types: Sequence[str]) -> Mapping[str, InstanceKind]:
        """What instance types offer."""
        with _looking("EC2"):
            return self._compute.kinds(instance_types)

    def vcpus_running(self) -> Mapping[tuple[QuotaName, Lifecycle], int] | None:
        """Count the vCPUs of running instances, by the quota they count against; None if they are too many to count."""
        running: Counter[tuple[str, Lifecycle]] = Counter()
        with _looking("EC2"):
            pages = self._clients.ec2.get_paginator("describe_instances").paginate(
                Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}],
                PaginationConfig={"PageSize": 1000},
            )
            for number, page in enumerate(islice(pages, PAGES_AT_MOST + 1)):
                if number == PAGES_AT_MOST:
                    return None
                for reservation in page["Reservations"]:
                    for instance in reservation["Instances"]:
                        on_spot = instance.get("InstanceLifecycle") == "spot"
                        running[instance["InstanceType"], Lifecycle.SPOT if on_spot else Lifecycle.ON_DEMAND] += 1
        kinds = self.kinds(sorted({instance_type for instance_type, _ in running}))
        vcpus: Counter[tuple[QuotaName, Lifecycle]] = Counter()
        for (instance_type, lifecycle), count in running.items():
            quota = quota_of(instance_type, lifecycle)
            if quota is not None and instance_type in kinds:
                vcpus[quota, lifecycle] += count * kinds[instance_type].vcpus
        return vcpus

    def quota(self, quota: QuotaName) -> Decimal | None:
        """Its value; None if it can not be asked."""
        try:
            with _looking("Service Quotas"):
                answer = self._clients.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=quota.code)
        except ControlPlaneUnavailable:
            return None
        return Decimal(str(answer["Quota"]["Value"])).normalize()


@contextmanager
def _looking(service: str) -> Iterator[None]:
    """Whatever keeps us from looking is a finding, not a crash.

    Raises:
        Throttled, ControlPlaneUnavailable: It could not be looked at.
    """
    try:
        with service_failures(service):
            yield
    except ClientError as error:
        raise ControlPlaneUnavailable(f"{service} refused to tell: {error}") from error


def _owner(tags: Sequence[Any]) -> str | None:
    return next((tag["Value"] for tag in tags if tag.get("Key") == OWNER_TAG), None)


def _rule(permission: Any) -> Rule:
    networks = [network["CidrIp"] for network in permission.get("IpRanges", [])]
    networks += [network["CidrIpv6"] for network in permission.get("Ipv6Ranges", [])]
    return Rule(
        protocol=permission["IpProtocol"],
        from_port=permission.get("FromPort"),
        to_port=permission.get("ToPort"),
        cidrs=tuple(networks),
        group_ids=tuple(pair["GroupId"] for pair in permission.get("UserIdGroupPairs", []) if "GroupId" in pair),
    )
