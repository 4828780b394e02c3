"""Replicas, handovers and emergencies over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest

from spot_optimizer import wiring
from spot_optimizer.domain import pools_of_interest
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.writes import Change, Table
from tests.api.conftest import PRIMARY, STANDBY, Answered, Http, Registration
from tests.api.test_agents import a_token_for, an_active_replica, put


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=110)).isoformat()


def ready(readiness: int = 1) -> dict[str, Any]:
    return {
        "epoch": 1,
        "status": "ready",
        "readiness": readiness,
        "generation": 3,
        "sync_percent": 100.0,
        "lag_seconds": 0.4,
        "covered_until": datetime.now(UTC).isoformat(),
    }


def make_ready(agent: Registration) -> None:
    """Have the primary say that its standby is ready."""
    assert agent.call("POST", "/replicas/rep-1/sync-status", ready()).status == 200


def a_ready_standby(agent: Registration) -> None:
    an_active_replica(agent)
    make_ready(agent)


# --- replicas


def test_an_operator_gets_a_replica_that_is_being_prepared(http: Http, agent: Registration) -> None:
    body = {"pool_id": "us-east-1b.m5.large", "exclude_zones": ["us-east-1c"]}
    answer = agent.call("POST", "/replicas", body, token=http.admin)
    assert answer.status == 202, answer.body
    assert (answer.body["type"], answer.body["status"]) == ("manual", "launching")
    assert answer.body["requested_pool_id"] == "us-east-1b.m5.large"
    assert answer.body["created_by"].startswith("operator:")
    machine = wiring.settings().prepare_replica_state_machine_arn
    started = boto3.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
    assert answer.body["replica_id"] in [execution["name"] for execution in started]
    listed = agent.call("GET", "/replicas", token=http.client_token)
    assert [one["replica_id"] for one in listed.body["replicas"]] == [answer.body["replica_id"]]


def test_the_same_idempotency_key_gives_the_same_replica_and_another_is_refused(
    http: Http, agent: Registration
) -> None:
    first = agent.call("POST", "/replicas", {}, token=http.admin, headers={"idempotency-key": "one"})
    again = agent.call("POST", "/replicas", {}, token=http.admin, headers={"idempotency-key": "one"})
    assert (first.status, again.status) == (202, 202)
    assert first.body["replica_id"] == again.body["replica_id"]
    other = agent.call("POST", "/replicas", {}, token=http.admin, headers={"idempotency-key": "two"})
    assert (other.status, other.problem) == (409, "ReplicaAlreadyActive")


def test_manual_replicas_can_be_switched_off(http: Http, agent: Registration) -> None:
    agent.call("PATCH", "/config", {"manual_replica": False}, token=http.admin)
    answer = agent.call("POST", "/replicas", {}, token=http.admin)
    assert (answer.status, answer.problem) == (409, "ToggledOff")


def test_only_the_primary_makes_a_replica_ready_and_takes_it_back(agent: Registration) -> None:
    an_active_replica(agent)
    answer = agent.call("POST", "/replicas/rep-1/sync-status", ready())
    assert answer.status == 200, answer.body
    assert (answer.body["status"], answer.body["readiness"]) == ("ready", 1)
    standby = a_token_for(agent, STANDBY)
    refused = agent.call("POST", "/replicas/rep-1/sync-status", ready(2), token=standby)
    assert refused.status in (403, 409)
    taken_back = agent.call("POST", "/replicas/rep-1/unready", {"epoch": 1, "readiness": 2})
    assert (taken_back.status, taken_back.body["status"], taken_back.body["readiness"]) == (200, "syncing", 2)
    late = agent.call("POST", "/replicas/rep-1/sync-status", ready(1))
    assert (late.status, late.problem) == (409, "ReplicaNotReady")


def test_both_ends_report_progress_and_nobody_else(agent: Registration) -> None:
    an_active_replica(agent)
    progress = {"epoch": 1, "status": "syncing", "generation": 2, "sync_percent": 40.5}
    for token in (agent.token, a_token_for(agent, STANDBY)):
        answer = agent.call("POST", "/replicas/rep-1/sync-status", progress, token=token)
        assert (answer.status, answer.body["generation"], answer.body["sync_percent"]) == (200, 2, 40.5)
    stranger = a_token_for(agent, "i-0fffffffffffffff6")
    assert agent.call("POST", "/replicas/rep-1/sync-status", progress, token=stranger).problem == "Forbidden"


# --- handovers


def open_handover(agent: Registration, **more: Any) -> None:
    put(
        Table.AGENTS,
        agent.agent_id,
        handover_id="h-1",
        handover_state=HandoverState.OPEN,
        handover_replica_id="rep-1",
        handover_readiness=1,
        handover_count=1,
        **more,
    )


def a_handover(agent: Registration) -> str:
    """An open handover to a ready standby; the standby's token."""
    a_ready_standby(agent)
    open_handover(agent)
    return a_token_for(agent, STANDBY)


def commit(agent: Registration, token: str, **changes: Any) -> Answered:
    body = {
        "epoch": 1,
        "basis": "final-generation",
        "readiness": 1,
        "generation": 3,
        "covered_until": datetime.now(UTC).isoformat(),
    } | changes
    return agent.call("POST", "/handovers/h-1/commit", body, token=token)


def test_a_standby_that_commits_is_the_primary_of_the_next_epoch(agent: Registration) -> None:
    standby = a_handover(agent)
    answer = commit(agent, standby)
    assert answer.status == 200, answer.body
    assert (answer.body["epoch"], answer.body["primary_instance_id"]) == (2, STANDBY)
    assert commit(agent, standby).body == answer.body
    over = agent.beat()
    assert (over.status, over.body["current_epoch"]) == (409, 2)
    assert agent.call("POST", "/handovers/h-1/abort", {"epoch": 1}).body["current_epoch"] == 2
    told = agent.beat(epoch=2, token=standby)
    assert (told.status, told.body["role"]) == (200, "primary")


@pytest.mark.parametrize(("said", "is_breach"), [({"lag_seconds": 0.4}, False), ({}, True)])
def test_the_switch_records_the_lag_that_the_standby_tells_and_a_breach_where_it_tells_none(
    agent: Registration, said: dict[str, float], is_breach: bool
) -> None:
    standby = a_handover(agent)
    put(Table.AGENTS, agent.agent_id, handover_primary_dead=True)
    answer = commit(agent, standby, basis="primary-dead", **said)
    assert answer.status == 200, answer.body
    switch = wiring.records().switch(agent.agent_id, "0000000002")
    assert switch is not None
    assert switch.rpo_breached == is_breach
    assert switch.lag_seconds == said.get("lag_seconds")
    assert switch.rpo_seconds is not None
    assert switch.rpo_seconds > said.get("lag_seconds", 0.0)


def test_a_primary_that_aborts_first_stays_the_primary(agent: Registration) -> None:
    standby = a_handover(agent)
    aborted = agent.call("POST", "/handovers/h-1/abort", {"epoch": 1})
    assert (aborted.status, aborted.body["handover_state"], aborted.body["epoch"]) == (200, "aborted", 1)
    assert agent.call("POST", "/handovers/h-1/abort", {"epoch": 1}).body == aborted.body
    late = commit(agent, standby)
    assert (late.status, late.problem) == (409, "HandoverNotOpen")
    assert agent.beat().status == 200


def a_planned_handover(agent: Registration) -> None:
    a_handover(agent)
    put(Table.AGENTS, agent.agent_id, claim_open=True, claim_epoch=1, claim_attempt=1, claim_signal="operator")


def test_an_operator_aborts_a_planned_handover_and_the_primary_serves_on(http: Http, agent: Registration) -> None:
    a_planned_handover(agent)
    aborted = agent.call("POST", "/handovers/h-1/abort", {}, token=http.admin)
    assert (aborted.status, aborted.body["handover_state"], aborted.body["epoch"]) == (200, "aborted", 1)
    assert agent.call("POST", "/handovers/h-1/abort", {}, token=http.admin).body == aborted.body
    told = agent.beat()
    assert told.body["handover"]["state"] == "aborted"


@pytest.mark.parametrize(
    ("under_way", "problem"),
    [
        ({"claim_urgency": 2, "claim_signal": "termination-notice"}, "HandoverNeeded"),
        ({"handover_primary_dead": True}, "HandoverNeeded"),
        ({"handover_state": HandoverState.COMMITTED}, "HandoverNotOpen"),
    ],
)
def test_an_operator_aborts_nothing_that_keeps_no_primary(
    http: Http, agent: Registration, under_way: dict[str, Any], problem: str
) -> None:
    a_planned_handover(agent)
    put(Table.AGENTS, agent.agent_id, **under_way)
    before = wiring.records().agent(agent.agent_id)
    answer = agent.call("POST", "/handovers/h-1/abort", {}, token=http.admin)
    assert (answer.status, answer.problem) == (409, problem)
    assert wiring.records().agent(agent.agent_id) == before


def test_an_abort_names_the_agents_handover_and_an_agent_names_its_epoch(http: Http, agent: Registration) -> None:
    a_planned_handover(agent)
    assert agent.call("POST", "/handovers/h-9/abort", {}, token=http.admin).problem == "HandoverUnknown"
    silent = agent.call("POST", "/handovers/h-1/abort", {})
    assert (silent.status, silent.body["field"]) == (422, "epoch")
    assert agent.call("POST", "/handovers/h-1/abort", {}, token=http.client_token).status == 403


def test_a_primary_is_not_dead_because_its_standby_says_so(agent: Registration) -> None:
    standby = a_handover(agent)
    body = {"epoch": 1, "basis": "primary-dead", "readiness": 1, "generation": 3}
    answer = agent.call("POST", "/handovers/h-1/commit", body, token=standby)
    assert (answer.status, answer.problem) == (409, "PromotionUnproven")


# --- emergencies


def test_a_repeated_termination_call_gets_the_execution_that_runs(agent: Registration) -> None:
    body = {"instance_id": PRIMARY, "termination_time": soon(), "epoch": 1}
    first = agent.call("POST", "/termination-imminent", body)
    assert first.status == 202, first.body
    assert (first.body["execution"], first.body["attempt"]) == (f"{agent.agent_id}-1-1", 1)
    assert first.body["look"].endswith(f":execution:fail-over:{agent.agent_id}-1-1")
    again = agent.call("POST", "/termination-imminent", body)
    assert (again.status, again.body["execution"], again.body["attempt"]) == (202, first.body["execution"], 1)
    assert wiring.records().agent(agent.agent_id).claim_attempt == 1


def test_a_termination_call_after_a_failed_attempt_gets_the_next_attempt(agent: Registration) -> None:
    body = {"instance_id": PRIMARY, "termination_time": soon()}
    first = agent.call("POST", "/termination-imminent", body)
    boto3.client("stepfunctions").stop_execution(executionArn=first.body["look"])
    again = agent.call("POST", "/termination-imminent", body)
    assert (again.status, again.body["attempt"]) == (202, 2)


def test_an_operator_may_report_a_termination_too(http: Http, agent: Registration) -> None:
    body = {"instance_id": PRIMARY, "termination_time": soon()}
    assert agent.call("POST", "/termination-imminent", body, token=http.admin).body["attempt"] == 1


def test_a_rebalance_recommendation_prepares_a_replica_whatever_the_toggles_say(
    http: Http, agent: Registration
) -> None:
    agent.call("PATCH", "/config", {"auto_replica": False, "manual_replica": False}, token=http.admin)
    answer = agent.call("POST", "/create-emergency-replica", {"instance_id": PRIMARY, "epoch": 1})
    assert answer.status == 202, answer.body
    assert answer.body["execution"] is None
    replica = wiring.records().replica(agent.agent_id, answer.body["replica_id"])
    assert (replica.status, replica.type) == (ReplicaState.LAUNCHING, "automatic-rebalance")
    again = agent.call("POST", "/create-emergency-replica", {"instance_id": PRIMARY})
    assert again.body["replica_id"] == replica.replica_id


@pytest.mark.parametrize("below", ["/create-emergency-replica", "/termination-imminent"])
def test_a_standby_that_finds_its_primary_silent_starts_a_failover(agent: Registration, below: str) -> None:
    an_active_replica(agent)
    body = {"instance_id": STANDBY, "signal_type": "primary-silent", "epoch": 1}
    answer = agent.call("POST", below, body, token=a_token_for(agent, STANDBY))
    assert (answer.status, answer.body["attempt"]) == (202, 1)
    assert wiring.records().agent(agent.agent_id).claim_signal == "primary-silent"


def test_an_instance_may_not_speak_for_another_of_its_agent(agent: Registration) -> None:
    an_active_replica(agent)
    body = {"instance_id": PRIMARY, "termination_time": soon()}
    answer = agent.call("POST", "/termination-imminent", body, token=a_token_for(agent, STANDBY))
    assert (answer.status, answer.problem) == (403, "Forbidden")
    assert not wiring.records().agent(agent.agent_id).claim_open


def test_an_operator_hands_over_to_a_replica_that_is_ready(http: Http, agent: Registration) -> None:
    a_ready_standby(agent)
    answer = agent.call("POST", "/replicas/rep-1/promote", {"reason": "cheaper there"}, token=http.admin)
    assert (answer.status, answer.body["attempt"]) == (202, 1)
    assert wiring.records().agent(agent.agent_id).claim_signal == "operator"


@pytest.mark.parametrize(
    ("wish", "recorded"), [({}, True), ({"demote_old_primary": True}, True), ({"demote_old_primary": False}, False)]
)
def test_an_operator_says_what_becomes_of_the_old_primary(
    http: Http, agent: Registration, wish: dict[str, Any], recorded: bool
) -> None:
    a_ready_standby(agent)
    assert agent.call("POST", "/replicas/rep-1/promote", wish, token=http.admin).status == 202
    assert wiring.records().agent(agent.agent_id).claim_demotes is recorded


def test_a_primary_whose_pool_the_replica_shares_is_not_demoted(http: Http, agent: Registration) -> None:
    a_ready_standby(agent)
    put(Table.AGENTS, agent.agent_id, primary_pool_id="us-east-1b.m5.large")
    answer = agent.call("POST", "/replicas/rep-1/promote", {"demote_old_primary": True}, token=http.admin)
    assert (answer.status, answer.problem) == (409, "DemotionRefused")
    assert "would share pool us-east-1b.m5.large" in answer.body["detail"]
    assert not wiring.records().agent(agent.agent_id).claim_open


def test_a_replicas_answer_says_what_it_is_chosen_from(http: Http, agent: Registration) -> None:
    taken_up = pools_of_interest.want("us-east-1b.m5.large", (agent.agent_id,), None)
    priced = Change(Table.POOLS, ("us-east-1b.m5.large",), "price", put={"on_demand_usd_per_hour": Decimal("0.096")})
    wiring.prices().note_pools([taken_up] if taken_up else [])
    wiring.prices().note_pools([priced])
    answer = agent.call("POST", "/replicas", {"exclude_zones": ["us-east-1c"]}, token=http.admin)
    considered = {pool["pool_id"]: pool for pool in answer.body["considered"]}
    assert considered["us-east-1b.m5.large"]["qualifies"] is True
    assert considered["us-east-1a.m5.large"]["qualifies"] is False
    assert "the primary runs there" in considered["us-east-1a.m5.large"]["explanation"]
    assert {pool["on_demand_usd_per_hour"] for pool in considered.values()} == {"0.096"}


def test_an_agents_pools_are_shown_with_risk_and_reason(http: Http, agent: Registration) -> None:
    for token in (http.admin, http.client_token, agent.token):
        answer = agent.call("GET", "/pools", token=token)
        assert answer.status == 200, answer.body
        assert answer.body["primary_pool_id"] == "us-east-1a.m5.large"
        assert [(pool["pool_id"], pool["qualifies"]) for pool in answer.body["pools"]] == [
            ("us-east-1b.m5.large", True),
            ("us-east-1a.m5.large", False),
        ]
        assert all(0 < float(pool["risk_within_1h"]) < 1 and pool["risk_note"] for pool in answer.body["pools"])


def test_an_operator_terminates_a_replica_once_and_for_all(http: Http, agent: Registration) -> None:
    replica_id = agent.call("POST", "/replicas", {}, token=http.admin).body["replica_id"]
    for _ in range(2):
        ended = agent.call("DELETE", f"/replicas/{replica_id}", token=http.admin)
        assert (ended.status, ended.body["status"]) == (200, "terminated")
    assert "terminated by operator:" in ended.body["failure"]
    assert agent.call("GET", "").body["active_replica_id"] is None
    assert agent.call("POST", "/replicas", {}, token=http.admin).status == 202
