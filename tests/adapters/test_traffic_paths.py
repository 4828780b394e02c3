"""Target groups and A records as traffic paths: moved again without harm, read back, and never somebody else's."""

from __future__ import annotations

from typing import Any

import pytest

from spot_optimizer.adapters import target_groups
from spot_optimizer.adapters.allowances import TaggedResources
from spot_optimizer.adapters.dns import LOOKS, TTL_SECONDS, DnsRecords
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.adapters.target_groups import TargetGroups
from spot_optimizer.control.traffic import LOOKED_AT_LEAST
from spot_optimizer.domain.agents import TrafficAdapter
from spot_optimizer.errors import AddressNotMovable
from spot_optimizer.ports import TrafficPath
from tests.adapters.test_inventory import launch

TAG = [{"Key": "spot-optimizer:client", "Value": "acme"}]


@pytest.fixture
def instances(clients: Clients) -> tuple[str, str]:
    return launch(clients, TAG), launch(clients, TAG)


def a_target_group(clients: Clients, kind: str = "instance") -> str:
    vpc = clients.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    made = clients.elb.create_target_group(
        Name="ledger", Protocol="TCP", Port=8080, VpcId=vpc, TargetType=kind, Tags=TAG
    )
    return str(made["TargetGroups"][0]["TargetGroupArn"])


def registered(clients: Clients, group: str) -> set[str]:
    health = clients.elb.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
    return {one["Target"]["Id"] for one in health if one["TargetHealth"]["State"] != "draining"}


def a_zone(clients: Clients, *, owner: str | None = "acme", private: bool = False) -> str:
    more: dict[str, Any] = {}
    if private:
        vpc = clients.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        more = {"VPC": {"VPCRegion": "us-east-1", "VPCId": vpc}, "HostedZoneConfig": {"PrivateZone": True}}
    made = clients.route53.create_hosted_zone(Name="example.com", CallerReference="1", **more)["HostedZone"]
    zone_id = str(made["Id"]).rpartition("/")[2]
    if owner is not None:
        clients.route53.change_tags_for_resource(
            ResourceType="hostedzone", ResourceId=zone_id, AddTags=[{"Key": "spot-optimizer:client", "Value": owner}]
        )
    return zone_id


def records_in(clients: Clients, zone_id: str) -> list[dict[str, Any]]:
    found = clients.route53.list_resource_record_sets(HostedZoneId=zone_id)["ResourceRecordSets"]
    return [record for record in found if record["Type"] == "A"]


def address_of(clients: Clients, instance_id: str, name: str) -> str:
    found = clients.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return str(found[name])  # type: ignore[literal-required]


def holder(path: TrafficPath, target: str) -> str | None:
    return path.holders([target])[target]


def calls(client: Any) -> list[str]:
    """Names of the operations that the client is asked for from now on."""
    asked: list[str] = []
    client.meta.events.register("before-call", lambda model, **_: asked.append(model.name))
    return asked


@pytest.mark.parametrize("kind", ["instance", "ip"])
def test_a_target_group_leads_to_one_instance_alone(clients: Clients, instances: tuple[str, str], kind: str) -> None:
    group, path, (old, new) = a_target_group(clients, kind), TargetGroups(clients), instances
    assert holder(path, group) is None
    path.move(group, old, client_id="acme")
    assert holder(path, group) == old
    for _ in range(2):
        path.move(group, new, client_id="acme")
        assert holder(path, group) == new
    expected = new if kind == "instance" else address_of(clients, new, "PrivateIpAddress")
    assert registered(clients, group) == {expected}
    clients.elb.register_targets(
        TargetGroupArn=group,
        Targets=[{"Id": old if kind == "instance" else address_of(clients, old, "PrivateIpAddress")}],
    )
    assert holder(path, group) is None, "it is astray while it leads to two"


def test_a_target_group_is_not_moved_to_what_is_gone(clients: Clients, instances: tuple[str, str]) -> None:
    group, path = a_target_group(clients, "ip"), TargetGroups(clients)
    with pytest.raises(AddressNotMovable, match="no private address"):
        path.move(group, "i-0123456789abcdef0", client_id="acme")


@pytest.mark.parametrize("owner", [None, "globex"])
def test_a_target_group_that_is_not_the_clients_any_more_is_left_as_it_is(
    clients: Clients, instances: tuple[str, str], owner: str | None
) -> None:
    group, path = a_target_group(clients), TargetGroups(clients)
    path.move(group, instances[0], client_id="acme")
    clients.elb.remove_tags(ResourceArns=[group], TagKeys=["spot-optimizer:client"])
    if owner is not None:
        clients.elb.add_tags(ResourceArns=[group], Tags=[{"Key": "spot-optimizer:client", "Value": owner}])
    with pytest.raises(AddressNotMovable, match="is not tagged spot-optimizer:client = acme"):
        path.move(group, instances[1], client_id="acme")
    assert registered(clients, group) == {instances[0]}


@pytest.mark.parametrize(("private", "kind"), [(False, "PublicIpAddress"), (True, "PrivateIpAddress")])
def test_a_record_names_the_primary_and_is_forgotten_soon(
    clients: Clients, instances: tuple[str, str], private: bool, kind: str
) -> None:
    zone_id, path, (old, new) = a_zone(clients, private=private), DnsRecords(clients), instances
    target = f"{zone_id}/db.example.com"
    assert holder(path, target) is None
    for instance_id in (old, new, new):
        path.move(target, instance_id, client_id="acme")
        assert holder(path, target) == instance_id
    [record] = records_in(clients, zone_id)
    assert record["ResourceRecords"] == [{"Value": address_of(clients, new, kind)}]
    assert record["TTL"] == TTL_SECONDS <= 10


@pytest.mark.parametrize("owner", [None, "globex"])
def test_a_zone_that_is_not_the_clients_any_more_is_left_as_it_is(
    clients: Clients, instances: tuple[str, str], owner: str | None
) -> None:
    zone_id = a_zone(clients, owner=owner)
    with pytest.raises(AddressNotMovable, match="is not tagged spot-optimizer:client = acme"):
        DnsRecords(clients).move(f"{zone_id}/db.example.com", instances[0], client_id="acme")
    assert records_in(clients, zone_id) == []


def test_a_record_is_not_moved_to_what_does_not_run(clients: Clients, instances: tuple[str, str]) -> None:
    zone_id = a_zone(clients)
    clients.ec2.terminate_instances(InstanceIds=[instances[0]])
    with pytest.raises(AddressNotMovable, match="does not run"):
        DnsRecords(clients).move(f"{zone_id}/db.example.com", instances[0], client_id="acme")


def test_the_records_of_a_zone_are_asked_about_at_once_and_no_zone_takes_more_than_its_share(
    clients: Clients, instances: tuple[str, str]
) -> None:
    zone_id, path = a_zone(clients), DnsRecords(clients)
    targets = [f"{zone_id}/db{number:02}.example.com" for number in range(20)]
    for number, target in enumerate(targets):
        path.move(target, instances[number % 2], client_id="acme")
    asked, asked_ec2 = calls(clients.route53), calls(clients.ec2)
    expected = {target: instances[number % 2] for number, target in enumerate(targets)}
    assert path.holders([*targets[7:], *targets[:7]]) == expected
    assert (len(asked), len(asked_ec2)) == (2, 1), "once from the one it begins with, once from the first"
    asked.clear()
    gone = [f"Z000000000000{number}/db.example.com" for number in range(9)]
    assert path.holders([*gone, *targets]) == {}
    assert len(asked) <= LOOKS
    assert path.holders([gone[0], *targets]) == expected, "a zone that is gone hides no other"


def test_a_record_that_is_not_there_leads_nowhere_and_hides_no_other(
    clients: Clients, instances: tuple[str, str]
) -> None:
    zone_id, path = a_zone(clients), DnsRecords(clients)
    here, missing = f"{zone_id}/db.example.com", f"{zone_id}/api.example.com"
    path.move(here, instances[0], client_id="acme")
    for order in ([here, missing], [missing, here]):
        assert path.holders(order) == {here: instances[0], missing: None}


def test_of_many_target_groups_the_first_are_asked_about(clients: Clients, instances: tuple[str, str]) -> None:
    group, path = a_target_group(clients), TargetGroups(clients)
    path.move(group, instances[0], client_id="acme")
    gone = [f"{group[:-4]}{number:04}" for number in range(target_groups.LOOKS)]
    asked = calls(clients.elb)
    assert path.holders([*gone[1:], group]) == {group: instances[0]}, "a group that is gone hides no other"
    assert path.holders([*gone, group]) == {}
    assert len(asked) == 2 * target_groups.LOOKS


def test_each_path_tells_of_as_many_as_have_their_turn(clients: Clients) -> None:
    assert target_groups.LOOKS >= LOOKED_AT_LEAST
    assert LOOKS // 2 >= LOOKED_AT_LEAST, "each in a zone of its own, of which nothing is known yet"


def test_a_path_is_allowed_by_its_tag(clients: Clients) -> None:
    group, zone_id = a_target_group(clients), a_zone(clients)
    targets = {TrafficAdapter.TARGET_GROUP: group, TrafficAdapter.ROUTE53: f"{zone_id}/db.example.com"}
    unknown = {
        TrafficAdapter.TARGET_GROUP: group[:-4] + "0000",
        TrafficAdapter.ROUTE53: "Z0000000000000/db.example.com",
    }

    def refused(client_id: str, adapter: TrafficAdapter, target: str) -> bool:
        found = TaggedResources(clients).not_allowed(
            client_id,
            launch_template_id="lt-0123456789abcdef0",
            subnet_ids=["subnet-1"],
            traffic_adapter=adapter,
            traffic_target=target,
        )
        return target in found

    for adapter, target in targets.items():
        assert not refused("acme", adapter, target)
        assert refused("globex", adapter, target)
        assert refused("acme", adapter, unknown[adapter])
