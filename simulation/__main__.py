"""Command line: run seeds, or replay one."""

from __future__ import annotations

import argparse
import sys
import time

from simulation.campaign import Summary, run_seeds
from simulation.faults import draw_plan
from simulation.world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        plan = draw_plan(arguments.seed)
        print(f"seed {plan.seed}: {'with' if plan.with_standby else 'without'} a standby, calm at {plan.calm_at:.1f}")
        for fault in plan.faults:
            print(f"  {fault}")
        outcome = simulate(plan, recording=True)
        print("\n".join(outcome.history))
        print(outcome.message or "no violation", f"({outcome.steps} steps)")
        return 1 if outcome.violation else 0
    began = time.perf_counter()
    summary = Summary()
    for outcome in run_seeds(range(arguments.first, arguments.first + arguments.seeds)):
        summary.add(outcome)
    took = time.perf_counter() - began
    print(
        f"{summary.seeds} seeds, {took:.1f} s, {summary.steps} steps, most {summary.most_steps}, "
        f"{summary.failovers} failovers, {summary.lost} lost, slowest {summary.slowest_promotion:.1f}"
    )
    for name, seeds in sorted(summary.violations.items(), key=lambda item: -len(item[1])):
        print(f"{len(seeds):5d} {name}: {seeds[:12]}")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
