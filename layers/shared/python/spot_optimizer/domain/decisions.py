"""Decisions: where an agent's workload should run, and whether a standby pays, at what is known right now.

Expected cost per hour of an offer = its price + risk within the hour x cost of a failover + share of a standby. A
standby is held where it costs less than what it averts. The cheapest offer wins, but is switched to only if that saves
enough, soon enough, and the workload has stayed long enough where it is.

The same rule on arrays, for a whole fleet at once, is `spot_optimizer_ml.fleet`; a property test holds them together.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import Risk, RiskBasis

PRICE_IS_STALE_AFTER = timedelta(hours=26)
"""AWS publishes an unchanged price again about daily; one that is older was missed."""

_SECOND = timedelta(seconds=1)
_TICK = Decimal("0.000001")


class StandbyPolicy(enum.StrEnum):
    """When a standby is held."""

    NEVER = "never"
    """Not even on notice: after an interruption the workload is restored from its snapshot."""
    ON_NOTICE = "on-notice"
    """Launched when the notice is there, and handed over to inside it."""
    ON_RISK = "on-risk"
    """Held as long as it costs less than what it averts; otherwise launched on notice."""
    ALWAYS = "always"


class Verdict(enum.StrEnum):
    """What to do now."""

    STAY = "stay"
    SWITCH = "switch"
    PREPARE_STANDBY = "prepare-standby"


class Reason(enum.StrEnum):
    """Why; an operator reads the decision's `explanation`."""

    CHEAPEST = "cheapest"
    SAVES_ENOUGH = "saves-enough"
    SAVES_TOO_LITTLE = "saves-too-little"
    PAYS_BACK_TOO_LATE = "pays-back-too-late"
    STAYED_TOO_SHORTLY = "stayed-too-shortly"
    CURRENT_PRICE_UNKNOWN = "current-price-unknown"
    STANDBY_PAYS = "standby-pays"


class OfferId(NamedTuple):
    """What can be bought: a pool's capacity on spot, or on demand."""

    pool_id: str
    lifecycle: Lifecycle = Lifecycle.SPOT

    def __str__(self) -> str:
        """`us-east-1a.m5.large` or `us-east-1a.m5.large on-demand`."""
        return self.pool_id if self.lifecycle is Lifecycle.SPOT else f"{self.pool_id} on-demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One place where the workload could run.

    Attributes:
        offer_id: What would be bought.
        usd_per_hour: The price in force; None where none is known.
        price_seen_at: When that was last confirmed.
        price_confidence: 0 to 1, of the price's source.
        risk: Of an interruption.
        excluded_because: Why it is no target now (cooldown, an operator's exclusion); empty if it is one. An exclusion
            of the current offer drives nobody out of it.
    """

    offer_id: OfferId
    usd_per_hour: Decimal | None
    price_seen_at: datetime | None
    risk: Risk
    price_confidence: Decimal = Decimal(1)
    excluded_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverCost:
    """What one failover costs an agent. The figures are measured on it, or on the demo's workload until they are.

    Attributes:
        outage_seconds: What clients wait for when a synced standby takes over; also of a planned switch.
        unprepared_outage_seconds: What they wait for when no standby is held; see `unprepared_outage_seconds`.
        usd_per_outage_second: What a second of waiting is worth to whoever runs the workload.
        overlap_seconds: For how long two instances are paid when a replacement is launched first: boot and sync.
        transfer_usd: Of the state, between zones.
    """

    outage_seconds: Decimal
    unprepared_outage_seconds: Decimal
    usd_per_outage_second: Decimal
    overlap_seconds: Decimal
    transfer_usd: Decimal

    @property
    def prepared_usd(self) -> Decimal:
        """Of a failover to a standby that was held; its own hours are the standby's share."""
        return self.outage_seconds * self.usd_per_outage_second + self.transfer_usd

    def unprepared_usd(self, usd_per_hour: Decimal) -> Decimal:
        """Of a failover for which everything has yet to be launched."""
        return self.unprepared_outage_seconds * self.usd_per_outage_second + self._launch_usd(usd_per_hour)

    def switch_usd(self, usd_per_hour: Decimal) -> Decimal:
        """Of a planned switch: a launch, a transfer and a handover."""
        return self.outage_seconds * self.usd_per_outage_second + self._launch_usd(usd_per_hour)

    def _launch_usd(self, usd_per_hour: Decimal) -> Decimal:
        return self.overlap_seconds * usd_per_hour / 3600 + self.transfer_usd


def unprepared_outage_seconds(
    policy: StandbyPolicy,
    *,
    handover_seconds: float,
    boot_seconds: float,
    transfer_seconds: float,
    notice_seconds: float,
) -> float:
    """How long clients wait in a failover for which no standby was held.

    Args:
        policy: `never` restores after the interruption; every other one launches when the notice is read.
        handover_seconds: What they wait for in a handover to a synced standby.
        boot_seconds: From asking for an instance to its agent running.
        transfer_seconds: Of the whole state, at the measured rate.
        notice_seconds: What is left of the notice when it has been read.
    """
    if policy is StandbyPolicy.NEVER:
        return boot_seconds + transfer_seconds + handover_seconds
    late_seconds = max(0.0, boot_seconds + transfer_seconds - notice_seconds)
    return late_seconds + handover_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRules:
    """What an operator may set.

    Attributes:
        standby: When a standby is held.
        minimum_saving: Share of the current expected cost that a switch must save.
        dwell: How long the workload stays after a switch, however cheap elsewhere is.
        payback: Within this time a switch must have earned what it costs.
    """

    standby: StandbyPolicy = StandbyPolicy.ON_RISK
    minimum_saving: Decimal = Decimal("0.05")
    dwell: timedelta = timedelta(minutes=30)
    payback: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """How an agent stands when it is decided for.

    Attributes:
        agent_id: The agent.
        current: Where its primary runs.
        since: Since when.
        standby_pool_id: Where it holds a standby; None without one.
        failover: What a failover costs it.
    """

    agent_id: str
    current: OfferId
    since: datetime
    failover: FailoverCost
    standby_pool_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Costing:
    """What an hour at one offer is expected to cost, taken apart; USD.

    Attributes:
        failover_usd_per_hour: Risk within the hour x cost of a failover.
        standby_usd_per_hour: Of the standby that is held for it; 0 where none pays.
        standby_pool_id: Where that standby would be; None where none pays.
        excluded_because: Why it is no target; empty if it is one.
    """

    offer_id: OfferId
    risk: Risk
    usd_per_hour: Decimal
    failover_usd_per_hour: Decimal
    standby_usd_per_hour: Decimal
    standby_pool_id: str | None
    excluded_because: str = ""

    @property
    def expected_usd_per_hour(self) -> Decimal:
        """By which offers are ranked."""
        return self.usd_per_hour + self.failover_usd_per_hour + self.standby_usd_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, and everything that it was concluded from.

    Attributes:
        target: Where to switch to; the current offer if the workload stays.
        standby_pool_id: Where a standby pays, at the target; None where none does, so that one that is held may go.
        saving_usd_per_hour: Expected, of the best allowed offer against the current one; negative where everything else
            is dearer.
        saving: The same as a share of the current expected cost.
        risk: Of the current offer.
        confidence: 0 to 1: the least of all prices and risks that the verdict hangs on.
        ranking: Every offer with a price, cheapest first, those that are no target behind.
        without_price: Offers that could not be judged.
        explanation: For people.
        situation, rules, decided_at: The other inputs.
    """

    verdict: Verdict
    reason: Reason
    target: OfferId
    standby_pool_id: str | None
    saving_usd_per_hour: Decimal
    saving: Decimal
    risk: Risk
    confidence: Decimal
    ranking: tuple[Costing, ...]
    without_price: tuple[OfferId, ...]
    explanation: str
    situation: Situation
    rules: DecisionRules
    decided_at: datetime

    @property
    def without_model(self) -> bool:
        """Whether the advisor band and the pools' own history stood in for a model."""
        return not any(costing.risk.basis is RiskBasis.MODEL for costing in self.ranking)


def decide(situation: Situation, offers: Sequence[Offer], rules: DecisionRules, *, now: datetime) -> Decision:
    """Rank the offers and say whether to stay, to switch or to prepare a standby.

    Args:
        situation: How the agent stands; the current offer is among `offers`.
        offers: Each at most once, in any order.
        rules: What the operator set.
        now: The moment of the decision.

    Raises:
        ValueError: The current offer is missing, an offer is there twice, or something was only known after `now`.
    """
    by_id = _checked(situation, offers, now)
    priced = [offer for offer in offers if offer.usd_per_hour is not None]
    without_price = tuple(sorted(offer.offer_id for offer in offers if offer.usd_per_hour is None))
    standbys = sorted((offer for offer in priced if not offer.excluded_because), key=_as_standby)
    costings = [_cost(offer, standbys, situation.failover, rules.standby) for offer in priced]
    ranking = tuple(sorted(costings, key=lambda costing: (bool(costing.excluded_because), _rank(costing))))
    current = next((costing for costing in costings if costing.offer_id == situation.current), None)
    here = by_id[situation.current]
    if current is None:
        verdict, reason, target, saving = Verdict.STAY, Reason.CURRENT_PRICE_UNKNOWN, None, Decimal(0)
    else:
        others = [one for one in costings if one is not current and not one.excluded_because]
        target = min(others, key=_rank, default=None)
        saving = current.expected_usd_per_hour - target.expected_usd_per_hour if target is not None else Decimal(0)
        reason = _reason(situation, current, target, saving, rules, now)
        verdict = Verdict.SWITCH if reason is Reason.SAVES_ENOUGH else Verdict.STAY
    chosen = target if verdict is Verdict.SWITCH else current
    standby_pool_id = chosen.standby_pool_id if chosen is not None else None
    if verdict is Verdict.STAY and standby_pool_id is not None and situation.standby_pool_id is None:
        verdict, reason = Verdict.PREPARE_STANDBY, Reason.STANDBY_PAYS
    share = saving / current.expected_usd_per_hour if current is not None else Decimal(0)
    weighed = [by_id[one.offer_id] for one in (current, target) if one is not None] or [here]
    return Decision(
        verdict=verdict,
        reason=reason,
        target=chosen.offer_id if chosen is not None else situation.current,
        standby_pool_id=standby_pool_id,
        saving_usd_per_hour=saving.quantize(_TICK),
        saving=share.quantize(_TICK),
        risk=here.risk,
        confidence=min(min(price_confidence(offer, now), offer.risk.basis.confidence) for offer in weighed),
        ranking=ranking,
        without_price=without_price,
        explanation=explain(
            reason,
            here=situation.current,
            here_usd_per_hour=None if current is None else current.expected_usd_per_hour,
            best=None if target is None else target.offer_id,
            best_usd_per_hour=Decimal(0) if target is None else target.expected_usd_per_hour,
            saving_usd_per_hour=saving,
            standby_pool_id=standby_pool_id,
            rules=rules,
            risk_note=here.risk.note,
        ),
        situation=situation,
        rules=rules,
        decided_at=now,
    )


def _checked(situation: Situation, offers: Sequence[Offer], now: datetime) -> dict[OfferId, Offer]:
    by_id = {offer.offer_id: offer for offer in offers}
    if len(by_id) != len(offers):
        raise ValueError(
            f"an offer is there twice for agent {situation.agent_id}; expected each pool and lifecycle once"
        )
    if situation.current not in by_id:
        raise ValueError(f"{situation.current}, where agent {situation.agent_id} runs, is not among the offers; add it")
    for offer in offers:
        seen_at = max(offer.risk.as_of, offer.price_seen_at or offer.risk.as_of)
        if seen_at > now:
            raise ValueError(f"{offer.offer_id} was judged by what was known at {seen_at.isoformat()}, after {now}")
    return by_id


def _rank(costing: Costing) -> tuple[Decimal, OfferId]:
    return (costing.expected_usd_per_hour, costing.offer_id)


def _as_standby(offer: Offer) -> tuple[bool, Decimal, OfferId]:
    return (offer.offer_id.lifecycle is not Lifecycle.SPOT, offer.usd_per_hour or Decimal(0), offer.offer_id)


def _cost(offer: Offer, standbys: Iterable[Offer], failover: FailoverCost, policy: StandbyPolicy) -> Costing:
    usd_per_hour = offer.usd_per_hour or Decimal(0)
    unprepared_usd_per_hour = offer.risk.within_1h * failover.unprepared_usd(usd_per_hour)
    costing = Costing(
        offer_id=offer.offer_id,
        risk=offer.risk,
        usd_per_hour=usd_per_hour,
        failover_usd_per_hour=unprepared_usd_per_hour,
        standby_usd_per_hour=Decimal(0),
        standby_pool_id=None,
        excluded_because=offer.excluded_because,
    )
    if offer.offer_id.lifecycle is not Lifecycle.SPOT or policy in (StandbyPolicy.NEVER, StandbyPolicy.ON_NOTICE):
        return costing
    standby = next((other for other in standbys if other.offer_id.pool_id != offer.offer_id.pool_id), None)
    if standby is None:
        return costing
    protected = replace(
        costing,
        failover_usd_per_hour=offer.risk.within_1h * failover.prepared_usd,
        standby_usd_per_hour=standby.usd_per_hour or Decimal(0),
        standby_pool_id=standby.offer_id.pool_id,
    )
    pays = protected.expected_usd_per_hour < costing.expected_usd_per_hour
    return protected if pays or policy is StandbyPolicy.ALWAYS else costing


def _reason(
    situation: Situation,
    current: Costing,
    target: Costing | None,
    saving: Decimal,
    rules: DecisionRules,
    now: datetime,
) -> Reason:
    if target is None or saving <= 0:
        return Reason.CHEAPEST
    if saving < rules.minimum_saving * current.expected_usd_per_hour:
        return Reason.SAVES_TOO_LITTLE
    payback_hours = Decimal(rules.payback // _SECOND) / 3600
    if saving * payback_hours < situation.failover.switch_usd(target.usd_per_hour):
        return Reason.PAYS_BACK_TOO_LATE
    if now - situation.since < rules.dwell:
        return Reason.STAYED_TOO_SHORTLY
    return Reason.SAVES_ENOUGH


def price_confidence(offer: Offer, now: datetime) -> Decimal:
    """That of the price's source, halved where the price should have been confirmed since."""
    if offer.price_seen_at is None or now - offer.price_seen_at > PRICE_IS_STALE_AFTER:
        return offer.price_confidence / 2
    return offer.price_confidence


def explain(
    reason: Reason,
    *,
    here: OfferId,
    here_usd_per_hour: Decimal | None,
    best: OfferId | None,
    best_usd_per_hour: Decimal,
    saving_usd_per_hour: Decimal,
    standby_pool_id: str | None,
    rules: DecisionRules,
    risk_note: str,
) -> str:
    """Say for people why something was decided.

    Args:
        reason: Why.
        here: Where the workload runs, and what that is expected to cost; None without a price.
        here_usd_per_hour: See `here`.
        best: The cheapest allowed offer elsewhere, and what that is expected to cost.
        best_usd_per_hour: See `best`.
        saving_usd_per_hour: Of the one against the other.
        standby_pool_id: Where a standby pays.
        rules: By which it was decided.
        risk_note: What the risk of the current place was concluded from.
    """
    if here_usd_per_hour is None:
        return "no price is known for where the workload runs, so nothing can be compared with it"
    place = f"{here} at {_usd(here_usd_per_hour)} expected"
    saves = f"{best}, at {_usd(best_usd_per_hour)} expected, saves {_usd(saving_usd_per_hour)}"
    match reason:
        case Reason.SAVES_ENOUGH:
            said = f"{saves} against {place}"
        case Reason.SAVES_TOO_LITTLE:
            said = f"{saves}, less than {rules.minimum_saving:.1%} of {place}"
        case Reason.PAYS_BACK_TOO_LATE:
            said = f"{saves}, too little to earn a switch within {rules.payback}"
        case Reason.STAYED_TOO_SHORTLY:
            said = f"{saves}, but the last switch is less than {rules.dwell} ago"
        case Reason.STANDBY_PAYS:
            said = f"at {place} a standby in {standby_pool_id} costs less than what it averts"
        case _:
            said = f"nothing allowed is cheaper than {place}"
    return f"{said}; {here}: {risk_note}"


def _usd(per_hour: Decimal) -> str:
    return f"{per_hour:.4f} USD/h"
