"""Numbers as a terminal can draw them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
_FULL = BARS[-1]


def bar(percent: float, *, width: int = 10) -> str:
    """A horizontal bar: how much of a whole is done."""
    filled = round(max(0.0, min(100.0, percent)) / 100 * width)
    return "█" * filled + "░" * (width - filled)


def sparkline(values: Sequence[float], *, width: int) -> str:
    """One line of bars, from the lowest value to the highest.

    Args:
        values: In order; may be empty.
        width: Columns at most. With more values than columns, a column shows the highest of its values, so that no peak
            is lost.
    """
    columns = [max(part) for part in split(values, width)]
    if not columns:
        return ""
    low, high = min(columns), max(columns)
    if high == low:
        return BARS[3] * len(columns)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in columns)


def chart(values: Sequence[float | None], *, width: int, height: int) -> list[str]:
    """A graph over several lines, top first, in eighths of a line.

    A column stands for the values that fall into it: filled up to its lowest, shaded from there to its highest. So a
    short peak is seen, and is seen to be short. A column without a value stays empty: a gap looks like one.

    Args:
        values: In order; None where there is none.
        width: Columns at most.
        height: Lines.
    """
    columns = [[value for value in part if value is not None] for part in split(values, width)]
    known = [value for column in columns for value in column]
    if not known:
        return [" " * len(columns)] * height
    floor, ceiling = min(known), max(known)
    span = (ceiling - floor) or 1.0
    steps = height * len(BARS)

    def level(value: float) -> int:
        # The lowest price still shows a bar: it is a price, and no gap.
        return max(1, round((value - floor) / span * steps)) if ceiling > floor else steps // 2

    drawn = [(level(min(column)), level(max(column))) if column else (0, 0) for column in columns]
    return ["".join(_cell(low, high, line * len(BARS)) for low, high in drawn) for line in reversed(range(height))]


def _cell(low: int, high: int, bottom: int) -> str:
    if low >= bottom + len(BARS):
        return _FULL
    if low > bottom:
        return BARS[low - bottom - 1]
    return "░" if high > bottom else " "


def split[V](values: Sequence[V], parts: int) -> list[Sequence[V]]:
    """Cut a sequence into so many parts of nearly equal length, or fewer if it is short."""
    count = min(parts, len(values))
    edges = [len(values) * number // count for number in range(count + 1)] if count else []
    return [values[start:end] for start, end in pairwise(edges)]
