from __future__ import annotations

import base64
import json
import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local import LocalAws
from local.market.client import LeverRefused
from tests.local.conftest import SLEEPER, Builder, eventually

A_RESTLESS_TREE = """
    import os, subprocess, sys, time
    open("from-the-first", "w").write("")
    child = "import os, time; os.setsid(); open('from-the-daemon', 'w').write(''); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", f"import os; os.fork() or exec({child!r})"])
    time.sleep(600)
"""


@pytest.fixture
def open_market(aws: LocalAws) -> Any:
    yield
    for lifecycle in ("spot", "on-demand"):
        aws.market.set_capacity(None, available=True, lifecycle=lifecycle)


def test_an_instance_is_pending_before_it_runs(aws: LocalAws, build: Builder) -> None:
    aws.market.set_boot_seconds(1)
    try:
        instance = build.an_instance(wait=False)
    finally:
        aws.market.set_boot_seconds(0.1)
    assert (instance.state, instance.pids) == ("pending", ())
    assert build.await_state(instance.instance_id, "running").pids


def test_an_instance_runs_its_image_on_its_own_disk(aws: LocalAws, build: Builder, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("deep")
    image = f"ami-{uuid.uuid4().hex[:17]}"
    aws.market.register_image(
        image,
        ["sh", "-c", "cat greeting folder/inside; echo $INSTANCE_DISK $HOME $PWD $COLOUR; sleep 600"],
        env={"COLOUR": "blue"},
        files={"greeting": "hello\n", "folder": tmp_path / "folder"},
    )
    instance = build.an_instance(image=image)
    disk = instance.disk
    printed = eventually(lambda: instance.log.read_text() if "blue" in instance.log.read_text() else "")
    assert printed == f"hello\ndeep{disk} {disk} {disk} blue\n"


def test_an_instance_outlives_its_first_program(build: Builder) -> None:
    instance = build.an_instance(image=build.an_image("print('done')"))
    eventually(lambda: "done" in instance.log.read_text())
    time.sleep(0.2)
    assert build.aws.market.instance(instance.instance_id).state == "running"


def test_an_unknown_image_is_refused(build: Builder) -> None:
    with pytest.raises(ClientError, match="InvalidAMIID.NotFound"):
        build.an_instance(image="ami-of-nobody")


def test_a_noticed_instance_is_killed_whole_exactly_at_the_notices_time(aws: LocalAws, build: Builder) -> None:
    instance = build.an_instance(image=build.an_image(A_RESTLESS_TREE))
    eventually(lambda: (instance.disk / "from-the-daemon").exists())
    pids = aws.market.instance(instance.instance_id).pids
    assert len(pids) >= 2
    at = aws.market.interrupt(instance.instance_id, notice_seconds=0.5)
    assert at.microsecond == 0
    while datetime.now(UTC) < at - timedelta(milliseconds=20):
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        time.sleep(0.005)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), within_seconds=1)
    assert (datetime.now(UTC) - at).total_seconds() < 0.5
    ended = build.await_state(instance.instance_id, "terminated")
    assert ended.reason == "Server.SpotInstanceTermination"
    assert not ended.disk.exists()


def test_sudden_death_takes_processes_that_left_their_session(aws: LocalAws, build: Builder) -> None:
    instance = build.an_instance(image=build.an_image(A_RESTLESS_TREE))
    eventually(lambda: (instance.disk / "from-the-daemon").exists())
    pids = aws.market.instance(instance.instance_id).pids
    aws.market.kill(instance.instance_id)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    build.await_state(instance.instance_id, "terminated")


def test_an_instance_dies_even_when_its_guard_was_killed(aws: LocalAws, build: Builder) -> None:
    instance = build.an_instance(image=build.an_image(A_RESTLESS_TREE))
    eventually(lambda: (instance.disk / "from-the-daemon").exists())
    pids = aws.market.instance(instance.instance_id).pids
    stat = Path(f"/proc/{pids[0]}/stat").read_text()
    os.kill(int(stat[stat.rindex(")") + 2 :].split()[1]), 9)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_termination_is_an_orderly_shutdown(aws: LocalAws, build: Builder) -> None:
    image = build.an_image(
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), sys.exit(0)))
        print("ready", flush=True)
        time.sleep(600)
        """
    )
    instance = build.an_instance(image=image)
    eventually(lambda: "ready" in instance.log.read_text())
    answer = aws.client("ec2").terminate_instances(InstanceIds=[instance.instance_id])["TerminatingInstances"][0]
    assert (answer["PreviousState"]["Name"], answer["CurrentState"]["Name"]) == ("running", "shutting-down")
    ended = build.await_state(instance.instance_id, "terminated")
    assert "goodbye" in instance.log.read_text()
    assert ended.reason == "Client.UserInitiatedShutdown"


def test_a_terminated_pending_instance_never_boots(aws: LocalAws, build: Builder) -> None:
    image = build.an_image("print('booted', flush=True)")
    aws.market.set_boot_seconds(30)
    try:
        instance = build.an_instance(image=image, wait=False)
    finally:
        aws.market.set_boot_seconds(0.1)
    aws.client("ec2").terminate_instances(InstanceIds=[instance.instance_id])
    build.await_state(instance.instance_id, "terminated")
    assert not instance.log.exists()


def test_a_stalled_instance_stands_still_and_goes_on(aws: LocalAws, build: Builder) -> None:
    ticking = "import time\nwhile True: print(time.time(), flush=True); time.sleep(0.02)"
    instance = build.an_instance(image=build.an_image(ticking))
    eventually(lambda: instance.log.exists() and instance.log.stat().st_size)
    aws.market.stall(instance.instance_id)
    time.sleep(0.1)
    size = instance.log.stat().st_size
    time.sleep(0.3)
    assert instance.log.stat().st_size == size
    aws.market.resume(instance.instance_id)
    eventually(lambda: instance.log.stat().st_size > size)


def test_an_on_demand_instance_cannot_be_interrupted(aws: LocalAws, build: Builder) -> None:
    instance = build.an_instance(spot=False)
    with pytest.raises(LeverRefused, match="not a running spot instance"):
        aws.market.interrupt(instance.instance_id)


def test_filters_tell_spot_from_on_demand(aws: LocalAws, build: Builder) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "group", "Value": uuid.uuid4().hex}]}]
    spot, on_demand = build.an_instance(TagSpecifications=tags), build.an_instance(spot=False, TagSpecifications=tags)
    mine = {"Name": "tag:group", "Values": [tags[0]["Tags"][0]["Value"]]}  # type: ignore[index]

    def found(*filters: dict[str, Any]) -> set[str]:
        pages = aws.client("ec2").get_paginator("describe_instances").paginate(Filters=[mine, *filters])
        return {each["InstanceId"] for page in pages for one in page["Reservations"] for each in one["Instances"]}

    assert found() == {spot.instance_id, on_demand.instance_id}
    assert found({"Name": "instance-lifecycle", "Values": ["spot"]}) == {spot.instance_id}
    assert found({"Name": "instance-state-name", "Values": ["terminated"]}) == set()
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        found({"Name": "no-such-filter", "Values": ["x"]})


def test_tags_are_created_and_described(aws: LocalAws, build: Builder) -> None:
    ec2, instance = aws.client("ec2"), build.an_instance()
    ec2.create_tags(Resources=[instance.instance_id], Tags=[{"Key": "role", "Value": "standby"}])
    described = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance.instance_id]}])["Tags"]
    assert [(tag["Key"], tag["Value"], tag["ResourceType"]) for tag in described] == [("role", "standby", "instance")]
    assert aws.market.instance(instance.instance_id).tags == {"role": "standby"}
    with pytest.raises(ClientError, match="InvalidInstanceID.NotFound"):
        ec2.create_tags(Resources=["i-0123456789abcdef0"], Tags=[{"Key": "role", "Value": "ghost"}])


def test_a_dry_run_launches_nothing(aws: LocalAws, build: Builder) -> None:
    before = len(aws.market.instances())
    with pytest.raises(ClientError, match="DryRunOperation"):
        build.an_instance(DryRun=True)
    assert len(aws.market.instances()) == before


class TestFleets:
    def a_template(self, aws: LocalAws, **data: Any) -> str:
        answer = aws.client("ec2").create_launch_template(
            LaunchTemplateName=f"template-{uuid.uuid4().hex[:8]}",
            LaunchTemplateData={"ImageId": SLEEPER, "InstanceType": "m5.large", **data},
        )
        template: str = answer["LaunchTemplate"]["LaunchTemplateId"]
        return template

    def subnets(self, aws: LocalAws) -> dict[str, str]:
        return {each["AvailabilityZone"]: each["SubnetId"] for each in aws.client("ec2").describe_subnets()["Subnets"]}

    def a_fleet(
        self, aws: LocalAws, template: str, *pools: tuple[str, str], user_data: str = "", **request: Any
    ) -> dict[str, Any]:
        subnets = self.subnets(aws)
        specification = {"LaunchTemplateId": template, "Version": "$Latest"}
        if user_data:
            specification["LaunchTemplateSpecificationUserData"] = base64.b64encode(user_data.encode()).decode()
        answer: dict[str, Any] = aws.client("ec2").create_fleet(
            **{
                "Type": "instant",
                "LaunchTemplateConfigs": [
                    {
                        "LaunchTemplateSpecification": specification,
                        "Overrides": [
                            {"SubnetId": subnets[zone], "InstanceType": name, "Priority": float(place)}
                            for place, (zone, name) in enumerate(pools)
                        ],
                    }
                ],
                "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
                "SpotOptions": {"AllocationStrategy": "capacity-optimized-prioritized"},
                **request,
            }
        )
        return answer

    def test_a_fleet_falls_through_pools_without_capacity(self, aws: LocalAws, open_market: None) -> None:
        aws.market.set_capacity("us-east-1a/*", available=False)
        aws.market.set_capacity("us-east-1b/c5.large", available=False, error_code="MaxSpotInstanceCountExceeded")
        fleet = self.a_fleet(
            aws,
            self.a_template(aws),
            ("us-east-1a", "m5.large"),
            ("us-east-1b", "c5.large"),
            ("us-east-1c", "r5.large"),
        )
        assert [error["ErrorCode"] for error in fleet["Errors"]] == [
            "InsufficientInstanceCapacity",
            "MaxSpotInstanceCountExceeded",
        ]
        assert fleet["Errors"][0]["LaunchTemplateAndOverrides"]["Overrides"]["InstanceType"] == "m5.large"
        (launched,) = fleet["Instances"]
        view = aws.market.instance(launched["InstanceIds"][0])
        assert (view.pool, view.lifecycle, launched["InstanceType"]) == ("us-east-1c/r5.large", "spot", "r5.large")

    def test_a_fleet_without_any_capacity_succeeds_with_errors_only(self, aws: LocalAws, open_market: None) -> None:
        aws.market.set_capacity(None, available=False)
        fleet = self.a_fleet(aws, self.a_template(aws), ("us-east-1a", "m5.large"))
        assert fleet["Instances"] == []
        assert [error["ErrorCode"] for error in fleet["Errors"]] == ["InsufficientInstanceCapacity"]
        on_demand = {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "on-demand"}
        pool = ("us-east-1a", "m5.large")
        fleet = self.a_fleet(aws, self.a_template(aws), pool, TargetCapacitySpecification=on_demand)
        assert fleet["Instances"][0]["Lifecycle"] == "on-demand"

    def test_capacity_can_be_counted(self, aws: LocalAws, open_market: None) -> None:
        aws.market.set_capacity("us-east-1a/m5.large", available=1)
        template = self.a_template(aws)
        assert self.a_fleet(aws, template, ("us-east-1a", "m5.large"))["Instances"]
        assert not self.a_fleet(aws, template, ("us-east-1a", "m5.large"))["Instances"]

    def test_the_same_token_gives_the_same_fleet(self, aws: LocalAws) -> None:
        template, token = self.a_template(aws), uuid.uuid4().hex
        one = self.a_fleet(aws, template, ("us-east-1a", "m5.large"), ClientToken=token)
        other = self.a_fleet(aws, template, ("us-east-1a", "m5.large"), ClientToken=token)
        assert (one["FleetId"], one["Instances"]) == (other["FleetId"], other["Instances"])
        with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
            self.a_fleet(aws, template, ("us-east-1b", "m5.large"), ClientToken=token)

    def test_user_data_and_tags_of_the_request_reach_the_instance(self, aws: LocalAws, build: Builder) -> None:
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "replica", "Value": "r-1"}]}]
        fleet = self.a_fleet(
            aws, self.a_template(aws), ("us-east-1b", "t3.micro"), user_data="JOIN_TOKEN=abc\n", TagSpecifications=tags
        )
        instance = build.await_state(fleet["Instances"][0]["InstanceIds"][0], "running")
        assert instance.tags["replica"] == "r-1"
        assert read_metadata(instance.metadata_endpoint, "user-data") == "JOIN_TOKEN=abc\n"

    def test_the_cheapest_pool_comes_first_when_price_decides(self, aws: LocalAws) -> None:
        aws.market.set_price("us-east-1a/m5.xlarge", 0.09)
        aws.market.set_price("us-east-1b/m5.xlarge", 0.01)
        fleet = self.a_fleet(
            aws,
            self.a_template(aws),
            ("us-east-1a", "m5.xlarge"),
            ("us-east-1b", "m5.xlarge"),
            SpotOptions={"AllocationStrategy": "price-capacity-optimized"},
        )
        assert aws.market.instance(fleet["Instances"][0]["InstanceIds"][0]).pool == "us-east-1b/m5.xlarge"

    def test_a_price_limit_below_the_market_is_refused(self, aws: LocalAws, build: Builder) -> None:
        with pytest.raises(ClientError, match="SpotMaxPriceTooLow"):
            build.an_instance(
                InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.0001"}}, wait=False
            )


class TestPrices:
    def test_history_starts_with_the_price_in_force(self, aws: LocalAws) -> None:
        now = datetime.now(UTC)
        start = now - timedelta(days=3)
        pages = (
            aws.client("ec2")
            .get_paginator("describe_spot_price_history")
            .paginate(
                InstanceTypes=["r5.large"],
                ProductDescriptions=["Linux/UNIX"],
                AvailabilityZone="us-east-1a",
                StartTime=start,
                EndTime=now,
                PaginationConfig={"PageSize": 2},
            )
        )
        history = [each for page in pages for each in page["SpotPriceHistory"]]
        moments = [each["Timestamp"] for each in history]
        assert moments == sorted(moments, reverse=True)
        assert moments[-1] <= start < moments[-2]
        assert {each["AvailabilityZone"] for each in history} == {"us-east-1a"}
        assert len(history) >= 4

    def test_the_past_does_not_change(self, aws: LocalAws) -> None:
        day = {"StartTime": datetime(2026, 1, 1, tzinfo=UTC), "EndTime": datetime.now(UTC) - timedelta(days=1)}
        ask = {"InstanceTypes": ["c5.large"], "ProductDescriptions": ["Linux/UNIX"], **day}
        one, other = (aws.client("ec2").describe_spot_price_history(**ask)["SpotPriceHistory"] for _ in range(2))
        assert [each["SpotPrice"] for each in one][:-10] == [each["SpotPrice"] for each in other][:-10]

    def test_spot_costs_less_than_on_demand_everywhere(self, aws: LocalAws) -> None:
        history = aws.client("ec2").describe_spot_price_history(
            ProductDescriptions=["Linux/UNIX"], InstanceTypes=["m5.large"]
        )
        assert {each["AvailabilityZone"] for each in history["SpotPriceHistory"]} == {
            f"us-east-1{zone}" for zone in "abc"
        }
        assert all(float(each["SpotPrice"]) < 0.096 for each in history["SpotPriceHistory"])


def test_instance_types_are_described_as_they_are(aws: LocalAws) -> None:
    types = aws.client("ec2").describe_instance_types(InstanceTypes=["m5.large", "g4dn.xlarge"])["InstanceTypes"]
    facts = {
        each["InstanceType"]: (each["VCpuInfo"]["DefaultVCpus"], each["MemoryInfo"]["SizeInMiB"]) for each in types
    }
    assert facts == {"m5.large": (2, 8192), "g4dn.xlarge": (4, 16384)}
    with pytest.raises(ClientError, match="InvalidInstanceType"):
        aws.client("ec2").describe_instance_types(InstanceTypes=["m5.gigantic"])


def test_placement_scores_need_a_choice_of_types(aws: LocalAws) -> None:
    def best(*types: str) -> int:
        answer = aws.client("ec2").get_spot_placement_scores(
            InstanceTypes=list(types), TargetCapacity=1, SingleAvailabilityZone=True, RegionNames=["us-east-1"]
        )
        return max(int(each["Score"]) for each in answer["SpotPlacementScores"])

    assert best("m5.large", "c5.large", "r5.large") > best("m5.large")


def read_metadata(endpoint: str, path: str) -> str:
    import httpx

    token = httpx.put(
        f"{endpoint}/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}, trust_env=False
    ).text
    answer = httpx.get(f"{endpoint}/latest/{path}", headers={"X-aws-ec2-metadata-token": token}, trust_env=False)
    answer.raise_for_status()
    return answer.text


def test_step_functions_launch_through_the_same_market(aws: LocalAws, build: Builder) -> None:
    machine = build.a_state_machine(
        {
            "StartAt": "Launch",
            "States": {
                "Launch": {
                    "Type": "Task",
                    "Resource": "arn:aws:states:::aws-sdk:ec2:runInstances",
                    "Parameters": {"ImageId": SLEEPER, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1},
                    "End": True,
                }
            },
        }
    )
    execution = build.run(machine)
    assert execution["status"] == "SUCCEEDED", execution
    instance_id = json.loads(execution["output"])["Instances"][0]["InstanceId"]
    assert aws.market.instance(instance_id).instance_type == "t3.micro"


def test_a_spot_request_tells_of_the_notice(aws: LocalAws, build: Builder) -> None:
    instance = build.an_instance()

    def code() -> str:
        asked = [{"Name": "instance-id", "Values": [instance.instance_id]}]
        [request] = aws.client("ec2").describe_spot_instance_requests(Filters=asked)["SpotInstanceRequests"]
        assert request["InstanceId"] == instance.instance_id
        return str(request["Status"]["Code"])

    assert code() == "fulfilled"
    aws.market.interrupt(instance.instance_id, notice_seconds=60)
    assert code() == "marked-for-termination"
    aws.market.kill(instance.instance_id)
    build.await_state(instance.instance_id, "terminated")
    assert code() == "instance-terminated-no-capacity"
