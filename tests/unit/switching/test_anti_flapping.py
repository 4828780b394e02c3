"""Flapping: looked for in more than ten thousand histories, on made-up markets, hostile ones, and recorded ones."""

from __future__ import annotations

import csv
import gzip
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from spot_optimizer.domain import risk
from spot_optimizer.domain.catalogue import Candidate
from spot_optimizer.domain.decisions import OfferId
from spot_optimizer.domain.maintenance import Window
from spot_optimizer.domain.pools import Lifecycle, Pool
from spot_optimizer.domain.risk import Exposure
from spot_optimizer.domain.switching import HoldReason, SwitchRules, propose_by_price
from tests.builders import NOON
from tests.unit.switching.histories import Price, Walk, at, check, rounds, stepwise

HISTORIES = 10_000
POOLS = tuple(Pool(f"us-east-1{zone}", kind) for zone in "abc" for kind in ("m5.large", "c5.large"))
OFFERS = (*(OfferId(pool.pool_id) for pool in POOLS), OfferId(POOLS[0].pool_id, Lifecycle.ON_DEMAND))
RECORDED = Path(os.environ.get("SPOT_DATA_DIR", Path(__file__).resolve().parents[4] / "shared" / "data"))
NO_RISK = risk.assess(None, Exposure(), now=NOON)


def a_market(chance: random.Random, times: list[datetime]) -> Price:
    """Prices that wander, alternate or stand still, each in its own way."""
    changes: dict[OfferId, list[tuple[datetime, Decimal]]] = {}
    for offer in OFFERS:
        level = chance.uniform(0.8, 1.2)
        kind = chance.choice(("still", "wanders", "alternates", "jumps"))
        steps = [(times[0], Decimal(round(level * 1e4)))]
        for number, now in enumerate(times[1:]):
            if kind == "wanders":
                level *= chance.uniform(0.93, 1.07)
            elif kind == "alternates":
                level *= 0.7 if number % 2 else 1 / 0.7
            elif kind == "jumps" and chance.random() < 0.1:
                level = chance.uniform(0.4, 2.0)
            steps.append((now, Decimal(max(1, round(level * 1e4)))))
        changes[offer] = steps
    return stepwise(changes)


def some_rules(chance: random.Random) -> SwitchRules:
    windows = (Window.parse("daily 00:00-06:00"), Window.parse("sat,sun 12:00-18:30"))
    return SwitchRules(
        minimum_saving=Decimal(chance.choice((1, 2, 5, 10, 25, 45))) / 100,
        hysteresis=Decimal(chance.choice((1, 5, 10, 45))) / 100,
        dwell=timedelta(minutes=chance.choice((5, 15, 30, 120, 1440))),
        most_per_day=chance.choice((1, 2, 4, 24)),
        windows=chance.choice(((), (), windows)),
    )


def cheapest(current: OfferId, price: Price, now: datetime, _chance: random.Random) -> OfferId:
    return min((offer for offer in OFFERS if offer != current), key=lambda offer: (price(offer, now), offer))


def anywhere(current: OfferId, _price: Price, _now: datetime, chance: random.Random) -> OfferId:
    return chance.choice([offer for offer in OFFERS if offer != current])


def test_no_proposer_on_no_market_makes_a_workload_flap_in_ten_thousand_histories() -> None:
    chance = random.Random(26)
    seen: Counter[str] = Counter()
    proposers: tuple[Callable[[OfferId, Price, datetime, random.Random], OfferId], ...] = (cheapest, cheapest, anywhere)
    for number in range(HISTORIES):
        times = rounds(
            NOON + timedelta(minutes=chance.randrange(20_000)), 24, timedelta(minutes=chance.choice((15, 60)))
        )
        price = a_market(chance, times)
        walk = Walk(some_rules(chance), times[0] - timedelta(hours=chance.randrange(48)), chance.choice(OFFERS))
        propose = proposers[number % len(proposers)]
        for now in times:
            if chance.random() < 0.03:
                walk.fail_over(chance.choice([offer for offer in OFFERS if offer != walk.place]), now)
                continue
            proposal = at(walk.place, propose(walk.place, price, now, chance), price, now)
            assert proposal is not None
            walk.consider(proposal, now, fails=chance.random() < 0.05)
        seen["circles"] += check(walk, price)
        seen["moves"] += len(walk.by_itself)
        seen["failed"] += len(walk.failed_at)
        seen.update(walk.held)
    # What was looked for did come close: there were moves, returns that were worth it, and returns that were refused.
    assert seen["moves"] > HISTORIES / 4
    assert seen["circles"] > 100
    assert {reason for reason in HoldReason if seen[reason]} == {
        HoldReason.OUTSIDE_WINDOW,
        HoldReason.STAYED_TOO_SHORTLY,
        HoldReason.MOVED_TOO_OFTEN,
        HoldReason.FAILED_LATELY,
        HoldReason.SAVES_TOO_LITTLE,
        HoldReason.RETURNS_FOR_TOO_LITTLE,
    }


def test_where_prices_stay_within_the_minimum_saving_of_themselves_nobody_ever_comes_back() -> None:
    chance = random.Random(27)
    moves = 0
    for _ in range(250):
        rules = SwitchRules(minimum_saving=Decimal("0.10"), dwell=timedelta(minutes=15), most_per_day=24)
        times = rounds(NOON, 96)
        # No price ever is more than 1 / 0.9 times what it was at another time: each wanders within a tenth.
        changes = {
            offer: [(now, level * Decimal(chance.randrange(9001, 10_000)) / 10_000) for now in times]
            for offer in OFFERS
            for level in (Decimal(chance.randrange(70, 130)) / 1000,)
        }
        price = stepwise(changes)
        walk = Walk(rules, NOON - timedelta(days=1), chance.choice(OFFERS))
        for now in times:
            proposal = at(walk.place, cheapest(walk.place, price, now, chance), price, now)
            assert proposal is not None
            walk.consider(proposal, now)
        places = [walk.moves[0][0].left, *(move.entered for move, _ in walk.moves)] if walk.moves else []
        assert len(set(places)) == len(places)
        moves += len(walk.moves)
    assert moves > 100


def test_without_hysteresis_the_gate_would_let_a_workload_come_back_for_less() -> None:
    """That the circles are checked at all: a gate that forgets what was left does not pass."""
    price = stepwise(
        {
            OFFERS[0]: [(NOON, Decimal(100))],
            OFFERS[1]: [(NOON, Decimal(94)), (NOON + timedelta(hours=2), Decimal("106.5"))],
        }
    )
    forgetful = Walk(SwitchRules(), NOON - timedelta(days=1), OFFERS[0])
    for hours in (0, 3):
        now = NOON + timedelta(hours=hours)
        proposal = at(forgetful.place, OFFERS[1 - OFFERS.index(forgetful.place)], price, now)
        assert proposal is not None
        remembered = list(forgetful.moves)
        forgetful.moves.clear()
        forgetful.consider(proposal, now)
        forgetful.moves[:0] = remembered
    assert len(forgetful.moves) == 2
    with pytest.raises(AssertionError, match="came back over a swing"):
        check(forgetful, price)
    honest = Walk(SwitchRules(), NOON - timedelta(days=1), OFFERS[0])
    for hours in (0, 3):
        now = NOON + timedelta(hours=hours)
        proposal = at(honest.place, OFFERS[1 - OFFERS.index(honest.place)], price, now)
        assert proposal is not None
        honest.consider(proposal, now)
    assert honest.held == [HoldReason.RETURNS_FOR_TOO_LITTLE]
    assert check(honest, price) == 0


@pytest.mark.parametrize(
    ("market", "days"),
    [
        ("prices_multiaz_us_east_1_2021.csv.gz", 90),
        ("prices_recent_eu_west_1_2022.csv.gz", 90),
        ("prices_stress_us_east_1_2015.csv.gz", 30),
    ],
)
def test_on_recorded_markets_every_return_was_worth_it(market: str, days: int) -> None:
    if not (RECORDED / market).exists():
        pytest.skip(f"SPOT_DATA_DIR holds no {market}")
    changes: dict[OfferId, list[tuple[datetime, Decimal]]] = defaultdict(list)
    families: dict[str, list[Pool]] = defaultdict(list)
    with gzip.open(RECORDED / market, "rt") as file:
        for row in csv.DictReader(file):
            pool = Pool(row["availability_zone"], row["instance_type"])
            when = datetime.fromisoformat(row["timestamp"])
            changes[OfferId(pool.pool_id)].append(
                (when if when.tzinfo else when.replace(tzinfo=UTC), Decimal(row["spot_price"]))
            )
    for steps in changes.values():
        steps.sort()
    for offer in changes:
        pool = Pool.parse(offer.pool_id)
        families[pool.instance_type.partition(".")[2]].append(pool)
    price = stepwise(changes)
    begin = min(steps[0][0] for steps in changes.values()) + timedelta(days=1)
    walks = moves = 0
    chance = random.Random(28)
    for pools in families.values():
        for _ in range(max(1, 12 // len(families))):
            mine = chance.sample(pools, min(8, len(pools)))
            walk = Walk(SwitchRules(), begin - timedelta(days=1), OfferId(mine[0].pool_id))
            for now in rounds(begin, days * 12, timedelta(hours=2)):
                candidates = [
                    Candidate(pool=pool, usd_per_hour=price(OfferId(pool.pool_id), now), risk=NO_RISK)
                    for pool in mine
                    if pool.pool_id != walk.place.pool_id
                ]
                walk.consider(propose_by_price(walk.place, price(walk.place, now), candidates), now)
            check(walk, price)
            walks, moves = walks + 1, moves + len(walk.by_itself)
    assert walks >= 3
    assert moves > walks / 2, "some of them moved, so that there was something to hold"
