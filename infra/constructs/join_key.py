"""The key from which one-time join tokens are derived, so that a launch that is repeated hands out the same token."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.settings import Settings


class JoinKey(Construct):
    """An HMAC key that never leaves KMS; only hashes of what it derives are stored."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        self._key = kms.Key(
            self,
            "Key",
            description="Derives the join tokens of launched replicas",
            key_spec=kms.KeySpec.HMAC_256,
            key_usage=kms.KeyUsage.GENERATE_VERIFY_MAC,
            removal_policy=settings.removal_policy,
        )

    @property
    def id(self) -> str:
        return self._key.key_id

    def allow_deriving(self, grantee: iam.IGrantable) -> None:
        self._key.grant_generate_mac(grantee)
