"""The price pipeline on DynamoDB's conditions: ingest, collection and filling, whatever comes when and how often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from spot_optimizer.adapters.database import Database
from spot_optimizer.adapters.prices import DynamoPrices
from spot_optimizer.config import Config
from spot_optimizer.control import pricing
from spot_optimizer.control.pricing import FILLED_BACK, Outcome, Window
from spot_optimizer.domain import pools_of_interest
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.gaps import GapClass, Method, Rules
from spot_optimizer.domain.price_series import known_then
from spot_optimizer.domain.price_submissions import by_agent, by_aws
from spot_optimizer.domain.prices import Observation, PriceChange, Slot, Source, bucket_of, clean
from tests import builders
from tests.adapters.tables import ENVIRONMENT
from tests.builders import AGENT, NOON, PRIMARY, STANDBY
from tests.fakes import FakeFleet, FakePriceHistory, FakePriceList, FakeRecords

POOL = "us-east-1a.m5.large"
PEER = "us-east-1b.m5.large"
ZONES = {"subnet-a": "us-east-1a", "subnet-b": "us-east-1b"}


@pytest.fixture
def prices(database: Database) -> DynamoPrices:
    config = Config(ENVIRONMENT)
    return DynamoPrices(database, table_name=config.table, raw_table_name=lambda: config.raw_prices_table)


@pytest.fixture
def pools(prices: DynamoPrices) -> None:
    for pool_id in (POOL, PEER):
        taken_up = pools_of_interest.want(pool_id, (AGENT,), None)
        assert taken_up is not None
        prices.note_pools([taken_up])


def a_fleet(*agents: Agent) -> FakeFleet:
    return FakeFleet(FakeRecords().put(*(agents or (an_agent(),))))


def an_agent(**changes: Any) -> Agent:
    return builders.an_agent(**({"instance_types": ("m5.large",), "subnet_ids": tuple(ZONES)} | changes))


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def change(minutes: float, usd_per_hour: str) -> PriceChange:
    return PriceChange(at(minutes), Decimal(usd_per_hour))


def submit(
    prices: DynamoPrices,
    rows: Sequence[tuple[float, str]],
    *,
    submission_id: str = "sub",
    instance_id: str = PRIMARY,
    now: datetime | None = None,
) -> list[Outcome]:
    return [
        row.outcome
        for row in pricing.take_submission(
            prices,
            an_agent(),
            [{"pool_id": POOL, "observed_at": at(minutes).isoformat(), "usd_per_hour": usd} for minutes, usd in rows],
            instance_id=instance_id,
            submission_id=submission_id,
            now=now or at(240),
        )
    ]


def clean_rows(prices: DynamoPrices, pool_id: str = POOL) -> dict[Slot, Observation]:
    first = bucket_of(NOON)
    return {row.slot: row for row in prices.measured(pool_id, range(first - 600, first + 600))}


# --- ingest


@pytest.mark.usefixtures("pools")
def test_concurrent_writers_leave_what_one_pass_over_everything_comes_to(prices: DynamoPrices) -> None:
    coin = random.Random(7)
    rows = [
        Observation(
            coin.choice([POOL, PEER]),
            at(coin.randrange(0, 60) + coin.randrange(60) / 60),
            Decimal(coin.randrange(30, 60)).scaleb(-3),
            coin.choice([source for source in Source if source.is_measured]),
            f"sub-{coin.randrange(5)}",
        )
        for _ in range(150)
    ]
    batches = [coin.sample(rows, 60) for _ in range(2)] + [rows[:75], rows[75:], rows[60:90]]
    with ThreadPoolExecutor(3) as writers:
        list(writers.map(prices.offer, [list(clean(batch).values()) for batch in batches]))
    want = clean(rows)
    assert {**clean_rows(prices), **clean_rows(prices, PEER)} == want


@pytest.mark.usefixtures("pools")
def test_a_better_source_wins_whoever_comes_first(prices: DynamoPrices) -> None:
    assert submit(prices, [(1, "0.05")], instance_id=STANDBY) == [Outcome.KEPT]
    assert submit(prices, [(0, "0.03")]) == [Outcome.KEPT]
    assert submit(prices, [(4, "0.05")], instance_id=STANDBY) == [Outcome.NOT_BETTER]
    [row] = clean_rows(prices).values()
    assert (row.usd_per_hour, row.source) == (Decimal("0.03"), Source.PRIMARY_AGENT)


@pytest.mark.usefixtures("pools")
def test_what_was_submitted_is_kept_as_it_came(prices: DynamoPrices) -> None:
    submit(prices, [(1, "0.05"), (2, "0.06")], submission_id="one")
    submit(prices, [(30, "0.07")], submission_id="two")
    kept = list(prices.submitted(by_agent(AGENT), POOL, at(0), at(10)))
    assert [(seen.observed_at, seen.usd_per_hour, seen.submission_id) for seen in kept] == [
        (at(1), Decimal("0.05"), "one"),
        (at(2), Decimal("0.06"), "one"),
    ]
    assert list(prices.submitted(by_agent(AGENT), PEER, at(0), at(60))) == []


def test_a_pool_of_no_interest_is_refused(prices: DynamoPrices) -> None:
    assert submit(prices, [(1, "0.05")]) == [Outcome.REFUSED]
    assert clean_rows(prices) == {}


# --- collection


def test_the_pools_of_interest_are_those_of_the_agents(prices: DynamoPrices) -> None:
    history = FakePriceHistory({}, ZONES)
    elsewhere = an_agent(agent_id="agt-2", primary_pool_id="us-east-1c.c5.large", subnet_ids=("subnet-gone",))
    pricing.collect(prices, history, a_fleet(an_agent(), elsewhere), now=NOON)
    assert [(pool.pool_id, pool.wanted_by) for pool in prices.pools()] == [
        (POOL, (AGENT,)),
        (PEER, (AGENT,)),
        ("us-east-1c.c5.large", ("agt-2",)),
    ]
    pricing.collect(prices, history, a_fleet(), now=NOON)
    assert history.asked[-1][0] == (POOL, PEER)
    assert [pool.pool_id for pool in prices.pools() if not pool.wanted_by] == ["us-east-1c.c5.large"]


def test_every_bucket_that_is_over_gets_the_price_in_force_and_a_change_its_moment(prices: DynamoPrices) -> None:
    history = FakePriceHistory({POOL: [change(-600, "0.03"), change(-12, "0.04"), change(1, "0.05")]}, ZONES)
    pricing.collect(prices, history, a_fleet(), now=at(2))
    rows = clean_rows(prices)
    assert len(rows) == 13  # the hour before, and the change in the bucket that is not over
    by_bucket = {slot.bucket - bucket_of(NOON): row for slot, row in rows.items()}
    assert by_bucket[-4].usd_per_hour == Decimal("0.03")
    assert (by_bucket[-3].usd_per_hour, by_bucket[-3].observed_at) == (Decimal("0.04"), at(-12))
    assert by_bucket[-1].observed_at == at(-5)
    assert by_bucket[0].usd_per_hour == Decimal("0.05")


def test_a_price_that_is_published_again_is_no_change(prices: DynamoPrices) -> None:
    history = FakePriceHistory({POOL: [change(-600, "0.03")]}, ZONES)
    assert pricing.collect(prices, history, a_fleet(), now=NOON)["changes"] == 1
    history.published[POOL].append(change(2, "0.03"))
    assert pricing.collect(prices, history, a_fleet(), now=at(5))["changes"] == 0
    history.published[POOL] += [change(6, "0.04"), change(8, "0.03")]
    assert pricing.collect(prices, history, a_fleet(), now=at(10))["changes"] == 1
    kept = list(prices.submitted(by_aws(POOL), POOL, at(-700), at(60)))
    assert [(seen.observed_at, seen.usd_per_hour) for seen in kept] == [
        (at(-600), Decimal("0.03")),
        (at(6), Decimal("0.04")),
        (at(8), Decimal("0.03")),
    ]


def test_collecting_again_offers_nothing(prices: DynamoPrices) -> None:
    history = FakePriceHistory({POOL: [change(-600, "0.03"), change(-12, "0.04")]}, ZONES)
    assert pricing.collect(prices, history, a_fleet(), now=NOON)["rows"] == 12
    assert pricing.collect(prices, history, a_fleet(), now=at(1))["rows"] == 0


@pytest.mark.usefixtures("pools")
def test_the_collector_offers_nothing_against_what_a_primary_saw(prices: DynamoPrices) -> None:
    submit(prices, [(-4, "0.05")], now=NOON)
    history = FakePriceHistory({POOL: [change(-600, "0.03")]}, ZONES)
    assert pricing.collect(prices, history, a_fleet(), now=NOON)["rows"] == 11


# --- on-demand prices


def on_demand(prices: DynamoPrices) -> dict[str, Decimal | None]:
    return {pool.pool_id: pool.on_demand_usd_per_hour for pool in prices.pools()}


@pytest.mark.usefixtures("pools")
def test_what_a_type_costs_on_demand_is_noted_at_once_for_its_pools_and_then_daily(prices: DynamoPrices) -> None:
    price_list = FakePriceList({"m5.large": "0.096"})
    assert pricing.ask_on_demand(prices, price_list, now=NOON) == {"asked": 1, "found": 1, "failed": 0}
    assert on_demand(prices) == {POOL: Decimal("0.096"), PEER: Decimal("0.096")}
    price_list.usd_per_hour["m5.large"] = Decimal("0.1")
    assert pricing.ask_on_demand(prices, price_list, now=at(60 * 24 - 1))["asked"] == 0
    assert pricing.ask_on_demand(prices, price_list, now=at(60 * 24))["asked"] == 1
    assert on_demand(prices) == {POOL: Decimal("0.1"), PEER: Decimal("0.1")}
    assert price_list.asked == ["m5.large"] * 2
    # A pool that is taken up meanwhile does not wait for the next day.
    newly = pools_of_interest.want("us-east-1c.m5.large", (AGENT,), None)
    assert newly is not None
    prices.note_pools([newly])
    assert pricing.ask_on_demand(prices, price_list, now=at(60 * 24 + 5))["found"] == 1
    assert on_demand(prices)["us-east-1c.m5.large"] == Decimal("0.1")


@pytest.mark.usefixtures("pools")
def test_a_type_that_the_list_does_not_know_any_more_keeps_what_was_known(prices: DynamoPrices) -> None:
    pricing.ask_on_demand(prices, FakePriceList({"m5.large": "0.096"}), now=NOON)
    forgetful = FakePriceList({})
    assert pricing.ask_on_demand(prices, forgetful, now=at(60 * 24)) == {"asked": 1, "found": 0, "failed": 0}
    assert on_demand(prices)[POOL] == Decimal("0.096")
    assert pricing.ask_on_demand(prices, forgetful, now=at(60 * 24 + 5))["asked"] == 0


def test_each_run_asks_a_few_types_and_none_is_left_out(prices: DynamoPrices) -> None:
    types = [f"m{number}.large" for number in range(25)]
    taken_up = [pools_of_interest.want(f"us-east-1a.{kind}", (AGENT,), None) for kind in types]
    unwanted = pools_of_interest.want("us-east-1a.c5.large", (), None)
    prices.note_pools([change for change in [*taken_up, unwanted] if change is not None])
    price_list = FakePriceList(dict.fromkeys(types, "0.096"))
    asked = [pricing.ask_on_demand(prices, price_list, now=at(5 * run))["asked"] for run in range(4)]
    assert asked == [10, 10, 5, 0]
    assert sorted(price_list.asked) == sorted(types)


def test_a_list_that_does_not_answer_is_asked_again_the_next_time(prices: DynamoPrices) -> None:
    agent = an_agent(instance_types=("m5.large", "r5.large"))
    history = FakePriceHistory({POOL: [change(-600, "0.03")]}, ZONES)
    pricing.collect(prices, history, a_fleet(agent), now=NOON)
    price_list = FakePriceList({"m5.large": "0.096", "r5.large": "0.126"})
    price_list.silent = {"r5.large"}
    assert pricing.ask_on_demand(prices, price_list, now=NOON) == {"asked": 1, "found": 1, "failed": 1}
    price_list.silent = set()
    assert pricing.ask_on_demand(prices, price_list, now=at(5)) == {"asked": 1, "found": 1, "failed": 0}
    assert price_list.asked == ["m5.large", "r5.large", "r5.large"]
    assert on_demand(prices)["us-east-1b.r5.large"] == Decimal("0.126")


@pytest.mark.usefixtures("pools")
def test_of_two_that_asked_at_once_the_first_to_write_is_left(prices: DynamoPrices) -> None:
    as_read = prices.known_pools([POOL])[POOL]
    prices.note_pools([pools_of_interest.note_on_demand(as_read, Decimal("0.096"), at(1))])
    prices.note_pools([pools_of_interest.note_on_demand(as_read, Decimal("0.2"), NOON)])
    pool = prices.known_pools([POOL])[POOL]
    assert (pool.on_demand_usd_per_hour, pool.on_demand_asked_at) == (Decimal("0.096"), at(1))


@pytest.mark.usefixtures("pools")
def test_reports_are_held_against_what_the_type_costs_on_demand_row_by_row(prices: DynamoPrices) -> None:
    rows = [(0, "9.59"), (10, "9.61"), (20, "0.03")]
    assert submit(prices, rows, submission_id="before") == [Outcome.KEPT] * 3
    pricing.ask_on_demand(prices, FakePriceList({"m5.large": "0.096"}), now=NOON)
    after = submit(prices, [(at + 30, usd) for at, usd in rows], submission_id="after")
    assert after == [Outcome.KEPT, Outcome.REFUSED, Outcome.KEPT]


# --- filling


def fill(prices: DynamoPrices, history: FakePriceHistory, *, now: datetime, back: int = 60) -> dict[str, Any]:
    window = Window(POOL, range(bucket_of(now) - back, bucket_of(now)))
    return pricing.fill_pool(prices, history, window, now=now, rules=Rules())


def inferred(prices: DynamoPrices) -> dict[int, Any]:
    first = bucket_of(NOON)
    return {row.bucket - first: row for row in prices.inferred(POOL, range(first - 600, first + 600))}


@pytest.mark.usefixtures("pools")
def test_aws_is_asked_first_and_what_it_says_is_exact(prices: DynamoPrices) -> None:
    submit(prices, [(0, "0.03"), (40, "0.05")], now=at(45))
    history = FakePriceHistory({POOL: [change(-600, "0.03"), change(17, "0.06"), change(38, "0.05")]})
    done = fill(prices, history, now=at(45), back=9)
    assert (done["missing"], done["backfilled"], done["inferred"], done["failed"]) == (7, 7, 0, False)
    series = [str(row.usd_per_hour) for row in sorted(clean_rows(prices).values(), key=lambda row: row.bucket)]
    assert [Decimal(price) for price in series] == [Decimal(f"0.0{n}") for n in (3, 3, 3, 6, 6, 6, 6, 5, 5)]
    assert inferred(prices) == {}


@pytest.mark.usefixtures("pools")
@pytest.mark.parametrize(
    ("minutes", "gap_class", "method"),
    [
        (10, GapClass.SHORT, Method.LINEAR),
        (30, GapClass.MEDIUM, Method.TIME_DECAY),
        (60, GapClass.LONG, Method.PEER_CHANGE),
    ],
)
def test_what_aws_does_not_know_is_inferred_by_class_and_recorded(
    prices: DynamoPrices, minutes: int, gap_class: GapClass, method: Method
) -> None:
    submit(prices, [(-5, "0.03"), (minutes, "0.05")])
    prices.offer(
        Observation(PEER, at(5 * number), Decimal("0.02"), Source.AWS_HISTORY, "peer") for number in range(-2, 14)
    )
    done = fill(prices, FakePriceHistory({}), now=at(minutes + 5), back=minutes // 5 + 2)
    rows = inferred(prices)
    assert sorted(rows) == list(range(minutes // 5))
    assert done["inferred"] == minutes // 5
    for row in rows.values():
        assert (row.gap_class, row.method) == (gap_class, method)
        assert (row.before, row.after) == (Decimal("0.03"), Decimal("0.05"))
        assert row.source.confidence < 1


@pytest.mark.usefixtures("pools")
def test_filling_again_writes_nothing(prices: DynamoPrices) -> None:
    submit(prices, [(-5, "0.03"), (10, "0.05"), (60, "0.05")])
    first = fill(prices, FakePriceHistory({}), now=at(65))
    before = inferred(prices)
    again = fill(prices, FakePriceHistory({}), now=at(65))
    assert first["inferred"] > 0
    assert (again["inferred"], again["withdrawn"]) == (0, 0)
    assert {bucket: row.inferred_at for bucket, row in inferred(prices).items()} == {
        bucket: row.inferred_at for bucket, row in before.items()
    }


@pytest.mark.usefixtures("pools")
def test_while_aws_is_silent_it_is_inferred_and_replaced_when_aws_speaks(prices: DynamoPrices) -> None:
    submit(prices, [(-5, "0.03"), (10, "0.05")])
    history = FakePriceHistory({POOL: [change(-600, "0.031")]})
    history.silent = True
    assert fill(prices, history, now=at(15), back=4)["aws_answered"] is False
    assert sorted(inferred(prices)) == [0, 1]
    history.silent = False
    done = fill(prices, history, now=at(15), back=4)
    assert (done["backfilled"], done["withdrawn"]) == (2, 2)
    assert inferred(prices) == {}
    assert {row.source for row in clean_rows(prices).values()} == {Source.PRIMARY_AGENT, Source.AWS_HISTORY}


@pytest.mark.usefixtures("pools")
def test_an_open_gap_becomes_a_closed_one_and_its_rows_improve(prices: DynamoPrices) -> None:
    silent = FakePriceHistory({})
    submit(prices, [(-5, "0.03")])
    fill(prices, silent, now=at(10), back=3)
    assert {row.method for row in inferred(prices).values()} == {Method.CARRY_FORWARD}
    submit(prices, [(10, "0.06")], submission_id="later")
    fill(prices, silent, now=at(15), back=4)
    rows = inferred(prices)
    assert {row.method for row in rows.values()} == {Method.LINEAR}
    assert [rows[bucket].usd_per_hour for bucket in (0, 1)] == [Decimal("0.04"), Decimal("0.05")]


@pytest.mark.usefixtures("pools")
def test_a_gap_that_becomes_a_blackout_is_emptied(prices: DynamoPrices) -> None:
    silent = FakePriceHistory({})
    submit(prices, [(-5, "0.03")])
    fill(prices, silent, now=at(60))
    assert len(inferred(prices)) == 12
    fill(prices, silent, now=at(250))
    assert inferred(prices) == {}


@pytest.mark.usefixtures("pools")
def test_what_looked_ahead_reaches_no_decision(prices: DynamoPrices) -> None:
    submit(prices, [(-5, "0.03"), (10, "0.05")])
    fill(prices, FakePriceHistory({}), now=at(15), back=4)
    rows = inferred(prices).values()
    assert rows
    assert {point.source for point in known_then(clean_rows(prices).values(), rows)} == {Source.PRIMARY_AGENT}


@pytest.mark.usefixtures("pools")
def test_an_inference_that_was_replaced_meanwhile_is_not_withdrawn(prices: DynamoPrices) -> None:
    submit(prices, [(-5, "0.03")])
    fill(prices, FakePriceHistory({}), now=at(10), back=3)
    stale = tuple(inferred(prices).values())
    submit(prices, [(10, "0.06")], submission_id="later")
    fill(prices, FakePriceHistory({}), now=at(15), back=4)
    prices.withdraw(stale)
    assert {row.method for row in inferred(prices).values()} == {Method.LINEAR}


# --- quality


def test_quality_tells_how_far_agents_and_aws_disagree(prices: DynamoPrices) -> None:
    history = FakePriceHistory({POOL: [change(-600, "0.04"), change(7, "0.05")]}, ZONES)
    pricing.collect(prices, history, a_fleet(), now=at(20))
    submit(prices, [(1, "0.04"), (6, "0.04")], now=at(20))
    submit(prices, [(8, "0.05")], submission_id="late", now=at(20))
    submit(prices, [(11, "0.06")], submission_id="wrong", now=at(20))
    found = pricing.quality(prices, pricing.known_pool(prices, POOL), range(bucket_of(NOON), bucket_of(at(20))))
    assert (found.coverage_percent, found.shares_percent[Source.PRIMARY_AGENT]) == (Decimal(100), Decimal(75))
    assert found.disagreement.compared == 3
    assert (found.disagreement.differing, found.disagreement.largest_percent) == (1, Decimal(20))


# --- the plan


def test_the_plan_covers_every_wanted_pool_page_by_page(prices: DynamoPrices) -> None:
    pool_ids = [f"us-east-1a.m{number}.large" for number in range(100, 201)]
    wanted = [pools_of_interest.want(pool_id, (AGENT,), None) for pool_id in pool_ids]
    unwanted = pools_of_interest.want("us-east-1c.m5.large", (), None)
    prices.note_pools([taken_up for taken_up in (*wanted, unwanted) if taken_up is not None])
    first = pricing.plan_filling(prices, now=NOON)
    second = pricing.plan_filling(prices, now=NOON, after=first["next"])
    planned = [Window.of(window) for window in (*first["windows"], *second["windows"])]
    assert [window.pool_id for window in planned] == pool_ids
    assert (first["next"], second["next"]) == (100, -1)
    assert {window.buckets for window in planned} == {range(bucket_of(NOON - FILLED_BACK), bucket_of(at(-10)))}


def test_a_long_range_is_filled_in_bounded_windows(prices: DynamoPrices) -> None:
    asked = Window(POOL, range(bucket_of(NOON - timedelta(days=20)), bucket_of(NOON)))
    plan = pricing.plan_filling(prices, now=NOON, asked=asked.as_payload())
    windows = [Window.of(window).buckets for window in plan["windows"]]
    assert [len(buckets) for buckets in windows] == [2016, 2016, 1728 - 2]
    assert [bucket for buckets in windows for bucket in buckets] == list(range(asked.buckets.start, bucket_of(at(-10))))


def test_sums_run_over_all_pages() -> None:
    page: list[dict[str, Any]] = [
        {"missing": 2, "backfilled": 1, "inferred": 1, "aws_answered": False},
        {"failed": True},
    ]
    first = pricing.record_filling(page, following=2, earlier=None)
    last = pricing.record_filling([{"missing": 3, "aws_answered": True}], following=-1, earlier=first)
    assert last == {
        "missing": 5,
        "backfilled": 1,
        "inferred": 1,
        "withdrawn": 0,
        "failed": 1,
        "windows": 3,
        "aws_silent": 1,
        "next": -1,
    }
