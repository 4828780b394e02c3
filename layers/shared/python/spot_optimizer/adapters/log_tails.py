"""Where agents put the tail of their log before their machine goes: S3, by URLs that carry their own permission."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer.adapters.sessions import Clients

VALID_FOR = timedelta(minutes=5)
PREFIX = "log-tails"


@dataclass(frozen=True, slots=True)
class Destination:
    """A place to put something, and the headers that must go with it."""

    url: str
    headers: Mapping[str, str]
    expires_at: datetime


class S3LogTails:
    """Signs uploads of log tails.

    Args:
        clients: SDK clients.
        bucket: Tells the bucket; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, bucket: Callable[[], str]) -> None:
        self._clients = clients
        self._bucket = bucket

    def destination(self, *, agent_id: str, instance_id: str, size_bytes: int, now: datetime) -> Destination:
        """Sign one upload of exactly this size, encrypted at rest."""
        signed: dict[str, Any] = {
            "Bucket": self._bucket(),
            "Key": f"{PREFIX}/{agent_id}/{instance_id}/{now:%Y%m%dT%H%M%S}Z.jsonl",
            "ContentType": "application/x-ndjson",
            "ServerSideEncryption": "AES256",
            "ContentLength": size_bytes,
        }
        headers = {
            "content-type": "application/x-ndjson",
            "content-length": str(size_bytes),
            "x-amz-server-side-encryption": "AES256",
        }
        url = self._clients.s3.generate_presigned_url(
            "put_object", Params=signed, ExpiresIn=int(VALID_FOR.total_seconds()), HttpMethod="PUT"
        )
        return Destination(url, headers, now + VALID_FOR)
