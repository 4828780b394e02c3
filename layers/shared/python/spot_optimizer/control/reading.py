"""Many reads, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

READERS = 8
"""So many are under way at a time."""


def at_once[I, O](ask: Callable[[I], O], items: Sequence[I]) -> list[O]:
    """Ask about many items, and keep their order. The first alone: connections are made on first use, by one thread."""
    if not items:
        return []
    first = ask(items[0])
    with ThreadPoolExecutor(max_workers=READERS) as readers:
        return [first, *readers.map(ask, items[1:])]
