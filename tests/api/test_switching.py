"""Moving a workload on purpose, over HTTP: who may, where to, and what is refused without a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest

from spot_optimizer import wiring
from spot_optimizer.control import deciding
from spot_optimizer.domain.decisions import Reason, Verdict
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.writes import Table
from tests.api.conftest import Answered, Http, Registration
from tests.api.market import HERE, THERE, market
from tests.api.test_agents import an_active_replica, put
from tests.api.test_replicas import a_ready_standby, make_ready

__all__ = ["market"]

type Rows = Callable[[], dict[str, Any]]

A_REASON = {"reason": "a cheaper zone"}
pytestmark = pytest.mark.usefixtures("market")


def switch(agent: Registration, body: dict[str, Any], **more: Any) -> Answered:
    return agent.call("POST", "/issue-switch-command", body, token=agent.http.admin, **more)


def decide(agent: Registration, **changes: Any) -> None:
    """What the schedule would have decided a moment ago."""
    row = wiring.records().agent(agent.agent_id)
    made = deciding.recommend(wiring.deciding_plane(), row, anew=False)
    wiring.decisions().keep([replace(made, **changes)])


def test_an_operator_with_a_reason_moves_a_workload_and_is_told_where_to_look(http: Http, agent: Registration) -> None:
    answer = switch(agent, {"pool_id": THERE, **A_REASON})
    assert answer.status == 202, answer.body
    told = answer.body
    assert (told["from_pool_id"], told["from_lifecycle"]) == (HERE, "spot")
    assert (told["to_pool_id"], told["to_lifecycle"], told["switch_reason"]) == (THERE, "spot", "operator")
    assert told["explanation"] == "a cheaper zone"
    assert told["look"].endswith(f":execution:prepare-replica:{told['replica_id']}")
    machine = wiring.settings().prepare_replica_state_machine_arn
    started = boto3.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
    assert told["replica_id"] in [execution["name"] for execution in started]
    listed = http.call("GET", told["look_at"], token=http.admin).body["replicas"]
    assert [(one["type"], one["requested_pool_id"], one["switch_reason"]) for one in listed] == [
        ("switch", THERE, "operator")
    ]


def test_an_operator_needs_no_toggle(agent: Registration) -> None:
    agent.call("PATCH", "/config", {"auto_switch": False, "manual_replica": False}, token=agent.http.admin)
    assert switch(agent, A_REASON).status == 202


def test_a_workload_is_moved_from_spot_to_on_demand_in_its_own_pool_and_back_to_spot_elsewhere(
    agent: Registration,
) -> None:
    asked = switch(agent, {"pool_id": HERE, "lifecycle": "on-demand", **A_REASON})
    assert asked.status == 202, asked.body
    assert (asked.body["to_pool_id"], asked.body["to_lifecycle"]) == (HERE, "on-demand")
    assert Decimal(asked.body["new_usd_per_hour"]) == Decimal("0.096")
    put(Table.AGENTS, agent.agent_id, active_replica_id=None, epoch=2)
    put(
        Table.SWITCHES,
        agent.agent_id,
        "0000000002",
        epoch=2,
        switched_at=datetime.now(UTC),
        from_instance_id="i-0old",
        to_instance_id="i-0aaaaaaaaaaaaaaa1",
        from_pool_id=HERE,
        to_pool_id=HERE,
        switch_reason="operator",
        basis="final-generation",
        rpo_breached=False,
        to_lifecycle="on-demand",
    )
    again = switch(agent, {"pool_id": HERE, "lifecycle": "on-demand", **A_REASON})
    assert (again.status, again.problem) == (422, "InvalidRequest")
    anywhere = switch(agent, {"lifecycle": "on-demand", **A_REASON})
    assert (anywhere.status, anywhere.body["field"]) == (422, "lifecycle")
    back = switch(agent, A_REASON)
    assert back.status == 202, back.body
    assert (back.body["from_lifecycle"], back.body["to_lifecycle"]) == ("on-demand", "spot")
    assert Decimal(back.body["old_usd_per_hour"]) == Decimal("0.096")


def test_a_ready_standby_in_the_right_place_takes_over_at_once(agent: Registration) -> None:
    a_ready_standby(agent)
    answer = switch(agent, A_REASON)
    assert (answer.status, answer.body["replica_id"]) == (202, "rep-1")
    assert wiring.records().agent(agent.agent_id).claim_signal == "operator"


def test_a_replica_for_a_switch_takes_over_as_soon_as_it_is_ready(agent: Registration) -> None:
    an_active_replica(agent)
    assert switch(agent, {"pool_id": THERE, **A_REASON}).body["replica_id"] == "rep-1"
    assert not wiring.records().agent(agent.agent_id).claim_open
    make_ready(agent)
    claimed = wiring.records().agent(agent.agent_id)
    assert (claimed.claim_open, claimed.claim_signal, claimed.claim_urgency) == (True, "operator", 0)


def test_a_paused_agents_switch_waits(agent: Registration) -> None:
    an_active_replica(agent)
    assert switch(agent, {"pool_id": THERE, **A_REASON}).status == 202
    agent.call("POST", "/pause", {"reason": "a release"}, token=agent.http.admin)
    make_ready(agent)
    assert not wiring.records().agent(agent.agent_id).claim_open


def test_the_same_idempotency_key_gives_the_same_switch(agent: Registration) -> None:
    first = switch(agent, A_REASON, headers={"idempotency-key": "one"})
    again = switch(agent, A_REASON, headers={"idempotency-key": "one"})
    assert (first.status, again.status) == (202, 202)
    assert first.body["replica_id"] == again.body["replica_id"]


def test_a_standby_is_asked_to_take_over_once_however_often_the_request_comes(agent: Registration) -> None:
    an_active_replica(agent)
    for _ in range(2):
        answer = switch(agent, A_REASON, headers={"idempotency-key": "one"})
        assert (answer.status, answer.body["replica_id"]) == (202, "rep-1")
    another = switch(agent, {"reason": "another one"}, headers={"idempotency-key": "two"})
    assert (another.status, another.problem) == (409, "SwitchInProgress")


def test_the_engine_moves_a_workload_where_it_decided(agent: Registration) -> None:
    decide(agent, confidence_score=Decimal("0.9"))
    answer = switch(agent, {"source": "engine"})
    assert answer.status == 202, answer.body
    assert (answer.body["switch_reason"], answer.body["to_pool_id"]) == ("auto-switch", THERE)
    assert Decimal(answer.body["estimated_savings"]) == Decimal("0.02")
    assert "saves" in answer.body["explanation"]


# --- what is refused, and changes nothing


@pytest.mark.parametrize(
    ("body", "status", "problem", "field", "said"),
    [
        ({}, 422, "InvalidRequest", "body", "a reason where source is 'operator'"),
        ({"reason": "  "}, 422, "InvalidRequest", "body", "a reason where source is 'operator'"),
        ({"reason": "x" * 201}, 422, "InvalidRequest", "reason", "at most 200"),
        ({"source": "engine", "pool_id": THERE}, 422, "InvalidRequest", "body", "neither pool_id"),
        ({"source": "somebody", **A_REASON}, 422, "InvalidRequest", "source", "'operator' or 'engine'"),
        ({"lifecycle": "scheduled", **A_REASON}, 422, "InvalidRequest", "lifecycle", "'spot' or 'on-demand'"),
        ({"speed": 1, **A_REASON}, 422, "InvalidRequest", "speed", "no field of this name"),
        ({"pool_id": "somewhere", **A_REASON}, 422, "InvalidRequest", "pool_id", "match pattern"),
        ({"pool_id": "us-east-1b.r5.large", **A_REASON}, 422, "InvalidRequest", "pool_id", "none of the agent's"),
        ({"pool_id": "eu-west-1a.m5.large", **A_REASON}, 422, "InvalidRequest", "pool_id", "out of scope"),
        ({"pool_id": HERE, **A_REASON}, 422, "InvalidRequest", "pool_id", "runs in us-east-1a.m5.large already"),
        ({"exclude_zones": ["us-east-1a", "us-east-1b"], **A_REASON}, 409, "NoPoolQualifies", None, "exclude fewer"),
        (
            {"exclude_zones": ["us-east-1a", "us-east-1b"], "lifecycle": "on-demand", **A_REASON},
            409,
            "NoPoolQualifies",
            None,
            "exclude fewer",
        ),
        (
            {"pool_id": THERE, "exclude_zones": ["us-east-1b"], **A_REASON},
            422,
            "InvalidRequest",
            "pool_id",
            "zone us-east-1b is excluded",
        ),
    ],
)
def test_a_switch_that_can_not_be_made_is_refused_and_nothing_is_changed(
    agent: Registration, rows: Rows, body: dict[str, Any], status: int, problem: str, field: str | None, said: str
) -> None:
    before = rows()
    answer = switch(agent, body)
    assert (answer.status, answer.problem) == (status, problem), answer.body
    assert answer.body.get("field") == field
    assert said in answer.body["detail"]
    assert rows() == before


def test_a_pool_of_another_architecture_is_refused(agent: Registration, rows: Rows) -> None:
    put(Table.AGENTS, agent.agent_id, instance_types=("m5.large", "m6g.large"))
    before = rows()
    for lifecycle in ("spot", "on-demand"):
        answer = switch(agent, {"pool_id": "us-east-1b.m6g.large", "lifecycle": lifecycle, **A_REASON})
        assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", "pool_id")
        assert "architecture is arm64" in answer.body["detail"]
    assert rows() == before


@pytest.mark.parametrize("body", [A_REASON, {"source": "engine"}])
@pytest.mark.parametrize(
    ("how", "problem", "said"),
    [
        ({"paused_at": datetime.now(UTC), "paused_because": "a release"}, "Paused", "a release"),
        ({"lost": True}, "AgentLost", "register a new agent"),
        ({"claim_open": True, "claim_epoch": 1, "claim_attempt": 1}, "HandoverInProgress", "wait until it has ended"),
    ],
)
def test_an_agent_that_must_not_be_moved_now_is_left_alone(
    agent: Registration, rows: Rows, body: dict[str, Any], how: dict[str, Any], problem: str, said: str
) -> None:
    put(Table.AGENTS, agent.agent_id, **how)
    before = rows()
    answer = switch(agent, body)
    assert (answer.status, answer.problem) == (409, problem)
    assert said in answer.body["detail"]
    assert rows() == before


def test_two_switches_at_once_are_refused(agent: Registration, rows: Rows) -> None:
    assert switch(agent, A_REASON, headers={"idempotency-key": "one"}).status == 202
    before = rows()
    for body in (A_REASON, {"pool_id": THERE, **A_REASON}, {"source": "engine"}):
        answer = switch(agent, body)
        assert (answer.status, answer.problem) == (409, "SwitchInProgress")
    assert rows() == before


def test_a_standby_elsewhere_is_in_the_way(agent: Registration, rows: Rows) -> None:
    an_active_replica(agent, status=ReplicaState.READY)
    before = rows()
    answer = switch(agent, {"lifecycle": "on-demand", **A_REASON})
    assert (answer.status, answer.problem) == (409, "ReplicaAlreadyActive")
    assert "rep-1 stands by in us-east-1b.m5.large" in answer.body["detail"]
    assert rows() == before


def test_the_engine_is_refused_where_the_toggle_forbids_it(agent: Registration, rows: Rows) -> None:
    agent.call("PATCH", "/config", {"auto_switch": False}, token=agent.http.admin)
    decide(agent)
    before = rows()
    answer = switch(agent, {"source": "engine"})
    assert (answer.status, answer.problem) == (409, "ToggledOff")
    assert "auto_switch is off" in answer.body["detail"]
    assert rows() == before


@pytest.mark.parametrize(
    ("config", "decided", "said"),
    [
        ({}, {"verdict": Verdict.STAY, "reason": Reason.CHEAPEST}, "decided-to-stay"),
        ({"switch_dwell_seconds": 7 * 86_400}, {}, "stayed-too-shortly"),
        ({"switch_minimum_saving": 0.45}, {"saving": Decimal("0.44")}, "saves-too-little"),
        ({"maintenance_windows": ["WINDOW"]}, {}, "outside-window"),
    ],
)
def test_the_engine_is_refused_where_the_rules_forbid_it(
    agent: Registration, rows: Rows, config: dict[str, Any], decided: dict[str, Any], said: str
) -> None:
    then = datetime.now(UTC) + timedelta(hours=6)
    window = f"daily {then:%H}:00-{then:%H}:30"
    config = {**config, **({"maintenance_windows": [window]} if "maintenance_windows" in config else {})}
    if config:
        assert agent.call("PATCH", "/config", config, token=agent.http.admin).status == 200
    decide(agent, **decided)
    before = rows()
    answer = switch(agent, {"source": "engine"})
    assert (answer.status, answer.problem) == (409, "SwitchHeld"), answer.body
    assert said in answer.body["detail"]
    assert rows() == before


def test_only_operators_move_a_workload(http: Http, agent: Registration, rows: Rows) -> None:
    before = rows()
    for token in (http.client_token, agent.token):
        answer = agent.call("POST", "/issue-switch-command", A_REASON, token=token)
        assert (answer.status, answer.problem) == (403, "Forbidden")
    unknown = http.call("POST", "/api/agents/agt-none/issue-switch-command", A_REASON, token=http.admin)
    assert (unknown.status, unknown.problem) == (404, "AgentUnknown")
    assert rows() == before


# --- the rules, as an operator sets them


def test_the_rules_of_switching_are_configured(agent: Registration) -> None:
    wanted = {
        "switch_minimum_saving": 0.1,
        "switch_dwell_seconds": 3600,
        "switch_hysteresis": 0.02,
        "switches_per_day": 2,
        "maintenance_windows": ["mon-fri 22:00-05:00", "sat,sun 00:00-24:00"],
    }
    changed = agent.call("PATCH", "/config", wanted, token=agent.http.admin)
    assert changed.status == 200, changed.body
    assert {name: changed.body[name] for name in wanted} == wanted
    cleared = agent.call("PATCH", "/config", {"maintenance_windows": []}, token=agent.http.admin)
    assert cleared.body["maintenance_windows"] == []
    assert cleared.body["switch_minimum_saving"] == 0.1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"switch_minimum_saving": 0}, "switch_minimum_saving"),
        ({"switch_minimum_saving": 0.46}, "switch_minimum_saving"),
        ({"switch_hysteresis": 0}, "switch_hysteresis"),
        ({"switch_hysteresis": "much"}, "switch_hysteresis"),
        ({"switch_dwell_seconds": 299}, "switch_dwell_seconds"),
        ({"switch_dwell_seconds": 604_801}, "switch_dwell_seconds"),
        ({"switches_per_day": 0}, "switches_per_day"),
        ({"switches_per_day": 25}, "switches_per_day"),
        ({"maintenance_windows": "always"}, "maintenance_windows"),
        ({"maintenance_windows": ["at night"]}, "maintenance_windows.0"),
        ({"maintenance_windows": ["daily 02:00-04:00", "someday 02:00-04:00"]}, "maintenance_windows.1"),
        ({"maintenance_windows": ["daily 02:00-02:00"]}, "maintenance_windows.0"),
        ({"maintenance_windows": ["daily 25:00-02:00"]}, "maintenance_windows.0"),
        ({"maintenance_windows": ["daily 02:00-04:00"] * 15}, "maintenance_windows"),
    ],
)
def test_rules_that_could_not_hold_are_422_and_named(
    agent: Registration, rows: Rows, change: dict[str, Any], field: str
) -> None:
    before = rows()
    answer = agent.call("PATCH", "/config", change, token=agent.http.admin)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field)
    assert answer.body["expected"]
    assert rows() == before
