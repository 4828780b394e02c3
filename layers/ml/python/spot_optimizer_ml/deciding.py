"""Decisions for thousands of agents at once, as they are kept: the rows a model is asked, the arrays, the reasons.

`spot_optimizer.domain.decisions` says what is decided; a property test holds this to deciding the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from spot_optimizer.domain import risk
from spot_optimizer.domain.decisions import DecisionRules, Offer, explain, price_confidence
from spot_optimizer.domain.models import Row
from spot_optimizer.domain.offers import PoolPast, Standing
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import ModelAnswer, Risk
from spot_optimizer.domain.stored_decisions import (
    StoredDecision,
    failover_as_words,
    ranked,
    rules_as_words,
    weighed,
)
from spot_optimizer_ml.features import LONGEST_HOURS, PoolHistory, row
from spot_optimizer_ml.fleet import (
    NO_COLUMN,
    REASONS,
    VERDICTS,
    FailoverCosts,
    Fleet,
    FleetDecisions,
    Floats,
    decide_all,
)

_PERCENT = Decimal("0.01")
_HOUR = timedelta(hours=1)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""The band is the last one known now; since when it is so does not matter."""


@dataclass(frozen=True)
class Questions:
    """What a model is asked: each pool for an instance that is launched there now, and each agent's own pool for the
    instance that it has.

    Attributes:
        pool_ids: Of the first rows.
        agent_ids: Of the rows behind those.
        own_pool_ids: The agents' pools.
        rows: All of them, as `MODEL_FEATURES` names the columns; None where a value is unknown.
    """

    pool_ids: tuple[str, ...]
    agent_ids: tuple[str, ...]
    own_pool_ids: tuple[str, ...]
    rows: tuple[Row, ...]


def questions(standings: Sequence[Standing], pasts: Iterable[PoolPast], *, now: datetime) -> Questions:
    """Put together what a model is asked about; only the age tells an agent's row from its pool's."""
    histories = {past.pool_id: _history(past) for past in pasts}
    by_type = defaultdict(list)
    for history in histories.values():
        by_type[_instance_type(history.pool_id)].append(history)
    by_pool = {
        pool_id: row(
            history,
            [peer for peer in by_type[_instance_type(pool_id)] if peer is not history],
            launched_at=now,
            now=now,
        )
        for pool_id, history in histories.items()
    }
    own = [
        one
        for one in standings
        if one.situation.current.lifecycle is Lifecycle.SPOT and one.situation.current.pool_id in by_pool
    ]
    aged = ([_age_hours(one, now), *by_pool[one.situation.current.pool_id][1:]] for one in own)
    return Questions(
        pool_ids=tuple(by_pool),
        agent_ids=tuple(one.agent.agent_id for one in own),
        own_pool_ids=tuple(one.situation.current.pool_id for one in own),
        rows=tuple(
            tuple(None if np.isnan(value) else float(value) for value in each) for each in chain(by_pool.values(), aged)
        ),
    )


@dataclass(frozen=True)
class Risks:
    """What is thought of pools: by a model where one answered sensibly, else by the rule, which each note says.

    Attributes:
        of_pools: By the model, of an instance that is launched now, by pool id; what is absent keeps the rule's risk.
        of_agents: Likewise of the instance that an agent has, by agent id.
        doubt: Why the rule's risk stands where it does.
        model_version: Of the model; None where none was asked.
        without_model_because: Why none was; empty with one.
    """

    of_pools: Mapping[str, Risk]
    of_agents: Mapping[str, Risk]
    doubt: str
    model_version: str | None
    without_model_because: str


def by_rule(because: str) -> Risks:
    """The rule's risks stand, because there is no model, or because it failed."""
    return Risks({}, {}, because, None, because)


def by_model(asked: Questions, answers: Sequence[Sequence[float]], *, version: str, now: datetime) -> Risks:
    """Take a model's answers; one that can not be right leaves the rule's risk in its place."""
    said = [
        ModelAnswer(within_1h=within_1h, within_6h=within_6h, version=version, features_as_of=now)
        for within_1h, within_6h in answers
    ]
    doubts = [risk.doubt(answer, now) for answer in said]
    sensible = [
        None if doubt else risk.assess(None, risk.Exposure(), now=now, model=answer)
        for answer, doubt in zip(said, doubts, strict=True)
    ]
    pools, agents = sensible[: len(asked.pool_ids)], sensible[len(asked.pool_ids) :]
    return Risks(
        of_pools={key: one for key, one in zip(asked.pool_ids, pools, strict=True) if one is not None},
        of_agents={key: one for key, one in zip(asked.agent_ids, agents, strict=True) if one is not None},
        doubt=next((doubt for doubt in doubts if doubt), f"model {version} was not asked about it"),
        model_version=version,
        without_model_because="",
    )


def decide_fleet(standings: Sequence[Standing], risks: Risks, *, now: datetime) -> tuple[StoredDecision, ...]:
    """Decide for every agent.

    Returns:
        One decision per agent, in order.
    """
    by_rules: dict[DecisionRules, list[int]] = defaultdict(list)
    for position, one in enumerate(standings):
        by_rules[one.rules].append(position)
    judged = _Judged(risks, now)
    found: dict[int, StoredDecision] = {}
    for rules, positions in by_rules.items():
        some = [standings[position] for position in positions]
        offers = [judged.offers(one) for one in some]
        decided = decide_all(_fleet(some, offers, judged, now), rules)
        for number, position in enumerate(positions):
            found[position] = _stored(some[number], offers[number], decided, number, risks, now)
    return tuple(found[position] for position in range(len(standings)))


@dataclass(frozen=True)
class _Columns:
    """Offers as arrays, each of shape (offers,)."""

    usd_per_hour: Floats
    within_1h: Floats
    confidence: Floats
    is_spot: NDArray[np.bool_]
    is_excluded: NDArray[np.bool_]
    pool: NDArray[np.int32]


class _Judged:
    """Offers with the risks that hold for them. Agents that share offers share what is made of them."""

    def __init__(self, risks: Risks, now: datetime) -> None:
        self._risks = risks
        self._now = now
        self._shared: dict[int, tuple[Offer, ...]] = {}
        self._columns: dict[int, _Columns] = {}
        self._pools: dict[str, int] = {}

    def offers(self, one: Standing) -> tuple[Offer, ...]:
        """The agent's; at the place where it runs, the risk is that of the instance it has."""
        shared = self._shared.get(id(one.offers))
        if shared is None:
            of_pools, doubt = self._risks.of_pools, self._risks.doubt
            shared = tuple(_with_risk(offer, of_pools.get(offer.offer_id.pool_id), doubt) for offer in one.offers)
            self._shared[id(one.offers)] = shared
        own = self._risks.of_agents.get(one.agent.agent_id)
        if own is None:
            return shared
        here = one.situation.current
        return tuple(_with_risk(offer, own, "") if offer.offer_id == here else offer for offer in shared)

    def columns(self, one: Standing) -> _Columns:
        """The shared part of what `offers` gives, as arrays."""
        key = id(one.offers)
        if key not in self._columns:
            self._columns[key] = self._laid_out(self._shared[key])
        return self._columns[key]

    def _laid_out(self, offers: tuple[Offer, ...]) -> _Columns:
        return _Columns(
            usd_per_hour=np.array([np.nan if one.usd_per_hour is None else float(one.usd_per_hour) for one in offers]),
            within_1h=np.array([float(one.risk.within_1h) for one in offers]),
            confidence=np.array([_confidence(one, self._now) for one in offers]),
            is_spot=np.array([one.offer_id.lifecycle is Lifecycle.SPOT for one in offers]),
            is_excluded=np.array([bool(one.excluded_because) for one in offers]),
            pool=np.array(
                [self._pools.setdefault(one.offer_id.pool_id, len(self._pools)) for one in offers], dtype=np.int32
            ),
        )


def _fleet(some: Sequence[Standing], offers: Sequence[tuple[Offer, ...]], judged: _Judged, now: datetime) -> Fleet:
    shape = (len(some), max(map(len, offers)))
    usd_per_hour, within_1h, confidence = np.full(shape, np.nan), np.zeros(shape), np.ones(shape)
    is_spot, is_excluded, pool = np.zeros(shape, bool), np.ones(shape, bool), np.full(shape, -1, np.int32)
    current = np.zeros(len(some), np.intp)
    for number, (one, offered) in enumerate(zip(some, offers, strict=True)):
        columns, width = judged.columns(one), len(offered)
        usd_per_hour[number, :width] = columns.usd_per_hour
        within_1h[number, :width] = columns.within_1h
        confidence[number, :width] = columns.confidence
        is_spot[number, :width] = columns.is_spot
        is_excluded[number, :width] = columns.is_excluded
        pool[number, :width] = columns.pool
        here = next(column for column, offer in enumerate(offered) if offer.offer_id == one.situation.current)
        current[number] = here
        within_1h[number, here] = float(offered[here].risk.within_1h)
        confidence[number, here] = _confidence(offered[here], now)
    return Fleet(
        usd_per_hour=usd_per_hour,
        within_1h=within_1h,
        confidence=confidence,
        is_spot=is_spot,
        is_excluded=is_excluded,
        pool=pool,
        current=current,
        stayed_seconds=np.array([(now - one.situation.since).total_seconds() for one in some]),
        has_standby=np.array([one.situation.standby_pool_id is not None for one in some]),
        failover=FailoverCosts(
            **{
                name: np.array([float(getattr(one.situation.failover, name)) for one in some])
                for name in FailoverCosts.__dataclass_fields__
            }
        ),
    )


def _stored(
    one: Standing, offers: tuple[Offer, ...], decided: FleetDecisions, number: int, risks: Risks, now: datetime
) -> StoredDecision:
    situation = one.situation
    expected = [None if np.isnan(usd) else _decimal(usd) for usd in decided.expected_usd_per_hour[number].tolist()]
    here = next(column for column, offer in enumerate(offers) if offer.offer_id == situation.current)
    target = offers[decided.target[number]].offer_id
    best = int(decided.best[number])
    standby = int(decided.standby[number])
    standby_pool_id = None if standby == NO_COLUMN else offers[standby].offer_id.pool_id
    reason, saving = REASONS[decided.reason[number]], _decimal(float(decided.saving_usd_per_hour[number]))
    risk_here = offers[here].risk
    return StoredDecision(
        agent_id=one.agent.agent_id,
        decided_at=now,
        client_id=one.agent.client_id,
        epoch=one.agent.epoch,
        verdict=VERDICTS[decided.verdict[number]],
        reason=reason,
        pool_id=target.pool_id,
        lifecycle=target.lifecycle,
        current_pool_id=situation.current.pool_id,
        current_lifecycle=situation.current.lifecycle,
        since=situation.since,
        standby_pool_id=standby_pool_id,
        held_standby_pool_id=situation.standby_pool_id,
        saving_usd_per_hour=saving,
        saving=_decimal(float(decided.saving[number])),
        risk_within_1h=risk_here.within_1h,
        risk_within_6h=risk_here.within_6h,
        risk_basis=risk_here.basis,
        risk_note=risk_here.note,
        confidence_score=Decimal(float(decided.confidence[number])).quantize(_PERCENT),
        model_version=risks.model_version,
        without_model_because=risks.without_model_because,
        explanation=explain(
            reason,
            here=situation.current,
            here_usd_per_hour=expected[here],
            best=None if best == NO_COLUMN else offers[best].offer_id,
            best_usd_per_hour=Decimal(0) if best == NO_COLUMN else expected[best] or Decimal(0),
            saving_usd_per_hour=saving,
            standby_pool_id=standby_pool_id,
            rules=one.rules,
            risk_note=risk_here.note,
        ),
        rules=rules_as_words(one.rules),
        failover=failover_as_words(situation.failover),
        offers=ranked(weighed(offer, usd) for offer, usd in zip(offers, expected, strict=False)),
    )


def _with_risk(offer: Offer, thought: Risk | None, doubt: str) -> Offer:
    if offer.offer_id.lifecycle is not Lifecycle.SPOT:
        return offer
    return replace(offer, risk=thought or risk.doubted(offer.risk, doubt))


def _confidence(offer: Offer, now: datetime) -> float:
    return float(min(price_confidence(offer, now), offer.risk.basis.confidence))


def _history(past: PoolPast) -> PoolHistory:
    return PoolHistory(
        pool_id=past.pool_id,
        held=past.held,
        price_times=np.array([at.timestamp() for at, _ in past.price_shares]),
        price_shares=np.array([share for _, share in past.price_shares]),
        bands=() if past.band is None else ((_LONG_AGO, past.band),),
    )


def _age_hours(one: Standing, now: datetime) -> float:
    return min(max(now - one.launched_at, timedelta(0)) / _HOUR, LONGEST_HOURS)


def _instance_type(pool_id: str) -> str:
    return pool_id.partition(".")[2]


def _decimal(usd: float) -> Decimal:
    return Decimal(f"{usd:.6f}")
