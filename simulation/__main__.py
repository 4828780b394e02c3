"""Command line: run seeds, or replay one."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

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
    found: Counter[str] = Counter()
    first: dict[str, list[int]] = {}
    steps = failovers = lost = most = 0
    reached: Counter[str] = Counter()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        outcome = simulate(draw_plan(seed))
        steps += outcome.steps
        most = max(most, outcome.steps)
        failovers += outcome.failovers
        lost += outcome.lost
        reached += outcome.reached
        if outcome.violation:
            found[outcome.violation] += 1
            first.setdefault(outcome.violation, []).append(seed)
    took = time.perf_counter() - began
    print(
        f"{arguments.seeds} seeds, {took:.1f} s, {1000 * took / arguments.seeds:.1f} ms a seed, {steps} steps, most {most}, {failovers} failovers, {lost} lost"
    )
    for name, count in found.most_common():
        print(f"{count:5d} {name}: {first[name][:12]}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
