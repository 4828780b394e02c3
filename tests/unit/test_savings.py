"""The savings ledger: exact integrals of the prices in force, net of standbys and of hours on demand."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.pools import Lifecycle, Pool
from spot_optimizer.domain.prices import Observation, PriceChange, Source
from spot_optimizer.domain.savings import Part, PriceUnknown, Ran, save, steps_seen
from tests.builders import NOON

POOL = "us-east-1a.m5.large"
ON_DEMAND = {"m5.large": Decimal("0.096"), "c5.large": Decimal("0.085")}
HOUR = timedelta(hours=1)
RECORDED = Path(os.environ.get("SPOT_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
MARKET = RECORDED / "prices_multiaz_us_east_1_2021.csv.gz"
PRICES = {POOL: [PriceChange(NOON, Decimal("0.03")), PriceChange(NOON + HOUR, Decimal("0.05"))]}


def ran(hours: float = 2, *, begins: float = 0, **changes: Any) -> Ran:
    values: dict[str, Any] = {
        "instance_id": "i-1",
        "pool_id": POOL,
        "lifecycle": Lifecycle.SPOT,
        "part": Part.PRIMARY,
        "since": NOON + begins * HOUR,
        "until": NOON + (begins + hours) * HOUR,
    }
    return Ran(**(values | changes))


def saved(*runs: Ran, **changes: Any) -> Any:
    period: dict[str, Any] = {
        "since": NOON - 1000 * HOUR,
        "until": NOON + 1000 * HOUR,
        "prices": PRICES,
        "on_demand": ON_DEMAND,
        "sized_for": "m5.large",
    }
    return save(runs, **(period | changes))


def test_each_price_counts_for_as_long_as_it_held() -> None:
    found = saved(ran(3))
    assert found.spot_usd == Decimal("0.13")
    assert found.counterfactual_usd == Decimal("0.288")
    assert found.net_saving_usd == Decimal("0.158")
    assert found.unpriced == timedelta(0)


def test_standbys_and_hours_on_demand_are_costs() -> None:
    found = saved(
        ran(1),
        ran(1, part=Part.STANDBY, instance_id="i-2"),
        ran(1, begins=1, lifecycle=Lifecycle.ON_DEMAND, instance_id="i-3"),
        ran(1, begins=1, lifecycle=Lifecycle.ON_DEMAND, part=Part.STANDBY, instance_id="i-4"),
    )
    assert (found.spot_usd, found.standby_usd, found.on_demand_fallback_usd) == (
        Decimal("0.03"),
        Decimal("0.126"),
        Decimal("0.096"),
    )
    assert found.counterfactual_usd == Decimal("0.192")
    assert found.net_saving_usd == Decimal("-0.06")
    assert found.net_saving == Decimal("-0.3125")


def test_the_counterfactual_is_the_type_the_workload_is_sized_for() -> None:
    assert saved(ran(1), sized_for="c5.large").counterfactual_usd == Decimal("0.085")
    assert saved(sized_for="c5.large").net_saving is None


@pytest.mark.parametrize(("minutes", "interrupted", "paid"), [(59, True, False), (61, True, True), (59, False, True)])
def test_what_aws_takes_back_within_its_first_hour_is_free(minutes: int, interrupted: bool, paid: bool) -> None:
    found = saved(ran(minutes / 60, interrupted=interrupted))
    assert (found.spot_usd > 0) is paid
    assert found.counterfactual_usd > 0


def test_the_first_hour_counts_from_the_launch_and_not_from_the_promotion() -> None:
    assert saved(ran(0.5, interrupted=True, launched_at=NOON - HOUR)).spot_usd == Decimal("0.015")


def test_what_ran_before_any_price_was_known_is_told_and_not_guessed() -> None:
    early = saved(ran(2, begins=-1))
    assert (early.spot_usd, early.unpriced, early.counterfactual_usd) == (Decimal("0.03"), HOUR, Decimal("0.096"))
    assert saved(ran(2), prices={}).unpriced == 2 * HOUR
    assert saved(ran(2, lifecycle=Lifecycle.ON_DEMAND), on_demand={}).unpriced == 2 * HOUR


@given(st.lists(st.integers(-300, 600), min_size=2, max_size=8, unique=True))
def test_cutting_a_period_or_a_stretch_in_pieces_changes_nothing(minutes: list[int]) -> None:
    cuts = [NOON + timedelta(minutes=minute) for minute in sorted(minutes)]
    whole = ran(since=cuts[0], until=cuts[-1])
    stretches = [ran(since=a, until=b) for a, b in itertools.pairwise(cuts)]
    assert saved(*stretches) == saved(whole)
    parts = [saved(whole, since=a, until=b) for a, b in itertools.pairwise(cuts)]
    assert abs(sum(part.spot_usd for part in parts) - saved(whole).spot_usd) < Decimal("0.00001")
    assert sum((part.unpriced for part in parts), timedelta(0)) == saved(whole).unpriced


@pytest.mark.skipif(not MARKET.exists(), reason="SPOT_DATA_DIR holds no recorded prices of 2021")
def test_a_replayed_month_agrees_to_the_cent_with_an_independent_recomputation() -> None:
    """A workload that moves twice a day through April 2021, with a standby at night and two days on demand."""
    changes: dict[str, dict[datetime, str]] = defaultdict(dict)
    with gzip.open(MARKET, "rt") as file:
        for row in csv.DictReader(file):
            if row["instance_type"] in ("m5.large", "c5.large", "r5.large"):
                pool_id = Pool(row["availability_zone"], row["instance_type"]).pool_id
                changes[pool_id][datetime.fromisoformat(row["timestamp"])] = row["spot_price"]
    april, may = (datetime.fromisoformat(f"2021-0{month}-01T00:00:00+00:00") for month in (4, 5))
    pools = sorted(pool_id for pool_id, known in changes.items() if min(known) < april)
    assert len(pools) > 10
    runs = []
    for half_day in range(60):
        begins = april + half_day * 12 * HOUR + timedelta(seconds=37 * half_day)
        ends = april + (half_day + 1) * 12 * HOUR + timedelta(seconds=37 * (half_day + 1))
        on_demand = half_day in (20, 21, 41, 42)
        lifecycle = Lifecycle.ON_DEMAND if on_demand else Lifecycle.SPOT
        pool_id = "us-east-1a.m5.large" if on_demand else pools[half_day % len(pools)]
        runs.append(ran(since=begins, until=ends, pool_id=pool_id, lifecycle=lifecycle))
        if half_day % 2:
            standby = pools[(half_day + 5) % len(pools)]
            runs.append(ran(since=begins, until=ends, pool_id=standby, part=Part.STANDBY))
    steps = {
        pool_id: [PriceChange(at, Decimal(price)) for at, price in sorted(known.items())]
        for pool_id, known in changes.items()
    }
    found = saved(*runs, since=april, until=may, prices=steps)

    # Once more, differently: second by second where anything changes, in fractions, from the file's own words.
    expected: dict[str, Fraction] = defaultdict(Fraction)
    for one in runs:
        known = changes[one.pool_id]
        end = min(one.until, may)
        moments = sorted({one.since, end, *(at for at in known if one.since < at < end)})
        for a, b in itertools.pairwise(moments):
            hours = Fraction((b - a) // timedelta(seconds=1), 3600)
            if one.part is Part.PRIMARY:
                expected["counterfactual"] += Fraction("0.096") * hours
            if one.lifecycle is Lifecycle.ON_DEMAND:
                expected["fallback"] += Fraction("0.096") * hours
            else:
                price = Fraction(known[max(at for at in known if at <= a)])
                expected["standby" if one.part is Part.STANDBY else "spot"] += price * hours
    cents = {name: round(float(usd) * 100) for name, usd in expected.items()}
    assert cents == {
        "spot": round(found.spot_usd * 100),
        "standby": round(found.standby_usd * 100),
        "fallback": round(found.on_demand_fallback_usd * 100),
        "counterfactual": round(found.counterfactual_usd * 100),
    }
    assert min(cents.values()) > 100
    assert found.unpriced == timedelta(0)
    assert Decimal("0.2") < found.net_saving < Decimal("0.7")


def seen(minutes: float, usd: str) -> Observation:
    return Observation(POOL, NOON + timedelta(minutes=minutes), Decimal(usd), Source.AWS_HISTORY, "test")


def test_a_price_is_carried_over_short_holes_and_no_further() -> None:
    rows = [seen(0, "0.03"), seen(5, "0.03"), seen(65, "0.05"), seen(200, "0.05")]
    steps = steps_seen(rows, until=NOON + timedelta(minutes=205))
    assert [step.changed_at for step in steps if isinstance(step, PriceUnknown)] == [NOON + timedelta(minutes=70)]
    found = saved(ran(205 / 60), prices={POOL: steps})
    assert found.unpriced == timedelta(minutes=130)
    paid = (65 * Decimal("0.03") + 5 * Decimal("0.05") + 5 * Decimal("0.05")) / 60
    assert abs(found.spot_usd - paid) < Decimal("0.000001")


def test_what_nobody_has_seen_for_long_is_unknown_to_the_end() -> None:
    steps = steps_seen([seen(0, "0.03")], until=NOON + timedelta(hours=3))
    assert saved(ran(3), prices={POOL: steps}).unpriced == timedelta(minutes=175)
    assert steps_seen([], until=NOON) == ()
