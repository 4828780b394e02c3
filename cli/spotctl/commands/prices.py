"""Pools and their prices: the latest, over time, how good they are, and having gaps filled."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.text import Text

from spotctl.failures import Document, Unfinished
from spotctl.graphs import chart, sparkline
from spotctl.screen import Column, Shape
from spotctl.session import AsJson, AtMost, Session, Wait, WithinSeconds, begin, complete_pools
from spotctl.times import From, To, read_range
from spotctl.waiting import looks
from spotctl.words import ago, moment, money, percent, read_moment, several, state, strong

gaps = typer.Typer(name="gaps", help="Times for which a pool has no price.")

CHART_HEIGHT = 8
CHART_WIDTH = 100
SPARK_WIDTH = 24
SPARK_HOURS = 24
BUCKET = timedelta(minutes=5)
SETTLING = timedelta(minutes=10)
"""So long after its end, a bucket without a price is no gap yet: its reports may be under way."""

PoolId = Annotated[
    str,
    typer.Argument(
        metavar="POOL", help="Such as us-east-1a.m5.large.", autocompletion=complete_pools, show_default=False
    ),
]


def pools_shape(session: Session, trends: dict[str, str] | None = None) -> Shape:
    """A line per pool."""
    trend = (Column("last 24 h", "pool_id", lambda pool_id: (trends or {}).get(str(pool_id), "")),)
    return Shape(
        "PoolAnswer",
        (
            Column("pool", "pool_id", strong, whole=True),
            Column("USD/hour", "latest.usd_per_hour", money, right=True),
            Column("on demand", "on_demand_usd_per_hour", money, right=True),
            Column("seen", "latest.observed_at", ago(session.now)),
            Column("by", "latest.source"),
            Column("collected", "is_collected", state),
            *(trend if trends is not None else ()),
        ),
        nothing="No pool's prices are kept yet: they are once an agent is registered.",
    )


def _counted(by_class: Any) -> str:
    return several(f"{count} {name}" for name, count in (by_class or {}).items() if count) or "none"


QUALITY = Shape(
    "QualityAnswer",
    (
        Column("pool", "pool_id", strong),
        Column("from", "since", moment),
        Column("to", "until", moment),
        Column("coverage", "coverage_percent", percent),
        Column("seen by agents", "measured_percent", percent),
        Column("from AWS's history", "backfilled_percent", percent),
        Column("inferred", "inferred_percent", percent),
        Column("gaps", "gaps", _counted),
        Column("sources compared", "disagreement.compared"),
        Column("  that differed", "disagreement.differing"),
        Column("  by at most", "disagreement.largest_percent", percent),
    ),
)
SERIES = Shape(
    "PricesAnswer",
    (
        Column("pool", "pool_id", strong),
        Column("from", "since", moment),
        Column("to", "until", moment),
        Column("buckets", "buckets"),
        Column("with a price", "buckets_priced"),
    ),
)
POINT = Shape(
    "PointAnswer",
    (
        Column("bucket", "bucket_start", moment),
        Column("USD/hour", "usd_per_hour", money, right=True),
        Column("source", "source"),
        Column("confidence", "confidence", right=True),
        Column("inferred", "is_inferred", state),
        Column("causal", "is_causal", state),
    ),
    nothing="No price is known of that time; `spotctl gaps fill` asks AWS for it.",
)
FILLING = Shape(
    "FillAnswer",
    (
        Column("pool", "pool_id", strong),
        Column("from", "since", moment),
        Column("to", "until", moment),
        Column("execution", "execution"),
        Column("look at", "look"),
    ),
)


def list_pools(
    trend: Annotated[bool, typer.Option("--trend", help="Also draw the last day of each.")] = False,
    at_most: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """List the pools whose prices are kept, with their latest price."""
    with begin(as_json=as_json) as session:
        pools = list(session.api.pages("/api/pools", "pools", at_most=at_most))
        trends = None
        if trend and not as_json:
            since = session.now - timedelta(hours=SPARK_HOURS)
            trends = {
                pool["pool_id"]: sparkline(
                    [value for value in _per_bucket(_series(session, pool["pool_id"], since, None, 60)) if value],
                    width=SPARK_WIDTH,
                )
                for pool in pools
            }
        session.screen.show_list(pools_shape(session, trends), pools)


def show_prices(
    pool_id: PoolId,
    since: From = None,
    until: To = None,
    resolution_minutes: Annotated[
        int, typer.Option("--resolution", min=5, max=1440, help="Minutes; peaks and troughs stay, however coarse.")
    ] = 5,
    points: Annotated[bool, typer.Option("--points", help="A line per point instead of a graph.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw a pool's prices over time; the last day, if nothing else is said.

    Filled up to the lowest price of each column, shaded up to its highest; empty where no price is known.
    """
    with begin(as_json=as_json) as session:
        begun, end = _range(session, since, until)
        series = _series(session, pool_id, begun, end, resolution_minutes)
        if points and not as_json:
            session.screen.show_list(POINT, series["points"])
            return
        session.screen.show(SERIES, series, below=_drawn(series))


def show_quality(pool_id: PoolId, since: From = None, until: To = None, as_json: AsJson = False) -> None:
    """Tell how good a pool's prices are: what was seen, what is inferred, what is missing. Seven days at most."""
    with begin(as_json=as_json) as session:
        begun, end = _range(session, since, until)
        session.screen.show(QUALITY, _quality(session, pool_id, begun, end))


@gaps.command("fill")
def fill_gaps(
    pool_id: PoolId,
    since: From = None,
    until: To = None,
    wait: Wait = False,
    within_seconds: WithinSeconds = 60,
    as_json: AsJson = False,
) -> None:
    """Fill a pool's gaps: from AWS's own history, and what is left by inference. Ninety days at most.

    With --wait, until every bucket has a price. Exit code 9 if some have none in time: a gap of more than four hours
    that AWS's history does not explain stays empty.
    """
    with begin(as_json=as_json) as session:
        begun, end = _range(session, since, until)
        started = session.api.post(
            "/api/pools/{pool_id}/gaps/fill",
            {"from": begun.isoformat(), "to": (end or session.now).isoformat()},
            idempotency_key=uuid.uuid4().hex,
            pool_id=pool_id,
        )
        session.screen.show(FILLING, started)
        if wait:
            _await_filled(session, started, within_seconds=within_seconds)


def _await_filled(session: Session, started: Document, *, within_seconds: float) -> None:
    """Stay until every settled bucket has a price.

    Raises:
        Unfinished: Some have none in time.
    """
    since = read_moment(started["since"])
    until = min(read_moment(started["until"]), session.now - SETTLING)
    wanted = max(1, (until - since) // BUCKET)
    with session.screen.progress(started["pool_id"]) as tell:
        for _ in looks(within_seconds):
            priced = _series(session, started["pool_id"], since, until, 1440)["buckets_priced"]
            tell(100 * min(priced, wanted) / wanted, f"{priced} of {wanted} buckets have a price")
            if priced >= wanted:
                return
    raise Unfinished(
        "Gaps are left",
        f"{wanted - priced} of {wanted} buckets have no price after {within_seconds:.0f} s",
        advice=f"`spotctl quality {started['pool_id']}` tells of which class the gaps are",
    )


def _series(session: Session, pool_id: str, since: datetime, until: datetime | None, resolution: int) -> Document:
    query = {**_edges(since, until), "resolution": resolution}
    return session.api.get("/api/pools/{pool_id}/prices", query=query, pool_id=pool_id)


def _quality(session: Session, pool_id: str, since: datetime, until: datetime | None) -> Document:
    return session.api.get("/api/pools/{pool_id}/quality", query=_edges(since, until), pool_id=pool_id)


def _edges(since: datetime, until: datetime | None) -> dict[str, str | None]:
    return {"from": since.isoformat(), "to": until.isoformat() if until else None}


def _range(session: Session, since: str | None, until: str | None) -> tuple[datetime, datetime | None]:
    """Both ends; the last day without them."""
    begun, end = read_range(since, until, session.now)
    return begun or (end or session.now) - timedelta(days=1), end


def _per_bucket(series: Document) -> list[float | None]:
    """A price for each bucket of the series; of a thinned series, each point until the next."""
    start, count = read_moment(series["since"]), int(series["buckets"])
    prices: list[float | None] = [None] * count
    thinned = len(series["points"]) < series["buckets_priced"]
    places = [(read_moment(point["bucket_start"]) - start) // BUCKET for point in series["points"]]
    for number, (place, point) in enumerate(zip(places, series["points"], strict=True)):
        following = places[number + 1] if number + 1 < len(places) else place + 1
        for bucket in range(place, following if thinned else place + 1):
            prices[bucket] = float(point["usd_per_hour"])
    return prices


def _drawn(series: Document) -> list[Any]:
    if not series["points"]:
        return [Text(), Text(POINT.nothing)]
    prices = [Decimal(str(point["usd_per_hour"])) for point in series["points"]]
    inferred = sum(bool(point["is_inferred"]) for point in series["points"])
    scale = [f"{max(prices):f}", *[""] * (CHART_HEIGHT - 2), f"{min(prices):f}"]
    width = max(map(len, scale))
    lines = chart(_per_bucket(series), width=CHART_WIDTH, height=CHART_HEIGHT)
    drawn = [
        Text(f"{mark:>{width}} ┤", style="bright_black") + Text(line) for mark, line in zip(scale, lines, strict=True)
    ]
    first, last = (read_moment(series[edge]).strftime("%m-%d %H:%M") for edge in ("since", "until"))
    columns = len(lines[0])
    foot = " " * (width + 2) + first + last.rjust(max(len(last) + 1, columns - len(first)))
    said = f"lowest {min(prices):f}, highest {max(prices):f}, latest {prices[-1]:f} USD/hour"
    if inferred:
        said += f"; {inferred} of {len(prices)} points are inferred"
    return [Text(), *drawn, Text(foot, style="bright_black"), Text(said)]
