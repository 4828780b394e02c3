"""The layer that every function carries: our own package and what it needs."""

from __future__ import annotations

from aws_cdk import AssetHashType
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.settings import Settings
from layers.build import build_shared_layer, content_key

ARCHITECTURES = {"arm64": lambda_.Architecture.ARM_64, "x86_64": lambda_.Architecture.X86_64}


class SharedLayer(Construct):
    """One version per stack: one that two stacks shared could never be replaced, since one of them imports it."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        folder = build_shared_layer(settings.architecture)
        self.version = lambda_.LayerVersion(
            self,
            "Version",
            code=lambda_.Code.from_asset(
                str(folder), asset_hash=content_key(settings.architecture), asset_hash_type=AssetHashType.CUSTOM
            ),
            compatible_runtimes=[lambda_.Runtime.PYTHON_3_13],
            compatible_architectures=[ARCHITECTURES[settings.architecture]],
            description="spot_optimizer and its dependencies",
        )
