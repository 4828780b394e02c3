"""From recorded interruptions to a risk model, its card, and the answer whether it is better than simpler ways.

Everything is deterministic: the same data give the same files. Tests are always later than what was trained on, with a
gap as wide as the horizon, so that no label of the training reaches into the test.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import xgboost
from numpy.typing import NDArray

from spot_optimizer.domain.models import (
    FORMAT_VERSION,
    Golden,
    HorizonModel,
    Manifest,
    ModelFile,
    Scaler,
    Span,
    check_manifest,
)
from spot_optimizer.domain.risk import MODEL_FEATURES
from training.card import draw_calibration, write_card
from training.examples import HORIZON_HOURS, Examples, histories, label
from training.recorded import Trace, data_folder, read_bands, read_traces
from training.scores import DRAWS, Floats, Interval, Predicted, auc, best_threshold, brier, calibration_error, f1, score

PARAMETERS: Final = {
    "objective": "binary:logistic",
    "eta": 0.05,
    "subsample": 0.7,
    "colsample_bytree": 0.7,
    "seed": 1,
    "nthread": 1,
}
ROUNDS: Final = 120


class Setting(NamedTuple):
    """What is chosen from the training part of each test alone, and never from a test.

    Attributes:
        max_depth: Of the trees.
        min_child_weight: The least evidence of a leaf.
        l2: Penalty on what leaves answer.
        calibration_weight: How many examples the belief is worth that the trees are calibrated.
    """

    max_depth: int
    min_child_weight: int
    l2: int
    calibration_weight: int


SETTINGS: Final = tuple(
    Setting(depth, least, l2, weight)
    for depth in (1, 2, 4)
    for least, l2 in ((5, 1), (50, 20))
    for weight in (300, 1_000, 3_000)
)
"""From nearly XGBoost's own defaults to what suits hundreds of interruptions."""

CHOSEN_BY: Final = (0.6, 0.8)
"""Share of the training examples before each of the two tests, inside the training part, that choose among them."""

DIRECTIONS: Final = {
    "age_hours": -1,
    "interruptions_1h": 1,
    "interruptions_6h": 1,
    "interruptions_24h": 1,
    "hours_since_interruption": -1,
    "own_rate_per_hour": 1,
    "held_share_24h": -1,
    "peer_interruptions_1h": 1,
    "peer_interruptions_6h": 1,
}
"""In which direction risk may move with a feature. What is known beforehand need not be learnt from so little."""

FOLD_STARTS: Final = (0.40, 0.52, 0.64, 0.76, 0.88)
"""Share of the examples before each test; a test ends where the next one begins."""

CALIBRATED_ON: Final = 0.25
"""The latest share of what is trained on, on which the calibration is fitted."""

HELD_OUT_FROM: Final = FOLD_STARTS[-2]
"""Share of the examples before the test of the model that is written."""

CALIBRATION_POINTS: Final = 33
GOLDEN_ROWS: Final = 32
PREDICTORS: Final = ("model", "base rate", "last-known band", "own recent rate")
WITHOUT_MODEL: Final = "own recent rate"
"""What `spot_optimizer.domain.risk` concludes without a model: the pool's own rate, drawn towards its band's."""

SEED: Final = 20230419


@dataclass(frozen=True)
class Fold:
    """One time-ordered test.

    Attributes:
        trained_until: No label that was trained on looks further.
        tested_from, tested_until: The examples' times.
        auc: By predictor.
        brier: By predictor.
        setting: What was chosen from what was trained on.
    """

    trained_until: str
    tested_from: str
    tested_until: str
    examples: int
    auc: dict[str, float]
    brier: dict[str, float]
    setting: Setting


@dataclass(frozen=True)
class Report:
    """How the model of one horizon did on the tests.

    Attributes:
        scores: Metrics by predictor.
        brier_gains: By how much the model's Brier score is lower than each other predictor's.
        default: `model`, or the predictor that is to be used instead.
        reliability: (said, happened) by rising probability, of the calibrated model on the tests.
    """

    hours: int
    examples: int
    base_rate: float
    scores: dict[str, dict[str, Interval]]
    brier_gains: dict[str, Interval]
    calibration_error: float
    folds: list[Fold]
    default: str
    reliability: list[tuple[float, float]]


@dataclass(frozen=True)
class Fitted:
    """The trees of one horizon, with what makes probabilities of their answers.

    Attributes:
        scaler: Of the features, fitted on the same examples.
        calibration: (points, 2): (trees' answer, probability); straight between points.
        setting: By which they were fitted.
    """

    booster: xgboost.Booster
    scaler: Scaler
    calibration: Floats
    setting: Setting

    def predict(self, features: NDArray[np.float32]) -> Floats:
        """Calibrated probability per row of (rows, features)."""
        raw = self.booster.inplace_predict(_scaled(self.scaler, features), validate_features=False)
        return np.asarray(np.interp(raw, self.calibration[:, 0], self.calibration[:, 1]), dtype=np.float64)


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        folder: Where the model's files lie.
        manifest: Of the files.
        reports: By horizon in hours.
    """

    folder: Path
    manifest: Manifest
    reports: dict[int, Report]


def train(traces: Sequence[Trace], examples: Examples, out: Path, *, draws: int = DRAWS) -> Trained:
    """Test by time-ordered folds, then write a model that is trained on the earlier part and tested on the later.

    The folds say whether such a model is worth having. What is written has seen nothing of its own test span, so that
    whoever activates it can believe its metrics.

    Args:
        traces: Where the examples come from; the card names them.
        examples: By rising time.
        out: The folder to write to; made if it is not there.
        draws: Of the bootstrap.
    """
    out.mkdir(parents=True, exist_ok=True)
    reports = {hours: evaluate(examples, hours, draws=draws) for hours in HORIZON_HOURS}
    begin = float(np.quantile(examples.times, HELD_OUT_FROM))
    before = np.flatnonzero(examples.times + max(HORIZON_HOURS) * 3600 <= begin)
    scaler = _fit_scaler(examples.features[before])
    fitted = {}
    for hours in HORIZON_HOURS:
        rows = _known(examples, hours, before)
        fitted[hours] = _fit(examples, hours, rows, scaler, choose(examples, hours, rows))
    manifest = _write(out, fitted, _held_out(examples, fitted, begin), examples, begin)
    draw_calibration({hours: report.reliability for hours, report in reports.items()}, out / "calibration.png")
    write_card(
        out / "card.md",
        manifest,
        {hours: asdict(report) for hours, report in reports.items()},
        {
            "pools": examples.pools,
            "interruptions": examples.interruptions,
            "examples": len(examples.times),
            "from": _iso(examples.times[0]),
            "until": _iso(examples.times[-1]),
            "traces": [trace.trace_id for trace in traces],
            "choices": len(SETTINGS),
            "settings": {hours: one.setting._asdict() for hours, one in fitted.items()},
        },
    )
    return Trained(out, manifest, reports)


def train_on_recorded(out: Path, *, folder: Path | None = None) -> Trained:
    """Train on the recorded preemption traces.

    Args:
        out: Where the model goes.
        folder: Of the recorded markets; by default what SPOT_DATA_DIR names.

    Raises:
        DataMissing: The recorded markets are not there.
    """
    folder = folder or data_folder()
    traces = [trace for trace in read_traces(folder) if trace.kind == "preemption"]
    return train(traces, label(traces, histories(traces, read_bands(folder))), out)


def evaluate(examples: Examples, hours: int, *, draws: int = DRAWS) -> Report:
    """Test a horizon by time-ordered folds against simpler ways."""
    labels, times = examples.labels[hours], examples.times
    known = ~np.isnan(labels)
    bounds = [*np.quantile(times, FOLD_STARTS), times[-1] + 1]
    folds: list[Fold] = []
    parts: dict[str, list[Predicted]] = {name: [] for name in PREDICTORS}
    tested: list[NDArray[np.intp]] = []
    for begin, end in pairwise(bounds):
        before = np.flatnonzero(known & (times + hours * 3600 <= begin))
        test = np.flatnonzero(known & (times >= begin) & (times < end))
        setting = choose(examples, hours, before)
        predictors = _predictors(examples, hours, before, setting)
        said = {name: predict(test) for name, (predict, _) in predictors.items()}
        for name, (_, threshold) in predictors.items():
            parts[name].append(Predicted(said[name], said[name] > threshold))
        tested.append(test)
        folds.append(_fold(labels[test], said, float(begin), float(times[test[-1]]), len(test), setting))
    everything = np.concatenate(tested)
    predicted = {
        name: Predicted(
            np.concatenate([part.probability for part in found]), np.concatenate([part.positive for part in found])
        )
        for name, found in parts.items()
    }
    truth = labels[everything]
    scores, gains = score(truth, predicted, examples.block[everything], np.random.default_rng(SEED), draws=draws)
    model = predicted["model"].probability
    order = np.array_split(np.argsort(model, kind="stable"), 10)
    return Report(
        hours=hours,
        examples=len(everything),
        base_rate=round(float(truth.mean()), 4),
        scores=scores,
        brier_gains=gains,
        calibration_error=round(calibration_error(truth, model), 4),
        folds=folds,
        default=_default(gains),
        reliability=[(float(model[part].mean()), float(truth[part].mean())) for part in order],
    )


def _default(gains: dict[str, Interval]) -> str:
    """The model, if it is better than each simpler way with 95 % confidence; otherwise what is known without one."""
    return "model" if all(gain.low > 0 for gain in gains.values()) else WITHOUT_MODEL


def choose(examples: Examples, hours: int, rows: NDArray[np.intp]) -> Setting:
    """The setting with the lowest mean Brier score on tests inside the training part; the first of equals.

    Args:
        examples: By rising time.
        hours: The horizon.
        rows: What may be trained on; nothing else is looked at.
    """
    labels, times = examples.labels[hours], examples.times
    errors = dict.fromkeys(SETTINGS, 0.0)
    bounds = [*np.quantile(times[rows], CHOSEN_BY), times[rows[-1]] + 1]
    for begin, end in pairwise(bounds):
        before = rows[times[rows] + hours * 3600 <= begin]
        test = rows[(times[rows] >= begin) & (times[rows] < end)]
        scaler = _fit_scaler(examples.features[before])
        trees: dict[tuple[int, int, int], _Trees] = {}
        for setting in SETTINGS:
            if setting[:3] not in trees:
                trees[setting[:3]] = _grow(examples, hours, before, scaler, setting)
            fitted = _calibrated(trees[setting[:3]], scaler, setting)
            errors[setting] += brier(labels[test], fitted.predict(examples.features[test]))
    return min(SETTINGS, key=errors.__getitem__)


def _predictors(
    examples: Examples, hours: int, before: NDArray[np.intp], setting: Setting
) -> dict[str, tuple[Callable[[NDArray[np.intp]], Floats], float]]:
    """Each way to predict, with the threshold that was best on what came before."""
    truth = examples.labels[hours][before]
    base_rate = float(truth.mean())
    fitted = _fit(examples, hours, before, _fit_scaler(examples.features[before]), setting)

    def by_model(rows: NDArray[np.intp]) -> Floats:
        return fitted.predict(examples.features[rows])

    def by_base_rate(rows: NDArray[np.intp]) -> Floats:
        return np.full(len(rows), base_rate)

    def by_band(rows: NDArray[np.intp]) -> Floats:
        return np.asarray(-np.expm1(-examples.band_rate[rows] * hours))

    def by_own_rate(rows: NDArray[np.intp]) -> Floats:
        return np.asarray(-np.expm1(-examples.own_rate[rows] * hours))

    ways = dict(zip(PREDICTORS, (by_model, by_base_rate, by_band, by_own_rate), strict=True))
    return {name: (predict, best_threshold(truth, predict(before))) for name, predict in ways.items()}


def _known(examples: Examples, hours: int, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    return rows[~np.isnan(examples.labels[hours][rows])]


def _fit_scaler(features: NDArray[np.float32]) -> Scaler:
    """Mean and spread of what is known; a feature that is never known is left as it is."""
    known = np.maximum((~np.isnan(features)).sum(axis=0), 1)
    mean = np.nansum(features, axis=0, dtype=np.float64) / known
    spread = np.sqrt(np.nansum((features - mean) ** 2, axis=0, dtype=np.float64) / known)
    return Scaler(MODEL_FEATURES, tuple(mean.tolist()), tuple(np.where(spread > 1e-9, spread, 1.0).tolist()))


def _scaled(scaler: Scaler, features: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((features - np.array(scaler.mean)) / np.array(scaler.scale), dtype=np.float32)


@dataclass(frozen=True)
class _Trees:
    """Trees of all that may be trained on, and what trees of the earlier part answered in the latest.

    Attributes:
        margin, labels: (late examples,).
    """

    booster: xgboost.Booster
    margin: Floats
    labels: Floats


def _fit(examples: Examples, hours: int, rows: NDArray[np.intp], scaler: Scaler, setting: Setting) -> Fitted:
    return _calibrated(_grow(examples, hours, rows, scaler, setting), scaler, setting)


def _grow(examples: Examples, hours: int, rows: NDArray[np.intp], scaler: Scaler, setting: Setting) -> _Trees:
    labels, times, scaled = examples.labels[hours], examples.times, _scaled(scaler, examples.features)
    cut = times[rows[int(len(rows) * (1 - CALIBRATED_ON))]]
    early, late = rows[times[rows] + hours * 3600 <= cut], rows[times[rows] >= cut]
    trial = _boost(scaled[early], labels[early], setting)
    margin = trial.predict(xgboost.DMatrix(scaled[late], feature_names=MODEL_FEATURES), output_margin=True)
    return _Trees(_boost(scaled[rows], labels[rows], setting), margin.astype(np.float64), labels[late])


def _calibrated(trees: _Trees, scaler: Scaler, setting: Setting) -> Fitted:
    slope, intercept = fit_calibration(trees.margin, trees.labels, weight=setting.calibration_weight)
    return Fitted(trees.booster, scaler, _points(slope, intercept), setting)


def _boost(scaled: NDArray[np.float32], labels: Floats, setting: Setting) -> xgboost.Booster:
    directions = tuple(DIRECTIONS.get(name, 0) for name in MODEL_FEATURES)
    parameters = {
        **PARAMETERS,
        "max_depth": setting.max_depth,
        "min_child_weight": setting.min_child_weight,
        "lambda": setting.l2,
        "monotone_constraints": str(directions),
    }
    matrix = xgboost.DMatrix(scaled, labels, feature_names=MODEL_FEATURES)
    return xgboost.train(parameters, matrix, num_boost_round=ROUNDS)


def _points(slope: float, intercept: float) -> Floats:
    """The fitted curve as points; a curve that falls would say that the trees know the opposite, and becomes level."""
    raw = np.linspace(0, 1, CALIBRATION_POINTS)
    inner = np.clip(raw, 1e-4, 1 - 1e-4)
    logit = max(slope, 0.0) * np.log(inner / (1 - inner)) + intercept
    return np.column_stack([raw, 1 / (1 + np.exp(-logit))])


def fit_calibration(margin: Floats, labels: Floats, *, weight: float) -> tuple[float, float]:
    """Fit logit(p) = slope x margin + intercept by Newton's method, drawn towards slope 1 and intercept 0.

    Args:
        margin: (examples,).
        labels: (examples,), 0 or 1.
        weight: How strongly it is drawn there, in examples.
    """
    inputs = np.column_stack([margin, np.ones_like(margin)])
    neutral = np.array([1.0, 0.0])
    weights = neutral.copy()
    for _ in range(25):
        probability = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (probability - labels) + weight * (weights - neutral)
        curvature = (inputs * (probability * (1 - probability))[:, None]).T @ inputs + weight * np.eye(2)
        weights = weights - np.linalg.solve(curvature, gradient)
    return float(weights[0]), float(weights[1])


def _fold(truth: Floats, said: dict[str, Floats], begin: float, end: float, count: int, setting: Setting) -> Fold:
    return Fold(
        trained_until=_iso(begin),
        tested_from=_iso(begin),
        tested_until=_iso(end),
        examples=count,
        auc={name: round(auc(truth, one), 3) for name, one in said.items()},
        brier={name: round(brier(truth, one), 4) for name, one in said.items()},
        setting=setting,
    )


def _held_out(examples: Examples, fitted: dict[int, Fitted], begin: float) -> dict[str, float]:
    """The metrics of what is written, on its own test span."""
    metrics: dict[str, float] = {}
    for hours, one in fitted.items():
        test = _known(examples, hours, np.flatnonzero(examples.times >= begin))
        before = _known(examples, hours, np.flatnonzero(examples.times + hours * 3600 <= begin))
        truth, said = examples.labels[hours][test], one.predict(examples.features[test])
        threshold = best_threshold(examples.labels[hours][before], one.predict(examples.features[before]))
        own_rate = np.asarray(-np.expm1(-examples.own_rate[test] * hours))
        metrics |= {
            f"auc_{hours}h": auc(truth, said),
            f"brier_{hours}h": brier(truth, said),
            f"f1_{hours}h": f1(truth, said > threshold),
            f"baseline_auc_{hours}h": auc(truth, own_rate),
            f"baseline_brier_{hours}h": brier(truth, own_rate),
        }
    return {name: round(value, 6) for name, value in metrics.items()}


def _write(
    out: Path, fitted: dict[int, Fitted], metrics: dict[str, float], examples: Examples, begin: float
) -> Manifest:
    picked = np.linspace(0, len(examples.features) - 1, GOLDEN_ROWS).astype(int)
    rows = examples.features[picked]
    answers = np.column_stack([one.predict(rows) for one in fitted.values()])
    contents = {f"risk-{hours}h.ubj": bytes(one.booster.save_raw("ubj")) for hours, one in fitted.items()}
    contents["scaler.json"] = fitted[HORIZON_HOURS[0]].scaler.as_json().encode()
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        features=MODEL_FEATURES,
        training_span=Span(_moment(examples.times[0]), _moment(begin)),
        test_span=Span(_moment(begin), _moment(examples.times[-1] + 1)),
        metrics=metrics,
        files=tuple(
            ModelFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()
        ),
        horizons=tuple(
            HorizonModel(hours, f"risk-{hours}h.ubj", tuple((float(x), float(p)) for x, p in one.calibration))
            for hours, one in fitted.items()
        ),
        golden=Golden(
            rows=tuple(tuple(None if math.isnan(x) else float(x) for x in row) for row in rows),
            predictions=tuple(tuple(map(float, row)) for row in answers),
        ),
        scaler="scaler.json",
    )
    check_manifest(manifest, known_features=MODEL_FEATURES)
    for name, content in contents.items():
        (out / name).write_bytes(content)
    (out / "manifest.json").write_text(manifest.as_json())
    return manifest


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC).replace(microsecond=0)


def _iso(seconds: float) -> str:
    return _moment(seconds).isoformat()
