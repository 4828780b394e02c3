"""What the market shows of itself to tests, the demo and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class InstanceView:
    """One instance of the local spot market, as seen from outside AWS."""

    instance_id: str
    state: str
    """`pending`, `running`, `shutting-down`, `terminated`, `stopping` or `stopped`."""
    pool: str
    """`<availability zone>/<instance type>`, such as `us-east-1a/m5.large`."""
    availability_zone: str
    instance_type: str
    lifecycle: str
    """`spot` or `on-demand`."""
    private_address: str
    secondary_private_address: str
    public_address: str | None
    """The Elastic IP, or the address that came with the launch, or None."""
    pids: tuple[int, ...]
    """Every live process of the instance, whatever its session."""
    disk: Path
    """The instance's own folder: its working directory, HOME and INSTANCE_DISK."""
    log: Path
    """What its boot program printed."""
    metadata_endpoint: str
    """The base URL of its instance metadata service."""
    launched_at: datetime
    reason: str
    """Why it ended, in EC2's words; empty while it lives."""
    interrupts_at: datetime | None
    """When the market takes it back, once a notice is out."""
    tags: dict[str, str]
