"""Measures how soon the fence has killed a workload whose lease has ended: `make bench-fence`.

Each run is a workload of four processes in groups and sessions of their own. Its keeper is told a deadline, and nobody
moves it: what is measured is the time from the deadline until none of the four lives. The lease allows
`FENCE_LATENCY_SECONDS` for it. With `--busy N`, so many processes spin beside it.

Writes `build/bench/fence.json` and prints a line.
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


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.fence", description="How soon the fence kills")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--busy", type=int, default=0, help="processes that spin beside it")
    parser.add_argument("--out", type=Path, default=Path("build/bench/fence.json"))
    arguments = parser.parse_args()
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.busy)]
    try:
        latencies = sorted(_latency() for _ in range(arguments.runs))
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    worst = latencies[-1]
    found = {
        "runs": arguments.runs,
        "busy": arguments.busy,
        "median_seconds": statistics.median(latencies),
        "worst_seconds": worst,
        "allowed_seconds": FENCE_LATENCY_SECONDS,
        "worst_share_of_allowed": worst / FENCE_LATENCY_SECONDS,
    }
    print(
        f"fence: median {found['median_seconds'] * 1000:.1f} ms, worst of {arguments.runs} {worst * 1000:.1f} ms "
        f"after the deadline: {found['worst_share_of_allowed']:.0%} of what the lease allows"
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if worst <= FENCE_LATENCY_SECONDS else 1


def _latency() -> float:
    """Seconds from a run's deadline until all of it is dead."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": os.environ["PATH"], "HOME": folder}
        keeper = Keeper(Launch(FAMILY, environment, deadline=None))
        while len(family := descendants(keeper.pid)) < _FAMILY_SIZE:
            time.sleep(0.005)
        deadline = boot_clock() + _LEAD_SECONDS
        keeper.fence(deadline)
        while any(_is_alive(pid) for pid in family):
            time.sleep(0.0005)
        died_at = boot_clock()
        os.waitpid(keeper.pid, 0)
        keeper.close()
        return died_at - deadline


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    raise SystemExit(main())
