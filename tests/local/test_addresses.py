from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local import InstanceView, LocalAws
from local.addresses import AddressesExhausted, AddressRange
from tests.local.conftest import Builder, eventually

ECHO = """
    import os, socket, sys, threading
    address = sys.argv[1] if len(sys.argv) > 1 else ""
    import urllib.request
    imds = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    put = urllib.request.Request(imds + "/latest/api/token", method="PUT", headers=ttl)
    token = urllib.request.urlopen(put).read().decode()
    def read(path):
        request = urllib.request.Request(f"{imds}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token})
        return urllib.request.urlopen(request).read().decode()
    name = read("instance-id").encode()
    def serve(address):
        server = socket.create_server((address, 8080))
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()
    def answer(connection):
        while received := connection.recv(4096):
            connection.sendall(name + b" " + received)
    addresses = read(f"network/interfaces/macs/{read('mac')}/local-ipv4s").split()
    for address in addresses:
        threading.Thread(target=serve, args=(address,)).start()
"""


@pytest.fixture
def elastic(aws: LocalAws) -> Iterator[dict[str, str]]:
    address = aws.client("ec2").allocate_address(
        Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": [{"Key": "agent", "Value": "a-1"}]}]
    )
    yield address
    for each in aws.client("ec2").describe_addresses(AllocationIds=[address["AllocationId"]])["Addresses"]:
        if each.get("AssociationId"):
            aws.client("ec2").disassociate_address(AssociationId=each["AssociationId"])
    aws.client("ec2").release_address(AllocationId=address["AllocationId"])


@pytest.fixture
def servers(build: Builder) -> tuple[InstanceView, InstanceView]:
    image = build.an_image(ECHO)
    one, other = (build.an_instance(image=image) for _ in range(2))
    for each in (one, other):
        eventually(lambda each=each: answers(each.secondary_private_address))  # type: ignore[misc]
    return one, other


def answers(address: str) -> str:
    """Which instance answers behind an address; empty when none does."""
    try:
        with socket.create_connection((address, 8080), timeout=2) as connection:
            connection.sendall(b"who")
            return connection.recv(4096).split()[0].decode()
    except (OSError, IndexError):
        return ""


def associate(aws: LocalAws, elastic: dict[str, str], instance: InstanceView, **more: Any) -> str:
    answer = aws.client("ec2").associate_address(
        AllocationId=elastic["AllocationId"],
        InstanceId=instance.instance_id,
        PrivateIpAddress=instance.secondary_private_address,
        **more,
    )
    association: str = answer["AssociationId"]
    return association


def test_a_move_drops_live_connections_and_leads_to_the_new_instance(
    aws: LocalAws, elastic: dict[str, str], servers: tuple[InstanceView, InstanceView]
) -> None:
    one, other = servers
    associate(aws, elastic, one)
    with socket.create_connection((elastic["PublicIp"], 8080), timeout=2) as connection:
        connection.sendall(b"who")
        assert connection.recv(4096).split()[0].decode() == one.instance_id
        associate(aws, elastic, other, AllowReassociation=True)
        with pytest.raises(ConnectionResetError):
            connection.recv(4096)
    assert answers(elastic["PublicIp"]) == other.instance_id
    (described,) = aws.client("ec2").describe_addresses(Filters=[{"Name": "tag:agent", "Values": ["a-1"]}])["Addresses"]
    assert (described["InstanceId"], described["PrivateIpAddress"]) == (
        other.instance_id,
        other.secondary_private_address,
    )


def test_reassociation_to_the_same_place_changes_nothing(
    aws: LocalAws, elastic: dict[str, str], servers: tuple[InstanceView, InstanceView]
) -> None:
    first = associate(aws, elastic, servers[0])
    with socket.create_connection((elastic["PublicIp"], 8080), timeout=2) as connection:
        assert associate(aws, elastic, servers[0]) == first
        connection.sendall(b"still?")
        assert connection.recv(4096)


def test_an_address_does_not_move_when_told_not_to(
    aws: LocalAws, elastic: dict[str, str], servers: tuple[InstanceView, InstanceView]
) -> None:
    associate(aws, elastic, servers[0])
    with pytest.raises(ClientError, match="Resource.AlreadyAssociated"):
        associate(aws, elastic, servers[1], AllowReassociation=False)
    assert answers(elastic["PublicIp"]) == servers[0].instance_id


def test_a_pending_instance_cannot_have_an_address(aws: LocalAws, build: Builder, elastic: dict[str, str]) -> None:
    aws.market.set_boot_seconds(2)
    try:
        instance = build.an_instance(wait=False)
    finally:
        aws.market.set_boot_seconds(0.1)
    with pytest.raises(ClientError, match="InvalidInstanceID.*pending"):
        associate(aws, elastic, instance)


def test_an_address_is_free_again_when_its_instance_is_gone(
    aws: LocalAws, build: Builder, elastic: dict[str, str]
) -> None:
    instance = build.an_instance()
    associate(aws, elastic, instance)
    aws.market.kill(instance.instance_id)
    build.await_state(instance.instance_id, "terminated")
    (described,) = aws.client("ec2").describe_addresses(AllocationIds=[elastic["AllocationId"]])["Addresses"]
    assert "InstanceId" not in described
    assert answers(elastic["PublicIp"]) == ""


def test_a_foreign_private_address_is_refused(aws: LocalAws, build: Builder, elastic: dict[str, str]) -> None:
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        aws.client("ec2").associate_address(
            AllocationId=elastic["AllocationId"],
            InstanceId=build.an_instance().instance_id,
            PrivateIpAddress="127.1.1.1",
        )


def test_ports_that_a_security_group_opens_are_forwarded(
    aws: LocalAws, build: Builder, elastic: dict[str, str]
) -> None:
    ec2 = aws.client("ec2")
    group = ec2.create_security_group(
        GroupName=f"web-{elastic['AllocationId']}", Description="web", VpcId="vpc-00000001"
    )["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=9090, ToPort=9091, CidrIp="0.0.0.0/0"
    )
    instance = build.an_instance(SecurityGroupIds=[group])
    associate(aws, elastic, instance)
    # Nobody serves there, but the address takes the connection and resets it, as the instance's kernel would.
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((elastic["PublicIp"], 9091), timeout=2) as connection,
    ):
        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((elastic["PublicIp"], 9092), timeout=2)


def test_a_freed_address_rests_before_it_is_used_again() -> None:
    addresses = AddressRange("127.9.1")
    first = addresses.take()
    addresses.give_back(first)
    assert addresses.take() != first


def test_an_address_range_ends() -> None:
    addresses = AddressRange("127.9.1")
    assert len({addresses.take() for _ in range(254)}) == 254
    with pytest.raises(AddressesExhausted):
        addresses.take()
