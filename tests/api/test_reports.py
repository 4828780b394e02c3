"""Reports over HTTP: what agents cost and saved, and how well they were kept going."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from spot_optimizer import wiring
from spot_optimizer.control import reporting
from spot_optimizer.control.reporting import Period
from spot_optimizer.domain import pools_of_interest
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.agents import Interruption as Signal
from spot_optimizer.domain.prices import Observation, Source, bucket_of, bucket_start
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.writes import Change, Table, Transaction
from tests import builders
from tests.api.conftest import CLIENT, PRIMARY, Answered, Http, Registration
from tests.api.test_agents import put
from tests.builders import NOON

A, B = "us-east-1a.m5.large", "us-east-1b.m5.large"
SECOND_PRIMARY, THIRD_PRIMARY = "i-0aaaaaaaaaaaaaaa2", "i-0aaaaaaaaaaaaaaa3"
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
DAY = {"from": NOON.isoformat(), "to": (NOON + 6 * HOUR).isoformat()}

#: From which minute on a pool costs what.
PRICES = {A: {-60: "0.0312", 47: "0.0455"}, B: {-60: "0.0401", 203: "0.0388"}}


def store(table: Table, row: Agent | Signal | Replica | Any, *keys: str) -> None:
    values = {
        name: value
        for name in row.__dataclass_fields__
        if name not in keys and (value := getattr(row, name)) is not None
    }
    key = tuple(str(getattr(row, name)) for name in keys)
    wiring.records().commit(Transaction("store", (Change(table, key, "store", put=values),)))


def at(minutes: float) -> datetime:
    return NOON + minutes * MINUTE


def price_pool(pool_id: str, minutes: range) -> None:
    """What a collector that looked in each of these minutes' buckets has kept."""
    changes = PRICES[pool_id]
    rows = []
    for bucket in range(bucket_of(at(minutes.start)), bucket_of(at(minutes.stop))):
        until = (bucket_start(bucket + 1) - NOON) / MINUTE
        changed = max(minute for minute in changes if minute < until)
        seen_at = max(at(changed), bucket_start(bucket))
        rows.append(Observation(pool_id, seen_at, Decimal(changes[changed]), Source.AWS_HISTORY, "test"))
    wiring.prices().offer(rows)


def price_on_demand(*pool_ids: str) -> None:
    for pool_id in pool_ids:
        taken_up = pools_of_interest.want(pool_id, ("agt-test",), None)
        wiring.prices().note_pools([taken_up] if taken_up else [])
        priced = Change(Table.POOLS, (pool_id,), "price", put={"on_demand_usd_per_hour": Decimal("0.096")})
        wiring.prices().note_pools([priced])


@pytest.fixture
def story(agent: Registration) -> Registration:
    """Six hours: on spot in A; from 2 h on demand in B, for spot could not be had; from 4 h on spot in B."""
    agent_id = agent.agent_id
    put(
        Table.AGENTS,
        agent_id,
        registered_at=NOON,
        epoch=3,
        primary_instance_id=THIRD_PRIMARY,
        primary_pool_id=B,
    )
    put(Table.INSTANCES, PRIMARY, launched_at=NOON - HOUR)
    owner = {"agent_id": agent_id, "client_id": CLIENT}
    for epoch, (before, after, pools, hours) in enumerate(
        ((PRIMARY, SECOND_PRIMARY, (A, B), 2), (SECOND_PRIMARY, THIRD_PRIMARY, (B, B), 4)), start=2
    ):
        switch = builders.a_switch(
            **owner,
            switch_id=f"{epoch:010d}",
            epoch=epoch,
            from_instance_id=before,
            to_instance_id=after,
            from_pool_id=pools[0],
            to_pool_id=pools[1],
            switched_at=NOON + hours * HOUR,
        )
        store(Table.SWITCHES, switch, "agent_id", "switch_id")
        replica = builders.a_replica(
            agent_id=agent_id,
            replica_id=f"rep-{epoch}",
            instance_id=after,
            pool_id=B,
            lifecycle="on-demand" if epoch == 2 else "spot",
            status=ReplicaState.PROMOTED,
            created_at=NOON + hours * HOUR - 10 * MINUTE,
            ended_at=NOON + hours * HOUR,
        )
        store(Table.REPLICAS, replica, "agent_id", "replica_id")
    notice = builders.an_interruption(
        **owner,
        instance_id=PRIMARY,
        event_id=f"{PRIMARY}#termination-notice",
        detected_at=at(119),
        termination_time=at(121),
        response_action="fail-over",
        failover_completed=True,
        rto_seconds=2.5,
        rpo_seconds=0.0,
    )
    store(Table.INTERRUPTIONS, notice, "agent_id", "event_id")
    return agent


def ask(http: Http, path: str, *, token: str | None = None, **query: str) -> Answered:
    return http.call("GET", path, token=token or http.client_token, query=query)


def paid(pool_id: str, first: int, last: int) -> Fraction:
    """What a pool costs from minute to minute, in fractions."""
    changes = PRICES[pool_id]
    return sum(
        (
            Fraction(changes[max(change for change in changes if change <= minute)]) / 60
            for minute in range(first, last)
        ),
        Fraction(0),
    )


def dollars(value: Fraction) -> str:
    return f"{float(value):.6f}"


def test_what_an_agent_cost_agrees_with_a_recomputation_minute_by_minute(http: Http, story: Registration) -> None:
    price_pool(A, range(-5, 365))
    price_pool(B, range(-5, 365))
    price_on_demand(A, B)
    answer = ask(http, "/api/savings", agent_id=story.agent_id, **DAY)
    assert answer.status == 200, answer.body
    [found] = answer.body["savings"]
    on_demand = Fraction("0.096")
    expected = {
        "spot_usd": paid(A, 0, 120) + paid(B, 240, 360),
        # the replacement on demand, the first primary until AWS took it, the standby on spot
        "standby_usd": on_demand / 6 + paid(A, 120, 121) + paid(B, 230, 240),
        "on_demand_fallback_usd": on_demand * 2,
        "on_demand_usd": on_demand * 6,
    }
    assert {name: f"{Decimal(found[name]):f}" for name in expected} == {
        name: dollars(value) for name, value in expected.items()
    }
    net = (
        expected["on_demand_usd"] - expected["spot_usd"] - expected["standby_usd"] - expected["on_demand_fallback_usd"]
    )
    assert abs(Fraction(found["net_saving_usd"]) - net) < Fraction(1, 100_000)
    assert found["net_saving_percent"] == pytest.approx(float(net / expected["on_demand_usd"] * 100), abs=0.01)
    assert (found["unpriced_seconds"], found["sized_for"]) == (0, "m5.large")
    assert (found["presumed_spot"], found["unknown"]) == ([PRIMARY], [])


def test_a_price_that_is_not_known_is_said_and_not_guessed(http: Http, story: Registration) -> None:
    price_pool(A, range(-5, 60))
    answer = ask(http, "/api/savings", agent_id=story.agent_id, **DAY)
    [found] = answer.body["savings"]
    assert Decimal(found["spot_usd"]) == Decimal(dollars(paid(A, 0, 60)))
    assert (found["on_demand_usd"], found["net_saving_usd"], found["net_saving_percent"]) == (None, None, None)
    # A from 60 min to 121, B for 10 + 120 min on spot and for 10 + 120 on demand
    assert found["unpriced_seconds"] == (61 + 130 + 130) * 60
    said = " ".join(found["unknown"])
    assert "what m5.large costs on demand is not known" in said
    assert "5.35 instance hours no price is known" in said


def test_savings_are_listed_agent_by_agent(http: Http, story: Registration) -> None:
    put(Table.AGENTS, "agt-of-globex", **_as_row(builders.an_agent(agent_id="agt-of-globex", client_id="globex")))
    seen, cursor = [], None
    while True:
        page = ask(http, "/api/savings", token=http.admin, limit="1", **({"cursor": cursor} if cursor else {})).body
        seen += [found["agent_id"] for found in page["savings"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted([story.agent_id, "agt-of-globex"])
    assert [found["agent_id"] for found in ask(http, "/api/savings").body["savings"]] == [story.agent_id]
    of_client = ask(http, "/api/savings", token=http.admin, client_id="globex").body["savings"]
    assert [found["agent_id"] for found in of_client] == ["agt-of-globex"]


def _as_row(agent: Agent) -> dict[str, Any]:
    return {
        name: value
        for name in agent.__dataclass_fields__
        if name != "agent_id" and (value := getattr(agent, name)) is not None
    } | {"listing": "agent"}


@pytest.mark.parametrize("path", ["/api/savings", "/api/metrics"])
@pytest.mark.parametrize(
    ("query", "field", "expected"),
    [
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "from", "at most 31 days before `to`"),
        ({"from": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "from", "a time before `to`, and before now"),
        ({"from": "2999-01-01T00:00:00Z"}, "from", "a time before `to`, and before now"),
        ({"from": "yesterday"}, "from", None),
        ({"from": "2026-03-01T00:00:00"}, "from", None),
    ],
)
def test_a_period_is_bounded_and_its_field_named(
    http: Http, path: str, query: dict[str, str], field: str, expected: str | None
) -> None:
    answer = ask(http, path, **query)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field)
    assert expected in (None, answer.body["expected"])


def test_a_period_in_which_too_much_happened_is_refused(
    http: Http, story: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "EVENTS_AT_MOST", 1)
    monkeypatch.setattr(reporting, "_PAGE", 1)
    answer = ask(http, "/api/savings", agent_id=story.agent_id, **DAY)
    assert (answer.status, answer.body["field"], answer.body["expected"]) == (422, "from", "a later time")


@pytest.mark.parametrize("path", ["/api/savings", "/api/metrics"])
def test_a_report_reaches_no_further_than_its_client(http: Http, story: Registration, path: str) -> None:
    http.call("POST", "/api/clients", {"client_id": "globex", "name": "Globex"}, token=http.admin)
    other = http.call("POST", "/api/clients/globex/tokens", {}, token=http.admin).body["token"]
    assert ask(http, path, token=other, agent_id=story.agent_id).problem == "AgentUnknown"
    assert ask(http, path, token=other, client_id=CLIENT).problem == "Forbidden"
    assert story.agent_id not in str(ask(http, path, token=other).body)
    assert ask(http, path, token=story.token).problem == "Forbidden"
    assert ask(http, path, token=story.token, agent_id=story.agent_id).status == 200


def test_metrics_tell_failovers_loss_saving_and_uptime(http: Http, story: Registration) -> None:
    price_on_demand(A, B)
    lost = builders.an_interruption(
        agent_id=story.agent_id,
        client_id=CLIENT,
        instance_id=SECOND_PRIMARY,
        event_id=f"{SECOND_PRIMARY}#state-change",
        signal_type="state-change",
        detected_at=at(240),
        response_action="fail-over",
        failure="no copy answered",
    )
    store(Table.INTERRUPTIONS, lost, "agent_id", "event_id")
    # For an hour and a half, but for two minutes in the middle.
    for second in range(0, 90 * 60 + 1, 30):
        if not 2700 < second < 2820:
            sign = builders.a_heartbeat(agent_id=story.agent_id, instance_id=PRIMARY, at=NOON + second * MINUTE / 60)
            wiring.uptime().note(sign)
    answer = ask(http, "/api/metrics", **DAY)
    assert answer.status == 200, answer.body
    told = answer.body
    assert told["agents"] == 1
    failovers = told["failovers"]
    assert (failovers["completed"], failovers["failed"], failovers["success_percent"]) == (1, 1, 50.0)
    assert (failovers["rto_p50_seconds"], failovers["rto_p99_seconds"], failovers["target_percent"]) == (2.5, 2.5, 99.0)
    assert (failovers["with_loss"], failovers["lost_bytes"]) == (0, 0)
    assert told["uptime"]["passed_seconds"] == (90 - 2) * 60
    assert told["uptime"]["expected_seconds"] == 6 * 3600
    assert told["uptime"]["percent"] == pytest.approx(100 * 88 / 360, abs=0.0001)
    # Only of the two hours for which it is known what was paid.
    assert Decimal(told["saving"]["on_demand_usd"]) == Decimal("0.192")
    assert any("no price is known" in what for what in told["unknown"])


def test_an_agents_own_heartbeats_are_counted(http: Http, agent: Registration) -> None:
    for _ in range(2):
        assert agent.beat().status == 200
    [hour] = wiring.uptime().between(agent.agent_id, *_around_now())
    assert (hour.instance_id, hour.passing, hour.passed_us > 0) == (PRIMARY, True, True)
    before = hour.passed_us
    agent.beat(healthy=False)
    [hour] = wiring.uptime().between(agent.agent_id, *_around_now())
    assert (hour.passing, hour.passed_us) == (False, before)
    told = ask(http, "/api/metrics", agent_id=agent.agent_id).body["uptime"]
    assert told["passed_seconds"] == pytest.approx(before / 1e6)


def _around_now() -> tuple[datetime, datetime]:
    return wiring.clock() - 2 * HOUR, wiring.clock() + HOUR


def test_of_many_agents_a_short_period_is_added_up(http: Http, story: Registration) -> None:
    price_pool(A, range(-5, 365))
    price_on_demand(A)
    many = 40
    for number in range(many):
        agent = builders.an_agent(agent_id=f"agt-{number:02}", client_id=CLIENT, registered_at=NOON, primary_pool_id=A)
        put(Table.AGENTS, agent.agent_id, **_as_row(agent))
    told = ask(http, "/api/metrics", **DAY).body
    assert told["agents"] == many + 1
    assert told["uptime"]["expected_seconds"] == (many + 1) * 6 * 3600
    one = ask(http, "/api/savings", agent_id="agt-00", **DAY).body["savings"][0]
    assert Decimal(one["net_saving_usd"]) > 0
    own = ask(http, "/api/savings", agent_id=story.agent_id, **DAY).body["savings"][0]
    assert Decimal(told["saving"]["paid_usd"]) == many * Decimal(one["paid_usd"]) + Decimal(own["paid_usd"])


@pytest.mark.parametrize(("days", "agents"), [(31, 25), (7, 110), (1, 200), (1e-11, 200)])
def test_the_longer_a_period_the_fewer_agents_are_added_up(days: float, agents: int) -> None:
    assert reporting.agents_at_most(Period(NOON, NOON + timedelta(days=days))) == agents


def test_more_agents_than_one_answer_adds_up_are_said(
    http: Http, story: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "AGENT_DAYS_AT_MOST", 0)
    told = ask(http, "/api/metrics", **DAY).body
    assert (told["agents"], told["uptime"], told["saving"]) == (None, None, None)
    assert told["failovers"]["completed"] == 1
    assert "GET /api/savings" in told["unknown"][0]
    assert ask(http, "/api/metrics", agent_id=story.agent_id, **DAY).body["agents"] is None
