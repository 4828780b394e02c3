"""EC2 in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.pools import LaunchTarget
from spot_optimizer.errors import AddressNotMovable, SpotOptimizerError
from spot_optimizer.ports import Launched


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch that was asked for."""

    target: LaunchTarget
    launch_template_id: str
    client_token: str
    user_data: str
    tags: Mapping[str, str]


class FakeCompute:
    """Implements `Compute`.

    Attributes:
        instances: State by instance id; set one to `stopped` or `terminated` to prove a death.
        zones: Subnet id by zone, as `subnets` answers.
        pool_prices: Price by pool id.
        known_kinds: What instance types offer, by name.
        refusals: What a launch in a pool raises, by `pool_id` or `pool_id/lifecycle`.
        launches: What was asked for.
        addresses: Instance by allocation id.
        unmovable: Instances to which no address can be moved now.
        not_ours: Instances that somebody else launched.
    """

    def __init__(self) -> None:
        self.instances: dict[str, str] = {}
        self.zones: dict[str, str] = {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b", "us-east-1c": "subnet-c"}
        self.pool_prices: dict[str, Decimal] = {}
        self.known_kinds: dict[str, InstanceKind] = {}
        self.refusals: dict[str, SpotOptimizerError] = {}
        self.launches: list[Launch] = []
        self.addresses: dict[str, str] = {}
        self.unmovable: set[str] = set()
        self.not_ours: set[str] = set()
        self._by_client_token: dict[str, str] = {}

    def states(self, instance_ids: Sequence[str]) -> Mapping[str, str]:
        return {
            instance_id: self.instances[instance_id] for instance_id in instance_ids if instance_id in self.instances
        }

    def subnets(self, subnet_ids: Sequence[str]) -> Mapping[str, str]:
        return {zone: subnet_id for zone, subnet_id in self.zones.items() if subnet_id in subnet_ids}

    def prices(self, zones: Collection[str], instance_types: Sequence[str]) -> Mapping[str, Decimal]:
        wanted = {f"{zone}.{instance_type}" for zone in zones for instance_type in instance_types}
        return {pool_id: price for pool_id, price in self.pool_prices.items() if pool_id in wanted}

    def kinds(self, instance_types: Sequence[str]) -> Mapping[str, InstanceKind]:
        return {name: kind for name, kind in self.known_kinds.items() if name in instance_types}

    def launch(
        self,
        target: LaunchTarget,
        *,
        launch_template_id: str,
        client_token: str,
        user_data: str,
        tags: Mapping[str, str],
    ) -> Launched:
        self.launches.append(Launch(target, launch_template_id, client_token, user_data, tags))
        pool_id = target.pool.pool_id
        refusal = self.refusals.get(f"{pool_id}/{target.lifecycle}") or self.refusals.get(pool_id)
        if refusal is not None:
            raise refusal
        if client_token not in self._by_client_token:
            instance_id = f"i-{len(self._by_client_token) + 1:017x}"
            self._by_client_token[client_token] = instance_id
            self.instances[instance_id] = "running"
        return Launched(self._by_client_token[client_token])

    def terminate(self, instance_id: str) -> bool:
        if instance_id in self.not_ours:
            return False
        if instance_id in self.instances:
            self.instances[instance_id] = "terminated"
        return True

    def move_address(self, allocation_id: str, instance_id: str) -> None:
        if self.instances.get(instance_id) != "running" or instance_id in self.unmovable:
            raise AddressNotMovable(f"{instance_id} is '{self.instances.get(instance_id)}'")
        self.addresses[allocation_id] = instance_id

    def address_holders(self, allocation_ids: Collection[str]) -> Mapping[str, str]:
        return {address: holder for address, holder in self.addresses.items() if address in allocation_ids}
