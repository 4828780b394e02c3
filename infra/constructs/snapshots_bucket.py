"""The bucket that holds state snapshots and the log tails of agents whose instance is gone."""

from __future__ import annotations

from typing import Final

from aws_cdk import Duration, Stack
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.nag import acknowledge
from infra.constructs.private_bucket import PrivateBucket
from infra.settings import Settings

#: How long S3 keeps a snapshot's object; `spot_optimizer.domain.snapshots` has the reasons, and a test compares them.
BASE_DAYS: Final = 11
DELTA_DAYS: Final = 9


class SnapshotsBucket(Construct):
    """Tenants' state: encrypted, private, TLS only, versioned, and logged on every access."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        access_log = PrivateBucket(
            self,
            "AccessLog",
            settings=settings,
            lifecycle_rules=[s3.LifecycleRule(id="forget-accesses", expiration=Duration.days(90))],
        )
        acknowledge(access_log, "AwsSolutions-S1", "It is the access log: logging itself would never end.")
        self._bucket = PrivateBucket(
            self,
            "Bucket",
            settings=settings,
            versioned=True,
            access_log=access_log,
            lifecycle_rules=[
                s3.LifecycleRule(id="forget-log-tails", prefix="log-tails/", expiration=Duration.days(30)),
                *(
                    # named for what the domain promises of them; the longer one is the base's, which its deltas need
                    s3.LifecycleRule(id=f"forget-{kind}s", prefix=f"snapshots/{kind}s/", expiration=Duration.days(days))
                    for kind, days in (("base", BASE_DAYS), ("delta", DELTA_DAYS))
                ),
                s3.LifecycleRule(
                    id="forget-what-was-replaced",
                    noncurrent_version_expiration=Duration.days(7),
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                ),
            ],
        )

    @property
    def name(self) -> str:
        return self._bucket.bucket_name

    def allow(self, function: Function, *actions: str, prefix: str) -> None:
        """Allow object actions such as `PutObject` below one prefix; a presigned URL can do no more than its signer."""
        function.allow(
            *(f"s3:{action}" for action in actions),
            # the export's name, known now, instead of a token that is only resolved at the end
            on=f"{Stack.of(self).export_value(self._bucket.bucket_arn)}/{prefix}/*",
            wildcard_because="An object's key is made when an agent asks to upload; the prefix is all there is before.",
        )
