"""The bucket that holds uploaded risk models, and samples of what they were asked."""

from __future__ import annotations

from aws_cdk import Duration, Stack
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.nag import acknowledge
from infra.constructs.private_bucket import PrivateBucket
from infra.settings import Settings


class ModelsBucket(Construct):
    """Private, encrypted, TLS only. Not versioned: what is deleted with its session shall be gone."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        self._bucket = PrivateBucket(
            self,
            "Bucket",
            settings=settings,
            lifecycle_rules=[
                s3.LifecycleRule(id="forget-what-was-scored", prefix="scored/", expiration=Duration.days(15)),
                s3.LifecycleRule(id="forget-broken-uploads", abort_incomplete_multipart_upload_after=Duration.days(1)),
            ],
        )
        acknowledge(
            self._bucket,
            "AwsSolutions-S1",
            "Who uploaded and activated which model is on its session's row; no tenant's data is here.",
        )

    @property
    def name(self) -> str:
        return self._bucket.bucket_name

    def allow(self, function: Function, *actions: str, prefix: str) -> None:
        """Allow object actions such as `GetObject` below one prefix; a presigned URL can do no more than its signer."""
        function.allow(
            *(f"s3:{action}" for action in actions),
            on=f"{self._arn}/{prefix}/*",
            wildcard_because="An object's key names a session that is opened later; the prefix is all there is before.",
        )

    def allow_listing(self, function: Function, *, prefix: str) -> None:
        """Allow listing what lies below one prefix."""
        function.allow("s3:ListBucket", on=self._arn, when={"StringLike": {"s3:prefix": f"{prefix}/*"}})

    @property
    def _arn(self) -> str:
        # the export's name, known now, instead of a token that is only resolved at the end
        return Stack.of(self).export_value(self._bucket.bucket_arn)
