"""From a failing plan to a minimal one that fails in the same way."""

from __future__ import annotations

from dataclasses import replace

from simulation.faults import Plan
from simulation.world import simulate


def shrink(plan: Plan, invariant: str, *, most_runs: int = 400) -> Plan:
    """Leave out faults, and shorten what is left, as long as the same invariant breaks.

    Args:
        plan: A plan that breaks it.
        invariant: Its name.
        most_runs: When to be content.
    """
    runs = 0

    def still_fails(candidate: Plan) -> bool:
        nonlocal runs
        runs += 1
        return simulate(candidate).violation == invariant

    changed = True
    while changed and runs < most_runs:
        changed = False
        for place in range(len(plan.faults) - 1, -1, -1):
            fewer = replace(plan, faults=plan.faults[:place] + plan.faults[place + 1 :])
            if runs < most_runs and still_fails(fewer):
                plan, changed = fewer, True
        for place, fault in enumerate(plan.faults):
            if fault.lasts < 0.5:
                continue
            shorter = replace(fault, lasts=round(fault.lasts / 2, 2))
            candidate = replace(plan, faults=(*plan.faults[:place], shorter, *plan.faults[place + 1 :]))
            if runs < most_runs and still_fails(candidate):
                plan, changed = candidate, True
    return plan
