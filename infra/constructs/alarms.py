"""What calls a person: a failover that failed, a signal that was lost, a sweep that stopped."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from constructs import Construct

from infra.constructs.failure_queue import FailureQueue
from infra.constructs.function import METRICS_NAMESPACE, Function
from infra.constructs.state_machine import StateMachine

_MINUTE = Duration.minutes(1)


class Alarms(Construct):
    """Alarms that all speak to one topic, which operators subscribe to.

    Attributes:
        topic: Carries alarm names and reasons, no tenant's data.
    """

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self.topic = sns.Topic(self, "Topic", enforce_ssl=True, display_name="Spot Optimizer alarms")

    def when_executions_end_badly(
        self, name: str, machine: StateMachine, *, failed: str, timed_out: str, aborted: str
    ) -> None:
        """Alarm as soon as an execution does not succeed.

        Args:
            name: The definition's name in CamelCase.
            machine: Whose executions.
            failed: What it means that one failed.
            timed_out: That one ran for too long.
            aborted: That one was stopped.
        """
        executions = machine.machine
        self.when_above_zero(f"{name}Failed", executions.metric_failed(period=_MINUTE), meaning=failed)
        self.when_above_zero(f"{name}TimedOut", executions.metric_timed_out(period=_MINUTE), meaning=timed_out)
        self.when_above_zero(f"{name}Aborted", executions.metric_aborted(period=_MINUTE), meaning=aborted)

    def when_function_fails(self, name: str, function: Function, *, meaning: str) -> None:
        """Alarm as soon as an invocation ends with an error."""
        errors = function.function.metric_errors(period=_MINUTE, statistic="Sum")
        self.when_above_zero(f"{name}FunctionErrors", errors, meaning=meaning)

    def when_messages_wait(self, name: str, failures: FailureQueue, *, meaning: str) -> None:
        """Alarm as soon as something could be handed to nobody."""
        waiting = failures.queue.metric_approximate_number_of_messages_visible(period=_MINUTE, statistic="Maximum")
        self.when_above_zero(name, waiting, meaning=meaning)

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


def counted(name: str, by: Function) -> cloudwatch.Metric:
    """What a function counts under a name (`wiring.count`), summed by the minute.

    Powertools writes the function beside each count, and CloudWatch finds a metric by all of its dimensions only.
    """
    return cloudwatch.Metric(
        namespace=METRICS_NAMESPACE,
        metric_name=name,
        dimensions_map={"service": by.folder},
        period=_MINUTE,
        statistic="Sum",
    )
