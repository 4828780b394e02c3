"""What agents cost and saved in a period, and how well they were kept going."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from spotctl.commands.fleet import OfAgent, OfClient
from spotctl.failures import Document, Unfinished
from spotctl.screen import Column, Shape
from spotctl.session import AsJson, AtMost, Session, begin
from spotctl.times import From, To, read_range
from spotctl.words import NOTHING, amount, percent, plain, seconds, size, strong, usd

AGENTS_AT_ONCE = 10
"""The API adds up no more in one answer."""

SAVINGS = Shape(
    "SavingsAnswer",
    (
        Column("agent", "agent_id", strong, whole=True),
        Column("name", "name"),
        Column("spot", "spot_usd", amount, right=True),
        Column("standby", "standby_usd", amount, right=True),
        Column("fallback", "on_demand_fallback_usd", amount, right=True),
        Column("paid", "paid_usd", amount, right=True),
        Column("on demand", "on_demand_usd", amount, right=True),
        Column("net saving", "net_saving_usd", amount, right=True),
        Column("", "net_saving_percent", percent, right=True),
    ),
    nothing="There is no agent yet.",
)


def _against(told: str, target: str) -> Any:
    """A share beside what it should be."""

    def shown(part: Any) -> Text | str:
        if not isinstance(part, dict) or part.get(told) is None:
            return NOTHING
        value, wanted = float(part[told]), float(part[target])
        return Text(f"{value:.3f} % (target {wanted:.1f} %)", style="green" if value >= wanted else "red")

    return shown


METRICS = Shape(
    "MetricsAnswer",
    (
        Column("agents", "agents"),
        Column("failovers completed", "failovers.completed"),
        Column("  failed", "failovers.failed"),
        Column("  success", "failovers", _against("success_percent", "target_percent")),
        Column("  time, median", "failovers.rto_p50_seconds", seconds),
        Column("  time, 99 %", "failovers.rto_p99_seconds", seconds),
        Column("  that lost anything", "failovers.with_loss"),
        Column("  lost, longest", "failovers.longest_loss_seconds", seconds),
        Column("  lost, about", "failovers.lost_bytes", size),
        Column("planned handovers", "failovers.planned"),
        Column("uptime", "uptime", _against("percent", "target_percent")),
        Column("paid", "saving.paid_usd", usd),
        Column("  on demand", "saving.on_demand_usd", usd),
        Column("  net saving", "saving.net_saving_usd", usd),
        Column("  share", "saving.net_saving_percent", percent),
    ),
)


def list_savings(
    agent_id: OfAgent = None,
    client_id: OfClient = None,
    since: From = None,
    until: To = None,
    at_most: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """What agents cost in a period, in USD, net of standbys and of hours on demand; over a week without --from."""
    with begin(as_json=as_json) as session:
        query = {"agent_id": agent_id, "client_id": client_id, **_period(since, until, session)}
        found = list(
            session.api.pages("/api/savings", "savings", at_most=at_most, page_size=AGENTS_AT_ONCE, query=query)
        )
        session.screen.show_list(SAVINGS, found)
        if as_json or not found:
            return
        if len(found) > 1:
            session.screen.say(_sum(found))
        for ledger in found:
            for what in ledger["unknown"]:
                session.screen.say(Text(f"{ledger['agent_id']}: {what}", style="yellow"))


def show_metrics(
    agent_id: OfAgent = None,
    client_id: OfClient = None,
    since: From = None,
    until: To = None,
    check: Annotated[
        bool, typer.Option("--check", help="End with 9 if a target is missed, for scripts that watch.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """How well agents were kept going in a period: failovers, loss, uptime and net saving, against what is promised."""
    with begin(as_json=as_json) as session:
        query = {"agent_id": agent_id, "client_id": client_id, **_period(since, until, session)}
        told = session.api.get("/api/metrics", query=query)
        notes: list[RenderableType] = [Text(what, style="yellow") for what in told["unknown"]]
        session.screen.show(METRICS, told, below=[Text(), *notes] if notes else [])
        missed = _missed(told)
        if check and missed:
            raise Unfinished("Target missed", "; ".join(missed))


def _period(since: str | None, until: str | None, session: Session) -> dict[str, str | None]:
    begin_at, end = read_range(since, until, session.now)
    return {"from": begin_at.isoformat() if begin_at else None, "to": end.isoformat() if end else None}


def _sum(found: list[Document]) -> str:
    paid = sum(Decimal(ledger["paid_usd"]) for ledger in found)
    known = [ledger for ledger in found if ledger["on_demand_usd"] is not None]
    otherwise = sum(Decimal(ledger["on_demand_usd"]) for ledger in known)
    text = f"All {len(found)} agents: {amount(paid)} USD paid"
    if len(known) == len(found) and otherwise:
        text += f", {amount(otherwise)} USD on demand, net saving {percent((otherwise - paid) / otherwise * 100)}"
    return text


def _missed(told: Document) -> list[str]:
    parts = {"failover success": (told["failovers"], "success_percent"), "uptime": (told["uptime"], "percent")}
    return [
        f"{name} is {float(part[field]):.3f} %, expected {plain(part['target_percent'])} %"
        for name, (part, field) in parts.items()
        if part and part[field] is not None and part[field] < part["target_percent"]
    ]
