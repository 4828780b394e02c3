"""Looking at what happened: filtered, page by page, the latest first."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from spot_optimizer import wiring
from spot_optimizer.domain.agents import Interruption, Switch
from spot_optimizer.domain.writes import Change, Missing, Table, Transaction
from tests import builders
from tests.api.conftest import CLIENT, PRIMARY, Http, Registration
from tests.builders import NOON


def put(table: Table, row: Switch | Interruption, range_key: str) -> None:
    values = {
        name: value
        for name in row.__dataclass_fields__
        if name not in ("agent_id", range_key) and (value := getattr(row, name)) is not None
    }
    key = (row.agent_id, str(getattr(row, range_key)))
    create = Change(table, key, "put", only_if={range_key: Missing()}, put=values)
    wiring.records().commit(Transaction("put", (create,)))


@pytest.fixture
def history(http: Http, agent: Registration) -> Registration:
    """Six promotions and six signals, an hour apart; every second one of another agent of another client."""
    for hour in range(6):
        mine = hour % 2 == 0
        owner: dict[str, Any] = {
            "agent_id": agent.agent_id if mine else "agt-other",
            "client_id": CLIENT if mine else "globex",
        }
        at = NOON + timedelta(hours=hour)
        reason = "operator" if hour == 4 else "termination-notice"
        switch = builders.a_switch(switch_id=f"{hour + 2:010d}", switched_at=at, switch_reason=reason, **owner)
        put(Table.SWITCHES, switch, "switch_id")
        event = builders.an_interruption(
            event_id=f"i-{hour}#{reason}",
            detected_at=at,
            signal_type=reason,
            pool_id="us-east-1b.m5.large" if hour == 4 else "us-east-1a.m5.large",
            **owner,
        )
        put(Table.INTERRUPTIONS, event, "event_id")
    return agent


def hours(answer: dict[str, Any]) -> list[int]:
    [rows] = [value for value in answer.values() if isinstance(value, list)]
    return [int(str(row.get("switched_at") or row.get("detected_at"))[11:13]) - 12 for row in rows]


LISTS = pytest.mark.parametrize("path", ["/api/switches", "/api/interruptions"])


@LISTS
def test_an_operator_sees_all_the_latest_first_and_page_by_page(history: Registration, path: str) -> None:
    http, seen, cursor = history.http, [], None
    while True:
        query = {"limit": "4"} | ({"cursor": cursor} if cursor else {})
        answer = http.call("GET", path, token=http.admin, query=query).body
        seen += hours(answer)
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert seen == [5, 4, 3, 2, 1, 0]


@LISTS
def test_a_client_sees_its_own(history: Registration, path: str) -> None:
    http = history.http
    assert hours(http.call("GET", path, token=http.client_token).body) == [4, 2, 0]
    assert hours(http.call("GET", path, token=http.admin, query={"client_id": "globex"}).body) == [5, 3, 1]


@LISTS
def test_an_agent_sees_its_own_by_name_only(history: Registration, path: str) -> None:
    own = history.http.call("GET", path, token=history.token, query={"agent_id": history.agent_id})
    assert hours(own.body) == [4, 2, 0]
    assert history.http.call("GET", path, token=history.token).problem == "Forbidden"


@LISTS
@pytest.mark.parametrize(
    ("since", "until", "found"),
    [(2, None, [5, 4, 3, 2]), (None, 2, [1, 0]), (1, 4, [3, 2, 1]), (5, 5, []), (9, None, [])],
)
def test_a_list_is_narrowed_by_time(
    history: Registration, path: str, since: int | None, until: int | None, found: list[int]
) -> None:
    bounds = {
        name: (NOON + timedelta(hours=hour)).isoformat()
        for name, hour in (("since", since), ("until", until))
        if hour is not None
    }
    answer = history.http.call("GET", path, token=history.http.admin, query=bounds)
    assert answer.status == 200, answer.body
    assert hours(answer.body) == found


@LISTS
def test_a_cursor_of_another_period_is_refused(history: Registration, path: str) -> None:
    # DynamoDB refuses to begin outside of what is asked for: that would be a failure of ours.
    http = history.http
    cursor = http.call("GET", path, token=http.admin, query={"limit": "2"}).body["next_cursor"]
    for bound, hour in (("since", 5), ("until", 4)):
        query = {"cursor": cursor, bound: (NOON + timedelta(hours=hour)).isoformat()}
        answer = http.call("GET", path, token=http.admin, query=query)
        assert (answer.status, answer.body["field"]) == (422, "cursor"), bound
    within = {"cursor": cursor, "since": (NOON + timedelta(hours=2)).isoformat()}
    assert hours(http.call("GET", path, token=http.admin, query=within).body) == [3, 2]


@LISTS
def test_a_cursor_without_a_place_is_refused(history: Registration, path: str) -> None:
    http = history.http
    cursor = http.call("GET", path, token=http.admin, query={"limit": "2"}).body["next_cursor"]
    place = json.loads(base64.urlsafe_b64decode(cursor))
    for name in place.keys() - {"listing"}:
        forged = base64.urlsafe_b64encode(json.dumps(place | {name: ""}).encode()).decode()
        answer = http.call("GET", path, token=http.admin, query={"cursor": forged})
        assert (answer.status, answer.body["field"]) == (422, "cursor"), name


def test_lists_are_narrowed_by_what_happened(history: Registration) -> None:
    http = history.http
    by_reason = http.call("GET", "/api/switches", token=http.admin, query={"switch_reason": "operator"})
    assert hours(by_reason.body) == [4]
    by_type = http.call("GET", "/api/interruptions", token=http.admin, query={"signal_type": "operator"})
    assert hours(by_type.body) == [4]
    by_pool = http.call("GET", "/api/interruptions", token=http.admin, query={"pool_id": "us-east-1b.m5.large"})
    assert hours(by_pool.body) == [4]
    both = {"pool_id": "us-east-1a.m5.large", "client_id": CLIENT}
    assert hours(http.call("GET", "/api/interruptions", token=http.admin, query=both).body) == [2, 0]


@LISTS
def test_what_a_failover_cost_is_told(http: Http, agent: Registration, path: str) -> None:
    steps = ({"step": "claim", "ms": 90}, {"step": "promote", "ms": 800})
    cost: dict[str, Any] = {"rto_seconds": 1.5, "rpo_seconds": 0.4, "rpo_bytes": 12, "steps": steps}
    owner = {"agent_id": agent.agent_id, "client_id": CLIENT}
    put(Table.SWITCHES, builders.a_switch(**owner, **cost), "switch_id")
    put(Table.INTERRUPTIONS, builders.an_interruption(**owner, **cost), "event_id")
    [told] = next(iter(http.call("GET", path, token=http.client_token).body.values()))
    assert {name: told[name] for name in cost} == {**cost, "steps": list(steps)}


def test_a_clients_instances_are_listed_by_role(history: Registration) -> None:
    http, path = history.http, f"/api/clients/{CLIENT}/instances"
    [primary] = http.call("GET", path, token=http.client_token, query={"role": "primary"}).body["instances"]
    assert (primary["instance_id"], primary["agent_id"]) == (PRIMARY, history.agent_id)
    assert http.call("GET", path, token=http.client_token, query={"role": "standby"}).body["instances"] == []


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/api/switches", {"cursor": "bm9uc2Vuc2U="}, "cursor"),
        ("/api/switches", {"cursor": "%%%"}, "cursor"),
        ("/api/switches", {"limit": "0"}, "limit"),
        ("/api/switches", {"since": "yesterday"}, "since"),
        ("/api/switches", {"since": "2026-03-01T12:00:00"}, "since"),
        ("/api/interruptions", {"pool_id": "nowhere"}, "pool_id"),
        ("/api/clients/acme/instances", {"role": "boss"}, "role"),
    ],
)
def test_a_bad_question_is_refused_and_names_its_field(
    http: Http, path: str, query: dict[str, str], field: str
) -> None:
    answer = http.call("GET", path, token=http.admin, query=query)
    assert (answer.status, answer.problem) == (422, "InvalidRequest")
    assert answer.body["field"] == field


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_an_operators_token_is_issued_by_an_admin_and_opens_what_its_role_does(http: Http, role: str) -> None:
    body = {"role": role, "name": "ada", "valid_days": 7}
    issued = http.call("POST", "/api/tokens", body, token=http.admin, headers={"idempotency-key": "one"})
    assert (issued.status, issued.body["role"], issued.body["kind"]) == (201, role, "operator")
    again = http.call("POST", "/api/tokens", body, token=http.admin, headers={"idempotency-key": "one"})
    assert again.problem == "ConditionFailed"
    token = issued.body["token"]
    assert http.call("GET", "/api/clients", token=token).status == 200
    more = http.call("POST", "/api/tokens", {"role": "viewer", "name": "bob"}, token=token)
    assert more.status == 201 if role == "admin" else more.problem == "Forbidden"
    rotated = http.call("POST", f"/api/tokens/{issued.body['token_id']}/rotate", token=http.admin).body
    assert http.call("GET", "/api/clients", token=token).status == 401
    assert http.call("GET", "/api/clients", token=rotated["token"]).status == 200
