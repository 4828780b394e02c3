"""From generated interruptions to a model that the product accepts, and an honest verdict on it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from spot_optimizer.domain.boosters import check_booster
from spot_optimizer.domain.model_files import decode
from spot_optimizer.domain.models import Manifest, check_manifest
from spot_optimizer.domain.risk import MODEL_FEATURES
from tests.training.markets import BANDS, a_market
from training.__main__ import UNWATCHED_WIDTH, show
from training.examples import histories, label
from training.pipeline import SETTINGS, WITHOUT_MODEL, Trained, choose, evaluate, fit_calibration, train

RESTLESS_AND_CALM = {"us-east-1a": 2.5, "us-east-1b": 0.05, "us-east-1c": 0.6}


def trained(out: Path) -> Trained:
    traces = a_market(interruptions_per_hour=RESTLESS_AND_CALM, days=2.5, seed=11)
    return train(traces, label(traces, histories(traces, BANDS)), out, draws=40)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("model"))


def test_the_product_accepts_what_training_writes(result: Trained) -> None:
    manifest = Manifest.from_json((result.folder / "manifest.json").read_text())
    check_manifest(manifest, known_features=MODEL_FEATURES)
    assert manifest == result.manifest
    for file in manifest.files:
        content = (result.folder / file.name).read_bytes()
        assert len(content) == file.size_bytes
        decoded = decode(file.name, content)
        if file.name != manifest.scaler:
            check_booster(file.name, decoded, features=manifest.features)


def test_the_card_names_data_metrics_and_limits(result: Trained) -> None:
    card = (result.folder / "card.md").read_text()
    for said in ("## Data", "## Within 1 h", "## Within 6 h", "## Limits", "last-known band", "Used by default"):
        assert said in card
    assert (result.folder / "calibration.png").stat().st_size > 5_000


def test_how_good_it_is_is_told_beside_simpler_ways_fold_by_fold_and_with_intervals(result: Trained) -> None:
    console = Console(width=UNWATCHED_WIDTH, record=True, file=io.StringIO())
    show(result, console)
    told = console.export_text()
    for said in ("within 1 h", "within 6 h", "AUC", "Brier score", "F1", "5 time-ordered folds", "95 % intervals"):
        assert said in told
    for predictor in ("model", "base rate", "last-known band", "own recent rate"):
        rows = [line for line in told.splitlines() if f"│ {predictor} " in line]
        assert [row.count("[") for row in rows] == [4, 4], "each figure with its interval, in both tables"
    assert told.count(result.reports[1].folds[0].tested_from[:16]) >= 1
    assert f"default within 1 h: {result.reports[1].default}" in told


def test_a_model_is_never_tested_on_what_it_saw(result: Trained) -> None:
    assert result.manifest.training_span.end <= result.manifest.test_span.start
    for report in result.reports.values():
        for before, after in zip(report.folds, report.folds[1:], strict=False):
            assert before.trained_until <= before.tested_from <= before.tested_until <= after.tested_from


def test_settings_are_chosen_without_a_look_at_what_is_tested() -> None:
    traces = a_market(interruptions_per_hour=RESTLESS_AND_CALM, days=2.5, seed=11)
    examples = label(traces, histories(traces, BANDS))
    known = np.flatnonzero(~np.isnan(examples.labels[1]))
    before, tested = known[: len(known) // 2], known[len(known) // 2 :]
    chosen = choose(examples, 1, before)
    assert chosen in SETTINGS
    examples.labels[1][tested] = 1 - examples.labels[1][tested]
    examples.features[tested] = 0
    assert choose(examples, 1, before) == chosen


def test_a_setting_that_only_remembers_is_not_chosen_where_there_is_nothing_to_learn() -> None:
    traces = a_market(interruptions_per_hour={"us-east-1a": 0.4, "us-east-1b": 0.4}, days=2.5, seed=5)
    examples = label(traces, histories(traces, BANDS))
    known = np.flatnonzero(~np.isnan(examples.labels[1]))
    deepest = max(SETTINGS, key=lambda one: (one.max_depth, -one.min_child_weight))
    assert choose(examples, 1, known)[:3] != deepest[:3]


def test_restless_and_calm_pools_are_told_apart(result: Trained) -> None:
    scores = result.reports[1].scores
    assert scores["model"]["auc"].value > 0.75
    assert scores["model"]["brier"].value < scores["last-known band"]["brier"].value


def test_where_there_is_nothing_to_learn_the_model_is_not_the_default() -> None:
    """Both pools are alike and nothing precedes an interruption."""
    traces = a_market(interruptions_per_hour={"us-east-1a": 0.4, "us-east-1b": 0.4}, days=2.5, seed=5)
    assert evaluate(label(traces, histories(traces, BANDS)), 1, draws=100).default == WITHOUT_MODEL


def test_the_same_data_give_the_same_model(result: Trained, tmp_path: Path) -> None:
    assert trained(tmp_path).manifest == result.manifest


def test_calibration_finds_the_curve_that_the_labels_were_drawn_from() -> None:
    coin = np.random.default_rng(2)
    margin = coin.normal(0, 2, 60_000)
    labels = (coin.random(60_000) < 1 / (1 + np.exp(-(0.5 * margin - 1)))).astype(float)
    slope, intercept = fit_calibration(margin, labels, weight=1)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(-1, abs=0.05)
