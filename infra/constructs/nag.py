"""A rule of cdk-nag set aside for one resource, always with the reason."""

from __future__ import annotations

from typing import Any

from aws_cdk import Acknowledgment, Stack, Validations
from constructs import IConstruct


def acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    """Set one rule aside for one construct.

    Args:
        construct: The narrowest construct that the finding is about.
        rule: Such as `AwsSolutions-S1`.
        reason: Why the rule does not apply here; a reviewer reads it.
    """
    Validations.of(construct).acknowledge(Acknowledgment(id=rule, reason=reason))


def acknowledge_wildcard(role: IConstruct, resource_arn: str, reason: str) -> None:
    """Let a role's policy name a resource with a wildcard, this one and no other.

    Args:
        role: Whose policy names it.
        resource_arn: As it stands in the policy; may hold tokens.
        reason: Why nothing narrower will do.
    """
    named = _as_findings_write_it(Stack.of(role).resolve(resource_arn))
    acknowledge(role, f"AwsSolutions-IAM5[Resource::{named}]", reason)


def _as_findings_write_it(value: Any) -> str:
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [resource, attribute]}:
            return f"<{resource}.{attribute}>"
        case {"Fn::ImportValue": name}:
            return str(name)
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(_as_findings_write_it(part) for part in parts)
        case _:
            return str(value)
