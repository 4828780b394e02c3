"""Many seeds at once: spread over the processors, summed up in the order of the seeds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context

from simulation.faults import draw_plan
from simulation.world import Outcome, simulate

CHUNK = 25


@dataclass(slots=True)
class Summary:
    """What came of many runs.

    Attributes:
        violations: Seeds by the invariant that they broke.
        reached: How often each state, catcher, decision and fault was reached.
    """

    seeds: int = 0
    steps: int = 0
    most_steps: int = 0
    failovers: int = 0
    lost: int = 0
    writes: int = 0
    slowest_promotion: float = 0.0
    greatest_loss: float = 0.0
    virtual_seconds: float = 0.0
    violations: dict[str, list[int]] = field(default_factory=dict)
    reached: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.steps += outcome.steps
        self.most_steps = max(self.most_steps, outcome.steps)
        self.failovers += outcome.failovers
        self.lost += outcome.lost
        self.writes += outcome.writes
        self.slowest_promotion = max(self.slowest_promotion, outcome.slowest_promotion)
        self.greatest_loss = max(self.greatest_loss, outcome.greatest_loss)
        self.virtual_seconds += outcome.seconds
        self.reached.update(outcome.reached)
        if outcome.violation is not None:
            self.violations.setdefault(outcome.violation, []).append(outcome.seed)


def run_seed(seed: int) -> Outcome:
    """Run what one seed stands for."""
    return simulate(draw_plan(seed))


def run_seeds(seeds: Sequence[int], *, processes: int | None = None) -> Iterator[Outcome]:
    """Run seeds on all processors; the outcomes come in the order of the seeds."""
    yield from spread(run_seed, seeds, processes=processes)


def spread[Item, Result](
    work: Callable[[Item], Result], items: Sequence[Item], *, processes: int | None = None
) -> Iterator[Result]:
    """Apply work to items on all processors, in order."""
    count = processes or os.cpu_count() or 1
    if count == 1 or len(items) < 2 * count:
        yield from map(work, items)
        return
    with get_context("fork").Pool(count) as pool:
        yield from pool.imap(work, items, chunksize=min(CHUNK, max(1, len(items) // (4 * count))))
