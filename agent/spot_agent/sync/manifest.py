"""What a tree contains, and one hash that stands for all of it.

The root hash is the sum of one 512-bit hash per entry. A sum does not depend on order and can be changed by what was
added and taken away, so a generation that touches three files of 100,000 costs three hashes, not 100,000.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import xxhash

from spot_agent.sync.blocks import HASH_BYTES, LARGEST_FILE, MOST_BLOCKS, block_count, is_block_size
from spot_agent.sync.errors import ProtocolViolated

_MODULUS: Final = 1 << 512
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4096
_PERMISSIONS: Final = 0o7777
_LARGEST_ID: Final = 0xFFFFFFFE  # the one above means "leave it" to chown

# Beside, or in, a watched path lies the folder in which the next generation is staged. It is never part of the image.
STAGING_NAME: Final = b".spot-optimizer-staging"


class Key(NamedTuple):
    """Where an entry belongs: number of the watched path, and the path below it (empty for the watched path itself)."""

    root: int
    path: bytes

    @property
    def parent(self) -> Key:
        """The folder that holds it. A watched path itself has none."""
        return Key(self.root, self.path.rpartition(b"/")[0])

    def __str__(self) -> str:
        return f"watched path {self.root}: {os.fsdecode(self.path)!r}"


class Kind(IntEnum):
    """What can be carried. Sockets, pipes and devices are not state and are passed over."""

    FILE = 1
    FOLDER = 2
    LINK = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or symbolic link.

    Attributes:
        kind: Which of the three.
        mode: Permission bits; 0o777 for links.
        uid: Owner.
        gid: Group.
        mtime_ns: Last modification, nanoseconds since the epoch.
        size: Bytes of a file; 0 otherwise.
        block_size: Bytes per block of a file; 0 otherwise.
        hashes: The hashes of a file's blocks, one after the other.
        target: Where a link points, as it is written in it.
        content: Hash over `hashes`, so that long lists are hashed once.
    """

    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    block_size: int = 0
    hashes: bytes = b""
    target: bytes = b""
    content: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", xxhash.xxh3_128_digest(self.hashes) if self.hashes else b"")

    def same_content(self, other: Entry) -> bool:
        """Whether both are files with the same bytes, cut into the same blocks."""
        return (
            self.kind is other.kind is Kind.FILE
            and (self.size, self.block_size, self.content) == (other.size, other.block_size, other.content)
            and self.hashes == other.hashes
        )


class Manifest:
    """All entries of the watched paths at one point in time; immutable."""

    __slots__ = ("_entries", "_sum", "total_bytes")

    def __init__(self, entries: Mapping[Key, Entry]) -> None:
        self._entries: dict[Key, Entry] = dict(entries)
        self._sum = sum(_digest(key, entry) for key, entry in self._entries.items()) % _MODULUS
        self.total_bytes = sum(entry.size for entry in self._entries.values())

    @property
    def root_hash(self) -> str:
        """Equal for equal trees, different for different ones; lower-case hex."""
        content = len(self._entries).to_bytes(8, "little") + self._sum.to_bytes(64, "little")
        return hashlib.blake2b(content, digest_size=32).hexdigest()

    def changed(self, changed: Mapping[Key, Entry], removed: Iterable[Key]) -> Manifest:
        """The manifest that results when some entries are set and others, which exist, are removed."""
        result = Manifest.__new__(Manifest)
        entries = dict(self._entries)
        total, size = self._sum, self.total_bytes
        for key in removed:
            gone = entries.pop(key)
            total -= _digest(key, gone)
            size -= gone.size
        for key, entry in changed.items():
            before = entries.get(key)
            if before is not None:
                total -= _digest(key, before)
                size -= before.size
            entries[key] = entry
            total += _digest(key, entry)
            size += entry.size
        result._entries, result._sum, result.total_bytes = entries, total % _MODULUS, size  # noqa: SLF001  own class
        return result

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def file(self, key: Key) -> Entry | None:
        """The entry if it is a file."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.kind is Kind.FILE else None

    def items(self) -> Iterable[tuple[Key, Entry]]:
        return self._entries.items()

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self._entries == other._entries

    def __hash__(self) -> int:
        return hash(self._sum)


EMPTY: Final = Manifest({})


class HashForm(IntEnum):
    """How the block hashes of a file are written down."""

    DERIVED = 0  # not at all: the reader has them from the file's former entry and from the blocks that it got
    WHOLE = 1
    CHANGED = 2  # only those that differ from the former entry's


class Listed(NamedTuple):
    """An entry as it stands in a list of changes.

    Attributes:
        key: Where it belongs now.
        entry: What it is; `hashes` is empty unless `form` is WHOLE.
        form: How the hashes are given.
        changes: For CHANGED: index and hash of each changed block.
        moved_from: The former place of a file that was renamed.
        staged: On the standby's disk: number of the file, already complete, that waits to be moved there.
    """

    key: Key
    entry: Entry
    form: HashForm = HashForm.WHOLE
    changes: tuple[tuple[int, bytes], ...] = ()
    moved_from: Key | None = None
    staged: int | None = None


_ENTRY: Final = struct.Struct("<BIIIqQIBBI")
_KEY: Final = struct.Struct("<HH")
_CHANGE: Final = struct.Struct(f"<I{HASH_BYTES}s")
_COUNT: Final = struct.Struct("<I")
_NOT_STAGED: Final = 0xFFFFFFFF


def encode_key(key: Key) -> bytes:
    return _KEY.pack(key.root, len(key.path)) + key.path


def encode_listed(listed: Listed) -> bytes:
    """Write one listed entry down; `decode_listed` is the inverse."""
    entry = listed.entry
    parts = [
        encode_key(listed.key),
        _ENTRY.pack(
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            entry.size,
            entry.block_size,
            listed.form,
            listed.moved_from is not None,
            _NOT_STAGED if listed.staged is None else listed.staged,
        ),
    ]
    if entry.kind is Kind.LINK:
        parts += [_COUNT.pack(len(entry.target)), entry.target]
    if listed.moved_from is not None:
        parts.append(encode_key(listed.moved_from))
    if listed.form is HashForm.WHOLE:
        parts.append(entry.hashes)
    elif listed.form is HashForm.CHANGED:
        parts.append(_COUNT.pack(len(listed.changes)))
        parts += [_CHANGE.pack(index, digest) for index, digest in listed.changes]
    return b"".join(parts)


class Reader:
    """Reads what the encoders wrote, and trusts none of it.

    Args:
        content: The bytes.
        roots: How many watched paths there are.
    """

    def __init__(self, content: bytes | memoryview, *, roots: int) -> None:
        self._content = memoryview(content)
        self._position = 0
        self._roots = roots

    @property
    def exhausted(self) -> bool:
        return self._position >= len(self._content)

    def take(self, length: int) -> memoryview:
        end = self._position + length
        if end > len(self._content):
            raise ProtocolViolated(f"{end - len(self._content)} bytes are missing at the end of a list")
        part = self._content[self._position : end]
        self._position = end
        return part

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def key(self) -> Key:
        root, length = self.numbers(_KEY)
        key = Key(root, bytes(self.take(length)))
        check_key(key, roots=self._roots)
        return key

    def listed(self) -> Listed:
        """The next entry.

        Raises:
            ProtocolViolated: It is not one that a primary could have written.
        """
        key = self.key()
        kind, mode, uid, gid, mtime_ns, size, block_size, form, moved, staged = self.numbers(_ENTRY)
        if kind == Kind.LINK and not key.path:
            # Whoever finds the watched path anew follows it, so it would lead out of it.
            raise ProtocolViolated(f"{key}: a watched path is no link")
        if kind not in tuple(Kind) or form not in tuple(HashForm) or moved not in (0, 1):
            raise ProtocolViolated(f"{key}: kind {kind}, hash form {form} or move flag {moved} does not exist")
        if mode & ~_PERMISSIONS or uid > _LARGEST_ID or gid > _LARGEST_ID:
            raise ProtocolViolated(f"{key}: mode {mode:o}, owner {uid} or group {gid} is out of range")
        target = self._target(key) if kind == Kind.LINK else b""
        if kind == Kind.FILE:
            _check_size(key, size, block_size)
        elif size or block_size or form != HashForm.WHOLE or moved:
            raise ProtocolViolated(f"{key}: only a file has a size, blocks and a former place")
        moved_from = self.key() if moved else None
        hashes = b""
        changes: tuple[tuple[int, bytes], ...] = ()
        if kind == Kind.FILE and form == HashForm.WHOLE:
            hashes = bytes(self.take(HASH_BYTES * block_count(size, block_size)))
        elif form == HashForm.CHANGED:
            changes = self._changes()
        entry = Entry(Kind(kind), mode, uid, gid, mtime_ns, size, block_size, hashes, target)
        return Listed(key, entry, HashForm(form), changes, moved_from, None if staged == _NOT_STAGED else staged)

    def _target(self, key: Key) -> bytes:
        (length,) = self.numbers(_COUNT)
        if not 1 <= length <= _LONGEST_PATH:
            raise ProtocolViolated(f"{key}: the target of a link has 1 to {_LONGEST_PATH} bytes, not {length}")
        target = bytes(self.take(length))
        if b"\0" in target:
            raise ProtocolViolated(f"{key}: the target of a link contains a zero byte")
        return target

    def _changes(self) -> tuple[tuple[int, bytes], ...]:
        (count,) = self.numbers(_COUNT)
        part = self.take(count * _CHANGE.size)
        return tuple(_CHANGE.iter_unpack(part))


def check_key(key: Key, *, roots: int) -> None:
    """Refuse a place outside of the watched paths.

    Raises:
        ProtocolViolated: It is.
    """
    if not 0 <= key.root < roots:
        raise ProtocolViolated(f"watched path {key.root} does not exist; there are {roots}")
    if not key.path:
        return
    names = key.path.split(b"/")
    if len(key.path) > _LONGEST_PATH or b"\0" in key.path:
        raise ProtocolViolated(f"{key}: too long, or with a zero byte")
    if any(not name or name in (b".", b"..") or len(name) > _LONGEST_NAME for name in names):
        raise ProtocolViolated(f"{key}: every part must be a plain name of at most {_LONGEST_NAME} bytes")
    if names[0].startswith(STAGING_NAME):
        raise ProtocolViolated(f"{key}: this name is reserved for staging")


def split[T](items: Iterable[T], encode: Callable[[T], bytes], *, limit: int) -> Iterator[bytes]:
    """Encode items into pieces of about `limit` bytes."""
    piece = bytearray()
    for item in items:
        piece += encode(item)
        if len(piece) >= limit:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _check_size(key: Key, size: int, block_size: int) -> None:
    if size > LARGEST_FILE or not is_block_size(block_size) or block_count(size, block_size) > MOST_BLOCKS:
        raise ProtocolViolated(f"{key}: {size} bytes in blocks of {block_size} can not be carried")


def _digest(key: Key, entry: Entry) -> int:
    content = b"".join(
        (
            encode_key(key),
            _ENTRY.pack(
                entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, entry.block_size, 0, 0, 0
            ),
            entry.content,
            entry.target,
        )
    )
    return int.from_bytes(hashlib.blake2b(content).digest(), "little")
