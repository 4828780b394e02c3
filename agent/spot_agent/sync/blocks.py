"""Blocks: the unit in which a file is compared, sent and written.

A block is named by its XXH3-128 hash: it guards against chance and broken disks at several gigabytes per second. It is
no guard against somebody who may write into the workload's files and searches for collisions on purpose.

Small blocks send less when single pages change (databases write pages of 4 to 16 KiB), large ones keep the list of
hashes small. So a file has blocks of 4 KiB as long as that makes at most 262,144 of them (1 GiB, 4 MiB of hashes),
then of four times as much, and so on. A growing file keeps its block size until it has twice as many blocks, so that
it does not flip between two sizes.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Final

import xxhash

HASH_BYTES: Final = 16
SMALLEST_BLOCK: Final = 4 << 10
LARGEST_BLOCK: Final = 4 << 20
_WANTED_BLOCKS: Final = 1 << 18
MOST_BLOCKS: Final = 2 * _WANTED_BLOCKS
LARGEST_FILE: Final = MOST_BLOCKS * LARGEST_BLOCK

hash_block = xxhash.xxh3_128_digest


def choose_block_size(size: int, *, used_so_far: int | None = None) -> int:
    """Say in which blocks a file is compared.

    Args:
        size: Of the file, at most `LARGEST_FILE`.
        used_so_far: Its block size until now, kept while it will do.

    Returns:
        A power of two between `SMALLEST_BLOCK` and `LARGEST_BLOCK`.
    """
    if used_so_far is not None and block_count(size, used_so_far) <= MOST_BLOCKS:
        return used_so_far
    block_size = SMALLEST_BLOCK
    while block_count(size, block_size) > _WANTED_BLOCKS and block_size < LARGEST_BLOCK:
        block_size *= 4
    return min(block_size, LARGEST_BLOCK)


def is_block_size(number: int) -> bool:
    return SMALLEST_BLOCK <= number <= LARGEST_BLOCK and number & (number - 1) == 0


def block_count(size: int, block_size: int) -> int:
    return -(-size // block_size)


@functools.lru_cache(maxsize=64)
def zero_hash(length: int) -> bytes:
    """Hash of so many zero bytes."""
    return hash_block(bytes(length))


def zero_hashes(length: int, block_size: int) -> list[bytes]:
    """Hash of each block of so many zero bytes."""
    whole, rest = divmod(length, block_size)
    return [zero_hash(block_size)] * whole + ([zero_hash(rest)] if rest else [])


def hash_blocks(content: memoryview, block_size: int) -> list[bytes]:
    """Hash of each block of a content that begins with a whole one."""
    return [hash_block(content[at : at + block_size]) for at in range(0, len(content), block_size)]


def next_data(descriptor: int, offset: int) -> int:
    """Where, from `offset` on, a file has content; far behind its end if only a hole is left."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as beyond:
        if beyond.errno != errno.ENXIO:
            raise
        return 2 * LARGEST_FILE


class PartialHashes:
    """The hashes of some of a file's blocks."""

    __slots__ = ("_hashes", "_present")

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._present = bytearray()

    def growth(self, first: int, count: int) -> int:
        """By how many bytes this would grow if the hashes of so many consecutive blocks were put."""
        return max(first + count - len(self._present), 0) * (HASH_BYTES + 1)

    def put(self, first: int, hashes: Sequence[bytes]) -> None:
        """Set the hashes of consecutive blocks."""
        end = first + len(hashes)
        if end > len(self._present):
            self._hashes.extend(bytes((end - len(self._present)) * HASH_BYTES))
            self._present.extend(bytes(end - len(self._present)))
        self._hashes[first * HASH_BYTES : end * HASH_BYTES] = b"".join(hashes)
        self._present[first:end] = b"\1" * len(hashes)

    def any_within(self, first: int, end: int) -> bool:
        """Whether the hash of any block from `first` to before `end` is known."""
        return self._present.find(1, first, end) >= 0

    def get(self, index: int) -> bytes | None:
        if index >= len(self._present) or not self._present[index]:
            return None
        return bytes(self._hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def items(self, *, below: int) -> Iterator[tuple[int, bytes]]:
        """Index and hash of each known block before the one at `below`."""
        index = self._present.find(1)
        while 0 <= index < below:
            yield index, bytes(self._hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES])
            index = self._present.find(1, index + 1)

    def over(self, former: bytes, *, count: int) -> bytes | None:
        """The hashes of all `count` blocks: the known ones, and for the others the former ones.

        Returns:
            None if a block is neither known nor a former one.
        """
        whole = bytearray(former[: count * HASH_BYTES])
        had = len(whole) // HASH_BYTES
        known = self._present[had:count]
        if len(known) < count - had or 0 in known:
            return None
        whole += self._hashes[had * HASH_BYTES : count * HASH_BYTES]
        for index, digest in self.items(below=had):
            whole[index * HASH_BYTES : (index + 1) * HASH_BYTES] = digest
        return bytes(whole)
