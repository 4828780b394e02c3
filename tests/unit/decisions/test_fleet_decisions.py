"""What is decided for a whole fleet at once is what would be decided for each agent alone, in every field."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_optimizer.control.deciding import decide_by_rule
from spot_optimizer.domain.decisions import DecisionRules, Offer, OfferId, Situation, StandbyPolicy, decide
from spot_optimizer.domain.offers import SeenPrice, Standing, pool_past
from spot_optimizer.domain.risk import MODEL_FEATURES, NOT_ASKED, AdvisorBand, RiskBasis
from spot_optimizer_ml.deciding import Questions, by_model, by_rule, decide_fleet, questions
from tests import builders
from tests.unit.decisions.offers import NOW, a_situation, an_offer
from tests.unit.decisions.test_fleet import agents_strategy, on_an_edge

A, B = "us-east-1a.m5.large", "us-east-1b.m5.large"


def a_standing(
    situation: Situation, offers: Sequence[Offer], *, agent_id: str = "agt-1", rules: DecisionRules | None = None
) -> Standing:
    return Standing(
        agent=builders.an_agent(agent_id=agent_id, primary_pool_id=situation.current.pool_id),
        situation=replace(situation, agent_id=agent_id),
        offers=tuple(sorted(offers, key=lambda offer: offer.offer_id)),
        launched_at=NOW - timedelta(hours=5),
        rules=rules or DecisionRules(),
    )


def rounded(value: Any) -> Any:
    """To what float64 keeps of a price."""
    return pytest.approx(value, abs=Decimal("0.000002")) if isinstance(value, Decimal) else value


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(agents_strategy(), st.sampled_from(list(StandbyPolicy))), min_size=1, max_size=5))
def test_a_fleet_is_decided_for_as_each_agent_alone(
    fleet: list[tuple[tuple[Situation, list[Offer]], StandbyPolicy]],
) -> None:
    standings = [
        a_standing(situation, offers, agent_id=f"agt-{number}", rules=replace(DecisionRules(), standby=policy))
        for number, ((situation, offers), policy) in enumerate(fleet)
    ]
    decided = decide_fleet(standings, by_rule("no model is live"), now=NOW)
    assert [one.agent_id for one in decided] == [one.agent.agent_id for one in standings]
    for one, in_fleet in zip(standings, decided, strict=True):
        if on_an_edge(decide(one.situation, one.offers, one.rules, now=NOW), one.rules, one.situation):
            continue
        alone = decide_by_rule(one, now=NOW, without_model_because="no model is live")
        for field in dataclasses.fields(alone):
            if field.name not in ("explanation", "offers"):
                assert getattr(in_fleet, field.name) == rounded(getattr(alone, field.name)), field.name
        assert re.sub(r"\d", "0", in_fleet.explanation) == re.sub(r"\d", "0", alone.explanation)
        of_fleet, of_one = ({(o.pool_id, o.lifecycle): o for o in each.offers} for each in (in_fleet, alone))
        assert of_fleet.keys() == of_one.keys()
        for key, offer in of_one.items():
            assert of_fleet[key].expected_usd_per_hour == rounded(offer.expected_usd_per_hour)
            assert of_fleet[key].risk_note == offer.risk_note


def asked_of(standings: Sequence[Standing]) -> Questions:
    pasts = [
        pool_past(
            pool_id,
            running_since=[NOW - timedelta(hours=5)] if pool_id == A else [],
            interruptions=[NOW - timedelta(minutes=30), NOW - timedelta(minutes=29)] if pool_id == B else [],
            prices=[SeenPrice(Decimal("0.03"), NOW - timedelta(minutes=3))],
            on_demand_usd_per_hour=Decimal("0.1"),
            band=AdvisorBand.FROM_5_TO_10_PERCENT if pool_id == A else None,
        )
        for pool_id in (A, B)
    ]
    return questions(standings, pasts, now=NOW)


def two_standings() -> list[Standing]:
    offers = [an_offer(A, "0.040"), an_offer(B, "0.020")]
    offers = [replace(one, risk=replace(one.risk, note=f"evidence; {NOT_ASKED}")) for one in offers]
    shared = tuple(offers)
    return [replace(a_standing(a_situation(A), offers, agent_id=f"agt-{n}"), offers=shared) for n in (1, 2)]


def test_a_model_is_asked_of_each_pool_once_and_of_each_instance_with_its_age() -> None:
    asked = asked_of(two_standings())
    assert (asked.pool_ids, asked.agent_ids, asked.own_pool_ids) == ((A, B), ("agt-1", "agt-2"), (A, A))
    named = [dict(zip(MODEL_FEATURES, row, strict=True)) for row in asked.rows]
    assert [row["age_hours"] for row in named] == [0.0, 0.0, 5.0, 5.0]
    assert [row["interruptions_1h"] for row in named] == [0.0, 1.0, 0.0, 0.0], "two signals of one event count once"
    assert named[0]["peer_interruptions_1h"] == 1.0, "the same type in another zone"
    assert named[0]["price_share"] == pytest.approx(0.3)
    assert named[0]["price_change_24h"] is None, "what is not known is no number"
    assert [row["advisor_band"] for row in named] == [1.0, 4.0, 1.0, 1.0], "the worst where none is known"


def test_a_models_answers_weigh_and_are_named_in_what_is_kept() -> None:
    standings = two_standings()
    asked = asked_of(standings)
    risks = by_model(asked, [(0.01, 0.05), (0.9, 0.95), (0.02, 0.1), (0.03, 0.2)], version="ses-1", now=NOW)
    decided = decide_fleet(standings, risks, now=NOW)
    assert [one.risk_within_1h for one in decided] == [Decimal("0.02"), Decimal("0.03")], "each instance has its age"
    assert {(one.model_version, one.risk_basis, one.without_model_because) for one in decided} == {
        ("ses-1", RiskBasis.MODEL, "")
    }
    there = next(offer for offer in decided[0].offers if offer.pool_id == B)
    assert (there.risk_within_1h, there.risk_note) == (Decimal("0.9"), "model ses-1")
    assert decided[0].verdict == "stay", "half the price is not worth being interrupted every hour"
    assert decide_fleet(standings, by_rule("none"), now=NOW)[0].verdict == "switch"


@pytest.mark.parametrize("nonsense", [float("nan"), 1.5, -0.1, float("inf")])
def test_an_answer_that_can_not_be_right_leaves_the_rules_risk_and_says_so(nonsense: float) -> None:
    standings = two_standings()
    asked = asked_of(standings)
    risks = by_model(asked, [(nonsense, 0.5)] * len(asked.rows), version="ses-1", now=NOW)
    for one in decide_fleet(standings, risks, now=NOW):
        assert one.risk_basis is RiskBasis.ADVISOR_BAND
        assert "no probability" in one.risk_note
        assert NOT_ASKED not in one.risk_note


def test_offers_that_agents_share_are_not_mixed_up_with_their_own_place() -> None:
    first, second = two_standings()
    second = replace(second, situation=replace(second.situation, current=OfferId(B)))
    decided = decide_fleet([first, second], by_rule("none"), now=NOW)
    assert [one.current_pool_id for one in decided] == [A, B]
    assert [one.verdict.value for one in decided] == ["switch", "stay"]
