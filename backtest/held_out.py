"""How long a struck pool is left alone, judged on markets that had no part in the choice.

The rule came from looking at recorded markets, so that its effect there proves little. Here each market in turn is left
out: the time is chosen by the others, and judged on it alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from itertools import starmap
from typing import Any, Final

from backtest.market import Market
from backtest.ours import optimize
from backtest.replay import Figures, Outcome, Replay
from spot_optimizer.domain.catalogue import ONE_EVENT
from spot_optimizer.domain.decisions import DecisionRules, StandbyPolicy

MINUTES: Final = (0, 3, 10, 30)
"""For how long a pool that was struck comes after on-demand; 0 is without the rule."""

SHIPPED: Final = ONE_EVENT // timedelta(minutes=1)
SEED: Final = 20230419


def judge_struck_rule(markets: Sequence[Market], figures: Figures, *, workers: int) -> dict[str, Any]:
    """Replay ours, with a standby on risk, under each of `MINUTES`, and leave each market out in turn.

    Returns:
        `outage_seconds_per_30d` by minutes: over all markets, over those of each kind, and of what was chosen without
        the market on which it was judged (`chosen_by_the_others`), with how often each was chosen.
    """
    jobs = [(market, figures, minutes) for market in markets for minutes in MINUTES]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            outages = list(pool.map(_outage_seconds, *zip(*jobs, strict=True)))
    else:
        outages = list(starmap(_outage_seconds, jobs))
    by_market = [
        dict(zip(MINUTES, outages[start : start + len(MINUTES)], strict=True))
        for start in range(0, len(outages), len(MINUTES))
    ]
    chosen = [choose(by_market[:number] + by_market[number + 1 :]) for number in range(len(markets))]
    everything = range(len(markets))
    kinds = {kind: [n for n in everything if markets[n].kind == kind] for kind in sorted({m.kind for m in markets})}

    def per_30_days(numbers: Sequence[int], minutes: Sequence[int]) -> float:
        days = sum(markets[number].seconds for number in numbers) / 86_400
        return round(sum(by_market[number][one] for number, one in zip(numbers, minutes, strict=True)) / days * 30, 1)

    return {
        "shipped_minutes": SHIPPED,
        "outage_seconds_per_30d": {
            "all": {minutes: per_30_days(everything, [minutes] * len(markets)) for minutes in MINUTES},
            **{
                kind: {minutes: per_30_days(numbers, [minutes] * len(numbers)) for minutes in MINUTES}
                for kind, numbers in kinds.items()
            },
        },
        "chosen_by_the_others": {
            "outage_seconds_per_30d": per_30_days(everything, chosen),
            "times_chosen": {minutes: chosen.count(minutes) for minutes in MINUTES},
        },
    }


def choose(by_market: Sequence[Mapping[int, float]]) -> int:
    """The minutes with the least outage over these markets, each second counting alike; the fewest of equals."""
    return min(MINUTES, key=lambda minutes: (sum(outages[minutes] for outages in by_market), minutes))


def _outage_seconds(market: Market, figures: Figures, minutes: int) -> float:
    run = Replay(market, figures, random.Random(SEED))  # noqa: S311  # repeatable on purpose
    optimize(run, DecisionRules(standby=StandbyPolicy.ON_RISK), struck_for=timedelta(minutes=minutes))
    outcome: Outcome = run.outcome
    return outcome.outage_seconds
