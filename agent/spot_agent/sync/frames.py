"""Frames: what travels on a connection, and what lies in a journal.

A frame is a JSON header and a binary payload, each with its length before it. Every length has a limit that is checked
before anything is allocated. Headers are read through `Header`, which refuses what is missing, of another type or out
of range.

Protocol version 1. `PrimaryLink` speaks first on each connection with `hello` (agent, replica, epoch, channel, session
and the versions that it speaks); the answer is `welcome` with the version chosen and what is held, or `refused`. Then:

| channel | from the primary | from the standby |
|---|---|---|
| control | `ask` (lease), `ping`, `confirm` | `reply`, `pong` |
| data | `describe` | `entries`..., `described` |
| data | `begin`, `chunk`..., `entries`..., `removed`..., `end` or `abort` | `committed` or `refused` |

A chunk carries blocks of one or more files: per file its key, its block size and runs of consecutive blocks. Its
`into` says what the standby does with them: `stage` writes new files at once to where they wait for the commit,
`journal` keeps changes of existing files until the commit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import zstandard

from spot_agent.sync.blocks import LARGEST_BLOCK, MOST_BLOCKS, block_count, is_block_size
from spot_agent.sync.errors import ProtocolViolated, VersionNotSpoken
from spot_agent.sync.manifest import Key, Reader, encode_key

# The newest first. An agent speaks its own version and the one before, so that agents can be upgraded one by one.
SPOKEN_VERSIONS: Final = (1,)

PREFIX: Final = struct.Struct("<II")
LONGEST_HEADER: Final = 64 << 10
LONGEST_PAYLOAD: Final = 32 << 20
SMALL_PAYLOAD: Final = 64 << 10
CHUNK_BYTES: Final = 1 << 20
LONGEST_EXTRA: Final = 1 << 20
# The year 9999: later moments are none.
_LATEST_SECONDS: Final = 253_402_300_799
_LARGEST_CHUNK: Final = 4 * LARGEST_BLOCK

_GROUP: Final = struct.Struct("<II")
_RUN: Final = struct.Struct("<IBQ")


class Frame(NamedTuple):
    """One message."""

    header: Mapping[str, Any]
    payload: bytes | bytearray | memoryview = b""

    @property
    def kind(self) -> str:
        return str(self.header.get("type"))


class Header:
    """Reads the fields of a header that somebody else wrote."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def text(self, name: str, *, longest: int = 256) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or len(value) > longest:
            raise ProtocolViolated(f"{name!r} must be a text of at most {longest} characters")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._fields.get(name) is None else self.text(name)

    def number(self, name: str, *, most: int = (1 << 63) - 1) -> int:
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise ProtocolViolated(f"{name!r} must be a whole number from 0 to {most}")
        return value

    def seconds(self, name: str) -> float:
        value = self._fields.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _LATEST_SECONDS:
            raise ProtocolViolated(f"{name!r} must be seconds, from 0 to below {_LATEST_SECONDS}")
        return float(value)

    def optional_seconds(self, name: str) -> float | None:
        return None if self._fields.get(name) is None else self.seconds(name)

    def flag(self, name: str) -> bool:
        value = self._fields.get(name)
        if not isinstance(value, bool):
            raise ProtocolViolated(f"{name!r} must be true or false")
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        value = self._fields.get(name)
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value) or len(value) > 100:
            raise ProtocolViolated(f"{name!r} must be a short list of whole numbers")
        return tuple(value)


def encode_header(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def decode_header(content: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Parse the JSON of a header.

    Raises:
        ProtocolViolated: It is no JSON object.
    """
    try:
        header = json.loads(bytes(content))
    except (ValueError, RecursionError) as unreadable:
        raise ProtocolViolated("a frame's header is no JSON") from unreadable
    if not isinstance(header, dict):
        raise ProtocolViolated("a frame's header is no JSON object")
    return header


def encode_frame(frame: Frame) -> bytes:
    """Prefix and header; the payload follows as it is."""
    header = encode_header(frame.header)
    return PREFIX.pack(len(header), len(frame.payload)) + header


def check_lengths(prefix: bytes | bytearray | memoryview, *, longest_payload: int) -> tuple[int, int]:
    """Lengths of header and payload from a prefix.

    Raises:
        ProtocolViolated: One of them is above its limit.
    """
    header, payload = PREFIX.unpack(prefix)
    if not 2 <= header <= LONGEST_HEADER or payload > longest_payload:
        raise ProtocolViolated(f"a frame of {header} + {payload} bytes; {longest_payload} bytes of payload are allowed")
    return header, payload


def agree_version(offered: Sequence[int], *, spoken: Sequence[int] = SPOKEN_VERSIONS) -> int:
    """The newest version that both sides speak.

    Raises:
        VersionNotSpoken: There is none.
    """
    both = set(offered) & set(spoken)
    if not both:
        raise VersionNotSpoken(f"the peer speaks versions {sorted(offered)}, this agent {sorted(spoken)}; upgrade one")
    return max(both)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks of a file.

    Attributes:
        first: Index of the first block.
        length: Bytes in all; only the last block of a file may be short.
        content: The bytes, or None if all are zero.
    """

    first: int
    length: int
    content: memoryview | bytes | None


class Blocks(NamedTuple):
    """Runs of blocks of one file."""

    key: Key
    block_size: int
    runs: tuple[Run, ...]


def encode_blocks(groups: Iterable[Blocks]) -> bytes:
    """Write blocks down as the content of a chunk."""
    parts: list[bytes | memoryview] = []
    for group in groups:
        parts += [encode_key(group.key), _GROUP.pack(group.block_size, len(group.runs))]
        parts += [_RUN.pack(run.first, run.content is None, run.length) for run in group.runs]
        parts += [run.content for run in group.runs if run.content is not None]
    return b"".join(parts)


def decode_blocks(content: bytes | memoryview, *, roots: int) -> Iterator[Blocks]:
    """Read the content of a chunk.

    Raises:
        ProtocolViolated: It is not one that a primary could have written.
    """
    reader = Reader(content, roots=roots)
    while not reader.exhausted:
        key = reader.key()
        block_size, count = reader.numbers(_GROUP)
        if not is_block_size(block_size):
            raise ProtocolViolated(f"{key}: there are no blocks of {block_size} bytes")
        table = tuple(_RUN.iter_unpack(reader.take(count * _RUN.size)))
        runs = []
        for first, zero, length in table:
            if not length or first + block_count(length, block_size) > MOST_BLOCKS:
                raise ProtocolViolated(f"{key}: {length} bytes at block {first} can not be")
            runs.append(Run(first, length, None if zero else reader.take(length)))
        yield Blocks(key, block_size, tuple(runs))


class Packer:
    """Compresses payloads with zstd, and stops trying for a while where that gains nothing."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._skip = 0

    def pack(self, content: bytes) -> tuple[str, bytes]:
        """Name of the coding, and the coded content."""
        if self._skip:
            self._skip -= 1
            return "plain", content
        packed = self._compressor.compress(content)
        if len(packed) < 0.97 * len(content):
            return "zstd", packed
        # A first glance at data that is compressed or encrypted already costs more than the wire.
        self._skip = 8 if len(content) >= CHUNK_BYTES // 2 else 0
        return "plain", content


def unpack(coding: str, payload: bytes | bytearray | memoryview, *, most: int = _LARGEST_CHUNK) -> memoryview:
    """Undo `Packer.pack`.

    Raises:
        ProtocolViolated: Unknown coding, broken content, or more than `most` bytes of it.
    """
    if coding == "plain":
        if len(payload) > most:
            raise ProtocolViolated(f"a content of {len(payload)} bytes; {most} are allowed")
        return memoryview(payload)
    if coding != "zstd":
        raise ProtocolViolated(f"coding {coding!r} is unknown; 'zstd' and 'plain' are not")
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= most:
            raise ProtocolViolated(f"a compressed content must say its size, at most {most}; this says {size}")
        return memoryview(zstandard.ZstdDecompressor().decompress(payload, max_output_size=most))
    except zstandard.ZstdError as broken:
        raise ProtocolViolated("a compressed content is broken") from broken
