"""Examining an agent over HTTP: what EC2 says is moto's; the rehearsal of a launch is played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from spot_optimizer import wiring
from spot_optimizer.domain.agents import TrafficAdapter
from spot_optimizer.domain.writes import Change, Present, Table, Transaction
from spot_optimizer.errors import ControlPlaneUnavailable
from tests.api.conftest import CLIENT, Http, Registration
from tests.fakes.rehearsal import PlayedRehearsal

GROUPS = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup"


@pytest.fixture
def rehearsal(http: Http, monkeypatch: pytest.MonkeyPatch) -> PlayedRehearsal:
    played = PlayedRehearsal(http.context)
    monkeypatch.setattr(wiring, "rehearsing", lambda: played)
    return played


@pytest.fixture
def template(http: Http) -> Iterator[Callable[..., None]]:
    """Gives the client's launch template another default version, and takes it back."""
    ec2 = boto3.client("ec2")
    template_id = http.resources["launch_template_id"]

    def change(data: Any) -> None:
        made = ec2.create_launch_template_version(LaunchTemplateId=template_id, LaunchTemplateData=data)
        version = str(made["LaunchTemplateVersion"]["VersionNumber"])
        ec2.modify_launch_template(LaunchTemplateId=template_id, DefaultVersion=version)

    yield change
    ec2.modify_launch_template(LaunchTemplateId=template_id, DefaultVersion="1")


def examine(agent: Registration, token: str | None = None) -> dict[str, Any]:
    answer = agent.call("POST", "/doctor", token=token)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def found(examined: dict[str, Any], check: str) -> list[tuple[str, str]]:
    return [(one["outcome"], one["found"]) for one in examined["findings"] if one["check"] == check]


def test_all_that_a_failover_depends_on_is_looked_at(
    http: Http, agent: Registration, rehearsal: PlayedRehearsal, rows: Callable[[], Any]
) -> None:
    agent.beat(protection="fits through a notice", state_bytes=10)
    before, running = rows(), boto3.client("ec2").describe_instances()["Reservations"]
    for token in (http.admin, http.client_token):
        examined = examine(agent, token)
        checks = list(dict.fromkeys(finding["check"] for finding in examined["findings"]))
        assert checks == ["state", "launch template", "subnets", "security groups", "quotas", "dry-run launch"]
        assert all(finding["advice"] for finding in examined["findings"] if finding["outcome"] != "ok")
    assert found(examined, "state") == [("ok", "fits through a notice")]
    assert found(examined, "subnets")[-1] == ("ok", "room in us-east-1a, us-east-1b")
    launches = found(examined, "dry-run launch")
    assert launches[0] == (
        "ok",
        "us-east-1b.m5.large (spot): permitted; whether there is capacity, only a launch tells",
    )
    assert len(launches) == 3
    assert rows() == before
    assert boto3.client("ec2").describe_instances()["Reservations"] == running


def test_each_fault_is_found_and_says_what_to_do(
    agent: Registration, rehearsal: PlayedRehearsal, template: Callable[..., None]
) -> None:
    group = boto3.client("ec2").create_security_group(GroupName="shut", Description="lets nobody in")["GroupId"]
    template(
        {
            "InstanceType": "m5.large",
            "SecurityGroupIds": [group],
            "InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.01"}},
        }
    )
    agent.beat(protection="unprotected without standby", state_bytes=2**40, state_bytes_per_second=1e8)
    rehearsal.failure = ControlPlaneUnavailable("the launch could not be rehearsed: Timeout")
    examined = examine(agent)
    assert examined["outcome"] == "failed"
    assert found(examined, "state")[0][0] == "failed"
    assert {outcome for outcome, _ in found(examined, "launch template")} == {"failed", "warning"}
    unreached = found(examined, "security groups")
    assert ("failed", f"the primary ({group}) does not reach a standby ({group}) on TCP 7443") in unreached
    assert found(examined, "dry-run launch") == [("unknown", "the launch could not be rehearsed: Timeout")]
    boto3.client("ec2").authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 7443, "ToPort": 7443, "UserIdGroupPairs": [{"GroupId": group}]}
        ],
    )
    assert found(examine(agent), "security groups") == [("ok", "agents reach each other on TCP 7443, and the API")]


def test_what_is_not_tagged_for_the_client_fails(agent: Registration, http: Http, rehearsal: PlayedRehearsal) -> None:
    ec2 = boto3.client("ec2")
    resources = [http.resources["subnet_id"], http.resources["launch_template_id"]]
    tag: Any = {"Key": "spot-optimizer:client", "Value": "globex"}
    ec2.create_tags(Resources=resources, Tags=[tag])
    try:
        examined = examine(agent)
    finally:
        ec2.create_tags(Resources=resources, Tags=[tag | {"Value": CLIENT}])
    assert found(examined, "launch template")[0][0] == "failed"
    assert "failed" in [outcome for outcome, _ in found(examined, "subnets")]
    assert rehearsal.asked == [agent.agent_id]


def test_every_kind_of_traffic_path_is_looked_at(agent: Registration, rehearsal: PlayedRehearsal) -> None:
    tag: Any = {"Key": "spot-optimizer:client", "Value": CLIENT}
    zone = boto3.client("route53").create_hosted_zone(Name="example.com", CallerReference="1")["HostedZone"]["Id"]
    zone_id = zone.rpartition("/")[2]
    boto3.client("route53").change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id, AddTags=[tag])
    ec2 = boto3.client("ec2")
    group = boto3.client("elbv2").create_target_group(
        Name="ledger", Protocol="TCP", Port=8080, VpcId=ec2.describe_vpcs()["Vpcs"][0]["VpcId"], Tags=[tag]
    )
    address = ec2.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": [tag]}])
    for adapter, target, missing in (
        ("route53", f"{zone_id}/db.example.com", "Z0000000000000/db.example.com"),
        ("target-group", group["TargetGroups"][0]["TargetGroupArn"], f"{GROUPS}/ledger/0123456789abcdef"),
        ("eip", address["AllocationId"], "eipalloc-0123456789abcdef0"),
    ):
        for named, outcome in ((target, "ok"), (missing, "failed")):
            put = {"traffic_adapter": TrafficAdapter(adapter), "traffic_target": named}
            change = Change(Table.AGENTS, (agent.agent_id,), "set", only_if={"agent_id": Present()}, put=put)
            wiring.records().commit(Transaction("set", (change,)))
            assert [one[0] for one in found(examine(agent), "traffic")] == [outcome], named


def test_an_agent_is_examined_for_its_own_client_only(http: Http, agent: Registration) -> None:
    http.call("POST", "/api/clients", {"client_id": "globex", "name": "Globex"}, token=http.admin)
    other = http.call("POST", "/api/clients/globex/tokens", {}, token=http.admin).body["token"]
    assert agent.call("POST", "/doctor", token=other).problem == "AgentUnknown"
    assert http.call("POST", "/api/agents/agt-nobody/doctor", token=http.admin).problem == "AgentUnknown"
