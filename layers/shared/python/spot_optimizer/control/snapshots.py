"""Snapshots as agents drive them: begin or go on with an upload, complete it, and find what to restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spot_optimizer.control.plane import Plane
from spot_optimizer.domain import snapshots
from spot_optimizer.domain.snapshots import Snapshot, SnapshotKind
from spot_optimizer.errors import ConditionFailed, OutcomeUnknown, SnapshotIncomplete, SnapshotUnknown

TRIES = 4


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload, as it is announced.

    Attributes:
        number: From 1.
        sha256: Base64.
    """

    number: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that was uploaded.

    Attributes:
        etag: What S3 answered to the upload.
    """

    number: int
    size_bytes: int
    sha256: str
    etag: str


@dataclass(frozen=True, slots=True)
class PartUpload:
    """Where one part may be put, by PUT, with these headers."""

    number: int
    url: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Download:
    """Where a snapshot may be read."""

    url: str
    expires_at: datetime


class SnapshotRows(Protocol):
    """The rows of complete snapshots; they are written by transactions."""

    def snapshot(self, agent_id: str, snapshot_id: str) -> Snapshot | None:
        """One row, read consistently."""
        ...

    def snapshots(self, agent_id: str) -> tuple[Snapshot, ...]:
        """All rows of an agent, read consistently."""
        ...


class SnapshotObjects(Protocol):
    """Where snapshots lie."""

    def begin(self, agent_id: str, snapshot_id: str, kind: SnapshotKind) -> str:
        """Begin an upload; its id."""
        ...

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
        ...

    def complete(
        self, agent_id: str, snapshot_id: str, kind: SnapshotKind, *, upload_id: str, parts: Sequence[UploadedPart]
    ) -> int:
        """Put the parts together, or find that this was done; the object's size.

        Raises:
            SnapshotIncomplete: A part is missing, or is another one.
            SnapshotUnknown: No such upload, and no such object.
        """
        ...

    def sign_download(self, agent_id: str, snapshot_id: str, kind: SnapshotKind, *, now: datetime) -> Download:
        """Sign the reading of a snapshot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A snapshot as the primary describes it once all of it is uploaded."""

    epoch: int
    generation: int
    previous_id: str | None
    taken_at: datetime
    frozen: bool
    root_hash: str
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that is under way."""

    snapshot_id: str
    upload_id: str
    uploads: tuple[PartUpload, ...]


@dataclass(frozen=True, slots=True)
class Restorable:
    """One step of a restore: what it is, and where it is read."""

    snapshot: Snapshot
    download: Download


def begin(
    plane: Plane,
    rows: SnapshotRows,
    objects: SnapshotObjects,
    agent_id: str,
    *,
    instance_id: str,
    epoch: int,
    generation: int,
    previous_id: str | None,
    upload_id: str | None,
    parts: Sequence[Part],
) -> Begun:
    """Begin the upload of a snapshot, or go on with it: sign the upload of these parts.

    Raises:
        StaleEpoch: The caller is not the primary of the present epoch.
        AgentLost: The agent was given up.
        SnapshotOutOfOrder: It does not follow the newest one.
    """
    agent = plane.records.agent(agent_id)
    snapshots.check_begin(agent, instance_id=instance_id, epoch=epoch)
    snapshot_id = snapshots.snapshot_id_for(epoch=epoch, generation=generation)
    previous = rows.snapshot(agent_id, previous_id) if previous_id is not None else None
    now = plane.clock()
    kind, _, _ = snapshots.joined_to(agent, previous, previous_id=previous_id, snapshot_id=snapshot_id, now=now)
    upload_id = upload_id or objects.begin(agent_id, snapshot_id, kind)
    uploads = objects.sign_parts(agent_id, snapshot_id, kind, upload_id=upload_id, parts=parts, now=now)
    return Begun(snapshot_id, upload_id, uploads)


def complete(
    plane: Plane,
    rows: SnapshotRows,
    objects: SnapshotObjects,
    agent_id: str,
    snapshot_id: str,
    *,
    instance_id: str,
    taken: Taken,
    upload_id: str,
    parts: Sequence[UploadedPart],
) -> Snapshot:
    """Count a snapshot as complete: all of its parts are there. Completing it again gives the same answer.

    Raises:
        StaleEpoch: The caller is not the primary of the present epoch.
        AgentLost: The agent was given up.
        SnapshotUnknown: The id is not that of the generation, or nothing was uploaded.
        SnapshotOutOfOrder: It does not follow the newest one.
        SnapshotIncomplete: Parts are missing, or are not what was announced.
        OutcomeUnknown: Ask again.
    """
    if snapshot_id != snapshots.snapshot_id_for(epoch=taken.epoch, generation=taken.generation):
        raise SnapshotUnknown(f"'{snapshot_id}' is not the snapshot of generation {taken.generation}")
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        snapshots.check_begin(agent, instance_id=instance_id, epoch=taken.epoch)
        done = rows.snapshot(agent_id, snapshot_id)
        if done is not None:
            return done
        previous = rows.snapshot(agent_id, taken.previous_id) if taken.previous_id is not None else None
        now = plane.clock()
        kind, base_id, expires_at = snapshots.joined_to(
            agent, previous, previous_id=taken.previous_id, snapshot_id=snapshot_id, now=now
        )
        expected = sum(part.size_bytes for part in parts)
        size = objects.complete(agent_id, snapshot_id, kind, upload_id=upload_id, parts=parts)
        if size != expected:
            raise SnapshotIncomplete(
                f"snapshot {snapshot_id} has {size} bytes; its parts were said to have {expected}; begin again"
            )
        snapshot = Snapshot(
            agent_id=agent_id,
            snapshot_id=snapshot_id,
            kind=kind,
            epoch=taken.epoch,
            generation=taken.generation,
            instance_id=instance_id,
            base_id=base_id,
            previous_id=taken.previous_id,
            taken_at=taken.taken_at,
            completed_at=now,
            frozen=taken.frozen,
            root_hash=taken.root_hash,
            size_bytes=size,
            state_bytes=taken.state_bytes,
            expires_at=expires_at,
        )
        try:
            plane.records.commit(snapshots.complete(agent, snapshot))
        except (ConditionFailed, OutcomeUnknown):
            continue
        return snapshot
    raise OutcomeUnknown(f"snapshot {snapshot_id} has no known outcome yet; complete it again")


def find(
    plane: Plane, rows: SnapshotRows, objects: SnapshotObjects, agent_id: str, *, at: datetime | None
) -> tuple[Restorable, ...]:
    """Find what has to be restored, in this order, for the newest state, or for that of an earlier moment.

    Raises:
        AgentUnknown: No such agent.
        SnapshotUnknown: There is none, or none that old.
    """
    plane.records.agent(agent_id)
    now = plane.clock()
    chain = snapshots.chain_at(rows.snapshots(agent_id), at=at, now=now)
    if not chain:
        raise SnapshotUnknown(
            f"agent {agent_id} has no snapshot{'' if at is None else f' of {at.isoformat()} or before'}; snapshots are "
            f"taken while no standby is ready, and kept for {snapshots.KEPT_FOR.days} days"
        )
    return tuple(
        Restorable(step, objects.sign_download(agent_id, step.snapshot_id, step.kind, now=now)) for step in chain
    )
