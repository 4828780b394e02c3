"""EC2, its events and its addresses: launches that take their time, notices, deaths, states that lag and never lie."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from simulation.machine import Machine
from spot_optimizer.domain.pools import LaunchTarget
from spot_optimizer.errors import AddressNotMovable, PoolUnavailable

if TYPE_CHECKING:
    from simulation.kernel import Kernel

NOTICE_SECONDS = 120.0


@dataclass(slots=True)
class Ec2Instance:
    """One instance from without.

    Attributes:
        states: Every state it had, with the moment; what is described is one of the later ones.
        going_at: When AWS takes it back.
        user_data: What it was launched with; None for the first primary.
    """

    machine: Machine
    lifecycle: str
    states: list[tuple[float, str]]
    user_data: str | None = None
    going_at: float | None = None
    rebalance: bool = False
    terminated_by_us: bool = False
    boots_at: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return self.states[-1][1]


class Ec2:
    """All instances, pools and addresses.

    Attributes:
        associations: Every change of an address, with the moment; what is described is one of the later ones.
        without_capacity: Pools (or `pool/lifecycle`) where nothing can be launched now; `*` is everywhere.
        on_boot: Told when a launched instance has booted.
        on_death: Told when everything on an instance has ended.
        deliver: Hands an event to EventBridge's target.
    """

    def __init__(self, kernel: Kernel, zones: Mapping[str, str], *, epoch_of_time: datetime) -> None:
        self.kernel = kernel
        self.zones = zones
        self.instances: dict[str, Ec2Instance] = {}
        self.addresses: dict[str, str] = {}
        self.associations: list[tuple[float, str, str | None]] = []
        self.without_capacity: list[str] = []
        self.on_boot: Callable[[Ec2Instance], None] = lambda _: None
        self.on_death: Callable[[Machine], None] = lambda _: None
        self.on_notice: Callable[[Ec2Instance], None] = lambda _: None
        self.on_terminate: Callable[[Ec2Instance], None] = lambda _: None
        self.on_address: Callable[[str, str], None] = lambda _allocation, _instance: None
        self.deliver: Callable[[Mapping[str, Any]], None] = lambda _: None
        self._epoch_of_time = epoch_of_time
        self._by_client_token: dict[str, str] = {}

    # --- what the control plane calls ---

    def describe(self, instance_ids: Sequence[str]) -> dict[str, str]:
        """States, each a moment old; a death that is told has happened."""
        answer = {}
        for instance_id in instance_ids:
            instance = self.instances.get(instance_id)
            if instance is not None:
                seen_at = self.kernel.now - self.kernel.soon(0.3)
                known = [state for at, state in instance.states if at <= seen_at]
                if known:
                    answer[instance_id] = known[-1]
        return answer

    def subnets(self, subnet_ids: Collection[str]) -> dict[str, str]:
        return {zone: subnet for zone, subnet in self.zones.items() if subnet in subnet_ids}

    def launch(self, target: LaunchTarget, *, client_token: str, user_data: str, tags: Mapping[str, str]) -> str:
        """Launch, or find what the same token launched before.

        Raises:
            PoolUnavailable: No capacity.
        """
        if client_token in self._by_client_token:
            return self._by_client_token[client_token]
        pool_id = target.pool.pool_id
        if any(where in ("*", pool_id, f"{pool_id}/{target.lifecycle}") for where in self.without_capacity):
            raise PoolUnavailable(f"InsufficientInstanceCapacity in {pool_id} ({target.lifecycle})")
        instance_id = f"i-{len(self.instances) + 1:017x}"
        instance = self.add(instance_id, pool_id, str(target.lifecycle), state="pending")
        instance.user_data, instance.tags = user_data, dict(tags)
        self._by_client_token[client_token] = instance_id
        self.kernel.tell("ec2", "launches %s in %s (%s)", instance_id, pool_id, target.lifecycle)
        until_running = self.kernel.between(5.0, 20.0)
        self.kernel.after(until_running, self._enter, instance, "running")
        self.kernel.after(until_running + self.kernel.between(15.0, 40.0), self._boot, instance)
        return instance_id

    def terminate(self, instance_id: str) -> None:
        instance = self.instances.get(instance_id)
        if instance is None or instance.state in ("shutting-down", "terminated"):
            return
        instance.terminated_by_us = True
        self.on_terminate(instance)
        self.kernel.tell("ec2", "terminates %s as asked", instance_id)
        self.shut_down(instance)

    def move_address(self, allocation_id: str, instance_id: str) -> None:
        """Raises: AddressNotMovable."""
        instance = self.instances.get(instance_id)
        if instance is None or instance.state != "running":
            raise AddressNotMovable(f"{instance_id} is not running")
        self.associate(allocation_id, instance_id)
        self.kernel.tell("ec2", "address %s points at %s", allocation_id, instance_id)
        self.on_address(allocation_id, instance_id)

    def address_holders(self, allocation_ids: Collection[str]) -> dict[str, str]:
        """Who holds which address, a moment ago."""
        seen_at = self.kernel.now - self.kernel.soon(0.3)
        known = {address: holder for at, address, holder in self.associations if at <= seen_at}
        return {address: holder for address, holder in known.items() if holder and address in allocation_ids}

    # --- what AWS does ---

    def associate(self, allocation_id: str, instance_id: str | None) -> None:
        self.associations.append((self.kernel.now, allocation_id, instance_id))
        if instance_id is None:
            del self.addresses[allocation_id]
        else:
            self.addresses[allocation_id] = instance_id

    def add(self, instance_id: str, pool_id: str, lifecycle: str, *, state: str) -> Ec2Instance:
        machine = Machine(self.kernel, instance_id, pool_id, epoch_of_time=self._epoch_of_time)
        instance = Ec2Instance(machine, lifecycle, [(self.kernel.now, state)])
        self.instances[instance_id] = instance
        return instance

    def notify(self, instance: Ec2Instance) -> None:
        """The two minutes begin."""
        if instance.going_at is not None or not instance.machine.alive or instance.lifecycle != "spot":
            return
        instance.going_at = self.kernel.now + NOTICE_SECONDS
        self.kernel.tell("ec2", "INTERRUPTION NOTICE for %s", instance.machine.instance_id)
        self.kernel.after(NOTICE_SECONDS, self.shut_down, instance)
        self.on_notice(instance)
        self.publish("EC2 Spot Instance Interruption Warning", instance, {"instance-action": "terminate"})

    def recommend_rebalance(self, instance: Ec2Instance) -> None:
        if instance.rebalance or not instance.machine.alive:
            return
        instance.rebalance = True
        self.kernel.tell("ec2", "rebalance recommendation for %s", instance.machine.instance_id)
        self.on_notice(instance)
        self.publish("EC2 Instance Rebalance Recommendation", instance, {})

    def kill(self, instance: Ec2Instance) -> None:
        """Sudden death: everything on it ends now; EC2 says so some time later."""
        if not instance.machine.alive:
            return
        self.kernel.tell("ec2", "SUDDEN DEATH of %s", instance.machine.instance_id)
        self._die(instance)
        self.kernel.after(self.kernel.soon(8.0), self._enter, instance, "shutting-down")
        self.kernel.after(self.kernel.between(10.0, 60.0), self._enter, instance, "terminated")

    def shut_down(self, instance: Ec2Instance) -> None:
        """Terminate it: at the end of a notice, as we asked, or as somebody else did."""
        if instance.state in ("shutting-down", "terminated"):
            return
        self._enter(instance, "shutting-down")
        # Its processes may live on for a while: `shutting-down` is not death.
        dies_after = self.kernel.soon(1.5)
        self.kernel.after(dies_after, self._die, instance)
        self.kernel.after(dies_after + self.kernel.soon(4.0), self._enter, instance, "terminated")

    def publish(self, detail_type: str, instance: Ec2Instance, detail: Mapping[str, str]) -> None:
        at = self._epoch_of_time + timedelta(seconds=self.kernel.now)
        self.deliver(
            {
                "detail-type": detail_type,
                "source": "aws.ec2",
                "time": at.isoformat(),
                "detail": {"instance-id": instance.machine.instance_id, **detail},
            }
        )

    def _boot(self, instance: Ec2Instance) -> None:
        if instance.machine.alive and instance.state == "running":
            self.on_boot(instance)

    def _die(self, instance: Ec2Instance) -> None:
        if instance.machine.alive:
            instance.machine.die()
            self.on_death(instance.machine)

    def _enter(self, instance: Ec2Instance, state: str) -> None:
        order = ("pending", "running", "shutting-down", "terminated")
        if order.index(state) <= order.index(instance.state):
            return
        if state == "terminated":
            self._die(instance)
            for allocation_id in [key for key, held in self.addresses.items() if held == instance.machine.instance_id]:
                self.associate(allocation_id, None)
        instance.states.append((self.kernel.now, state))
        self.kernel.tell("ec2", "%s is %s", instance.machine.instance_id, state)
        if state != "pending":
            self.publish("EC2 Instance State-change Notification", instance, {"state": state})
