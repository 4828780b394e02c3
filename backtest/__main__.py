"""`make backtest`: replay recorded markets under rival policies; writes build/backtest.json and the plot."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from backtest.generated import generate
from backtest.held_out import judge_struck_rule
from backtest.market import Market, markets_of
from backtest.prices import read_markets
from backtest.replay import Figures
from backtest.report import (
    ON_RISK,
    RIVALS,
    all_policies,
    draw,
    figures_as_json,
    judge,
    replay_all,
    summarize,
    weigh_state,
)
from training.recorded import ROOT, DataMissing, data_folder, read_bands, read_traces

OUT = ROOT / "build" / "backtest.json"
PLOT = ROOT / "docs" / "backtest.png"
SEED = 2021


def run(folder: Path, console: Console, *, workers: int) -> dict[str, Any]:
    """Replay everything that is there.

    Args:
        folder: Of the recorded markets; without them generated ones are replayed, and the answer says so.
        console: For progress.
        workers: How many processes.
    """
    figures = Figures()
    try:
        traces = markets_of(read_traces(folder), read_bands(folder))
    except DataMissing as missing:
        console.print(f"[yellow]replaying generated markets[/]: {missing}")
        traces = [generate(seed=seed, days=3) for seed in range(2)]
        return {"generated": True, **_of_traces(traces, figures, workers), "net_saving_2021": None}
    console.print(f"{len(traces)} recorded markets, {sum(one.seconds for one in traces) / 86_400:.0f} days")
    result = {"generated": False, **_of_traces(traces, figures, workers)}
    console.print("prices of 2021")
    prices = read_markets(folder, seed=SEED)
    found = replay_all(prices, figures, [*RIVALS, ON_RISK], every_seconds=7_200, workers=workers)
    result["prices_2021"] = summarize(prices, found)
    result["net_saving_2021"] = round(1 - result["prices_2021"][ON_RISK]["cost_ratio"], 4)
    result["agents_2021"] = len(prices)
    console.print("how long a struck pool is left alone, by markets that had no part in it")
    result["struck_rule"] = judge_struck_rule(traces, figures, workers=workers)
    console.print("more state, and dearer outages")
    preempted = [market for market in traces if market.kind == "preemption"]
    result["sensitivity"] = weigh_state(preempted, figures, workers=workers)
    return result


def _of_traces(markets: list[Market], figures: Figures, workers: int) -> dict[str, Any]:
    outcomes = replay_all(markets, figures, all_policies(), every_seconds=300, workers=workers)
    policies = summarize(markets, outcomes)
    kinds = sorted({market.kind for market in markets})
    by_kind = {}
    for kind in kinds:
        chosen = [number for number, market in enumerate(markets) if market.kind == kind]
        of_kind = summarize([markets[number] for number in chosen], [outcomes[number] for number in chosen])
        by_kind[kind] = {"policies": of_kind, **judge(of_kind)}
    return {
        "policies": policies,
        **judge(policies),
        "by_kind": by_kind,
        "markets": [{"name": one.name, "kind": one.kind, "days": round(one.seconds / 86_400, 2)} for one in markets],
        "figures": figures_as_json(figures),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    shown = {"all recorded traces": result["policies"]}
    shown |= {kind: one["policies"] for kind, one in result["by_kind"].items()}
    if "prices_2021" in result:
        shown["prices of 2021, interruptions at the advisor's rates"] = result["prices_2021"]
    for title, policies in shown.items():
        table = Table(title=title)
        table.add_column("policy")
        for name in ("cost / on-demand", "outage s / 30 d", "failovers / 30 d", "lost state s / 30 d"):
            table.add_column(name, justify="right")
        for name, one in policies.items():
            table.add_row(
                name,
                f"{one['cost_ratio']:.3f}",
                f"{one['outage_seconds_per_30d']:,.0f}",
                f"{one['failovers_per_30d']:.1f}",
                f"{one['lost_state_seconds_per_30d']:,.0f}",
            )
        console.print(table)
    for name in ("cost_ratio_to_oracle", "outage_ratio_to_best_rival", "best_rival", "net_saving_2021"):
        console.print(f"{name}: {result[name]}")


def main() -> None:
    """Replay, write, show."""
    console = Console()
    result = run(data_folder(), console, workers=os.cpu_count() or 1)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    show(result, console)
    plot = OUT.with_suffix(".png") if result["generated"] else PLOT
    kind = "generated" if result["generated"] else "recorded"
    draw(result["policies"], plot, title=f"Cost against outage, {kind} markets")
    console.print(f"written to {OUT.relative_to(ROOT)} and {plot.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
