"""What a campaign shows: tables for people, JSON for whoever checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from simulation.campaign import Summary
from simulation.coverage import reachable
from simulation.mutants import EFFECTLESS, IMPLIED, Caught

BUILD = Path(__file__).parent.parent / "build"
GROUPS = ("fault", "rival", "state", "catch", "choice", "decision", "event", "end", "fall back")


def unreached(summary: Summary) -> list[str]:
    """What no run reached."""
    return [what for what in reachable() if not summary.reached[what]]


def show_summary(console: Console, summary: Summary, seconds: float) -> None:
    """Print what many runs came to."""
    totals = Table(title="Simulation", show_header=False)
    for name, value in (
        ("runs", f"{summary.seeds}"),
        ("steps", f"{summary.steps} ({summary.steps / max(seconds, 0.001):.0f}/s, at most {summary.most_steps} a run)"),
        ("virtual time", f"{summary.virtual_seconds / 86400:.1f} days in {seconds:.0f} s"),
        ("failovers", f"{summary.failovers}"),
        ("agents lost with every copy", f"{summary.lost}"),
        ("writes acknowledged", f"{summary.writes}"),
        ("slowest from promotion to serving", f"{summary.slowest_promotion:.1f} s"),
        ("longest loss at a sudden end", f"{summary.greatest_loss:.1f} s"),
        ("violations", f"{sum(len(seeds) for seeds in summary.violations.values())}"),
    ):
        totals.add_row(name, value)
    console.print(totals)
    reached = Table(title="Reached")
    reached.add_column("what")
    reached.add_column("how often", justify="right")
    for group in GROUPS:
        for what in sorted(name for name in summary.reached if name.split(" ")[0].rstrip(":") == group.split(" ")[0]):
            reached.add_row(what, str(summary.reached[what]))
    struck = sorted(name for name in summary.reached if ": " in name and not name.startswith("end"))
    for what in struck:
        reached.add_row(f"struck {what}", str(summary.reached[what]))
    for what in unreached(summary):
        reached.add_row(f"[red]{what}", "[red]0")
    console.print(reached)
    for invariant, seeds in sorted(summary.violations.items()):
        console.print(f"[red]{invariant}: seeds {', '.join(map(str, seeds[:20]))}")


def write_summary(summary: Summary, seconds: float) -> Path:
    """Write `build/simulation.json`."""
    return _write(
        "simulation.json",
        {
            "seeds": summary.seeds,
            "violations": sum(len(seeds) for seeds in summary.violations.values()),
            "failing_seeds": {name: seeds[:100] for name, seeds in sorted(summary.violations.items())},
            "failovers": summary.failovers,
            "lost": summary.lost,
            "steps": summary.steps,
            "most_steps": summary.most_steps,
            "steps_per_second": round(summary.steps / max(seconds, 0.001)),
            "seconds": round(seconds, 1),
            "unreached": unreached(summary),
            "reached": dict(sorted(summary.reached.items())),
        },
    )


REASONS = {name: implied.why for name, implied in IMPLIED.items()} | EFFECTLESS
"""Why the conditions that no mutant lacks need none."""


def show_mutants(console: Console, caught: Sequence[Caught], unproven: Sequence[str]) -> None:
    """Print who caught which mutant."""
    table = Table(title="Mutants")
    for column in ("without", "caught by seed", "broken"):
        table.add_column(column, overflow="fold")
    for one in caught:
        seed = "[red]not caught" if one.seed is None else str(one.seed)
        table.add_row(one.mutant, seed, one.invariant)
    console.print(table)
    implied = Table(title="Conditions that others imply, or whose decision changes nothing")
    implied.add_column("condition", overflow="fold")
    implied.add_column("why", overflow="fold")
    for name, reason in REASONS.items():
        implied.add_row(name, reason)
    for name in unproven:
        implied.add_row(name, "[red]nobody has proven that it never decides alone, or a run has refuted it")
    console.print(implied)


def write_mutants(caught: Sequence[Caught], unproven: Sequence[str], *, seeds: int) -> Path:
    """Write `build/mutants.json`."""
    return _write(
        "mutants.json",
        {
            "mutants": len(caught),
            "caught": sum(one.seed is not None for one in caught),
            "seeds": seeds,
            "caught_by": {one.mutant: {"seed": one.seed, "invariant": one.invariant} for one in caught},
            "implied": REASONS,
            "unproven": list(unproven),
        },
    )


def _write(name: str, content: object) -> Path:
    BUILD.mkdir(exist_ok=True)
    path = BUILD / name
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
