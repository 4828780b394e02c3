"""What the market needs from the rest of the emulated account, which ministack keeps."""
# ruff: noqa: SLF001 - the emulator's stores have no other door; the version is pinned exactly

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import ec2, eventbridge, iam, sts

from local.market.errors import Ec2Refusal

_WIDEST_FORWARDED_RANGE = 64


class Account:
    """One account in one region, seen from its instances."""

    def __init__(self, account_id: str, region: str) -> None:
        self.account_id = account_id
        self.region = region
        with self.scope():
            ec2._ensure_defaults_initialized()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Let ministack's stores, which are keyed by the request's account and region, answer for this account."""
        with request_scope(self.account_id, self.region):
            yield

    def availability_zones(self) -> tuple[str, ...]:
        """The zones that have a default subnet."""
        with self.scope():
            return tuple(
                sorted({subnet["AvailabilityZone"] for subnet in ec2._subnets.values() if subnet["DefaultForAz"]})
            )

    def subnet(self, subnet_id: str) -> Mapping[str, Any]:
        """Look a subnet up.

        Raises:
            Ec2Refusal: InvalidSubnetID.NotFound.
        """
        with self.scope():
            found: Mapping[str, Any] | None = ec2._subnets.get(subnet_id)
        if found is None:
            raise Ec2Refusal("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")
        return found

    def default_subnet(self, availability_zone: str | None) -> Mapping[str, Any]:
        """The default VPC's subnet in a zone; in the first zone when none is asked for."""
        wanted = availability_zone or self.availability_zones()[0]
        with self.scope():
            for subnet in ec2._subnets.values():
                if subnet["DefaultForAz"] and subnet["AvailabilityZone"] == wanted:
                    found: Mapping[str, Any] = subnet
                    return found
        raise Ec2Refusal(
            "InvalidParameterValue", f"Value ({wanted}) for parameter availabilityZone is invalid. Subnet not found."
        )

    def default_security_group(self, vpc_id: str) -> str:
        """The group of an instance that names none."""
        with self.scope():
            for group in ec2._security_groups.values():
                if group["VpcId"] == vpc_id and group["GroupName"] == "default":
                    return str(group["GroupId"])
        raise Ec2Refusal("InvalidGroup.NotFound", f"The VPC '{vpc_id}' has no default security group")

    def security_group_name(self, group_id: str) -> str:
        """Name a group.

        Raises:
            Ec2Refusal: InvalidGroup.NotFound.
        """
        with self.scope():
            group = ec2._security_groups.get(group_id)
        if group is None:
            raise Ec2Refusal("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")
        return str(group["GroupName"])

    def open_ports(self, group_ids: tuple[str, ...]) -> set[int]:
        """The TCP ports that these groups open to anybody's address; very wide ranges are left out."""
        ports: set[int] = set()
        with self.scope():
            groups = [ec2._security_groups.get(group_id) or {} for group_id in group_ids]
        for rule in (rule for group in groups for rule in group.get("IpPermissions", [])):
            if str(rule.get("IpProtocol")) not in ("tcp", "6") or not rule.get("IpRanges"):
                continue
            first, last = int(rule.get("FromPort", 0)), int(rule.get("ToPort", -1))
            if 0 <= last - first < _WIDEST_FORWARDED_RANGE:
                ports.update(range(first, last + 1))
        return ports

    def launch_template(self, reference: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Resolve a launch template reference.

        Returns:
            The template's data, and the reference with id, name and version number filled in.

        Raises:
            Ec2Refusal: The template or its version does not exist.
        """
        with self.scope():
            templates = list(ec2._launch_templates.values())
        wanted = reference.get("LaunchTemplateId"), reference.get("LaunchTemplateName")
        for template in templates:
            if wanted in ((template["LaunchTemplateId"], None), (None, template["LaunchTemplateName"])):
                break
        else:
            code = "InvalidLaunchTemplateId.NotFound" if wanted[0] else "InvalidLaunchTemplateName.NotFoundException"
            raise Ec2Refusal(code, f"The specified launch template, {wanted[0] or wanted[1]}, does not exist.")
        version = str(reference.get("Version") or "$Default")
        number = {
            "$Default": str(template["DefaultVersionNumber"]),
            "$Latest": str(template["LatestVersionNumber"]),
        }.get(version, version)
        for candidate in template["Versions"]:
            if str(candidate["VersionNumber"]) == number:
                return dict(candidate["LaunchTemplateData"]), {
                    "LaunchTemplateId": template["LaunchTemplateId"],
                    "LaunchTemplateName": template["LaunchTemplateName"],
                    "Version": number,
                }
        raise Ec2Refusal(
            "InvalidLaunchTemplateId.VersionNotFound",
            f"Could not find launch template version {version} for {wanted[0] or wanted[1]}.",
        )

    def instance_profile(self, reference: Mapping[str, str] | None) -> dict[str, str] | None:
        """Resolve an instance profile by ARN or name to {Arn, Id, Role}.

        Raises:
            Ec2Refusal: It does not exist.
        """
        if not reference:
            return None
        with self.scope():
            for profile in iam._instance_profiles.values():
                if reference.get("Arn") == profile["Arn"] or reference.get("Name") == profile["InstanceProfileName"]:
                    return {
                        "Arn": profile["Arn"],
                        "Id": profile["InstanceProfileId"],
                        "Role": _role_name((profile.get("Roles") or [""])[0]),
                    }
        raise Ec2Refusal(
            "InvalidParameterValue",
            f"Value ({reference}) for parameter iamInstanceProfile is invalid. Invalid IAM Instance Profile",
        )

    def role_arn(self, role: str) -> str:
        """The ARN of a role, its path included."""
        with self.scope():
            found = iam._roles.get(role) or {}
        return str(found.get("Arn", f"arn:aws:iam::{self.account_id}:role/{role}"))

    def role_credentials(self, role: str, instance_id: str) -> dict[str, str]:
        """Credentials of an instance's role, as its metadata serves them; enforced like any other session."""
        now = datetime.now(UTC)
        digest = hashlib.sha256(f"{self.account_id} {role} {instance_id}".encode()).hexdigest()
        key, secret, token = f"ASIA{digest[:16].upper()}", secrets.token_hex(20), secrets.token_urlsafe(64)
        with self.scope():
            known = sts._sessions.get(key)
            if known is not None:
                secret, token = known["SecretAccessKey"], known["SessionToken"]
            else:
                sts.register_session(
                    key,
                    {
                        "Arn": f"arn:aws:sts::{self.account_id}:assumed-role/{role}/{instance_id}",
                        "UserId": f"AROALOCAL:{instance_id}",
                        "SecretAccessKey": secret,
                        "SessionToken": token,
                    },
                )
        return {
            "Code": "Success",
            "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Type": "AWS-HMAC",
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            "Token": token,
            "Expiration": (now + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def tags(self, resource_id: str) -> dict[str, str]:
        """The tags of an EC2 resource."""
        with self.scope():
            return {tag["Key"]: tag.get("Value", "") for tag in ec2._tags.get(resource_id, [])}

    def tag(self, resource_id: str, tags: Mapping[str, str]) -> None:
        """Set the tags that a resource is created with."""
        with self.scope():
            ec2._tags[resource_id] = [{"Key": key, "Value": value} for key, value in tags.items()]

    def forget(self, resource_id: str) -> None:
        """Drop what is known about a resource that is gone."""
        with self.scope():
            ec2._tags.pop(resource_id, None)

    def publish(self, detail_type: str, resource: str, detail: Mapping[str, Any]) -> None:
        """Publish an event of source aws.ec2, which only AWS itself may."""
        with self.scope():
            eventbridge._put_events(
                {
                    "Entries": [
                        {
                            "Source": "aws.ec2",
                            "DetailType": detail_type,
                            "Detail": json.dumps(detail),
                            "Resources": [resource],
                        }
                    ]
                },
                allow_aws_source=True,
            )


def _role_name(role: object) -> str:
    """Ministack keeps a profile's roles as names or as records."""
    return str(role["RoleName"]) if isinstance(role, dict) else str(role)
