"""Histories: a market, an agent on it, and what moves it, round by round; and what must hold of that."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.decisions import OfferId
from spot_optimizer.domain.maintenance import is_open
from spot_optimizer.domain.switching import (
    DAY,
    REMEMBERED,
    History,
    Hold,
    HoldReason,
    Move,
    Proposal,
    SwitchRules,
    judge,
)

type Price = Callable[[OfferId, datetime], Decimal | None]


@dataclass(slots=True)
class Walk:
    """What became of one agent.

    Attributes:
        moves: Each with the saving as a share of the price at that moment, for those that it made by itself.
        held: Why it stayed, round by round.
    """

    rules: SwitchRules
    registered_at: datetime
    place: OfferId
    moves: list[tuple[Move, float]] = field(default_factory=list)
    failed_at: list[datetime] = field(default_factory=list)
    held: list[HoldReason] = field(default_factory=list)

    @property
    def history(self) -> History:
        return History(
            registered_at=self.registered_at,
            moves=tuple(move for move, _ in self.moves),
            failed_at=tuple(self.failed_at),
        )

    @property
    def by_itself(self) -> list[tuple[Move, float]]:
        return [(move, saving) for move, saving in self.moves if move.by_itself]

    def consider(self, proposal: Proposal | Hold, now: datetime, *, fails: bool = False) -> None:
        """One round of the schedule; the switch comes about at once, or fails at once."""
        judged = proposal if isinstance(proposal, Hold) else judge(proposal, self.rules, self.history, now=now)
        if isinstance(judged, Hold):
            self.held.append(judged.reason)
        elif fails:
            self.failed_at.append(now)
        else:
            self.moves.append((Move(now, self.place, judged.target, by_itself=True), float(judged.saving)))
            self.place = judged.target

    def fail_over(self, to: OfferId, now: datetime) -> None:
        """AWS, or an operator, moves it."""
        self.moves.append((Move(now, self.place, to, by_itself=False), 0.0))
        self.place = to


def at(current: OfferId, target: OfferId, price: Price, now: datetime) -> Proposal | None:
    """The proposal to move, whether it is a good one or not."""
    here, there = price(current, now), price(target, now)
    if here is None or there is None:
        return None
    return Proposal(
        current=current,
        target=target,
        current_usd_per_hour=here,
        target_usd_per_hour=there,
        saving_usd_per_hour=here - there,
        saving=(here - there) / here,
        explanation=f"{current} -> {target}",
    )


def check(walk: Walk, price: Price) -> int:
    """Hold a walk against what the gate promises, from its moves and the market alone; how many circles it made.

    Raises:
        AssertionError: Something does not hold.
    """
    rules = walk.rules
    before = walk.registered_at
    least = float(rules.minimum_saving)
    for number, (move, saving) in enumerate(walk.moves):
        if not move.by_itself:
            before = move.at
            continue
        assert move.at - before >= rules.dwell, f"moved {move.at - before} after the last move, dwell {rules.dwell}"
        before = move.at
        assert is_open(rules.windows, move.at), f"moved at {move.at}, outside {rules.windows}"
        assert saving >= least - 1e-9, f"moved for {saving:.3%}"
        here, there = price(move.left, move.at), price(move.entered, move.at)
        assert here is not None and there is not None and there <= here, "moved to a dearer place"
        within_a_day = [other for other, _ in walk.moves[: number + 1] if other.by_itself and move.at - other.at < DAY]
        assert len(within_a_day) <= rules.most_per_day, f"{len(within_a_day)} moves within a day"
    return _check_circles(walk, price)


def _check_circles(walk: Walk, price: Price) -> int:
    """Whoever came back by itself came back because prices moved by more than what the circle demands."""
    step = -math.log(1 - float(walk.rules.minimum_saving))
    last = -math.log(1 - float(walk.rules.minimum_saving + walk.rules.hysteresis))
    circles = 0
    for end, (move, _) in enumerate(walk.moves):
        if not move.by_itself:
            continue
        starts = [start for start in range(end + 1) if walk.moves[start][0].left == move.entered]
        start = max(starts, default=None)
        if start is None or move.at - walk.moves[start][0].at >= REMEMBERED:
            continue
        circle = [one for one, _ in walk.moves[start : end + 1]]
        if not all(one.by_itself for one in circle):
            continue
        circles += 1
        # Of each place: from its price when it was entered to that when it was left again, or the other way about.
        swing = 0.0
        for entered, left in zip(circle, [*circle[1:], circle[0]], strict=True):
            there = entered.entered
            first, second = price(there, entered.at), price(there, left.at)
            assert first and second
            swing += math.log(second / first)
        demanded = (len(circle) - 1) * step + last
        assert swing >= demanded - 1e-9, f"came back over a swing of {swing:.4f}, expected at least {demanded:.4f}"
    return circles


def stepwise(changes: Mapping[OfferId, Sequence[tuple[datetime, Decimal]]]) -> Price:
    """Prices that hold until they change."""
    times = {offer: [when for when, _ in steps] for offer, steps in changes.items()}

    def price(offer: OfferId, now: datetime) -> Decimal | None:
        place = bisect_right(times.get(offer, []), now)
        return changes[offer][place - 1][1] if place else None

    return price


def rounds(begin: datetime, count: int, every: timedelta = timedelta(minutes=15)) -> list[datetime]:
    """When the schedule looks."""
    return [begin + number * every for number in range(count)]
