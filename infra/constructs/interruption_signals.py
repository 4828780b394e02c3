"""What wakes the failover: EC2's own events, and a look at silent agents every minute."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_cdk import aws_events as events
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function

_EC2_SIGNALS: Mapping[str, Mapping[str, object]] = {
    "SpotInterruptionWarning": {"detail-type": ["EC2 Spot Instance Interruption Warning"]},
    "RebalanceRecommendation": {"detail-type": ["EC2 Instance Rebalance Recommendation"]},
    # a start is no signal; `shutting-down` is not yet death, but tells where to look next
    "InstanceStateChange": {
        "detail-type": ["EC2 Instance State-change Notification"],
        "detail": {"state": ["shutting-down", "stopping", "stopped", "terminated"]},
    },
}

#: A signal that could not be delivered for so long is about an instance that is gone; the sweep finds it.
_SIGNAL_IS_OLD_SECONDS = 300


class InterruptionSignals(Construct):
    """Rules of the default event bus that carry each signal, unchanged, to the one starter of failovers."""

    def __init__(self, scope: Construct, construct_id: str, *, starter: Function, undeliverable: sqs.Queue) -> None:
        """Define the rules.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            starter: Told `{"task": "NoteSignal", "event": …}` and, each minute, `{"task": "SweepSilentAgents"}`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        self._starter = starter
        self._undeliverable = undeliverable
        for name, pattern in _EC2_SIGNALS.items():
            # the whole event, as JSON: a path expression could only pick parts of it
            self._add_rule(
                name,
                pattern={"source": ["aws.ec2"], **pattern},
                input_transformer=events.CfnRule.InputTransformerProperty(
                    input_template='{"task":"NoteSignal","event":<aws.events.event.json>}'
                ),
            )
        self._add_rule("SweepSilentAgents", schedule="rate(1 minute)", constant={"task": "SweepSilentAgents"})

    def _add_rule(
        self,
        name: str,
        *,
        pattern: Mapping[str, object] | None = None,
        schedule: str | None = None,
        input_transformer: events.CfnRule.InputTransformerProperty | None = None,
        constant: Mapping[str, object] | None = None,
    ) -> None:
        rule = events.CfnRule(
            self,
            name,
            event_pattern=pattern,
            schedule_expression=schedule,
            state="ENABLED",
            targets=[
                events.CfnRule.TargetProperty(
                    id="starter",
                    arn=self._starter.arn,
                    input=json.dumps(constant) if constant else None,
                    input_transformer=input_transformer,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=self._undeliverable.queue_arn),
                    retry_policy=events.CfnRule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=_SIGNAL_IS_OLD_SECONDS, maximum_retry_attempts=20
                    ),
                )
            ],
        )
        lambda_.CfnPermission(
            self,
            f"{name}MayInvoke",
            action="lambda:InvokeFunction",
            function_name=self._starter.name,
            principal="events.amazonaws.com",
            source_arn=rule.attr_arn,
        )
