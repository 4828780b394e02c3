"""What an admin has allowed a client to use, as tags on the resources themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from botocore.exceptions import ClientError

from spot_optimizer.adapters.dns import owner_of_zone
from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.adapters.target_groups import owner_of_group
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
        owners |= _known(
            lambda: {
                template["LaunchTemplateId"]: _tagged_for(template.get("Tags", []))
                for template in ec2.describe_launch_templates(LaunchTemplateIds=[launch_template_id])["LaunchTemplates"]
            }
        )
        owners |= _known(
            lambda: {
                subnet["SubnetId"]: _tagged_for(subnet.get("Tags", []))
                for subnet in ec2.describe_subnets(SubnetIds=list(subnet_ids))["Subnets"]
            }
        )
        if traffic_target is not None:
            owners[traffic_target] = self.owner_of_target(traffic_adapter, traffic_target)
        wanted = (launch_template_id, *subnet_ids, *([traffic_target] if traffic_target else []))
        return tuple(resource for resource in wanted if owners.get(resource) != client_id)

    def owner_of_target(self, adapter: TrafficAdapter, target: str) -> str | None:
        """Whom a traffic path's target is tagged for; None if for nobody, or if there is none."""
        return _known(lambda: {target: self._owner(adapter, target)}).get(target)

    def _owner(self, adapter: TrafficAdapter, target: str) -> str | None:
        match adapter:
            case TrafficAdapter.EIP:
                [address] = self._clients.ec2.describe_addresses(AllocationIds=[target])["Addresses"]
                return _tagged_for(address.get("Tags", []))
            case TrafficAdapter.TARGET_GROUP:
                return owner_of_group(self._clients, target)
            case TrafficAdapter.ROUTE53:
                return owner_of_zone(self._clients, record_of(target)[0])
            case TrafficAdapter.NONE:
                return None


def _known(owners: Callable[[], dict[str, str | None]]) -> dict[str, str | None]:
    with service_failures("AWS"):
        try:
            return owners()
        except ClientError as error:
            code = error_code(error)
            if code.endswith((".NotFound", ".NotFoundException", ".Malformed")) or code in _NO_SUCH_TARGET:
                return {}
            raise


def _tagged_for(tags: Sequence[Any]) -> str | None:
    return next((tag["Value"] for tag in tags if tag.get("Key") == OWNER_TAG), None)
