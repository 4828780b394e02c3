"""From what the control plane knows to the inputs of a decision, and to the decision as it is kept."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from spot_optimizer.domain import catalogue, offers
from spot_optimizer.domain.decisions import DecisionRules, OfferId, StandbyPolicy, Verdict, decide
from spot_optimizer.domain.offers import SeenPrice
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.stored_decisions import FRESH_FOR, StoredDecision, as_stored
from tests import builders
from tests.builders import NOON

A, B = "us-east-1a.m5.large", "us-east-1b.m5.large"
ON_DEMAND = {"m5.large": Decimal("0.096")}
SEEN = {A: SeenPrice(Decimal("0.040"), NOON), B: SeenPrice(Decimal("0.030"), NOON, Decimal("0.95"))}


def offered(**known: object) -> dict[OfferId, object]:
    candidates = catalogue.list_candidates(
        ("us-east-1a", "us-east-1b"),
        ("m5.large",),
        primary_pool_id="",
        now=NOON,
        on_demand=ON_DEMAND,
        **known,  # type: ignore[arg-type]
    )
    return {offer.offer_id: offer for offer in offers.offers(candidates, now=NOON, seen=SEEN)}


def a_stored_decision(**changes: object) -> StoredDecision:
    agent = builders.an_agent(**changes)
    candidates = catalogue.list_candidates(
        ("us-east-1a", "us-east-1b"), ("m5.large",), primary_pool_id="", now=NOON, on_demand=ON_DEMAND
    )
    found = offers.offers(candidates, now=NOON, seen=SEEN)
    rules = DecisionRules(dwell=timedelta(0))
    situation = offers.situation(agent, None, promoted=None, standby=None, rules=rules)
    decision = decide(situation, found, rules, now=NOON)
    return as_stored(decision, found, agent=agent, model_version=None, without_model_because="no model is live")


def test_a_pool_is_offered_on_spot_at_what_was_seen_and_on_demand_at_its_list_price() -> None:
    found = offered()
    assert {offer_id: offer.usd_per_hour for offer_id, offer in found.items()} == {  # type: ignore[attr-defined]
        OfferId(A): Decimal("0.040"),
        OfferId(A, Lifecycle.ON_DEMAND): Decimal("0.096"),
        OfferId(B): Decimal("0.030"),
        OfferId(B, Lifecycle.ON_DEMAND): Decimal("0.096"),
    }
    assert list(found) == sorted(found)


def test_a_pool_in_cooldown_is_no_target_on_spot_and_stays_one_on_demand() -> None:
    found = offered(interruptions={B: [NOON - timedelta(minutes=5)]})
    assert "cooldown" in found[OfferId(B)].excluded_because  # type: ignore[attr-defined]
    assert not found[OfferId(B, Lifecycle.ON_DEMAND)].excluded_because  # type: ignore[attr-defined]


def test_where_the_workload_runs_is_offered_even_if_nothing_leads_there_any_more() -> None:
    gone = OfferId("us-east-1f.m5.large")
    found = offers.with_current((), gone, now=NOON)
    assert [(one.offer_id, one.usd_per_hour) for one in found] == [(gone, None)]
    assert found[0].excluded_because
    assert offers.with_current(found, gone, now=NOON) is found


def test_the_first_primary_is_taken_for_spot_and_a_promoted_one_for_what_was_bought() -> None:
    agent = builders.an_agent()
    assert offers.current_offer(agent, None).lifecycle is Lifecycle.SPOT
    bought = builders.a_replica(lifecycle="on-demand")
    assert offers.current_offer(agent, bought).lifecycle is Lifecycle.ON_DEMAND


@pytest.mark.parametrize(("gibibytes", "rate", "seconds"), [(1, 100e6, "10.737"), (10, None, "107.374")])
def test_what_a_failover_costs_follows_from_what_the_agent_measured(
    gibibytes: int, rate: float | None, seconds: str
) -> None:
    beat = builders.a_heartbeat(state_bytes=gibibytes * 2**30, state_bytes_per_second=rate)
    cost = offers.failover_cost(beat, StandbyPolicy.NEVER, usd_per_outage_second=Decimal("0.5"))
    assert cost.usd_per_outage_second == Decimal("0.5")
    assert cost.overlap_seconds == Decimal("25.8") + Decimal(seconds)
    assert cost.unprepared_outage_seconds == cost.overlap_seconds + Decimal("1.16")
    assert cost.transfer_usd == (gibibytes * 2**30 * Decimal("0.02") / 10**9).quantize(Decimal("0.000001"))


def test_what_is_kept_says_why_at_what_risk_and_from_which_inputs() -> None:
    kept = a_stored_decision()
    assert (kept.verdict, kept.target, kept.epoch) == (Verdict.SWITCH, OfferId(B), 1)
    assert (kept.current_pool_id, kept.current_lifecycle) == (A, Lifecycle.SPOT)
    assert kept.saving_usd_per_hour > Decimal("0.009")
    assert kept.confidence_score == Decimal("0.25"), "nothing is known of the pools but their price"
    assert (kept.model_version, kept.without_model_because) == (None, "no model is live")
    assert "saves" in kept.explanation
    assert [(one.pool_id, one.lifecycle) for one in kept.offers][:2] == [(B, "spot"), (A, "spot")]
    assert kept.rules["minimum_saving"] == "0.05"
    assert kept.failover["outage_seconds"] == "1.16"


def test_a_decision_is_not_acted_upon_when_it_is_old_or_about_another_primary() -> None:
    kept, agent = a_stored_decision(), builders.an_agent()
    assert not kept.stale_because(agent, now=NOON + FRESH_FOR)
    assert "ago" in kept.stale_because(agent, now=NOON + FRESH_FOR + timedelta(seconds=1))
    assert "epoch 1" in kept.stale_because(builders.an_agent(epoch=2), now=NOON)
    assert "is over" in kept.stale_because(builders.an_agent(primary_pool_id=B), now=NOON)
