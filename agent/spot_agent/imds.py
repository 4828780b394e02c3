"""The instance metadata service, version 2 only: what this instance is, and whether AWS wants it back.

Source: the EC2 user guide, "Use the Instance Metadata Service" and "Spot Instance interruption notices".
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import httpx

from spot_optimizer.errors import Transient

ENDPOINT_VARIABLE: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
DEFAULT_ENDPOINT: Final = "http://169.254.169.254"

_TOKEN_SECONDS: Final = 21600
_TIMEOUT: Final = httpx.Timeout(2.0, connect=1.0)


class MetadataUnreachable(Transient):
    """The metadata service gave no answer that can be used; in a container, check the hop limit (2)."""


class NoticeUnreadable(Transient):
    """There is a notice, and it cannot be understood; AWS has been seen to correct itself, so read it again."""


@dataclass(frozen=True, slots=True)
class InterruptionNotice:
    """AWS takes this instance back.

    Attributes:
        action: `terminate`, `stop` or `hibernate`.
        at: When.
    """

    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RebalanceRecommendation:
    """AWS finds an interruption more likely than usual, since `at`."""

    at: datetime


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """Who this instance is, and the proof.

    Attributes:
        document: As AWS signed it, byte for byte.
        signature: Base64, of the SHA-256 with RSA.
    """

    document: str
    signature: str
    instance_id: str
    instance_type: str
    availability_zone: str
    region: str
    account_id: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of the instance's role.

    Attributes:
        expires_at: When others must be asked for.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Addresses:
    """Private addresses of the primary network interface.

    Attributes:
        control: The primary one: for the control plane and for the replication link.
        serving: The one that an Elastic IP leads to: the first secondary one, or the primary where there is none.
    """

    control: str
    serving: str


class Imds:
    """A session with the metadata service. Safe to use from several threads."""

    def __init__(self, endpoint: str) -> None:
        """Keep the address; nothing is asked yet.

        Args:
            endpoint: Such as `http://169.254.169.254`.
        """
        # A proxy from the environment would see the instance's credentials.
        self._http = httpx.Client(base_url=endpoint, timeout=_TIMEOUT, trust_env=False)
        self._lock = threading.Lock()
        self._token: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def interruption_notice(self, *, now: datetime) -> InterruptionNotice | None:
        """Whether AWS takes this instance back.

        Args:
            now: A notice for an earlier moment than this is left over from before a stop, and is none.

        Raises:
            MetadataUnreachable: No answer.
            NoticeUnreadable: There is one, and it is not understood.
        """
        answer = self._read("/latest/meta-data/spot/instance-action")
        if answer is None:
            return None
        notice = parse_interruption_notice(answer)
        return notice if notice.at >= now else None

    def rebalance_recommendation(self) -> RebalanceRecommendation | None:
        """Whether an interruption is more likely than usual.

        Raises:
            MetadataUnreachable: No answer.
            NoticeUnreadable: There is a recommendation, and it is not understood.
        """
        answer = self._read("/latest/meta-data/events/recommendations/rebalance")
        return None if answer is None else parse_rebalance_recommendation(answer)

    def identity(self) -> InstanceIdentity:
        """Who this instance is.

        Raises:
            MetadataUnreachable: No answer, or none that can be read.
        """
        document = self._require("/latest/dynamic/instance-identity/document")
        signature = self._require("/latest/dynamic/instance-identity/signature")
        try:
            fields = json.loads(document)
            return InstanceIdentity(
                document=document,
                signature=signature.strip(),
                instance_id=fields["instanceId"],
                instance_type=fields["instanceType"],
                availability_zone=fields["availabilityZone"],
                region=fields["region"],
                account_id=fields["accountId"],
            )
        except (ValueError, LookupError, TypeError) as error:
            raise MetadataUnreachable(
                f"the identity document is not understood ({error}): found {document[:200]!r}"
            ) from error

    def addresses(self) -> Addresses:
        """The private addresses of this instance.

        Raises:
            MetadataUnreachable: No answer.
        """
        control = self._require("/latest/meta-data/local-ipv4").strip()
        mac = self._read("/latest/meta-data/mac")
        listed = None
        if mac is not None:
            listed = self._read(f"/latest/meta-data/network/interfaces/macs/{mac.strip()}/local-ipv4s")
        secondary = [address for address in (listed or "").split() if address != control]
        return Addresses(control=control, serving=secondary[0] if secondary else control)

    def role_credentials(self) -> Credentials | None:
        """Credentials of the role in this instance's profile; None without a profile.

        Raises:
            MetadataUnreachable: No answer, or none that can be read.
        """
        role = self._read("/latest/meta-data/iam/security-credentials/")
        answer = None if not role else self._read(f"/latest/meta-data/iam/security-credentials/{role.split()[0]}")
        if answer is None:
            return None
        try:
            fields = json.loads(answer)
            return Credentials(
                access_key_id=fields["AccessKeyId"],
                secret_access_key=fields["SecretAccessKey"],
                token=fields["Token"],
                expires_at=datetime.fromisoformat(fields["Expiration"]),
            )
        except (ValueError, LookupError, TypeError) as error:
            # Nothing of the answer goes into the message: it holds a secret.
            raise MetadataUnreachable(f"the role's credentials are not understood ({type(error).__name__})") from None

    def domain(self) -> str:
        """The domain of AWS's services in this partition, such as `amazonaws.com`.

        Raises:
            MetadataUnreachable: No answer.
        """
        return (self._read("/latest/meta-data/services/domain") or "amazonaws.com").strip()

    def user_data(self) -> str | None:
        """What the instance was launched with; None if nothing.

        Raises:
            MetadataUnreachable: No answer.
        """
        return self._read("/latest/user-data")

    def _require(self, path: str) -> str:
        answer = self._read(path)
        if answer is None:
            raise MetadataUnreachable(f"{path} is not there (404); expected on every instance")
        return answer

    def _read(self, path: str) -> str | None:
        """What is at a path; None if there is nothing (404)."""
        token = self._current_token()
        answer = self._get(path, token)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # the token has expired, or the host changed
            answer = self._get(path, self._current_token(instead_of=token))
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code != httpx.codes.OK:
            raise MetadataUnreachable(f"{path} answered {answer.status_code}; expected 200 or 404")
        return answer.text

    def _get(self, path: str, token: str) -> httpx.Response:
        try:
            return self._http.get(path, headers={"X-aws-ec2-metadata-token": token})
        except httpx.HTTPError as error:
            raise MetadataUnreachable(f"{path}: no answer from {self._http.base_url} ({error!r})") from error

    def _current_token(self, *, instead_of: str | None = None) -> str:
        with self._lock:
            if self._token is None or self._token == instead_of:
                try:
                    answer = self._http.put(
                        "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
                    )
                except httpx.HTTPError as error:
                    raise MetadataUnreachable(f"no token from {self._http.base_url} ({error!r})") from error
                if answer.status_code != httpx.codes.OK:
                    raise MetadataUnreachable(f"asking for a token answered {answer.status_code}; expected 200")
                self._token = answer.text.strip()
            return self._token


def parse_interruption_notice(answer: str) -> InterruptionNotice:
    """Read `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`.

    Raises:
        NoticeUnreadable: It is something else.
    """
    fields = _parse_object(answer)
    action = fields.get("action")
    if not isinstance(action, str):
        raise NoticeUnreadable(f"found {answer[:200]!r}; expected an action")
    return InterruptionNotice(action=action, at=_parse_moment(fields.get("time"), answer))


def parse_rebalance_recommendation(answer: str) -> RebalanceRecommendation:
    """Read `{"noticeTime": "2020-10-27T08:22:00Z"}`.

    Raises:
        NoticeUnreadable: It is something else.
    """
    return RebalanceRecommendation(at=_parse_moment(_parse_object(answer).get("noticeTime"), answer))


def _parse_object(answer: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(answer)
    except ValueError as error:
        raise NoticeUnreadable(f"found {answer[:200]!r}; expected a JSON object") from error
    if not isinstance(fields, dict):
        raise NoticeUnreadable(f"found {answer[:200]!r}; expected a JSON object")
    return fields


def _parse_moment(value: object, answer: str) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise NoticeUnreadable(f"found {answer[:200]!r}; expected a time such as 2017-09-18T08:22:00Z") from error
    if moment.tzinfo is None:
        raise NoticeUnreadable(f"found {answer[:200]!r}; expected a time with a zone")
    return moment
