"""An operator's controls on the running product: recommendations judged, replicas by hand, planned switches."""

from __future__ import annotations

import json
import os
from typing import Any

from local.rehearsal import LedgerWorkload, wait_for
from tests.e2e.conftest import LaunchWorkload


def agent_path(workload: LedgerWorkload, below: str = "") -> str:
    return f"/api/agents/{workload.agent_id}{below}"


def recommendations(workload: LedgerWorkload) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workload.tenancy.get(
        "/api/interruptions", agent_id=str(workload.agent_id), signal_type="rebalance-recommendation"
    )["interruptions"]
    return found


def test_a_rebalance_below_the_threshold_is_watched_and_above_it_makes_a_standby_that_can_be_let_go(
    launch_workload: LaunchWorkload,
) -> None:
    workload = launch_workload()
    tenancy = workload.tenancy
    tenancy.patch(agent_path(workload, "/config"), {"rebalance_threshold": 0.99})
    tenancy.aws.market.recommend_rebalance(workload.primary_id)
    [watched] = wait_for("it is recorded", lambda: recommendations(workload), seconds=30)
    assert watched["response_action"] == "watch"
    assert not workload.replicas()
    tenancy.patch(agent_path(workload, "/config"), {"rebalance_threshold": 0.01, "auto_replica": False})
    started = tenancy.post(agent_path(workload, "/create-emergency-replica"), {"instance_id": workload.primary_id})
    assert "is above 0.01" in started["reason"]
    standby = workload.await_ready_standby()
    assert (standby["replica_id"], standby["type"]) == (started["replica_id"], "automatic-rebalance")
    ended = tenancy.delete(agent_path(workload, f"/replicas/{standby['replica_id']}"))
    assert ended["status"] == "terminated"
    wait_for(
        "its instance is terminated",
        lambda: tenancy.aws.market.instance(standby["instance_id"]).state == "terminated",
        seconds=30,
    )
    workload.await_acknowledgement(epoch=1)
    assert workload.verdict().is_clean, workload.verdict()


def test_a_manual_replica_passes_over_three_pools_without_capacity_and_a_planned_switch_loses_nothing(
    launch_workload: LaunchWorkload,
) -> None:
    workload = launch_workload()
    tenancy, market = workload.tenancy, workload.tenancy.aws.market
    examined = tenancy.post(agent_path(workload, "/doctor"), {})
    seen = {(finding["check"], finding["outcome"]) for finding in examined["findings"]}
    assert {("launch template", "ok"), ("subnets", "ok"), ("quotas", "ok"), ("dry-run launch", "ok")} <= seen, examined
    assert not [finding for finding in examined["findings"] if finding["outcome"] == "failed"], examined
    pools = tenancy.get(agent_path(workload, "/pools"))["pools"]
    empty = [pool for pool in pools if pool["qualifies"]][:3]
    assert len(empty) == 3
    for pool in empty:
        market.set_capacity(f"{pool['availability_zone']}/{pool['instance_type']}", available=False)
    try:
        asked = tenancy.post(agent_path(workload, "/replicas"), {})
        assert [pool["pool_id"] for pool in asked["considered"]] == [pool["pool_id"] for pool in pools]
        standby = workload.await_ready_standby()
    finally:
        market.set_capacity(None, available=True)
    assert [attempt["pool_id"] for attempt in standby["attempts"][:3]] == [pool["pool_id"] for pool in empty]
    assert all("Capacity" in attempt["outcome"] for attempt in standby["attempts"][:3])
    tenancy.post(agent_path(workload, f"/replicas/{standby['replica_id']}/promote"), {"reason": "a better pool"})
    after = workload.await_promotion(above=1)
    workload.await_acknowledgement(epoch=after["epoch"])
    [switch] = tenancy.get("/api/switches", agent_id=str(workload.agent_id))["switches"]
    assert (switch["switch_reason"], switch["basis"], switch["rpo_seconds"]) == ("operator", "final-generation", 0.0)
    assert switch["to_pool_id"] == after["primary_pool_id"] == standby["pool_id"]
    assert workload.verdict().is_clean, workload.verdict()


def test_a_quota_error_is_passed_over_in_every_spot_pool_and_the_replica_is_on_demand(
    launch_workload: LaunchWorkload,
) -> None:
    workload = launch_workload(instance_types=("c6i.large",))
    tenancy, market = workload.tenancy, workload.tenancy.aws.market
    market.set_capacity("*/c6i.large", available=False, error_code="MaxSpotInstanceCountExceeded")
    try:
        tenancy.post(agent_path(workload, "/replicas"), {})
        standby = workload.await_ready_standby()
    finally:
        market.set_capacity("*/c6i.large", available=True)
    refused, launched = standby["attempts"][:-1], standby["attempts"][-1]
    assert refused
    assert all("MaxSpotInstanceCountExceeded" in attempt["outcome"] for attempt in refused)
    assert (launched["lifecycle"], tenancy.aws.market.instance(standby["instance_id"]).lifecycle) == (
        "on-demand",
        "on-demand",
    )
    assert workload.verdict().is_clean, workload.verdict()


BALLAST_BYTES = 8_000_000


def sent_to_its_standby(workload: LedgerWorkload, instance_id: str) -> int:
    """Bytes that went over the wire until the standby of this primary held the state, by the primary's own log."""
    log = workload.tenancy.aws.market.instance(instance_id).disk / "agent-state" / "agent.log"
    said = [json.loads(line) for line in log.read_text().splitlines() if '"the standby holds the state"' in line]
    return int(said[-1]["sent_bytes"])


def test_a_manual_replica_is_promoted_and_the_old_primary_demoted_back_and_forth_ten_times_without_a_full_copy(
    launch_workload: LaunchWorkload,
) -> None:
    # Pools of its own: nobody is demoted into one that another test's notice has just struck.
    workload = launch_workload(instance_types=("c6i.xlarge", "c6i.2xlarge"))
    tenancy, market = workload.tenancy, workload.tenancy.aws.market
    first = workload.primary_id
    carried = market.instance(first).disk / "ledger" / "image"
    wait_for("the first image is taken", carried.is_dir, seconds=60)
    (carried / "ballast").write_bytes(os.urandom(BALLAST_BYTES))
    tenancy.post(agent_path(workload, "/replicas"), {})
    standby = workload.await_ready_standby()
    assert sent_to_its_standby(workload, first) > BALLAST_BYTES
    both = {first, standby["instance_id"]}
    for epoch in range(2, 12):
        old = workload.primary_id
        tenancy.post(agent_path(workload, f"/replicas/{standby['replica_id']}/promote"), {"demote_old_primary": True})
        after = workload.await_promotion(above=epoch - 1)
        standby = workload.await_ready_standby()
        assert {old, after["primary_instance_id"]} == {standby["instance_id"], after["primary_instance_id"]} == both
        assert sent_to_its_standby(workload, after["primary_instance_id"]) < BALLAST_BYTES / 10
    workload.await_acknowledgement(epoch=11)
    switches = tenancy.get("/api/switches", agent_id=str(workload.agent_id))["switches"]
    assert [switch["old_primary"] for switch in switches] == ["demoted"] * 10
    assert {(switch["basis"], switch["rpo_seconds"]) for switch in switches} == {("final-generation", 0.0)}
    assert workload.verdict().is_clean, workload.verdict()
