"""What runs can reach: the states and catchers of the state machines, and the kinds of faults."""

from __future__ import annotations

from collections.abc import Iterator

from simulation.faults import ORPHANS, RIVALS, STRIKES, WEATHER
from simulation.workflows import machine

MACHINES = ("fail_over", "prepare_replica")
HAPPENINGS = (
    "notice",
    "death",
    "shut-down",
    "rebalance",
    "sweep-again",
    "operator-abort",
    "operator-promote",
    "operator-create",
    "operator-pause",
    "operator-terminate",
    "operator-switch",
    "kill-agent",
    "pause-agent",
    "kill-workload",
    "pause-workload",
    "partition",
    "one-way",
    "wall-jump",
)
ENDS = ("end: serving", "end: lost", "fall back")


def reachable() -> Iterator[str]:
    """Everything that a large enough number of runs must reach."""
    for name in MACHINES:
        for state, definition in machine(name)["States"].items():
            yield f"state {name}.{state}"
            for catcher in definition.get("Catch", ()):
                yield f"catch {name}.{state} {catcher['ErrorEquals'][0]}"
            for choice in definition.get("Choices", ()):
                yield f"choice {name}.{state} {choice['StringEquals']}"
    for kind in (*HAPPENINGS, *ORPHANS, *WEATHER, *STRIKES):
        yield f"fault {kind}"
    for rival in sorted({rival for rival in RIVALS if rival}):
        yield f"rival {rival}"
    yield from ENDS
