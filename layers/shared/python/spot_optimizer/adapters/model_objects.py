"""The files of uploaded models: S3, written by URLs that accept exactly the bytes that were announced."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection
from datetime import datetime

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.adapters.signed_uploads import sign_upload
from spot_optimizer.domain.model_sessions import UPLOAD_WITHIN
from spot_optimizer.domain.models import Manifest, ModelFile
from spot_optimizer.errors import ModelRejected, UploadIncomplete
from spot_optimizer.ports import Upload

PREFIX = "sessions"
MANIFEST = "manifest.json"
LARGEST_MANIFEST_BYTES = 1024 * 1024
_SERVICE = "S3"
_ABSENT = ("NoSuchKey", "AccessDenied")
"""Without the right to list the bucket, what is not there is forbidden."""


class S3ModelFiles:
    """Implements `ModelFiles`.

    Args:
        clients: SDK clients.
        bucket: Tells the bucket; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, bucket: Callable[[], str]) -> None:
        self._clients = clients
        self._bucket = bucket

    def put_manifest(self, session_id: str, manifest: Manifest) -> None:
        """Keep the manifest."""
        with service_failures(_SERVICE):
            self._clients.s3.put_object(
                Bucket=self._bucket(),
                Key=_key(session_id, MANIFEST),
                Body=manifest.as_json().encode(),
                ContentType="application/json",
                ServerSideEncryption="AES256",
            )

    def manifest(self, session_id: str) -> Manifest:
        """Raises: ModelRejected."""
        try:
            return Manifest.from_json(self.read(session_id, MANIFEST, at_most_bytes=LARGEST_MANIFEST_BYTES))
        except UploadIncomplete as missing:
            raise ModelRejected(f"session {session_id} has no manifest; open a new session") from missing

    def sign_upload(self, session_id: str, file: ModelFile, *, now: datetime) -> Upload:
        """Sign one upload, bound to the file's size and checksum."""
        request = {
            "Bucket": self._bucket(),
            "Key": _key(session_id, file.name),
            "ContentLength": file.size_bytes,
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(file.sha256)).decode(),
            "ServerSideEncryption": "AES256",
        }
        signed = sign_upload(self._clients.s3, "put_object", request, now=now, valid_for=UPLOAD_WITHIN)
        return Upload(file.name, signed.url, signed.headers, signed.expires_at)

    def missing(self, session_id: str, names: Collection[str]) -> tuple[str, ...]:
        """Those of the files that are not there."""
        there = set(self._names(session_id))
        return tuple(sorted(set(names) - there))

    def read(self, session_id: str, name: str, *, at_most_bytes: int) -> bytes:
        """A file's content, cut off behind `at_most_bytes`.

        Raises:
            UploadIncomplete: It is not there.
        """
        with service_failures(_SERVICE):
            try:
                answer = self._clients.s3.get_object(Bucket=self._bucket(), Key=_key(session_id, name))
            except ClientError as error:
                if error_code(error) in _ABSENT:
                    raise UploadIncomplete(f"session {session_id} has no '{name}'; upload it") from error
                raise
            with answer["Body"] as body:
                return bytes(body.read(at_most_bytes))

    def delete(self, session_id: str) -> None:
        """Delete all of a session's files; again is no error."""
        names = self._names(session_id)
        if names:
            with service_failures(_SERVICE):
                self._clients.s3.delete_objects(
                    Bucket=self._bucket(),
                    Delete={"Objects": [{"Key": _key(session_id, name)} for name in names], "Quiet": True},
                )

    def session_ids(self) -> tuple[str, ...]:
        """Sessions that have files, some thousand at most."""
        with service_failures(_SERVICE):
            found = self._clients.s3.list_objects_v2(Bucket=self._bucket(), Prefix=f"{PREFIX}/", Delimiter="/")
        return tuple(each["Prefix"].split("/")[1] for each in found.get("CommonPrefixes", []))

    def _names(self, session_id: str) -> list[str]:
        prefix = _key(session_id, "")
        with service_failures(_SERVICE):
            found = self._clients.s3.list_objects_v2(Bucket=self._bucket(), Prefix=prefix)
        return [each["Key"].removeprefix(prefix) for each in found.get("Contents", [])]


def _key(session_id: str, name: str) -> str:
    return f"{PREFIX}/{session_id}/{name}"
