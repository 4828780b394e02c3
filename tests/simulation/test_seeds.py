"""A short run, and every seed that once found something: the long run is `make simulate`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.campaign import Summary, run_seed, spread
from simulation.coverage import reachable
from simulation.faults import Fault, Plan, draw_plan
from simulation.mutants import RULES, Mutant, run_mutant
from simulation.shrinking import shrink
from simulation.world import World, simulate
from tests.simulation.kept import KEPT_PLANS, KEPT_SEEDS

SEEDS = 300


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Of a short run."""
    total = Summary()
    for outcome in spread(run_seed, range(SEEDS)):
        total.add(outcome)
    return total


def test_three_hundred_seeds_break_no_invariant_and_stay_within_their_steps(summary: Summary) -> None:
    assert summary.violations == {}
    assert summary.most_steps <= 3000
    assert summary.failovers > SEEDS / 2


def test_three_hundred_seeds_reach_most_of_what_there_is(summary: Summary) -> None:
    missing = [what for what in reachable() if not summary.reached[what] and not what.startswith("catch ")]
    assert missing == [], "the full run demands the catchers too"


@pytest.mark.parametrize("seed", KEPT_SEEDS)
def test_what_a_seed_stood_for_when_it_failed_passes(seed: int) -> None:
    outcome = simulate(KEPT_SEEDS[seed])
    assert outcome.violation is None, outcome.message


@pytest.mark.parametrize("name", KEPT_PLANS)
def test_a_plan_that_once_failed_passes(name: str) -> None:
    outcome = simulate(KEPT_PLANS[name])
    assert outcome.violation is None, outcome.message


@pytest.mark.parametrize("seed", [18, 109])
def test_a_replay_is_the_same_byte_for_byte_whatever_the_hash_seed_and_the_folder(seed: int, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    search = [str(Path(entry).resolve()) for entry in sys.path if entry]

    def replay(hash_seed: str, folder: Path) -> bytes:
        return subprocess.run(
            [sys.executable, "-m", "simulation", "--seed", str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(search)},
            cwd=folder,
            check=True,
            capture_output=True,
        ).stdout

    first = replay("0", root)
    assert len(first.splitlines()) > 50
    assert replay("1", tmp_path) == first
    assert replay("4711", tmp_path) == first


def test_recording_a_run_does_not_change_it() -> None:
    told = simulate(draw_plan(7), recording=True)
    silent = simulate(draw_plan(7))
    assert (told.steps, told.seconds, told.writes) == (silent.steps, silent.seconds, silent.writes)
    assert hashlib.sha256("\n".join(told.history).encode()).hexdigest()


def test_a_mutant_is_caught_and_its_plan_shrunk() -> None:
    rule = "the lease: the standby goes on granting while it waits"
    found = run_mutant(Mutant(rule, rule=rule), range(50))
    assert found is not None
    seed, invariant = found
    with RULES[rule]():
        plan = shrink(draw_plan(seed), invariant, most_runs=60)
        assert simulate(plan).violation == invariant
    assert len(plan.faults) <= len(draw_plan(seed).faults)
    assert simulate(plan).violation is None


def test_a_fair_notice_with_a_ready_standby_loses_nothing_and_is_served_in_time() -> None:
    plan = Plan(4711, True, (Fault("notice", 10.0, "primary"),), 20.0, fair=True)
    world = World(plan)
    outcome = world.run()
    assert (outcome.violation, outcome.failovers, len(world.ledger.lost)) == (None, 1, 0)
