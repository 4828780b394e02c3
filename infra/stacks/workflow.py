"""What goes on by itself: failovers, from signal to traffic, and the prices, from AWS to a series without gaps."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.alarms import Alarms, counted
from infra.constructs.ec2_access import (
    CATALOGUE,
    allow_ending,
    allow_launching,
    allow_looking,
    allow_moving_addresses,
    allow_moving_other_paths,
    allow_terminating,
)
from infra.constructs.failure_queue import FailureQueue
from infra.constructs.function import Function
from infra.constructs.interruption_signals import InterruptionSignals
from infra.constructs.join_key import JoinKey
from infra.constructs.orphan_sweep import OrphanSweep
from infra.constructs.parameter import parameter_arn
from infra.constructs.price_schedule import PriceSchedule
from infra.constructs.shared_layer import SharedLayer
from infra.constructs.state_machine import (
    StateMachine,
    allow_following_executions,
    allow_waking_tasks,
    state_machine_arn,
)
from infra.constructs.switch_schedule import SwitchSchedule
from infra.constructs.table import CONDITIONAL_WRITES
from infra.settings import Settings
from infra.stacks.data import DataStack

_MINUTE = Duration.minutes(1)


class WorkflowStack(Stack):
    """The workflows.

    Attributes:
        fail_over: Starts failovers, sweeps, and runs each task of one: a failover pays one cold start at most, and the
            sweep keeps it warm.
        fail_over_arn: Of the state machine.
        prepare_replica_arn: Of the state machine.
        fill_gaps_arn: Of the state machine.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, data: DataStack) -> None:
        super().__init__(
            scope,
            construct_id,
            description="Spot Optimizer: signals and workflows",
            termination_protection=settings.keeps_data,
        )
        self._settings = settings
        self._data = data
        self.fail_over_arn = state_machine_arn(self, settings, "fail_over")
        self.prepare_replica_arn = state_machine_arn(self, settings, "prepare_replica")
        self.fill_gaps_arn = state_machine_arn(self, settings, "fill_gaps")
        failures = FailureQueue(self, "Failures")
        failures.allow_events_of(self.account)
        join_key = JoinKey(self, "JoinKey", settings=settings)
        self._layer = SharedLayer(self, "SharedLayer", settings=settings)
        environment = {
            "FAIL_OVER_STATE_MACHINE_ARN": self.fail_over_arn,
            "PREPARE_REPLICA_STATE_MACHINE_ARN": self.prepare_replica_arn,
            "API_URL_PARAMETER": settings.api_url_parameter,
            "HEARTBEAT_TIMEOUT": str(settings.heartbeat_timeout_seconds),
        }
        self.fail_over = self._function(
            "FailOver", environment, timeout_seconds=30, memory_megabytes=1024, failures=failures.queue
        )
        self.prepare_replica = self._function(
            "PrepareReplica", {**environment, "JOIN_KEY_ID": join_key.id}, timeout_seconds=60
        )
        self.collect_prices = self._function("CollectPrices", {}, timeout_seconds=120, failures=failures.queue)
        self.fill_gaps = self._function("FillGaps", {"GAP_RULES": settings.gap_rules}, timeout_seconds=60)
        self.sweep_orphans = self._function(
            "SweepOrphans",
            {
                "ORPHAN_GRACE_SECONDS": str(settings.orphan_grace_seconds),
                "ORPHAN_VOLUME_GRACE_SECONDS": str(settings.orphan_volume_grace_seconds),
            },
            timeout_seconds=120,
            failures=failures.queue,
        )
        self.switch_agents = self._function(
            "SwitchAgents",
            {"PREPARE_REPLICA_STATE_MACHINE_ARN": self.prepare_replica_arn},
            timeout_seconds=60,
            failures=failures.queue,
        )
        self._allow_fail_over(settings)
        self._allow_sweep_orphans()
        self._allow_prepare_replica(settings)
        self._allow_collect_prices()
        self._allow_fill_gaps()
        self._allow_switch_agents(settings)
        join_key.allow_deriving(self.prepare_replica.grantee)

        machines = {
            name: StateMachine(
                self,
                f"{name}Machine",
                settings=settings,
                definition=definition,
                substitutes={f"{name}Function": function},
            )
            for name, definition, function in (
                ("FailOver", "fail_over", self.fail_over),
                ("PrepareReplica", "prepare_replica", self.prepare_replica),
                ("FillGaps", "fill_gaps", self.fill_gaps),
                ("SwitchAgents", "switch_agents", self.switch_agents),
            )
        }
        InterruptionSignals(self, "Signals", starter=self.fail_over, undeliverable=failures.queue)
        PriceSchedule(
            self,
            "Prices",
            collector=self.collect_prices,
            filling=machines["FillGaps"],
            undeliverable=failures.queue,
        )
        OrphanSweep(self, "Orphans", sweeper=self.sweep_orphans, undeliverable=failures.queue)
        SwitchSchedule(
            self,
            "Switches",
            switching=machines["SwitchAgents"],
            switcher=self.switch_agents,
            undeliverable=failures.queue,
        )
        self._watch(machines, failures)

        CfnOutput(self, "FailOverStateMachineArn", value=self.fail_over_arn)
        CfnOutput(self, "PrepareReplicaStateMachineArn", value=self.prepare_replica_arn)
        CfnOutput(self, "FillGapsStateMachineArn", value=self.fill_gaps_arn)
        CfnOutput(self, "SwitchAgentsStateMachineArn", value=state_machine_arn(self, settings, "switch_agents"))
        CfnOutput(self, "SwitchAgentsFunctionName", value=self.switch_agents.name)
        CfnOutput(self, "CollectPricesFunctionName", value=self.collect_prices.name)
        CfnOutput(self, "FailOverFunctionName", value=self.fail_over.name)
        CfnOutput(self, "SweepOrphansFunctionName", value=self.sweep_orphans.name)

    def _function(
        self,
        name: str,
        environment: Mapping[str, str],
        *,
        timeout_seconds: int,
        memory_megabytes: int = 512,
        failures: sqs.Queue | None = None,
    ) -> Function:
        return Function(
            self,
            name,
            settings=self._settings,
            layer=self._layer,
            environment={**self._data.names, **environment},
            timeout_seconds=timeout_seconds,
            memory_megabytes=memory_megabytes,
            failures=failures,
        )

    def _allow_fail_over(self, settings: Settings) -> None:
        data, function = self._data, self.fail_over
        data.agents.allow(function.grantee, *CONDITIONAL_WRITES)
        data.agents.allow_query_by(function.grantee, "listing-index")
        data.fleet_controls.allow(function.grantee, "GetItem")
        data.interruptions.allow_query_by(function.grantee, "pool-index")
        # what a model said of an agent before, where AWS recommends a rebalance
        data.decisions.allow(function.grantee, "Query")
        data.heartbeats.allow(function.grantee, "GetItem")
        data.instances.allow(function.grantee, *CONDITIONAL_WRITES)
        data.replicas.allow(function.grantee, "Query", *CONDITIONAL_WRITES)
        data.interruptions.allow(function.grantee, *CONDITIONAL_WRITES)
        data.switches.allow(function.grantee, *CONDITIONAL_WRITES)
        data.state_snapshots.allow(function.grantee, "GetItem")
        for machine in ("fail_over", "prepare_replica"):
            function.allow("states:StartExecution", on=state_machine_arn(self, settings, machine))
            allow_following_executions(function, settings, machine)
        allow_waking_tasks(function)
        allow_looking(function, "DescribeInstances", "DescribeAddresses")
        allow_moving_addresses(function)
        allow_moving_other_paths(function)
        allow_terminating(function)

    def _allow_prepare_replica(self, settings: Settings) -> None:
        data, function = self._data, self.prepare_replica
        data.agents.allow(function.grantee, *CONDITIONAL_WRITES)
        data.heartbeats.allow(function.grantee, "GetItem")
        data.instances.allow(function.grantee, *CONDITIONAL_WRITES)
        data.replicas.allow(function.grantee, "Query", *CONDITIONAL_WRITES)
        data.interruptions.allow_query_by(function.grantee, "pool-index")
        data.tokens.allow(function.grantee, *CONDITIONAL_WRITES)
        allow_waking_tasks(function)
        function.allow("ssm:GetParameter", on=parameter_arn(self, settings.api_url_parameter))
        allow_looking(function, "DescribeInstances", *CATALOGUE)
        allow_launching(function)
        allow_terminating(function)

    def _allow_sweep_orphans(self) -> None:
        data, function = self._data, self.sweep_orphans
        for table in (data.agents, data.replicas, data.instances, data.interruptions):
            table.allow(function.grantee, "GetItem")
        data.fleet_controls.allow(function.grantee, *CONDITIONAL_WRITES)
        allow_looking(
            function, "DescribeInstances", "DescribeSpotInstanceRequests", "DescribeVolumes", "DescribeAddresses"
        )
        allow_ending(function)

    def _allow_collect_prices(self) -> None:
        data, function = self._data, self.collect_prices
        data.agents.allow_query_by(function.grantee, "listing-index")
        data.pools.allow(function.grantee, "GetItem", "UpdateItem")
        data.pools.allow_query_by(function.grantee, "listing-index")
        data.raw_prices.allow(function.grantee, "PutItem")
        data.clean_prices.allow(function.grantee, "UpdateItem", "Query")
        allow_looking(function, "DescribeSpotPriceHistory", "DescribeSubnets")
        function.allow("pricing:GetProducts", on="*", wildcard_because="The Price List knows no resources.")
        # the public feed of AWS's Spot Instance Advisor
        function.allow("s3:GetObject", on=f"arn:{self.partition}:s3:::spot-bid-advisor/spot-advisor-data.json")

    def _allow_fill_gaps(self) -> None:
        data, function = self._data, self.fill_gaps
        data.pools.allow(function.grantee, "GetItem")
        data.pools.allow_query_by(function.grantee, "listing-index")
        data.raw_prices.allow(function.grantee, "PutItem")
        data.clean_prices.allow(function.grantee, "UpdateItem", "Query")
        # an inference that nothing bears out any more is the one thing here that is ever deleted
        data.inferred_prices.allow(function.grantee, "UpdateItem", "Query", "DeleteItem")
        allow_looking(function, "DescribeSpotPriceHistory")

    def _allow_switch_agents(self, settings: Settings) -> None:
        data, function = self._data, self.switch_agents
        data.agents.allow(function.grantee, *CONDITIONAL_WRITES)
        data.agents.allow_query_by(function.grantee, "listing-index")
        data.fleet_controls.allow(function.grantee, "GetItem")
        data.heartbeats.allow(function.grantee, "GetItem")
        data.replicas.allow(function.grantee, "Query", *CONDITIONAL_WRITES)
        data.switches.allow(function.grantee, "GetItem", "UpdateItem")
        data.switches.allow_query_by(function.grantee, "listing-index")
        data.interruptions.allow_query_by(function.grantee, "pool-index")
        data.pools.allow(function.grantee, "GetItem")
        data.decisions.allow(function.grantee, "Query")
        # a switch is only begun here: its replica is launched, and handed to, by those who may
        function.allow("states:StartExecution", on=state_machine_arn(self, settings, "prepare_replica"))
        allow_looking(function, *CATALOGUE)

    def _watch(self, machines: Mapping[str, StateMachine], failures: FailureQueue) -> None:
        alarms = Alarms(self, "Alarms")
        for name, machine in machines.items():
            alarms.when_executions_end_badly(
                name,
                machine,
                failed=f"{name}: an execution failed.",
                timed_out=f"{name}: an execution timed out.",
                aborted=f"{name}: an execution was stopped by hand.",
            )
        for name, function in (
            ("FailOver", self.fail_over),
            ("PrepareReplica", self.prepare_replica),
            ("CollectPrices", self.collect_prices),
            ("FillGaps", self.fill_gaps),
            ("SweepOrphans", self.sweep_orphans),
            ("SwitchAgents", self.switch_agents),
        ):
            alarms.when_function_fails(
                name,
                function,
                meaning=f"{name}: a task ended with an error; the state machine may have retried it.",
            )
            alarms.when_above_zero(
                f"{name}FunctionThrottled",
                function.function.metric_throttles(period=_MINUTE, statistic="Sum"),
                meaning=f"{name}: Lambda had no capacity left for a task.",
            )
        alarms.when_silent(
            "SweepStopped",
            counted("Sweeps", self.fail_over),
            minutes=5,
            meaning="Nobody looks for silent agents any more: no one-minute sweep has succeeded for five minutes.",
        )
        alarms.when_silent(
            "CollectorStandsStill",
            counted("PriceCollections", self.collect_prices),
            minutes=15,
            meaning="No prices come from AWS any more: no collection has succeeded for a quarter hour.",
        )
        alarms.when_above_zero(
            "OrphanSweepHalted",
            counted("OrphanSweepsHalted", self.sweep_orphans),
            meaning="More seems to be nobody's than one sweep may end: it ended nothing; look at GET /api/orphans.",
        )
        alarms.when_silent(
            "OrphanSweepStandsStill",
            counted("OrphanSweeps", self.sweep_orphans),
            minutes=30,
            meaning="Nobody looks for orphans any more: no sweep for them has succeeded for half an hour.",
        )
        alarms.when_messages_wait(
            "SignalLost", failures, meaning="A signal reached nobody; it waits in the dead-letter queue."
        )
        CfnOutput(self, "AlarmsTopicArn", value=alarms.topic.topic_arn)
