"""What an admin has allowed a client to use, as tags on the resources themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from botocore.exceptions import ClientError

from spot_optimizer.adapters.dns import owner_of
from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.agents import TrafficAdapter
from spot_optimizer.domain.clients import OWNER_TAG
from spot_optimizer.domain.traffic import record_of

_NO_SUCH_TARGET = frozenset(
    {"AccessDenied", "InvalidInput", "NoSuchHostedZone", "TargetGroupNotFound", "ValidationError"}
)
"""Of load balancers and of Route 53; what is in another account or region is refused to us, or unknown."""


class TaggedResources:
    """Implements `Allowances`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def not_allowed(
        self,
        client_id: str,
        *,
        launch_template_id: str,
        subnet_ids: Sequence[str],
        traffic_adapter: TrafficAdapter,
        traffic_target: str | None,
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
        if traffic_target is not None:
            owners[traffic_target] = self.owner_of_target(traffic_adapter, traffic_target)
        wanted = (launch_template_id, *subnet_ids, *([traffic_target] if traffic_target else []))
        return tuple(resource for resource in wanted if owners.get(resource) != client_id)

    def owner_of_target(self, adapter: TrafficAdapter, target: str) -> str | None:
        """Whom a traffic path's target is tagged for; None if for nobody, or if there is none."""
        return _owners(lambda: self._tags_of_target(adapter, target)).get(target)

    def _tags_of_target(self, adapter: TrafficAdapter, target: str) -> dict[str, Sequence[Any]]:
        match adapter:
            case TrafficAdapter.EIP:
                found = self._clients.ec2.describe_addresses(AllocationIds=[target])["Addresses"]
                return {address["AllocationId"]: address.get("Tags", []) for address in found}
            case TrafficAdapter.TARGET_GROUP:
                described = self._clients.elb.describe_tags(ResourceArns=[target])["TagDescriptions"]
                return {one["ResourceArn"]: one["Tags"] for one in described}
            case TrafficAdapter.ROUTE53:
                owner = owner_of(self._clients, record_of(target)[0])
                return {target: [] if owner is None else [{"Key": OWNER_TAG, "Value": owner}]}
            case TrafficAdapter.NONE:
                return {}


def _owners(tags_by_id: Callable[[], dict[str, Sequence[Any]]]) -> dict[str, str | None]:
    with service_failures("EC2"):
        try:
            found = tags_by_id()
        except ClientError as error:
            code = error_code(error)
            if code.endswith((".NotFound", ".NotFoundException", ".Malformed")) or code in _NO_SUCH_TARGET:
                return {}
            raise
    return {
        resource: next((tag["Value"] for tag in tags if tag.get("Key") == OWNER_TAG), None)
        for resource, tags in found.items()
    }
