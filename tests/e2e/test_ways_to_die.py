"""Ways in which machines, agents and the control plane fail, each survived as promised; the ledger's logs judge."""

from __future__ import annotations

import time
from pathlib import Path

from examples.ledger.audit import Audit
from local.rehearsal import LedgerWorkload
from tests.e2e.conftest import LaunchWorkload, a_protected_workload

LONGEST_PROMISED_LOSS_NS = 2_000_000_000
"""Two sync intervals of a second each, before the last sign of life."""


def processes(workload: LedgerWorkload, instance_id: str, *commands: str) -> list[int]:
    """The agent's and the workload's processes on an instance, without those that guard them."""
    found = []
    for pid in workload.tenancy.aws.market.instance(instance_id).pids:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
        if any(part in command for part in commands):
            found.append(pid)
    return found


def assert_never_two_served(verdict: Audit) -> None:
    assert verdict.primaries_at_once_max == 1, verdict
    assert verdict.epochs_in_order, verdict
    assert verdict.altered_writes == 0 and verdict.acknowledged_while_closed == 0, verdict


def assert_lost_at_most_what_is_promised(workload: LedgerWorkload, verdict: Audit, *, until_ns: int) -> None:
    lost_at = [workload.acknowledged_at(entry_id) for entry_id in verdict.lost_ids]
    assert all(until_ns - at <= LONGEST_PROMISED_LOSS_NS for at in lost_at), verdict


def test_a_host_that_hangs_and_comes_back_finds_that_its_epoch_is_over(launch_workload: LaunchWorkload) -> None:
    workload = a_protected_workload(launch_workload)
    before = workload.view()
    hung_at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    workload.tenancy.aws.market.stall(before["primary_instance_id"])
    after = workload.await_promotion(above=before["epoch"])
    workload.await_acknowledgement(epoch=after["epoch"])
    workload.tenancy.aws.market.resume(before["primary_instance_id"])
    time.sleep(3)
    verdict = workload.verdict()
    assert_never_two_served(verdict)
    assert_lost_at_most_what_is_promised(workload, verdict, until_ns=hung_at)


def test_a_killed_agent_with_a_standby_comes_back_under_the_same_epoch(launch_workload: LaunchWorkload) -> None:
    workload = a_protected_workload(launch_workload)
    before = workload.view()
    workload.kill_agent(before["primary_instance_id"])
    time.sleep(8)
    verdict = workload.verdict()
    assert_never_two_served(verdict)
    if workload.view()["epoch"] == before["epoch"]:
        assert verdict.is_clean, verdict


def test_with_the_control_plane_down_a_primary_in_touch_with_its_standby_serves_on(
    launch_workload: LaunchWorkload,
) -> None:
    workload = a_protected_workload(launch_workload)
    before = workload.view()
    market = workload.tenancy.aws.market
    market.set_api_reachable(False)
    try:
        written = workload.client.acknowledged
        time.sleep(15)
        assert workload.client.acknowledged > written
    finally:
        market.set_api_reachable(True)
    assert workload.view()["epoch"] == before["epoch"]
    verdict = workload.verdict()
    assert verdict.is_clean, verdict
