"""A bucket that nobody reads without a grant."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.settings import Settings


class PrivateBucket(s3.Bucket):
    """Encrypted, TLS only, without ACLs; what it forgets, and when, is its rules'."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        lifecycle_rules: Sequence[s3.LifecycleRule],
        versioned: bool = False,
        access_log: s3.IBucket | None = None,
    ) -> None:
        super().__init__(
            scope,
            construct_id,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=versioned,
            server_access_logs_bucket=access_log,
            lifecycle_rules=lifecycle_rules,
            removal_policy=settings.removal_policy,
        )
