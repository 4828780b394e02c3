"""Virtual time: one heap of events, one thread, one seeded source of chance.

Nothing here or above it may depend on wall time, on `id()`, on the order of sets or on the hashing of strings; then a
seed names a run, on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any


class Violation(Exception):
    """An invariant does not hold.

    Attributes:
        invariant: Its name, by which shrinking knows that a shorter run fails in the same way.
    """

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class TooManySteps(Exception):
    """The run does not come to rest."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of a history."""

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:9.3f}  {self.who:<22} {self.what}"


class Kernel:
    """Time and chance.

    Attributes:
        now: Seconds since the run began, true time.
        chance: Every random choice of the world; what is planned beforehand has a source of its own.
        history: What happened; None when nobody will read it.
        steps: Events so far.
    """

    def __init__(self, chance: Random, *, most_steps: int, recording: bool) -> None:
        self.now = 0.0
        self.chance = chance
        self.steps = 0
        self.history: list[Happening] | None = [] if recording else None
        self.after_step: Callable[[], None] = lambda: None
        self._most_steps = most_steps
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def after(self, delay: float, act: Callable[..., None], *arguments: Any) -> None:
        """Have something happen after so many seconds; what is due at one moment happens in the order of asking."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + max(delay, 0.0), self._sequence, act, arguments))

    def run(self, until: float, *, stop: Callable[[], bool]) -> bool:
        """Let things happen until a moment, or until `stop` says so; whether it said so.

        Raises:
            TooManySteps: The run took more than it may.
        """
        heap = self._heap
        after_step = self.after_step
        while heap and heap[0][0] <= until:
            self.now, _, act, arguments = heapq.heappop(heap)
            self.steps += 1
            if self.steps > self._most_steps:
                raise TooManySteps(f"{self.steps} steps by {self.now:.1f} s")
            act(*arguments)
            after_step()
            if stop():
                return True
        self.now = max(self.now, until)
        return stop()

    def tell(self, who: str, what: str, *details: Any) -> None:
        """Add a line to the history; `details` fill the `%s` of `what`, and cost nothing when nobody reads."""
        if self.history is not None:
            self.history.append(Happening(self.now, who, what % details if details else what))

    def between(self, low: float, high: float) -> float:
        """Any number between two."""
        return low + (high - low) * self.chance.random()

    def soon(self, typical: float) -> float:
        """A delay that is mostly short and sometimes long: half of the typical one, up to ten times it."""
        draw = self.chance.random()
        return typical * (0.02 + draw * 1.0 if draw < 0.9 else 0.5 + (draw - 0.9) * 95.0)
