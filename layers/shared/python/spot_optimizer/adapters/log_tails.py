"""Where agents put the tail of their log before their machine goes: S3, by URLs that carry their own permission."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.adapters.signed_uploads import SignedUpload, sign_upload

VALID_FOR = timedelta(minutes=5)
PREFIX = "log-tails"


class S3LogTails:
    """Signs uploads of log tails.

    Args:
        clients: SDK clients.
        bucket: Tells the bucket; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, bucket: Callable[[], str]) -> None:
        self._clients = clients
        self._bucket = bucket

    def destination(self, *, agent_id: str, instance_id: str, size_bytes: int, now: datetime) -> SignedUpload:
        """Sign one upload of exactly this size, encrypted at rest."""
        request = {
            "Bucket": self._bucket(),
            "Key": f"{PREFIX}/{agent_id}/{instance_id}/{now:%Y%m%dT%H%M%S}Z.jsonl",
            "ContentType": "application/x-ndjson",
            "ServerSideEncryption": "AES256",
            "ContentLength": size_bytes,
        }
        return sign_upload(self._clients.s3, "put_object", request, now=now, valid_for=VALID_FOR)
