"""What a model learns from: causal features, honest labels, scores that mean what they say."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_optimizer.domain.risk import MODEL_FEATURES, Held
from spot_optimizer_ml.features import PoolHistory, row
from tests.training.markets import BANDS, START, a_market, a_trace
from training.examples import histories, label
from training.scores import auc, best_threshold, brier, f1, f1_macro

MARKET = a_market(interruptions_per_hour={"us-east-1a": 0.5, "us-east-1b": 0.2}, days=2, seed=3)
HISTORY = histories(MARKET, BANDS)


def as_known(pool: PoolHistory, now: float) -> PoolHistory:
    """A pool's history with everything after a moment cut off."""
    moment = START + timedelta(hours=now)
    held = [
        one if one.until is not None and one.until <= moment else Held(one.since, None, False)
        for one in pool.held
        if one.since < moment
    ]
    seen = pool.price_times <= moment.timestamp()
    return replace(
        pool,
        held=held,
        price_times=pool.price_times[seen],
        price_shares=pool.price_shares[seen],
        bands=[(published, band) for published, band in pool.bands if published <= moment],
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 47.9))
def test_what_comes_later_changes_no_feature(hours: float) -> None:
    pool, peer = HISTORY.values()
    now = START + timedelta(hours=hours)
    whole = row(pool, [peer], launched_at=START, now=now)
    cut = row(as_known(pool, hours), [as_known(peer, hours)], launched_at=START, now=now)
    np.testing.assert_array_equal(whole, cut)


def test_features_are_what_their_names_say() -> None:
    trace = a_trace(up="1" * 60 + "0" * 30 + "1" * 60 + "0" * 10 + "1" * 200)
    pool = histories([trace], BANDS)[trace.trace_id]
    found = dict(
        zip(
            MODEL_FEATURES,
            row(pool, [pool], launched_at=trace.at(160), now=trace.at(160 + 30)),
            strict=True,
        )
    )
    assert found["age_hours"] == pytest.approx(0.5)
    assert (found["interruptions_1h"], found["interruptions_6h"], found["interruptions_24h"]) == (1, 2, 2)
    assert found["hours_since_interruption"] == pytest.approx(40 / 60)
    assert found["held_share_24h"] == pytest.approx(150 / 190)
    assert (found["peer_interruptions_1h"], found["peer_interruptions_6h"]) == (1, 2)
    assert found["price_share"] == pytest.approx(0.3)
    assert np.isnan(found["price_change_24h"])
    assert found["advisor_band"] == 4


def test_labels_say_whether_the_instance_was_interrupted_within_the_horizon() -> None:
    """90 minutes held, then interrupted; then up for two hours to the end of the recording."""
    trace = a_trace(up="1" * 90 + "0" * 30 + "1" * 120)
    examples = label([trace], histories([trace], BANDS))
    minutes = (examples.times - START.timestamp()) / 60
    first = minutes < 90
    assert examples.labels[1][first].tolist() == [0.0 if minute < 30 else 1.0 for minute in minutes[first]]
    # What lies less than an hour before the end could still have been interrupted within an hour.
    late = examples.labels[1][~first]
    assert np.isnan(late[-12:]).all()
    assert (late[:11] == 0).all()
    assert examples.interruptions == 1


def test_a_failed_launch_labels_nothing() -> None:
    trace = a_trace(kind="availability", up="1100")
    with pytest.raises(ValueError, match="kind preemption"):
        label([trace], histories([trace], BANDS))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 5)), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(cases: list[tuple[float, int]]) -> None:
    labels, said = np.array([c[0] for c in cases]), np.array([c[1] / 5 for c in cases])
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0 for high in said[labels == 1] for low in said[labels == 0]
    ]
    if not pairs:
        assert np.isnan(auc(labels, said))
    else:
        assert auc(labels, said) == pytest.approx(sum(pairs) / len(pairs))


def test_scores_of_a_small_case_by_hand() -> None:
    labels, said = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.9, 0.4, 0.6, 0.1])
    assert brier(labels, said) == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert f1(labels, said > 0.5) == pytest.approx(0.5)
    assert f1_macro(labels, said > 0.5) == pytest.approx(0.5)
    assert f1(labels, said > 0.95) == 0


def test_the_threshold_is_the_one_that_parts_them() -> None:
    coin = random.Random(1)
    said = np.array([coin.uniform(0, 0.4) for _ in range(50)] + [coin.uniform(0.6, 1) for _ in range(50)])
    labels = np.repeat([0.0, 1.0], 50)
    assert f1(labels, said > best_threshold(labels, said)) > 0.98
