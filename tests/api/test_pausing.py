"""Pausing one agent, or everything, over HTTP; and the settings of its upkeep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.api.conftest import PRIMARY, Http, Registration


def test_an_operator_pauses_an_agent_and_everybody_sees_it(http: Http, agent: Registration) -> None:
    paused = agent.call("POST", "/pause", {"reason": "moving house"}, token=http.admin)
    assert (paused.status, paused.body["paused_because"]) == (200, "moving house")
    assert agent.call("GET", "", token=http.client_token).body["paused_because"] == "moving house"
    refused = agent.call("POST", "/replicas", {}, token=http.admin)
    assert (refused.status, refused.problem) == (409, "Paused")
    assert "moving house; resume first" in refused.body["detail"]
    notice = {"instance_id": PRIMARY, "termination_time": (datetime.now(UTC) + timedelta(seconds=99)).isoformat()}
    started = agent.call("POST", "/termination-imminent", notice)
    assert (started.status, started.body["execution"]) == (202, None)
    assert "moving house" in started.body["reason"]
    assert agent.call("POST", "/resume", token=http.admin).body["paused_at"] is None
    assert agent.call("POST", "/replicas", {}, token=http.admin).status == 202


def test_an_admin_pauses_everything(http: Http, agent: Registration) -> None:
    assert http.call("GET", "/api/pause", token=http.admin).body == {"paused_at": None, "paused_because": None}
    assert http.call("POST", "/api/pause", {"reason": "audit"}, token=http.admin).body["paused_because"] == "audit"
    assert http.call("GET", "/api/pause", token=http.admin).body["paused_because"] == "audit"
    health = http.call("GET", "/api/health").body
    assert (health["status"], health["paused_at"] is not None) == ("paused", True)
    assert "audit" not in str(health), "anybody may ask for health"
    assert agent.call("POST", "/replicas", {}, token=http.admin).problem == "Paused"
    assert http.call("POST", "/api/resume", token=http.admin).body["paused_at"] is None
    health = http.call("GET", "/api/health").body
    assert (health["status"], health["paused_at"]) == ("ok", None)
    assert agent.call("POST", "/replicas", {}, token=http.admin).status == 202


@pytest.mark.parametrize("path", ["/api/pause", "/api/resume", "/api/agents/{}/pause", "/api/agents/{}/resume"])
def test_pausing_is_no_business_of_agents_and_clients(http: Http, agent: Registration, path: str) -> None:
    for token in (agent.token, http.client_token):
        body = {"reason": "x"} if path.endswith("pause") else None
        assert http.call("POST", path.format(agent.agent_id), body, token=token).problem == "Forbidden"


def test_the_settings_of_upkeep_are_changed_within_bounds(http: Http, agent: Registration) -> None:
    changed = agent.call("PATCH", "/config", {"rebalance_threshold": 0.5, "quiet_seconds": 3600}, token=http.admin)
    assert (changed.body["rebalance_threshold"], changed.body["quiet_seconds"]) == (0.5, 3600)
    for field, value in (("rebalance_threshold", 1.5), ("quiet_seconds", 1)):
        refused = agent.call("PATCH", "/config", {field: value}, token=http.admin)
        assert (refused.problem, refused.body["field"]) == ("InvalidRequest", field)
