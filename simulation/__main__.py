"""Command line: run many seeds, replay one, or hunt mutants."""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from simulation.campaign import Summary, run_seeds, spread
from simulation.faults import Plan, draw_plan
from simulation.mutants import MOST_SEEDS, Caught, hunt, prepare
from simulation.report import show_mutants, show_summary, unreached, write_mutants, write_summary
from simulation.shrinking import shrink
from simulation.world import simulate


def main() -> int:
    """Returns 0 only if nothing was found, nothing stayed unreached, and every mutant was caught."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20000, help="how many seeds to run, from 0")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one with its history")
    parser.add_argument("--shrink", action="store_true", help="with --seed: look for a minimal plan that fails alike")
    parser.add_argument("--mutants", action="store_true", help="take the rules away one by one")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    if arguments.seed is not None:
        return _replay(arguments.seed, shrinking=arguments.shrink)
    if arguments.mutants:
        return _hunt(console)
    return _campaign(console, range(arguments.first, arguments.first + arguments.seeds))


def _replay(seed: int, *, shrinking: bool) -> int:
    plan = draw_plan(seed)
    outcome = simulate(plan, recording=True)
    if outcome.violation is not None and shrinking:
        plan = shrink(plan, outcome.violation)
        outcome = simulate(plan, recording=True)
    _print_plan(plan)
    print("\n".join(outcome.history))
    print(outcome.message or "no violation", f"({outcome.steps} steps)")
    return 0 if outcome.violation is None else 1


def _print_plan(plan: Plan) -> None:
    print(f"seed {plan.seed}: {'with' if plan.with_standby else 'without'} a standby, calm at {plan.calm_at:.2f}")
    for fault in plan.faults:
        print(f"  {fault}")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _campaign(console: Console, seeds: range) -> int:
    began = time.perf_counter()
    summary = Summary()
    with _progress(console) as progress:
        task = progress.add_task("simulating", total=len(seeds))
        for outcome in run_seeds(seeds):
            summary.add(outcome)
            progress.advance(task)
            if outcome.violation is not None:
                console.print(f"[red]seed {outcome.seed}: {outcome.message}")
    seconds = time.perf_counter() - began
    show_summary(console, summary, seconds)
    console.print(f"{write_summary(summary, seconds).name} is written; replay a seed with: make simulate SEED=n")
    if summary.violations:
        _replay(min(seed for failing in summary.violations.values() for seed in failing), shrinking=True)
    complete = not unreached(summary) or len(seeds) < 5000
    return 0 if not summary.violations and complete else 1


def _hunt(console: Console) -> int:
    caught: list[Caught] = []
    with _progress(console) as progress:
        task = progress.add_task("surveying", total=MOST_SEEDS)
        game = prepare(progress=lambda done: progress.update(task, completed=done))
        task = progress.add_task("hunting", total=len(game.jobs))
        for one in spread(hunt, game.jobs):
            caught.append(one)
            progress.advance(task)
    show_mutants(console, caught, game.unproven)
    console.print(f"{write_mutants(caught, game.unproven, seeds=MOST_SEEDS).name} is written")
    if game.broken:
        console.print(f"[red]the whole protocol fails on seeds {game.broken}")
    return 0 if all(one.seed is not None for one in caught) and not game.unproven and not game.broken else 1


if __name__ == "__main__":
    sys.exit(main())
