"""What a deployment may choose, read from the CDK context (`cdk deploy -c stage=prod`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aws_cdk import RemovalPolicy
from constructs import Node

ROOT: Final = Path(__file__).resolve().parent.parent

_STAGES: Final = ("dev", "prod")
_ARCHITECTURES: Final = ("arm64", "x86_64")
_GAP_RULES: Final = "linear,time-decay,cross-pool-median-change"
_GAP_METHODS: Final = ("carry-forward", "linear", "time-decay", "cross-pool-median-change")


@dataclass(frozen=True, slots=True)
class Settings:
    """One deployment.

    Attributes:
        stage: `dev` may be thrown away; everything else keeps its data when a stack is deleted.
        architecture: Of every function and its layer.
        heartbeat_timeout_seconds: Silence after which an agent counts as offline.
        orphan_grace_seconds: How long something is seen to be nobody's before it is ended: a launch is recorded, a
            termination repeated and a failover over long before.
        orphan_volume_grace_seconds: The same, of volumes: one costs little, and may hold what somebody comes to look
            for the morning after.
        gap_rules: How short, medium and long gaps in prices are filled.
    """

    stage: str
    architecture: str
    heartbeat_timeout_seconds: int = 300
    orphan_grace_seconds: int = 900
    orphan_volume_grace_seconds: int = 86_400
    gap_rules: str = _GAP_RULES

    @classmethod
    def from_context(cls, node: Node) -> Settings:
        """Read the context of the app.

        Raises:
            ValueError: A value is not among those allowed.
        """
        stage = node.try_get_context("stage") or "dev"
        architecture = node.try_get_context("architecture") or "arm64"
        if stage not in _STAGES:
            raise ValueError(f"context 'stage' is {stage!r}; expected one of {', '.join(_STAGES)}")
        if architecture not in _ARCHITECTURES:
            raise ValueError(f"context 'architecture' is {architecture!r}; expected one of {', '.join(_ARCHITECTURES)}")
        gap_rules = node.try_get_context("gap_rules") or _GAP_RULES
        methods = gap_rules.split(",")
        if len(methods) != 3 or not set(methods) <= set(_GAP_METHODS):
            raise ValueError(f"context 'gap_rules' is {gap_rules!r}; expected three of {', '.join(_GAP_METHODS)}")
        return cls(stage=stage, architecture=architecture, gap_rules=gap_rules)

    @property
    def keeps_data(self) -> bool:
        return self.stage != "dev"

    @property
    def removal_policy(self) -> RemovalPolicy:
        return RemovalPolicy.RETAIN if self.keeps_data else RemovalPolicy.DESTROY

    @property
    def api_url_parameter(self) -> str:
        """Name under which the public URL of the API is found. A name, because the API is deployed last."""
        return f"/spot-optimizer/{self.stage}/api-url"

    @property
    def identity_certificate_parameter(self) -> str:
        return f"/spot-optimizer/{self.stage}/identity-certificate"

    def stack_name(self, part: str) -> str:
        return f"spot-optimizer-{self.stage}-{part}"

    def physical_name(self, noun: str) -> str:
        """Name a resource that others must be able to name before it exists."""
        return f"spot-optimizer-{self.stage}-{noun}"
