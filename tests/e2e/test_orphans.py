"""What nobody claims, on the running product: found, reported, ended after its grace, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from local.rehearsal import LedgerWorkload, Tenancy, wait_for
from tests.e2e.conftest import LaunchWorkload, a_protected_workload

GRACE_SECONDS = 4


@pytest.fixture
def short_grace(tenancy: Tenancy) -> Iterator[None]:
    """An operator has the sweep wait for seconds instead of minutes."""
    functions = tenancy.aws.client("lambda")
    name = tenancy.outputs["SweepOrphansFunctionName"]
    before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    short = {"ORPHAN_GRACE_SECONDS": str(GRACE_SECONDS), "ORPHAN_VOLUME_GRACE_SECONDS": str(GRACE_SECONDS)}
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": before | short})
    yield
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": before})


def sweep(tenancy: Tenancy) -> dict[str, Any]:
    answer = tenancy.aws.client("lambda").invoke(FunctionName=tenancy.outputs["SweepOrphansFunctionName"])
    body = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, body
    swept: dict[str, Any] = body
    return swept


def tagged(kind: str, workload: LedgerWorkload) -> list[dict[str, Any]]:
    tags = {"spot-optimizer:agent": workload.agent_id, "spot-optimizer:replica": "rep-of-a-lost-answer"}
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


def a_stray(workload: LedgerWorkload, image_id: str) -> str:
    """An instance that was launched for a replica, and whose launch no row knows."""
    launched = workload.tenancy.aws.client("ec2").run_instances(
        ImageId=image_id,
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        InstanceMarketOptions={"MarketType": "spot"},
        TagSpecifications=tagged("instance", workload),
    )
    stray_id = str(launched["Instances"][0]["InstanceId"])
    wait_for("it runs", lambda: state_of(workload, stray_id) == "running", seconds=30)
    return stray_id


def state_of(workload: LedgerWorkload, instance_id: str) -> str:
    return workload.tenancy.aws.market.instance(instance_id).state


def listed(tenancy: Tenancy) -> dict[str, dict[str, Any]]:
    return {one["resource_id"]: one for one in tenancy.get("/api/orphans")["orphans"]}


def test_an_orphan_is_swept_with_its_volume_and_address_and_nothing_that_is_somebodys(
    launch_workload: LaunchWorkload, short_grace: None
) -> None:
    workload = a_protected_workload(launch_workload)
    tenancy, market = workload.tenancy, workload.tenancy.aws.market
    ec2 = tenancy.aws.client("ec2")
    market.register_image("ami-0stray", ["sleep", "600"])
    stray, noticed = a_stray(workload, "ami-0stray"), a_stray(workload, "ami-0stray")
    market.interrupt(noticed, notice_seconds=100)
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=8, TagSpecifications=tagged("volume", workload))[
        "VolumeId"
    ]

    assert sweep(tenancy)["ended"] == []
    found = listed(tenancy)
    assert {found[one]["finding"] for one in (stray, volume)} == {"orphan"}
    assert "AWS has given notice" in found[noticed]["reason"]
    ours = {workload.primary_id} | {str(replica["instance_id"]) for replica in workload.replicas()}
    assert not ours & found.keys()

    paused = f"/api/agents/{workload.agent_id}"
    tenancy.post(f"{paused}/pause", {"reason": "looking into it"})
    wait_for("the grace is over", lambda: "looking into it" in kept_because(tenancy, stray), seconds=60)
    assert state_of(workload, stray) == "running"
    tenancy.post(f"{paused}/resume", {})

    ended = wait_for("they are ended", lambda: sweep(tenancy)["ended"], seconds=60)
    assert set(ended) == {stray, volume}
    wait_for("it is terminated", lambda: state_of(workload, stray) == "terminated", seconds=30)
    assert not ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume]}])["Volumes"]
    assert {one["resource_id"] for one in tenancy.get("/api/orphans")["ended"]} == {stray, volume}

    address = ec2.allocate_address(TagSpecifications=tagged("elastic-ip", workload))["AllocationId"]
    assert sweep(tenancy)["ended"] == []
    assert wait_for("it is released", lambda: sweep(tenancy)["ended"], seconds=60) == [address]

    strays = [a_stray(workload, "ami-0stray") for _ in range(3)]
    halted = wait_for("more than the limit is due", lambda: sweep(tenancy)["halted_because"], seconds=60)
    assert "one sweep ends 2 at most" in halted
    assert {state_of(workload, one) for one in strays} == {"running"}
    assert tenancy.get("/api/orphans")["halted_because"] == halted
    ec2.terminate_instances(InstanceIds=[*strays, noticed])

    assert {state_of(workload, one) for one in ours} == {"running"}
    workload.await_acknowledgement(epoch=1)
    assert workload.verdict().is_clean, workload.verdict()


def kept_because(tenancy: Tenancy, resource_id: str) -> str:
    sweep(tenancy)
    return str(listed(tenancy)[resource_id]["reason"])
