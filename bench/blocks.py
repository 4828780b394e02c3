"""Measures what a block size costs and saves: `python -m bench.blocks`.

A file is cut into blocks of each size; then one of a hundred of its 4 KiB pages is changed at random, half random bytes
and half zeros. What is compared: the time to hash all of it (what a generation costs at least, when a file changed),
the bytes that are sent, compressed as they would be, and the size of the list of hashes that both sides keep.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Final

from spot_agent.sync.blocks import HASH_BYTES, block_count, hash_blocks
from spot_agent.sync.frames import CHUNK_BYTES, Packer

PAGE: Final = 4096
_STEP: Final = 8 << 20


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.blocks", description="What a block size costs and saves")
    parser.add_argument("--mib", type=int, default=1024, help="size of the file, at least 8")
    size = parser.parse_args().mib << 20
    coin = random.Random(4)  # noqa: S311
    content = bytearray()
    for _ in range(size >> 20):
        content += coin.randbytes(1 << 19) + bytes(1 << 19)
    dirty = sorted(coin.sample(range(size // PAGE), size // PAGE // 100))
    for page in dirty:
        content[page * PAGE : (page + 1) * PAGE] = coin.randbytes(PAGE // 2) + bytes(PAGE // 2)
    print(f"{'block':>10}{'hashing':>12}{'sent':>12}{'hashes':>12}")
    for block_size in (PAGE << shift for shift in (0, 2, 4, 6, 8)):
        seconds = _seconds_to_hash(content, block_size)
        sent = _bytes_to_send(content, sorted({page * PAGE // block_size for page in dirty}), block_size)
        kept = block_count(size, block_size) * HASH_BYTES
        print(f"{block_size >> 10:6} KiB{seconds:10.2f} s{sent / 1e6:9.1f} MB{kept / 1e3:9.0f} kB")
    return 0


def _seconds_to_hash(content: bytearray, block_size: int) -> float:
    """The quickest of three."""
    view = memoryview(content)
    found = []
    for _ in range(3):
        began = time.perf_counter()
        for at in range(0, len(view), _STEP):
            hash_blocks(view[at : at + _STEP], block_size)
        found.append(time.perf_counter() - began)
    return min(found)


def _bytes_to_send(content: bytearray, blocks: list[int], block_size: int) -> int:
    """Bytes of the changed blocks, packed in chunks as the primary packs them."""
    packer, sent, chunk = Packer(), 0, bytearray()
    for block in blocks:
        chunk += content[block * block_size : (block + 1) * block_size]
        if len(chunk) >= CHUNK_BYTES:
            sent += len(packer.pack(bytes(chunk))[1])
            chunk.clear()
    return sent + len(packer.pack(bytes(chunk))[1])


if __name__ == "__main__":
    raise SystemExit(main())
