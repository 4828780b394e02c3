"""Every way in which a primary can die, played on a ledger under load: what is done to it, and what must come of it.

Each way has an agent of its own, so that several play at once; what one does to its pools, its tokens or its addresses
reaches nobody else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.ledger.audit import Audit
from examples.ledger.clock import boot_ns
from local.market.views import InstanceView
from local.rehearsal import LedgerWorkload, wait_for
from spot_optimizer.domain import lease

LONGEST_PROMISED_LOSS_SECONDS = 2.0
"""Two sync intervals of a second each, before the last sign of life."""

LONGEST_SILENT_LOSS_SECONDS = lease.longest_loss(LONGEST_PROMISED_LOSS_SECONDS)
"""The same, and what a workload may acknowledge after that, until it is held."""

FIRST_EPOCH = 1

SLOW_FREEZE = 'HOOK_FREEZE=sleep 3; exec "$PYTHON" -m examples.ledger freeze'
SLOW_START = 'HOOK_START=sleep 2; exec "$PYTHON" -m examples.ledger serve'
AGENT = "-m spot_agent --config"
WORKLOAD = "-m examples.ledger"


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a way.

    Attributes:
        verdict: What the logs of client and servers prove.
        recorded: The interruption's row, where a failover was completed.
        lost_seconds: From the acknowledgement of the oldest lost write to the end: the last sign of life, or the last
            lost write if that came after it; 0 if none is lost.
        facts: What else a test wants to know.
    """

    verdict: Audit | None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    lost_seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


type Launch = Callable[..., LedgerWorkload]


def protected(launch: Launch, **changes: Any) -> LedgerWorkload:
    """A ledger under load with a ready standby."""
    workload = launch(**changes)
    workload.tenancy.aws.market.recommend_rebalance(workload.primary_id)
    workload.await_ready_standby(seconds=120)
    return workload


def standby_of(workload: LedgerWorkload) -> str:
    """The instance of the active replica."""
    view = workload.view()
    return next(
        str(replica["instance_id"])
        for replica in workload.replicas()
        if replica["replica_id"] == view["active_replica_id"]
    )


def machine(workload: LedgerWorkload, instance_id: str) -> InstanceView:
    """An instance as the market sees it."""
    return workload.tenancy.aws.market.instance(instance_id)


def processes(workload: LedgerWorkload, instance_id: str, *commands: str) -> list[int]:
    """The agent's and the workload's processes on an instance, without those that guard them."""
    found = []
    for pid in machine(workload, instance_id).pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
            if any(part in command for part in commands):
                found.append(pid)
    return found


def await_change_rate(workload: LedgerWorkload) -> None:
    """Wait until the primary has told how fast its state changes: what is lost is judged by that."""
    dynamodb = workload.tenancy.aws.client("dynamodb")
    table = next(name for name in dynamodb.list_tables()["TableNames"] if "eartbeat" in name)
    key = {"agent_id": {"S": workload.agent_id}, "instance_id": {"S": workload.view()["primary_instance_id"]}}

    def look() -> bool:
        row = dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
        return float(row.get("changed_bytes_per_second", {"N": "0"})["N"]) > 0

    wait_for("the primary says how fast its state changes", look, seconds=60, stands=workload.how_things_stand)


def await_snapshot(workload: LedgerWorkload, *, after: datetime) -> dict[str, Any]:
    """Wait for a complete snapshot of a later moment."""

    def look() -> dict[str, Any] | None:
        view = workload.view()
        taken_at = view["snapshot_taken_at"]
        return view if taken_at is not None and datetime.fromisoformat(taken_at) > after else None

    return wait_for("a snapshot is complete", look, seconds=90, stands=workload.how_things_stand)


def promoted(workload: LedgerWorkload, before: Mapping[str, Any], *, seconds: float = 120) -> dict[str, Any]:
    """Wait until another epoch serves and a client was acknowledged under it."""
    after = workload.await_promotion(above=before["epoch"], seconds=seconds)
    workload.await_acknowledgement(epoch=after["epoch"], seconds=60)
    return after


def concluded(workload: LedgerWorkload, *, ended_ns: int | None = None, **facts: Any) -> Played:
    """Let the client go on for a moment, then judge.

    Args:
        workload: Whose logs.
        ended_ns: CLOCK_BOOTTIME of the old primary's last sign of life, where that is known.
        facts: What else a test wants to know.
    """
    time.sleep(2)
    verdict = workload.verdict()
    lost = [workload.acknowledged_at(entry_id) for entry_id in verdict.lost_ids]
    ended = max(boot_ns() if ended_ns is None else ended_ns, *lost) if lost else 0
    lost_seconds = (ended - min(lost)) / 1e9 if lost else 0.0
    return Played(verdict, recorded_of(workload), lost_seconds, facts)


def recorded_of(workload: LedgerWorkload) -> Mapping[str, Any]:
    """What the control plane wrote down of the last failover that it saw through; nothing if none was promoted."""
    if int(workload.view()["epoch"]) == FIRST_EPOCH:
        return {}

    def look() -> list[dict[str, Any]] | None:
        failovers = [row for row in _signals(workload) if row["response_action"]["S"] == "fail-over"]
        done = [row for row in failovers if row["failover_completed"]["BOOL"]]
        return done if done and len(done) + sum("failure" in row for row in failovers) >= len(failovers) else None

    done = wait_for(
        "every failover is written down",
        look,
        seconds=150,
        stands=lambda: f"{_signals(workload)}\n{workload.how_things_stand()}",
    )
    row = max(done, key=lambda one: str(one["detected_at"]["S"]))
    costs = ("rto_seconds", "rpo_seconds", "lag_seconds", "rpo_bytes")
    found: dict[str, Any] = {name: float(row[name]["N"]) for name in costs if name in row}
    steps = [(step["M"]["step"]["S"], int(step["M"]["ms"]["N"])) for step in row.get("steps", {}).get("L", [])]
    return {"signal_type": row["signal_type"]["S"], "steps": steps, **found}


def _signals(workload: LedgerWorkload) -> list[dict[str, Any]]:
    """The agent's rows of `spot_interruption_events`, as DynamoDB gives them."""
    dynamodb = workload.tenancy.aws.client("dynamodb")
    table = next(name for name in dynamodb.list_tables()["TableNames"] if "nterruption" in name)
    rows: list[dict[str, Any]] = dynamodb.query(
        TableName=table,
        KeyConditionExpression="agent_id = :agent",
        ExpressionAttributeValues={":agent": {"S": workload.agent_id}},
        ConsistentRead=True,
    )["Items"]
    return rows


def restored_beside(workload: LedgerWorkload, instance_id: str, *, at: str) -> list[str]:
    """Have an operator on an instance restore an earlier snapshot into a folder; what lies there then."""
    view = machine(workload, instance_id)
    repository = Path(__file__).resolve().parents[2]
    roots = (repository / "agent", repository / "layers" / "shared" / "python")
    command = ["restore", "--config", "agent.env", "--at", at, "--into", "restored"]
    subprocess.run(
        [sys.executable, "-m", "spot_agent", *command],
        cwd=view.disk,
        env={
            **os.environ,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": view.metadata_endpoint,
            "PYTHONPATH": ":".join(map(str, roots)),
            "STATE_DIR": "agent-state",
        },
        check=True,
        timeout=60,
    )
    return sorted(path.name for path in (view.disk / "restored" / "0").iterdir())


@contextlib.contextmanager
def unreachable(workload: LedgerWorkload, *instance_ids: str) -> Iterator[None]:
    """Cut instances off from the control plane, and from nothing else."""
    market = workload.tenancy.aws.market
    tokens = [workload.agent_token(instance_id) for instance_id in instance_ids]
    for token in tokens:
        market.set_api_reachable(False, bearer=token)
    try:
        yield
    finally:
        for token in tokens:
            market.set_api_reachable(True, bearer=token)


@contextlib.contextmanager
def blackhole(address: str) -> Iterator[None]:
    """Let nothing more reach an address of this machine; connections that are open fall silent."""
    route = ["blackhole", f"{address}/32", "table", "local"]
    subprocess.run(["ip", "route", "add", *route], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "del", *route], check=True, capture_output=True)


def may_cut_links() -> bool:
    """Whether this process may change routes here."""
    try:
        with blackhole("127.255.255.77"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


# --- the ways ------------------------------------------------------------------------------------------------------


def notice_with_a_ready_standby(launch: Launch) -> Played:
    workload = protected(launch)
    before = workload.view()
    workload.tenancy.aws.market.interrupt(before["primary_instance_id"], notice_seconds=30)
    after = promoted(workload, before)
    pools = {machine(workload, view["primary_instance_id"]).pool for view in (before, after)}
    return concluded(workload, pools=len(pools), epochs=after["epoch"] - before["epoch"])


def notice_while_the_standby_syncs(launch: Launch) -> Played:
    # So slow that the first generation is still on its way; a notice lifts the limit.
    workload = launch(settings=("SYNC_BANDWIDTH=10000",))
    before = workload.view()
    market = workload.tenancy.aws.market
    market.recommend_rebalance(before["primary_instance_id"])
    syncing = wait_for(
        "a replica syncs",
        lambda: next((one for one in workload.replicas() if one["status"] == "syncing"), None),
        seconds=90,
        stands=workload.how_things_stand,
    )
    market.interrupt(before["primary_instance_id"], notice_seconds=90)
    after = promoted(workload, before)
    return concluded(workload, took_over=after["primary_instance_id"] == syncing["instance_id"])


def notice_without_a_standby(launch: Launch) -> Played:
    workload = launch()
    before = workload.view()
    workload.tenancy.aws.market.interrupt(before["primary_instance_id"], notice_seconds=90)
    promoted(workload, before)
    return concluded(workload)


def notice_without_spot_capacity(launch: Launch) -> Played:
    workload = launch(instance_types=("c5.2xlarge",))
    before = workload.view()
    market = workload.tenancy.aws.market
    market.set_capacity("*/c5.2xlarge", available=False)
    market.interrupt(before["primary_instance_id"], notice_seconds=90)
    after = promoted(workload, before)
    attempts = [attempt for replica in workload.replicas() for attempt in replica["attempts"]]
    return concluded(
        workload,
        lifecycle=machine(workload, after["primary_instance_id"]).lifecycle,
        refused=[attempt["outcome"] for attempt in attempts[:-1]],
    )


def notice_in_which_nothing_boots(launch: Launch) -> Played:
    workload = launch(instance_types=("c5.xlarge",))
    before = await_snapshot(workload, after=datetime.fromtimestamp(0, UTC))
    market = workload.tenancy.aws.market
    for lifecycle in ("spot", "on-demand"):
        market.set_capacity("*/c5.xlarge", available=False, lifecycle=lifecycle)
    market.interrupt(before["primary_instance_id"], notice_seconds=25)
    wait_for(
        "AWS takes the primary",
        lambda: machine(workload, before["primary_instance_id"]).state == "terminated",
        seconds=90,
        stands=workload.how_things_stand,
    )
    for lifecycle in ("spot", "on-demand"):
        market.set_capacity("*/c5.xlarge", available=True, lifecycle=lifecycle)
    promoted(workload, before, seconds=240)
    return concluded(workload)


def sudden_death_with_a_ready_standby(launch: Launch) -> Played:
    workload = protected(launch)
    await_change_rate(workload)
    before = workload.view()
    killed_ns = boot_ns()
    workload.tenancy.aws.market.kill(before["primary_instance_id"])
    promoted(workload, before)
    return concluded(workload, ended_ns=killed_ns)


def primary_cut_off_from_the_control_plane(launch: Launch) -> Played:
    workload = protected(launch)
    before = workload.view()
    with unreachable(workload, before["primary_instance_id"]):
        time.sleep(5)
        written = workload.client.acknowledged
        time.sleep(10)
        went_on = workload.client.acknowledged > written
    return concluded(workload, went_on=went_on, epochs=workload.view()["epoch"] - before["epoch"])


def link_to_the_standby_cut(launch: Launch) -> Played:
    workload = protected(launch)
    standby_id = standby_of(workload)
    with blackhole(machine(workload, standby_id).private_address):
        time.sleep(6)
        written = workload.client.acknowledged
        time.sleep(8)
        went_on = workload.client.acknowledged > written
    return concluded(workload, went_on=went_on)


def agent_killed_for_good(launch: Launch) -> Played:
    workload = protected(launch)
    await_change_rate(workload)
    before = workload.view()
    primary_id = before["primary_instance_id"]
    killed_ns = boot_ns()
    # Again and again, so that no process of it comes to renew the lease.
    deadline = time.monotonic() + 60
    while workload.view()["epoch"] == before["epoch"] and time.monotonic() < deadline:
        for pid in processes(workload, primary_id, AGENT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    fenced = not processes(workload, primary_id, f"{WORKLOAD} serve")
    promoted(workload, before)
    return concluded(workload, ended_ns=killed_ns, fenced=fenced)


def agent_and_workload_stopped_and_continued(launch: Launch) -> Played:
    workload = protected(launch)
    await_change_rate(workload)
    before = workload.view()
    stopped = processes(workload, before["primary_instance_id"], AGENT, WORKLOAD)
    stopped_ns = boot_ns()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    promoted(workload, before)
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    time.sleep(2)
    return concluded(workload, ended_ns=stopped_ns)


def both_noticed_at_once(launch: Launch) -> Played:
    workload = protected(launch)
    before = workload.view()
    noticed = (before["primary_instance_id"], standby_of(workload))
    for instance_id in noticed:
        workload.tenancy.aws.market.interrupt(instance_id, notice_seconds=90)
    after = wait_for(
        "the agent serves on an instance that no notice was given for",
        lambda: view if (view := workload.view())["primary_instance_id"] not in noticed else None,
        seconds=240,
        stands=workload.how_things_stand,
    )
    workload.await_acknowledgement(epoch=after["epoch"], seconds=60)
    return concluded(workload)


def refused_before_the_promotion(launch: Launch) -> Played:
    workload = protected(launch)
    before = workload.view()
    parties = (before["primary_instance_id"], standby_of(workload))
    with unreachable(workload, *parties):
        workload.tenancy.aws.market.interrupt(parties[0], notice_seconds=118)
        time.sleep(60)
    promoted(workload, before)
    return concluded(workload)


def refused_during_the_promotion(launch: Launch) -> Played:
    def freezing(workload: LedgerWorkload, before: Mapping[str, Any]) -> None:
        log = workload.tenancy.aws.folder / "logs" / f"{before['primary_instance_id']}.log"
        wait_for("the primary freezes", lambda: '"message": "freezing"' in log.read_text(), seconds=60)

    return _refused_for_a_minute(launch, freezing, settings=(SLOW_FREEZE,))


def refused_after_the_promotion(launch: Launch) -> Played:
    def over(workload: LedgerWorkload, before: Mapping[str, Any]) -> None:
        wait_for("the standby is promoted", lambda: workload.view()["epoch"] > before["epoch"], seconds=60)

    return _refused_for_a_minute(launch, over, settings=(SLOW_START,))


def _refused_for_a_minute(
    launch: Launch, until: Callable[[LedgerWorkload, Mapping[str, Any]], None], **changes: Any
) -> Played:
    workload = protected(launch, **changes)
    before = workload.view()
    parties = (before["primary_instance_id"], standby_of(workload))
    workload.tenancy.aws.market.interrupt(parties[0], notice_seconds=118)
    until(workload, before)
    with unreachable(workload, *parties):
        time.sleep(60)
    promoted(workload, before)
    return concluded(workload)


def promoted_standby_dies_at_once(launch: Launch) -> Played:
    workload = protected(launch)
    before = workload.view()
    standby_id = standby_of(workload)
    market = workload.tenancy.aws.market
    market.interrupt(before["primary_instance_id"], notice_seconds=110)
    wait_for("the standby is promoted", lambda: workload.view()["epoch"] > before["epoch"], seconds=60)
    killed_ns = boot_ns()
    market.kill(standby_id)
    after = wait_for(
        "another instance takes over",
        lambda: view if (view := workload.view())["primary_instance_id"] != standby_id else None,
        seconds=180,
        stands=workload.how_things_stand,
    )
    workload.await_acknowledgement(epoch=after["epoch"], seconds=60)
    return concluded(workload, ended_ns=killed_ns)


def sudden_death_without_a_standby(launch: Launch) -> Played:
    workload = launch(settings=("SNAPSHOT_INTERVAL=2",))
    before = await_snapshot(workload, after=datetime.now(UTC))
    restored = restored_beside(workload, before["primary_instance_id"], at=str(before["snapshot_taken_at"]))
    before = await_snapshot(workload, after=datetime.now(UTC))
    killed_ns = boot_ns()
    workload.tenancy.aws.market.kill(before["primary_instance_id"])
    after = promoted(workload, before, seconds=240)
    taken_at = datetime.fromisoformat(str(before["snapshot_taken_at"]))
    since_snapshot = datetime.now(UTC) - taken_at
    return concluded(
        workload,
        ended_ns=killed_ns,
        since_snapshot=since_snapshot.total_seconds() - (boot_ns() - killed_ns) / 1e9,
        epochs=after["epoch"] - before["epoch"],
        restored=restored,
    )


def every_copy_gone(launch: Launch) -> Played:
    workload = launch(settings=("SNAPSHOT_INTERVAL=0",))
    before = workload.view()
    workload.tenancy.aws.market.kill(before["primary_instance_id"])
    after = wait_for(
        "the agent is lost",
        lambda: view if (view := workload.view())["status"] == "lost" else None,
        seconds=90,
        stands=workload.how_things_stand,
    )
    failed = [
        one["status"]
        for one in workload.tenancy.executions()
        if one["name"].startswith(workload.agent_id) and one["status"] != "RUNNING"
    ]
    return Played(
        None, facts={"epochs": after["epoch"] - before["epoch"], "replicas": workload.replicas(), "ended": failed}
    )


@dataclass(frozen=True, slots=True)
class Way:
    """One way to die.

    Attributes:
        letter: As in docs/failover.md.
        what: In a few words.
        promise: What DESIGN promises for it.
        play: Does it.
        longest_loss_seconds: How old a lost write may be at most.
    """

    letter: str
    what: str
    promise: str
    play: Callable[[Launch], Played]
    longest_loss_seconds: float = 0.0


WAYS = (
    Way("(a)", "notice, standby ready", "serving ≤ 15 s, loss 0", notice_with_a_ready_standby),
    Way(
        "(b)", "notice, standby still syncing", "handed over inside the notice, loss 0", notice_while_the_standby_syncs
    ),
    Way("(c)", "notice, no standby, replacement boots in time", "loss 0", notice_without_a_standby),
    Way("(d)", "notice, no standby, no spot capacity anywhere", "on-demand, loss 0", notice_without_spot_capacity),
    Way("(e)", "notice, nothing boots in time", "snapshot restored, loss ≤ 5 s", notice_in_which_nothing_boots, 5.0),
    Way(
        "(f)",
        "sudden death, standby ready",
        "promoted ≤ 15 s, loss ≤ two sync intervals",
        sudden_death_with_a_ready_standby,
        LONGEST_PROMISED_LOSS_SECONDS,
    ),
    Way("(g)", "primary cut off from the control plane only", "serves on", primary_cut_off_from_the_control_plane),
    Way(
        "(h)",
        "link between primary and standby cut",
        "one of them serves, never both",
        link_to_the_standby_cut,
        LONGEST_PROMISED_LOSS_SECONDS,
    ),
    Way(
        "(i)",
        "agent killed with SIGKILL, workload alive",
        "held and fenced within the lease",
        agent_killed_for_good,
        LONGEST_SILENT_LOSS_SECONDS,
    ),
    Way(
        "(j)",
        "agent and workload stopped for longer than the lease",
        "nothing acknowledged after another serves",
        agent_and_workload_stopped_and_continued,
        LONGEST_PROMISED_LOSS_SECONDS,
    ),
    Way("(k)", "standby and primary noticed at once", "one promotion per epoch, loss 0", both_noticed_at_once),
    Way("(l) before", "control plane refuses for 60 s before the promotion", "loss 0", refused_before_the_promotion),
    Way("(l) during", "control plane refuses for 60 s during the handover", "loss 0", refused_during_the_promotion),
    Way("(l) after", "control plane refuses for 60 s after the promotion", "loss 0", refused_after_the_promotion),
    Way(
        "(m)",
        "promoted standby dies before it serves",
        "old primary promoted back",
        promoted_standby_dies_at_once,
        LONGEST_PROMISED_LOSS_SECONDS,
    ),
    Way(
        "(n)",
        "sudden death, no standby",
        "last snapshot restored, its age recorded",
        sudden_death_without_a_standby,
        float("inf"),
    ),
    Way("(o)", "every copy gone", "lost, loudly; nothing started", every_copy_gone),
)
