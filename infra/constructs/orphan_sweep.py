"""When the sweep for orphans runs."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_events as events
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function

SWEPT_EVERY: Final = "rate(5 minutes)"

#: The next sweep does the work of one that could not be started.
_RUN_IS_OLD_SECONDS = 240


class OrphanSweep(Construct):
    """A rule on the clock."""

    def __init__(self, scope: Construct, construct_id: str, *, sweeper: Function, undeliverable: sqs.Queue) -> None:
        """Define the rule.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            sweeper: Invoked with `{}`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        rule = events.CfnRule(
            self,
            "Sweep",
            schedule_expression=SWEPT_EVERY,
            state="ENABLED",
            targets=[
                events.CfnRule.TargetProperty(
                    id="target",
                    arn=sweeper.arn,
                    input="{}",
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=undeliverable.queue_arn),
                    retry_policy=events.CfnRule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=_RUN_IS_OLD_SECONDS, maximum_retry_attempts=4
                    ),
                )
            ],
        )
        lambda_.CfnPermission(
            self,
            "MayInvoke",
            action="lambda:InvokeFunction",
            function_name=sweeper.name,
            principal="events.amazonaws.com",
            source_arn=rule.attr_arn,
        )
