"""Where a standby goes: never to its primary's pool, late to where somebody was interrupted, at last on demand."""

from __future__ import annotations

import csv
import gzip
import os
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spot_optimizer.domain import catalogue, pools
from spot_optimizer.domain.catalogue import COOLDOWN, LOOKBACK, Candidate, InstanceKind
from spot_optimizer.domain.pools import Lifecycle, Pool
from spot_optimizer.errors import InvalidRequest, NoPoolQualifies
from tests.builders import NOON

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
TYPES = ("m5.large", "m5a.large", "c5.large")
SUBNETS = {zone: f"subnet-{zone[-1]}" for zone in ZONES}
POOLS = tuple(Pool(zone, kind) for zone in ZONES for kind in TYPES)
HISTORIES = 10_000
RECORDED = Path(os.environ.get("SPOT_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
MARKET = RECORDED / "prices_multiaz_us_east_1_2021.csv.gz"


def candidates(**known: Any) -> dict[str, Candidate]:
    wanted: dict[str, Any] = {"primary_pool_id": "us-east-1a.m5.large", "now": NOON} | known
    return {one.pool.pool_id: one for one in catalogue.list_candidates(ZONES, TYPES, **wanted)}


def launch_order(known: Mapping[str, Candidate], *, excluded: set[str], primary: str, safest_first: bool) -> list[str]:
    order = pools.launch_order(
        SUBNETS,
        TYPES,
        prices={pool_id: one.usd_per_hour for pool_id, one in known.items() if one.usd_per_hour is not None},
        primary_pool_id=primary,
        cooling_pool_ids={pool_id for pool_id, one in known.items() if one.cooling_until},
        excluded_zones=excluded,
        interruptions={pool_id: one.interruptions for pool_id, one in known.items()},
        safest_first=safest_first,
    )
    lifecycles = [target.lifecycle for target in order]
    spot = [target.pool.pool_id for target in order if target.lifecycle is Lifecycle.SPOT]
    assert lifecycles == [Lifecycle.SPOT] * len(spot) + [Lifecycle.ON_DEMAND] * (len(order) - len(spot))
    assert not {target.pool.availability_zone for target in order} & excluded
    if any(target.pool.pool_id != primary for target in order[len(spot) :]):
        assert order[len(spot)].pool.pool_id != primary
    return spot


def a_history(chance: random.Random) -> tuple[dict[str, Candidate], set[str], str]:
    """A market, what it did to us lately, what an operator rules out, and where the primary runs."""
    now = NOON + timedelta(minutes=chance.randrange(0, 100_000))
    interruptions = {
        pool.pool_id: [now - timedelta(minutes=chance.expovariate(1 / 600)) for _ in range(chance.randrange(4))]
        for pool in POOLS
        if chance.random() < 0.6
    }
    prices = {pool.pool_id: Decimal(chance.randrange(100, 130)) / 10_000 for pool in POOLS if chance.random() < 0.9}
    primary = chance.choice(POOLS).pool_id
    excluded = {zone for zone in ZONES[1:] if chance.random() < 0.25}
    known = candidates(
        primary_pool_id=primary, now=now, prices=prices, interruptions=interruptions, excluded_zones=excluded
    )
    for pool_id, one in known.items():
        recent = [at for at in interruptions.get(pool_id, ()) if now - at < COOLDOWN]
        assert (one.cooling_until is not None) == bool(recent)
        assert one.interruptions <= len([at for at in interruptions.get(pool_id, ()) if now - at < LOOKBACK])
    return known, excluded, primary


def test_selection_holds_its_rules_in_ten_thousand_histories() -> None:
    chance = random.Random(6)
    for _ in range(HISTORIES):
        known, excluded, primary = a_history(chance)
        manual = launch_order(known, excluded=excluded, primary=primary, safest_first=False)
        emergency = launch_order(known, excluded=excluded, primary=primary, safest_first=True)
        allowed = {pool_id for pool_id, one in known.items() if not one.excluded_because}
        assert set(manual) == set(emergency) == allowed
        assert primary not in manual
        for spot in (manual, emergency):
            cooling = [known[pool_id].cooling_until is not None for pool_id in spot]
            assert cooling == sorted(cooling)
        warm = [known[pool_id] for pool_id in manual if known[pool_id].cooling_until is None]
        priced = [one.usd_per_hour for one in warm if one.usd_per_hour is not None]
        assert [one.usd_per_hour for one in warm] == [*sorted(priced), *[None] * (len(warm) - len(priced))]
        calm = [known[pool_id].interruptions for pool_id in emergency if known[pool_id].cooling_until is None]
        assert calm == sorted(calm)


@pytest.mark.skipif(not MARKET.exists(), reason="SPOT_DATA_DIR holds no recorded prices of 2021")
def test_a_manual_replica_goes_to_the_cheapest_pool_of_a_recorded_market_but_the_primarys() -> None:
    with gzip.open(MARKET, "rt") as file:
        changes = [
            (datetime.fromisoformat(row["timestamp"]), row)
            for row in csv.DictReader(file)
            if row["availability_zone"] in ZONES and row["instance_type"] in TYPES
        ]
    changes.sort(key=lambda change: change[0])
    assert len(changes) > 1_000
    prices: dict[str, Decimal] = {}
    second_cheapest = 0
    for number, (at, row) in enumerate(changes):
        prices[Pool(row["availability_zone"], row["instance_type"]).pool_id] = Decimal(row["spot_price"])
        if len(prices) < 3 or number % 5:
            continue
        by_price = sorted(prices, key=lambda pool_id: prices[pool_id])
        for primary in (by_price[0], by_price[-1]):
            known = candidates(primary_pool_id=primary, now=at, prices=dict(prices))
            first = launch_order(known, excluded=set(), primary=primary, safest_first=False)[0]
            assert prices[first] == min(price for pool_id, price in prices.items() if pool_id != primary)
            second_cheapest += primary == by_price[0]
    assert second_cheapest > 100


def test_a_cooldown_ends_after_an_hour_and_says_until_when() -> None:
    for minutes, cools in ((0, True), (59, True), (60, False)):
        one = candidates(interruptions={"us-east-1b.m5.large": [NOON - timedelta(minutes=minutes)]})
        known = one["us-east-1b.m5.large"]
        assert (known.cooling_until is not None) is cools
        assert ("in cooldown until 2026-03-01T" in known.explanation) is cools
        assert not known.excluded_because


def test_notice_and_death_of_one_instance_are_one_interruption() -> None:
    times = [NOON - timedelta(hours=3), NOON - timedelta(hours=3, minutes=-2), NOON - timedelta(days=1)]
    known = candidates(interruptions={"us-east-1b.m5.large": times})
    assert known["us-east-1b.m5.large"].interruptions == 2
    assert known["us-east-1b.m5.large"].risk.within_1h > known["us-east-1c.m5.large"].risk.within_1h


@pytest.mark.parametrize(
    ("kind", "because"),
    [
        (InstanceKind("c5.large", ("arm64",), 2, 8192), "its architecture is arm64, not x86_64"),
        (InstanceKind("c5.large", ("x86_64",), 1, 8192), "it has 1 vCPU, fewer than m5.large's 2"),
        (InstanceKind("c5.large", ("x86_64",), 2, 4096), "it has 4096 MiB of memory, less than m5.large's 8192"),
        (InstanceKind("c5.large", ("i386", "x86_64"), 4, 8192), ""),
        (None, ""),
    ],
)
def test_a_type_on_which_the_workload_does_not_fit_is_excluded(kind: InstanceKind | None, because: str) -> None:
    kinds = {"m5.large": InstanceKind("m5.large", ("x86_64",), 2, 8192)} | ({"c5.large": kind} if kind else {})
    assert candidates(kinds=kinds)["us-east-1b.c5.large"].excluded_because == because


def test_the_saving_is_the_share_of_the_on_demand_price() -> None:
    known = candidates(prices={"us-east-1b.m5.large": Decimal("0.024")}, on_demand={"m5.large": Decimal("0.096")})
    assert known["us-east-1b.m5.large"].saving == Decimal("0.75")
    assert known["us-east-1c.m5.large"].saving is None


@pytest.mark.parametrize(
    ("pool_id", "said"),
    [
        ("us-east-1d.m5.large", "none of the agent's"),
        ("us-east-1b.r5.large", "none of the agent's"),
        ("eu-west-1a.m5.large", "of another region, which is out of scope"),
        ("us-east-1a.m5.large", "the primary runs there"),
        ("us-east-1c.m5.large", "zone us-east-1c is excluded"),
        ("us-east-1b.c5.large", "its architecture is arm64"),
    ],
)
def test_a_pool_that_can_not_be_had_is_refused_and_what_can_be_had_is_named(pool_id: str, said: str) -> None:
    kinds = {
        "m5.large": InstanceKind("m5.large", ("x86_64",), 2, 8192),
        "c5.large": InstanceKind("c5.large", ("arm64",), 2, 8192),
    }
    known = tuple(candidates(kinds=kinds, excluded_zones=["us-east-1c"]).values())
    with pytest.raises(InvalidRequest, match=said) as refused:
        catalogue.check_wanted(known, pool_id=pool_id)
    assert refused.value.field == "pool_id"
    assert "us-east-1b.m5.large" in refused.value.expected
    catalogue.check_wanted(known, pool_id="us-east-1b.m5.large")


def test_excluding_every_zone_is_refused() -> None:
    known = tuple(candidates(excluded_zones=ZONES).values())
    with pytest.raises(NoPoolQualifies, match="exclude fewer zones"):
        catalogue.check_wanted(known, pool_id=None, excluded_zones=ZONES)


def test_a_pool_in_cooldown_is_given_to_an_operator_who_insists() -> None:
    known = tuple(candidates(interruptions={"us-east-1b.m5.large": [NOON]}).values())
    catalogue.check_wanted(known, pool_id="us-east-1b.m5.large")


def test_what_qualifies_is_shown_first_the_cheapest_first() -> None:
    known = candidates(
        prices={pool.pool_id: Decimal(9 - number) / 100 for number, pool in enumerate(POOLS)},
        interruptions={"us-east-1c.c5.large": [NOON]},
    )
    shown = [one.pool.pool_id for one in catalogue.as_shown(known.values())]
    assert shown[0] == "us-east-1c.m5a.large"
    assert shown[-2:] == ["us-east-1c.c5.large", "us-east-1a.m5.large"]
