"""The instance types that the local market trades: a small table, correct for us-east-1 and Linux."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from local.market.errors import Ec2Refusal


@dataclass(frozen=True)
class InstanceType:
    """One row of DescribeInstanceTypes, with the price that spot is compared to."""

    name: str
    architecture: str
    vcpus: int
    memory_mib: int
    usd_per_hour: Decimal
    clock_ghz: float
    gpus: int = 0
    local_storage_gb: int = 0

    @property
    def family(self) -> str:
        """The part before the dot."""
        return self.name.partition(".")[0]

    def describe(self) -> dict[str, Any]:
        """As DescribeInstanceTypes answers."""
        threads = 1 if self.architecture == "arm64" else 2
        return {
            "InstanceType": self.name,
            "CurrentGeneration": True,
            "FreeTierEligible": False,
            "SupportedUsageClasses": ["on-demand", "spot"],
            "SupportedRootDeviceTypes": ["ebs"],
            "SupportedVirtualizationTypes": ["hvm"],
            "BareMetal": False,
            "Hypervisor": "nitro",
            "ProcessorInfo": {
                "SupportedArchitectures": [self.architecture],
                "SustainedClockSpeedInGhz": self.clock_ghz,
            },
            "VCpuInfo": {
                "DefaultVCpus": self.vcpus,
                "DefaultCores": max(1, self.vcpus // threads),
                "DefaultThreadsPerCore": threads,
            },
            "MemoryInfo": {"SizeInMiB": self.memory_mib},
            "InstanceStorageSupported": self.local_storage_gb > 0,
            **(
                {"InstanceStorageInfo": {"TotalSizeInGB": self.local_storage_gb, "NvmeSupport": "required"}}
                if self.local_storage_gb
                else {}
            ),
            "NetworkInfo": {
                "NetworkPerformance": "Up to 10 Gigabit",
                "MaximumNetworkInterfaces": 3,
                "Ipv4AddressesPerInterface": 10,
                "EnaSupport": "required",
            },
            **(
                {
                    "GpuInfo": {
                        "Gpus": [
                            {
                                "Name": "T4" if self.family == "g4dn" else "A10G",
                                "Manufacturer": "NVIDIA",
                                "Count": self.gpus,
                                "MemoryInfo": {"SizeInMiB": 16384 if self.family == "g4dn" else 22888},
                            }
                        ]
                    }
                }
                if self.gpus
                else {}
            ),
            "HibernationSupported": self.family in ("t3", "m5", "c5", "r5"),
            "BurstablePerformanceSupported": self.family.startswith("t"),
        }


def instance_type(name: str) -> InstanceType:
    """Look an instance type up.

    Raises:
        Ec2Refusal: InvalidInstanceType, as EC2 says it.
    """
    try:
        return INSTANCE_TYPES[name]
    except KeyError:
        raise Ec2Refusal(
            "InvalidInstanceType", f"The following supplied instance types do not exist: [{name}]"
        ) from None


_MULTIPLES = {
    "large": 1,
    "xlarge": 2,
    "2xlarge": 4,
    "4xlarge": 8,
    "8xlarge": 16,
    "12xlarge": 24,
    "16xlarge": 32,
    "24xlarge": 48,
}


def _scaled(
    family: str, architecture: str, gib_per_vcpu: int, usd_of_large: str, clock: float, *sizes: str
) -> list[InstanceType]:
    """A family whose sizes are multiples of `large` (2 vCPUs) in every respect."""
    return [
        InstanceType(
            name=f"{family}.{size}",
            architecture=architecture,
            vcpus=2 * _MULTIPLES[size],
            memory_mib=2 * _MULTIPLES[size] * gib_per_vcpu * 1024,
            usd_per_hour=Decimal(usd_of_large) * _MULTIPLES[size],
            clock_ghz=clock,
        )
        for size in sizes
    ]


def _burstable(family: str, architecture: str, usd_of_nano: str, clock: float) -> list[InstanceType]:
    rows = [
        ("nano", 2, 512),
        ("micro", 2, 1024),
        ("small", 2, 2048),
        ("medium", 2, 4096),
        ("large", 2, 8192),
        ("xlarge", 4, 16384),
        ("2xlarge", 8, 32768),
    ]
    return [
        InstanceType(f"{family}.{size}", architecture, vcpus, memory, Decimal(usd_of_nano) * 2**doubling, clock)
        for doubling, (size, vcpus, memory) in enumerate(rows)
    ]


def _gpu(family: str, rows: Mapping[str, tuple[int, int, str, int, int]]) -> list[InstanceType]:
    return [
        InstanceType(f"{family}.{size}", "x86_64", vcpus, gib * 1024, Decimal(usd), 2.5, gpus, disk)
        for size, (vcpus, gib, usd, gpus, disk) in rows.items()
    ]


_UP_TO_24 = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge")
_UP_TO_16 = _UP_TO_24[:-1]

INSTANCE_TYPES: Mapping[str, InstanceType] = {
    each.name: each
    for each in [
        *_burstable("t3", "x86_64", "0.0052", 2.5),
        *_burstable("t3a", "x86_64", "0.0047", 2.2),
        *_burstable("t4g", "arm64", "0.0042", 2.5),
        *_scaled("m5", "x86_64", 4, "0.096", 3.1, *_UP_TO_24),
        *_scaled("m5a", "x86_64", 4, "0.086", 2.5, *_UP_TO_24),
        *_scaled("m6i", "x86_64", 4, "0.096", 3.5, *_UP_TO_24),
        *_scaled("m6g", "arm64", 4, "0.077", 2.5, *_UP_TO_16),
        *_scaled("c5", "x86_64", 2, "0.085", 3.4, "large", "xlarge", "2xlarge", "4xlarge", "12xlarge", "24xlarge"),
        *_scaled("c5a", "x86_64", 2, "0.077", 3.3, *_UP_TO_24),
        *_scaled("c6i", "x86_64", 2, "0.085", 3.5, *_UP_TO_24),
        *_scaled("c6g", "arm64", 2, "0.068", 2.5, *_UP_TO_16),
        *_scaled("r5", "x86_64", 8, "0.126", 3.1, *_UP_TO_24),
        *_scaled("r6i", "x86_64", 8, "0.126", 3.5, *_UP_TO_24),
        *_scaled("r6g", "arm64", 8, "0.1008", 2.5, *_UP_TO_16),
        *_gpu(
            "g4dn",
            {
                "xlarge": (4, 16, "0.526", 1, 125),
                "2xlarge": (8, 32, "0.752", 1, 225),
                "4xlarge": (16, 64, "1.204", 1, 225),
                "8xlarge": (32, 128, "2.176", 1, 900),
                "12xlarge": (48, 192, "3.912", 4, 900),
                "16xlarge": (64, 256, "4.352", 1, 900),
            },
        ),
        *_gpu(
            "g5",
            {
                "xlarge": (4, 16, "1.006", 1, 250),
                "2xlarge": (8, 32, "1.212", 1, 450),
                "4xlarge": (16, 64, "1.624", 1, 600),
            },
        ),
    ]
}
