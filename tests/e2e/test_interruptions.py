"""Spot interruptions, survived: the ledger's own logs say whether anything was lost, and whether two ever served."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from local.market.views import InstanceView
from local.rehearsal import LedgerWorkload, wait_for
from tests.e2e.conftest import LaunchWorkload, a_protected_workload

SLOW_FREEZE = 'HOOK_FREEZE=sleep 3; exec "$PYTHON" -m examples.ledger freeze'


def executions_of(workload: LedgerWorkload) -> list[dict[str, Any]]:
    return [one for one in workload.tenancy.executions() if one["name"].startswith(workload.agent_id)]


def await_open_handover(workload: LedgerWorkload) -> dict[str, Any]:
    return wait_for(
        "a handover is opened",
        lambda: view if (view := workload.view())["handover_state"] == "open" else None,
        seconds=30,
        stands=workload.how_things_stand,
    )


def lives(workload: LedgerWorkload, instance_id: str) -> InstanceView:
    return workload.tenancy.aws.market.instance(instance_id)


def test_the_old_agent_submits_the_tail_of_its_log_before_the_kill(launch_workload: LaunchWorkload) -> None:
    workload = a_protected_workload(launch_workload)
    before = workload.view()
    workload.tenancy.aws.market.interrupt(before["primary_instance_id"], notice_seconds=20)
    workload.await_promotion(above=before["epoch"])
    s3 = workload.tenancy.aws.client("s3")
    bucket = workload.tenancy.outputs["SnapshotsBucket"]

    def tail() -> bytes | None:
        listed = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        keys = [one["Key"] for one in listed if before["primary_instance_id"] in one["Key"]]
        body: bytes | None = s3.get_object(Bucket=bucket, Key=keys[0])["Body"].read() if keys else None
        return body

    content = wait_for("the tail arrives in S3", tail, seconds=20, stands=workload.how_things_stand)
    assert content


def test_one_interruption_reported_six_times_is_one_failover(launch_workload: LaunchWorkload) -> None:
    workload = a_protected_workload(launch_workload)
    before = workload.view()
    primary_id, market = before["primary_instance_id"], workload.tenancy.aws.market
    token = workload.agent_token(primary_id)
    deadline = market.interrupt(primary_id, notice_seconds=25)

    def report() -> int:
        answer = httpx.post(
            f"{workload.tenancy.api_url}/api/agents/{workload.agent_id}/termination-imminent",
            headers={"authorization": f"Bearer {token}"},
            json={"instance_id": primary_id, "termination_time": deadline.isoformat(), "epoch": before["epoch"]},
            timeout=10,
            trust_env=False,
        )
        return answer.status_code

    with ThreadPoolExecutor(4) as pool:
        warnings = [pool.submit(market.publish_warning, primary_id) for _ in range(2)]
        reports = [pool.submit(report) for _ in range(2)]
    for warning in warnings:
        warning.result()
    assert {answer.result() for answer in reports} <= {202, 409}
    after = workload.await_promotion(above=before["epoch"])
    workload.await_acknowledgement(epoch=after["epoch"])
    time.sleep(3)
    assert [one["name"] for one in executions_of(workload)] == [f"{workload.agent_id}-{before['epoch']}-1"]
    assert workload.view()["epoch"] == before["epoch"] + 1
    verdict = workload.verdict()
    assert verdict.is_clean, verdict


def test_a_standby_killed_during_the_handover_leaves_one_primary_and_loses_nothing(
    launch_workload: LaunchWorkload,
) -> None:
    workload = a_protected_workload(launch_workload, settings=(SLOW_FREEZE,))
    before = workload.view()
    standby_id = workload.replicas()[-1]["instance_id"]
    workload.tenancy.aws.market.interrupt(before["primary_instance_id"], notice_seconds=90)
    await_open_handover(workload)
    workload.tenancy.aws.market.kill(standby_id)
    after = workload.await_promotion(above=before["epoch"], seconds=90)
    workload.await_acknowledgement(epoch=after["epoch"])
    assert after["primary_instance_id"] not in (before["primary_instance_id"], standby_id)
    verdict = workload.verdict()
    assert verdict.is_clean, verdict


def test_a_primary_killed_during_the_handover_loses_nothing_that_was_committed(launch_workload: LaunchWorkload) -> None:
    workload = a_protected_workload(launch_workload, settings=(SLOW_FREEZE,))
    before = workload.view()
    workload.tenancy.aws.market.interrupt(before["primary_instance_id"], notice_seconds=90)
    await_open_handover(workload)
    workload.tenancy.aws.market.kill(before["primary_instance_id"])
    after = workload.await_promotion(above=before["epoch"], seconds=60)
    workload.await_acknowledgement(epoch=after["epoch"])
    committed_until = workload.committed_until(after["primary_instance_id"])
    verdict = workload.verdict()
    assert verdict.primaries_at_once_max == 1 and verdict.epochs_in_order and verdict.altered_writes == 0
    lost_although_committed = [
        entry_id for entry_id in verdict.lost_ids if workload.acknowledged_at(entry_id) <= committed_until
    ]
    assert not lost_although_committed
    assert after["epoch"] == before["epoch"] + 1


def test_an_agent_killed_with_sigkill_comes_back_and_serves_on(launch_workload: LaunchWorkload) -> None:
    workload = launch_workload()
    before = workload.view()
    workload.kill_agent(before["primary_instance_id"])
    heartbeat = datetime.now(UTC)
    wait_for(
        "the restarted agent says something",
        lambda: datetime.fromisoformat(workload.view()["last_heartbeat_at"]) > heartbeat + timedelta(seconds=0.5),
        seconds=30,
        stands=workload.how_things_stand,
    )
    assert workload.view()["epoch"] == before["epoch"]
    with contextlib.suppress(TimeoutError):
        workload.await_acknowledgement(epoch=before["epoch"])
    verdict = workload.verdict()
    assert verdict.is_clean, verdict
