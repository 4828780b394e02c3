"""Where snapshots lie: S3, one object each, uploaded in parts and read by URLs that carry their own permission.

A URL is bound to one part: to its number, its exact size and its SHA-256. S3 itself refuses anything else, so that what
is complete is what the agent meant. (Amazon S3 API reference: UploadPart, CompleteMultipartUpload.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.adapters.signed_uploads import sign_upload
from spot_optimizer.control.snapshots import Download, Part, PartUpload, UploadedPart
from spot_optimizer.domain.snapshots import SnapshotKind, object_key
from spot_optimizer.errors import SnapshotIncomplete, SnapshotUnknown

UPLOAD_VALID_FOR = timedelta(minutes=15)
DOWNLOAD_VALID_FOR = timedelta(hours=1)

_WRONG_PARTS = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "BadDigest", "InvalidRequest"})

_NOT_THERE = frozenset({"403", "404", "AccessDenied", "Forbidden", "NoSuchKey", "NotFound"})


class S3SnapshotObjects:
    """Implements `control.snapshots.SnapshotObjects`.

    Args:
        clients: SDK clients.
        bucket: Tells the bucket; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, bucket: Callable[[], str]) -> None:
        self._clients = clients
        self._bucket = bucket

    def _at(self, agent_id: str, snapshot_id: str, kind: SnapshotKind) -> Any:
        return {"Bucket": self._bucket(), "Key": object_key(agent_id, snapshot_id, kind)}

    def begin(self, agent_id: str, snapshot_id: str, kind: SnapshotKind) -> str:
        """Begin an upload, encrypted at rest; its id."""
        with service_failures("S3"):
            answer = self._clients.s3.create_multipart_upload(
                **self._at(agent_id, snapshot_id, kind), ChecksumAlgorithm="SHA256", ServerSideEncryption="AES256"
            )
        return str(answer["UploadId"])

    def sign_parts(
        self,
        agent_id: str,
        snapshot_id: str,
        kind: SnapshotKind,
        *,
        upload_id: str,
        parts: Sequence[Part],
        now: datetime,
    ) -> tuple[PartUpload, ...]:
        """Sign the upload of some parts."""
        uploads = []
        for part in parts:
            request = {
                **self._at(agent_id, snapshot_id, kind),
                "UploadId": upload_id,
                "PartNumber": part.number,
                "ContentLength": part.size_bytes,
                "ChecksumSHA256": part.sha256,
            }
            signed = sign_upload(self._clients.s3, "upload_part", request, now=now, valid_for=UPLOAD_VALID_FOR)
            uploads.append(PartUpload(part.number, signed.url, signed.headers, signed.expires_at))
        return tuple(uploads)

    def complete(
        self, agent_id: str, snapshot_id: str, kind: SnapshotKind, *, upload_id: str, parts: Sequence[UploadedPart]
    ) -> int:
        """Put the parts together, or find that this was done; the object's size.

        Raises:
            SnapshotIncomplete: A part is missing, or is another one.
            SnapshotUnknown: No such upload, and no such object.
        """
        try:
            with service_failures("S3"):
                self._clients.s3.complete_multipart_upload(
                    **self._at(agent_id, snapshot_id, kind),
                    UploadId=upload_id,
                    MultipartUpload={
                        "Parts": [
                            {"PartNumber": part.number, "ETag": part.etag, "ChecksumSHA256": part.sha256}
                            for part in parts
                        ]
                    },
                )
        except ClientError as error:
            code = error_code(error)
            if code in _WRONG_PARTS:
                raise SnapshotIncomplete(
                    f"snapshot {snapshot_id} can not be put together ({code}); expected every part uploaded as it was "
                    f"announced; upload what is missing, or begin again"
                ) from error
            if code != "NoSuchUpload":
                raise
        return self._size(agent_id, snapshot_id, kind)

    def sign_download(self, agent_id: str, snapshot_id: str, kind: SnapshotKind, *, now: datetime) -> Download:
        """Sign the reading of a snapshot."""
        url = self._clients.s3.generate_presigned_url(
            "get_object",
            Params=self._at(agent_id, snapshot_id, kind),
            ExpiresIn=int(DOWNLOAD_VALID_FOR.total_seconds()),
            HttpMethod="GET",
        )
        return Download(url, now + DOWNLOAD_VALID_FOR)

    def _size(self, agent_id: str, snapshot_id: str, kind: SnapshotKind) -> int:
        try:
            with service_failures("S3"):
                head = self._clients.s3.head_object(**self._at(agent_id, snapshot_id, kind))
        except ClientError as error:
            # Without the right to list the bucket, what is not there is forbidden.
            if error_code(error) in _NOT_THERE:
                raise SnapshotUnknown(
                    f"no upload of snapshot {snapshot_id} is under way; expected the upload_id of its beginning; begin "
                    f"again"
                ) from error
            raise
        return int(head["ContentLength"])
