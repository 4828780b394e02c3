"""When it is decided for all agents."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_events as events
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function

DECIDED_EVERY: Final = "rate(5 minutes)"

#: The next run does the work of one that could not be started.
_RUN_IS_OLD_SECONDS: Final = 240


class DecisionSchedule(Construct):
    """A rule on the clock."""

    def __init__(self, scope: Construct, construct_id: str, *, decider: Function, undeliverable: sqs.Queue) -> None:
        """Define the rule.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            decider: Invoked each five minutes with `{}`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        rule = events.CfnRule(
            self,
            "Decide",
            schedule_expression=DECIDED_EVERY,
            state="ENABLED",
            targets=[
                events.CfnRule.TargetProperty(
                    id="target",
                    arn=decider.arn,
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
            "DecideMayInvoke",
            action="lambda:InvokeFunction",
            function_name=decider.name,
            principal="events.amazonaws.com",
            source_arn=rule.attr_arn,
        )
