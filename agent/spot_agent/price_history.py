"""AWS's spot price history, asked with the credentials of the instance's own role, if it has one.

One read-only call of EC2's query API does not warrant an SDK in a process that must stay small, so the request is
signed here, as the IAM user guide has it under "Create a signed AWS API request"; a test compares botocore's signature.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

import httpx

from spot_agent.imds import Credentials
from spot_optimizer.errors import Transient

ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL")
PRODUCT: Final = "Linux/UNIX"

_API_VERSION: Final = "2016-11-15"
_PAGES_AT_MOST: Final = 50
_TIMEOUT: Final = httpx.Timeout(10.0, connect=3.0)
_FORM: Final = "application/x-www-form-urlencoded; charset=utf-8"


class PriceHistoryUnavailable(Transient):
    """EC2 gave no answer that can be used; the message says what it said instead."""


@dataclass(frozen=True, slots=True)
class PublishedPrice:
    """From this moment on, a pool costs so much.

    Attributes:
        pool_id: As `spot_optimizer.domain.pools` names it.
        usd_per_hour: A decimal number, as AWS wrote it.
    """

    pool_id: str
    changed_at: datetime
    usd_per_hour: str


class PriceHistory:
    """EC2 in one region."""

    def __init__(self, endpoint: str, region: str) -> None:
        """Keep the address; nothing is asked yet.

        Args:
            endpoint: Such as `https://ec2.us-east-1.amazonaws.com`.
            region: Such as `us-east-1`.
        """
        self._endpoint = endpoint.rstrip("/") + "/"
        self._region = region
        self._http = httpx.Client(timeout=_TIMEOUT)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def published(
        self, instance_types: Sequence[str], *, since: datetime, credentials: Credentials, now: datetime
    ) -> list[PublishedPrice]:
        """Every price of these types in every zone since a moment, with the one that was in force then.

        Args:
            instance_types: One or more.
            since: From when on.
            credentials: Must allow `ec2:DescribeSpotPriceHistory`, and nothing else.
            now: By this instance's clock; EC2 refuses what differs by more than five minutes.

        Raises:
            PriceHistoryUnavailable: No answer, or a refusal.
        """
        asked = {
            "Action": "DescribeSpotPriceHistory",
            "Version": _API_VERSION,
            "StartTime": _iso(since),
            "ProductDescription.1": PRODUCT,
            "MaxResults": "1000",
            **{f"InstanceType.{number}": name for number, name in enumerate(instance_types, start=1)},
        }
        found: list[PublishedPrice] = []
        following = ""
        for _ in range(_PAGES_AT_MOST):
            page = self._ask({**asked, "NextToken": following} if following else asked, credentials, now)
            found += _rows(page)
            following = page.findtext("{*}nextToken") or ""
            if not following:
                return found
        raise PriceHistoryUnavailable(f"EC2's answer has more than {_PAGES_AT_MOST} pages; ask for fewer types")

    def _ask(self, parameters: Mapping[str, str], credentials: Credentials, now: datetime) -> ET.Element:
        body = urlencode(parameters)
        headers = signed_headers(self._endpoint, body, region=self._region, credentials=credentials, now=now)
        try:
            response = self._http.post(self._endpoint, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise PriceHistoryUnavailable(f"no answer from {self._endpoint} ({error!r})") from error
        try:
            document = ET.fromstring(response.text)  # noqa: S314 - from EC2, over TLS
        except ET.ParseError as error:
            raise PriceHistoryUnavailable(f"EC2 answered {response.status_code} with no XML") from error
        if not response.is_success:
            code = document.findtext(".//{*}Code") or document.findtext(".//Code") or "no code"
            raise PriceHistoryUnavailable(f"EC2 answered {response.status_code}: {code}")
        return document


def signed_headers(
    url: str, body: str, *, region: str, credentials: Credentials, now: datetime, service: str = "ec2"
) -> dict[str, str]:
    """Headers that make a POST one of the credentials' owner: AWS Signature Version 4.

    Args:
        url: Without a query.
        body: As it is sent.
        region: Of the endpoint.
        credentials: Who asks.
        now: Goes into the signature.
        service: As the signature names it.
    """
    parts = urlsplit(url)
    at = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "content-type": _FORM,
        "host": parts.netloc,
        "x-amz-date": at,
        "x-amz-security-token": credentials.token,
    }
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        (
            "POST",
            parts.path or "/",
            "",
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            names,
            hashlib.sha256(body.encode()).hexdigest(),
        )
    )
    scope = f"{at[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join(("AWS4-HMAC-SHA256", at, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _rows(document: ET.Element) -> Iterator[PublishedPrice]:
    for item in document.findall("{*}spotPriceHistorySet/{*}item"):
        zone, instance_type, price, moment = (
            item.findtext(f"{{*}}{name}") for name in ("availabilityZone", "instanceType", "spotPrice", "timestamp")
        )
        if not (zone and instance_type and price and moment):
            raise PriceHistoryUnavailable("a row of EC2's price history is not understood: something is missing")
        try:
            changed_at = datetime.fromisoformat(moment)
        except ValueError as error:
            raise PriceHistoryUnavailable(f"a time in EC2's price history is not understood: {moment!r}") from error
        yield PublishedPrice(f"{zone}.{instance_type}", changed_at, price)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
