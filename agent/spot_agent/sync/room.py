"""How much of this instance's memory the lists of a tree may take: a peer says how long they are.

Blocks go to the disk as they come. Names, metadata and block hashes are kept in memory, on both sides, and a few bytes
on the wire can make many of them.
"""

from __future__ import annotations

import os
from typing import Final

from spot_agent.sync.errors import GenerationRefused
from spot_agent.sync.manifest import Listed

# What Python takes for an entry and its place in a manifest, and for a changed block, beside their bytes; rounded up.
ENTRY_BYTES: Final = 1024
_CHANGE_BYTES: Final = 256
_SHARE: Final = 0.5


def memory_for_lists() -> int:
    """Bytes: half of this machine's memory."""
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE)


def listed_bytes(listed: Listed) -> int:
    """Bytes of memory that an entry of a list takes, about."""
    entry = listed.entry
    content = len(listed.key.path) + len(entry.hashes) + len(entry.target)
    return ENTRY_BYTES + content + _CHANGE_BYTES * len(listed.changes)


class Room:
    """What is left of it while one tree is received."""

    def __init__(self, most_bytes: int) -> None:
        """Begin with all of it."""
        self._most_bytes = most_bytes
        self._left = most_bytes

    def take(self, count: int) -> None:
        """Take so many bytes more.

        Raises:
            GenerationRefused: There are not so many left.
        """
        self._left -= count
        if self._left < 0:
            raise GenerationRefused(
                f"the lists of this tree need more than the {self._most_bytes} bytes of memory that this instance has "
                f"for them; expected fewer or smaller files, or an instance with more memory",
                reason="storage",
            )
