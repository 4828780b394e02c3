"""What asks risk models: the workflow that makes one live, what scores with it, and the decisions for all agents.

A failover needs none of it.
"""

from __future__ import annotations

from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.alarms import Alarms, counted
from infra.constructs.decision_schedule import DecisionSchedule
from infra.constructs.ec2_access import allow_looking
from infra.constructs.failure_queue import FailureQueue
from infra.constructs.function import Function
from infra.constructs.shared_layer import MlLayer, SharedLayer
from infra.constructs.state_machine import StateMachine, state_machine_arn
from infra.constructs.table import CONDITIONAL_WRITES
from infra.settings import Settings
from infra.stacks.data import DataStack


class ModelStack(Stack):
    """What carries the layer that scores.

    Attributes:
        activate_model_arn: Of the state machine.
        decide_fleet: Decides for all agents on schedule, for one when the API asks.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, data: DataStack) -> None:
        super().__init__(
            scope,
            construct_id,
            description="Spot Optimizer: risk models",
            termination_protection=settings.keeps_data,
        )
        self._data = data
        self._settings = settings
        self._layer = SharedLayer(self, "SharedLayer", settings=settings)
        self._ml_layer = MlLayer(self, "MlLayer", settings=settings)
        self.activate_model_arn = state_machine_arn(self, settings, "activate_model")
        activate_model = self._function("ActivateModel", timeout_seconds=120)
        score_risk = self._function("ScoreRisk", timeout_seconds=60)
        failures = FailureQueue(self, "ScheduleFailures")
        failures.allow_events_of(self.account)
        self.decide_fleet = self._function("DecideFleet", timeout_seconds=240, failures=failures.queue)
        self._allow_decide_fleet(self.decide_fleet)
        DecisionSchedule(self, "Decisions", decider=self.decide_fleet, undeliverable=failures.queue)
        self._allow_activate_model(activate_model)
        self._allow_score_risk(score_risk)
        machine = StateMachine(
            self,
            "ActivateModelMachine",
            settings=settings,
            definition="activate_model",
            substitutes={"ActivateModelFunction": activate_model, "ScoreRiskFunction": score_risk},
        )
        alarms = Alarms(self, "Alarms")
        alarms.when_executions_end_badly(
            "ActivateModel",
            machine,
            failed="ActivateModel: a model was rolled back, or its activation failed; what was live before serves.",
            timed_out="ActivateModel: an activation timed out; the next one, or a fallback, ends it first.",
            aborted="ActivateModel: an activation was stopped by hand; the next one, or a fallback, ends it first.",
        )
        alarms.when_function_fails(
            "ScoreRisk", score_risk, meaning="ScoreRisk: rows were not scored; the advisor band stands in."
        )
        alarms.when_function_fails(
            "DecideFleet",
            self.decide_fleet,
            meaning="DecideFleet: nothing was decided; recommendations come from the rule until it is again.",
        )
        alarms.when_silent(
            "DecisionsStandStill",
            counted("FleetDecisions", self.decide_fleet),
            minutes=15,
            meaning="Nobody decides for the agents any more: no schedule has succeeded for a quarter hour.",
        )
        alarms.when_above_zero(
            "DecisionsNotKept",
            counted("DecisionsNotKept", self.decide_fleet),
            meaning="Decisions could not be stored, so that nobody acts upon them, and nobody can explain them.",
        )
        alarms.when_messages_wait(
            "ScheduleLost",
            failures,
            meaning="A scheduled decision failed to the end, or never began; it waits in the dead-letter queue.",
        )
        CfnOutput(self, "DecideFleetFunctionName", value=self.decide_fleet.name)
        CfnOutput(self, "ActivateModelStateMachineArn", value=self.activate_model_arn)
        CfnOutput(self, "ScoreRiskFunctionName", value=score_risk.name)
        CfnOutput(self, "ModelAlarmsTopicArn", value=alarms.topic.topic_arn)

    def _function(self, name: str, *, timeout_seconds: int, failures: sqs.Queue | None = None) -> Function:
        return Function(
            self,
            name,
            settings=self._settings,
            layer=self._layer,
            ml_layer=self._ml_layer,
            environment=self._data.names,
            timeout_seconds=timeout_seconds,
            # one processor, and room for the largest model while it is decoded
            memory_megabytes=1769,
            failures=failures,
        )

    def _allow_activate_model(self, function: Function) -> None:
        data = self._data
        data.model_sessions.allow(function.grantee, *CONDITIONAL_WRITES)
        data.model_slots.allow(function.grantee, *CONDITIONAL_WRITES)
        data.interruptions.allow_query_by(function.grantee, "pool-index")
        data.models.allow(function, "GetObject", "DeleteObject", prefix="sessions")
        data.models.allow(function, "GetObject", prefix="scored")
        for prefix in ("sessions", "scored"):
            data.models.allow_listing(function, prefix=prefix)

    def _allow_score_risk(self, function: Function) -> None:
        data = self._data
        data.model_slots.allow(function.grantee, "GetItem")
        data.models.allow(function, "GetObject", prefix="sessions")
        data.models.allow(function, "PutObject", prefix="scored")

    def _allow_decide_fleet(self, function: Function) -> None:
        data = self._data
        data.agents.allow(function.grantee, "GetItem")
        data.agents.allow_query_by(function.grantee, "listing-index")
        for table in (data.heartbeats, data.instances, data.replicas, data.pools, data.model_slots):
            table.allow(function.grantee, "GetItem")
        data.clean_prices.allow(function.grantee, "Query")
        data.interruptions.allow_query_by(function.grantee, "pool-index")
        data.decisions.allow(function.grantee, "PutItem")
        data.models.allow(function, "GetObject", prefix="sessions")
        data.models.allow(function, "PutObject", prefix="scored")
        allow_looking(function, "DescribeInstanceTypes", "DescribeSubnets")
