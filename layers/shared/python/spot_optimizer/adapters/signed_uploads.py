"""Uploads to S3 by URLs that carry their own permission, and are bound to what was announced of the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_HEADERS: Mapping[str, str] = {
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ContentLength": "content-length",
    "ContentType": "content-type",
    "ServerSideEncryption": "x-amz-server-side-encryption",
}


@dataclass(frozen=True, slots=True)
class SignedUpload:
    """Where something may be put, by PUT, and the headers that must go with it: S3 refuses any others."""

    url: str
    headers: Mapping[str, str]
    expires_at: datetime


def sign_upload(
    s3: S3Client,
    operation: Literal["put_object", "upload_part"],
    request: Mapping[str, Any],
    *,
    now: datetime,
    valid_for: timedelta,
) -> SignedUpload:
    """Sign one upload.

    Args:
        s3: Whose permission the URL carries.
        operation: Of S3.
        request: Its parameters, without a body; those that travel as headers are signed as such.
        now: When.
        valid_for: How long the URL may be used.
    """
    url = s3.generate_presigned_url(
        operation, Params=dict(request), ExpiresIn=int(valid_for.total_seconds()), HttpMethod="PUT"
    )
    headers = {_HEADERS[name]: str(value) for name, value in request.items() if name in _HEADERS}
    return SignedUpload(url, headers, now + valid_for)
