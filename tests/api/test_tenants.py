"""One client never sees another's rows, nor changes them: route by route, as the description of the API lists them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from functions.operator_api import document
from spot_optimizer import wiring
from spot_optimizer.domain import tokens
from spot_optimizer.domain.writes import Change, Missing, Table, Transaction
from tests import builders
from tests.api.conftest import CERTIFICATE, CLIENT, PRIMARY, STANDBY, Answered, Http, Registration
from tests.fakes.rehearsal import PlayedRehearsal
from tests.trained_models import a_trained_model

INTRUDER = "globex"
INTRUDERS_INSTANCE = "i-0ccccccccccccccc3"
REPLICA = "rep-of-acme"
DESCRIBED = json.loads(document.document())
NOW = datetime.now(UTC)

#: What fields hold that their schema alone does not tell.
SAMPLES: Mapping[str, Any] = {
    "client_id": "initech",
    "epoch": 1,
    "exclude_zones": ["us-east-1f"],
    "instance_id": PRIMARY,
    "name": "somebody",
    "reason": "a test",
    "replica_id": REPLICA,
    "root_hash": "0" * 64,
    "sha256": "A" * 43 + "=",
    "termination_time": (NOW + timedelta(minutes=2)).isoformat(),
}
#: Bodies that no schema tells.
BODIES: Mapping[str, Mapping[str, Any]] = {"POST /api/admin/ml-models/sessions": a_trained_model(seed=9).body}
#: What a call needs beside the fields that its schema requires.
BESIDE: Mapping[str, tuple[str, ...]] = {
    "POST /api/agents/{agent_id}/termination-imminent": ("termination_time",),
    "POST /api/agents/{agent_id}/issue-switch-command": ("reason",),
}
#: Calls that name a pool: a pool is nobody's.
NOBODYS = ("pool_id",)
#: Calls that name no one's rows: everybody may make them in their own name.
IN_ONES_OWN_NAME = ("POST /api/agents/register",)
REFUSALS = ("Forbidden", "AgentUnknown", "ClientUnknown", "TokenUnknown")


@dataclass(frozen=True)
class Call:
    """One call of the API, as it is described."""

    method: str
    path: str
    body: Mapping[str, Any] | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))

    def to(self, http: Http, token: str, ids: Mapping[str, str], query: Mapping[str, str] | None = None) -> Answered:
        return http.call(self.method, self.path.format(**ids), self.body, token=token, query=query)


def described_calls() -> Iterator[Call]:
    for path, calls in DESCRIBED["paths"].items():
        for method, call in calls.items():
            if call["security"]:
                content = call.get("requestBody", {}).get("content", {}).get("application/json")
                name = f"{method.upper()} {path}"
                more = {field: SAMPLES[field] for field in BESIDE.get(name, ())}
                body = BODIES.get(name) or (a_value(content["schema"], "") | more if content else None)
                yield Call(method.upper(), path, body)


def a_value(schema: Mapping[str, Any], name: str) -> Any:
    """Something that the schema allows."""
    if name in SAMPLES:
        return SAMPLES[name]
    if "$ref" in schema:
        return a_value(DESCRIBED["components"]["schemas"][schema["$ref"].rpartition("/")[2]], name)
    if "anyOf" in schema:
        return a_value(schema["anyOf"][0], name)
    for choice in ("enum", "examples"):
        if choice in schema:
            return schema[choice][0]
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        return {field: a_value(properties[field], field) for field in schema.get("required") or list(properties)[:1]}
    if schema.get("type") == "array":
        return [a_value(schema["items"], name)]
    plain: dict[str, Any] = {
        "string": NOW.isoformat() if schema.get("format") == "date-time" else "x" * schema.get("minLength", 1),
        "boolean": True,
        "integer": int(schema.get("minimum", 1)),
        "number": schema.get("minimum", 1),
    }
    return schema.get("const", plain.get(str(schema.get("type")), {}))


CALLS = tuple(described_calls())
NAMING = [call for call in CALLS if set(call.ids) - set(NOBODYS)]
LISTING = [call for call in CALLS if call not in NAMING and str(call) not in IN_ONES_OWN_NAME]


@dataclass(frozen=True)
class Tenants:
    """Acme, whose rows are at stake, and another client with an agent of its own."""

    http: Http
    acme: Registration
    intruder: Registration
    intruders_token: str
    acmes_token_id: str

    @property
    def acmes(self) -> dict[str, str]:
        """Acme's ids, by the names that paths have for them."""
        return {
            "agent_id": self.acme.agent_id,
            "client_id": CLIENT,
            "command_id": "cmd-1",
            "handover_id": f"{self.acme.agent_id}-h1-1",
            "replica_id": REPLICA,
            "snapshot_id": "0000000001-0000000000000001",
            "token_id": self.acmes_token_id,
            "pool_id": "us-east-1a.m5.large",
        }


@pytest.fixture
def tenants(http: Http, agent: Registration, monkeypatch: pytest.MonkeyPatch) -> Tenants:
    monkeypatch.setattr(wiring, "rehearsing", lambda: PlayedRehearsal(http.context))
    http.call("POST", "/api/clients", {"client_id": INTRUDER, "name": "Globex"}, token=http.admin)
    issued = http.call("POST", f"/api/clients/{INTRUDER}/tokens", {}, token=http.admin).body
    acmes = http.call("POST", f"/api/clients/{CLIENT}/tokens", {}, token=http.admin).body
    registration = http.registration(INTRUDERS_INSTANCE, **resources_of(INTRUDER))
    registered = http.call("POST", "/api/agents/register", registration, token=issued["token"])
    assert registered.status == 200, registered.body
    fill(agent.agent_id)
    return Tenants(
        http=http,
        acme=agent,
        intruder=Registration(http, registered.body["agent_id"], registered.body["agent_token"]),
        intruders_token=issued["token"],
        acmes_token_id=acmes["token_id"],
    )


def resources_of(client_id: str) -> dict[str, Any]:
    ec2 = boto3.client("ec2")
    tags: Any = [{"Key": "spot-optimizer:client", "Value": client_id}]
    known = ec2.describe_launch_templates(Filters=[{"Name": "launch-template-name", "Values": [client_id]}])
    template = (
        next(iter(known["LaunchTemplates"]), None)
        or ec2.create_launch_template(
            LaunchTemplateName=client_id,
            LaunchTemplateData={"InstanceType": "m5.large"},
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
        )["LaunchTemplate"]
    )
    zones = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]}
    subnet_id = zones["us-east-1c"]
    ec2.create_tags(Resources=[subnet_id], Tags=tags)
    return {"launch_template_id": template["LaunchTemplateId"], "subnet_ids": [subnet_id]}


def fill(agent_id: str) -> None:
    """Give Acme's agent something of everything that can be looked at."""
    replica = builders.a_replica(agent_id=agent_id, replica_id=REPLICA, instance_id=STANDBY)
    event = builders.an_interruption(agent_id=agent_id, client_id=CLIENT, instance_id=PRIMARY)
    switch = builders.a_switch(agent_id=agent_id, client_id=CLIENT)
    for table, row, keys in (
        (Table.REPLICAS, replica, ("agent_id", "replica_id")),
        (Table.INTERRUPTIONS, event, ("agent_id", "event_id")),
        (Table.SWITCHES, switch, ("agent_id", "switch_id")),
    ):
        values = {
            name: value
            for name in row.__dataclass_fields__
            if name not in keys and (value := getattr(row, name)) is not None
        }
        key = (agent_id, str(getattr(row, keys[1])))
        change = Change(table, key, "put", only_if={keys[1]: Missing()}, put=values)
        wiring.records().commit(Transaction("put", (change,)))


def test_another_clients_rows_do_not_exist(tenants: Tenants, rows: Callable[[], Any]) -> None:
    before = rows()
    for call in NAMING:
        for token in (tenants.intruders_token, tenants.intruder.token):
            answer = call.to(tenants.http, token, tenants.acmes)
            assert answer.status in (403, 404), (call, answer.body)
            assert answer.problem in REFUSALS, call
    assert rows() == before


def test_the_same_calls_are_open_to_somebody(tenants: Tenants) -> None:
    """Else the refusals above would prove nothing."""
    mine = (tenants.acme.token, tenants.http.client_token, tenants.http.admin)
    for call in sorted(NAMING, key=lambda call: call.method == "DELETE"):
        answers = [call.to(tenants.http, token, tenants.acmes) for token in mine]
        assert any(answer.status < 300 or answer.problem not in (*REFUSALS, "InvalidRequest") for answer in answers), (
            call,
            [answer.body for answer in answers],
        )


def test_anothers_rows_are_not_reached_through_ones_own_agent(tenants: Tenants, rows: Callable[[], Any]) -> None:
    before = rows()
    ids = tenants.acmes | {"agent_id": tenants.intruder.agent_id}
    for call in NAMING:
        if len(call.ids) > 1:
            for token in (tenants.intruders_token, tenants.intruder.token):
                assert call.to(tenants.http, token, ids).status in (403, 404), call
    assert rows() == before


def test_a_list_shows_nobody_elses_rows(tenants: Tenants, rows: Callable[[], Any]) -> None:
    before = rows()
    for call in LISTING:
        for token in (tenants.intruders_token, tenants.intruder.token):
            answer = call.to(tenants.http, token, tenants.acmes)
            text = json.dumps(answer.body)
            assert not [value for value in (tenants.acme.agent_id, CLIENT, REPLICA, PRIMARY) if value in text], call
            looked = call.method == "GET" and answer.status == 200
            assert looked or answer.problem in ("Forbidden", "PoolUnknown"), (call, answer.body)
    assert rows() == before


FILTERED = [
    path
    for path, calls in DESCRIBED["paths"].items()
    if {"agent_id", "client_id"} <= {parameter["name"] for parameter in calls.get("get", {}).get("parameters", ())}
]


@pytest.mark.parametrize("path", FILTERED)
def test_a_filter_reaches_no_further(tenants: Tenants, path: str) -> None:
    http = tenants.http
    by_agent = http.call("GET", path, token=tenants.intruders_token, query={"agent_id": tenants.acme.agent_id})
    assert (by_agent.status, by_agent.problem) == (404, "AgentUnknown")
    by_client = http.call("GET", path, token=tenants.intruders_token, query={"client_id": CLIENT})
    assert (by_client.status, by_client.problem) == (403, "Forbidden")
    of_other = {"agent_id": tenants.acme.agent_id, "client_id": INTRUDER}
    assert http.call("GET", path, token=http.admin, query=of_other).problem == "AgentUnknown"


@pytest.mark.parametrize(("path", "name"), [("/api/switches", "switches"), ("/api/interruptions", "interruptions")])
def test_a_cursor_leads_into_nobody_elses_list(tenants: Tenants, path: str, name: str) -> None:
    http = tenants.http
    fill(tenants.intruder.agent_id)
    page = http.call("GET", path, token=http.admin, query={"limit": "1"}).body
    assert page[name]
    assert page["next_cursor"]
    answer = http.call("GET", path, token=tenants.intruders_token, query={"cursor": page["next_cursor"]})
    assert (answer.status, answer.problem) == (422, "InvalidRequest")
    assert answer.body["field"] == "cursor"


def test_an_agents_certificate_is_shown_to_nobody(tenants: Tenants) -> None:
    http = tenants.http
    listed = http.call("GET", f"/api/clients/{CLIENT}/instances", token=http.client_token)
    assert [instance["instance_id"] for instance in listed.body["instances"]] == [PRIMARY]
    assert CERTIFICATE.splitlines()[1] not in json.dumps(listed.body)


def test_every_token_can_be_revoked_but_only_by_an_admin(tenants: Tenants) -> None:
    http = tenants.http
    token_id = tokens.parse(tenants.acme.token).token_id
    assert http.call("DELETE", f"/api/tokens/{token_id}", token=tenants.acme.token).problem == "Forbidden"
    assert http.call("DELETE", f"/api/tokens/{token_id}", token=http.admin).status == 204
    assert tenants.acme.call("GET", "").status == 401
