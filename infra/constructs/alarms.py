"""What calls a person: a failover that failed, a signal that was lost, a sweep that stopped."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from constructs import Construct

_MINUTE = Duration.minutes(1)


class Alarms(Construct):
    """Alarms that all speak to one topic, which operators subscribe to.

    Attributes:
        topic: Carries alarm names and reasons, no tenant's data.
    """

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self.topic = sns.Topic(self, "Topic", enforce_ssl=True, display_name="Spot Optimizer alarms")

    def when_above_zero(self, name: str, metric: cloudwatch.IMetric, *, meaning: str) -> None:
        """Alarm as soon as a sum over a minute is above zero; silence means all is well."""
        self._add(
            name,
            metric,
            meaning=meaning,
            threshold=0,
            operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            minutes=1,
            missing=cloudwatch.TreatMissingData.NOT_BREACHING,
        )

    def when_silent(self, name: str, metric: cloudwatch.IMetric, *, minutes: int, meaning: str) -> None:
        """Alarm when nothing was counted for some minutes; silence is the failure."""
        self._add(
            name,
            metric,
            meaning=meaning,
            threshold=1,
            operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            minutes=minutes,
            missing=cloudwatch.TreatMissingData.BREACHING,
        )

    def _add(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        *,
        meaning: str,
        threshold: int,
        operator: cloudwatch.ComparisonOperator,
        minutes: int,
        missing: cloudwatch.TreatMissingData,
    ) -> None:
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            alarm_description=meaning,
            threshold=threshold,
            comparison_operator=operator,
            evaluation_periods=minutes,
            datapoints_to_alarm=minutes,
            treat_missing_data=missing,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
