"""Requests and answers of the calls about replicas, handovers and emergencies."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from spot_optimizer.api.fields import (
    Answer,
    Body,
    Epoch,
    InstanceId,
    Moment,
    Name,
    Number,
    PoolId,
    Reason,
    Seconds,
    Word,
    Zone,
)
from spot_optimizer.api.fleet import CandidateAnswer
from spot_optimizer.control.emergencies import Alarm
from spot_optimizer.control.signals import Started
from spot_optimizer.control.sync_reports import SyncReport
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.catalogue import Candidate
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.replicas import Replica, SyncPace
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.errors import InvalidRequest


class ReplicaRequest(Body):
    """An operator wants a replica."""

    pool_id: PoolId | None = Field(default=None, description="None lets the cheapest acceptable pool be chosen.")
    exclude_zones: Annotated[tuple[Zone, ...], Field(max_length=10)] = ()
    created_by: Name | None = Field(default=None, description="Whom to name as its creator.")


class ReplicaAnswer(Answer):
    """One replica."""

    agent_id: str
    replica_id: str
    type: str
    status: str
    epoch: int
    created_by: str
    created_at: Moment
    requested_pool_id: str | None
    exclude_zones: tuple[str, ...]
    pool_id: str | None
    lifecycle: str | None
    instance_id: str | None
    readiness: int
    attempts: tuple[dict[str, Any], ...]
    generation: int
    sync_percent: float
    lag_seconds: float | None
    covered_until: Moment | None
    sync_done_bytes: int | None
    sync_total_bytes: int | None
    sync_bytes_per_second: float | None
    ready_at: Moment | None
    ended_at: Moment | None
    failure: str | None
    requested_lifecycle: str | None
    switch_reason: str | None = Field(description="It takes over as soon as it is ready; null where it stands by.")
    switch_explanation: str | None
    switch_asked_at: Moment | None
    old_usd_per_hour: Decimal | None
    new_usd_per_hour: Decimal | None

    @classmethod
    def of(cls, replica: Replica) -> ReplicaAnswer:
        """From the replica's row."""
        return cls.model_validate(replica)


class ReplicaAskedAnswer(ReplicaAnswer):
    """A replica that an operator asked for, and the pools that it is chosen from."""

    considered: tuple[CandidateAnswer, ...] = Field(description="The agent's pools as they stood; each says why not.")

    @classmethod
    def asked(cls, replica: Replica, candidates: Sequence[Candidate]) -> ReplicaAskedAnswer:
        """From the replica's row and the catalogue."""
        considered = tuple(map(CandidateAnswer.of, candidates))
        return cls.model_validate({**ReplicaAnswer.of(replica).model_dump(), "considered": considered})


class ReplicasAnswer(Answer):
    """Replicas of an agent, by id."""

    replicas: tuple[ReplicaAnswer, ...]
    next_cursor: str | None = None


class SyncStatusRequest(Body):
    """How far a replica is; `ready` says that its primary holds its lease and it may take over."""

    epoch: Epoch
    status: Literal["syncing", "ready"]
    generation: Number = 0
    sync_percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    lag_seconds: Seconds | None = None
    covered_until: Moment | None = None
    readiness: Number | None = None
    done_bytes: Number | None = Field(default=None, description="Of the generation that is under way.")
    total_bytes: Number | None = None
    bytes_per_second: Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)] | None = None

    def report(self) -> SyncReport:
        """In the domain's words."""
        return SyncReport(
            epoch=self.epoch,
            generation=self.generation,
            sync_percent=self.sync_percent,
            lag_seconds=self.lag_seconds,
            covered_until=self.covered_until,
            readiness=self.readiness if self.status == "ready" else None,
            pace=self._pace(),
        )

    def _pace(self) -> SyncPace | None:
        if self.done_bytes is None or self.total_bytes is None or self.bytes_per_second is None:
            return None
        return SyncPace(
            done_bytes=self.done_bytes, total_bytes=self.total_bytes, bytes_per_second=self.bytes_per_second
        )

    @model_validator(mode="after")
    def _is_complete(self) -> SyncStatusRequest:
        if self.status == "ready" and None in (self.readiness, self.lag_seconds, self.covered_until):
            raise ValueError("readiness, lag_seconds and covered_until where status is 'ready'")
        return self


class UnreadyRequest(Body):
    """A primary takes readiness back."""

    epoch: Epoch
    readiness: Number


class PromoteRequest(Body):
    """An operator wants a handover to this replica."""

    demote_old_primary: bool | None = Field(
        default=None,
        description="True makes the old primary the new one's standby, without another full copy; it is refused where "
        "that would be no good standby. False retires it: it is terminated once another copy exists. Left out, it is "
        "demoted if it is fit for that, and retired if not.",
    )
    reason: Reason = ""


class CommitRequest(Body):
    """A standby asks for its promotion."""

    epoch: Epoch
    basis: Basis
    readiness: Number
    generation: Number
    covered_until: Moment | None = None
    lag_seconds: Seconds | None = Field(
        default=None,
        description="How far behind the standby was when it last heard its primary. Without it, the loss counts as "
        "unbounded.",
    )


class AbortRequest(Body):
    """A primary, or an operator, asks that a handover be aborted."""

    epoch: Epoch | None = Field(default=None, description="Under which an agent acts; operators leave it out.")

    @property
    def own_epoch(self) -> int:
        """Of an agent that asks.

        Raises:
            InvalidRequest: It does not say.
        """
        if self.epoch is None:
            expected = "the epoch that the agent acts under"
            raise InvalidRequest(f"epoch is missing; expected {expected}", field="epoch", expected=expected)
        return self.epoch


class HandoverAnswer(Answer):
    """What became of a handover."""

    agent_id: str
    epoch: int
    primary_instance_id: str
    handover_id: str | None
    handover_state: str

    @classmethod
    def of(cls, agent: Agent) -> HandoverAnswer:
        """From the agent's row."""
        return cls.model_validate(agent)


class EmergencyReplicaRequest(Body):
    """Something calls for a replica, or for a failover, whatever the toggles say."""

    instance_id: InstanceId
    signal_type: Literal[SignalType.REBALANCE_RECOMMENDATION, SignalType.PRIMARY_SILENT] = (
        SignalType.REBALANCE_RECOMMENDATION
    )
    epoch: Epoch | None = None

    def alarm(self, *, reporter: str | None) -> Alarm:
        """In the domain's words."""
        return Alarm(instance_id=self.instance_id, type=self.signal_type, reporter=reporter, epoch=self.epoch)


class TerminationRequest(Body):
    """AWS takes an instance back."""

    instance_id: InstanceId
    termination_time: Moment | None = None
    replica_id: Word | None = None
    signal_type: Literal[SignalType.TERMINATION_NOTICE, SignalType.PRIMARY_SILENT] = SignalType.TERMINATION_NOTICE
    epoch: Epoch | None = None

    def alarm(self, *, reporter: str | None) -> Alarm:
        """In the domain's words."""
        return Alarm(
            instance_id=self.instance_id,
            type=self.signal_type,
            reporter=reporter,
            epoch=self.epoch,
            termination_time=self.termination_time,
            replica_id=self.replica_id,
        )

    @model_validator(mode="after")
    def _has_a_time(self) -> TerminationRequest:
        if self.signal_type is SignalType.TERMINATION_NOTICE and self.termination_time is None:
            raise ValueError("termination_time where signal_type is 'termination-notice'")
        return self


class StartedAnswer(Answer):
    """What the call led to; the work goes on."""

    execution: str | None = Field(description="Name of the failover execution that is on it.")
    attempt: int | None
    replica_id: str | None
    reason: str
    look: str | None = Field(description="ARN of the execution.")

    @classmethod
    def of(cls, started: Started, *, look: str | None) -> StartedAnswer:
        """From the domain's words."""
        return cls(
            execution=started.execution,
            attempt=started.attempt,
            replica_id=started.replica_id,
            reason=started.reason,
            look=look,
        )
