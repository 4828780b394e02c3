"""When workloads are considered for a move, and when it is looked at what their moves came to."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.state_machine import StateMachine

CONSIDERED_EVERY: Final = "rate(15 minutes)"
REALISED_EVERY: Final = "rate(1 hour)"

#: The next run does the work of one that could not be started.
_RUN_IS_OLD_SECONDS = 600


class SwitchSchedule(Construct):
    """Two rules on the clock."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        switching: StateMachine,
        switcher: Function,
        undeliverable: sqs.Queue,
    ) -> None:
        """Define the rules.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            switching: Started each quarter hour with `{}`.
            switcher: Invoked each hour with the task `RealiseSavings`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        self._undeliverable = undeliverable
        role = iam.Role(self, "StarterRole", assumed_by=iam.ServicePrincipal("events.amazonaws.com"))
        machine_arn = switching.machine.state_machine_arn
        role.add_to_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[machine_arn]))
        self._add_rule("Consider", CONSIDERED_EVERY, arn=machine_arn, sent="{}", role=role)
        rule = self._add_rule("Realise", REALISED_EVERY, arn=switcher.arn, sent='{"task": "RealiseSavings"}')
        lambda_.CfnPermission(
            self,
            "RealiseMayInvoke",
            action="lambda:InvokeFunction",
            function_name=switcher.name,
            principal="events.amazonaws.com",
            source_arn=rule.attr_arn,
        )

    def _add_rule(self, name: str, every: str, *, arn: str, sent: str, role: iam.Role | None = None) -> events.CfnRule:
        return events.CfnRule(
            self,
            name,
            schedule_expression=every,
            state="ENABLED",
            targets=[
                events.CfnRule.TargetProperty(
                    id="target",
                    arn=arn,
                    input=sent,
                    role_arn=role.role_arn if role else None,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=self._undeliverable.queue_arn),
                    retry_policy=events.CfnRule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=_RUN_IS_OLD_SECONDS, maximum_retry_attempts=4
                    ),
                )
            ],
        )
