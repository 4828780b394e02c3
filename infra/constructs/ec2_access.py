"""What a function may do to EC2: look anywhere, touch only what an admin has tagged as allowed or what we launched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aws_cdk import Stack

from infra.constructs.function import Function

#: An admin sets this tag, to a client's id, on the launch templates, subnets and addresses which that client may use.
ALLOWED_TAG: Final = "spot-optimizer:client"

#: Every instance that we launch carries this tag, with its agent's id; no other is ever terminated.
LAUNCHED_TAG: Final = "spot-optimizer:agent"

#: Path of the only roles that a launched instance may be given.
INSTANCE_ROLES_PATH: Final = "spot-optimizer"

#: What the catalogue of an agent's pools is put together from.
CATALOGUE: Final = ("DescribeInstanceTypes", "DescribeSpotPriceHistory", "DescribeSubnets")

#: Hosted zones belong to no region and no account in an ARN.
HOSTED_ZONES: Final = "arn:aws:route53:::hostedzone/*"

_Condition = Mapping[str, Mapping[str, object]]


def allow_looking(function: Function, *actions: str) -> None:
    """Allow `Describe…` actions."""
    function.allow(
        *(f"ec2:{action}" for action in actions),
        on="*",
        wildcard_because="EC2's Describe actions know nothing narrower.",
    )


def allow_moving_addresses(function: Function) -> None:
    """Allow an Elastic IP to be moved, if an admin has allowed it."""
    _allow(function, "AssociateAddress", "elastic-ip", when=_has_tag(ALLOWED_TAG))
    for other_end in ("instance", "network-interface"):
        _allow(function, "AssociateAddress", other_end)


def allow_moving_other_paths(function: Function) -> None:
    """Allow the other traffic paths to be moved: target groups that an admin has allowed, and A records."""
    stack = Stack.of(function)
    function.allow(
        "elasticloadbalancing:DescribeTargetHealth",
        "elasticloadbalancing:DescribeTargetGroups",
        "elasticloadbalancing:DescribeTags",
        on="*",
        wildcard_because="Describe actions of load balancers know nothing narrower.",
    )
    function.allow(
        "elasticloadbalancing:RegisterTargets",
        "elasticloadbalancing:DeregisterTargets",
        on=f"arn:{stack.partition}:elasticloadbalancing:{stack.region}:{stack.account}:targetgroup/*",
        when=_has_tag(ALLOWED_TAG),
        wildcard_because="Which target groups there are is known when agents register; the tag says which may be used.",
    )
    function.allow(
        "route53:ChangeResourceRecordSets",
        on=HOSTED_ZONES,
        when={
            "ForAllValues:StringEquals": {
                "route53:ChangeResourceRecordSetsRecordTypes": ["A"],
                "route53:ChangeResourceRecordSetsActions": ["UPSERT"],
            }
        },
        wildcard_because="IAM knows no tags of hosted zones: the adapter asks for the tag before each change.",
    )
    function.allow(
        "route53:GetHostedZone",
        "route53:ListResourceRecordSets",
        "route53:ListTagsForResource",
        on=HOSTED_ZONES,
        wildcard_because="Which hosted zones there are is known when agents register.",
    )


def allow_asking_whose_paths(function: Function) -> None:
    """Allow the tags of other traffic paths to be read."""
    function.allow(
        "elasticloadbalancing:DescribeTags",
        on="*",
        wildcard_because="Describe actions of load balancers know nothing narrower.",
    )
    function.allow(
        "route53:ListTagsForResource",
        on=HOSTED_ZONES,
        wildcard_because="Which hosted zones there are is known when agents register.",
    )


def allow_terminating(function: Function) -> None:
    """Allow the termination of instances that we launched."""
    _allow(function, "TerminateInstances", "instance", when=_has_tag(LAUNCHED_TAG))


def allow_ending(function: Function) -> None:
    """Allow what we launched, and whatever else carries its tag, to be ended."""
    allow_terminating(function)
    _allow(function, "DeleteVolume", "volume", when=_has_tag(LAUNCHED_TAG))
    _allow(function, "ReleaseAddress", "elastic-ip", when=_has_tag(LAUNCHED_TAG))


def allow_launching(function: Function) -> None:
    """Allow CreateFleet to launch from an allowed template into an allowed subnet, tagged as ours."""
    function.allow(
        "ec2:CreateFleet",
        on="*",
        wildcard_because="The fleet does not exist before the call; RunInstances says what it may launch from what.",
    )
    for allowed in ("launch-template", "subnet"):
        _allow(function, "RunInstances", allowed, when=_has_tag(ALLOWED_TAG))
    _allow(function, "RunInstances", "instance", when={"Null": {f"aws:RequestTag/{LAUNCHED_TAG}": "false"}})
    for part in ("network-interface", "security-group", "volume", "key-pair", "spot-instances-request"):
        _allow(function, "RunInstances", part)
    for public_part in ("image", "snapshot"):
        _allow(function, "RunInstances", public_part, account="")
    while_creating = {"StringEquals": {"ec2:CreateAction": ["CreateFleet", "RunInstances"]}}
    for created in ("instance", "volume"):
        _allow(function, "CreateTags", created, when=while_creating)
    stack = Stack.of(function)
    function.allow(
        "iam:PassRole",
        on=f"arn:{stack.partition}:iam::{stack.account}:role/{INSTANCE_ROLES_PATH}/*",
        when={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        wildcard_because="Workloads' roles are the tenants' choice, among those that an admin puts under this path.",
    )


def _has_tag(tag: str) -> _Condition:
    return {"Null": {f"aws:ResourceTag/{tag}": "false"}}


def _allow(
    function: Function, action: str, resource: str, *, when: _Condition | None = None, account: str | None = None
) -> None:
    stack = Stack.of(function)
    function.allow(
        f"ec2:{action}",
        on=f"arn:{stack.partition}:ec2:{stack.region}:{stack.account if account is None else account}:{resource}/*",
        when=when,
        wildcard_because="Templates, addresses and instances are the tenants'; tags, not names, say which are ours.",
    )
