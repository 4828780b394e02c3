"""Rules on the clock: a function is invoked, or a state machine started, time and again."""

from __future__ import annotations

from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.state_machine import StateMachine


def invoke_every(
    scope: Construct,
    name: str,
    every: str,
    *,
    function: Function,
    undeliverable: sqs.Queue,
    old_after_seconds: int,
    sent: str = "{}",
) -> None:
    """Invoke a function on the clock.

    Args:
        scope: Where the rule belongs.
        name: Of the rule.
        every: Such as `rate(5 minutes)`.
        function: Invoked with `sent`.
        undeliverable: Keeps what EventBridge could not hand over.
        old_after_seconds: The next run does the work of one that could not be started by then.
        sent: JSON.
    """
    rule = _rule(scope, name, every, arn=function.arn, sent=sent, queue=undeliverable, old_after=old_after_seconds)
    lambda_.CfnPermission(
        scope,
        f"{name}MayInvoke",
        action="lambda:InvokeFunction",
        function_name=function.name,
        principal="events.amazonaws.com",
        source_arn=rule.attr_arn,
    )


def start_every(
    scope: Construct,
    name: str,
    every: str,
    *,
    machine: StateMachine,
    undeliverable: sqs.Queue,
    old_after_seconds: int,
) -> None:
    """Start a state machine on the clock, with `{}`; the rest as `invoke_every`."""
    arn = machine.machine.state_machine_arn
    role = iam.Role(scope, "StarterRole", assumed_by=iam.ServicePrincipal("events.amazonaws.com"))
    role.add_to_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[arn]))
    _rule(scope, name, every, arn=arn, sent="{}", queue=undeliverable, old_after=old_after_seconds, role=role)


def _rule(
    scope: Construct,
    name: str,
    every: str,
    *,
    arn: str,
    sent: str,
    queue: sqs.Queue,
    old_after: int,
    role: iam.Role | None = None,
) -> events.CfnRule:
    return events.CfnRule(
        scope,
        name,
        schedule_expression=every,
        state="ENABLED",
        targets=[
            events.CfnRule.TargetProperty(
                id="target",
                arn=arn,
                input=sent,
                role_arn=role.role_arn if role else None,
                dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=queue.queue_arn),
                retry_policy=events.CfnRule.RetryPolicyProperty(
                    maximum_event_age_in_seconds=old_after, maximum_retry_attempts=4
                ),
            )
        ],
    )
