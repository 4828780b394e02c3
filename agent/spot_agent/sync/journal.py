"""How a generation is written down on the standby's disk.

A *delta* says all that a generation changes: its entries with their block hashes, and what it removes. It is written
as a *record* (length, checksum, content), so that a half-written one is recognised. The blocks themselves lie beside
it: those of changed files in a journal of the chunks as they arrived, new files complete in the staging folders.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import xxhash

from spot_agent.sync.blocks import PartialHashes, block_count
from spot_agent.sync.errors import ImageDamaged, ProtocolViolated
from spot_agent.sync.frames import (
    LONGEST_PAYLOAD,
    PREFIX,
    Blocks,
    Frame,
    check_lengths,
    decode_blocks,
    decode_header,
    encode_frame,
    unpack,
)
from spot_agent.sync.manifest import (
    EMPTY,
    Entry,
    HashForm,
    Key,
    Kind,
    Listed,
    Manifest,
    Reader,
    encode_key,
    encode_listed,
)

_RECORD: Final = struct.Struct("<Q16s")
_COUNTS: Final = struct.Struct("<III")


@dataclass(frozen=True)
class Generation:
    """A committed generation.

    Attributes:
        number: As the primary counted.
        epoch: The primary's epoch when it was taken.
        root_hash: Stands for every name, metadata and byte of it.
        final_for: Handover id if it was the last one of a handover.
        taken_at: Epoch seconds by the primary's clock, just before it was read.
        extra: What travelled along: configuration, prices, switch history.
        settled: Whether it is an image of one point in time.
        entry_count: Files, folders and links.
        total_bytes: Of all files.
    """

    number: int
    epoch: int
    root_hash: str
    final_for: str | None
    taken_at: float
    extra: Mapping[str, Any]
    settled: bool
    entry_count: int
    total_bytes: int

    @property
    def order(self) -> tuple[int, int]:
        """Later generations have greater ones."""
        return self.epoch, self.number


@dataclass(frozen=True)
class Delta:
    """What a generation changes.

    Attributes:
        generation: Which one.
        base: Root hash of the one before; None if it stands alone.
        staging: Name of its folder in the staging folders.
        staged_inside: Per watched path whether its staging folder is in it, rather than beside it.
        listed: Set entries, ordered by key.
        removed: Removed entries.
    """

    generation: Generation
    base: str | None
    staging: str
    staged_inside: tuple[bool, ...]
    listed: tuple[Listed, ...]
    removed: tuple[Key, ...]


def after(delta: Delta, before: Manifest | None) -> Manifest:
    """The manifest that results from a delta.

    Raises:
        ImageDamaged: The delta does not fit what was there, or the result is not what it promises.
    """
    if delta.base != (before.root_hash if before is not None and delta.base is not None else None):
        raise ImageDamaged(f"generation {delta.generation.number} was made for another one than the disk holds")
    former = before if delta.base is not None and before is not None else EMPTY
    result = former.changed({listed.key: resolve(listed, former) for listed in delta.listed}, delta.removed)
    if result.root_hash != delta.generation.root_hash:
        raise ImageDamaged(f"generation {delta.generation.number} does not add up to its root hash")
    return result


def resolve(listed: Listed, former: Manifest) -> Entry:
    """The complete entry, with the hashes that the list leaves out."""
    entry = listed.entry
    if entry.kind is not Kind.FILE or listed.form is HashForm.WHOLE:
        return entry
    known = PartialHashes()
    for index, digest in listed.changes:
        known.put(index, [digest])
    base = former.file(listed.moved_from or listed.key)
    hashes = known.over(base.hashes if base is not None else b"", count=block_count(entry.size, entry.block_size))
    if hashes is None:
        raise ImageDamaged(f"{listed.key}: some block hashes are missing")
    return with_hashes(entry, hashes)


def with_hashes(entry: Entry, hashes: bytes) -> Entry:
    return Entry(
        entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, entry.block_size, hashes, entry.target
    )


def whole_delta(generation: Generation, manifest: Manifest) -> Delta:
    """The delta that makes a manifest from nothing; nothing of it is staged."""
    listed = tuple(Listed(key, entry) for key, entry in sorted(manifest.items()))
    return Delta(generation, None, "", (), listed, ())


def encode_record(delta: Delta) -> list[bytes]:
    """A delta as a record, in parts."""
    generation = delta.generation
    header = json.dumps(
        {
            "number": generation.number,
            "epoch": generation.epoch,
            "root": generation.root_hash,
            "final_for": generation.final_for,
            "taken_at": generation.taken_at,
            "extra": generation.extra,
            "settled": generation.settled,
            "entries": generation.entry_count,
            "bytes": generation.total_bytes,
            "base": delta.base,
            "staging": delta.staging,
            "inside": delta.staged_inside,
        }
    ).encode()
    parts = [_COUNTS.pack(len(header), len(delta.listed), len(delta.removed)), header]
    parts += [encode_listed(listed) for listed in delta.listed]
    parts += [encode_key(key) for key in delta.removed]
    content = b"".join(parts)
    return [_RECORD.pack(len(content), xxhash.xxh3_128_digest(content)), content]


def decode_records(content: bytes, *, roots: int) -> Iterator[tuple[Delta, int]]:
    """The deltas of consecutive records and where each ends, up to the first one that is not whole."""
    position = 0
    while position + _RECORD.size <= len(content):
        length, checksum = _RECORD.unpack_from(content, position)
        start = position + _RECORD.size
        body = content[start : start + length]
        if len(body) < length or xxhash.xxh3_128_digest(body) != checksum:
            return
        position = start + length
        try:
            yield _decode(body, roots=roots), position
        except (ProtocolViolated, KeyError, TypeError, ValueError) as foreign:
            raise ImageDamaged("the store was written for other watched paths, or by another version") from foreign


def append_chunk(journal: BinaryIO, frame: Frame) -> None:
    """Write a chunk down as it arrived."""
    journal.write(encode_frame(frame))
    journal.write(frame.payload)


def read_chunks(journal: BinaryIO, *, roots: int) -> Iterator[Blocks]:
    """All blocks in a journal, in the order in which they arrived.

    Raises:
        ImageDamaged: It is not what was written.
    """
    try:
        while prefix := journal.read(PREFIX.size):
            header_length, payload_length = check_lengths(prefix, longest_payload=LONGEST_PAYLOAD)
            header = decode_header(journal.read(header_length))
            yield from decode_blocks(unpack(str(header["coding"]), journal.read(payload_length)), roots=roots)
    except (ProtocolViolated, KeyError, struct.error) as spoiled:
        raise ImageDamaged("the journal of the committed generation is broken") from spoiled


def _decode(body: bytes, *, roots: int) -> Delta:
    header_length, listed_count, removed_count = _COUNTS.unpack_from(body)
    start = _COUNTS.size + header_length
    header = json.loads(body[_COUNTS.size : start])
    reader = Reader(memoryview(body)[start:], roots=roots)
    listed = tuple(reader.listed() for _ in range(listed_count))
    removed = tuple(reader.key() for _ in range(removed_count))
    generation = Generation(
        number=header["number"],
        epoch=header["epoch"],
        root_hash=header["root"],
        final_for=header["final_for"],
        taken_at=header["taken_at"],
        extra=header["extra"],
        settled=header["settled"],
        entry_count=header["entries"],
        total_bytes=header["bytes"],
    )
    return Delta(generation, header["base"], header["staging"], tuple(header["inside"]), listed, removed)
