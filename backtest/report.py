"""Runs every policy over the markets, and says what they came to: JSON, a table and a plot."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from backtest.market import Market
from backtest.oracle import foresee
from backtest.ours import optimize
from backtest.replay import Figures, Outcome, Replay
from backtest.rivals import Restarting, SpotHedge, cheapest_first, most_spare_first, on_demand
from spot_optimizer.domain.decisions import DecisionRules, StandbyPolicy

OURS: Final = "ours, standby {}"
ON_RISK: Final = OURS.format(StandbyPolicy.ON_RISK)
ORACLE: Final = "oracle"
SEED: Final = 20230419
DAYS: Final = 30.0

LABELS: Final = {
    "SpotHedge, no spare": (-7, 4),
    "capacity-optimized": (-7, -6),
    "cheapest pool chased": (7, 5),
    "capacity-optimized, launched on notice": (7, -3),
    OURS.format(StandbyPolicy.NEVER): (7, -11),
    ON_RISK: (7, -9),
    "oracle": (-7, -3),
}
"""Where a name stands beside its point, in points: several of them lie close together."""

Run = Callable[[Replay], None]


def _spothedge(replay: Replay) -> None:
    SpotHedge(replay, extra=0).run()


def _spothedge_with_spare(replay: Replay) -> None:
    SpotHedge(replay, extra=1).run()


RIVALS: Final[Mapping[str, Run]] = {
    "on-demand": on_demand,
    "fixed spot pool, restarted": Restarting(cheapest_first, stays_in_first=True).run,
    "cheapest pool chased": Restarting(cheapest_first, chases=True).run,
    "capacity-optimized": Restarting(most_spare_first).run,
    "capacity-optimized, launched on notice": Restarting(most_spare_first, launches_on_notice=True).run,
    "SpotHedge, no spare": _spothedge,
    "SpotHedge, one spare": _spothedge_with_spare,
}


def replay_market(
    market: Market, figures: Figures, policies: Sequence[str], every_seconds: float
) -> dict[str, Outcome]:
    """Run policies over one market; each draws its boots from the same coin."""
    outcomes = {}
    for name in policies:
        if name == ORACLE:
            outcomes[name] = foresee(market, figures)
            continue
        run = Replay(market, figures, random.Random(SEED))  # noqa: S311  # repeatable on purpose
        if name in RIVALS:
            RIVALS[name](run)
        else:
            standby = next(policy for policy in StandbyPolicy if OURS.format(policy) == name)
            optimize(run, DecisionRules(standby=standby), every_seconds=every_seconds)
        outcomes[name] = run.outcome
    return outcomes


def replay_all(
    markets: Sequence[Market], figures: Figures, policies: Sequence[str], *, every_seconds: float, workers: int
) -> list[dict[str, Outcome]]:
    """Run policies over markets, in as many processes."""
    count = len(markets)
    arguments = (markets, [figures] * count, [policies] * count, [every_seconds] * count)
    if workers == 1:
        return list(map(replay_market, *arguments))
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(replay_market, *arguments))


def all_policies() -> list[str]:
    """In the order of the table."""
    return [*RIVALS, *(OURS.format(policy) for policy in StandbyPolicy), ORACLE]


def summarize(markets: Sequence[Market], outcomes: Sequence[Mapping[str, Outcome]]) -> dict[str, dict[str, float]]:
    """Per policy, each day of each market counting alike.

    Returns:
        `cost_ratio` is cost over on-demand, net of everything paid; the rest is per 30 days.
    """
    days = sum(market.seconds for market in markets) / 86_400
    summary = {}
    for name in outcomes[0]:
        found = [one[name] for one in outcomes]

        def per_30_days(values: list[float]) -> float:
            return round(sum(values) / days * DAYS, 2)

        shares = [
            outcome.usd / market.on_demand_usd * market.seconds for market, outcome in zip(markets, found, strict=True)
        ]
        summary[name] = {
            "cost_ratio": round(sum(shares) / 86_400 / days, 4),
            "outage_seconds_per_30d": per_30_days([one.outage_seconds for one in found]),
            "failovers_per_30d": per_30_days([one.failovers for one in found]),
            "lost_state_seconds_per_30d": per_30_days([one.lost_state_seconds for one in found]),
            "planned_switches_per_30d": per_30_days([one.planned_switches for one in found]),
            "on_demand_share": round(sum(one.on_demand_seconds for one in found) / 86_400 / days, 4),
        }
    return summary


def judge(policies: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Compare ours, with a standby on risk, with the oracle and with the best rival that costs no more."""
    ours = policies[ON_RISK]
    affordable = {
        name: policies[name]["outage_seconds_per_30d"]
        for name in RIVALS
        if policies[name]["cost_ratio"] <= ours["cost_ratio"]
    }
    best = min(affordable, key=affordable.__getitem__, default=None)
    return {
        "cost_ratio_to_oracle": round(ours["cost_ratio"] / policies[ORACLE]["cost_ratio"], 4),
        "outage_ratio_to_best_rival": round(ours["outage_seconds_per_30d"] / affordable[best], 4) if best else None,
        "best_rival": best,
    }


def weigh_state(markets: Sequence[Market], figures: Figures, *, workers: int) -> list[dict[str, Any]]:
    """How ours fare with more state, and where an outage is worth more."""
    names = [OURS.format(policy) for policy in StandbyPolicy]
    rows = []
    for gibibytes in (1, 10, 50):
        for usd_per_outage_second in ("0.01", "1"):
            changed = replace(
                figures,
                state_bytes=gibibytes * 2.0**30,
                usd_per_outage_second=type(figures.usd_per_outage_second)(usd_per_outage_second),
            )
            found = replay_all(markets, changed, names, every_seconds=300, workers=workers)
            rows.append(
                {
                    "state_gibibytes": gibibytes,
                    "usd_per_outage_second": usd_per_outage_second,
                    "policies": summarize(markets, found),
                }
            )
    return rows


def draw(policies: Mapping[str, Mapping[str, float]], path: Path, *, title: str) -> None:
    """Draw cost against outage; a policy without outage stands at the lower edge."""
    figure, axes = plt.subplots(figsize=(7.6, 4.4), dpi=110)
    floor = 100.0
    for name, one in policies.items():
        colour = "#1a7f37" if name.startswith("ours") else "#8250df" if name == ORACLE else "#57606a"
        outage = max(one["outage_seconds_per_30d"], floor)
        axes.scatter(one["cost_ratio"], outage, color=colour, s=34, zorder=3)
        right, up = LABELS.get(name, (7, 3))
        axes.annotate(
            name,
            (one["cost_ratio"], outage),
            textcoords="offset points",
            xytext=(right, up),
            ha="left" if right > 0 else "right",
            fontsize=7.5,
            color=colour,
        )
    axes.set_yscale("log")
    axes.set(xlabel="cost, as a share of on-demand", ylabel="outage, seconds per 30 days", title=title, xlim=(0, 1.25))
    axes.grid(alpha=0.25, which="both")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def figures_as_json(figures: Figures) -> dict[str, Any]:
    """What was put in, for the reader."""
    return {name: str(value) if name.startswith("usd_") else value for name, value in asdict(figures).items()}
