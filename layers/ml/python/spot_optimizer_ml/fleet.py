"""The rule of `spot_optimizer.domain.decisions` on arrays: one call decides for every agent.

Row a is an agent, column o one of its offers. Columns are in rising order of `OfferId` within each row, so that the
first of equals is the one that the plain rule takes; a row with fewer offers is filled up with prices of NaN.
Everything is float64; money becomes Decimal in what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spot_optimizer.domain.decisions import DecisionRules, OfferId, Reason, StandbyPolicy, Verdict

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Columns = NDArray[np.intp]

VERDICTS = tuple(Verdict)
REASONS = tuple(Reason)
NO_COLUMN = -1

_VERDICT = {verdict: code for code, verdict in enumerate(VERDICTS)}
_REASON = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True, kw_only=True)
class FailoverCosts:
    """`FailoverCost`, each field of shape (agents,)."""

    outage_seconds: Floats
    unprepared_outage_seconds: Floats
    usd_per_outage_second: Floats
    overlap_seconds: Floats
    transfer_usd: Floats


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """How all agents stand, and what each could have.

    Attributes:
        usd_per_hour: (agents, offers); NaN where no price is known.
        within_1h: (agents, offers); risk, 0 to 1.
        confidence: (agents, offers); the less of price's and risk's.
        is_spot: (agents, offers).
        is_excluded: (agents, offers); no target, and no place for a standby.
        pool: (agents, offers); a number per pool, equal for its spot and its on-demand offer.
        current: (agents,); the column of the offer where the primary runs.
        stayed_seconds: (agents,); for how long.
        has_standby: (agents,).
        failover: What a failover costs each.
    """

    usd_per_hour: Floats
    within_1h: Floats
    confidence: Floats
    is_spot: Flags
    is_excluded: Flags
    pool: NDArray[np.int32]
    current: Columns
    stayed_seconds: Floats
    has_standby: Flags
    failover: FailoverCosts


@dataclass(frozen=True, kw_only=True)
class FleetDecisions:
    """What to do for each agent.

    Attributes:
        verdict: (agents,); index into `VERDICTS`.
        reason: (agents,); index into `REASONS`.
        target: (agents,); column.
        best: (agents,); column of the cheapest allowed offer elsewhere, `NO_COLUMN` where there is none to compare.
        standby: (agents,); column, `NO_COLUMN` where no standby pays.
        saving_usd_per_hour: (agents,).
        saving: (agents,); share of the current expected cost.
        confidence: (agents,).
        expected_usd_per_hour: (agents, offers); NaN without a price.
    """

    verdict: NDArray[np.int8]
    reason: NDArray[np.int8]
    target: Columns
    best: Columns
    standby: Columns
    saving_usd_per_hour: Floats
    saving: Floats
    confidence: Floats
    expected_usd_per_hour: Floats

    def stored(self, agent_ids: Sequence[str], offer_ids: Sequence[Sequence[OfferId]]) -> list[dict[str, Any]]:
        """The decisions as rows to store: names instead of numbers, Decimal instead of floats.

        Args:
            agent_ids: One per row.
            offer_ids: Per row, one per column.
        """
        columns = zip(
            agent_ids,
            offer_ids,
            self.verdict.tolist(),
            self.reason.tolist(),
            self.target.tolist(),
            self.standby.tolist(),
            self.saving_usd_per_hour.tolist(),
            self.saving.tolist(),
            self.confidence.tolist(),
            strict=True,
        )
        return [
            {
                "agent_id": agent_id,
                "verdict": VERDICTS[verdict].value,
                "reason": REASONS[reason].value,
                "pool_id": offers[target].pool_id,
                "lifecycle": offers[target].lifecycle.value,
                "standby_pool_id": offers[standby].pool_id if standby != NO_COLUMN else None,
                "saving_usd_per_hour": Decimal(f"{usd:.6f}"),
                "saving": Decimal(f"{share:.6f}"),
                "confidence_score": Decimal(f"{confidence:.2f}"),
            }
            for agent_id, offers, verdict, reason, target, standby, usd, share, confidence in columns
        ]


def decide_all(fleet: Fleet, rules: DecisionRules) -> FleetDecisions:
    """Decide for every agent; see `spot_optimizer.domain.decisions.decide` for the rule."""
    rows = np.arange(len(fleet.current))
    expected, standby = _expected(fleet, rules.standby)
    current_usd = expected[rows, fleet.current]
    allowed = np.where(fleet.is_excluded | np.isnan(expected), np.inf, expected)
    allowed[rows, fleet.current] = np.inf
    best = allowed.argmin(axis=1)
    best_usd = allowed[rows, best]
    known = ~np.isnan(current_usd)
    comparable = known & np.isfinite(best_usd)
    saving = np.where(comparable, current_usd - np.where(comparable, best_usd, 0.0), 0.0)
    reason = _reasons(fleet, rules, known, saving, current_usd, fleet.usd_per_hour[rows, best])
    switches = reason == _REASON[Reason.SAVES_ENOUGH]
    target = np.where(switches, best, fleet.current)
    standby_there = np.where(known, standby[rows, target], NO_COLUMN)
    prepares = ~switches & (standby_there != NO_COLUMN) & ~fleet.has_standby
    verdict = np.full(len(rows), _VERDICT[Verdict.STAY], dtype=np.int8)
    verdict[switches] = _VERDICT[Verdict.SWITCH]
    verdict[prepares] = _VERDICT[Verdict.PREPARE_STANDBY]
    reason[prepares] = _REASON[Reason.STANDBY_PAYS]
    confidence_here = fleet.confidence[rows, fleet.current]
    confidence_there = np.where(comparable, fleet.confidence[rows, best], confidence_here)
    return FleetDecisions(
        verdict=verdict,
        reason=reason,
        target=target,
        best=np.where(comparable, best, NO_COLUMN),
        standby=standby_there,
        saving_usd_per_hour=saving,
        saving=np.divide(saving, current_usd, out=np.zeros_like(saving), where=known & (current_usd != 0)),
        confidence=np.minimum(confidence_here, confidence_there),
        expected_usd_per_hour=expected,
    )


def _expected(fleet: Fleet, policy: StandbyPolicy) -> tuple[Floats, Columns]:
    """Expected USD per hour of every offer, and the column of the standby that pays there."""
    cost = fleet.failover
    outage_usd = cost.outage_seconds * cost.usd_per_outage_second + cost.transfer_usd
    late_usd = cost.unprepared_outage_seconds * cost.usd_per_outage_second + cost.transfer_usd
    overlap_hours = cost.overlap_seconds / 3600
    unprepared = fleet.usd_per_hour * overlap_hours[:, None]
    unprepared += late_usd[:, None]
    unprepared *= fleet.within_1h
    unprepared += fleet.usd_per_hour
    nowhere = np.full(unprepared.shape, NO_COLUMN)
    if policy in (StandbyPolicy.NEVER, StandbyPolicy.ON_NOTICE):
        return unprepared, nowhere
    partner, partner_usd = _standbys(fleet)
    prepared = fleet.within_1h * outage_usd[:, None]
    prepared += fleet.usd_per_hour
    prepared += partner_usd
    held = fleet.is_spot & np.isfinite(partner_usd)
    if policy is StandbyPolicy.ON_RISK:
        held &= prepared < unprepared
    return np.where(held, prepared, unprepared), np.where(held, partner, nowhere)


def _standbys(fleet: Fleet) -> tuple[Columns, Floats]:
    """For each spot offer the cheapest offer in another pool, spot before on-demand; infinite USD where there is none.

    Only the cheapest of a row and the cheapest outside that one's pool can be it.
    """
    candidate = ~fleet.is_excluded & ~np.isnan(fleet.usd_per_hour)
    rows = np.arange(len(fleet.current))
    partner = np.full(fleet.usd_per_hour.shape, NO_COLUMN)
    partner_usd = np.full(fleet.usd_per_hour.shape, np.inf)
    for of_kind in (fleet.is_spot, ~fleet.is_spot):
        usd = np.where(candidate & of_kind, fleet.usd_per_hour, np.inf)
        first = usd.argmin(axis=1)
        first_usd = usd[rows, first]
        usd[rows, first] = np.inf
        second = usd.argmin(axis=1)
        same_pool = fleet.pool == fleet.pool[rows, first][:, None]
        open_still = np.isinf(partner_usd)
        partner = np.where(open_still, np.where(same_pool, second[:, None], first[:, None]), partner)
        chosen_usd = np.where(same_pool, usd[rows, second][:, None], first_usd[:, None])
        partner_usd = np.where(open_still, chosen_usd, partner_usd)
    return partner, partner_usd


def _reasons(
    fleet: Fleet, rules: DecisionRules, known: Flags, saving: Floats, current_usd: Floats, target_usd: Floats
) -> NDArray[np.int8]:
    cost = fleet.failover
    switch_usd = cost.outage_seconds * cost.usd_per_outage_second + cost.transfer_usd
    switch_usd = switch_usd + cost.overlap_seconds * target_usd / 3600
    payback_hours = rules.payback.total_seconds() / 3600
    least = float(rules.minimum_saving) * current_usd
    conditions = [
        (~known, Reason.CURRENT_PRICE_UNKNOWN),
        (saving <= 0, Reason.CHEAPEST),
        (saving < least, Reason.SAVES_TOO_LITTLE),
        (saving * payback_hours < switch_usd, Reason.PAYS_BACK_TOO_LATE),
        (fleet.stayed_seconds < rules.dwell.total_seconds(), Reason.STAYED_TOO_SHORTLY),
    ]
    return np.select(
        [condition for condition, _ in conditions],
        [np.int8(_REASON[reason]) for _, reason in conditions],
        default=np.int8(_REASON[Reason.SAVES_ENOUGH]),
    ).astype(np.int8)
