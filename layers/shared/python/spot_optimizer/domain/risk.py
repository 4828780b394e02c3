"""Risk: how likely AWS takes a held spot instance back, and on what evidence that is said.

Three kinds of evidence, best first: a model's answer; what the pool did to instances of ours lately, drawn towards its
advisor band while that is little; the band alone. Each answer names its basis, and why nothing better was used. All of
it is causal: what was not known at the time of the decision is refused or cut off.

The Spot Instance Advisor publishes, per instance type and region, the share of instances that were interrupted in the
trailing month, in five bands (https://aws.amazon.com/ec2/spot/instance-advisor/).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

PRIOR_HOURS = 12.0
"""How many held hours of the pool's own the advisor band is worth."""

HALF_LIFE = timedelta(days=2)
"""After so long, what a pool did counts half."""

MODEL_FEATURES = (
    "age_hours",
    "interruptions_1h",
    "interruptions_6h",
    "interruptions_24h",
    "hours_since_interruption",
    "own_rate_per_hour",
    "held_share_24h",
    "peer_interruptions_1h",
    "peer_interruptions_6h",
    "price_share",
    "price_change_1h",
    "price_change_24h",
    "advisor_band",
)
"""What can be computed for a model to look at, in this order; `spot_optimizer_ml.features` does it."""

NOT_ASKED = "no model was asked"

_HOURS_PER_MONTH = 720
_HOUR = timedelta(hours=1)
_DECIMALS = Decimal("0.000001")


class AdvisorBand(enum.IntEnum):
    """How many of a pool type's instances were interrupted in a month; the values are the advisor feed's."""

    UNDER_5_PERCENT = 0
    FROM_5_TO_10_PERCENT = 1
    FROM_10_TO_15_PERCENT = 2
    FROM_15_TO_20_PERCENT = 3
    OVER_20_PERCENT = 4

    @property
    def interruptions_per_hour(self) -> float:
        """The rate at which the middle of the band is interrupted within a month.

        The last band is open; 25 % is taken for it, which the pool's own history can correct upwards.
        """
        share_per_month = 0.025 + 0.05 * self if self is not AdvisorBand.OVER_20_PERCENT else 0.25
        return -math.log1p(-share_per_month) / _HOURS_PER_MONTH


class RiskBasis(enum.StrEnum):
    """What a risk was concluded from."""

    MODEL = "model"
    OWN_HISTORY = "own-history"
    ADVISOR_BAND = "advisor-band"
    WORST_BAND = "worst-band"
    """Nothing is known of the pool, so the worst band is assumed."""
    ON_DEMAND = "on-demand"
    """Not bought on spot: nobody takes it back."""

    @property
    def confidence(self) -> Decimal:
        """How far a risk on this basis can be trusted, 0 to 1: an order among the bases, not a probability."""
        return _CONFIDENCES[self]


_CONFIDENCES = {
    RiskBasis.ON_DEMAND: Decimal("1.00"),
    RiskBasis.MODEL: Decimal("0.90"),
    RiskBasis.OWN_HISTORY: Decimal("0.75"),
    RiskBasis.ADVISOR_BAND: Decimal("0.50"),
    RiskBasis.WORST_BAND: Decimal("0.25"),
}


@dataclass(frozen=True, slots=True)
class Risk:
    """How likely a held instance of a pool is interrupted, as known at one moment.

    Attributes:
        within_1h: Probability, 0 to 1, six decimals.
        within_6h: Probability, not below that within 1 h.
        basis: What it was concluded from.
        as_of: Nothing later than this went into it.
        note: For people: the evidence, and why no better basis was used.
    """

    within_1h: Decimal
    within_6h: Decimal
    basis: RiskBasis
    as_of: datetime
    note: str


@dataclass(frozen=True, slots=True)
class Held:
    """One instance that was held in a pool.

    Attributes:
        since: When it began to run.
        until: When it ended; None while it runs.
        interrupted: Whether AWS ended it.
    """

    since: datetime
    until: datetime | None
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a pool did lately, the older the less it counts.

    Attributes:
        held_hours: Instance hours, discounted by age.
        interruptions: Interruptions, discounted likewise.
    """

    held_hours: float = 0.0
    interruptions: float = 0.0

    def aged(self, by: timedelta, *, half_life: timedelta = HALF_LIFE) -> Exposure:
        """The same some time later, nothing having been held since: to carry it on instead of summing up again."""
        share = math.exp2(-(by / half_life))
        return Exposure(self.held_hours * share, self.interruptions * share)

    def __add__(self, other: Exposure) -> Exposure:
        return Exposure(self.held_hours + other.held_hours, self.interruptions + other.interruptions)


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model said of one pool.

    Attributes:
        within_1h: Probability of an interruption within an hour.
        within_6h: Within six hours.
        version: Of the model.
        features_as_of: The latest moment that its features looked at.
    """

    within_1h: float
    within_6h: float
    version: str
    features_as_of: datetime


def recent_exposure(history: Iterable[Held], *, now: datetime, half_life: timedelta = HALF_LIFE) -> Exposure:
    """Sum up what is known of a pool at `now`.

    An instance's hours are discounted as a whole by integration, so that cutting one spell in two changes nothing.

    Args:
        history: In any order; what begins later is not known yet, what ends later still runs.
        now: The moment of the decision.
        half_life: Positive.
    """
    decay = math.log(2) / (half_life / _HOUR)
    hours = interruptions = 0.0
    for held in history:
        if held.since >= now:
            continue
        known_end = held.until if held.until is not None and held.until <= now else None
        age_of_end = (now - known_end) / _HOUR if known_end is not None else 0.0
        age_of_start = (now - held.since) / _HOUR
        hours += (math.exp(-decay * age_of_end) - math.exp(-decay * age_of_start)) / decay
        if held.interrupted and known_end is not None:
            interruptions += math.exp(-decay * age_of_end)
    return Exposure(hours, interruptions)


def interruptions_per_hour(band: AdvisorBand, exposure: Exposure, *, prior_hours: float = PRIOR_HOURS) -> float:
    """The pool's own rate, drawn towards its band's as long as little was held there.

    The mean of a Gamma posterior over a Poisson rate whose prior is the band's rate, seen for `prior_hours`.
    """
    prior = band.interruptions_per_hour * prior_hours
    return (prior + exposure.interruptions) / (prior_hours + exposure.held_hours)


def probability_within(hours: float, *, interruptions_per_hour: float) -> Decimal:
    """That at least one interruption comes, at a constant rate; six decimals."""
    return Decimal(-math.expm1(-interruptions_per_hour * hours)).quantize(_DECIMALS)


def assess(
    band: AdvisorBand | None,
    exposure: Exposure,
    *,
    now: datetime,
    model: ModelAnswer | None = None,
    no_model_because: str = "no model is live",
) -> Risk:
    """Conclude the risk of a spot pool from the best evidence there is.

    Args:
        band: The pool's last known advisor band.
        exposure: What the pool did to instances of ours, as known at `now`.
        now: The moment of the decision.
        model: The model's answer, if there is one; one that cannot be right is set aside, and said so.
        no_model_because: Why there is none.
    """
    doubted_because = doubt(model, now) if model is not None else no_model_because
    if model is not None and not doubted_because:
        within_1h, within_6h = (Decimal(p).quantize(_DECIMALS) for p in (model.within_1h, model.within_6h))
        return Risk(within_1h, max(within_1h, within_6h), RiskBasis.MODEL, now, f"model {model.version}")
    assumed = AdvisorBand.OVER_20_PERCENT if band is None else band
    rate = interruptions_per_hour(assumed, exposure)
    if exposure.held_hours > 0:
        basis = RiskBasis.OWN_HISTORY
        evidence = f"{exposure.interruptions:.2f} interruptions in {exposure.held_hours:.1f} held hours"
    else:
        basis = RiskBasis.WORST_BAND if band is None else RiskBasis.ADVISOR_BAND
        evidence = "no instance of ours was held there"
    named = f"advisor band {assumed.value}" if band is not None else "no advisor band, the worst assumed"
    within_1h, within_6h = (probability_within(hours, interruptions_per_hour=rate) for hours in (1, 6))
    return Risk(within_1h, within_6h, basis, now, f"{evidence}; {named}; {doubted_because}")


def on_demand_risk(now: datetime) -> Risk:
    """The risk of what is not bought on spot."""
    return Risk(Decimal(0), Decimal(0), RiskBasis.ON_DEMAND, now, "on-demand is not interrupted")


def doubted(known: Risk, because: str) -> Risk:
    """A risk for which no model was asked, saying why a model's answer does not stand in its place."""
    return replace(known, note=known.note.replace(NOT_ASKED, because))


def doubt(answer: ModelAnswer, now: datetime) -> str:
    """Why an answer cannot be right; empty if it can."""
    if answer.features_as_of > now:
        return f"model {answer.version} looked at {answer.features_as_of.isoformat()}, which is yet to come"
    for probability in (answer.within_1h, answer.within_6h):
        if not 0 <= probability <= 1:
            return f"model {answer.version} answered {probability}, which is no probability"
    return ""
