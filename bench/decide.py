"""Measures decisions for a whole fleet: `make bench-decide` writes build/bench/decide.json.

10,000 agents with 50 offers each, one process. Measured is the whole way from features to the rows that are stored:
risk of every offer by a model of the size that `make train` makes, the decision on arrays, and the rows with names and
Decimals. It is compared with `Booster.predict` alone on the same matrix, which nothing that asks a model can undercut.
Told apart is the function that decides on schedule: it asks the model of each pool and each held instance once, and
keeps every input and an explanation with each decision.
The market is generated; its content does not matter to the time.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from rich.console import Console
from rich.table import Table

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.decisions import DecisionRules, Offer, OfferId, Situation, StandbyPolicy
from spot_optimizer.domain.offers import Standing, failover_cost
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import NOT_ASKED, Exposure, assess
from spot_optimizer_ml.deciding import Questions, by_model, decide_fleet
from spot_optimizer_ml.fleet import FailoverCosts, Fleet, decide_all

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench" / "decide.json"
AGENTS, OFFERS, FEATURES = 10_000, 50, 13
SPOT_OFFERS = 48
SEED = 7
TIMES = 9


def a_model(coin: np.random.Generator) -> xgboost.Booster:
    """A model of the size that is trained: what it says does not matter here."""
    rows = coin.random((4_000, FEATURES), dtype=np.float32)
    labels = (rows[:, 0] + 0.3 * coin.standard_normal(4_000) > 0.8).astype(np.float32)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.05, "seed": SEED}
    return xgboost.train(parameters, xgboost.DMatrix(rows, labels), num_boost_round=150)


def a_fleet(coin: np.random.Generator) -> Fleet:
    """10,000 agents, each with 48 spot pools and 2 of them on demand as well."""
    shape = (AGENTS, OFFERS)
    is_spot = np.arange(OFFERS) < SPOT_OFFERS
    pool = np.where(is_spot, np.arange(OFFERS), np.arange(OFFERS) - SPOT_OFFERS).astype(np.int32)
    return Fleet(
        usd_per_hour=np.where(is_spot, coin.uniform(0.03, 0.08, shape), 0.12),
        within_1h=np.zeros(shape),
        confidence=np.full(shape, 0.9),
        is_spot=np.broadcast_to(is_spot, shape),
        is_excluded=coin.random(shape) < 0.1,
        pool=np.broadcast_to(pool, shape),
        current=coin.integers(0, SPOT_OFFERS, AGENTS),
        stayed_seconds=coin.uniform(0, 86_400, AGENTS),
        has_standby=coin.random(AGENTS) < 0.2,
        failover=FailoverCosts(
            outage_seconds=np.full(AGENTS, 1.16),
            unprepared_outage_seconds=coin.uniform(1.16, 300, AGENTS),
            usd_per_outage_second=coin.uniform(0, 0.05, AGENTS),
            overlap_seconds=coin.uniform(30, 120, AGENTS),
            transfer_usd=coin.uniform(0, 0.2, AGENTS),
        ),
    )


def as_scheduled(fleet: Fleet, columns: list[OfferId]) -> float:
    """Seconds in which the scheduled function decides for such a fleet, from a model's answers to what it keeps."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    offers = tuple(
        Offer(
            offer_id=column,
            usd_per_hour=Decimal(f"{usd:.4f}"),
            price_seen_at=now,
            risk=assess(None, Exposure(), now=now, no_model_because=NOT_ASKED),
        )
        for column, usd in sorted(zip(columns, fleet.usd_per_hour[0].tolist(), strict=True))
    )
    places = [offer.offer_id for offer in offers if offer.offer_id.lifecycle is Lifecycle.SPOT]
    standings = [
        Standing(
            agent=_an_agent(f"agt-{number:05d}", places[number % len(places)], now),
            situation=Situation(
                agent_id=f"agt-{number:05d}",
                current=places[number % len(places)],
                since=now - timedelta(days=1),
                failover=failover_cost(None, StandbyPolicy.ON_RISK, usd_per_outage_second=Decimal("0.01")),
            ),
            offers=offers,
            launched_at=now - timedelta(hours=3),
            rules=DecisionRules(),
        )
        for number in range(AGENTS)
    ]
    pools = tuple(place.pool_id for place in places)
    own = tuple(one.situation.current.pool_id for one in standings)
    asked = Questions(pools, tuple(one.agent.agent_id for one in standings), own, rows=())
    answers = [(0.01, 0.05)] * (len(pools) + len(own))

    def run() -> object:
        return decide_fleet(standings, by_model(asked, answers, version="model", now=now), now=now)

    [seconds] = fastest_in_turn(run, times=2)
    return seconds


def _an_agent(agent_id: str, place: OfferId, now: datetime) -> Agent:
    return Agent(
        agent_id=agent_id,
        client_id="acme",
        name="bench",
        epoch=1,
        primary_instance_id="i-0",
        primary_pool_id=place.pool_id,
        registered_at=now,
        launch_template_id="lt-0",
        instance_types=("m5.large",),
        subnet_ids=(),
    )


def fastest_in_turn(*runs: Callable[[], object], times: int = TIMES) -> list[float]:
    """Seconds of the fastest of a few runs of each, one after another so that a busy moment of the machine hits all."""
    best = [float("inf")] * len(runs)
    gc.collect()
    gc.disable()
    try:
        for _ in range(times):
            for position, run in enumerate(runs):
                begun = time.perf_counter()
                run()
                best[position] = min(best[position], time.perf_counter() - begun)
    finally:
        gc.enable()
    return best


def measure() -> dict[str, Any]:
    """Time the parts and the whole."""
    coin = np.random.default_rng(SEED)
    booster, fleet = a_model(coin), a_fleet(coin)
    features = coin.random((AGENTS * OFFERS, FEATURES), dtype=np.float32)
    agent_ids = [f"agt-{number:05d}" for number in range(AGENTS)]
    columns = [
        OfferId(f"us-east-1{'abcdef'[n % 6]}.m5.x{n:02d}", Lifecycle.SPOT if n < SPOT_OFFERS else Lifecycle.ON_DEMAND)
        for n in range(OFFERS)
    ]
    offer_ids = [columns] * AGENTS
    rules = DecisionRules(standby=StandbyPolicy.ON_RISK)

    def predict() -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.asarray(booster.predict(xgboost.DMatrix(features)), dtype=np.float32)

    def whole() -> list[dict[str, Any]]:
        within_1h = predict().reshape(AGENTS, OFFERS).astype(np.float64)
        within_1h[~fleet.is_spot] = 0.0
        scored = Fleet(**{**vars(fleet), "within_1h": within_1h})
        return decide_all(scored, rules).stored(agent_ids, offer_ids)

    predict_seconds, whole_seconds = fastest_in_turn(predict, whole)
    decided = whole()
    verdicts = {verdict: sum(row["verdict"] == verdict for row in decided) for verdict in ("stay", "switch")}
    return {
        "agents": AGENTS,
        "offers": OFFERS,
        "features": FEATURES,
        "decisions_per_second": round(AGENTS / whole_seconds),
        "offers_per_second": round(AGENTS * OFFERS / whole_seconds),
        "total_seconds": round(whole_seconds, 4),
        "predict_seconds": round(predict_seconds, 4),
        "ratio_to_predict": round(whole_seconds / predict_seconds, 3),
        "scheduled_seconds": round(as_scheduled(fleet, columns), 4),
        "verdicts": {**verdicts, "prepare-standby": AGENTS - sum(verdicts.values())},
        "compared_with": "Booster.predict on a DMatrix of the same float32 matrix, all cores, fastest of 9 in turn",
    }


def main() -> None:
    """Measure, write, show."""
    result = measure()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("figure", "value", title="Decisions for a fleet")
    for name, value in result.items():
        table.add_row(name, str(value))
    console = Console()
    console.print(table)
    console.print(f"written to {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
