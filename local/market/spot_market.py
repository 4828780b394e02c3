"""The market itself: it launches instances, moves addresses, gives notice, and takes instances back."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import shutil
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local.addresses import AddressesExhausted, Forwarder, Network
from local.identity import IdentitySigner
from local.imds import MetadataServer
from local.instances import Image, Machine
from local.market.account import Account
from local.market.capacity import Capacity, pool_name
from local.market.errors import Ec2Refusal
from local.market.instance_types import instance_type
from local.market.metadata import InstanceMetadata
from local.market.prices import SpotPrices
from local.market.records import Address, Instance, LaunchSpecification
from local.market.views import InstanceView
from local.processes import Census

_log = logging.getLogger(__name__)

_WARNING = "EC2 Spot Instance Interruption Warning"
_REBALANCE = "EC2 Instance Rebalance Recommendation"
_STATE_CHANGE = "EC2 Instance State-change Notification"

_USER_REASON = ("Client.UserInitiatedShutdown", "User initiated")
_SPOT_REASON = ("Server.SpotInstanceTermination", "Spot instance termination")
_FAILURE_REASON = ("Server.InternalError", "Internal error on launch or of the host")


@dataclass
class Settings:
    """How long things take here, and what public addresses let through."""

    boot_seconds: float = 1.0
    shutdown_grace_seconds: float = 3.0
    shutting_down_seconds: float = 1.0
    public_ports: tuple[int, ...] = (8080,)


@dataclass
class Folders:
    """Where the run keeps its folders."""

    disks: Path
    images: Path
    logs: Path
    on_change: Callable[[], None] = field(default=lambda: None)


class SpotMarket:
    """Every instance and Elastic IP of the account. All methods run on the market's own event loop."""

    def __init__(self, account: Account, folders: Folders, run_id: str, endpoint_url: str, prices: SpotPrices) -> None:
        self.account = account
        self.prices = prices
        self.capacity = Capacity()
        self.settings = Settings()
        self.signer = IdentitySigner()
        self.instances: dict[str, Instance] = {}
        self.addresses: dict[str, Address] = {}
        self._images: dict[str, Image] = {}
        self._folders = folders
        self._run_id = run_id
        self._endpoint_url = endpoint_url
        self._network = Network()

    # Launching

    def register_image(
        self, image_id: str, boot: tuple[str, ...], environment: dict[str, str], content: Path | None
    ) -> None:
        """Say what instances of this image run."""
        self._images[image_id] = Image(boot, environment, content)

    def is_known_image(self, image_id: str) -> bool:
        """Whether instances of this image can boot."""
        return image_id in self._images

    async def launch(self, specification: LaunchSpecification) -> Instance:
        """Launch one instance; it is `pending` until its machine runs.

        Raises:
            Ec2Refusal: No capacity, no such image, too high a price, or no address left.
        """
        instance_type(specification.instance_type)
        if not self.is_known_image(specification.image_id):
            raise Ec2Refusal("InvalidAMIID.NotFound", f"The image id '[{specification.image_id}]' does not exist")
        if specification.lifecycle == "spot" and specification.max_price is not None:
            price = self.prices.current(
                specification.availability_zone, specification.instance_type, now=datetime.now(UTC)
            )
            if specification.max_price < price:
                raise Ec2Refusal(
                    "SpotMaxPriceTooLow",
                    f"Your Spot request price of {specification.max_price} is lower than the minimum required Spot "
                    f"request fulfillment price of {price}.",
                )
        self.capacity.take(specification.availability_zone, specification.instance_type, specification.lifecycle)
        instance = self._new_instance(specification)
        await instance.metadata.start()
        self.instances[instance.instance_id] = instance
        if specification.tags:
            self.account.tag(instance.instance_id, specification.tags)
        self._announce(instance)
        instance.life = asyncio.create_task(self._boot(instance))
        return instance

    def _new_instance(self, specification: LaunchSpecification) -> Instance:
        instance_id = f"i-{secrets.token_hex(9)[:17]}"
        try:
            private, secondary = self._network.private.take(), self._network.secondary.take()
        except AddressesExhausted:
            raise Ec2Refusal(
                "InsufficientFreeAddressesInSubnet", "There are not enough free addresses in the subnet."
            ) from None
        machine = Machine(
            self._run_id, instance_id, self._folders.disks / instance_id, self._folders.logs / f"{instance_id}.log"
        )
        metadata = InstanceMetadata(self.account, self.signer, self.public_address_of)
        instance = Instance(
            instance_id=instance_id,
            specification=specification,
            private_address=private,
            secondary_private_address=secondary,
            mac="0a:" + ":".join(secrets.token_hex(1) for _ in range(5)),
            interface_id=f"eni-{secrets.token_hex(9)[:17]}",
            launched_at=datetime.now(UTC).replace(microsecond=0),
            machine=machine,
            metadata=MetadataServer(private, lambda path: metadata.read(instance, path)),
            spot_request_id=f"sir-{secrets.token_hex(4)}" if specification.lifecycle == "spot" else None,
        )
        if specification.public_address:
            instance.ephemeral = Forwarder(self._network.ephemeral.take())
        return instance

    async def _boot(self, instance: Instance) -> None:
        await asyncio.sleep(self.settings.boot_seconds)
        if instance.ephemeral is not None:
            await instance.ephemeral.point_at(instance.private_address, self._ports(instance))
        environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.metadata.endpoint,
            "AWS_ENDPOINT_URL": self._endpoint_url,
        }
        try:
            await instance.machine.boot(self._images[instance.specification.image_id], environment)
        except OSError:
            _log.exception("%s cannot boot", instance.instance_id)
            self.kill(instance)
            return
        self._folders.on_change()
        self._enter(instance, "running")

    # Ending

    def terminate(self, instance: Instance) -> None:
        """End an instance on request: an orderly shutdown, then the plug."""
        if instance.state not in ("terminated", "shutting-down"):
            self._end(instance, _USER_REASON, self._shut_down)

    def kill(self, instance: Instance) -> None:
        """Let the host die under the instance: no notice, no signal, no shutdown."""
        if instance.is_alive:
            self._end(instance, _FAILURE_REASON, self._die)

    def _end(
        self, instance: Instance, reason: tuple[str, str], way: Callable[[Instance], Coroutine[Any, Any, None]]
    ) -> None:
        for task in (instance.life, instance.countdown):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        instance.reason_code, instance.reason = reason
        instance.life = asyncio.create_task(way(instance))

    async def _shut_down(self, instance: Instance) -> None:
        self._enter(instance, "shutting-down")
        await instance.machine.shut_down(grace_seconds=self.settings.shutdown_grace_seconds)
        await self._bury(instance)

    async def _die(self, instance: Instance) -> None:
        await instance.machine.pull_the_plug()
        await instance.metadata.close()
        self._enter(instance, "shutting-down")
        await asyncio.sleep(self.settings.shutting_down_seconds)
        await self._bury(instance)

    async def _stop(self, instance: Instance) -> None:
        await instance.machine.pull_the_plug()
        await instance.metadata.close()
        self._enter(instance, "stopping")
        await asyncio.sleep(self.settings.shutting_down_seconds)
        self._enter(instance, "stopped")
        self._folders.on_change()

    async def _bury(self, instance: Instance) -> None:
        await instance.metadata.close()
        for address in self.addresses.values():
            if address.instance_id == instance.instance_id:
                await self._detach(address)
        if instance.ephemeral is not None:
            await self._release_ephemeral(instance)
        self._enter(instance, "terminated")
        self._network.private.give_back(instance.private_address)
        self._network.secondary.give_back(instance.secondary_private_address)
        await asyncio.to_thread(shutil.rmtree, instance.machine.disk, ignore_errors=True)
        self._folders.on_change()

    def _enter(self, instance: Instance, state: str) -> None:
        instance.state = state
        self._announce(instance)

    def _announce(self, instance: Instance) -> None:
        self.account.publish(
            _STATE_CHANGE, self._instance_arn(instance), {"instance-id": instance.instance_id, "state": instance.state}
        )

    # Interrupting

    def interrupt(self, instance: Instance, *, action: str, notice_seconds: float, publish: bool) -> datetime:
        """Give notice, and take the instance back when it ends.

        Args:
            instance: A running spot instance.
            action: `terminate` or `stop`.
            notice_seconds: From now; rounded up, as a notice names a whole second.
            publish: Whether EventBridge hears of it too.

        Returns:
            The time in the notice, at which the instance is killed.

        Raises:
            Ec2Refusal: The instance is not a running spot instance, or the action is unknown.
        """
        if instance.lifecycle != "spot" or instance.state != "running":
            raise Ec2Refusal("IncorrectInstanceState", f"{instance.instance_id} is not a running spot instance")
        if action not in ("terminate", "stop"):
            raise Ec2Refusal(
                "InvalidParameterValue", f"{action!r} is no interruption behaviour of this market: terminate or stop"
            )
        at = datetime.fromtimestamp(math.ceil(datetime.now(UTC).timestamp() + notice_seconds), UTC)
        instance.interrupts_at = at
        instance.notice = {"action": action, "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
        if instance.countdown is not None:
            instance.countdown.cancel()
        instance.countdown = asyncio.create_task(self._take_back(instance, at))
        if publish:
            self.publish_warning(instance)
        return at

    async def _take_back(self, instance: Instance, at: datetime) -> None:
        while (remaining := (at - datetime.now(UTC)).total_seconds()) > 0:
            await asyncio.sleep(min(remaining, 60.0))  # in steps: a monotonic sleep drifts from the wall clock
        if instance.state != "running":
            return
        self._end(instance, _SPOT_REASON, self._stop if (instance.notice or {}).get("action") == "stop" else self._die)

    def publish_warning(self, instance: Instance) -> None:
        """Publish the warning of the notice that is out.

        Raises:
            Ec2Refusal: No notice is out.
        """
        if instance.notice is None:
            raise Ec2Refusal("IncorrectInstanceState", f"{instance.instance_id} has no interruption notice")
        self.account.publish(
            _WARNING,
            # As on AWS: the zone where the region belongs, and no account.
            f"arn:aws:ec2:{instance.availability_zone}:instance/{instance.instance_id}",
            {"instance-id": instance.instance_id, "instance-action": instance.notice["action"]},
        )

    def recommend_rebalance(self, instance: Instance) -> None:
        """Say, in metadata and by event, that the instance is at elevated risk.

        Raises:
            Ec2Refusal: The instance is not a running spot instance.
        """
        if instance.lifecycle != "spot" or instance.state != "running":
            raise Ec2Refusal("IncorrectInstanceState", f"{instance.instance_id} is not a running spot instance")
        instance.rebalance_at = datetime.now(UTC)
        self.account.publish(_REBALANCE, self._instance_arn(instance), {"instance-id": instance.instance_id})

    # Addresses

    def allocate_address(self) -> Address:
        """Allocate an Elastic IP."""
        address = Address(f"eipalloc-{secrets.token_hex(9)[:17]}", Forwarder(self._network.elastic.take()))
        self.addresses[address.allocation_id] = address
        return address

    async def associate(self, address: Address, instance: Instance, private_address: str, *, may_move: bool) -> str:
        """Point an Elastic IP at one of an instance's private addresses.

        Returns:
            The association's id; the old one when nothing changed.

        Raises:
            Ec2Refusal: The instance cannot have it (yet), or it is somebody else's and may not move.
        """
        if instance.state not in ("running", "stopped", "stopping"):
            raise Ec2Refusal(
                "InvalidInstanceID",
                f"The {instance.state} instance '{instance.instance_id}' is not in a valid state for this operation.",
            )
        if private_address not in (instance.private_address, instance.secondary_private_address):
            raise Ec2Refusal(
                "InvalidParameterValue",
                f"The private IP address {private_address} is not assigned to the network interface "
                f"'{instance.interface_id}'.",
            )
        if (
            address.instance_id == instance.instance_id
            and address.private_address == private_address
            and address.association_id
        ):
            return address.association_id
        if address.association_id is not None and not may_move:
            raise Ec2Refusal(
                "Resource.AlreadyAssociated",
                f"resource {address.allocation_id} is already associated with associate-id {address.association_id}",
            )
        for other in self.addresses.values():
            if other is not address and other.private_address == private_address:
                await self._detach(other)
        if private_address == instance.private_address and instance.ephemeral is not None:
            await self._release_ephemeral(instance)
        address.association_id = f"eipassoc-{secrets.token_hex(9)[:17]}"
        address.instance_id, address.private_address = instance.instance_id, private_address
        await address.forwarder.point_at(private_address, self._ports(instance))
        return address.association_id

    async def disassociate(self, association_id: str) -> None:
        """Take an Elastic IP off.

        Raises:
            Ec2Refusal: There is no such association.
        """
        for address in self.addresses.values():
            if address.association_id == association_id:
                await self._detach(address)
                return
        raise Ec2Refusal("InvalidAssociationID.NotFound", f"The association ID '{association_id}' does not exist")

    async def release(self, address: Address) -> None:
        """Give an Elastic IP back.

        Raises:
            Ec2Refusal: It is in use.
        """
        if address.association_id is not None:
            raise Ec2Refusal("InvalidIPAddress.InUse", f"Address {address.public_address} is in use.")
        del self.addresses[address.allocation_id]
        self.account.forget(address.allocation_id)
        await address.forwarder.close()
        self._network.elastic.give_back(address.public_address)

    def public_address_of(self, instance: Instance, private_address: str) -> str | None:
        """The public address in front of a private one."""
        for address in self.addresses.values():
            if address.private_address == private_address:
                return address.public_address
        if private_address == instance.private_address and instance.ephemeral is not None:
            return instance.ephemeral.public_address
        return None

    async def set_public_ports(self, ports: Iterable[int]) -> None:
        """Let these ports through every public address, besides those that security groups open."""
        self.settings.public_ports = tuple(ports)
        for address in self.addresses.values():
            if address.instance_id is not None:
                await address.forwarder.point_at(
                    address.private_address, self._ports(self.instances[address.instance_id])
                )
        for instance in self.instances.values():
            if instance.ephemeral is not None and instance.state == "running":
                await instance.ephemeral.point_at(instance.private_address, self._ports(instance))

    async def _detach(self, address: Address) -> None:
        address.association_id = address.instance_id = address.private_address = None
        await address.forwarder.close()

    async def _release_ephemeral(self, instance: Instance) -> None:
        if instance.ephemeral is not None:
            await instance.ephemeral.close()
            self._network.ephemeral.give_back(instance.ephemeral.public_address)
            instance.ephemeral = None

    def _ports(self, instance: Instance) -> set[int]:
        return {*self.settings.public_ports, *self.account.open_ports(instance.specification.security_group_ids)}

    # Looking, and closing down

    def find(self, instance_id: str) -> Instance:
        """Find an instance.

        Raises:
            Ec2Refusal: InvalidInstanceID.NotFound.
        """
        try:
            return self.instances[instance_id]
        except KeyError:
            raise Ec2Refusal("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist") from None

    def find_address(self, allocation_id: str) -> Address:
        """Find an Elastic IP.

        Raises:
            Ec2Refusal: InvalidAllocationID.NotFound.
        """
        try:
            return self.addresses[allocation_id]
        except KeyError:
            raise Ec2Refusal(
                "InvalidAllocationID.NotFound", f"The allocation ID '{allocation_id}' does not exist"
            ) from None

    def views(self) -> list[InstanceView]:
        """Every instance there ever was, oldest first."""
        census = Census()
        return [self.view(instance, census) for instance in self.instances.values()]

    def view(self, instance: Instance, census: Census | None = None) -> InstanceView:
        """The instance as tests, the demo and the command line see it."""
        return InstanceView(
            instance_id=instance.instance_id,
            state=instance.state,
            pool=pool_name(instance.availability_zone, instance.instance_type),
            availability_zone=instance.availability_zone,
            instance_type=instance.instance_type,
            lifecycle=instance.lifecycle,
            private_address=instance.private_address,
            secondary_private_address=instance.secondary_private_address,
            public_address=self.public_address_of(instance, instance.secondary_private_address)
            or self.public_address_of(instance, instance.private_address),
            pids=instance.machine.pids(census),
            disk=instance.machine.disk,
            log=self._folders.logs / f"{instance.instance_id}.log",
            metadata_endpoint=instance.metadata.endpoint,
            launched_at=instance.launched_at,
            reason=instance.reason_code,
            interrupts_at=instance.interrupts_at,
            tags=self.account.tags(instance.instance_id),
        )

    async def close(self) -> None:
        """Pull every plug, close every address."""
        instances = list(self.instances.values())
        for instance in instances:
            for task in (instance.life, instance.countdown):
                if task is not None:
                    task.cancel()
        await asyncio.gather(*(instance.machine.pull_the_plug() for instance in instances))
        await asyncio.gather(*(instance.metadata.close() for instance in instances))
        for address in self.addresses.values():
            await address.forwarder.close()
        self._network.close()

    def _instance_arn(self, instance: Instance) -> str:
        return f"arn:aws:ec2:{self.account.region}:{self.account.account_id}:instance/{instance.instance_id}"
