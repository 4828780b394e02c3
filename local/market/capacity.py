"""Who may launch where: pools that have room, and pools that refuse."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from local.market.errors import Ec2Refusal

_MESSAGES = {
    "InsufficientInstanceCapacity": (
        "We currently do not have sufficient {type} capacity in the Availability Zone you requested ({zone}). "
        "Our system will be working on provisioning additional capacity."
    ),
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
    "VcpuLimitExceeded": (
        "You have requested more vCPU capacity than your current vCPU limit allows for the instance bucket "
        "that the specified instance type belongs to."
    ),
    "InsufficientFreeAddressesInSubnet": (
        "There are not enough free addresses in the subnet to satisfy the requested number of instances."
    ),
    "UnfulfillableCapacity": "Unable to fulfill capacity due to your request configuration.",
    "RequestLimitExceeded": "Request limit exceeded.",
}


def pool_name(availability_zone: str, instance_type: str) -> str:
    """How this market names a pool."""
    return f"{availability_zone}/{instance_type}"


@dataclass
class _Limit:
    pattern: str
    lifecycle: str
    remaining: int | None
    error_code: str


class Capacity:
    """Room per pool; unlimited until it is limited, and the last word counts."""

    def __init__(self) -> None:
        self._limits: list[_Limit] = []

    def limit(self, pattern: str, *, lifecycle: str, remaining: int | None, error_code: str) -> None:
        """Let the pools of this pattern take so many instances more (None: any number).

        Args:
            pattern: A pool, or a shell pattern such as `us-east-1a/*`.
            lifecycle: `spot` or `on-demand`.
            remaining: Instances that may still be launched in these pools together.
            error_code: What a launch beyond that is refused with.
        """
        self._limits = [each for each in self._limits if (each.pattern, each.lifecycle) != (pattern, lifecycle)]
        self._limits.append(_Limit(pattern, lifecycle, remaining, error_code))

    def take(self, availability_zone: str, instance_type: str, lifecycle: str) -> None:
        """Use one instance's room.

        Raises:
            Ec2Refusal: The pool has none.
        """
        pool = pool_name(availability_zone, instance_type)
        for limit in reversed(self._limits):
            if limit.lifecycle == lifecycle and fnmatchcase(pool, limit.pattern):
                if limit.remaining is None:
                    return
                if limit.remaining <= 0:
                    message = _MESSAGES.get(limit.error_code, limit.error_code)
                    raise Ec2Refusal(
                        limit.error_code,
                        message.format(type=instance_type, zone=availability_zone),
                        status=503 if limit.error_code == "RequestLimitExceeded" else 400,
                    )
                limit.remaining -= 1
                return
