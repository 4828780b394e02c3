"""The demo: a stateful workload on a spot instance survives its interruption before your eyes.

Everything that moves here is the product as it would run on AWS: the synthesized template, the functions and state
machines, and agents in processes of their own. Only the account is on this machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.ledger.client import LedgerClient
from examples.ledger.clock import boot_ns
from local.launcher import LocalAws
from local.rehearsal import LedgerWorkload, Tenancy
from local.rehearsal.tenancy import REPOSITORY
from local.rehearsal.timeline import FIRST_WRITE, SERVING, Step, Timeline

RESULT = REPOSITORY / "build" / "demo.json"
NOTICE_SECONDS = 120.0
FAILOVER_SECONDS_PROMISED = 15.0
OUTAGE_SECONDS_PROMISED = 2.0
FEWEST_WRITES = 200
WRITES_BEFORE = 150

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo measured; the shape of `build/demo.json`.

    Attributes:
        failover_seconds: From the notice's publication to the new primary serving.
        outage_seconds: The longest gap the client saw.
        hook_seconds: The workload's own stop and start, inside the outage.
    """

    failover_seconds: float
    outage_seconds: float
    hook_seconds: float
    acknowledged_writes: int
    lost_writes: int
    primaries_at_once_max: int
    epoch_before: int
    epoch_after: int
    timeline: tuple[Step, ...]

    def broken_promises(self) -> list[str]:
        """What was promised and does not hold; empty when all is well."""
        checks = (
            (self.lost_writes == 0, f"{self.lost_writes} acknowledged writes were lost"),
            (self.acknowledged_writes >= FEWEST_WRITES, f"only {self.acknowledged_writes} writes were acknowledged"),
            (self.failover_seconds <= FAILOVER_SECONDS_PROMISED, f"the failover took {self.failover_seconds} s"),
            (
                self.outage_seconds - self.hook_seconds <= OUTAGE_SECONDS_PROMISED,
                f"clients waited {self.outage_seconds} s, {self.hook_seconds} s of them for the workload's own hooks",
            ),
            (self.primaries_at_once_max == 1, f"{self.primaries_at_once_max} primaries served at once"),
            (self.epoch_after == self.epoch_before + 1, f"epoch {self.epoch_before} became {self.epoch_after}"),
        )
        return [broken for holds, broken in checks if not holds]


def main() -> int:
    """Play the demo; exit status 0 only if every promise held."""
    parser = argparse.ArgumentParser(prog="python -m local.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end after the summary instead of staying up")
    once = parser.parse_args().once
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logs = Path(tempfile.mkdtemp(prefix="ledger-logs-"))
    try:
        return _play(logs, once=once)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing of it is left on this machine")
        return 130
    finally:
        shutil.rmtree(logs, ignore_errors=True)


def _play(logs: Path, *, once: bool) -> int:
    console.rule("[bold]Spot Optimizer: one spot interruption, survived")
    with ExitStack() as cleanup:
        with _step("starting AWS on this machine (loopback only)"):
            aws = cleanup.enter_context(LocalAws())
        with _step("deploying the template: tables, functions, state machines, API"):
            tenancy = Tenancy.deploy(aws)
            cleanup.callback(tenancy.close)
        workload = LedgerWorkload(tenancy, logs)
        with _step("launching a spot instance with an agent and a ledger on it"):
            workload.launch()
        cleanup.callback(workload.client.stop)
        workload.client.start()
        with _step(f"a client writes through {workload.address}, without pause"):
            _await_writes(workload, WRITES_BEFORE)
        first = workload.view()
        console.print(
            f"   primary {first['primary_instance_id']} in {first['primary_pool_id']}, epoch {first['epoch']}"
        )
        with _step("AWS recommends a rebalance: a standby is launched, synced, made ready"):
            aws.market.recommend_rebalance(first["primary_instance_id"])
            replica = workload.await_ready_standby()
        console.print(f"   standby {replica['instance_id']} in {replica['pool_id']}, lag {replica['lag_seconds']} s")
        outcome = _interrupt(workload, first)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
        _summarize(outcome)
        if not once:
            _stay(aws, tenancy, workload, logs)
    return 1 if outcome.broken_promises() else 0


def _interrupt(workload: LedgerWorkload, before: dict[str, Any]) -> Outcome:
    primary_id, epoch = str(before["primary_instance_id"]), int(before["epoch"])
    market = workload.tenancy.aws.market
    console.print()
    console.print(f"[bold red]AWS takes {primary_id} back[/]: the notice is out, {NOTICE_SECONDS:.0f} s are left")
    timeline = Timeline(workload, began_ns=boot_ns(), epoch=epoch)
    deadline = market.interrupt(primary_id, notice_seconds=NOTICE_SECONDS)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while datetime.now(UTC) < deadline:
            timeline.look()
            live.update(_progress(timeline, workload, deadline))
            time.sleep(0.15)
        live.update(Text(""))
    timeline.look()
    console.print(_table_of(timeline))
    gone = market.instance(primary_id)
    console.print(f"   the notice's time is over: {primary_id} was killed with SIGKILL and is '{gone.state}'")
    time.sleep(1.0)
    verdict = workload.verdict()
    after = workload.view()
    return Outcome(
        failover_seconds=timeline.seconds_to(SERVING) or float("inf"),
        outage_seconds=round(verdict.longest_gap_seconds, 3),
        hook_seconds=round(verdict.hook_seconds, 3),
        acknowledged_writes=verdict.acknowledged_writes,
        lost_writes=verdict.lost_writes + verdict.altered_writes,
        primaries_at_once_max=verdict.primaries_at_once_max,
        epoch_before=epoch,
        epoch_after=int(after["epoch"]),
        timeline=tuple(timeline.in_order),
    )


def _progress(timeline: Timeline, workload: LedgerWorkload, deadline: datetime) -> Table:
    left = max((deadline - datetime.now(UTC)).total_seconds(), 0.0)
    table = _table_of(timeline)
    since = workload.client.seconds_since_acknowledged
    last = "-" if since is None else f"{since:.2f} s ago"
    table.caption = (
        f"{left:4.0f} s until SIGKILL   {workload.client.acknowledged} writes acknowledged, the last {last}, "
        f"under epoch {workload.client.last_epoch}"
    )
    return table


def _table_of(timeline: Timeline) -> Table:
    table = Table("seconds after the notice", "what happened", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.columns[0].justify = "right"
    for step in timeline.in_order:
        style = "bold green" if step.step in (SERVING, FIRST_WRITE) else ""
        table.add_row(f"{step.at_seconds:.2f}", Text(step.step, style=style))
    return table


def _summarize(outcome: Outcome) -> None:
    table = Table(
        "what was promised", "measured", "promise", title="\nThe interruption, as clients saw it", title_justify="left"
    )
    table.add_row(
        "notice to new primary serving", f"{outcome.failover_seconds:.2f} s", f"<= {FAILOVER_SECONDS_PROMISED:.0f} s"
    )
    table.add_row("longest gap a client saw", f"{outcome.outage_seconds:.2f} s", "")
    table.add_row("  of which the workload's own stop and start", f"{outcome.hook_seconds:.2f} s", "")
    table.add_row(
        "  of which ours",
        f"{outcome.outage_seconds - outcome.hook_seconds:.2f} s",
        f"<= {OUTAGE_SECONDS_PROMISED:.0f} s",
    )
    table.add_row("writes acknowledged", str(outcome.acknowledged_writes), f">= {FEWEST_WRITES}")
    table.add_row("acknowledged writes lost", str(outcome.lost_writes), "0")
    table.add_row("primaries serving at once, at most", str(outcome.primaries_at_once_max), "1")
    table.add_row("epoch before and after", f"{outcome.epoch_before} -> {outcome.epoch_after}", "+1")
    console.print(table)
    broken = outcome.broken_promises()
    for line in broken:
        console.print(f"[bold red]broken:[/] {line}")
    if not broken:
        console.print("[bold green]every promise held[/]")
    console.print(f"written to {RESULT.relative_to(REPOSITORY)}")


def _stay(aws: LocalAws, tenancy: Tenancy, workload: LedgerWorkload, logs: Path) -> None:
    """Stay up with a client that goes on writing, until Ctrl-C."""
    console.print()
    console.rule("look around; Ctrl-C ends it and leaves nothing behind")
    token = f'-H "authorization: Bearer {tenancy.operator_token}"'
    for what, how in (
        ("the API", f"curl {tenancy.api_url}/api/health"),
        ("the agent", f"curl {token} {tenancy.api_url}/api/agents/{workload.agent_id}"),
        ("its replicas", f"curl {token} {tenancy.api_url}/api/agents/{workload.agent_id}/replicas"),
        ("the workload", f"curl 'http://{workload.address}:8080/entries?after=0&limit=5'"),
        ("instances", ".venv/bin/python -m local instances"),
        ("their logs", f"ls {aws.folder}/logs"),
        ("AWS SDK or CLI", " ".join(f"{name}={value}" for name, value in aws.environment.items())),
        ("interrupt again", f".venv/bin/python -m local interrupt {workload.primary_id} --notice 120"),
    ):
        console.print(f"[bold]{what:<16}[/]{how}", soft_wrap=True)
    client = LedgerClient(f"http://{workload.address}:8080", str(logs / "afterwards.jsonl"))
    client.start()
    try:
        with console.status("") as status:
            while True:
                status.update(
                    f"{client.acknowledged} writes acknowledged, now under epoch {client.last_epoch}; longest gap "
                    f"{client.longest_gap_seconds:.2f} s"
                )
                time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("ending")
    finally:
        client.stop()


def _await_writes(workload: LedgerWorkload, writes: int) -> None:
    while workload.client.acknowledged < writes:
        time.sleep(0.1)


@contextmanager
def _step(what: str) -> Iterator[None]:
    began = time.monotonic()
    with console.status(what):
        yield
    console.print(f"[green]ok[/] {what} [dim]{time.monotonic() - began:.1f} s[/]")


if __name__ == "__main__":
    sys.exit(main())
