"""Whether a model does clearly worse than the live one, on rows that were scored lately and whose outcome is known.

Judged by the Brier score (mean squared error of the probability), because the decision engine multiplies the
probability by a cost: ranking well is not enough. Rows of one pool are not independent (one interruption is seen by
many rows), so the uncertainty of the difference comes from pools, not from rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spot_optimizer.domain.models import HORIZONS_HOURS, Row

FEWEST_ROWS: Final = 200
FEWEST_POOLS: Final = 5
STANDARD_ERRORS: Final = 2.0
WORSE_BY: Final = 0.05
"""Share of the live model's score; less is not worth a refusal."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row that was scored, and what came of it.

    Attributes:
        pool_id: Of the instance.
        scored_at: When.
        features: Names of the row's columns.
        row: What was known then.
        interrupted_after_hours: When the pool next interrupted an instance of ours; None if it did not within 6 h.
    """

    pool_id: str
    scored_at: datetime
    features: tuple[str, ...]
    row: Row
    interrupted_after_hours: float | None

    def values(self, features: Sequence[str]) -> Row:
        """The row's values of these features, in this order."""
        return tuple(self.row[self.features.index(name)] for name in features)

    def happened_within(self, hours: int) -> float:
        """1 if it did, 0 if not."""
        after = self.interrupted_after_hours
        return 1.0 if after is not None and after <= hours else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it.

    Attributes:
        is_clearly_worse: Beyond doubt, and by enough to matter.
        finding: For people.
    """

    is_clearly_worse: bool
    finding: str


def usable(outcomes: Sequence[Outcome], *needed: Sequence[str]) -> tuple[Outcome, ...]:
    """Those rows that have every feature that each model needs."""
    names = {name for features in needed for name in features}
    return tuple(outcome for outcome in outcomes if names <= set(outcome.features))


def is_enough(outcomes: Sequence[Outcome]) -> bool:
    """Whether a comparison on these rows says anything."""
    return len(outcomes) >= FEWEST_ROWS and len({outcome.pool_id for outcome in outcomes}) >= FEWEST_POOLS


def compare(
    outcomes: Sequence[Outcome], candidate: Sequence[Sequence[float]], live: Sequence[Sequence[float]]
) -> Comparison:
    """Compare two models' answers for the same rows.

    Args:
        outcomes: Enough of them.
        candidate: Per row, one probability per horizon.
        live: Likewise.
    """
    by_pool: dict[str, list[float]] = defaultdict(list)
    candidate_total = live_total = 0.0
    for outcome, new, old in zip(outcomes, candidate, live, strict=True):
        truth = [outcome.happened_within(hours) for hours in HORIZONS_HOURS]
        new_loss, old_loss = _squared_error(new, truth), _squared_error(old, truth)
        candidate_total += new_loss
        live_total += old_loss
        by_pool[outcome.pool_id].append(new_loss - old_loss)
    differences = [sum(values) / len(values) for values in by_pool.values()]
    mean = sum(differences) / len(differences)
    variance = sum((value - mean) ** 2 for value in differences) / (len(differences) - 1)
    error = math.sqrt(variance / len(differences))
    brier, brier_live = candidate_total / len(outcomes), live_total / len(outcomes)
    is_clearly_worse = mean > STANDARD_ERRORS * error and brier > brier_live * (1 + WORSE_BY)
    return Comparison(
        is_clearly_worse,
        f"Brier score {brier:.5f}, the live model's {brier_live:.5f}, over {len(outcomes)} rows of "
        f"{len(by_pool)} pools; mean difference of the pools {mean:+.5f} ± {error:.5f}",
    )


def _squared_error(answers: Sequence[float], truth: Sequence[float]) -> float:
    return sum((answer - happened) ** 2 for answer, happened in zip(answers, truth, strict=True)) / len(truth)
