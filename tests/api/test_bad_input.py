"""Bad input gets its own 4xx that says what was expected, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spot_optimizer import bootstrap, wiring
from spot_optimizer.domain import tokens
from spot_optimizer.domain.agents import HandoverState, InstanceRole
from spot_optimizer.domain.replicas import ReplicaState, instance_values
from spot_optimizer.domain.tokens import OperatorRole, Presented, TokenKind
from spot_optimizer.domain.writes import Change, Table, Transaction
from spot_optimizer.errors import Throttled
from tests import builders
from tests.api.conftest import CERTIFICATE, KEY, PRIMARY, STANDBY, Answered, Http, Registration

type Rows = Callable[[], dict[str, Any]]


@pytest.fixture
def unchanged(agent: Registration, rows: Rows) -> Iterator[None]:
    """Whatever the test sends leaves every row as it was."""
    before = rows()
    yield
    assert rows() == before


pytestmark = pytest.mark.usefixtures("unchanged")


def a_replica_of(agent: Registration, **changes: Any) -> None:
    replica = builders.a_replica(agent_id=agent.agent_id, replica_id="rep-1", instance_id=STANDBY, **changes)
    values = {
        name: getattr(replica, name)
        for name in replica.__dataclass_fields__
        if name not in ("agent_id", "replica_id") and getattr(replica, name) is not None
    }
    wiring.records().commit(Transaction("put", (Change(Table.REPLICAS, (agent.agent_id, "rep-1"), "put", put=values),)))


# --- tokens


@pytest.mark.parametrize(
    ("token", "detail"),
    [
        (None, "no bearer token was presented"),
        ("", "no bearer token was presented"),
        ("nonsense", "this is not a token"),
        ("spo_agent_x", "this is not a token"),
        ("spo_agent_0123456789abcdef0123_" + "0" * 64, "unknown or was revoked"),
    ],
)
def test_a_missing_or_malformed_or_unknown_token_is_401(http: Http, token: str | None, detail: str) -> None:
    answer = http.call("GET", "/api/agents", token=token)
    assert (answer.status, answer.problem) == (401, "TokenInvalid")
    assert detail in answer.body["detail"]
    assert "expected" in answer.body["detail"]
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_token_with_a_wrong_secret_is_401(agent: Registration) -> None:
    wrong = agent.token[:-1] + ("0" if agent.token[-1] != "0" else "1")
    answer = agent.call("GET", "", token=wrong)
    assert (answer.status, answer.problem) == (401, "TokenInvalid")


def test_a_token_under_another_kind_is_401(agent: Registration) -> None:
    answer = agent.call("GET", "", token=agent.token.replace("spo_agent_", "spo_operator_"))
    assert (answer.status, answer.problem) == (401, "TokenInvalid")


class TestExpired:
    @pytest.fixture
    def expired(self, http: Http) -> str:
        return bootstrap.create_operator_token(OperatorRole.ADMIN, lifetime=timedelta(seconds=-1))

    @pytest.fixture
    def unchanged(self, agent: Registration, expired: str, rows: Rows) -> Iterator[None]:
        before = rows()
        yield
        assert rows() == before

    def test_an_expired_token_is_401_and_says_so(self, http: Http, expired: str) -> None:
        answer = http.call("GET", "/api/agents", token=expired)
        assert (answer.status, answer.problem) == (401, "TokenInvalid")
        assert "the token expired at" in answer.body["detail"]


def test_where_it_can_not_be_told_who_calls_is_503_and_may_be_tried_again(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        """Implements as much of the tokens' rows as the authorizer asks."""

        def token(self, token_id: str) -> None:
            raise Throttled("DynamoDB asks to slow down; try again")

    with monkeypatch.context() as patched:
        patched.setattr(wiring, "records", Busy)
        answer = http.call("GET", "/api/agents", token=http.admin)
    assert (answer.status, answer.problem) == (503, "ControlPlaneUnavailable")
    assert answer.headers["retry-after"] == "1"


# --- fields


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ("{", "body", "valid JSON"),
        ({}, "epoch", "a value"),
        ({"epoch": "one", "role": "primary", "serving": True, "healthy": True}, "epoch", "a valid integer"),
        ({"epoch": -1, "role": "primary", "serving": True, "healthy": True}, "epoch", "greater than or equal to 0"),
        ({"epoch": 1, "role": "boss", "serving": True, "healthy": True}, "role", "'primary', 'standby' or 'retired'"),
        ({"epoch": 1, "role": "primary", "serving": "yes", "healthy": True}, "serving", "a valid boolean"),
        (
            {"epoch": 1, "role": "primary", "serving": True, "healthy": True, "mood": "good"},
            "mood",
            "no field of this name",
        ),
    ],
)
def test_a_malformed_missing_or_unknown_field_is_422_and_named(
    agent: Registration, body: Any, field: str, expected: str
) -> None:
    answer = agent.call("POST", "/heartbeat", body)
    assert (answer.status, answer.problem) == (422, "InvalidRequest")
    assert answer.body["field"].startswith(field)
    assert expected in answer.body["expected"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"certificate": "not a certificate" * 8}, "certificate"),
        ({"sync_port": 0}, "sync_port"),
        ({"sync_port": 65536}, "sync_port"),
        ({"private_address": "localhost"}, "private_address"),
        ({"instance_id": "instance-1"}, "instance_id"),
        ({"registration_key": "short"}, "registration_key"),
        ({"registration_key": None}, "registration_key"),
        ({"launch_template_id": "template"}, "launch_template_id"),
        ({"launch_template_id": None}, "launch_template_id"),
        ({"instance_types": []}, "instance_types"),
        ({"instance_types": ["m5"]}, "instance_types.0"),
        ({"subnet_ids": []}, "subnet_ids"),
        ({"traffic_adapter": "pigeon"}, "traffic_adapter"),
        ({"traffic_adapter": "eip"}, "traffic_target"),
        ({"traffic_target": "1.2.3.4"}, "traffic_target"),
        ({"traffic_adapter": "target-group", "traffic_target": "eipalloc-0123456789abcdef0"}, "traffic_target"),
        ({"traffic_adapter": "route53", "traffic_target": "db.example.com"}, "traffic_target"),
        ({"traffic_adapter": "none", "traffic_target": "eipalloc-0123456789abcdef0"}, "traffic_target"),
        ({"sync_interval_seconds": 0}, "sync_interval_seconds"),
        ({"auto_replica": "maybe"}, "auto_replica"),
        ({"name": "x" * 101}, "name"),
        ({"name": "ledger\x1b[2J"}, "name"),
        ({"agent_version": "1.0\n"}, "agent_version"),
        ({"protocol_version": 99}, "protocol_version"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_each_field_of_a_registration_is_bounded(http: Http, change: dict[str, Any], field: str) -> None:
    body = http.registration(STANDBY) | change
    answer = http.call("POST", "/api/agents/register", body, token=http.client_token)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field)
    assert answer.body["expected"]


@pytest.mark.parametrize(
    ("below", "body", "field"),
    [
        ("/replicas", {"pool_id": "nowhere"}, "pool_id"),
        ("/replicas", {"exclude_zones": ["x"]}, "exclude_zones.0"),
        ("/replicas/rep-1/promote", {"demote_old_primary": "perhaps"}, "demote_old_primary"),
        ("/replicas/rep-1/promote", {"reason": "\u202e"}, "reason"),
        ("/issue-switch-command", {"reason": "\x1b]0;all is well\x07"}, "reason"),
        ("/pause", {"reason": "\x9b2J"}, "reason"),
    ],
)
def test_fields_of_operators_calls_are_bounded(
    http: Http, agent: Registration, below: str, body: Any, field: str
) -> None:
    answer = agent.call("POST", below, body, token=http.admin)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field)


@pytest.mark.parametrize(
    ("below", "body", "field"),
    [
        ("/replicas/rep-1/sync-status", {"epoch": 1, "status": "ready", "readiness": 1}, "body"),
        ("/replicas/rep-1/sync-status", {"epoch": 1, "status": "nearly"}, "status"),
        ("/replicas/rep-1/sync-status", {"epoch": 1, "status": "syncing", "sync_percent": 101}, "sync_percent"),
        ("/replicas/rep-1/unready", {"epoch": 1}, "readiness"),
        ("/handovers/h-1/commit", {"epoch": 1, "basis": "hope", "readiness": 1, "generation": 1}, "basis"),
        ("/handovers/h-1/commit", {"epoch": 1, "basis": "primary-dead", "readiness": 1}, "generation"),
        ("/handovers/h-1/abort", {}, "epoch"),
        ("/termination-imminent", {"instance_id": PRIMARY}, "body"),
        ("/termination-imminent", {"instance_id": PRIMARY, "termination_time": "soon"}, "termination_time"),
        (
            "/termination-imminent",
            {"instance_id": PRIMARY, "termination_time": "2026-01-01T00:00:00"},
            "termination_time",
        ),
        ("/create-emergency-replica", {"instance_id": PRIMARY, "signal_type": "boredom"}, "signal_type"),
        ("/log-tail", {}, "size_bytes"),
        ("/log-tail", {"size_bytes": 2**20 + 1}, "size_bytes"),
    ],
)
def test_fields_of_agents_calls_are_bounded(agent: Registration, below: str, body: Any, field: str) -> None:
    answer = agent.call("POST", below, body)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field)
    assert answer.body["expected"]


def test_an_empty_change_of_configuration_is_422(http: Http, agent: Registration) -> None:
    answer = agent.call("PATCH", "/config", {}, token=http.admin)
    assert (answer.status, answer.problem) == (422, "InvalidRequest")
    assert "at least one of" in answer.body["expected"]


def test_a_body_that_is_not_json_is_refused(agent: Registration) -> None:
    answer = agent.call("POST", "/heartbeat", "epoch=1", headers={"content-type": "text/plain"})
    assert answer.problem == "InvalidRequest"


def test_a_cursor_that_is_not_ours_is_422(http: Http) -> None:
    answer = http.call("GET", "/api/agents", token=http.admin, query={"cursor": "%%%"})
    assert (answer.status, answer.body["field"]) == (422, "cursor")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"])
def test_a_time_beyond_the_calendar_is_422(http: Http, moment: str) -> None:
    for path, field in (
        ("/api/switches", "since"),
        ("/api/interruptions", "until"),
        ("/api/savings", "to"),
        ("/api/metrics", "from"),
        ("/api/pools/us-east-1a.m5.large/prices", "to"),
    ):
        answer = http.call("GET", path, token=http.admin, query={field: moment})
        assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field), path
        assert answer.body["expected"] == "a time between 2000 and 3000"


def test_a_notice_for_a_time_beyond_the_calendar_is_422(agent: Registration) -> None:
    body = {"instance_id": PRIMARY, "termination_time": "9999-12-31T23:59:59-12:00"}
    answer = agent.call("POST", "/termination-imminent", body)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", "termination_time")


@pytest.mark.parametrize("body", ['{"epoch": ' + "9" * 5000 + "}", "[" * 200_000], ids=["long", "deep"])
def test_json_that_can_not_be_read_is_422(agent: Registration, body: str) -> None:
    answer = agent.call("POST", "/heartbeat", body)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", "body")
    assert answer.body["expected"] == "valid JSON"


def test_a_limit_out_of_bounds_is_422(http: Http) -> None:
    answer = http.call("GET", "/api/agents", token=http.admin, query={"limit": "1000"})
    assert (answer.status, answer.body["field"]) == (422, "limit")


def test_an_idempotency_key_that_is_too_long_is_422(http: Http, agent: Registration) -> None:
    answer = agent.call("POST", "/replicas", {}, token=http.admin, headers={"idempotency-key": "x" * 129})
    assert (answer.status, answer.problem, answer.body["field"].lower()) == (422, "InvalidRequest", "idempotency-key")


def test_an_unknown_path_is_404(http: Http) -> None:
    answer = http.call("GET", "/api/wishes", token=http.admin)
    assert (answer.status, answer.problem) == (404, "RouteUnknown")


# --- unknown things


@pytest.mark.parametrize("below", ["", "/config", "/replicas"])
def test_an_unknown_agent_is_404(http: Http, below: str) -> None:
    answer = http.call("GET", f"/api/agents/agt-none{below}", token=http.admin)
    assert (answer.status, answer.problem) == (404, "AgentUnknown")


def test_an_unknown_agents_emergencies_are_404(http: Http) -> None:
    body = {"instance_id": PRIMARY, "termination_time": datetime.now(UTC).isoformat()}
    answer = http.call("POST", "/api/agents/agt-none/termination-imminent", body, token=http.admin)
    assert (answer.status, answer.problem) == (404, "AgentUnknown")


def test_another_agents_calls_look_like_an_unknown_agents(agent: Registration) -> None:
    for method, below, body in (
        ("POST", "/heartbeat", {"epoch": 1, "role": "primary", "serving": True, "healthy": True}),
        ("POST", "/handovers/h-1/abort", {"epoch": 1}),
        ("POST", "/log-tail", {"size_bytes": 1}),
    ):
        answer = agent.http.call(method, f"/api/agents/agt-other{below}", body, token=agent.token)
        assert (answer.status, answer.problem) == (404, "AgentUnknown")


class TestOfAnotherClient:
    @pytest.fixture
    def stranger(self, http: Http) -> str:
        return bootstrap.create_client("globex", "Globex")

    @pytest.fixture
    def unchanged(self, agent: Registration, stranger: str, rows: Rows) -> Iterator[None]:
        before = rows()
        yield
        assert rows() == before

    def test_another_clients_agent_looks_like_an_unknown_one(self, agent: Registration, stranger: str) -> None:
        for below in ("", "/config", "/replicas"):
            answer = agent.call("GET", below, token=stranger)
            assert (answer.status, answer.problem) == (404, "AgentUnknown")

    def test_a_client_lists_only_its_own_agents(self, http: Http, agent: Registration, stranger: str) -> None:
        assert http.call("GET", "/api/agents", token=stranger).body["agents"] == []
        own = http.call("GET", "/api/agents", token=http.client_token).body["agents"]
        assert [one["agent_id"] for one in own] == [agent.agent_id]
        asked = http.call("GET", "/api/agents", token=stranger, query={"client_id": "acme"})
        assert (asked.status, asked.problem) == (403, "Forbidden")

    def test_another_clients_launch_template_may_not_be_used(self, http: Http, stranger: str) -> None:
        answer = http.call("POST", "/api/agents/register", http.registration(STANDBY), token=stranger)
        assert (answer.status, answer.problem) == (403, "ResourceNotAllowed")
        assert http.resources["launch_template_id"] in answer.body["detail"]

    def test_another_clients_instance_can_not_be_registered(self, http: Http, stranger: str) -> None:
        answer = http.call("POST", "/api/agents/register", http.registration(), token=stranger)
        assert (answer.status, answer.problem) == (409, "PrimaryAlreadyRegistered")


class TestOfAnotherAgent:
    @pytest.fixture
    def unchanged(self, agent: Registration, rows: Rows) -> Iterator[None]:
        other = builders.a_replica(agent_id="agt-other", replica_id="rep-other")
        wiring.records().commit(
            Transaction(
                "put",
                (
                    Change(
                        Table.REPLICAS,
                        ("agt-other", "rep-other"),
                        "put",
                        put={
                            "type": other.type,
                            "status": other.status,
                            "epoch": 1,
                            "created_by": "test",
                            "created_at": other.created_at,
                            "readiness": 0,
                        },
                    ),
                ),
            )
        )
        before = rows()
        yield
        assert rows() == before

    @pytest.mark.parametrize(
        ("below", "body"),
        [
            (
                "/replicas/rep-other/sync-status",
                {
                    "epoch": 1,
                    "status": "ready",
                    "readiness": 1,
                    "lag_seconds": 0.1,
                    "covered_until": "2026-01-01T00:00:00Z",
                },
            ),
            ("/replicas/rep-other/sync-status", {"epoch": 1, "status": "syncing"}),
            ("/replicas/rep-other/unready", {"epoch": 1, "readiness": 1}),
        ],
    )
    def test_a_replica_of_another_agent_is_404(self, agent: Registration, below: str, body: Any) -> None:
        answer = agent.call("POST", below, body)
        assert (answer.status, answer.problem) == (404, "ReplicaUnknown")

    def test_a_replica_of_another_agent_can_not_be_promoted(self, http: Http, agent: Registration) -> None:
        answer = agent.call("POST", "/replicas/rep-other/promote", {}, token=http.admin)
        assert (answer.status, answer.problem) == (404, "ReplicaUnknown")

    def test_a_replica_of_another_agent_can_not_be_named_in_an_emergency(self, agent: Registration) -> None:
        body = {
            "instance_id": PRIMARY,
            "termination_time": datetime.now(UTC).isoformat(),
            "replica_id": "rep-other",
        }
        answer = agent.call("POST", "/termination-imminent", body)
        assert (answer.status, answer.problem) == (404, "ReplicaUnknown")


def test_an_unknown_handover_is_404(agent: Registration) -> None:
    answer = agent.call("POST", "/handovers/h-none/abort", {"epoch": 1})
    assert (answer.status, answer.problem) == (404, "HandoverUnknown")
    body = {"epoch": 1, "basis": "final-generation", "readiness": 1, "generation": 1}
    answer = agent.call("POST", "/handovers/h-none/commit", body)
    assert (answer.status, answer.problem) == (404, "HandoverUnknown")


def test_a_command_that_is_not_pending_is_404(agent: Registration) -> None:
    answer = agent.call("POST", "/commands/c-1/result", {"outcome": "done"})
    assert (answer.status, answer.problem) == (404, "CommandUnknown")


def test_an_unknown_instance_is_404(http: Http, agent: Registration) -> None:
    body = {"instance_id": "i-0ccccccccccccccc3", "termination_time": datetime.now(UTC).isoformat()}
    answer = agent.call("POST", "/termination-imminent", body, token=http.admin)
    assert (answer.status, answer.problem) == (404, "InstanceUnknown")


def test_an_unknown_client_gets_no_token(http: Http) -> None:
    answer = http.call("POST", "/api/clients/nobody/tokens", {}, token=http.admin)
    assert (answer.status, answer.problem) == (404, "ClientUnknown")


def test_an_unknown_token_can_be_neither_rotated_nor_revoked(http: Http) -> None:
    assert http.call("POST", "/api/tokens/none/rotate", token=http.admin).problem == "TokenUnknown"
    assert http.call("DELETE", "/api/tokens/none", token=http.admin).problem == "TokenUnknown"


# --- time and epochs


@pytest.mark.parametrize("seconds_ago", [151, 3600])
def test_a_termination_time_more_than_150_s_in_the_past_is_422(agent: Registration, seconds_ago: int) -> None:
    at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    answer = agent.call("POST", "/termination-imminent", {"instance_id": PRIMARY, "termination_time": at.isoformat()})
    assert (answer.status, answer.problem) == (422, "NoticeTooOld")
    assert "expected at most 150 s" in answer.body["detail"]


@pytest.mark.parametrize(
    ("below", "body"),
    [
        ("/heartbeat", {"role": "primary", "serving": True, "healthy": True}),
        ("/replicas/rep-1/unready", {"readiness": 1}),
        ("/handovers/h-1/abort", {}),
        ("/handovers/h-1/commit", {"basis": "lease-expired", "readiness": 1, "generation": 1}),
        ("/termination-imminent", {"instance_id": PRIMARY, "termination_time": "2099-01-01T00:00:00Z"}),
        ("/create-emergency-replica", {"instance_id": PRIMARY}),
    ],
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_another_epoch_than_the_agents_is_409_with_the_current_one(
    agent: Registration, below: str, body: dict[str, Any], epoch: int
) -> None:
    answer = agent.call("POST", below, {"epoch": epoch} | body)
    assert (answer.status, answer.problem) == (409, "StaleEpoch")
    assert answer.body["current_epoch"] == 1


class TestOfAStaleEpoch:
    @pytest.fixture
    def unchanged(self, agent: Registration, rows: Rows) -> Iterator[None]:
        a_replica_of(agent)
        before = rows()
        yield
        assert rows() == before

    @pytest.mark.parametrize(
        "body",
        [
            {"status": "syncing"},
            {"status": "ready", "readiness": 1, "lag_seconds": 0.1, "covered_until": "2026-01-01T00:00:00Z"},
        ],
    )
    def test_a_sync_status_of_another_epoch_is_409(self, agent: Registration, body: dict[str, Any]) -> None:
        answer = agent.call("POST", "/replicas/rep-1/sync-status", {"epoch": 0} | body)
        assert (answer.status, answer.problem, answer.body["current_epoch"]) == (409, "StaleEpoch", 1)

    def test_a_replica_that_is_not_ready_is_not_promoted(self, http: Http, agent: Registration) -> None:
        answer = agent.call("POST", "/replicas/rep-1/promote", {}, token=http.admin)
        assert (answer.status, answer.problem) == (409, "ReplicaNotReady")


# --- who may do what


@pytest.mark.parametrize(
    ("method", "below", "body"),
    [
        ("POST", "/replicas", {}),
        ("POST", "/replicas/rep-1/promote", {}),
        ("DELETE", "/replicas/rep-1", None),
        ("PATCH", "/config", {"auto_switch": False}),
    ],
)
def test_operators_calls_are_refused_to_agents_clients_and_viewers(
    http: Http, agent: Registration, method: str, below: str, body: Any
) -> None:
    for token in (agent.token, http.client_token):
        answer = agent.call(method, below, body, token=token)
        assert (answer.status, answer.problem) == (403, "Forbidden")
        assert "expected an operator token" in answer.body["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/clients", None),
        ("POST", "/api/clients", {"client_id": "globex", "name": "Globex"}),
        ("POST", "/api/clients/acme/tokens", {}),
        ("POST", "/api/tokens/any/rotate", None),
        ("DELETE", "/api/tokens/any", None),
    ],
)
def test_tenants_and_tokens_are_for_operators(
    http: Http, agent: Registration, method: str, path: str, body: Any
) -> None:
    for token in (agent.token, http.client_token):
        answer = http.call(method, path, body, token=token)
        assert (answer.status, answer.problem) == (403, "Forbidden")


@pytest.mark.parametrize("below", ["/heartbeat", "/log-tail", "/handovers/h-1/commit", "/replicas/rep-1/unready"])
def test_agents_calls_are_refused_to_everybody_else(http: Http, agent: Registration, below: str) -> None:
    bodies: dict[str, Any] = {
        "/heartbeat": {"epoch": 1, "role": "primary", "serving": True, "healthy": True},
        "/log-tail": {"size_bytes": 10},
        "/handovers/h-1/commit": {"epoch": 1, "basis": "lease-expired", "readiness": 1, "generation": 1},
        "/replicas/rep-1/unready": {"epoch": 1, "readiness": 1},
    }
    for token in (http.admin, http.client_token):
        answer = agent.call("POST", below, bodies[below], token=token)
        assert (answer.status, answer.problem) == (403, "Forbidden")


def test_a_client_that_is_no_operator_aborts_nothing(http: Http, agent: Registration) -> None:
    answer = agent.call("POST", "/handovers/h-1/abort", {}, token=http.client_token)
    assert (answer.status, answer.problem) == (403, "Forbidden")


def test_an_instance_may_not_speak_for_another(agent: Registration) -> None:
    assert agent.beat(instance_id=STANDBY).problem == "Forbidden"


def test_an_agents_token_registers_nothing(http: Http, agent: Registration) -> None:
    answer = http.call("POST", "/api/agents/register", http.registration(STANDBY), token=agent.token)
    assert (answer.status, answer.problem) == (403, "Forbidden")


# --- proof of the instance


@pytest.mark.parametrize(
    ("identity", "detail"),
    [
        ({"instanceId": PRIMARY}, "instanceId"),
        ({"region": "eu-west-1"}, "region"),
        ({"accountId": "000000000000"}, "accountId"),
        ({"pendingTime": "2099-01-01T00:00:00Z"}, "in the future"),
        ({"pendingTime": "yesterday"}, "pendingTime"),
        ({"instanceType": ""}, "instanceType"),
    ],
)
def test_an_identity_document_of_something_else_proves_nothing(
    http: Http, identity: dict[str, str], detail: str
) -> None:
    body = http.registration(STANDBY) | {"instance_id": STANDBY} | http.identity(STANDBY, **identity)
    answer = http.call("POST", "/api/agents/register", body, token=http.client_token)
    assert (answer.status, answer.problem) == (403, "InstanceUnproven")
    assert detail in answer.body["detail"]


def test_a_signature_of_another_document_proves_nothing(http: Http) -> None:
    body = http.registration(STANDBY)
    body["identity_document"] = body["identity_document"].replace("m5.large", "m5.metal")
    answer = http.call("POST", "/api/agents/register", body, token=http.client_token)
    assert (answer.status, answer.problem) == (403, "InstanceUnproven")


def test_a_signature_that_is_not_base64_proves_nothing(http: Http) -> None:
    body = http.registration(STANDBY, identity_signature="?" * 40)
    answer = http.call("POST", "/api/agents/register", body, token=http.client_token)
    assert (answer.status, answer.problem) == (403, "InstanceUnproven")


def test_resources_that_no_admin_allowed_may_not_be_used(http: Http) -> None:
    for change in (
        {"launch_template_id": "lt-0123456789abcdef0"},
        {"subnet_ids": ["subnet-0123456789abcdef0"]},
        {"traffic_adapter": "eip", "traffic_target": "eipalloc-0123456789abcdef0"},
        {
            "traffic_adapter": "target-group",
            "traffic_target": "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/a/0123456789abcdef",
        },
        {"traffic_adapter": "route53", "traffic_target": "Z0123456789ABC/db.example.com"},
    ):
        answer = http.call("POST", "/api/agents/register", http.registration(STANDBY) | change, token=http.client_token)
        assert (answer.status, answer.problem) == (403, "ResourceNotAllowed")


def test_an_instance_does_not_register_twice_with_different_keys(http: Http) -> None:
    body = http.registration(registration_key="another-key-of-at-least-32-characters")
    answer = http.call("POST", "/api/agents/register", body, token=http.client_token)
    assert (answer.status, answer.problem) == (409, "PrimaryAlreadyRegistered")


# --- joining


class TestJoining:
    @pytest.fixture
    def join_token(self, agent: Registration) -> str:
        a_replica_of(agent, status=ReplicaState.LAUNCHING, created_at=datetime.now(UTC) - timedelta(minutes=1))
        wiring.records().commit(
            Transaction(
                "put",
                (Change(Table.AGENTS, (agent.agent_id,), "put", put={"active_replica_id": "rep-1"}),),
            )
        )
        presented = Presented(TokenKind.JOIN, tokens.join_token_id(replica_id="rep-1", launch_number=1), "f" * 64)
        token = tokens.issued(
            presented, now=datetime.now(UTC), client_id="acme", agent_id=agent.agent_id, replica_id="rep-1"
        )
        wiring.records().commit(tokens.offer_join(token))
        return tokens.write(presented)

    @pytest.fixture
    def unchanged(self) -> None:
        """Each test here says for itself what changed."""

    def join(self, http: Http, token: str, instance_id: str = STANDBY, **changes: Any) -> Answered:
        body = http.identity(instance_id) | {
            "registration_key": KEY,
            "certificate": CERTIFICATE,
            "private_address": "10.0.2.10",
            "sync_port": 7443,
        }
        return http.call("POST", "/api/agents/register", body | changes, token=token)

    def test_another_instance_than_the_launched_one_does_not_join(
        self, http: Http, join_token: str, rows: Rows
    ) -> None:
        before = rows()
        answer = self.join(http, join_token, "i-0ccccccccccccccc3")
        assert (answer.status, answer.problem) == (403, "InstanceUnproven")
        assert rows() == before

    def test_an_instance_that_is_older_than_its_replica_does_not_join(self, http: Http, join_token: str) -> None:
        old = http.identity(STANDBY, pendingTime="2020-01-01T00:00:00Z")
        assert self.join(http, join_token, **old).problem == "InstanceUnproven"

    def test_the_same_key_gets_the_same_answer_and_another_key_none(
        self, http: Http, join_token: str, rows: Rows
    ) -> None:
        first = self.join(http, join_token)
        assert (first.status, first.body["role"], first.body["replica_id"]) == (200, "standby", "rep-1")
        after = rows()
        assert self.join(http, join_token).body == first.body
        again = self.join(http, join_token, registration_key="another-key-of-at-least-32-characters")
        assert (again.status, again.problem) == (409, "JoinTokenSpent")
        assert rows() == after

    def test_the_user_datas_ids_must_belong_together(self, http: Http, join_token: str, agent: Registration) -> None:
        assert self.join(http, join_token, agent_id="agt-other").problem == "Forbidden"
        assert self.join(http, join_token, replica_id="rep-other").problem == "Forbidden"
        assert self.join(http, join_token, agent_id=agent.agent_id, replica_id="rep-1").status == 200

    def test_a_replica_whose_life_is_over_is_not_joined(self, http: Http, join_token: str, agent: Registration) -> None:
        wiring.records().commit(
            Transaction(
                "put",
                (Change(Table.REPLICAS, (agent.agent_id, "rep-1"), "put", put={"status": ReplicaState.FAILED}),),
            )
        )
        answer = self.join(http, join_token)
        assert (answer.status, answer.problem) == (409, "ReplicaNotReady")

    def test_a_launch_that_is_still_being_recorded_is_asked_to_try_again(
        self, http: Http, join_token: str, agent: Registration
    ) -> None:
        wiring.records().commit(
            Transaction("put", (Change(Table.REPLICAS, (agent.agent_id, "rep-1"), "put", put={"instance_id": None}),))
        )
        answer = self.join(http, join_token)
        assert (answer.status, answer.problem) == (503, "ControlPlaneUnavailable")
        assert answer.headers["retry-after"] == "1"

    def test_a_join_token_opens_nothing_else(self, http: Http, join_token: str, agent: Registration) -> None:
        assert http.call("GET", "/api/agents", token=join_token).problem == "Forbidden"
        assert agent.call("GET", "", token=join_token).problem == "AgentUnknown"
        assert agent.call("POST", "/log-tail", {"size_bytes": 1}, token=join_token).problem == "Forbidden"


# --- a handover that is over


class TestHandovers:
    @pytest.fixture
    def unchanged(self) -> None:
        """Each test here says for itself what changed."""

    @pytest.fixture
    def standby(self, agent: Registration) -> str:
        """A standby with a token, and a handover to it that was aborted."""
        a_replica_of(agent, status=ReplicaState.READY, readiness=1, generation=3, created_at=datetime.now(UTC))
        instance = builders.a_standby(agent_id=agent.agent_id, instance_id=STANDBY, role=InstanceRole.STANDBY)
        presented = Presented(TokenKind.AGENT, "5tandby", "s" * 64)
        token = tokens.issued(
            presented, now=datetime.now(UTC), client_id="acme", agent_id=agent.agent_id, instance_id=STANDBY
        )
        wiring.records().commit(
            Transaction(
                "put",
                (
                    Change(Table.INSTANCES, (STANDBY,), "put", put=instance_values(instance)),
                    Change(
                        Table.AGENTS,
                        (agent.agent_id,),
                        "put",
                        put={
                            "active_replica_id": "rep-1",
                            "handover_id": "h-1",
                            "handover_state": HandoverState.ABORTED,
                            "handover_replica_id": "rep-1",
                            "handover_readiness": 1,
                            "handover_count": 1,
                        },
                    ),
                    tokens.create(token),
                ),
            )
        )
        return tokens.write(presented)

    def test_an_aborted_handover_is_not_committed(self, agent: Registration, standby: str, rows: Rows) -> None:
        before = rows()
        body = {"epoch": 1, "basis": "final-generation", "readiness": 1, "generation": 3}
        answer = agent.call("POST", "/handovers/h-1/commit", body, token=standby)
        assert (answer.status, answer.problem) == (409, "HandoverNotOpen")
        assert rows() == before

    def test_a_standby_does_not_decline_while_its_primary_may_live(
        self, agent: Registration, standby: str, rows: Rows
    ) -> None:
        before = rows()
        answer = agent.call("POST", "/handovers/h-1/abort", {"epoch": 1}, token=standby)
        assert (answer.status, answer.problem) == (409, "HandoverNotOpen")
        assert rows() == before

    def test_a_standby_does_not_call_itself_ready(self, agent: Registration, standby: str, rows: Rows) -> None:
        before = rows()
        body = {
            "epoch": 1,
            "status": "ready",
            "readiness": 2,
            "lag_seconds": 0.1,
            "covered_until": datetime.now(UTC).isoformat(),
        }
        answer = agent.call("POST", "/replicas/rep-1/sync-status", body, token=standby)
        assert answer.status in (403, 409)
        assert rows() == before


def test_an_instance_may_raise_an_alarm_about_itself_only(agent: Registration, http: Http) -> None:
    presented = agent.token
    body = {"instance_id": "i-0ddddddddddddddd4", "termination_time": datetime.now(UTC).isoformat()}
    answer = agent.call("POST", "/termination-imminent", body, token=presented)
    assert answer.status in (403, 404)


A_PART = {"number": 1, "size_bytes": 5, "sha256": "A" * 43 + "="}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"epoch": -1}, "epoch"),
        ({"generation": "one"}, "generation"),
        ({"previous_id": "the last one"}, "previous_id"),
        ({"upload_id": "a b"}, "upload_id"),
        ({"parts": []}, "parts"),
        ({"parts": [A_PART] * 101}, "parts"),
        ({"parts": [A_PART | {"number": 0}]}, "parts.0.number"),
        ({"parts": [A_PART | {"number": 10_001}]}, "parts.0.number"),
        ({"parts": [A_PART | {"size_bytes": 0}]}, "parts.0.size_bytes"),
        ({"parts": [A_PART | {"size_bytes": 2**29 + 1}]}, "parts.0.size_bytes"),
        ({"parts": [A_PART | {"sha256": "00"}]}, "parts.0.sha256"),
        ({"key": "snapshots/of/another"}, "key"),
    ],
)
def test_a_malformed_snapshot_is_422_and_named(agent: Registration, change: dict[str, Any], field: str) -> None:
    answer = agent.call("POST", "/snapshots", {"epoch": 1, "generation": 1, "parts": [A_PART]} | change)
    assert (answer.status, answer.problem) == (422, "InvalidRequest")
    assert answer.body["field"].startswith(field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"root_hash": "nothing"}, "root_hash"),
        ({"taken_at": "noon"}, "taken_at"),
        ({"taken_at": "2026-01-01T00:00:00"}, "taken_at"),
        ({"frozen": "yes"}, "frozen"),
        ({"parts": [A_PART | {"etag": "e", "number": 2}]}, ""),
        ({"parts": [A_PART]}, "parts.0.etag"),
    ],
)
def test_a_malformed_completion_is_422_and_named(agent: Registration, change: dict[str, Any], field: str) -> None:
    body = {
        "epoch": 1,
        "generation": 1,
        "upload_id": "u",
        "taken_at": "2026-01-01T00:00:00Z",
        "root_hash": "0" * 64,
        "state_bytes": 1,
        "parts": [A_PART | {"etag": "e"}],
    }
    answer = agent.call("POST", "/snapshots/0000000001-0000000000000001/complete", body | change)
    assert (answer.status, answer.problem) == (422, "InvalidRequest")
    assert answer.body["field"].startswith(field)


def test_a_moment_without_a_zone_is_422(agent: Registration) -> None:
    answer = agent.call("GET", "/snapshots/latest", query={"at": "2026-01-01T00:00:00"})
    assert (answer.status, answer.problem) == (422, "InvalidRequest")
    assert answer.body["field"].startswith("at")


# --- replicas that can not be had, and ones that can not be let go of


@pytest.mark.parametrize(
    ("body", "status", "problem", "said"),
    [
        ({"pool_id": "us-east-1b.r5.large"}, 422, "InvalidRequest", "none of the agent's"),
        ({"pool_id": "us-east-1f.m5.large"}, 422, "InvalidRequest", "none of the agent's"),
        ({"pool_id": "eu-west-1a.m5.large"}, 422, "InvalidRequest", "another region, which is out of scope"),
        ({"pool_id": "us-east-1a.m5.large"}, 422, "InvalidRequest", "the primary runs there"),
        ({"exclude_zones": ["us-east-1a", "us-east-1b"]}, 409, "NoPoolQualifies", "exclude fewer zones"),
    ],
)
def test_a_replica_that_could_never_be_launched_is_refused(
    http: Http, agent: Registration, body: dict[str, Any], status: int, problem: str, said: str
) -> None:
    answer = agent.call("POST", "/replicas", body, token=http.admin)
    assert (answer.status, answer.problem) == (status, problem)
    assert said in answer.body["detail"]
    if problem == "InvalidRequest":
        assert (answer.body["field"], answer.body["expected"]) == ("pool_id", "one of us-east-1b.m5.large")


def test_a_replica_that_does_not_exist_is_not_terminated(http: Http, agent: Registration) -> None:
    assert agent.call("DELETE", "/replicas/rep-none", token=http.admin).problem == "ReplicaUnknown"


class TestTerminating:
    @pytest.fixture
    def unchanged(self) -> None:
        """Each test here says for itself what changed."""

    def test_the_primary_is_not_terminated_as_a_replica(self, http: Http, agent: Registration, rows: Rows) -> None:
        a_replica_of(agent, status=ReplicaState.PROMOTED)
        before = rows()
        answer = agent.call("DELETE", "/replicas/rep-1", token=http.admin)
        assert (answer.status, answer.problem) == (409, "ReplicaPromoted")
        assert rows() == before

    def test_a_replica_in_handover_is_not_terminated(self, http: Http, agent: Registration, rows: Rows) -> None:
        a_replica_of(agent, status=ReplicaState.READY, readiness=1)
        opened = {
            "active_replica_id": "rep-1",
            "handover_id": "h-1",
            "handover_state": HandoverState.OPEN,
            "handover_replica_id": "rep-1",
        }
        change = Change(Table.AGENTS, (agent.agent_id,), "put", put=opened)
        wiring.records().commit(Transaction("put", (change,)))
        before = rows()
        answer = agent.call("DELETE", "/replicas/rep-1", token=http.admin)
        assert (answer.status, answer.problem) == (409, "HandoverInProgress")
        assert rows() == before

    def test_what_may_be_the_newest_copy_is_not_terminated(self, http: Http, agent: Registration, rows: Rows) -> None:
        a_replica_of(agent, status=ReplicaState.READY, readiness=1)
        change = Change(Table.AGENTS, (agent.agent_id,), "put", put={"active_replica_id": "rep-1"})
        wiring.records().commit(Transaction("put", (change,)))
        before = rows()
        answer = agent.call("DELETE", "/replicas/rep-1", token=http.admin)
        assert (answer.status, answer.problem) == (409, "ReplicaNeeded")
        assert rows() == before

    def test_a_terminated_replica_is_not_promoted(self, http: Http, agent: Registration, rows: Rows) -> None:
        a_replica_of(agent, status=ReplicaState.TERMINATED)
        before = rows()
        answer = agent.call("POST", "/replicas/rep-1/promote", {}, token=http.admin)
        assert (answer.status, answer.problem) == (409, "ReplicaNotReady")
        assert rows() == before
