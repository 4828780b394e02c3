"""Workloads moved on purpose on the running product: as an operator asks, and back to spot by themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from local.rehearsal import LedgerWorkload, Tenancy, wait_for
from tests.e2e.conftest import LaunchWorkload

HOUR_AGO = timedelta(hours=1)


def of_agent(workload: LedgerWorkload, below: str = "") -> str:
    return f"/api/agents/{workload.agent_id}{below}"


def switches(workload: LedgerWorkload) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workload.tenancy.get("/api/switches", agent_id=workload.agent_id)["switches"]
    return found


def switch(workload: LedgerWorkload, **command: Any) -> dict[str, Any]:
    """Move the workload as an operator; the switch as it is recorded."""
    before = workload.view()
    asked = workload.tenancy.post(of_agent(workload, "/issue-switch-command"), {"reason": "a drill", **command})
    after = workload.await_promotion(above=before["epoch"], seconds=120)
    workload.await_acknowledgement(epoch=after["epoch"])
    done = switches(workload)[0]
    assert (done["switch_reason"], done["basis"], done["rpo_seconds"]) == ("operator", "final-generation", 0.0)
    assert (done["from_pool_id"], done["explanation"]) == (before["primary_pool_id"], "a drill")
    assert done["to_lifecycle"] == asked["to_lifecycle"]
    for price in ("old_usd_per_hour", "new_usd_per_hour"):
        assert asked[price] is None or Decimal(done[price]) == Decimal(asked[price])
    return done


def an_hour_passes(workload: LedgerWorkload) -> None:
    """Date the last move back, for nobody can wait for an hour here."""
    table = workload.tenancy.aws.client("dynamodb")
    then = {":then": {"S": (datetime.now(UTC) - HOUR_AGO).isoformat(timespec="microseconds")}}
    table.update_item(
        TableName=workload.tenancy.outputs["SwitchesTable"],
        Key={"agent_id": {"S": workload.agent_id}, "switch_id": {"S": f"{workload.view()['epoch']:010d}"}},
        UpdateExpression="SET switched_at = :then",
        ExpressionAttributeValues=then,
    )
    table.update_item(
        TableName=workload.tenancy.outputs["AgentsTable"],
        Key={"agent_id": {"S": workload.agent_id}},
        UpdateExpression="SET last_failover_at = :then, registered_at = :then",
        ExpressionAttributeValues=then,
    )


def consider(workload: LedgerWorkload) -> dict[str, Any]:
    """Run a round of the schedule; what came of this agent."""
    machines = workload.tenancy.aws.client("stepfunctions")
    machine = workload.tenancy.outputs["SwitchAgentsStateMachineArn"]
    execution = machines.start_execution(stateMachineArn=machine, input="{}")["executionArn"]

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = machines.describe_execution(executionArn=execution)
        return found if found["status"] != "RUNNING" else None

    round_ = wait_for("the round ends", ended, seconds=60)
    assert round_["status"] == "SUCCEEDED", round_
    outcomes = [outcome["value"] for outcome in json.loads(round_["output"])["considered"]["outcomes"]]
    return next(outcome for outcome in outcomes if outcome["agent_id"] == workload.agent_id)


def invoke(tenancy: Tenancy, function: str, **event: str) -> dict[str, int]:
    """Run a function as its schedule does."""
    answer = tenancy.aws.client("lambda").invoke(
        FunctionName=tenancy.outputs[f"{function}FunctionName"], Payload=json.dumps(event).encode()
    )
    done: dict[str, int] = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, done
    return done


def test_a_planned_switch_under_load_loses_nothing(launch_workload: LaunchWorkload) -> None:
    workload = launch_workload()
    there = next(
        pool["pool_id"] for pool in workload.tenancy.get(of_agent(workload, "/pools"))["pools"] if pool["qualifies"]
    )
    first = switch(workload, pool_id=there)
    assert (first["to_pool_id"], first["to_lifecycle"]) == (there, "spot")
    # And from there to on-demand, in the very same pool.
    second = switch(workload, pool_id=there, lifecycle="on-demand")
    assert (second["to_pool_id"], second["to_lifecycle"]) == (there, "on-demand")
    now = workload.view()
    assert (now["epoch"], now["active_replica_id"]) == (3, None)
    assert not [replica for replica in workload.replicas() if replica["status"] == "ready"], "the old ones are retired"
    assert workload.verdict().is_clean, workload.verdict()
    workload.tenancy.patch(of_agent(workload, "/config"), {"auto_switch": False})


def test_after_a_fallback_to_on_demand_a_workload_returns_to_spot_by_itself(launch_workload: LaunchWorkload) -> None:
    # Pools of its own: those that other tests' notices struck are in cooldown.
    workload = launch_workload(instance_types=("r6i.large", "r6i.xlarge"))
    market, before = workload.tenancy.aws.market, workload.view()
    market.set_capacity(None, available=False, lifecycle="spot")
    try:
        market.interrupt(before["primary_instance_id"], notice_seconds=100)
        fallen = workload.await_promotion(above=before["epoch"], seconds=120)
    finally:
        market.set_capacity(None, available=True)
    [fallback] = switches(workload)
    assert fallback["to_lifecycle"] == "on-demand"
    held = consider(workload)
    assert held["begun"] is False and "stayed-too-shortly" in f"{held['reason']} {held['explanation']}", held
    an_hour_passes(workload)
    begun = consider(workload)
    assert (begun["begun"], begun["reason"]) == (True, "auto-switch"), begun
    after = workload.await_promotion(above=fallen["epoch"], seconds=120)
    workload.await_acknowledgement(epoch=after["epoch"])
    back = switches(workload)[0]
    assert (back["switch_reason"], back["basis"], back["rpo_seconds"]) == ("auto-switch", "final-generation", 0.0)
    assert back["to_lifecycle"] == "spot"
    assert back["to_pool_id"] != before["primary_pool_id"], "that pool is in cooldown"
    # The fallback is over, so that what it came to is known.
    invoke(workload.tenancy, "CollectPrices")
    assert invoke(workload.tenancy, "SwitchAgents", task="RealiseSavings")["realised"] >= 1
    realised = next(one for one in switches(workload) if one["switch_id"] == fallback["switch_id"])
    assert float(realised["estimated_savings"]) < 0 and float(realised["realised_savings"]) < 0, realised
    assert realised["realised_seconds"] >= HOUR_AGO.total_seconds()
    assert workload.verdict().is_clean, workload.verdict()
