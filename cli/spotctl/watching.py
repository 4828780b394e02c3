"""Watching an agent: looks at it again and again, and tells what changed in the words of a failover."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spotctl.failures import Document, Failure, Refused, Unfinished, Unreachable
from spotctl.screen import Column, sheet_of, table_of
from spotctl.waiting import LOOK_EVERY_SECONDS
from spotctl.words import ago, duration, plain, progress, seconds, state, strong

if TYPE_CHECKING:
    from spotctl.session import Session

KEPT_STEPS = 16
"""So many of the latest steps stay on the screen."""

OVER = ("promoted", "terminated", "failed")

AGENT = (
    Column("agent", "agent_id", strong),
    Column("name", "name"),
    Column("status", "status", state),
    Column("epoch", "epoch"),
    Column("primary", "primary_instance_id"),
    Column("in pool", "primary_pool_id"),
    Column("serving", "serving", state),
    Column("traffic epoch", "traffic_epoch"),
    Column("handover", "handover_state", state),
)
REPLICAS = (
    Column("replica", "replica_id", strong, whole=True),
    Column("status", "status", state, whole=True),
    Column("pool", "pool_id", whole=True),
    Column("synced", "sync_percent", progress, whole=True),
    Column("lag", "lag_seconds", seconds, right=True),
    Column("generation", "generation", right=True),
)


def steps_between(before: Document, after: Document) -> Iterator[str]:
    """Tell what happened between two looks at an agent and its replicas, in the order in which it happens.

    Args:
        before: The agent as the API shows it, with `replicas`: a list of them.
        after: The same, later.
    """
    yield from _replica_steps(before, after)
    if after["status"] == "failing-over" != before["status"]:
        yield "failover started"
    if after["handover_id"] != before["handover_id"]:
        yield f"handover {after['handover_id']} opened"
    promoted = after["epoch"] != before["epoch"]
    if after["handover_state"] == "aborted" and before["handover_state"] != "aborted":
        yield "handover aborted: the primary goes on"
    if promoted:
        yield (
            f"promoted: epoch {before['epoch']} -> {after['epoch']}, primary {after['primary_instance_id']} in "
            f"{after['primary_pool_id']}"
        )
    if after["serving"] and (promoted or not before["serving"]):
        yield f"{after['primary_instance_id']} serves"
    if before["serving"] and not after["serving"]:
        yield f"{after['primary_instance_id']} does not serve yet" if promoted else "the primary does not serve"
    if after["traffic_epoch"] != before["traffic_epoch"]:
        yield f"traffic moved to epoch {after['traffic_epoch']}"
    if before["healthy"] and not after["healthy"] and not promoted:
        yield "the workload's health check fails"
    if after["status"] != before["status"] and after["status"] != "failing-over":
        yield f"the agent is {after['status']}"
    for name, value in after["configuration"].items():
        if before["configuration"].get(name) != value:
            yield f"{name} is now {plain(value)}"


def _replica_steps(before: Document, after: Document) -> Iterator[str]:
    known = {replica["replica_id"]: replica for replica in before["replicas"]}
    for replica in after["replicas"]:
        name, status = replica["replica_id"], replica["status"]
        earlier = known.get(name)
        if earlier is None:
            yield f"replica {name} created, {status}"
            continue
        for attempt in replica["attempts"][len(earlier["attempts"]) :]:
            yield f"replica {name}: launching in {attempt['pool_id']} ({attempt['lifecycle']})"
        if earlier["status"] != status:
            why = f": {replica['failure']}" if replica["failure"] else ""
            yield f"replica {name} is {status}{why}"


def watch(
    session: Session,
    agent_id: str,
    *,
    every_seconds: float,
    until_settled: bool,
    within_seconds: float | None,
    since: Document | None = None,
) -> None:
    """Watch an agent until Ctrl-C, or until it has settled.

    Args:
        session: The command's.
        agent_id: Which.
        every_seconds: Between two looks.
        until_settled: End when no failover is under way any more.
        within_seconds: How long at most.
        since: The agent before its handover was asked for: settled is only what has left its epoch behind, or has
            aborted a later handover.

    Raises:
        Unfinished: The agent is lost, the handover was aborted, or it took too long.
        Refused: The API refuses to show it.
    """
    begun = time.monotonic()
    latest = look(session, agent_id)
    steps: list[tuple[datetime, str]] = []
    screen = session.screen
    live = Live(console=screen.err, auto_refresh=False, transient=False) if _is_live(session) else None
    if live is not None:
        live.start()
        live.update(_view(latest, steps, None), refresh=True)
    try:
        while not (until_settled and _settled(latest, since)):
            if within_seconds is not None and time.monotonic() - begun > within_seconds:
                if not until_settled:
                    break
                raise Unfinished("Still under way", f"{agent_id} is '{latest['status']}' after {within_seconds:.0f} s")
            time.sleep(every_seconds)
            trouble: Failure | None = None
            try:
                current = look(session, agent_id)
            except (Unreachable, Refused) as failure:
                if isinstance(failure, Refused) and failure.status < 500:
                    raise
                # The control plane may be away for a while: that is no reason to look away.
                trouble, current = failure, latest
            now = datetime.now(UTC)
            for step in steps_between(latest, current):
                steps.append((now, step))
                if live is None:
                    _tell(session, now, step)
            latest = current
            if live is not None:
                live.update(_view(latest, steps, trouble), refresh=True)
    finally:
        if live is not None:
            live.stop()
    _conclude(session, latest, since)


def watch_handover(session: Session, before: Document, *, within_seconds: float) -> None:
    """Watch an agent until it has been handed over.

    Args:
        session: The command's.
        before: The agent, before the handover was asked for.
        within_seconds: How long at most.

    Raises:
        Unfinished: As `watch`.
        Refused: Likewise.
    """
    watch(
        session,
        before["agent_id"],
        every_seconds=LOOK_EVERY_SECONDS,
        until_settled=True,
        within_seconds=within_seconds,
        since=before,
    )


def look(session: Session, agent_id: str) -> Document:
    """An agent as the API shows it now, with its `replicas`."""
    agent = session.api.get("/api/agents/{agent_id}", agent_id=agent_id)
    replicas = session.api.pages("/api/agents/{agent_id}/replicas", "replicas", agent_id=agent_id)
    return {**agent, "replicas": list(replicas)}


def _settled(latest: Document, since: Document | None) -> bool:
    if latest["status"] == "lost":
        return True
    if latest["status"] == "failing-over":
        return False
    if since is None or latest["epoch"] > since["epoch"]:
        return bool(latest["serving"])
    return bool(latest["handover_state"] == "aborted" and latest["handover_id"] != since["handover_id"])


def _conclude(session: Session, latest: Document, since: Document | None) -> None:
    """Say how it ended."""
    if session.screen.as_json:
        session.screen.print_json_line({"settled": latest["status"], "epoch": latest["epoch"]})
    if latest["status"] == "lost":
        raise Unfinished("Lost", f"every copy of {latest['agent_id']} is gone, or EC2 cannot say that one lives")
    if since is not None and latest["epoch"] == since["epoch"]:
        raise Unfinished(
            "Not handed over", f"the handover was aborted; {latest['primary_instance_id']} serves on, nothing was lost"
        )
    session.screen.say(
        f"{latest['agent_id']} is {latest['status']} at epoch {latest['epoch']}, served by "
        f"{latest['primary_instance_id']} in {latest['primary_pool_id']}."
    )


def _is_live(session: Session) -> bool:
    return session.screen.err.is_terminal and not session.screen.as_json


def _tell(session: Session, now: datetime, step: str) -> None:
    if session.screen.as_json:
        session.screen.print_json_line({"at": now.isoformat(timespec="milliseconds"), "step": step})
    else:
        session.screen.say(f"{now:%H:%M:%S}  {step}")


def _view(latest: Document, steps: list[tuple[datetime, str]], trouble: Failure | None) -> Group:
    now = datetime.now(UTC)
    parts: list[Any] = [sheet_of((*AGENT, Column("last heartbeat", "last_heartbeat_at", ago(now))), latest), Text()]
    active = [replica for replica in latest["replicas"] if replica["status"] not in OVER]
    parts.append(table_of(REPLICAS, active) if active else Text("no replica now", style="bright_black"))
    if steps:
        log = Table.grid(padding=(0, 2))
        start = steps[0][0]
        for at, step in steps[-KEPT_STEPS:]:
            log.add_row(f"{at:%H:%M:%S}", f"+{duration((at - start).total_seconds())}", step)
        parts.append(log)
    foot = Text(f"{now:%H:%M:%S} UTC, Ctrl-C ends", style="bright_black")
    if trouble is not None:
        foot = Text(f"{trouble}; still looking", style="red")
    return Group(*parts, Text(), foot)
