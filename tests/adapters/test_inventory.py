"""What carries our tag on EC2: all of it is found, nothing else, and what is gone already is no error to end."""

from __future__ import annotations

from typing import Any

import pytest

from spot_optimizer.adapters.compute import Ec2Compute
from spot_optimizer.adapters.inventory import Ec2Inventory
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.domain.orphans import Kind, Resource
from spot_optimizer.errors import ControlPlaneUnavailable, Throttled
from tests.adapters.tables import REGION
from tests.adapters.transport import Transport, ec2, ec2_refusal

IMAGE = "ami-12c6146b"
OURS = [{"Key": "spot-optimizer:agent", "Value": "agt-1"}, {"Key": "spot-optimizer:replica", "Value": "rep-1"}]
THEIRS = [{"Key": "spot-optimizer:client", "Value": "acme"}]


@pytest.fixture
def inventory(clients: Clients) -> Ec2Inventory:
    return Ec2Inventory(clients)


def launch(clients: Clients, tags: list[dict[str, str]]) -> str:
    launched = clients.ec2.run_instances(
        ImageId=IMAGE,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=tagged("instance", tags),
    )
    return launched["Instances"][0]["InstanceId"]


def tagged(kind: str, tags: list[dict[str, str]]) -> Any:
    return [{"ResourceType": kind, "Tags": tags}]


def ours(kind: Kind, resource_id: str) -> Resource:
    return Resource(resource_id=resource_id, kind=kind, agent_id="agt-1", replica_id="rep-1")


def test_instances_volumes_and_addresses_of_ours_are_found_and_ended(clients: Clients, inventory: Ec2Inventory) -> None:
    zone = "us-east-1a"
    live, gone = launch(clients, OURS), launch(clients, OURS)
    launch(clients, THEIRS)
    clients.ec2.terminate_instances(InstanceIds=[gone])
    volume = clients.ec2.create_volume(AvailabilityZone=zone, Size=8, TagSpecifications=tagged("volume", OURS))
    attached = clients.ec2.create_volume(AvailabilityZone=zone, Size=8, TagSpecifications=tagged("volume", OURS))
    clients.ec2.attach_volume(VolumeId=attached["VolumeId"], InstanceId=live, Device="/dev/sdf")
    clients.ec2.create_volume(AvailabilityZone=zone, Size=8, TagSpecifications=tagged("volume", THEIRS))
    address = clients.ec2.allocate_address(TagSpecifications=tagged("elastic-ip", OURS))["AllocationId"]
    used = clients.ec2.allocate_address(TagSpecifications=tagged("elastic-ip", OURS))["AllocationId"]
    clients.ec2.associate_address(AllocationId=used, InstanceId=live)
    clients.ec2.allocate_address(TagSpecifications=tagged("elastic-ip", THEIRS))
    expected = {
        ours(Kind.INSTANCE, live),
        ours(Kind.VOLUME, volume["VolumeId"]),
        ours(Kind.ADDRESS, address),
    }
    assert set(inventory.ours()) == expected
    for resource in (*expected, *expected):
        inventory.end(resource)
    left = {resource.resource_id for resource in inventory.ours()}
    assert left <= {attached["VolumeId"], used}, "what they were attached to is gone by now"


def test_every_page_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    clients = Clients(REGION)

    def page(instance_id: str, token: str) -> Any:
        tags = "".join(f"<item><key>{tag['Key']}</key><value>{tag['Value']}</value></item>" for tag in OURS)
        instance = f"<item><instanceId>{instance_id}</instanceId><tagSet>{tags}</tagSet></item>"
        more = f"<nextToken>{token}</nextToken>" if token else ""
        inner = f"<reservationSet><item><instancesSet>{instance}</instancesSet></item></reservationSet>{more}"
        return ec2("DescribeInstances", inner)

    nothing = [ec2("DescribeVolumes", "<volumeSet/>"), ec2("DescribeAddresses", "<addressesSet/>")]
    transport = Transport(clients.ec2, "ec2", page("i-1", "more"), page("i-2", ""), *nothing)
    assert [resource.resource_id for resource in Ec2Inventory(clients).ours()] == ["i-1", "i-2"]
    assert "NextToken=more" in transport.requests[1]


def test_a_refusal_is_no_success(clients: Clients, inventory: Ec2Inventory) -> None:
    Transport(clients.ec2, "ec2", ec2_refusal("UnauthorizedOperation"), *[ec2_refusal("RequestLimitExceeded")] * 3)
    with pytest.raises(ControlPlaneUnavailable, match="UnauthorizedOperation"):
        inventory.end(ours(Kind.INSTANCE, "i-1"))
    with pytest.raises(Throttled):
        inventory.end(ours(Kind.VOLUME, "vol-1"))


def test_an_instance_that_is_protected_is_left_and_keeps_nobody_from_the_others(
    clients: Clients, inventory: Ec2Inventory
) -> None:
    instance_id = launch(clients, OURS)
    clients.ec2.modify_instance_attribute(InstanceId=instance_id, DisableApiTermination={"Value": True})
    with pytest.raises(ControlPlaneUnavailable, match="refuses to end"):
        inventory.end(ours(Kind.INSTANCE, instance_id))
    compute = Ec2Compute(clients)
    assert compute.terminate(instance_id) is False
    assert compute.states([instance_id]) == {instance_id: "running"}


@pytest.mark.parametrize(
    ("code", "is_taken_back"), [("fulfilled", False), ("marked-for-termination", True), ("marked-for-stop", True)]
)
def test_a_spot_request_that_is_marked_tells_of_a_notice(
    clients: Clients, inventory: Ec2Inventory, code: str, is_taken_back: bool
) -> None:
    request = f"<item><status><code>{code}</code></status></item>"
    inner = f"<spotInstanceRequestSet>{request}</spotInstanceRequestSet>"
    Transport(clients.ec2, "ec2", ec2("DescribeSpotInstanceRequests", inner))
    assert inventory.is_taken_back("i-1") is is_taken_back
