"""What a loaded model must do before it may become live; a check takes answers, so that it needs no model itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from spot_optimizer.domain.models import GOLDEN_TOLERANCE, HORIZONS_HOURS, Golden, Row
from spot_optimizer.errors import ModelRejected

PROBE_ROWS: Final = 2_000
LONGEST_MICROSECONDS_PER_ROW: Final = 200.0
"""A fleet of 1,000 agents with 50 pools each is then scored within 10 s of one processor."""

LEAST_SPREAD: Final = 1e-6
_EXTREMES: Final = (0.0, -1.0, 1e6, -1e6, 3e38)


def check_golden(golden: Golden, answers: Sequence[Sequence[float]]) -> str:
    """Hold answers to those the trained model gave.

    Returns:
        What was found.

    Raises:
        ModelRejected: Some differ by more than a processor's rounding.
    """
    worst = 0.0
    for number, (expected, given) in enumerate(zip(golden.predictions, answers, strict=True)):
        for hours, wanted, got in zip(HORIZONS_HOURS, expected, given, strict=True):
            if not abs(wanted - got) <= GOLDEN_TOLERANCE:
                raise ModelRejected(
                    f"golden row {number} was predicted {got:.6g} within {hours} h, by the trained model {wanted:.6g}: "
                    "the files are not those of the manifest, or scaling or feature order differ"
                )
            worst = max(worst, abs(wanted - got))
    return f"{len(golden.rows)} golden rows reproduced, the worst to {worst:.1e}"


def probe_rows(golden: Golden, *, choose: Callable[[Sequence[float | None]], float | None]) -> tuple[Row, ...]:
    """Rows to try a model on: the golden ones, their values mixed, and values that no sane row has.

    Args:
        golden: At least one row.
        choose: Picks one of several values, at random.
    """
    columns = list(zip(*golden.rows, strict=True))
    mixed = [tuple(choose(column) for column in columns) for _ in range(PROBE_ROWS)]
    width = len(columns)
    wild: list[Row] = [(value,) * width for value in _EXTREMES]
    wild.append((None,) * width)
    for position in range(width):
        for value in (*_EXTREMES, None):
            row = list(golden.rows[0])
            row[position] = value
            wild.append(tuple(row))
    return (*golden.rows, *wild, *mixed)


def check_answers(answers: Sequence[Sequence[float]]) -> str:
    """Hold answers to being probabilities that depend on something.

    Returns:
        What was found.

    Raises:
        ModelRejected: One is not finite or no probability, or all are alike.
    """
    for number, row in enumerate(answers):
        for hours, answer in zip(HORIZONS_HOURS, row, strict=True):
            if not math.isfinite(answer) or not 0 <= answer <= 1:
                raise ModelRejected(f"probe row {number} was predicted {answer} within {hours} h; expected 0 to 1")
    found = []
    for position, hours in enumerate(HORIZONS_HOURS):
        column = [row[position] for row in answers]
        if max(column) - min(column) < LEAST_SPREAD:
            raise ModelRejected(
                f"within {hours} h the model predicts {column[0]:.6g} for everything; expected it to tell rows apart"
            )
        found.append(f"{min(column):.3g} to {max(column):.3g} within {hours} h")
    return f"{len(answers)} rows finite and bounded: {', '.join(found)}"


def check_speed(*, rows: int, seconds: float) -> str:
    """Hold the time that scoring took to what a batch for a fleet can afford.

    Returns:
        What was found.

    Raises:
        ModelRejected: It is too slow.
    """
    microseconds = seconds / rows * 1e6
    if microseconds > LONGEST_MICROSECONDS_PER_ROW:
        raise ModelRejected(
            f"a row takes {microseconds:.0f} µs; expected at most {LONGEST_MICROSECONDS_PER_ROW:.0f}; train fewer trees"
        )
    return f"{microseconds:.1f} µs a row"
