"""The arrays decide as the plain rule does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_optimizer.domain.decisions import Decision, DecisionRules, Offer, OfferId, Situation, StandbyPolicy, decide
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer_ml.fleet import NO_COLUMN, REASONS, VERDICTS, FailoverCosts, Fleet, Floats, decide_all
from tests.unit.decisions.offers import NOW, a_failover_cost, a_situation, an_offer

ZONES = "abcdef"
Agents = list[tuple[Situation, list[Offer]]]


def fleet_of(agents: Agents) -> Fleet:
    """Lay agents' offers out in columns."""
    width = max(len(offers) for _, offers in agents)
    ordered = [sorted(offers, key=lambda offer: offer.offer_id) for _, offers in agents]
    pools = {offer.offer_id.pool_id: n for n, offer in enumerate(chain.from_iterable(ordered))}

    def table(of: Callable[[Offer], Any], fill: Any, kind: Any) -> Any:
        return np.array([[*map(of, row), *[fill] * (width - len(row))] for row in ordered], dtype=kind)

    def per_agent(name: str) -> Floats:
        return np.array([float(getattr(situation.failover, name)) for situation, _ in agents])

    return Fleet(
        usd_per_hour=table(lambda o: float("nan" if o.usd_per_hour is None else o.usd_per_hour), np.nan, float),
        within_1h=table(lambda o: float(o.risk.within_1h), 0.0, float),
        confidence=table(lambda o: float(min(o.price_confidence, o.risk.basis.confidence)), 1.0, float),
        is_spot=table(lambda o: o.offer_id.lifecycle is Lifecycle.SPOT, False, bool),
        is_excluded=table(lambda o: bool(o.excluded_because), True, bool),
        pool=table(lambda o: pools[o.offer_id.pool_id], -1, np.int32),
        current=np.array(
            [[o.offer_id for o in row].index(s.current) for (s, _), row in zip(agents, ordered, strict=True)]
        ),
        stayed_seconds=np.array([(NOW - situation.since).total_seconds() for situation, _ in agents]),
        has_standby=np.array([situation.standby_pool_id is not None for situation, _ in agents]),
        failover=FailoverCosts(**{name: per_agent(name) for name in FailoverCosts.__dataclass_fields__}),
    )


offers_strategy = st.lists(
    st.builds(
        lambda zone, on_demand, usd, chance, excluded: an_offer(
            f"{zone}.m5.large",
            None if usd is None else str(usd),
            "0" if on_demand else str(chance),
            lifecycle=Lifecycle.ON_DEMAND if on_demand else Lifecycle.SPOT,
            excluded_because="cooldown" if excluded else "",
        ),
        st.sampled_from(ZONES),
        st.sampled_from([False, False, True]),
        st.one_of(st.none(), st.decimals("0.01", "3", places=2), st.decimals("0.01", "3", places=2)),
        st.decimals("0", "1", places=3),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda offer: offer.offer_id,
)


@st.composite
def agents_strategy(draw: st.DrawFn) -> tuple[Situation, list[Offer]]:
    offers = draw(offers_strategy)
    current = draw(st.sampled_from(offers)).offer_id
    failover = a_failover_cost(
        unprepared_seconds=str(draw(st.integers(1, 400))),
        usd_per_second=str(draw(st.decimals("0", "0.1", places=3))),
        overlap=str(draw(st.integers(0, 600))),
        transfer=str(draw(st.decimals("0", "1", places=2))),
    )
    situation = a_situation(
        current.pool_id,
        lifecycle=current.lifecycle,
        stayed=timedelta(minutes=draw(st.integers(0, 60))),
        failover=failover,
        standby_pool_id=draw(st.sampled_from([None, "f.m5.large"])),
    )
    return situation, offers


@settings(max_examples=200, deadline=None)
@given(st.lists(agents_strategy(), min_size=1, max_size=4), st.sampled_from(list(StandbyPolicy)))
def test_the_arrays_decide_as_the_plain_rule(agents: Agents, policy: StandbyPolicy) -> None:
    rules = replace(DecisionRules(), standby=policy)
    batch = decide_all(fleet_of(agents), rules)
    for row, (situation, offers) in enumerate(agents):
        plain = decide(situation, offers, rules, now=NOW)
        columns = sorted(offer.offer_id for offer in offers)
        expected = dict(zip(columns, batch.expected_usd_per_hour[row], strict=False))
        for costing in plain.ranking:
            assert expected[costing.offer_id] == pytest.approx(float(costing.expected_usd_per_hour), rel=1e-12)
        assert np.isnan([expected[offer_id] for offer_id in plain.without_price]).all()
        assert batch.saving_usd_per_hour[row] == pytest.approx(float(plain.saving_usd_per_hour), abs=1e-6)
        if on_an_edge(plain, rules, situation):
            continue
        assert VERDICTS[batch.verdict[row]] is plain.verdict
        assert REASONS[batch.reason[row]] is plain.reason
        assert columns[batch.target[row]] == plain.target
        standby = columns[batch.standby[row]].pool_id if batch.standby[row] != NO_COLUMN else None
        assert standby == plain.standby_pool_id
        assert batch.confidence[row] == pytest.approx(float(plain.confidence))


def on_an_edge(plain: Decision, rules: DecisionRules, situation: Situation) -> bool:
    """Whether a comparison of the rule is closer than float64 can tell; Decimal can."""
    by_id = {costing.offer_id: costing for costing in plain.ranking}
    current = by_id.get(situation.current)
    if current is None:
        return False
    saving, hours = plain.saving_usd_per_hour, Decimal(rules.payback.total_seconds()) / 3600
    edges = [saving, saving - rules.minimum_saving * current.expected_usd_per_hour]
    near = Decimal("0.000002")
    others = [c for c in plain.ranking if c is not current and not c.excluded_because]
    if others:
        edges.append(saving * hours - situation.failover.switch_usd(others[0].usd_per_hour))
        edges += [other.expected_usd_per_hour - others[0].expected_usd_per_hour for other in others[1:]]
    for costing in (current, *others[:1]):
        unprepared = costing.risk.within_1h * situation.failover.unprepared_usd(costing.usd_per_hour)
        prepared = costing.risk.within_1h * situation.failover.prepared_usd
        edges += [
            unprepared - prepared - other.usd_per_hour for other in plain.ranking if other.offer_id != costing.offer_id
        ]
    return any(abs(edge) < near for edge in edges)


def test_equal_offers_go_to_the_first_in_order_as_in_the_plain_rule() -> None:
    offers = [an_offer(f"{zone}.m5.large", "0.05" if zone != "a" else "0.5", "0") for zone in ZONES]
    situation = a_situation()
    batch = decide_all(fleet_of([(situation, offers)]), DecisionRules())
    assert decide(situation, offers, DecisionRules(), now=NOW).target == OfferId("b.m5.large")
    assert batch.target[0] == 1


def test_what_is_stored_names_things_and_counts_money_in_decimals() -> None:
    offers = [an_offer("a.m5.large", "0.10", "0"), an_offer("b.m5.large", "0.05", "0")]
    batch = decide_all(fleet_of([(a_situation(), offers)]), DecisionRules())
    assert batch.stored(["agt-1"], [[offer.offer_id for offer in offers]]) == [
        {
            "agent_id": "agt-1",
            "verdict": "switch",
            "reason": "saves-enough",
            "pool_id": "b.m5.large",
            "lifecycle": "spot",
            "standby_pool_id": None,
            "saving_usd_per_hour": Decimal("0.050000"),
            "saving": Decimal("0.500000"),
            "confidence_score": Decimal("0.50"),
        }
    ]
