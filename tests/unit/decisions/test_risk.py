"""Risk from the best evidence there is, and nothing that was not known yet."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_optimizer.domain.risk import (
    AdvisorBand,
    Exposure,
    Held,
    ModelAnswer,
    RiskBasis,
    assess,
    interruptions_per_hour,
    probability_within,
    recent_exposure,
)
from tests.unit.decisions.offers import NOW

HOUR = timedelta(hours=1)


def test_a_band_comes_back_as_its_share_of_a_month() -> None:
    assert float(
        probability_within(720, interruptions_per_hour=AdvisorBand.FROM_5_TO_10_PERCENT.interruptions_per_hour)
    ) == pytest.approx(0.075, abs=1e-6)


def test_worse_bands_are_riskier() -> None:
    rates = [band.interruptions_per_hour for band in AdvisorBand]
    assert rates == sorted(set(rates))


def test_without_a_model_the_band_stands_in_and_the_answer_says_so() -> None:
    risk = assess(AdvisorBand.OVER_20_PERCENT, Exposure(), now=NOW)
    assert risk.basis is RiskBasis.ADVISOR_BAND
    assert "no model is live" in risk.note


def test_a_pool_of_which_nothing_is_known_counts_as_the_worst_band() -> None:
    unknown, worst = assess(None, Exposure(), now=NOW), assess(AdvisorBand.OVER_20_PERCENT, Exposure(), now=NOW)
    assert unknown.within_1h == worst.within_1h
    assert unknown.basis is RiskBasis.WORST_BAND


def test_a_models_answer_is_taken() -> None:
    risk = assess(AdvisorBand.UNDER_5_PERCENT, Exposure(), now=NOW, model=ModelAnswer(0.25, 0.5, "v7", NOW - HOUR))
    assert (risk.within_1h, risk.within_6h, risk.basis) == (Decimal("0.25"), Decimal("0.5"), RiskBasis.MODEL)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ModelAnswer(float("nan"), 0.5, "v7", NOW), "answered nan, which is no probability"),
        (ModelAnswer(0.1, 1.5, "v7", NOW), "answered 1.5, which is no probability"),
        (ModelAnswer(-0.1, 0.5, "v7", NOW), "answered -0.1, which is no probability"),
        (ModelAnswer(0.1, 0.5, "v7", NOW + HOUR), "which is yet to come"),
    ],
)
def test_an_answer_that_cannot_be_right_is_set_aside(answer: ModelAnswer, said: str) -> None:
    with_it = assess(AdvisorBand.UNDER_5_PERCENT, Exposure(), now=NOW, model=answer)
    without = assess(AdvisorBand.UNDER_5_PERCENT, Exposure(), now=NOW)
    assert with_it.within_1h == without.within_1h
    assert with_it.basis is RiskBasis.ADVISOR_BAND
    assert said in with_it.note


def test_with_much_history_the_band_no_longer_matters() -> None:
    seen = Exposure(held_hours=10_000, interruptions=1_000)
    best = interruptions_per_hour(AdvisorBand.UNDER_5_PERCENT, seen)
    worst = interruptions_per_hour(AdvisorBand.OVER_20_PERCENT, seen)
    assert best == pytest.approx(worst, rel=1e-3) == pytest.approx(0.1, rel=2e-3)


def test_old_interruptions_count_half_after_the_half_life() -> None:
    held = Held(NOW - timedelta(days=3), NOW - timedelta(days=2), interrupted=True)
    assert recent_exposure([held], now=NOW).interruptions == pytest.approx(0.5)


spells = st.builds(
    lambda start, length, interrupted: Held(
        NOW + timedelta(minutes=start), NOW + timedelta(minutes=start + length), interrupted
    ),
    st.integers(-10_000, 1_000),
    st.integers(1, 5_000),
    st.booleans(),
)


@settings(max_examples=60)
@given(st.lists(spells, max_size=8))
def test_what_comes_later_changes_nothing(history: list[Held]) -> None:
    """Cutting the history at the moment of the decision leaves the exposure as it was."""
    known = [
        held if held.until is not None and held.until <= NOW else Held(held.since, None, False)
        for held in history
        if held.since < NOW
    ]
    assert recent_exposure(known, now=NOW) == recent_exposure(history, now=NOW)


@settings(max_examples=60)
@given(st.lists(spells, max_size=8), st.integers(1, 99))
def test_cutting_a_spell_in_two_changes_nothing(history: list[Held], percent: int) -> None:
    halves = []
    for held in history:
        assert held.until is not None
        middle = held.since + (held.until - held.since) * percent / 100
        halves += [Held(held.since, middle, False), Held(middle, held.until, held.interrupted)]
    whole, cut = recent_exposure(history, now=NOW), recent_exposure(halves, now=NOW)
    assert cut.held_hours == pytest.approx(whole.held_hours)
    assert cut.interruptions == pytest.approx(whole.interruptions)


@settings(max_examples=60)
@given(st.lists(spells, max_size=8), st.integers(0, 10_000))
def test_what_is_over_can_be_carried_on_instead_of_summed_up_again(history: list[Held], minutes: int) -> None:
    over = [held for held in history if held.until is not None and held.until <= NOW]
    later = NOW + timedelta(minutes=minutes)
    carried, summed = recent_exposure(over, now=NOW).aged(later - NOW), recent_exposure(over, now=later)
    assert carried.held_hours == pytest.approx(summed.held_hours, abs=1e-9)
    assert carried.interruptions == pytest.approx(summed.interruptions, abs=1e-9)
