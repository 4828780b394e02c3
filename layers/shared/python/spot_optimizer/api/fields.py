"""Fields that requests share: every string and number is bounded, and unknown fields are refused."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated

from aws_lambda_powertools.event_handler.openapi.params import Header, Path, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from spot_optimizer.errors import InvalidRequest

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(3000, 1, 1, tzinfo=UTC)


def _check_printable(text: str) -> str:
    # What one tenant writes stands in an operator's terminal, which obeys what can not be seen.
    if not text.isprintable():
        raise ValueError("printable characters")
    return text


Printable = AfterValidator(_check_printable)


class Body(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PauseRequest(Body):
    """Nothing is to be changed from now on."""

    reason: Annotated[
        str, Field(min_length=1, max_length=200, description="For everybody who finds it paused."), Printable
    ]


class Answer(BaseModel):
    """What a caller is told. Whoever reads it should pass over what it does not know."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class PauseAnswer(Answer):
    """Whether anything may be changed."""

    paused_at: AwareDatetime | None
    paused_because: str | None


def _check_moment(moment: datetime) -> datetime:
    # Whatever is added to one in reason, or taken from it, is a time still.
    if not EARLIEST <= moment <= LATEST:
        raise ValueError(f"a time between {EARLIEST.year} and {LATEST.year}")
    return moment


_IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9.-]*$"
_SNAPSHOT = r"^[0-9]{10}-[0-9]{16}$"

AgentId = Annotated[str, Path(min_length=1, max_length=64, pattern=_IDENTIFIER)]
ReplicaId = Annotated[str, Path(min_length=1, max_length=64, pattern=_IDENTIFIER)]
HandoverId = Annotated[str, Path(min_length=1, max_length=96, pattern=_IDENTIFIER)]
SnapshotPath = Annotated[str, Path(pattern=_SNAPSHOT)]
CommandId = Annotated[str, Path(min_length=1, max_length=64, pattern=_IDENTIFIER)]
ClientPath = Annotated[str, Path(min_length=1, max_length=40, pattern=_IDENTIFIER)]
TokenPath = Annotated[str, Path(min_length=1, max_length=64, pattern=_IDENTIFIER)]

Cursor = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=128, description="The same key makes a repeated call the same call."),
]

Epoch = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Number = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Flag = Annotated[bool, Field(strict=True)]
Seconds = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]
SyncInterval = Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=100), Printable]
Version = Annotated[str, Field(max_length=40), Printable]
Reason = Annotated[str, Field(max_length=200), Printable]
Moment = Annotated[AwareDatetime, AfterValidator(_check_moment)]

InstanceId = Annotated[str, Field(pattern=r"^i-[0-9a-f]{8,17}$", examples=["i-0123456789abcdef0"])]
LaunchTemplateId = Annotated[str, Field(pattern=r"^lt-[0-9a-f]{8,17}$", max_length=20)]
SubnetId = Annotated[str, Field(pattern=r"^subnet-[0-9a-zA-Z]{1,17}$", max_length=24)]
TrafficTarget = Annotated[
    str,
    Field(
        min_length=1,
        max_length=300,
        description="What the adapter moves: `eip` an allocation id, `target-group` its ARN, `route53` ZONE_ID/NAME.",
        examples=["eipalloc-0123456789abcdef0", "Z0123456789ABCDEFGHIJ/db.example.com"],
    ),
]
InstanceType = Annotated[str, Field(pattern=r"^[a-z0-9-]{2,20}\.[a-z0-9-]{2,20}$")]
PoolId = Annotated[str, Field(pattern=r"^[a-z0-9-]{5,40}\.[a-z0-9-]{2,20}\.[a-z0-9-]{2,20}$")]
Zone = Annotated[str, Field(pattern=r"^[a-z0-9-]{5,40}$")]
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=_IDENTIFIER)]
SnapshotWord = Annotated[str, Field(pattern=_SNAPSHOT)]
Address = Annotated[str, Field(pattern=r"^[0-9a-fA-F:.]{2,45}$", examples=["10.0.1.10"])]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Certificate = Annotated[
    str,
    Field(
        min_length=64,
        max_length=8192,
        pattern=r"^-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\s*$",
        description="PEM of the self-signed certificate that the peer pins.",
    ),
]


class Problem(BaseModel):
    """Why a call was refused (RFC 9457)."""

    type: str = Field(description="A URN whose last segment is the failure's name, such as `StaleEpoch`.")
    title: str
    status: int
    detail: str = Field(description="What was wrong, what was expected, and what to do.")
    request_id: str = Field(description="To be named when asking for help.")
    field: str | None = Field(default=None, description="Path of the offending field.")
    expected: str | None = Field(default=None, description="What would have been accepted.")
    current_epoch: int | None = Field(default=None, description="Of a stale epoch: the agent's epoch now.")


def cursor_after(last: str | None) -> str | None:
    """Write where a page ended; callers should not read it."""
    return None if last is None else base64.urlsafe_b64encode(last.encode()).decode()


def read_cursor(cursor: str | None) -> str | None:
    """Read where the page before ended.

    Raises:
        InvalidRequest: It is none of ours.
    """
    if not cursor:
        return None
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            "the cursor is not one of ours", field="cursor", expected="`next_cursor` of the page before, or none"
        ) from None
