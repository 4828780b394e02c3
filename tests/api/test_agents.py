"""The agents' calls, as instances, clients and operators use them."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from spot_optimizer import bootstrap, wiring
from spot_optimizer.domain import tokens
from spot_optimizer.domain.agents import InstanceRole
from spot_optimizer.domain.replicas import ReplicaState, instance_values
from spot_optimizer.domain.tokens import OperatorRole, TokenKind
from spot_optimizer.domain.writes import Change, Table, Transaction
from tests import builders
from tests.api.conftest import CERTIFICATE, PRIMARY, STANDBY, Http, Registration

OTHER = "i-0eeeeeeeeeeeeeee5"
DEFAULTS = {
    "auto_switch": True,
    "auto_replica": True,
    "manual_replica": True,
    "sync_interval_seconds": 1.0,
    "rebalance_threshold": 0.3,
    "quiet_seconds": 43200,
    "switch_minimum_saving": 0.05,
    "switch_dwell_seconds": 1800,
    "switch_hysteresis": 0.05,
    "switches_per_day": 4,
    "maintenance_windows": [],
    "usd_per_outage_second": 0.01,
}
"""The configuration of an agent that was registered without any."""


def put(table: Table, *key: str, **values: Any) -> None:
    wiring.records().commit(Transaction("put", (Change(table, key, "put", put=values),)))


def an_active_replica(agent: Registration, *, status: ReplicaState = ReplicaState.SYNCING, joined: bool = True) -> None:
    """Give the agent a replica, and its instance a row once it joined."""
    replica = builders.a_replica(agent_id=agent.agent_id, replica_id="rep-1", instance_id=STANDBY, status=status)
    values = {
        name: value
        for name in replica.__dataclass_fields__
        if name not in ("agent_id", "replica_id") and (value := getattr(replica, name)) is not None
    }
    put(Table.REPLICAS, agent.agent_id, "rep-1", **values)
    put(Table.AGENTS, agent.agent_id, active_replica_id="rep-1")
    if joined:
        standby = builders.a_standby(agent_id=agent.agent_id, instance_id=STANDBY, replica_id="rep-1")
        put(Table.INSTANCES, STANDBY, **instance_values(standby))


# --- registration


def test_a_registered_instance_is_the_primary_of_a_new_agent(http: Http) -> None:
    body = http.registration(OTHER) | {
        "traffic_adapter": "eip",
        "traffic_target": http.resources["traffic_target"],
        "sync_interval_seconds": 0.5,
        "auto_replica": False,
    }
    answer = http.call("POST", "/api/agents/register", body, token=http.client_token)
    assert answer.status == 200, answer.body
    assert (answer.body["role"], answer.body["epoch"], answer.body["replica_id"]) == ("primary", 1, None)
    agent = wiring.records().agent(answer.body["agent_id"])
    assert agent.agent_id.startswith("agt-")
    assert (agent.client_id, agent.primary_instance_id) == ("acme", OTHER)
    assert agent.primary_pool_id == "us-east-1a.m5.large"
    assert (agent.traffic_adapter, agent.traffic_target) == ("eip", http.resources["traffic_target"])
    assert (agent.sync_interval_seconds, agent.auto_replica, agent.auto_switch) == (0.5, False, True)
    instance = wiring.records().instance(OTHER)
    assert (instance.role, instance.certificate, instance.sync_port) == (InstanceRole.PRIMARY, CERTIFICATE, 7443)


def test_repeating_a_registration_with_the_same_key_gets_the_same_answer(
    http: Http, agent: Registration, rows: Callable[[], Any]
) -> None:
    before = rows()
    again = http.call("POST", "/api/agents/register", http.registration(), token=http.client_token)
    assert (again.body["agent_id"], again.body["agent_token"]) == (agent.agent_id, agent.token)
    assert rows() == before


def test_the_key_may_come_as_idempotency_key(http: Http, agent: Registration) -> None:
    body = http.registration()
    key = body.pop("registration_key")
    again = http.call("POST", "/api/agents/register", body, token=http.client_token, headers={"idempotency-key": key})
    assert again.body["agent_token"] == agent.token


def test_no_token_is_stored_in_the_clear(http: Http, agent: Registration, rows: Callable[[], Any]) -> None:
    stored = json.dumps(rows())
    for token in (agent.token, http.client_token, http.admin):
        assert tokens.parse(token).secret not in stored


def test_a_revoked_agents_instance_may_register_with_another_key(http: Http, agent: Registration) -> None:
    token_id = tokens.parse(agent.token).token_id
    assert http.call("DELETE", f"/api/tokens/{token_id}", token=http.admin).status == 204
    assert agent.beat().status == 401
    body = http.registration(registration_key="another-key-of-at-least-32-characters")
    again = http.call("POST", "/api/agents/register", body, token=http.client_token)
    assert again.status == 200
    assert again.body["agent_id"] == agent.agent_id
    assert again.body["agent_token"] != agent.token
    assert agent.call("GET", "", token=again.body["agent_token"]).status == 200


# --- heartbeats


def test_a_primary_alone_is_told_to_serve_alone(agent: Registration) -> None:
    answer = agent.beat(sent_at=datetime.now(UTC).isoformat(), instance_id=PRIMARY)
    assert answer.status == 200
    assert answer.body == {
        "role": "primary",
        "epoch": 1,
        "peer": None,
        "handover": None,
        "under_way": False,
        "heartbeat_every_seconds": 30.0,
        "sync_interval_seconds": 1.0,
        "lost": False,
        "configuration": DEFAULTS,
        "commands": [],
    }


def test_a_primary_is_told_of_its_standby_once_that_has_joined(agent: Registration) -> None:
    an_active_replica(agent, status=ReplicaState.LAUNCHING, joined=False)
    assert agent.beat().body["peer"] is None
    an_active_replica(agent)
    assert agent.beat().body["peer"] == {
        "replica_id": "rep-1",
        "instance_id": STANDBY,
        "status": "syncing",
        "readiness": 0,
        "address": "10.0.2.10",
        "port": 7443,
        "certificate": builders.CERTIFICATE,
    }


def test_a_standby_is_told_of_its_primary(http: Http, agent: Registration) -> None:
    an_active_replica(agent)
    token = a_token_for(agent, STANDBY)
    answer = agent.call(
        "POST", "/heartbeat", {"epoch": 1, "role": "standby", "serving": False, "healthy": True}, token=token
    )
    assert (answer.body["role"], answer.body["peer"]["instance_id"]) == ("standby", PRIMARY)
    assert answer.body["peer"]["certificate"] == CERTIFICATE


def a_token_for(agent: Registration, instance_id: str, *, lifetime: timedelta | None = None) -> str:
    presented = tokens.Presented(TokenKind.AGENT, f"of-{instance_id}", "s" * 64)
    token = tokens.issued(
        presented,
        now=datetime.now(UTC),
        client_id="acme",
        agent_id=agent.agent_id,
        instance_id=instance_id,
        lifetime=lifetime,
    )
    wiring.records().commit(Transaction("issue", (tokens.create(token),)))
    return tokens.write(presented)


def test_an_old_primary_that_knows_of_the_new_epoch_is_told_that_it_is_retired(agent: Registration) -> None:
    put(Table.INSTANCES, STANDBY, **instance_values(builders.a_standby(agent_id=agent.agent_id, replica_id="rep-1")))
    put(Table.AGENTS, agent.agent_id, epoch=2, primary_instance_id=STANDBY)
    assert agent.beat().body["current_epoch"] == 2
    answer = agent.beat(epoch=2, role="retired", serving=False)
    assert (answer.status, answer.body["role"], answer.body["peer"]) == (200, "retired", None)


def test_a_heartbeat_is_what_operators_see(http: Http, agent: Registration) -> None:
    before = agent.call("GET", "", token=http.client_token).body
    assert (before["status"], before["last_heartbeat_at"]) == ("online", None)
    agent.beat(agent_version="1.2.3")
    after = agent.call("GET", "", token=http.admin).body
    assert (after["status"], after["serving"], after["healthy"], after["agent_version"]) == (
        "online",
        True,
        True,
        "1.2.3",
    )
    assert abs(datetime.now(UTC) - datetime.fromisoformat(after["last_heartbeat_at"])) < timedelta(seconds=30)


def test_an_agent_is_offline_when_silent_for_the_heartbeat_timeout(http: Http, agent: Registration) -> None:
    wiring.records().put_heartbeat(
        builders.a_heartbeat(
            agent_id=agent.agent_id, instance_id=PRIMARY, at=datetime.now(UTC) - timedelta(seconds=301)
        )
    )
    assert agent.call("GET", "", token=http.admin).body["status"] == "offline"
    agent.beat()
    assert agent.call("GET", "", token=http.admin).body["status"] == "online"


def test_an_agents_token_is_renewed_while_it_lives(agent: Registration) -> None:
    token = a_token_for(agent, PRIMARY, lifetime=timedelta(days=2))
    assert agent.beat(token=token).status == 200
    row = wiring.records().token(tokens.parse(token).token_id)
    assert row is not None
    assert row.expires_at > datetime.now(UTC) + timedelta(days=29)


def test_a_serving_primary_whose_traffic_goes_elsewhere_has_it_moved(agent: Registration, http: Http) -> None:
    role = boto3.client("iam").create_role(RoleName="fail-over", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    functions = boto3.client("lambda")
    functions.create_function(
        FunctionName="fail-over", Runtime="python3.13", Role=role, Handler="handler.handle", Code={"ZipFile": b"code"}
    )
    invoked: list[dict[str, Any]] = []
    client = wiring._clients().functions

    def note(params: dict[str, Any], **_: Any) -> None:
        invoked.append(json.loads(params["Payload"]) | {"type": params["InvocationType"]})

    client.meta.events.register("provide-client-params.lambda.Invoke", note)
    try:
        assert agent.beat(serving=False).status == 200
        assert invoked == []
        assert agent.beat().status == 200
        assert invoked == [{"task": "ReconcileTraffic", "agent_id": agent.agent_id, "type": "Event"}]
        put(Table.AGENTS, agent.agent_id, traffic_epoch=1)
        assert agent.beat().status == 200
        assert len(invoked) == 1
    finally:
        client.meta.events.unregister("provide-client-params.lambda.Invoke", note)


# --- lists and configuration


def test_agents_are_listed_page_by_page(http: Http, agent: Registration) -> None:
    http.call("POST", "/api/agents/register", http.registration(OTHER), token=http.client_token)
    first = http.call("GET", "/api/agents", token=http.admin, query={"limit": "1"}).body
    rest = http.call("GET", "/api/agents", token=http.admin, query={"limit": "1", "cursor": first["next_cursor"]}).body
    listed = [one["agent_id"] for one in (*first["agents"], *rest["agents"])]
    assert len(set(listed)) == 2
    assert agent.agent_id in listed
    of_acme = http.call("GET", "/api/agents", token=http.admin, query={"client_id": "acme"}).body
    assert len(of_acme["agents"]) == 2
    assert http.call("GET", "/api/agents", token=http.admin, query={"client_id": "nobody"}).body["agents"] == []


def test_what_is_not_named_in_a_change_of_configuration_stays(http: Http, agent: Registration) -> None:
    changed = agent.call("PATCH", "/config", {"auto_switch": False, "sync_interval_seconds": 2}, token=http.admin)
    expected = DEFAULTS | {"auto_switch": False, "sync_interval_seconds": 2.0}
    assert (changed.status, changed.body) == (200, expected)
    assert agent.call("GET", "/config", token=http.client_token).body == expected
    assert agent.beat().body["configuration"] == expected


def test_viewers_look_and_do_not_touch(http: Http, agent: Registration) -> None:
    viewer = bootstrap.create_operator_token(OperatorRole.VIEWER)
    assert agent.call("GET", "", token=viewer).status == 200
    assert agent.call("PATCH", "/config", {"auto_switch": False}, token=viewer).problem == "Forbidden"
    operator = bootstrap.create_operator_token(OperatorRole.OPERATOR)
    assert agent.call("PATCH", "/config", {"auto_switch": False}, token=operator).status == 200
    assert http.call("POST", "/api/clients/acme/tokens", {}, token=operator).problem == "Forbidden"


def test_a_log_tail_goes_to_s3_encrypted_and_of_the_announced_size(agent: Registration) -> None:
    answer = agent.call("POST", "/log-tail", {"size_bytes": 1234})
    assert answer.status == 200
    url = urllib.parse.urlsplit(answer.body["url"])
    query = urllib.parse.parse_qs(url.query)
    assert f"log-tails/{agent.agent_id}/{PRIMARY}/" in url.path
    assert query["X-Amz-Expires"] == ["300"]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    signed = query["X-Amz-SignedHeaders"][0].split(";")
    assert {"content-length", "content-type", "x-amz-server-side-encryption"} <= set(signed)
    assert answer.body["headers"]["content-length"] == "1234"


def test_an_expired_cursor_or_none_starts_at_the_beginning(http: Http) -> None:
    assert http.call("GET", "/api/agents", token=http.admin, query={"cursor": ""}).status == 200


@pytest.mark.parametrize("path", ["/api/health", "/api/openapi.json"])
def test_health_and_description_need_no_token(http: Http, path: str) -> None:
    assert http.call("GET", path).status == 200
