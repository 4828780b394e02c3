"""The demo, loaded through the adapters and read through the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spot_optimizer import wiring
from spot_optimizer.control import signals
from spot_optimizer.demo_data import loading
from spot_optimizer.demo_data.__main__ import settings_in
from spot_optimizer.demo_data.loading import TablesInUse
from spot_optimizer.demo_data.scene import demo_pools, is_demo_agent, set_scene
from spot_optimizer.domain.agents import AgentStatus
from spot_optimizer.domain.prices import bucket_of
from spot_optimizer.domain.replicas import ReplicaState
from tests.adapters.tables import REGION
from tests.api.conftest import Http

type Rows = Callable[[], dict[str, Any]]
AN_HOUR = timedelta(hours=1)


def load(now: datetime, *, force: bool = True) -> dict[str, int]:
    return loading.load(region=REGION, now=now, force=force, progress=lambda *_: None, prices_for=AN_HOUR)


@pytest.fixture
def now() -> datetime:
    """In the middle of a bucket, so that a test is never cut in two by the end of one."""
    return datetime.now(UTC).replace(second=30)


def without_signs_of_life(tables: dict[str, Any]) -> dict[str, Any]:
    return {name: items for name, items in tables.items() if "heartbeat" not in name}


def test_it_is_refused_where_others_agents_are_and_changes_nothing(http: Http, rows: Rows, now: datetime) -> None:
    before = rows()
    with pytest.raises(TablesInUse, match="agents that are not the demo's"):
        load(now, force=False)
    assert rows() == before


def test_loaded_twice_it_is_the_same_and_the_second_time_others_agents_are_still_untouched(
    http: Http, rows: Rows, now: datetime
) -> None:
    empty = rows()
    counts = load(now)
    once = rows()
    assert load(now + timedelta(seconds=20)) == counts
    assert without_signs_of_life(rows()) == without_signs_of_life(once)
    for name, items in empty.items():
        assert all(item in once[name] for item in items), name


def test_the_api_shows_it(http: Http, now: datetime) -> None:
    counts = load(now)
    assert (counts["clients"], counts["replicas"], counts["interruptions"], counts["pools"]) == (4, 4, 3, 5)
    models = http.call("GET", "/api/admin/ml-models/sessions", token=http.admin).body["sessions"]
    assert sorted(one["status"] for one in models) == ["pending", "rejected", "superseded"]
    assert http.call("GET", "/api/health").body["model"]["live"] is None
    agents = {agent["agent_id"]: agent for agent in http.call("GET", "/api/agents", token=http.admin).body["agents"]}
    demo = {agent_id: agent for agent_id, agent in agents.items() if is_demo_agent(agent_id)}
    assert [agent["status"] for agent in demo.values()].count(AgentStatus.ONLINE) == 3
    assert demo["agt-demo-reports"]["status"] == AgentStatus.OFFLINE
    assert demo["agt-demo-orders"]["epoch"] == demo["agt-demo-orders"]["traffic_epoch"] == 2
    states = []
    for agent_id in demo:
        listed = http.call("GET", f"/api/agents/{agent_id}/replicas", token=http.admin)
        states += [replica["status"] for replica in listed.body["replicas"]]
    assert sorted(states) == ["failed", "promoted", "ready", "syncing"]
    pools = http.call("GET", "/api/pools", token=http.admin).body["pools"]
    assert {pool.pool_id for pool in demo_pools(REGION)} <= {pool["pool_id"] for pool in pools}
    for pool in demo_pools(REGION)[:-1]:
        answer = http.call("GET", f"/api/pools/{pool.pool_id}/prices", token=http.admin).body
        assert answer["buckets_priced"] == 12
    switches = http.call("GET", "/api/switches", token=http.admin).body["switches"]
    assert [switch["agent_id"] for switch in switches] == ["agt-demo-orders"]
    signals = http.call("GET", "/api/interruptions", token=http.admin, query={"client_id": "demo-bank"})
    assert [one["signal_type"] for one in signals.body["interruptions"]] == ["rebalance-recommendation"]
    clients = http.call("GET", "/api/clients", token=http.admin).body["clients"]
    assert sum(client["client_id"].startswith("demo-") for client in clients) == 4


def test_the_sweep_leaves_the_demo_alone_even_when_it_has_been_silent_for_long(
    http: Http, rows: Rows, now: datetime
) -> None:
    load(now - timedelta(hours=2))
    before = rows()
    swept = signals.sweep(wiring.plane())
    assert swept["silent"] >= 4
    assert swept["acted_upon"] == 0
    assert rows() == before


def test_the_rows_fit_together(now: datetime) -> None:
    scene = set_scene(REGION, now)
    agents = {agent.agent_id: agent for agent in scene.agents}
    instances = {instance.instance_id: instance for instance in scene.instances}
    assert {agent.client_id for agent in scene.agents} == {client.client_id for client in scene.clients}
    for agent in scene.agents:
        assert instances[agent.primary_instance_id].pool_id == agent.primary_pool_id
        assert agent.primary_pool_id in {pool.pool_id for pool in scene.pools}
    for replica in scene.replicas:
        agent = agents[replica.agent_id]
        active = replica.status in (ReplicaState.READY, ReplicaState.SYNCING)
        assert (agent.active_replica_id == replica.replica_id) == active
        if active:
            assert replica.pool_id != agent.primary_pool_id
    for switch in scene.switches:
        assert agents[switch.agent_id].primary_instance_id == switch.to_instance_id
        assert switch.from_pool_id != switch.to_pool_id
    assert all(event.detected_at < now for event in scene.interruptions)


def test_no_demo_replica_is_launching_for_the_sweep_would_launch_it(now: datetime) -> None:
    assert not [one for one in set_scene(REGION, now).replicas if one.status is ReplicaState.LAUNCHING]


def test_a_week_has_about_two_thousand_points_a_pool_and_fixed_gaps_in_the_last(now: datetime) -> None:
    buckets = range(bucket_of(now - loading.PRICES_FOR), bucket_of(now))
    *_, last = demo_pools(REGION)
    whole, gapped = (
        list(loading.demo_prices(last, buckets)),
        list(loading.demo_prices(last, buckets, without=loading.HOLES)),
    )
    assert len(whole) == 2_016
    assert len(gapped) == 2_016 - 27
    later = range(buckets.start + 100, buckets.stop)
    assert list(loading.demo_prices(last, later, without=loading.HOLES)) == [
        row for row in gapped if row.bucket in later
    ]


def test_outputs_as_cdk_writes_them_become_settings() -> None:
    outputs = {
        "spot-optimizer-dev-data": {"AgentsTable": "a", "PricingSnapshotsCleanTable": "c"},
        "spot-optimizer-dev-workflow": {"FailOverStateMachineArn": "arn:aws:states:eu-west-1:1:stateMachine:f"},
    }
    assert settings_in(json.loads(json.dumps(outputs))) == {
        "AGENTS_TABLE": "a",
        "PRICING_SNAPSHOTS_CLEAN_TABLE": "c",
        "FAIL_OVER_STATE_MACHINE_ARN": "arn:aws:states:eu-west-1:1:stateMachine:f",
        "AWS_REGION": "eu-west-1",
    }
