"""Joins ports to adapters. Everything is built on first use and kept for the life of the process, never at import."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import MetricUnit, single_metric

from spot_optimizer.config import Config
from spot_optimizer.domain.agents import TrafficAdapter
from spot_optimizer.domain.writes import Table

if TYPE_CHECKING:
    from spot_optimizer.adapters.allowances import TaggedResources
    from spot_optimizer.adapters.clients import DynamoClients
    from spot_optimizer.adapters.database import Database
    from spot_optimizer.adapters.decider import LambdaDecider
    from spot_optimizer.adapters.decisions import DynamoDecisions
    from spot_optimizer.adapters.fleet import DynamoFleet
    from spot_optimizer.adapters.history import DynamoHistory
    from spot_optimizer.adapters.identity import SignedDocuments
    from spot_optimizer.adapters.inventory import Ec2Inventory
    from spot_optimizer.adapters.log_tails import S3LogTails
    from spot_optimizer.adapters.model_objects import S3ModelFiles
    from spot_optimizer.adapters.model_outcomes import S3Outcomes
    from spot_optimizer.adapters.model_sessions import DynamoModels
    from spot_optimizer.adapters.parameters import Parameters
    from spot_optimizer.adapters.prices import DynamoPrices
    from spot_optimizer.adapters.reconciling import LambdaReconciling
    from spot_optimizer.adapters.records import DynamoRecords
    from spot_optimizer.adapters.rehearsing import Ec2DryRuns
    from spot_optimizer.adapters.sessions import Clients
    from spot_optimizer.adapters.snapshot_objects import S3SnapshotObjects
    from spot_optimizer.adapters.uptime import DynamoUptime
    from spot_optimizer.adapters.workflows import StepFunctionsActivations
    from spot_optimizer.control.deciding import DecidingPlane
    from spot_optimizer.control.examining import Rehearsing, Surroundings
    from spot_optimizer.control.live_model import LiveModel
    from spot_optimizer.control.model_plane import ModelPlane
    from spot_optimizer.control.plane import Plane
    from spot_optimizer.control.reporting import ReportingPlane
    from spot_optimizer.control.switching import SwitchingPlane
    from spot_optimizer.ports import (
        Advisor,
        Compute,
        Filling,
        Fleet,
        Joining,
        LoadModel,
        PriceHistory,
        PriceList,
        Records,
        TrafficPath,
        Workflows,
    )

logger = Logger(service="spot-optimizer")


def clock() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


def count(name: str, number: int, **dimensions: str) -> None:
    """Add to a metric of the product: a line of the log, which CloudWatch reads as a number."""
    with single_metric(name=name, unit=MetricUnit.Count, value=number, namespace="SpotOptimizer") as metric:
        for dimension, value in dimensions.items():
            metric.add_dimension(name=dimension, value=value)


def new_secret() -> str:
    """A secret that nobody can guess."""
    return secrets.token_hex(32)


def new_id() -> str:
    """An id that nobody else has."""
    return secrets.token_hex(10)


@lru_cache
def settings() -> Config:
    """What the deployment told this function."""
    return Config.from_environment()


@lru_cache
def _clients() -> Clients:
    from spot_optimizer.adapters.sessions import Clients

    return Clients(settings().region)


@lru_cache
def _database() -> Database:
    from spot_optimizer.adapters.database import Database

    return Database(_clients())


@lru_cache
def records() -> DynamoRecords:
    """The tables a failover reads and writes."""
    from spot_optimizer.adapters.records import DynamoRecords

    config = settings()
    return DynamoRecords(
        _database(), tables=config.tables_given(), heartbeats_table_name=lambda: config.heartbeats_table
    )


@lru_cache
def fleet() -> DynamoFleet:
    """Agents and pools across agents."""
    from spot_optimizer.adapters.fleet import DynamoFleet

    config = settings()
    return DynamoFleet(
        _database(),
        agents_table_name=lambda: config.table(Table.AGENTS),
        interruptions_table_name=lambda: config.table(Table.INTERRUPTIONS),
        decisions_table_name=lambda: config.decisions_table,
    )


@lru_cache
def history() -> DynamoHistory:
    """What happened, as people look at it."""
    from spot_optimizer.adapters.history import DynamoHistory

    config = settings()
    return DynamoHistory(
        _database(),
        switches_table_name=lambda: config.table(Table.SWITCHES),
        interruptions_table_name=lambda: config.table(Table.INTERRUPTIONS),
        instances_table_name=lambda: config.table(Table.INSTANCES),
    )


@lru_cache
def compute() -> Compute:
    """EC2."""
    from spot_optimizer.adapters.compute import Ec2Compute

    return Ec2Compute(_clients())


@lru_cache
def paths() -> Mapping[TrafficAdapter, TrafficPath]:
    """Traffic paths, but for Elastic IPs."""
    from spot_optimizer.adapters.dns import DnsRecords
    from spot_optimizer.adapters.target_groups import TargetGroups

    return {TrafficAdapter.TARGET_GROUP: TargetGroups(_clients()), TrafficAdapter.ROUTE53: DnsRecords(_clients())}


@lru_cache
def inventory() -> Ec2Inventory:
    """What carries our tag on EC2."""
    from spot_optimizer.adapters.inventory import Ec2Inventory

    return Ec2Inventory(_clients())


@lru_cache
def workflows() -> Workflows:
    """Step Functions."""
    from spot_optimizer.adapters.workflows import StepFunctionsWorkflows

    config = settings()
    return StepFunctionsWorkflows(
        _clients(),
        fail_over_machine=lambda: config.fail_over_state_machine_arn,
        prepare_replica_machine=lambda: config.prepare_replica_state_machine_arn,
    )


@lru_cache
def prices() -> DynamoPrices:
    """The tables of prices."""
    from spot_optimizer.adapters.prices import DynamoPrices

    config = settings()
    return DynamoPrices(_database(), table_name=config.table, raw_table_name=lambda: config.raw_prices_table)


@lru_cache
def price_history() -> PriceHistory:
    """AWS's own price history."""
    from spot_optimizer.adapters.price_history import Ec2PriceHistory

    return Ec2PriceHistory(_clients())


@lru_cache
def price_list() -> PriceList:
    """What AWS asks for instances on demand."""
    from spot_optimizer.adapters.price_list import AwsPriceList

    return AwsPriceList(_clients())


@lru_cache
def advisor() -> Advisor:
    """AWS's Spot Instance Advisor."""
    from spot_optimizer.adapters.advisor import AwsAdvisor

    return AwsAdvisor(_clients())


@lru_cache
def filling() -> Filling:
    """The workflow that fills gaps in prices."""
    from spot_optimizer.adapters.workflows import StepFunctionsFilling

    config = settings()
    return StepFunctionsFilling(_clients(), machine=lambda: config.fill_gaps_state_machine_arn)


@lru_cache
def _parameters() -> Parameters:
    from spot_optimizer.adapters.parameters import Parameters

    return Parameters(_clients())


@lru_cache
def joining() -> Joining:
    """What a launched instance needs to join."""
    from spot_optimizer.adapters.joining import KmsJoining

    config = settings()
    return KmsJoining(
        _clients(),
        _parameters(),
        records(),
        join_key_id=lambda: config.join_key_id,
        api_url_parameter=lambda: config.api_url_parameter,
    )


class _WiredPlane:
    """The control plane's ports on AWS, each built when it is first asked for."""

    @property
    def records(self) -> Records:
        return records()

    @property
    def fleet(self) -> Fleet:
        return fleet()

    @property
    def compute(self) -> Compute:
        return compute()

    @property
    def paths(self) -> Mapping[TrafficAdapter, TrafficPath]:
        return paths()

    @property
    def workflows(self) -> Workflows:
        return workflows()

    @property
    def joining(self) -> Joining:
        return joining()

    def clock(self) -> datetime:
        return clock()


@lru_cache
def plane() -> Plane:
    """Everything that the control plane's work needs from outside."""
    return _WiredPlane()


@lru_cache
def clients() -> DynamoClients:
    """The tenants."""
    from spot_optimizer.adapters.clients import DynamoClients

    return DynamoClients(_database(), settings().clients_table)


@lru_cache
def proofs() -> SignedDocuments:
    """Who signs what EC2 says of an instance."""
    from spot_optimizer.adapters.identity import SignedDocuments

    config = settings()
    return SignedDocuments(_parameters(), parameter_name=lambda: config.identity_certificate_parameter)


@lru_cache
def allowances() -> TaggedResources:
    """What an admin has allowed a client to use."""
    from spot_optimizer.adapters.allowances import TaggedResources

    return TaggedResources(_clients())


@lru_cache
def log_tails() -> S3LogTails:
    """Where agents put the tail of their log."""
    from spot_optimizer.adapters.log_tails import S3LogTails

    config = settings()
    return S3LogTails(_clients(), bucket=lambda: config.snapshots_bucket)


@lru_cache
def snapshot_objects() -> S3SnapshotObjects:
    """Where snapshots lie."""
    from spot_optimizer.adapters.snapshot_objects import S3SnapshotObjects

    config = settings()
    return S3SnapshotObjects(_clients(), bucket=lambda: config.snapshots_bucket)


@lru_cache
def reconciling() -> LambdaReconciling:
    """Has traffic moved without waiting for it."""
    from spot_optimizer.adapters.reconciling import LambdaReconciling

    config = settings()
    return LambdaReconciling(_clients(), function_name=lambda: config.fail_over_function)


@lru_cache
def models() -> DynamoModels:
    """What is known of uploaded models."""
    from spot_optimizer.adapters.model_sessions import DynamoModels

    config = settings()
    return DynamoModels(
        _database(),
        sessions_table_name=lambda: config.table(Table.MODEL_SESSIONS),
        slots_table_name=lambda: config.table(Table.MODEL_SLOTS),
    )


@lru_cache
def model_files() -> S3ModelFiles:
    """The files of uploaded models."""
    from spot_optimizer.adapters.model_objects import S3ModelFiles

    config = settings()
    return S3ModelFiles(_clients(), bucket=lambda: config.models_bucket)


@lru_cache
def activations() -> StepFunctionsActivations:
    """The state machine that activates models."""
    from spot_optimizer.adapters.workflows import StepFunctionsActivations

    config = settings()
    return StepFunctionsActivations(_clients(), machine=lambda: config.activate_model_state_machine_arn)


@lru_cache
def outcomes() -> S3Outcomes:
    """What was scored, and what became of it."""
    from spot_optimizer.adapters.model_outcomes import S3Outcomes

    config = settings()
    return S3Outcomes(
        _clients(),
        _database(),
        bucket=lambda: config.models_bucket,
        interruptions_table_name=lambda: config.table(Table.INTERRUPTIONS),
    )


class _WiredModelPlane:
    """The ports that models are handled through on AWS, each built when it is first asked for."""

    @property
    def models(self) -> DynamoModels:
        return models()

    @property
    def model_files(self) -> S3ModelFiles:
        return model_files()

    @property
    def activations(self) -> StepFunctionsActivations:
        return activations()

    @property
    def outcomes(self) -> S3Outcomes:
        return outcomes()

    def clock(self) -> datetime:
        return clock()


@lru_cache
def model_plane() -> ModelPlane:
    """Everything that handling models needs from outside."""
    return _WiredModelPlane()


@lru_cache
def live_model(load: LoadModel) -> LiveModel:
    """What this process serves.

    Args:
        load: Makes a model of its files; only functions that carry the layer which scores have one.
    """
    from spot_optimizer.control import model_activation
    from spot_optimizer.control.live_model import LiveModel

    return LiveModel(
        models(),
        read=lambda session_id: model_activation.load_model(model_plane(), session_id, load=load),
        clock=clock,
        warn=logger.warning,
    )


@lru_cache
def decisions() -> DynamoDecisions:
    """What was decided for agents."""
    from spot_optimizer.adapters.decisions import DynamoDecisions

    config = settings()
    return DynamoDecisions(_database(), table_name=lambda: config.decisions_table)


@lru_cache
def decider() -> LambdaDecider:
    """What decides with a model, asked for one agent."""
    from spot_optimizer.adapters.decider import LambdaDecider

    config = settings()
    return LambdaDecider(_clients(), function_name=lambda: config.decide_fleet_function)


class _WiredDecidingPlane(_WiredPlane):
    """The ports that decisions are made through on AWS, each built when it is first asked for."""

    @property
    def prices(self) -> DynamoPrices:
        return prices()

    @property
    def price_history(self) -> PriceHistory:
        return price_history()

    @property
    def decisions(self) -> DynamoDecisions:
        return decisions()

    @property
    def decider(self) -> LambdaDecider:
        return decider()


@lru_cache
def switching_plane() -> SwitchingPlane:
    """Everything that switches need from outside."""
    return _WiredDecidingPlane()


@lru_cache
def deciding_plane() -> DecidingPlane:
    """Everything that deciding needs from outside."""
    return _WiredDecidingPlane()


@lru_cache
def uptime() -> DynamoUptime:
    """For how long health checks passed."""
    from spot_optimizer.adapters.uptime import DynamoUptime

    config = settings()
    return DynamoUptime(_database(), table_name=lambda: config.heartbeats_table)


class _WiredReportingPlane:
    """What reports are made of on AWS, each built when it is first asked for."""

    @property
    def rows(self) -> DynamoRecords:
        return records()

    @property
    def history(self) -> DynamoHistory:
        return history()

    @property
    def fleet(self) -> DynamoFleet:
        return fleet()

    @property
    def prices(self) -> DynamoPrices:
        return prices()

    @property
    def hours_passed(self) -> DynamoUptime:
        return uptime()

    def clock(self) -> datetime:
        return clock()


@lru_cache
def reporting_plane() -> ReportingPlane:
    """Everything that reports need from outside."""
    return _WiredReportingPlane()


@lru_cache
def dry_runs() -> Ec2DryRuns:
    """EC2, asked what it would do."""
    from spot_optimizer.adapters.rehearsing import Ec2DryRuns

    return Ec2DryRuns(_clients())


@lru_cache
def rehearsing() -> Rehearsing:
    """Has a launch rehearsed by the function that would make it."""
    from spot_optimizer.adapters.rehearsing import LambdaRehearsing

    config = settings()
    return LambdaRehearsing(_clients(), function_name=lambda: config.prepare_replica_function)


@lru_cache
def surroundings() -> Surroundings:
    """What AWS says of the account that agents live in."""
    from spot_optimizer.adapters.surroundings import Ec2Surroundings

    return Ec2Surroundings(_clients(), compute())


def warm_up() -> None:
    """Build what a failover needs at once, so that a process that is kept warm has it before the first signal comes."""
    clients = _clients()
    _ = (_database().connection.client, clients.ec2, clients.step_functions)
