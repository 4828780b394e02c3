"""Generations as files: written part by part for an upload, and read back into a standby's store.

A snapshot is the frames that a standby would have been sent, one after the other. Spooled to disk, it is read at the
disk's pace whatever the network does, and a part that did not get through is sent again as it was.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from spot_agent.sync.durable import sync_folder, write_durably
from spot_agent.sync.errors import GenerationRefused, GenerationUnsound, ImageDamaged, ProtocolViolated, StorageFailed
from spot_agent.sync.frames import LONGEST_PAYLOAD, PREFIX, Frame, Header, check_lengths, decode_header, encode_frame
from spot_agent.sync.generations import Generation, GenerationStore
from spot_agent.sync.journal import after, decode_records, encode_record, whole_delta
from spot_agent.sync.link import receive_frames
from spot_agent.sync.manifest import Manifest
from spot_agent.sync.source import OutgoingGeneration

#: S3 takes parts of 5 MiB to 5 GiB, at most 10,000 of them; they grow, so that a large state fits as well.
PART_BYTES: Final = 16 << 20
_PARTS_OF_ONE_SIZE: Final = 1000
LEAST_FREE_SHARE: Final = 0.03
_MOMENT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a spooled snapshot.

    Attributes:
        number: From 1.
        sha256: Base64, as S3 has it.
        etag: What S3 answered when it was uploaded; None before that.
    """

    number: int
    size_bytes: int
    sha256: str
    etag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """A snapshot that lies on this disk, whole.

    Attributes:
        epoch: Of the primary that took it.
        previous_id: The snapshot that it changes; None for a base.
        taken_at: Epoch seconds by this instance's clock.
        frozen: The workload acknowledged nothing any more.
        upload_id: Of the upload that has begun.
    """

    epoch: int
    generation: int
    previous_id: str | None
    taken_at: float
    frozen: bool
    root_hash: str
    state_bytes: int
    parts: tuple[Part, ...]
    upload_id: str | None = None

    @property
    def size_bytes(self) -> int:
        """Of all parts together."""
        return sum(part.size_bytes for part in self.parts)


class Spool:
    """One folder with at most one snapshot that waits to be uploaded, and what the newest uploaded one contains."""

    def __init__(self, folder: Path, *, roots: int, least_free_share: float = LEAST_FREE_SHARE) -> None:
        """Take up what an earlier process left.

        Args:
            folder: Made if missing, outside of the watched paths.
            roots: How many paths are watched.
            least_free_share: Of the disk; so much is left to a workload that runs.
        """
        self._least_free_share = least_free_share
        self._folder = folder
        self._roots = roots
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.waiting: Spooled | None = self._load()
        if self.waiting is None:
            self.drop()

    def write(
        self,
        generation: OutgoingGeneration,
        *,
        previous_id: str | None,
        frozen: bool,
        deadline: float,
        part_bytes: int = PART_BYTES,
    ) -> Spooled:
        """Write a generation to the disk as it is read; whole and durable when this returns.

        Raises:
            GenerationUnsound: It could not be read, or not soundly.
            TimeoutError: It was not read in time.
            StorageFailed: The disk did not take it.
        """
        self.drop()
        try:
            with contextlib.ExitStack() as opened:
                parts = opened.enter_context(contextlib.closing(_PartWriter(self._draft(), part_bytes)))
                for frame in generation.frames(deadline=deadline):
                    parts.add(frame)
                    if not frozen:
                        self._leave_room()
                written = parts.finish()
            manifest = generation.wait_until_read(_MOMENT)
            spooled = Spooled(
                epoch=generation.epoch,
                generation=generation.number,
                previous_id=previous_id,
                taken_at=generation.taken_at,
                frozen=frozen,
                root_hash=manifest.root_hash,
                state_bytes=manifest.total_bytes,
                parts=written,
            )
            self._write_manifest(self._folder / "manifest", spooled, manifest)
            self.note(spooled)
        except OSError as broken:
            self.drop()
            raise StorageFailed(f"the snapshot could not be spooled: {broken}") from broken
        except BaseException:
            self.drop()
            raise
        return spooled

    def note(self, spooled: Spooled) -> None:
        """Make durable how far its upload is."""
        draft = self._folder / "snapshot.draft"
        write_durably(draft, [json.dumps(asdict(spooled)).encode()])
        draft.rename(self._folder / "snapshot.json")
        sync_folder(self._folder)
        self.waiting = spooled

    def uploaded(self, part: Part, *, etag: str) -> None:
        """Note that a part arrived, and let go of it."""
        if self.waiting is None:
            return
        parts = tuple(replace(each, etag=etag) if each.number == part.number else each for each in self.waiting.parts)
        self.note(replace(self.waiting, parts=parts))
        self.part(part.number).unlink(missing_ok=True)

    def part(self, number: int) -> Path:
        """Where a part lies."""
        return self._folder / "parts" / str(number)

    def is_whole(self, part: Part) -> bool:
        """Whether a part still is what it was when it was written."""
        try:
            with self.part(part.number).open("rb") as source:
                return base64.b64encode(hashlib.file_digest(source, "sha256").digest()).decode() == part.sha256
        except OSError:
            return False

    def complete(self, chain: Mapping[str, Any]) -> None:
        """The waiting snapshot is uploaded: the next delta changes it.

        Args:
            chain: What the caller wants to know of it after a restart; JSON-able.
        """
        draft = self._folder / "chain.draft"
        write_durably(draft, [json.dumps(dict(chain)).encode()])
        # In this order: a chain without its manifest would be taken for one that goes on.
        (self._folder / "chain.json").unlink(missing_ok=True)
        (self._folder / "manifest").rename(self._folder / "held")
        draft.rename(self._folder / "chain.json")
        sync_folder(self._folder)
        self.drop()

    def held(self) -> tuple[Mapping[str, Any], Manifest] | None:
        """What was told of the newest complete snapshot, and what it contains; None if that is not known."""
        try:
            chain = json.loads((self._folder / "chain.json").read_bytes())
            content = (self._folder / "held").read_bytes()
            delta, _ = next(decode_records(content, roots=self._roots), (None, 0))
            return None if delta is None else (chain, after(delta, None))
        except (OSError, ValueError, ImageDamaged):
            return None

    def forget(self) -> None:
        """The next snapshot begins a chain."""
        for name in ("chain.json", "held"):
            (self._folder / name).unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """Give up the waiting snapshot."""
        self.waiting = None
        for name in ("snapshot.json", "manifest"):
            (self._folder / name).unlink(missing_ok=True)
        shutil.rmtree(self._folder / "parts", ignore_errors=True)

    def _leave_room(self) -> None:
        disk = os.statvfs(self._folder)
        if disk.f_bavail < self._least_free_share * disk.f_blocks:
            raise StorageFailed(
                f"the snapshot would leave less than {self._least_free_share:.0%} of the disk free, which the workload "
                f"may need; expected room for one compressed copy of the state in {self._folder}"
            )

    def _draft(self) -> Path:
        folder = self._folder / "parts"
        folder.mkdir(mode=0o700)
        return folder

    def _write_manifest(self, file: Path, spooled: Spooled, manifest: Manifest) -> None:
        generation = Generation(
            number=spooled.generation,
            epoch=spooled.epoch,
            root_hash=spooled.root_hash,
            final_for=None,
            taken_at=spooled.taken_at,
            extra={},
            settled=True,
            entry_count=len(manifest),
            total_bytes=manifest.total_bytes,
        )
        write_durably(file, encode_record(whole_delta(generation, manifest)))

    def _load(self) -> Spooled | None:
        try:
            said = json.loads((self._folder / "snapshot.json").read_bytes())
            spooled = Spooled(**{**said, "parts": tuple(Part(**part) for part in said["parts"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        there = all(part.etag is not None or self.part(part.number).exists() for part in spooled.parts)
        return spooled if there and (self._folder / "manifest").exists() else None


class _PartWriter:
    """Cuts a stream of frames into parts."""

    def __init__(self, folder: Path, part_bytes: int) -> None:
        self._folder = folder
        self._part_bytes = part_bytes
        self._parts: list[Part] = []
        self._out: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0

    def add(self, frame: Frame) -> None:
        for piece in (encode_frame(frame), frame.payload):
            if self._out is None:
                self._out = (self._folder / str(len(self._parts) + 1)).open("wb")
            self._out.write(piece)
            self._hash.update(piece)
            self._size += len(piece)
        if self._size >= self._part_bytes * (1 + len(self._parts) // _PARTS_OF_ONE_SIZE):
            self._end_part()

    def finish(self) -> tuple[Part, ...]:
        self._end_part()
        sync_folder(self._folder)
        return tuple(self._parts)

    def close(self) -> None:
        if self._out is not None:
            self._out.close()

    def _end_part(self) -> None:
        if self._out is None:
            return
        # Not fsynced: a part that a crash cut off has another checksum, which is looked at before it is uploaded.
        self._out.close()
        self._out = None
        digest = base64.b64encode(self._hash.digest()).decode()
        self._parts.append(Part(len(self._parts) + 1, self._size, digest))
        self._hash, self._size = hashlib.sha256(), 0


def restore_chain(store: GenerationStore, files: Sequence[tuple[str, Path]]) -> Generation:
    """Bring a store to the end of a chain of snapshots; what it holds of the chain already is not applied again.

    Args:
        store: A standby's store, or a fresh one.
        files: Root hash and file of a base, then of its deltas.

    Returns:
        The last generation of the chain that could be restored, committed and applied.

    Raises:
        ImageDamaged: Not even the first can be restored.
        StorageFailed: The disk did not take it; try again.
    """
    held = store.manifest()
    # The last place at which the chain is what is held: between two snapshots nothing may have changed.
    begin = (
        0 if held is None else max((at for at, (root, _) in enumerate(files, 1) if root == held.root_hash), default=0)
    )
    if begin and not _follow(store, files[begin:], may_stop=False):
        begin = 0
    if not begin:
        _follow(store, files, may_stop=True)
    current = store.current()
    if current is None:
        raise ImageDamaged("there is no snapshot to restore")
    return current


def _follow(store: GenerationStore, files: Sequence[tuple[str, Path]], *, may_stop: bool) -> bool:
    """Take one snapshot after the other; whether all of them, or as far as it goes if it may stop there.

    Raises:
        ImageDamaged: It may stop, and not even the first can be used.
    """
    for taken, (_, file) in enumerate(files):
        try:
            with file.open("rb") as source:
                _receive(store, source)
        except (GenerationRefused, ProtocolViolated, GenerationUnsound, ImageDamaged) as unusable:
            if may_stop and not taken:
                raise ImageDamaged(f"the snapshot {file.name} can not be used: {unusable}") from unusable
            return may_stop
    return True


def _receive(store: GenerationStore, source: BinaryIO) -> None:
    frames = _read_frames(source)
    begin = next(frames, None)
    if begin is None or begin.kind != "begin":
        raise ProtocolViolated("the snapshot does not begin as one")
    incoming = store.receive(Header(begin.header), decode_header(begin.payload), restoring=True)

    def next_frame() -> Frame:
        frame = next(frames, None)
        if frame is None:
            raise ProtocolViolated("the snapshot ends too early")
        return frame

    try:
        if receive_frames(next_frame, incoming) is None:
            raise ProtocolViolated("the snapshot was given up while it was taken")
    finally:
        incoming.drop()
    store.apply_pending()


def _read_frames(source: BinaryIO) -> Iterator[Frame]:
    while prefix := source.read(PREFIX.size):
        if len(prefix) < PREFIX.size:
            raise ProtocolViolated("the snapshot ends within a frame")
        header_length, payload_length = check_lengths(prefix, longest_payload=LONGEST_PAYLOAD)
        header = decode_header(source.read(header_length))
        payload = source.read(payload_length)
        if len(payload) < payload_length:
            raise ProtocolViolated("the snapshot ends within a frame")
        yield Frame(header, payload)
