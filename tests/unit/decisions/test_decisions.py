"""Where a workload should run, and whether a standby pays."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_optimizer.domain.decisions import (
    DecisionRules,
    Offer,
    OfferId,
    Reason,
    Situation,
    StandbyPolicy,
    Verdict,
    decide,
    unprepared_outage_seconds,
)
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import RiskBasis
from tests.unit.decisions.offers import NOW, a_failover_cost, a_situation, an_offer

RULES = DecisionRules()


def test_the_workload_goes_where_an_hour_costs_least_with_risk_counted_in() -> None:
    """b has the lower price, but loses 0.9 failovers an hour."""
    offers = [an_offer("a.m5.large", "0.10"), an_offer("b.m5.large", "0.05", "0.9"), an_offer("c.m5.large", "0.06")]
    decision = decide(a_situation(), offers, RULES, now=NOW)
    assert (decision.verdict, decision.target) == (Verdict.SWITCH, OfferId("c.m5.large"))


def test_the_expected_cost_is_price_and_risk_times_failover_and_standby() -> None:
    failover = a_failover_cost(unprepared_seconds="60", usd_per_second="0.1", overlap="36", transfer="0.04")
    offers = [an_offer("a.m5.large", "1.0", "0.5"), an_offer("b.m5.large", "2.0", "0.001")]
    costings = {c.offer_id.pool_id: c for c in decide(a_situation(failover=failover), offers, RULES, now=NOW).ranking}
    # unprepared: 60 s x 0.1 USD + 0.01 h x 1.0 USD/h + 0.04 USD = 6.05 USD at 0.5/h: dearer than b as a standby
    assert costings["a.m5.large"].expected_usd_per_hour == Decimal("1.0") + Decimal("0.5") * Decimal("0.16") + 2
    # unprepared: 6 + 0.02 + 0.04 USD, at 0.001/h: far cheaper than a standby
    assert costings["b.m5.large"].expected_usd_per_hour == Decimal("2.0") + Decimal("0.001") * Decimal("6.06")


def test_a_standby_is_prepared_where_it_costs_less_than_what_it_averts() -> None:
    failover = a_failover_cost(unprepared_seconds="300", usd_per_second="0.1")
    offers = [an_offer("a.m5.large", "0.05", "0.2"), an_offer("b.m5.large", "0.06", "0.2")]
    decision = decide(a_situation(failover=failover), offers, RULES, now=NOW)
    assert (decision.verdict, decision.standby_pool_id) == (Verdict.PREPARE_STANDBY, "b.m5.large")
    held = decide(a_situation(failover=failover, standby_pool_id="b.m5.large"), offers, RULES, now=NOW)
    assert (held.verdict, held.standby_pool_id) == (Verdict.STAY, "b.m5.large")


def test_a_standby_that_averts_less_than_it_costs_is_not_held() -> None:
    decision = decide(
        a_situation(standby_pool_id="b.m5.large"),
        [an_offer("a.m5.large", "0.05"), an_offer("b.m5.large", "0.06")],
        RULES,
        now=NOW,
    )
    assert (decision.verdict, decision.standby_pool_id) == (Verdict.STAY, None)


@pytest.mark.parametrize("policy", [StandbyPolicy.NEVER, StandbyPolicy.ON_NOTICE])
def test_a_policy_without_standbys_prepares_none(policy: StandbyPolicy) -> None:
    failover = a_failover_cost(unprepared_seconds="3000", usd_per_second="1")
    offers = [an_offer("a.m5.large", "0.05", "0.9"), an_offer("b.m5.large", "0.05", "0.9")]
    assert (
        decide(a_situation(failover=failover), offers, replace(RULES, standby=policy), now=NOW).standby_pool_id is None
    )


def test_a_standby_never_shares_the_primarys_pool_and_takes_spot_before_on_demand() -> None:
    arrived = a_situation(stayed=timedelta(0))
    always = replace(RULES, standby=StandbyPolicy.ALWAYS)
    on_demand = an_offer("b.m5.large", "0.01", "0", lifecycle=Lifecycle.ON_DEMAND)
    alone = [an_offer("a.m5.large", "0.005"), on_demand]
    assert decide(arrived, alone, always, now=NOW).standby_pool_id == "b.m5.large"
    two = [*alone, an_offer("c.m5.large", "0.09")]
    assert decide(arrived, two, always, now=NOW).standby_pool_id == "c.m5.large"
    own = [an_offer("a.m5.large", "0.005"), an_offer("a.m5.large", "0.1", "0", lifecycle=Lifecycle.ON_DEMAND)]
    assert decide(arrived, own, always, now=NOW).standby_pool_id is None


def test_on_demand_needs_no_standby() -> None:
    always = replace(RULES, standby=StandbyPolicy.ALWAYS)
    here = an_offer("a.m5.large", "0.01", "0", lifecycle=Lifecycle.ON_DEMAND)
    decision = decide(
        a_situation(lifecycle=Lifecycle.ON_DEMAND), [here, an_offer("b.m5.large", "0.5")], always, now=NOW
    )
    assert decision.standby_pool_id is None


@pytest.mark.parametrize(
    ("elsewhere", "situation", "reason"),
    [
        ("0.11", a_situation(), Reason.CHEAPEST),
        ("0.099", a_situation(), Reason.SAVES_TOO_LITTLE),
        ("0.05", a_situation(failover=a_failover_cost(transfer="5")), Reason.PAYS_BACK_TOO_LATE),
        ("0.05", a_situation(stayed=timedelta(minutes=29)), Reason.STAYED_TOO_SHORTLY),
    ],
)
def test_the_workload_stays_and_the_reason_is_named(elsewhere: str, situation: Situation, reason: Reason) -> None:
    offers = [an_offer("a.m5.large", "0.10", "0"), an_offer("b.m5.large", elsewhere, "0")]
    decision = decide(situation, offers, RULES, now=NOW)
    assert (decision.verdict, decision.reason) == (Verdict.STAY, reason)
    assert decision.target == OfferId("a.m5.large")


def test_what_is_excluded_is_no_target_and_no_standby_but_nobody_is_driven_out_of_it() -> None:
    offers = [
        an_offer("a.m5.large", "0.10", excluded_because="cooldown until 12:30"),
        an_offer("b.m5.large", "0.01", excluded_because="excluded by an operator"),
    ]
    decision = decide(a_situation(), offers, replace(RULES, standby=StandbyPolicy.ALWAYS), now=NOW)
    assert (decision.verdict, decision.standby_pool_id) == (Verdict.STAY, None)
    assert {costing.excluded_because for costing in decision.ranking} == {
        "cooldown until 12:30",
        "excluded by an operator",
    }


def test_without_a_price_of_its_own_nothing_can_be_compared() -> None:
    decision = decide(a_situation(), [an_offer("a.m5.large", None), an_offer("b.m5.large", "0.01")], RULES, now=NOW)
    assert (decision.verdict, decision.reason) == (Verdict.STAY, Reason.CURRENT_PRICE_UNKNOWN)
    assert decision.without_price == (OfferId("a.m5.large"),)


def test_after_a_fallback_the_workload_returns_to_spot() -> None:
    offers = [an_offer("a.m5.large", "0.10", "0", lifecycle=Lifecycle.ON_DEMAND), an_offer("b.m5.large", "0.03")]
    decision = decide(a_situation(lifecycle=Lifecycle.ON_DEMAND), offers, RULES, now=NOW)
    assert (decision.verdict, decision.target) == (Verdict.SWITCH, OfferId("b.m5.large"))


def test_what_was_only_known_later_is_refused() -> None:
    offers = [an_offer("a.m5.large", "0.10", seen=NOW + timedelta(seconds=1))]
    with pytest.raises(ValueError, match="after"):
        decide(a_situation(), offers, RULES, now=NOW)


def test_offers_must_name_the_current_one_and_none_twice() -> None:
    with pytest.raises(ValueError, match="not among the offers"):
        decide(a_situation(), [an_offer("b.m5.large", "0.1")], RULES, now=NOW)
    with pytest.raises(ValueError, match="twice"):
        decide(a_situation(), [an_offer("a.m5.large", "0.1")] * 2, RULES, now=NOW)


def test_confidence_is_that_of_the_weakest_input_and_a_stale_price_halves_it() -> None:
    offers = [
        an_offer("a.m5.large", "0.10", basis=RiskBasis.MODEL, seen=NOW - timedelta(hours=27)),
        an_offer("b.m5.large", "0.20", basis=RiskBasis.MODEL),
    ]
    decision = decide(a_situation(), offers, RULES, now=NOW)
    assert decision.confidence == Decimal("0.5")
    assert not decision.without_model


def test_a_decision_explains_itself() -> None:
    offers = [an_offer("a.m5.large", "0.10", "0"), an_offer("b.m5.large", "0.05", "0")]
    decision = decide(a_situation(), offers, RULES, now=NOW)
    assert decision.explanation == (
        "b.m5.large, at 0.0500 USD/h expected, saves 0.0500 USD/h against a.m5.large at 0.1000 USD/h expected; "
        "a.m5.large: as the test says"
    )
    assert decision.without_model


Market = list[tuple[Decimal, Decimal]]
prices = st.decimals("0.01", "10", places=4)
chances = st.decimals("0", "1", places=4)
markets = st.lists(st.tuples(prices, chances), min_size=2, max_size=6)


def offers_of(market: Market) -> list[Offer]:
    return [
        an_offer(f"{zone}.m5.large", str(price), str(chance))
        for zone, (price, chance) in zip("abcdef", market, strict=False)
    ]


@settings(max_examples=80)
@given(markets, st.sampled_from(list(StandbyPolicy)))
def test_nobody_switches_back_on_an_unchanged_market(market: Market, policy: StandbyPolicy) -> None:
    """After a switch, the same offers say stay, even once the dwell time is over: flapping needs the market to move."""
    rules, offers = replace(RULES, standby=policy), offers_of(market)
    first = decide(a_situation(), offers, rules, now=NOW)
    then = decide(a_situation(first.target.pool_id), offers, rules, now=NOW)
    assert then.verdict is not Verdict.SWITCH


@settings(max_examples=80)
@given(markets, st.randoms(use_true_random=False))
def test_the_order_of_offers_does_not_matter(market: Market, coin: random.Random) -> None:
    offers = offers_of(market)
    shuffled = list(offers)
    coin.shuffle(shuffled)
    assert decide(a_situation(), offers, RULES, now=NOW) == decide(a_situation(), shuffled, RULES, now=NOW)


@settings(max_examples=80)
@given(markets)
def test_holding_standbys_on_risk_is_never_expected_to_cost_more_than_either_extreme(market: Market) -> None:
    failover = a_failover_cost(unprepared_seconds="30", usd_per_second="0.05")

    def expected(policy: StandbyPolicy) -> dict[OfferId, Decimal]:
        decision = decide(a_situation(failover=failover), offers_of(market), replace(RULES, standby=policy), now=NOW)
        return {costing.offer_id: costing.expected_usd_per_hour for costing in decision.ranking}

    on_risk, on_notice, always = map(expected, (StandbyPolicy.ON_RISK, StandbyPolicy.ON_NOTICE, StandbyPolicy.ALWAYS))
    assert all(on_risk[offer] == min(on_notice[offer], always[offer]) for offer in on_risk)


@pytest.mark.parametrize(
    ("policy", "transfer_seconds", "outage_seconds"),
    [
        (StandbyPolicy.ON_NOTICE, 20, 1.2),
        (StandbyPolicy.ON_NOTICE, 100, 1.2 + 25.8 + 100 - 115),
        (StandbyPolicy.NEVER, 20, 25.8 + 20 + 1.2),
    ],
)
def test_a_replacement_that_is_not_synced_inside_the_notice_is_waited_for(
    policy: StandbyPolicy, transfer_seconds: float, outage_seconds: float
) -> None:
    waited = unprepared_outage_seconds(
        policy, handover_seconds=1.2, boot_seconds=25.8, transfer_seconds=transfer_seconds, notice_seconds=115
    )
    assert waited == pytest.approx(outage_seconds)
