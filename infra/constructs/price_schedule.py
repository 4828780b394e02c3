"""When prices are collected, and when their gaps are filled."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.state_machine import StateMachine

COLLECTED_EVERY: Final = "rate(5 minutes)"
FILLED_EVERY: Final = "rate(15 minutes)"

#: The next run does the work of one that could not be started.
_RUN_IS_OLD_SECONDS = 240


class PriceSchedule(Construct):
    """Two rules on the clock."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        collector: Function,
        filling: StateMachine,
        undeliverable: sqs.Queue,
    ) -> None:
        """Define the rules.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            collector: Invoked each five minutes.
            filling: Started each quarter hour with `{}`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        self._undeliverable = undeliverable
        rule = self._add_rule("Collect", COLLECTED_EVERY, arn=collector.arn)
        lambda_.CfnPermission(
            self,
            "CollectMayInvoke",
            action="lambda:InvokeFunction",
            function_name=collector.name,
            principal="events.amazonaws.com",
            source_arn=rule.attr_arn,
        )
        role = iam.Role(self, "StarterRole", assumed_by=iam.ServicePrincipal("events.amazonaws.com"))
        role.add_to_policy(
            iam.PolicyStatement(actions=["states:StartExecution"], resources=[filling.machine.state_machine_arn])
        )
        self._add_rule("Fill", FILLED_EVERY, arn=filling.machine.state_machine_arn, role=role)

    def _add_rule(self, name: str, every: str, *, arn: str, role: iam.Role | None = None) -> events.CfnRule:
        return events.CfnRule(
            self,
            name,
            schedule_expression=every,
            state="ENABLED",
            targets=[
                events.CfnRule.TargetProperty(
                    id="target",
                    arn=arn,
                    input="{}",
                    role_arn=role.role_arn if role else None,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=self._undeliverable.queue_arn),
                    retry_policy=events.CfnRule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=_RUN_IS_OLD_SECONDS, maximum_retry_attempts=4
                    ),
                )
            ],
        )
