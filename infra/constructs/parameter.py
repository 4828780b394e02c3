"""A value that one part of the system looks up by name while it runs."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_ssm as ssm
from constructs import Construct


class Parameter(Construct):
    """An SSM parameter; not secret."""

    def __init__(self, scope: Construct, construct_id: str, *, name: str, value: str, description: str) -> None:
        super().__init__(scope, construct_id)
        ssm.StringParameter(self, "Parameter", parameter_name=name, string_value=value, description=description)


def parameter_arn(scope: Construct, name: str) -> str:
    """Name a parameter's ARN before, or without, defining it.

    Args:
        scope: Anything in the stack whose region and account hold it.
        name: With its leading slash.
    """
    stack = Stack.of(scope)
    return f"arn:{stack.partition}:ssm:{stack.region}:{stack.account}:parameter{name}"
