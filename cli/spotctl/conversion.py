"""Turns a pickled XGBoost model and a pickled scaler into files that hold data alone.

This file is a program. `spotctl models convert` runs it in a process of its own, because loading a pickle runs whatever
code is in it: that process has no token, no credentials and no settings of the operator's, and it ends. It imports
nothing of spotctl, and needs xgboost, numpy, and what the pickles themselves were made with (mostly scikit-learn and
joblib).

What it writes is described in docs/models.md. One pickled model answers for one horizon; the answer for the other one
follows from it at a constant rate: p(t) = 1 - (1 - p(h)) ^ (t / h), which the manifest carries as a calibration.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

HORIZONS_HOURS = (1, 6)
GOLDEN_ROWS = 32
CURVE_POINTS = 101
MODEL_FILE = "risk.ubj"
SCALER_FILE = "scaler.json"
MANIFEST_FILE = "manifest.json"


class NotConvertible(Exception):
    """A file holds something else than expected; the message says what was."""


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Convert.

    Args:
        order: `model`, `scaler` (or null), `out`: paths; `hours`: the model's horizon; `features`: names, or null to
            take them from the files; `trained_from`, `trained_until`, `tested_until`: ISO 8601 with a zone.

    Returns:
        What was found, for people.

    Raises:
        NotConvertible: Something is not what it should be.
    """
    booster = _booster(_load(Path(order["model"])))
    scaler = _load(Path(order["scaler"])) if order["scaler"] else None
    features = _features(order["features"], booster, scaler)
    mean, scale = _standard(scaler, len(features))
    booster.feature_names = features
    model = bytes(booster.save_raw("ubj"))
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    if objective != "binary:logistic":
        raise NotConvertible(f"the model's objective is {objective}; expected binary:logistic, a probability")
    out = Path(order["out"])
    out.mkdir(parents=True, exist_ok=True)
    files = {MODEL_FILE: model}
    if scaler is not None:
        scaling = {"format_version": 1, "features": features, "mean": mean.tolist(), "scale": scale.tolist()}
        files[SCALER_FILE] = json.dumps(scaling, allow_nan=False).encode()
    horizons: list[dict[str, Any]] = [
        {"hours": hours, "file": MODEL_FILE, "calibration": _curve(hours / order["hours"])} for hours in HORIZONS_HOURS
    ]
    rows = mean + scale * np.random.default_rng(0).normal(size=(GOLDEN_ROWS, len(features)))
    raw = booster.inplace_predict(((rows - mean) / scale).astype(np.float32), validate_features=False)
    predictions = [
        [_calibrated(float(answer), horizon["calibration"]) for horizon in horizons] for answer in raw.tolist()
    ]
    manifest = {
        "format_version": 1,
        "features": features,
        "training_span": {"start": order["trained_from"], "end": order["trained_until"]},
        "test_span": {"start": order["trained_until"], "end": order["tested_until"]},
        "metrics": {},
        "files": [
            {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        ],
        "horizons": horizons,
        "scaler": SCALER_FILE if scaler is not None else None,
        "golden": {"rows": rows.tolist(), "predictions": predictions},
    }
    for name, data in files.items():
        (out / name).write_bytes(data)
    (out / MANIFEST_FILE).write_text(json.dumps(manifest, allow_nan=False, indent=1))
    return {
        "folder": str(out),
        "features": features,
        "trees": booster.num_boosted_rounds(),
        "files": [*files, MANIFEST_FILE],
        "predicts": [float(raw.min()), float(raw.max())],
    }


def _load(path: Path) -> Any:
    """Unpickle, which runs what is in the file."""
    try:
        if path.suffix == ".joblib":
            import joblib

            return joblib.load(path)
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - this process exists for nothing else
    except ModuleNotFoundError as error:
        raise NotConvertible(
            f"{path} needs the Python package '{error.name}'; install it beside spotctl: pip install 'spotctl[convert]'"
        ) from error
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ValueError, KeyError, IndexError) as error:
        raise NotConvertible(f"{path} can not be loaded: {type(error).__name__}: {error}") from error


def _booster(model: Any) -> xgboost.Booster:
    if isinstance(model, xgboost.Booster):
        return model
    inner = getattr(model, "get_booster", None)
    if inner is None:
        raise NotConvertible(
            f"the model is a {type(model).__module__}.{type(model).__qualname__}; expected an xgboost Booster or "
            "XGBClassifier; take it out of its pipeline first"
        )
    booster: xgboost.Booster = inner()
    return booster


def _features(asked: list[str] | None, booster: xgboost.Booster, scaler: Any) -> list[str]:
    own = booster.feature_names
    fitted = getattr(scaler, "feature_names_in_", None)
    names = asked or (list(map(str, own)) if own else None) or (list(map(str, fitted)) if fitted is not None else None)
    if not names:
        raise NotConvertible("neither model nor scaler names its features; give them, in order, with --features")
    if booster.num_features() != len(names):
        raise NotConvertible(f"the model takes {booster.num_features()} features; {len(names)} are named")
    return names


def _standard(scaler: Any, count: int) -> tuple[Any, Any]:
    """Mean and scale, so that (x - mean) / scale is what the scaler does."""
    if scaler is None:
        return np.zeros(count), np.ones(count)
    kind = type(scaler).__name__
    if kind == "MinMaxScaler":
        mean, scale = -scaler.min_ / scaler.scale_, 1 / scaler.scale_
    elif kind == "RobustScaler":
        mean, scale = scaler.center_, scaler.scale_
    elif kind == "StandardScaler":
        mean, scale = scaler.mean_, scaler.scale_
    else:
        raise NotConvertible(f"the scaler is a {kind}; expected a StandardScaler, MinMaxScaler or RobustScaler")
    mean = np.zeros(count) if mean is None else np.asarray(mean, dtype=np.float64)
    scale = np.ones(count) if scale is None else np.asarray(scale, dtype=np.float64)
    if mean.shape != (count,) or scale.shape != (count,):
        raise NotConvertible(f"the scaler scales {mean.size} features, the model takes {count}")
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise NotConvertible("the scaler has a mean or scale that is not finite, or a scale that is not positive")
    return mean, scale


def _curve(exponent: float) -> list[list[float]]:
    if math.isclose(exponent, 1):
        return []
    points = np.linspace(0, 1, CURVE_POINTS)
    return [[float(p), float(1 - (1 - p) ** exponent)] for p in points]


def _calibrated(answer: float, curve: list[list[float]]) -> float:
    if not curve:
        return answer
    return float(np.interp(answer, [raw for raw, _ in curve], [probability for _, probability in curve]))


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except NotConvertible as error:
        sys.exit(str(error))
