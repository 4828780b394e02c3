from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from local import LocalAws
from tests.local.conftest import SLEEPER, Builder

LAUNCH = """
    import boto3
    from botocore.exceptions import ClientError
    def handle(event, context):
        try:
            answer = getattr(boto3.client("ec2"), event["call"])(**event["with"])
        except ClientError as error:
            return error.response["Error"]["Code"]
        return answer.get("Errors") or "allowed"
"""


class Caller:
    """A function with exactly some permissions."""

    def __init__(self, build: Builder, *statements: Mapping[str, Any]) -> None:
        self._build = build
        self._function = build.a_function(LAUNCH, *statements)

    def call(self, name: str, **request: Any) -> Any:
        return self._build.invoke(self._function, {"call": name, "with": request})

    def run(self, **request: Any) -> Any:
        return self.call("run_instances", ImageId=SLEEPER, InstanceType="t3.nano", MinCount=1, MaxCount=1, **request)


@pytest.fixture
def template(aws: LocalAws) -> str:
    name = f"permissions-{len(aws.client('ec2').describe_launch_templates()['LaunchTemplates'])}"
    created = aws.client("ec2").create_launch_template(
        LaunchTemplateName=name, LaunchTemplateData={"ImageId": SLEEPER, "InstanceType": "t3.nano"}
    )
    found: str = created["LaunchTemplate"]["LaunchTemplateId"]
    return found


def a_fleet(template: str, **more: Any) -> dict[str, Any]:
    return {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "$Latest"}}
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
        **more,
    }


def tagged(kind: str, **tags: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


ANYWHERE = [
    f"arn:aws:ec2:*:*:{kind}/*"
    for kind in ("subnet", "network-interface", "volume", "security-group", "launch-template")
] + ["arn:aws:ec2:*::image/*"]


def test_a_role_without_create_fleet_is_refused(build: Builder, template: str) -> None:
    caller = Caller(build, {"Action": "ec2:RunInstances", "Resource": "*"})
    assert caller.call("create_fleet", **a_fleet(template)) == "UnauthorizedOperation"


def test_an_instant_fleet_needs_its_callers_own_run_instances(build: Builder, template: str) -> None:
    caller = Caller(build, {"Action": "ec2:CreateFleet", "Resource": "*"})
    assert caller.call("create_fleet", **a_fleet(template)) == "UnauthorizedOperation"
    both = Caller(build, {"Action": ["ec2:CreateFleet", "ec2:RunInstances"], "Resource": "*"})
    assert both.call("create_fleet", **a_fleet(template)) == "allowed"
    assert (
        both.call("create_fleet", **a_fleet(template, TagSpecifications=tagged("instance", a="b")))
        == "UnauthorizedOperation"
    )


def test_tags_asked_for_at_launch_can_be_a_condition(build: Builder) -> None:
    caller = Caller(
        build,
        {
            "Action": "ec2:RunInstances",
            "Resource": "arn:aws:ec2:*:*:instance/*",
            "Condition": {"StringEquals": {"aws:RequestTag/managed-by": "spot-optimizer"}},
        },
        {"Action": "ec2:RunInstances", "Resource": ANYWHERE},
        {
            "Action": "ec2:CreateTags",
            "Resource": "arn:aws:ec2:*:*:instance/*",
            "Condition": {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreateFleet"]}},
        },
    )
    assert caller.run() == "UnauthorizedOperation"
    assert caller.run(TagSpecifications=tagged("instance", **{"managed-by": "somebody"})) == "UnauthorizedOperation"
    assert caller.run(TagSpecifications=tagged("instance", **{"managed-by": "spot-optimizer"})) == "allowed"


def test_a_resources_tags_decide_who_may_terminate_it(build: Builder) -> None:
    ours = build.an_instance(TagSpecifications=tagged("instance", **{"managed-by": "spot-optimizer"}))
    theirs = build.an_instance(TagSpecifications=tagged("instance", **{"managed-by": "somebody"}))
    caller = Caller(
        build,
        {
            "Action": "ec2:TerminateInstances",
            "Resource": "*",
            "Condition": {"StringEquals": {"aws:ResourceTag/managed-by": "spot-optimizer"}},
        },
    )
    both = [ours.instance_id, theirs.instance_id]
    assert caller.call("terminate_instances", InstanceIds=[theirs.instance_id]) == "UnauthorizedOperation"
    assert caller.call("terminate_instances", InstanceIds=both) == "UnauthorizedOperation"
    assert caller.call("terminate_instances", InstanceIds=[ours.instance_id]) == "allowed"


def test_an_address_and_its_instance_are_both_checked(aws: LocalAws, build: Builder) -> None:
    instance = build.an_instance()
    address = aws.client("ec2").allocate_address(TagSpecifications=tagged("elastic-ip", client="c-1"))["AllocationId"]
    request = {"AllocationId": address, "InstanceId": instance.instance_id}
    elastic = {
        "Action": "ec2:AssociateAddress",
        "Resource": "arn:aws:ec2:*:*:elastic-ip/*",
        "Condition": {"StringEquals": {"ec2:ResourceTag/client": "c-1"}},
    }
    assert Caller(build, elastic).call("associate_address", **request) == "UnauthorizedOperation"
    instances = {"Action": "ec2:AssociateAddress", "Resource": "arn:aws:ec2:*:*:instance/*"}
    assert Caller(build, elastic, instances).call("associate_address", **request) == "allowed"


def test_an_instance_profile_needs_pass_role(aws: LocalAws, build: Builder) -> None:
    role = build.a_role(service="ec2.amazonaws.com")
    name = role.rsplit("/", 1)[-1]
    aws.client("iam").create_instance_profile(InstanceProfileName=name)
    aws.client("iam").add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    run = {"Action": "ec2:RunInstances", "Resource": "*"}
    assert Caller(build, run).run(IamInstanceProfile={"Name": name}) == "UnauthorizedOperation"
    passing = {
        "Action": "iam:PassRole",
        "Resource": role,
        "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
    }
    assert Caller(build, run, passing).run(IamInstanceProfile={"Name": name}) == "allowed"


@pytest.mark.parametrize("key", ["test", "123456789012"])
def test_nobody_else_is_the_administrator(aws: LocalAws, key: str) -> None:
    stranger = boto3.session.Session(key, "guessed", region_name="us-east-1").client(
        "sqs", endpoint_url=aws.endpoint_url
    )
    with pytest.raises(ClientError, match="security token included in the request is invalid"):
        stranger.list_queues()
