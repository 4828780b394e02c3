"""EC2: what is asked of it, and what its answers mean."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

from spot_optimizer.adapters.compute import Ec2Compute
from spot_optimizer.adapters.price_history import Ec2PriceHistory
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.domain.pools import LaunchTarget, Lifecycle
from spot_optimizer.errors import AddressNotMovable, ControlPlaneUnavailable, LaunchRefused, PoolUnavailable, Throttled
from spot_optimizer.ports import Launched
from tests import builders
from tests.adapters.transport import Transport, ec2, ec2_refusal

SPOT = LaunchTarget(builders.a_pool(), Lifecycle.SPOT, "subnet-a")
ON_DEMAND = LaunchTarget(builders.a_pool(), Lifecycle.ON_DEMAND, "subnet-a")


@pytest.fixture
def compute(clients: Clients) -> Ec2Compute:
    return Ec2Compute(clients)


def fleet_answer(*, instances: tuple[str, ...] = (), errors: tuple[str, ...] = ()) -> Any:
    shown = "".join(
        f"<item><instanceIds><item>{instance}</item></instanceIds><instanceType>m5.large</instanceType></item>"
        for instance in instances
    )
    failed = "".join(
        f"<item><errorCode>{code}</errorCode><errorMessage>{code}</errorMessage></item>" for code in errors
    )
    inner = f"<fleetId>fleet-1</fleetId><fleetInstanceSet>{shown}</fleetInstanceSet><errorSet>{failed}</errorSet>"
    return ec2("CreateFleet", inner)


def launch(compute: Ec2Compute, target: LaunchTarget = SPOT) -> Launched:
    return compute.launch(
        target,
        launch_template_id="lt-1",
        client_token="rep-1-1",
        user_data="# spot-agent\nJOIN_TOKEN=x\n",
        tags={"spot-optimizer:agent": "agt-1"},
    )


def test_a_launch_is_one_instant_fleet_with_user_data_tags_and_a_token_but_no_maximum_price(
    clients: Clients, compute: Ec2Compute
) -> None:
    transport = Transport(clients.ec2, "ec2", fleet_answer(instances=("i-1",)))
    assert launch(compute) == Launched("i-1")
    sent = {name: values[0] for name, values in parse_qs(transport.requests[0]).items()}
    template = "LaunchTemplateConfigs.1.LaunchTemplateSpecification"
    assert sent["Type"] == "instant"
    assert sent["ClientToken"] == "rep-1-1"
    assert sent["TargetCapacitySpecification.TotalTargetCapacity"] == "1"
    assert sent["TargetCapacitySpecification.DefaultTargetCapacityType"] == "spot"
    assert sent["SpotOptions.InstanceInterruptionBehavior"] == "terminate"
    assert sent[f"{template}.LaunchTemplateId"] == "lt-1"
    assert base64.b64decode(sent[f"{template}.LaunchTemplateSpecificationUserData"]) == b"# spot-agent\nJOIN_TOKEN=x\n"
    assert sent["LaunchTemplateConfigs.1.Overrides.1.InstanceType"] == "m5.large"
    assert sent["LaunchTemplateConfigs.1.Overrides.1.SubnetId"] == "subnet-a"
    assert sent["TagSpecification.1.ResourceType"] == "instance"
    assert sent["TagSpecification.2.ResourceType"] == "volume"
    for number in (1, 2):
        assert sent[f"TagSpecification.{number}.Tag.1.Key"] == "spot-optimizer:agent"
    assert not [name for name in sent if "MaxPrice" in name or "MaxTotalPrice" in name]


def test_an_on_demand_launch_has_no_spot_options(clients: Clients, compute: Ec2Compute) -> None:
    transport = Transport(clients.ec2, "ec2", fleet_answer(instances=("i-1",)))
    launch(compute, ON_DEMAND)
    sent = parse_qs(transport.requests[0])
    assert sent["TargetCapacitySpecification.DefaultTargetCapacityType"] == ["on-demand"]
    assert not [name for name in sent if name.startswith("SpotOptions")]


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("InsufficientInstanceCapacity", PoolUnavailable),
        ("MaxSpotInstanceCountExceeded", PoolUnavailable),
        ("SpotMaxPriceTooLow", PoolUnavailable),
        ("VcpuLimitExceeded", PoolUnavailable),
        ("UnfulfillableCapacity", PoolUnavailable),
        ("InsufficientFreeAddressesInSubnet", PoolUnavailable),
        ("RequestLimitExceeded", Throttled),
        ("UnauthorizedOperation", LaunchRefused),
        ("InvalidLaunchTemplateId.NotFound", LaunchRefused),
    ],
)
def test_the_errors_of_a_fleet_that_launched_nothing_say_what_to_do(
    clients: Clients, compute: Ec2Compute, code: str, failure: type[Exception]
) -> None:
    Transport(clients.ec2, "ec2", fleet_answer(errors=(code,)))
    with pytest.raises(failure, match=code):
        launch(compute)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("InsufficientInstanceCapacity", PoolUnavailable),
        ("UnauthorizedOperation", LaunchRefused),
        ("IdempotentParameterMismatch", LaunchRefused),
    ],
)
def test_a_refused_call_means_the_same(
    clients: Clients, compute: Ec2Compute, code: str, failure: type[Exception]
) -> None:
    Transport(clients.ec2, "ec2", ec2_refusal(code))
    with pytest.raises(failure, match=code):
        launch(compute)


def test_an_instance_counts_more_than_the_errors_beside_it(clients: Clients, compute: Ec2Compute) -> None:
    Transport(clients.ec2, "ec2", fleet_answer(instances=("i-1",), errors=("InsufficientInstanceCapacity",)))
    assert launch(compute) == Launched("i-1")


def test_no_instance_and_no_error_is_a_pool_that_can_not_be_had(clients: Clients, compute: Ec2Compute) -> None:
    Transport(clients.ec2, "ec2", fleet_answer())
    with pytest.raises(PoolUnavailable):
        launch(compute)


def test_a_throttled_or_unanswered_launch_is_asked_again_with_the_same_token(
    clients: Clients, compute: Ec2Compute
) -> None:
    Transport(clients.ec2, "ec2", *[ec2_refusal("RequestLimitExceeded", status=503)] * 3)
    with pytest.raises(Throttled):
        launch(compute)
    other = Clients(clients.region)
    Transport(other.ec2, "ec2", *[ReadTimeoutError(endpoint_url="http://ec2") for _ in range(3)])
    with pytest.raises(Throttled, match="same token"):
        launch(Ec2Compute(other))


def test_states_leave_out_what_ec2_does_not_know(compute: Ec2Compute) -> None:
    client = boto3.client("ec2")
    image = client.describe_images()["Images"][0]["ImageId"]
    running, gone = (
        client.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"] for _ in range(2)
    )
    compute.terminate(gone)
    compute.terminate(gone)
    compute.terminate("i-0123456789abcdef0")
    assert compute.states([running, gone, "i-0123456789abcdef0"]) == {running: "running", gone: "terminated"}
    assert compute.states([]) == {}


def test_addresses_tell_who_holds_them_and_leave_out_what_ec2_does_not_know(compute: Ec2Compute) -> None:
    client = boto3.client("ec2")
    image = client.describe_images()["Images"][0]["ImageId"]
    (launched,) = client.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"]
    held, idle = (client.allocate_address(Domain="vpc")["AllocationId"] for _ in range(2))
    client.associate_address(AllocationId=held, InstanceId=launched["InstanceId"])
    unknown = [f"eipalloc-{number:017x}" for number in range(300)]
    assert compute.address_holders([held, idle, *unknown]) == {held: launched["InstanceId"]}
    assert compute.address_holders([]) == {}


def test_ec2_that_does_not_answer_proves_nothing(clients: Clients, compute: Ec2Compute) -> None:
    Transport(clients.ec2, "ec2", *[ReadTimeoutError(endpoint_url="http://ec2") for _ in range(3)])
    with pytest.raises(ControlPlaneUnavailable):
        compute.states(["i-1"])


def test_subnets_are_told_by_zone_and_of_two_in_one_the_first_asked_for(compute: Ec2Compute) -> None:
    client = boto3.client("ec2")
    vpc = client.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    made = [
        client.create_subnet(VpcId=vpc, CidrBlock=f"10.9.{number}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        for number, zone in enumerate(("us-east-1a", "us-east-1b", "us-east-1a"))
    ]
    assert compute.subnets([made[2], made[1], made[0]]) == {"us-east-1a": made[2], "us-east-1b": made[1]}
    assert compute.subnets([*made, "subnet-none"]) == {"us-east-1a": made[0], "us-east-1b": made[1]}
    assert compute.subnets([]) == {}


def test_a_price_is_the_latest_of_the_right_product(clients: Clients, compute: Ec2Compute) -> None:
    def price(at: str, usd: str) -> str:
        return (
            f"<item><availabilityZone>us-east-1a</availabilityZone><instanceType>m5.large</instanceType>"
            f"<productDescription>Linux/UNIX</productDescription><spotPrice>{usd}</spotPrice><timestamp>{at}</timestamp></item>"
        )

    history = price("2026-03-01T11:00:00Z", "0.0300") + price("2026-03-01T12:00:00Z", "0.0412")
    answer = ec2("DescribeSpotPriceHistory", f"<spotPriceHistorySet>{history}</spotPriceHistorySet><nextToken/>")
    transport = Transport(clients.ec2, "ec2", answer)
    assert compute.prices(["us-east-1a"], ["m5.large"]) == {"us-east-1a.m5.large": Decimal("0.0412")}
    sent = parse_qs(transport.requests[0])
    assert sent["ProductDescription.1"] == ["Linux/UNIX"]
    assert sent["Filter.1.Name"] == ["availability-zone"]
    assert "StartTime" in sent
    assert compute.prices([], ["m5.large"]) == {}


def test_a_type_that_ec2_does_not_know_fails_no_question_about_prices(clients: Clients, compute: Ec2Compute) -> None:
    nothing = ec2("DescribeSpotPriceHistory", "<spotPriceHistorySet/><nextToken/>")
    transport = Transport(clients.ec2, "ec2", nothing, nothing)
    types, now = ["m5.large", "m5.nonsense"], datetime.now(UTC)
    compute.prices(["us-east-1a"], types)
    Ec2PriceHistory(clients).changes([f"us-east-1a.{one}" for one in types], now - timedelta(hours=1), now)
    for request in transport.requests:
        sent = parse_qs(request)
        assert sent["Filter.2.Name"] == ["instance-type"]
        assert [sent[f"Filter.2.Value.{number}"] for number in (1, 2)] == [[one] for one in types]
        assert not [name for name in sent if name.startswith("InstanceType")], "as a name it would be refused"


def described(state: str, addresses: tuple[tuple[str, bool], ...]) -> Any:
    shown = "".join(
        f"<item><privateIpAddress>{address}</privateIpAddress><primary>{str(primary).lower()}</primary></item>"
        for address, primary in addresses
    )
    return ec2(
        "DescribeInstances",
        "<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>"
        f"<instanceState><code>16</code><name>{state}</name></instanceState><networkInterfaceSet><item>"
        f"<networkInterfaceId>eni-1</networkInterfaceId><attachment><deviceIndex>0</deviceIndex></attachment>"
        f"<privateIpAddressesSet>{shown}</privateIpAddressesSet></item></networkInterfaceSet>"
        "</item></instancesSet></item></reservationSet>",
    )


ASSOCIATED = ec2("AssociateAddress", "<return>true</return><associationId>eipassoc-1</associationId>")


def held_by(instance_id: str) -> Any:
    return ec2(
        "DescribeAddresses",
        f"<addressesSet><item><allocationId>eipalloc-1</allocationId><instanceId>{instance_id}</instanceId></item>"
        "</addressesSet>",
    )


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ((("10.0.1.10", True), ("10.0.1.11", False)), "10.0.1.11"),
        ((("10.0.1.11", False), ("10.0.1.10", True)), "10.0.1.11"),
        ((("10.0.1.10", True),), "10.0.1.10"),
    ],
)
def test_an_address_moves_to_the_secondary_private_address_in_one_call(
    clients: Clients, compute: Ec2Compute, addresses: tuple[tuple[str, bool], ...], expected: str
) -> None:
    transport = Transport(
        clients.ec2,
        "ec2",
        described("running", addresses),
        ASSOCIATED,
        held_by("i-1"),
    )
    compute.move_address("eipalloc-1", "i-1")
    sent = parse_qs(transport.requests[1])
    assert sent["AllocationId"] == ["eipalloc-1"]
    assert sent["NetworkInterfaceId"] == ["eni-1"]
    assert sent["PrivateIpAddress"] == [expected]
    assert sent["AllowReassociation"] == ["true"]


def test_an_address_that_another_instance_holds_after_the_move_is_moved_again(
    clients: Clients, compute: Ec2Compute
) -> None:
    Transport(clients.ec2, "ec2", described("running", (("10.0.1.10", True),)), ASSOCIATED, held_by("i-2"))
    with pytest.raises(AddressNotMovable, match="i-2 holds it"):
        compute.move_address("eipalloc-1", "i-1")


def test_a_move_that_ec2_took_stands_where_it_does_not_say_who_holds_the_address(
    clients: Clients, compute: Ec2Compute
) -> None:
    silence = [ec2_refusal("RequestLimitExceeded")] * 3
    transport = Transport(clients.ec2, "ec2", described("running", (("10.0.1.10", True),)), ASSOCIATED, *silence)
    compute.move_address("eipalloc-1", "i-1")
    assert len(transport.requests) > 2, "it asked"


def test_an_address_does_not_move_to_an_instance_that_is_pending(clients: Clients, compute: Ec2Compute) -> None:
    Transport(clients.ec2, "ec2", described("pending", (("10.0.1.10", True),)))
    with pytest.raises(AddressNotMovable, match="pending"):
        compute.move_address("eipalloc-1", "i-1")


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "IncorrectInstanceState"])
def test_an_address_that_can_not_be_moved_now_is_tried_later(clients: Clients, compute: Ec2Compute, code: str) -> None:
    Transport(clients.ec2, "ec2", described("running", (("10.0.1.10", True),)), *[ec2_refusal(code)] * 3)
    with pytest.raises(AddressNotMovable):
        compute.move_address("eipalloc-1", "i-1")
