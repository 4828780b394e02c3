"""Where an agent should run, over HTTP: the stored decision while it holds, else one that is made now."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.decide_fleet import handler as decide_fleet
from spot_optimizer import wiring
from spot_optimizer.control import deciding
from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.domain.stored_decisions import FRESH_FOR, StoredDecision
from spot_optimizer.domain.writes import Change, Table
from spot_optimizer.errors import ControlPlaneUnavailable
from tests.api.conftest import Http, Registration
from tests.api.market import HERE, THERE, market
from tests.api.test_agents import put

__all__ = ["market"]

PATH = "/switch-recommendation"
pytestmark = pytest.mark.usefixtures("market")


def recommended(agent: Registration, **query: str) -> dict[str, Any]:
    answer = agent.call("GET", PATH, query=query)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def a_decision(agent: Registration, **changes: Any) -> StoredDecision:
    """What would be decided now, as if it had been on schedule, by a model."""
    row = wiring.records().agent(agent.agent_id)
    assert wiring.decisions().latest(agent.agent_id) is None
    made = deciding.recommend(wiring.deciding_plane(), row, anew=False)
    return replace(made, model_version="ses-1", without_model_because="", **changes)


def test_without_a_stored_decision_one_is_made_now_by_the_rule_and_says_so(agent: Registration) -> None:
    told = recommended(agent)
    assert (told["verdict"], told["reason"]) == ("switch", "saves-enough")
    assert (told["pool_id"], told["lifecycle"]) == (THERE, "spot")
    assert (told["current_pool_id"], told["current_lifecycle"], told["epoch"]) == (HERE, "spot", 1)
    assert told["model_version"] is None
    assert told["without_model_because"]
    assert told["risk_basis"] == "worst-band"
    assert 0.015 < float(told["saving_usd_per_hour"]) < 0.025
    assert 40 < told["saving_percent"] < 60
    assert told["age_seconds"] < 10
    assert [(one["pool_id"], one["lifecycle"]) for one in told["offers"]] == [
        (THERE, "spot"),
        (HERE, "spot"),
        (HERE, "on-demand"),
        (THERE, "on-demand"),
    ]
    assert all(one["risk_note"] for one in told["offers"])
    assert wiring.decisions().latest(agent.agent_id) is None, "who looks writes nothing"


def test_the_list_of_pools_judges_a_pools_risk_as_the_recommendation_does(agent: Registration) -> None:
    for pool_id in (HERE, THERE):
        band = AdvisorBand.FROM_10_TO_15_PERCENT
        wiring.prices().note_pools([Change(Table.POOLS, (pool_id,), "band", put={"advisor_band": int(band)})])
    offered = {one["pool_id"]: one for one in recommended(agent)["offers"] if one["lifecycle"] == "spot"}
    listed = {one["pool_id"]: one for one in agent.call("GET", "/pools").body["pools"]}
    considered = agent.call("POST", "/replicas", {}, token=agent.http.admin).body["considered"]
    for one in (*(listed[pool_id] for pool_id in (HERE, THERE)), *considered):
        assert one["risk_within_1h"] == offered[one["pool_id"]]["risk_within_1h"]
        assert "advisor band 2" in one["risk_note"]


def test_the_stored_decision_is_told_with_its_age_and_its_model(agent: Registration) -> None:
    made_at = datetime.now(UTC) - timedelta(minutes=6)
    wiring.decisions().keep([a_decision(agent, decided_at=made_at, explanation="as it was then")])
    told = recommended(agent)
    assert (told["model_version"], told["without_model_because"]) == ("ses-1", "")
    assert told["explanation"] == "as it was then"
    assert 350 < told["age_seconds"] < 420


def test_asked_anew_what_decides_is_asked_and_what_it_kept_is_told(
    http: Http, agent: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiring.decisions().keep([a_decision(agent, explanation="of a minute ago")])

    class Decider:
        def decide_now(self, agent_id: str) -> datetime:
            told = decide_fleet.handle({"agent_ids": [agent_id]}, http.context)
            assert json.loads(json.dumps(told)) == told
            return datetime.fromisoformat(told["decided_at"])

    monkeypatch.setattr(wiring, "decider", Decider)
    anew = recommended(agent, anew="true")
    assert anew["explanation"] != "of a minute ago"
    assert "NoModelLive" in anew["without_model_because"]
    kept = wiring.decisions().latest(agent.agent_id)
    assert kept is not None and kept.explanation == anew["explanation"]


def test_asked_anew_of_what_does_not_answer_the_rule_answers_and_says_so(
    agent: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Decider:
        def decide_now(self, agent_id: str) -> datetime:
            raise ControlPlaneUnavailable(f"nothing was decided for {agent_id}")

    monkeypatch.setattr(wiring, "decider", Decider)
    told = recommended(agent, anew="true")
    assert told["verdict"] == "switch"
    assert told["without_model_because"] == f"nothing was decided for {agent.agent_id}"
    assert told["without_model_because"] in told["risk_note"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"decided_at": datetime.now(UTC) - FRESH_FOR - timedelta(minutes=5)}, id="old"),
        pytest.param({"epoch": 7}, id="of another epoch"),
        pytest.param({"current_pool_id": THERE}, id="of another place"),
    ],
)
def test_a_decision_that_must_not_be_acted_upon_is_not_told(agent: Registration, changes: dict[str, Any]) -> None:
    wiring.decisions().keep([a_decision(agent, **changes)])
    assert recommended(agent)["model_version"] is None


def test_who_may_see_the_agent_sees_the_recommendation_and_nobody_else(http: Http, agent: Registration) -> None:
    for token in (http.admin, http.client_token, agent.token):
        assert agent.call("GET", PATH, token=token).status == 200
    put(Table.AGENTS, agent.agent_id, client_id="globex")
    refused = agent.call("GET", PATH, token=http.client_token)
    assert (refused.status, refused.problem) == (404, "AgentUnknown")


def test_nothing_is_recommended_for_an_agent_that_is_lost(agent: Registration) -> None:
    put(Table.AGENTS, agent.agent_id, lost=True)
    refused = agent.call("GET", PATH)
    assert (refused.status, refused.problem) == (409, "AgentLost")


@pytest.mark.parametrize(
    ("path", "query", "status", "problem"),
    [
        ("/api/agents/agt-none/switch-recommendation", {}, 404, "AgentUnknown"),
        ("/api/agents/@@/switch-recommendation", {}, 422, "InvalidRequest"),
        ("/api/agents/agt-none/switch-recommendation", {"anew": "perhaps"}, 422, "InvalidRequest"),
    ],
)
def test_a_bad_question_is_refused(http: Http, path: str, query: dict[str, str], status: int, problem: str) -> None:
    answer = http.call("GET", path, token=http.admin, query=query)
    assert (answer.status, answer.problem) == (status, problem)


def test_what_a_second_of_outage_is_worth_is_the_operators_to_say(http: Http, agent: Registration) -> None:
    assert recommended(agent)["failover"]["usd_per_outage_second"] == "0.01"
    changed = agent.call("PATCH", "/config", {"usd_per_outage_second": 2.5}, token=http.admin)
    assert (changed.status, changed.body["usd_per_outage_second"]) == (200, 2.5)
    dear = recommended(agent)
    assert dear["failover"]["usd_per_outage_second"] == "2.5"
    assert float(dear["offers"][0]["expected_usd_per_hour"]) > float(dear["offers"][0]["usd_per_hour"])
    for worth in (-1, 10_001, "much"):
        refused = agent.call("PATCH", "/config", {"usd_per_outage_second": worth}, token=http.admin)
        assert (refused.status, refused.body["field"]) == (422, "usd_per_outage_second")
