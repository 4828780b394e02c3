"""The layers: our own package and what it needs for every function, and what scores models for those that do."""

from __future__ import annotations

from aws_cdk import AssetHashType
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.settings import Settings
from layers.build import ML, SHARED, Layer, build_layer, content_key

ARCHITECTURES = {"arm64": lambda_.Architecture.ARM_64, "x86_64": lambda_.Architecture.X86_64}


class SharedLayer(Construct):
    """One version per stack: one that two stacks shared could never be replaced, since one of them imports it."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        self.version = _version(self, SHARED, settings, "spot_optimizer and its dependencies")


class MlLayer(Construct):
    """On top of the shared layer: arrays and XGBoost. It is large, and no function on the failover path carries it."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        self.version = _version(self, ML, settings, "spot_optimizer_ml, xgboost-cpu and its dependencies")


def _version(scope: Construct, layer: Layer, settings: Settings, description: str) -> lambda_.LayerVersion:
    folder = build_layer(layer, settings.architecture)
    return lambda_.LayerVersion(
        scope,
        "Version",
        code=lambda_.Code.from_asset(
            str(folder), asset_hash=content_key(layer, settings.architecture), asset_hash_type=AssetHashType.CUSTOM
        ),
        compatible_runtimes=[lambda_.Runtime.PYTHON_3_13],
        compatible_architectures=[ARCHITECTURES[settings.architecture]],
        description=description,
    )
