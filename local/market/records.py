"""What the market remembers of an instance and of an Elastic IP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from local.addresses import Forwarder
from local.imds import MetadataServer
from local.instances import Machine

STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


@dataclass(frozen=True)
class LaunchSpecification:
    """One launch, with everything that template, override and request say together."""

    image_id: str
    instance_type: str
    availability_zone: str
    subnet_id: str
    vpc_id: str
    lifecycle: str
    security_group_ids: tuple[str, ...] = ()
    user_data: str = ""
    instance_profile: dict[str, str] | None = None
    key_name: str | None = None
    public_address: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    max_price: Decimal | None = None
    fleet_id: str | None = None
    reservation_id: str = ""
    client_token: str = ""
    launch_template: dict[str, Any] | None = None
    override: dict[str, Any] | None = None


@dataclass
class Instance:
    """An instance, from `pending` to long after `terminated`."""

    instance_id: str
    specification: LaunchSpecification
    private_address: str
    secondary_private_address: str
    mac: str
    interface_id: str
    launched_at: datetime
    machine: Machine
    metadata: MetadataServer
    ephemeral: Forwarder | None = None
    spot_request_id: str | None = None
    state: str = "pending"
    reason_code: str = ""
    reason: str = ""
    notice: dict[str, str] | None = None
    interrupts_at: datetime | None = None
    rebalance_at: datetime | None = None
    life: asyncio.Task[None] | None = None
    """Booting, or dying: whatever happens to it next."""
    countdown: asyncio.Task[None] | None = None

    @property
    def availability_zone(self) -> str:
        return self.specification.availability_zone

    @property
    def instance_type(self) -> str:
        return self.specification.instance_type

    @property
    def lifecycle(self) -> str:
        return self.specification.lifecycle

    @property
    def is_alive(self) -> bool:
        return self.state in ("pending", "running")


@dataclass
class Address:
    """An Elastic IP."""

    allocation_id: str
    forwarder: Forwarder
    association_id: str | None = None
    instance_id: str | None = None
    private_address: str | None = None

    @property
    def public_address(self) -> str:
        return self.forwarder.public_address
