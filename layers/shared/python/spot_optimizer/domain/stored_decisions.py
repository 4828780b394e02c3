"""Decisions as they are kept: what was decided, why, and every input, so that each can be explained afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.decisions import Decision, DecisionRules, FailoverCost, Offer, OfferId, Reason, Verdict
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import RiskBasis

DECIDED_EVERY = timedelta(minutes=5)
"""As often as prices are collected."""

FRESH_FOR = 2 * DECIDED_EVERY
"""An older decision is not acted upon: its prices may be over, and the schedule stands still."""

KEPT_FOR = timedelta(days=30)
"""So long a decision can be explained."""

_TICK = Decimal("0.000001")


def is_sampled(now: datetime) -> bool:
    """Whether what a model was asked now is kept to compare models by: one schedule of each hour.

    Instances are held for hours, and the models are compared on some thousand rows: closer ones would be alike.
    """
    return timedelta(minutes=now.minute, seconds=now.second) < DECIDED_EVERY


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedOffer:
    """One offer as it was weighed.

    Attributes:
        usd_per_hour: The price in force; None where none was known.
        price_seen_at: When that had last been confirmed.
        risk_within_1h: Probability of an interruption within the hour; `risk_within_6h` within six.
        risk_note: The evidence, for people.
        expected_usd_per_hour: Price, risk x cost of a failover, and share of a standby; None without a price.
        excluded_because: Why it was no target; empty if it was one.
    """

    pool_id: str
    lifecycle: Lifecycle
    usd_per_hour: Decimal | None
    price_seen_at: datetime | None
    price_confidence: Decimal
    risk_within_1h: Decimal
    risk_within_6h: Decimal
    risk_basis: RiskBasis
    risk_note: str
    expected_usd_per_hour: Decimal | None
    excluded_because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """One decision for one agent.

    Attributes:
        epoch: The agent's, when it was decided; a decision of another epoch is about another primary.
        verdict, reason: As `decisions.decide` gives them.
        pool_id, lifecycle: Where to run; the same as `current_pool_id` and `current_lifecycle` unless it is a switch.
        since: Since when the workload had been where it was.
        standby_pool_id: Where a standby pays; None where none does.
        held_standby_pool_id: Where one was held, or being prepared; None without one.
        saving_usd_per_hour: Expected, of the best allowed offer against the current one.
        saving: The same as a share of the current expected cost.
        risk_within_1h: Of the current place; likewise the next three.
        confidence_score: 0 to 1, that of the weakest price or risk that the verdict hangs on.
        model_version: Of the risk model that answered; None where the pools' history and advisor band stood in.
        without_model_because: Why they did; empty with a model.
        explanation: For people.
        rules: What the operator had set, by name.
        failover: What a failover was taken to cost, by name of `FailoverCost`.
        offers: Every offer, by rising expected cost; without a price, or no target, behind.
    """

    agent_id: str
    decided_at: datetime
    client_id: str
    epoch: int
    verdict: Verdict
    reason: Reason
    pool_id: str
    lifecycle: Lifecycle
    current_pool_id: str
    current_lifecycle: Lifecycle
    since: datetime
    standby_pool_id: str | None = None
    held_standby_pool_id: str | None = None
    saving_usd_per_hour: Decimal
    saving: Decimal
    risk_within_1h: Decimal
    risk_within_6h: Decimal
    risk_basis: RiskBasis
    risk_note: str
    confidence_score: Decimal
    model_version: str | None = None
    without_model_because: str = ""
    explanation: str
    rules: Mapping[str, str]
    failover: Mapping[str, str]
    offers: tuple[WeighedOffer, ...]

    @property
    def target(self) -> OfferId:
        """Where to run."""
        return OfferId(self.pool_id, self.lifecycle)

    def stale_because(self, agent: Agent, *, now: datetime) -> str:
        """Why it must not be acted upon any more; empty if it may be.

        Args:
            agent: Its row now.
            now: When.
        """
        if self.epoch != agent.epoch or self.current_pool_id != agent.primary_pool_id:
            return f"it was decided for epoch {self.epoch} in {self.current_pool_id}, and that is over"
        if now - self.decided_at > FRESH_FOR:
            return f"it was decided at {self.decided_at.isoformat(timespec='seconds')}, more than {FRESH_FOR} ago"
        return ""


def as_stored(
    decision: Decision,
    offers: tuple[Offer, ...],
    *,
    agent: Agent,
    model_version: str | None,
    without_model_because: str,
) -> StoredDecision:
    """Keep a decision with what went into it.

    Args:
        decision: What was decided.
        offers: Of what.
        agent: The agent's row, as it was decided for.
        model_version: Of the model that was asked for risks; None where none was.
        without_model_because: Why none was.
    """
    situation = decision.situation
    expected = {costing.offer_id: costing.expected_usd_per_hour for costing in decision.ranking}
    return StoredDecision(
        agent_id=agent.agent_id,
        decided_at=decision.decided_at,
        client_id=agent.client_id,
        epoch=agent.epoch,
        verdict=decision.verdict,
        reason=decision.reason,
        pool_id=decision.target.pool_id,
        lifecycle=decision.target.lifecycle,
        current_pool_id=situation.current.pool_id,
        current_lifecycle=situation.current.lifecycle,
        since=situation.since,
        standby_pool_id=decision.standby_pool_id,
        held_standby_pool_id=situation.standby_pool_id,
        saving_usd_per_hour=decision.saving_usd_per_hour,
        saving=decision.saving,
        risk_within_1h=decision.risk.within_1h,
        risk_within_6h=decision.risk.within_6h,
        risk_basis=decision.risk.basis,
        risk_note=decision.risk.note,
        confidence_score=decision.confidence,
        model_version=model_version,
        without_model_because=without_model_because,
        explanation=decision.explanation,
        rules=rules_as_words(decision.rules),
        failover=failover_as_words(situation.failover),
        offers=ranked(weighed(offer, expected.get(offer.offer_id)) for offer in offers),
    )


def weighed(offer: Offer, expected_usd_per_hour: Decimal | None) -> WeighedOffer:
    """An offer with what it was expected to cost."""
    return WeighedOffer(
        pool_id=offer.offer_id.pool_id,
        lifecycle=offer.offer_id.lifecycle,
        usd_per_hour=offer.usd_per_hour,
        price_seen_at=offer.price_seen_at,
        price_confidence=offer.price_confidence,
        risk_within_1h=offer.risk.within_1h,
        risk_within_6h=offer.risk.within_6h,
        risk_basis=offer.risk.basis,
        risk_note=offer.risk.note,
        expected_usd_per_hour=None if expected_usd_per_hour is None else expected_usd_per_hour.quantize(_TICK),
        excluded_because=offer.excluded_because,
    )


def ranked(offers: Iterable[WeighedOffer]) -> tuple[WeighedOffer, ...]:
    """The cheapest expected first, then what has no price, then what was no target."""

    def rank(offer: WeighedOffer) -> tuple[bool, bool, Decimal, str, str]:
        usd_per_hour = offer.expected_usd_per_hour
        return (
            bool(offer.excluded_because),
            usd_per_hour is None,
            usd_per_hour or Decimal(0),
            offer.pool_id,
            offer.lifecycle,
        )

    return tuple(sorted(offers, key=rank))


def rules_as_words(rules: DecisionRules) -> dict[str, str]:
    """What an operator had set; times in seconds."""
    return {
        "standby": rules.standby.value,
        "minimum_saving": f"{rules.minimum_saving:f}",
        "dwell_seconds": f"{rules.dwell.total_seconds():.0f}",
        "payback_seconds": f"{rules.payback.total_seconds():.0f}",
    }


def failover_as_words(cost: FailoverCost) -> dict[str, str]:
    """What a failover was taken to cost."""
    return {
        "outage_seconds": f"{cost.outage_seconds:f}",
        "unprepared_outage_seconds": f"{cost.unprepared_outage_seconds:f}",
        "usd_per_outage_second": f"{cost.usd_per_outage_second:f}",
        "overlap_seconds": f"{cost.overlap_seconds:f}",
        "transfer_usd": f"{cost.transfer_usd:f}",
    }
