"""Writes the demo's rows, each unless it exists, and tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.demo_data import scene as scenes
from spot_optimizer.demo_data.price_model import DemoPool, price_changes
from spot_optimizer.demo_data.scene import Scene
from spot_optimizer.domain import pools_of_interest
from spot_optimizer.domain.prices import (
    BUCKET,
    Observation,
    Source,
    StepFunction,
    bucket_of,
    bucket_start,
)
from spot_optimizer.domain.writes import Change, Missing, Table, Transaction
from spot_optimizer.errors import ConditionFailed

PRICES_FOR = timedelta(days=7)
OFFERED_AT_ONCE = 288
"""Price rows between two reports of progress: a day's."""

SUBMISSION = "demo-data"
SEEN_AFTER = timedelta(seconds=150)
"""Into each bucket: agents report so often."""

BUCKETS_A_WEEK = timedelta(days=7) // BUCKET
HOLES = frozenset((*range(300, 302), *range(600, 605), *range(1_200, 1_220)))
"""Buckets of the week without a price in the last pool: a short, a medium and a long gap, for `gaps fill` to fill.
They are at fixed times, so that loading later does not move them."""

type Progress = Callable[[str, int, int], None]
"""Told the part, how many of its rows are there, and how many there will be."""


class TablesInUse(Exception):
    """Agents that are not the demo's are registered in this deployment."""


@dataclass(frozen=True, slots=True)
class Span:
    """Prices from `since` on; everything else as it is `now`."""

    since: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """What is loaded together.

    Attributes:
        name: For people.
        load: Writes it; yields after each step how many rows are there, of how many.
    """

    name: str
    load: Callable[[Scene, Span], Iterator[tuple[int, int]]]


def load(
    *, region: str, now: datetime, force: bool, progress: Progress, prices_for: timedelta = PRICES_FOR
) -> dict[str, int]:
    """Load the demo's rows; those that exist are left as they are.

    Args:
        region: Where the demo's pools are.
        now: Everything happened before.
        force: Load beside agents that are not the demo's.
        progress: Is told how far it is.
        prices_for: How far back prices go.

    Returns:
        How many rows of each part are there now.

    Raises:
        TablesInUse: Others' agents are registered here, and `force` was not given; nothing was written.
    """
    if not force and (others := _others()):
        raise TablesInUse(
            f"this deployment has agents that are not the demo's, such as '{others}'; demo data belongs into one that "
            f"protects nothing: load it elsewhere, or force it"
        )
    scene, span = scenes.set_scene(region, now), Span(now - prices_for, now)
    loaded: dict[str, int] = {}
    for part in PARTS:
        loaded[part.name] = 0
        for done, total in part.load(scene, span):
            progress(part.name, done, total)
            loaded[part.name] = done
    return loaded


def _others() -> str | None:
    after = None
    while True:
        page = wiring.fleet().agents_page(client_id=None, after=after, limit=100)
        for agent in page.values:
            if not scenes.is_demo_agent(agent.agent_id):
                return agent.agent_id
        after = page.last
        if after is None:
            return None


def _clients(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    for number, client in enumerate(scene.clients, start=1):
        wiring.clients().create(client)
        yield number, len(scene.clients)


def _agents(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    yield from _create(Table.AGENTS, scene.agents, "agent_id")


def _instances(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    yield from _create(Table.INSTANCES, scene.instances, "instance_id")


def _replicas(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    yield from _create(Table.REPLICAS, scene.replicas, "agent_id", "replica_id")


def _interruptions(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    yield from _create(Table.INTERRUPTIONS, scene.interruptions, "agent_id", "event_id")


def _switches(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    yield from _create(Table.SWITCHES, scene.switches, "agent_id", "switch_id")


def _model_sessions(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    yield from _create(Table.MODEL_SESSIONS, scene.model_sessions, "session_id", commit=wiring.models().commit)


def _signs_of_life(scene: Scene, span: Span) -> Iterator[tuple[int, int]]:
    heartbeats = scenes.heartbeats(scene, span.now)
    for number, heartbeat in enumerate(heartbeats, start=1):
        wiring.records().put_heartbeat(heartbeat)
        yield number, len(heartbeats)


def _pools(scene: Scene, _span: Span) -> Iterator[tuple[int, int]]:
    prices = wiring.prices()
    known = prices.known_pools([pool.pool_id for pool in scene.pools])
    for number, pool in enumerate(scene.pools, start=1):
        wanted_by = tuple(agent.agent_id for agent in scene.agents if agent.primary_pool_id == pool.pool_id)
        if pool.pool_id not in known:
            taken_up = pools_of_interest.want(pool.pool_id, wanted_by, None)
            priced = Change(
                Table.POOLS,
                (pool.pool_id,),
                "note what the pool's type costs on demand",
                put={"on_demand_usd_per_hour": pool.on_demand_usd_per_hour},
            )
            for change in (taken_up, priced):
                if change is not None:
                    prices.note_pools([change])
        yield number, len(scene.pools)


def _prices(scene: Scene, span: Span) -> Iterator[tuple[int, int]]:
    buckets = range(bucket_of(span.since), bucket_of(span.now))
    *whole, last = scene.pools
    rows = [row for pool in whole for row in demo_prices(pool, buckets)]
    rows += demo_prices(last, buckets, without=HOLES)
    known = {
        (row.pool_id, row.bucket) for pool in scene.pools for row in wiring.prices().measured(pool.pool_id, buckets)
    }
    missing = [row for row in rows if row.slot not in known]
    yield len(rows) - len(missing), len(rows)
    for start in range(0, len(missing), OFFERED_AT_ONCE):
        offered = missing[start : start + OFFERED_AT_ONCE]
        wiring.prices().offer(offered)
        yield len(rows) - len(missing) + start + len(offered), len(rows)


def demo_prices(pool: DemoPool, buckets: range, *, without: Collection[int] = ()) -> Iterator[Observation]:
    """One pool's clean rows.

    Args:
        pool: Which.
        buckets: Consecutive buckets that are over.
        without: Buckets of the week, counted from a Thursday at 00:00 UTC, that get none.
    """
    step = StepFunction(price_changes(pool, bucket_start(buckets.stop)))
    for bucket, price in zip(buckets, step.over(buckets), strict=True):
        if price is not None and bucket % BUCKETS_A_WEEK not in without:
            at = bucket_start(bucket) + SEEN_AFTER
            yield Observation(pool.pool_id, at, price, Source.PRIMARY_AGENT, SUBMISSION)


def _create(
    table: Table, values: Sequence[Any], *key: str, commit: Callable[[Transaction], None] | None = None
) -> Iterator[tuple[int, int]]:
    """Write rows, each unless it exists."""
    commit = commit or wiring.records().commit
    for number, value in enumerate(values, start=1):
        put = {
            field.name: item
            for field in fields(value)
            if field.name not in key and (item := getattr(value, field.name)) is not None
        }
        change = Change(
            table,
            tuple(getattr(value, name) for name in key),
            "load a demo row once",
            only_if={key[-1]: Missing()},
            put=put,
        )
        # Refused where it is there from the last time, and somebody may have worked with it since.
        with suppress(ConditionFailed):
            commit(Transaction("load demo row", (change,)))
        yield number, len(values)


PARTS = (
    Part("clients", _clients),
    Part("agents", _agents),
    Part("instances", _instances),
    Part("replicas", _replicas),
    Part("interruptions", _interruptions),
    Part("switches", _switches),
    Part("model sessions", _model_sessions),
    Part("signs of life", _signs_of_life),
    Part("pools", _pools),
    Part("prices", _prices),
)
"""In this order; a table that comes later adds its part here."""
