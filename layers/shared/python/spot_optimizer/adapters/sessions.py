"""SDK clients: built on first use, kept while the process is warm, with short explicit timeouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnected

from spot_optimizer.errors import ControlPlaneUnavailable, Throttled

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_stepfunctions import SFNClient

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
EC2_READ_SECONDS = 15.0
"""CreateFleet of type instant answers only when the instance is launched."""
DECISION_SECONDS = 10.0
"""A decision by a process that has yet to start and to load its model."""
WAITED_FOR_SECONDS = 20.0
"""A function that waits for another one is itself waited for, by the API Gateway, for 30 s at most."""
ADVISOR_REGION = "us-east-1"
PRICE_LIST_REGION = "us-east-1"
"""The Price List has an endpoint in three regions alone, each of which tells the prices of all
(docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html)."""

THROTTLING_CODES = frozenset(
    {
        "EC2ThrottledException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
    }
)
UNAVAILABLE_CODES = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "ServiceUnavailable",
        "Unavailable",
        "InternalServerException",
    }
)


def error_code(error: ClientError) -> str:
    """The service's name of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def service_failures(service: str) -> Iterator[None]:
    """Turn what any service may answer under load into our errors; the rest passes through, to be known or to crash.

    Raises:
        Throttled: The service asked to slow down.
        ControlPlaneUnavailable: The service did not answer, or failed.
    """
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in THROTTLING_CODES:
            raise Throttled(f"{service} asks to slow down ({code}); try again") from error
        if code in UNAVAILABLE_CODES:
            raise ControlPlaneUnavailable(f"{service} failed ({code}); try again") from error
        raise
    except (HTTPClientError, NotConnected) as error:
        raise ControlPlaneUnavailable(f"{service} did not answer: {error}; try again") from error


class Clients:
    """The SDK clients of one region. One botocore session serves them all, so shared data is loaded once."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.session = botocore.session.get_session()

    def _client(
        self, service: str, *, region: str | None = None, read_seconds: float = READ_SECONDS, attempts: int = 3
    ) -> Any:
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=read_seconds,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            signature_version="s3v4" if service == "s3" else None,
        )
        return self.session.create_client(service, region_name=region or self.region, config=config)

    @cached_property
    def ec2(self) -> EC2Client:
        """EC2."""
        return cast("EC2Client", self._client("ec2", read_seconds=EC2_READ_SECONDS))

    @cached_property
    def step_functions(self) -> SFNClient:
        """Step Functions."""
        return cast("SFNClient", self._client("stepfunctions"))

    @cached_property
    def ssm(self) -> SSMClient:
        """Parameter store."""
        return cast("SSMClient", self._client("ssm"))

    @cached_property
    def s3(self) -> S3Client:
        """S3."""
        return cast("S3Client", self._client("s3"))

    @cached_property
    def functions(self) -> LambdaClient:
        """Lambda."""
        return cast("LambdaClient", self._client("lambda"))

    @cached_property
    def deciding(self) -> LambdaClient:
        """Lambda, for a decision that is waited for; somebody waits for who waits, so it is asked once."""
        return cast("LambdaClient", self._client("lambda", read_seconds=DECISION_SECONDS, attempts=1))

    @cached_property
    def kms(self) -> Any:
        """KMS."""
        return self._client("kms")

    @cached_property
    def elb(self) -> Any:
        """Elastic Load Balancing."""
        return self._client("elbv2")

    @cached_property
    def route53(self) -> Any:
        """Route 53."""
        return self._client("route53")

    @cached_property
    def advisor(self) -> S3Client:
        """S3, where the Spot Instance Advisor's feed lies; asked once, as the Price List is."""
        return cast("S3Client", self._client("s3", region=ADVISOR_REGION, attempts=1))

    @cached_property
    def pricing(self) -> Any:
        """The Price List, asked once: who asks it can wait for the next time."""
        return self._client("pricing", region=PRICE_LIST_REGION, attempts=1)

    @cached_property
    def quotas(self) -> Any:
        """Service Quotas, asked once: what it does not tell is a finding."""
        return self._client("service-quotas", attempts=1)

    @cached_property
    def waited_for_functions(self) -> LambdaClient:
        """Lambda, for functions whose answer is waited for, and which are not asked twice."""
        return cast("LambdaClient", self._client("lambda", read_seconds=WAITED_FOR_SECONDS, attempts=1))
