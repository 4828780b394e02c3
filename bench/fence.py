"""Measures how soon the fence holds, and kills, a workload whose lease is not renewed: `make bench-fence`.

Each run is a workload of four processes in groups and sessions of their own. Its keeper is told when to hold it and a
deadline, and nobody moves them: what is measured is the time from the former until all four are stopped, and from the
latter until none of them lives. The lease allows `FENCE_LATENCY_SECONDS` for either. With `--busy N`, so many processes
spin beside it.

Writes `build/bench/fence.json` and prints a line for each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from spot_agent.fence import Keeper, Launch, boot_clock, descendants
from spot_optimizer.domain.lease import FENCE_LATENCY_SECONDS

FAMILY: Final = """
sh -c 'exec sleep 600' &
setsid sh -c 'trap "" TERM; sleep 600 & wait' &
setsid sh -c '(setsid sleep 600 &) ; exit 0'
wait
"""
_FAMILY_SIZE: Final = 4
_LEAD_SECONDS: Final = 0.3
_STOPPED: Final = "TZX"
_DEAD: Final = "ZX"


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.fence", description="How soon the fence kills")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--busy", type=int, default=0, help="processes that spin beside it")
    parser.add_argument("--out", type=Path, default=Path("build/bench/fence.json"))
    arguments = parser.parse_args()
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.busy)]
    try:
        measured = [_latencies() for _ in range(arguments.runs)]
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    found = {
        "runs": arguments.runs,
        "busy": arguments.busy,
        "allowed_seconds": FENCE_LATENCY_SECONDS,
        "held": _summary([held for held, _ in measured]),
        "dead": _summary([dead for _, dead in measured]),
    }
    for what in ("held", "dead"):
        one = found[what]
        print(
            f"{what}: median {one['median_seconds'] * 1000:.1f} ms, worst of {arguments.runs} "
            f"{one['worst_seconds'] * 1000:.1f} ms after its moment: {one['worst_share_of_allowed']:.0%} of what the "
            "lease allows"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if max(found[what]["worst_seconds"] for what in ("held", "dead")) <= FENCE_LATENCY_SECONDS else 1


def _summary(latencies: list[float]) -> dict[str, float]:
    worst = max(latencies)
    return {
        "median_seconds": statistics.median(latencies),
        "worst_seconds": worst,
        "worst_share_of_allowed": worst / FENCE_LATENCY_SECONDS,
    }


def _latencies() -> tuple[float, float]:
    """Seconds from the moment at which a run is to be held until it is, and from its deadline until it is dead."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": os.environ["PATH"], "HOME": folder}
        keeper = Keeper(Launch(FAMILY, environment, deadline=None))
        while len(family := descendants(keeper.pid)) < _FAMILY_SIZE:
            time.sleep(0.005)
        hold_at = boot_clock() + _LEAD_SECONDS
        deadline = hold_at + _LEAD_SECONDS
        keeper.fence(deadline)
        keeper.hold(hold_at)
        held_at = _moment_when(family, _STOPPED)
        died_at = _moment_when(family, _DEAD)
        os.waitpid(keeper.pid, 0)
        keeper.close()
        return held_at - hold_at, died_at - deadline


def _moment_when(pids: tuple[int, ...], states: str) -> float:
    """Wait until all of them are in one of the states; the boot clock at that moment."""
    while any(_state(pid) not in states for pid in pids):
        time.sleep(0.0005)
    return boot_clock()


def _state(pid: int) -> str:
    """A process's state, as in proc(5); X for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


if __name__ == "__main__":
    raise SystemExit(main())
