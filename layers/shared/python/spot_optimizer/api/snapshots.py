"""Requests and answers of the calls about snapshots."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from spot_optimizer.api.fields import Answer, Body, Epoch, Flag, Moment, Number, SnapshotWord
from spot_optimizer.control import snapshots
from spot_optimizer.control.snapshots import Begun, Restorable, Taken, UploadedPart
from spot_optimizer.domain.snapshots import Snapshot, SnapshotKind

MOST_PARTS = 10_000
PARTS_AT_ONCE = 100
LARGEST_PART = 2**29

PartNumber = Annotated[int, Field(strict=True, ge=1, le=MOST_PARTS)]
PartSize = Annotated[int, Field(strict=True, ge=1, le=LARGEST_PART)]
Sha256 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$", description="Base64, as S3 has it.")]
UploadId = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z0-9._~+/=-]+$")]
ETag = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
RootHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PartRequest(Body):
    """A part that is going to be uploaded."""

    number: PartNumber
    size_bytes: PartSize
    sha256: Sha256

    def part(self) -> snapshots.Part:
        """In the domain's words."""
        return snapshots.Part(self.number, self.size_bytes, self.sha256)


class SnapshotRequest(Body):
    """A primary wants to upload a snapshot, or more parts of one."""

    epoch: Epoch
    generation: Number
    previous_id: SnapshotWord | None = Field(default=None, description="What a delta changes; none for a base.")
    upload_id: UploadId | None = Field(default=None, description="Of the upload to go on with; none to begin one.")
    parts: Annotated[tuple[PartRequest, ...], Field(min_length=1, max_length=PARTS_AT_ONCE)]


class PartAnswer(Answer):
    """Where a part may be put, by PUT, with these headers."""

    number: int
    url: str
    headers: dict[str, str]
    expires_at: Moment


class SnapshotUploadAnswer(Answer):
    """An upload that is under way."""

    snapshot_id: str
    upload_id: str
    uploads: tuple[PartAnswer, ...]

    @classmethod
    def of(cls, begun: Begun) -> SnapshotUploadAnswer:
        """From the domain's words."""
        return cls.model_validate(begun)


class UploadedPartRequest(Body):
    """A part that was uploaded."""

    number: PartNumber
    size_bytes: PartSize
    sha256: Sha256
    etag: ETag

    def part(self) -> UploadedPart:
        """In the domain's words."""
        return UploadedPart(self.number, self.size_bytes, self.sha256, self.etag)


class CompleteRequest(Body):
    """All parts of a snapshot are uploaded."""

    epoch: Epoch
    generation: Number
    previous_id: SnapshotWord | None = None
    upload_id: UploadId
    taken_at: Moment
    frozen: Flag = False
    root_hash: RootHash
    state_bytes: Number
    parts: Annotated[tuple[UploadedPartRequest, ...], Field(min_length=1, max_length=MOST_PARTS)]

    @model_validator(mode="after")
    def _counts_its_parts(self) -> CompleteRequest:
        if [part.number for part in self.parts] != list(range(1, len(self.parts) + 1)):
            raise ValueError("parts numbered from 1, in order, without a gap")
        return self

    def taken(self) -> Taken:
        """In the domain's words."""
        return Taken(
            epoch=self.epoch,
            generation=self.generation,
            previous_id=self.previous_id,
            taken_at=self.taken_at,
            frozen=self.frozen,
            root_hash=self.root_hash,
            state_bytes=self.state_bytes,
        )


class SnapshotAnswer(Answer):
    """A complete snapshot."""

    agent_id: str
    snapshot_id: str
    kind: SnapshotKind
    epoch: int
    generation: int
    base_id: str
    previous_id: str | None
    taken_at: Moment
    completed_at: Moment
    frozen: bool
    root_hash: str
    size_bytes: int
    state_bytes: int
    expires_at: Moment

    @classmethod
    def of(cls, snapshot: Snapshot) -> SnapshotAnswer:
        """From the row."""
        return cls.model_validate(snapshot)


class RestorableAnswer(Answer):
    """One step of a restore, and where it is read, by GET."""

    snapshot: SnapshotAnswer
    url: str
    url_expires_at: Moment


class RestoreAnswer(Answer):
    """What has to be restored, in this order: a base, then its deltas."""

    steps: tuple[RestorableAnswer, ...]

    @classmethod
    def of(cls, steps: tuple[Restorable, ...]) -> RestoreAnswer:
        """From the domain's words."""
        return cls(
            steps=tuple(
                RestorableAnswer(
                    snapshot=SnapshotAnswer.of(step.snapshot),
                    url=step.download.url,
                    url_expires_at=step.download.expires_at,
                )
                for step in steps
            )
        )
