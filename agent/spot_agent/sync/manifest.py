"""What a tree contains, and one hash that stands for all of it."""

from __future__ import annotations


class Manifest:
    """All entries of the watched paths at one point in time; immutable, compared by root hash."""

    @property
    def root_hash(self) -> str:
        """Equal for equal trees, different for different ones; lower-case hex."""
        raise NotImplementedError
