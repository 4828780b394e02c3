"""What an admin has allowed a client to use, as tags on EC2's own resources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.clients import OWNER_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import TagTypeDef


class TaggedResources:
    """Implements `Allowances`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def not_allowed(
        self, client_id: str, *, launch_template_id: str, subnet_ids: Sequence[str], allocation_ids: Sequence[str]
    ) -> tuple[str, ...]:
        """Those of the resources that do not exist or are not tagged for the client; which of the two is not told."""
        ec2 = self._clients.ec2
        owners: dict[str, str | None] = {}
        owners |= _owners(
            lambda: {
                template["LaunchTemplateId"]: template.get("Tags", [])
                for template in ec2.describe_launch_templates(LaunchTemplateIds=[launch_template_id])["LaunchTemplates"]
            }
        )
        owners |= _owners(
            lambda: {
                subnet["SubnetId"]: subnet.get("Tags", [])
                for subnet in ec2.describe_subnets(SubnetIds=list(subnet_ids))["Subnets"]
            }
        )
        if allocation_ids:
            owners |= _owners(
                lambda: {
                    address["AllocationId"]: address.get("Tags", [])
                    for address in ec2.describe_addresses(AllocationIds=list(allocation_ids))["Addresses"]
                }
            )
        wanted = (launch_template_id, *subnet_ids, *allocation_ids)
        return tuple(resource for resource in wanted if owners.get(resource) != client_id)


def _owners(tags_by_id: Callable[[], dict[str, Sequence[TagTypeDef]]]) -> dict[str, str | None]:
    with service_failures("EC2"):
        try:
            found = tags_by_id()
        except ClientError as error:
            code = error_code(error)
            if code.endswith((".NotFound", ".NotFoundException", ".Malformed")):
                return {}
            raise
    return {
        resource: next((tag["Value"] for tag in tags if tag.get("Key") == OWNER_TAG), None)
        for resource, tags in found.items()
    }
