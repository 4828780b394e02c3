"""Questions and answers of those who look at the fleet."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Self

from aws_lambda_powertools.event_handler.openapi.params import Query
from pydantic import Field

from spot_optimizer.api.fields import Answer, Moment
from spot_optimizer.domain.agents import Instance, InstanceRole, Interruption, Switch
from spot_optimizer.domain.catalogue import Candidate
from spot_optimizer.domain.decisions import Reason, Verdict
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import RiskBasis
from spot_optimizer.domain.stored_decisions import StoredDecision

Since = Annotated[Moment | None, Query(description="Only what happened then or later.")]
Until = Annotated[Moment | None, Query(description="Only what happened before then.")]
AgentFilter = Annotated[str | None, Query(min_length=1, max_length=64, description="Only of this agent.")]
ClientFilter = Annotated[str | None, Query(min_length=1, max_length=40, description="Only of this client.")]
PoolFilter = Annotated[str | None, Query(pattern=r"^[a-z0-9-]{5,40}\.[a-z0-9-]{2,20}\.[a-z0-9-]{2,20}$")]
Anew = Annotated[bool, Query(description="Decide now, with the model if one is live, whatever was decided before.")]
WordFilter = Annotated[str | None, Query(min_length=1, max_length=40)]


class CandidateAnswer(Answer):
    """One pool, as an agent sees it now. Prices are USD/hour, as text, so that no digit is lost."""

    pool_id: str
    availability_zone: str
    instance_type: str
    usd_per_hour: Decimal | None
    on_demand_usd_per_hour: Decimal | None
    saving_percent: float | None = Field(description="Of spot against on-demand.")
    interruptions: int = Field(description="Of instances of ours, in the last seven days.")
    risk_within_1h: Decimal = Field(description="Probability that AWS takes an instance back within the hour.")
    risk_note: str = Field(description="What that was concluded from.")
    cooling_until: Moment | None
    qualifies: bool
    explanation: str = Field(description="Why it does not qualify, or is tried late.")

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """From the catalogue."""
        return cls(
            pool_id=candidate.pool.pool_id,
            availability_zone=candidate.pool.availability_zone,
            instance_type=candidate.pool.instance_type,
            usd_per_hour=candidate.usd_per_hour,
            on_demand_usd_per_hour=candidate.on_demand_usd_per_hour,
            saving_percent=None if candidate.saving is None else round(float(candidate.saving * 100), 2),
            interruptions=candidate.interruptions,
            risk_within_1h=candidate.risk.within_1h,
            risk_note=candidate.risk.note,
            cooling_until=candidate.cooling_until,
            qualifies=not candidate.excluded_because,
            explanation=candidate.explanation,
        )


class CandidatesAnswer(Answer):
    """The pools in which an agent could run: those that qualify first, the cheapest first."""

    agent_id: str
    primary_pool_id: str
    pools: tuple[CandidateAnswer, ...]


class OfferAnswer(Answer):
    """One offer as it was weighed. Prices are USD/hour, as text, so that no digit is lost."""

    pool_id: str
    lifecycle: Lifecycle
    usd_per_hour: Decimal | None
    price_seen_at: Moment | None = Field(description="When the price had last been confirmed.")
    price_confidence: Decimal
    risk_within_1h: Decimal
    risk_within_6h: Decimal
    risk_basis: RiskBasis
    risk_note: str
    expected_usd_per_hour: Decimal | None = Field(description="Price, risk x cost of a failover, share of a standby.")
    excluded_because: str = Field(description="Why it was no target; empty if it was one.")


class RecommendationAnswer(Answer):
    """Where an agent should run, why, and everything that was concluded from."""

    agent_id: str
    decided_at: Moment
    age_seconds: float
    epoch: int
    verdict: Verdict
    reason: Reason
    explanation: str
    pool_id: str = Field(description="Where to run, as `lifecycle` says; the current place unless to switch.")
    lifecycle: Lifecycle
    current_pool_id: str
    current_lifecycle: Lifecycle
    since: Moment
    standby_pool_id: str | None = Field(description="Where a standby pays.")
    held_standby_pool_id: str | None
    saving_usd_per_hour: Decimal = Field(description="Of the best allowed offer against the current one.")
    saving_percent: float
    risk_within_1h: Decimal = Field(description="Of the current place.")
    risk_within_6h: Decimal
    risk_basis: RiskBasis
    risk_note: str
    confidence_score: Decimal
    model_version: str | None = Field(description="None: the pools' own history and the advisor band stood in.")
    without_model_because: str
    rules: dict[str, str]
    failover: dict[str, str] = Field(description="What one failover was taken to cost.")
    offers: tuple[OfferAnswer, ...] = Field(description="The cheapest expected first.")

    @classmethod
    def of(cls, decision: StoredDecision, *, now: datetime) -> Self:
        """From the decision as it is kept."""
        told = {name: getattr(decision, name) for name in cls.model_fields if hasattr(decision, name)}
        told["offers"] = tuple(map(OfferAnswer.model_validate, decision.offers))
        return cls(
            **told,
            age_seconds=round(max((now - decision.decided_at).total_seconds(), 0.0), 3),
            saving_percent=round(float(decision.saving * 100), 2),
        )


class StepAnswer(Answer):
    """Where some of a failover's time went."""

    step: str = Field(description="`claim`, `open-handover`, `promote`, `serve` or `move-traffic`, in this order.")
    ms: int


Rto = Annotated[
    float | None, Field(description="Seconds from the signal's publication to the new primary's passed health check.")
]
RpoSeconds = Annotated[
    float | None,
    Field(
        description="How much of the old primary's time is missing at most: what its standby was behind and, if it was "
        "not heard any more, what it may have acknowledged until its fence held it."
    ),
]
LagSeconds = Annotated[
    float | None,
    Field(description="How far behind the standby was when it last heard its primary; null if nobody can tell."),
]
RpoBytes = Annotated[int | None, Field(description="About how much that is; null if it was never measured.")]


class SwitchAnswer(Answer):
    """One promotion."""

    agent_id: str
    switch_id: str
    client_id: str | None
    epoch: int
    from_instance_id: str
    to_instance_id: str
    from_pool_id: str
    to_pool_id: str
    switch_reason: str
    basis: str
    switched_at: Moment
    served_at: Moment | None
    rto_seconds: Rto
    rpo_seconds: RpoSeconds
    lag_seconds: LagSeconds
    rpo_bytes: RpoBytes
    rpo_breached: bool
    steps: tuple[StepAnswer, ...]
    demote_old_primary: bool | None = Field(description="What an operator wished; None where nothing was planned.")
    old_primary: str | None = Field(
        description="What became of it: demoted, recalled, terminated, gone (taken back, or dead), or left (not "
        "launched by us, and so not ours to terminate). None while that is open."
    )
    explanation: str | None = Field(description="Why somebody, or a rule, wanted it.")
    to_lifecycle: str | None
    old_usd_per_hour: Decimal | None
    new_usd_per_hour: Decimal | None
    estimated_savings: Decimal | None = Field(description="USD/hour, old minus new, when it was asked for or made.")
    realised_savings: Decimal | None = Field(description="USD/hour, from the prices in force since; null until known.")
    realised_seconds: int | None = Field(description="Over how long that is.")

    @classmethod
    def of(cls, switch: Switch) -> Self:
        """From the switch's row."""
        return cls.model_validate(switch)


class SwitchesAnswer(Answer):
    """A page of promotions, the latest first."""

    switches: tuple[SwitchAnswer, ...]
    next_cursor: str | None = None


class InterruptionAnswer(Answer):
    """One signal, and what came of it."""

    agent_id: str
    event_id: str
    client_id: str | None
    instance_id: str
    pool_id: str
    signal_type: str
    detected_at: Moment
    termination_time: Moment | None
    response_action: str | None
    replica_id: str | None
    epoch: int | None
    failover_completed: bool
    failover_time_ms: int | None
    failure: str | None
    rto_seconds: Rto
    rpo_seconds: RpoSeconds
    lag_seconds: LagSeconds
    rpo_bytes: RpoBytes
    steps: tuple[StepAnswer, ...]

    @classmethod
    def of(cls, interruption: Interruption) -> Self:
        """From the interruption's row."""
        return cls.model_validate(interruption)


class InterruptionsAnswer(Answer):
    """A page of signals, the latest first."""

    interruptions: tuple[InterruptionAnswer, ...]
    next_cursor: str | None = None


class InstanceAnswer(Answer):
    """One instance that carries, or carried, an agent. Its certificate is nobody's business here."""

    instance_id: str
    agent_id: str
    client_id: str
    role: InstanceRole
    pool_id: str
    epoch: int
    joined_at: Moment
    launched_at: Moment | None
    replica_id: str | None

    @classmethod
    def of(cls, instance: Instance) -> Self:
        """From the instance's row."""
        return cls.model_validate(instance)


class InstancesAnswer(Answer):
    """A page of instances, the last that joined first."""

    instances: tuple[InstanceAnswer, ...]
    next_cursor: str | None = None
