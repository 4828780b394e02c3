"""What carries our tag on EC2, in memory."""

from __future__ import annotations

from spot_optimizer.domain.orphans import Resource
from spot_optimizer.errors import SpotOptimizerError


class FakeInventory:
    """Implements `Inventory`.

    Attributes:
        resources: What EC2 shows.
        ended: What was ended, in order.
        noticed: Instances that AWS takes back.
        refusals: What ending a resource raises.
    """

    def __init__(self, *resources: Resource) -> None:
        self.resources = list(resources)
        self.ended: list[str] = []
        self.noticed: set[str] = set()
        self.refusals: dict[str, SpotOptimizerError] = {}

    def ours(self) -> tuple[Resource, ...]:
        return tuple(self.resources)

    def is_taken_back(self, instance_id: str) -> bool:
        return instance_id in self.noticed

    def end(self, resource: Resource) -> None:
        if resource.resource_id in self.refusals:
            raise self.refusals[resource.resource_id]
        self.ended.append(resource.resource_id)
        self.resources = [one for one in self.resources if one.resource_id != resource.resource_id]
