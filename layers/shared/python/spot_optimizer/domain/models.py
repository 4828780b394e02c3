"""Risk models as they are uploaded: files in XGBoost's own formats, and a manifest that says what they are.

A model tells, for each row of features, the probability that a held spot instance is interrupted within one hour and
within six. It is a set of data files; nothing in it is ever executed or unpickled. The manifest is written by training
or by `spotctl models convert`, read by activation, and described in docs/adr.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from spot_optimizer.errors import InvalidRequest, ModelRejected

FORMAT_VERSION: Final = 1
HORIZONS_HOURS: Final = (1, 6)
"""What a model must answer for, in this order."""

SCALER_FORMAT_VERSION: Final = 1
LARGEST_FILE_BYTES: Final = 16 * 1024 * 1024
LARGEST_MODEL_BYTES: Final = 32 * 1024 * 1024
MOST_FEATURES: Final = 256
FEWEST_GOLDEN_ROWS: Final = 8
MOST_GOLDEN_ROWS: Final = 64
GOLDEN_TOLERANCE: Final = 1e-4
"""Of a probability. Boosters add up in 32 bits, in an order that differs between processors."""

PICKLED_SUFFIXES: Final = (".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".pt", ".sav")
CONVERT_COMMAND: Final = "spotctl models convert xgboost_model.pkl scaler.joblib"

type Row = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, its end excluded."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model.

    Attributes:
        sha256: Of its content, in lower-case hex.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HorizonModel:
    """The booster for one horizon, and what turns its output into a frequency.

    Attributes:
        hours: Within how many hours the interruption comes.
        file: Name of the booster's file, XGBoost JSON (`.json`) or UBJSON (`.ubj`).
        calibration: Points (booster's output, probability), both rising from 0 to 1; between them the line is straight,
            beyond them it is level. Empty: the output is the probability.
    """

    hours: int
    file: str
    calibration: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows with the answers that the trained model gave, to be given again wherever it is loaded.

    Attributes:
        rows: Features in the manifest's order; None where one is unknown.
        predictions: One per horizon for each row, calibrated.
    """

    rows: tuple[Row, ...]
    predictions: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a model's files are.

    Attributes:
        features: Names in the order of the boosters' columns.
        training_span: From the first to after the last moment that anything learned from was known.
        test_span: The same of what the metrics were measured on.
        metrics: By name, such as `auc_1h`, `brier_1h`, `f1_1h`, `baseline_brier_1h`.
        files: Every file but the manifest itself.
        horizons: One for each of `HORIZONS_HOURS`.
        scaler: Name of the file that scales features before the boosters see them; None if they take them as they are.
    """

    format_version: int
    features: tuple[str, ...]
    training_span: Span
    test_span: Span
    metrics: Mapping[str, float]
    files: tuple[ModelFile, ...]
    horizons: tuple[HorizonModel, ...]
    golden: Golden
    scaler: str | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        """Every file's name."""
        return tuple(file.name for file in self.files)

    def as_json(self) -> str:
        """Write it, the same for the same manifest."""
        return json.dumps(
            {
                "format_version": self.format_version,
                "features": self.features,
                "training_span": _span_as_json(self.training_span),
                "test_span": _span_as_json(self.test_span),
                "metrics": dict(self.metrics),
                "files": [
                    {"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in self.files
                ],
                "horizons": [
                    {"hours": one.hours, "file": one.file, "calibration": one.calibration} for one in self.horizons
                ],
                "scaler": self.scaler,
                "golden": {"rows": self.golden.rows, "predictions": self.golden.predictions},
            },
            allow_nan=False,
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read what `as_json` wrote.

        Raises:
            ModelRejected: It has another form.
        """
        try:
            given = json.loads(text)
            return cls(
                format_version=int(given["format_version"]),
                features=tuple(map(str, given["features"])),
                training_span=_span_from(given["training_span"]),
                test_span=_span_from(given["test_span"]),
                metrics={str(name): float(value) for name, value in given["metrics"].items()},
                files=tuple(ModelFile(one["name"], int(one["size_bytes"]), one["sha256"]) for one in given["files"]),
                horizons=tuple(
                    HorizonModel(int(one["hours"]), one["file"], _points(one["calibration"]))
                    for one in given["horizons"]
                ),
                scaler=given["scaler"],
                golden=Golden(
                    rows=tuple(tuple(None if v is None else float(v) for v in row) for row in given["golden"]["rows"]),
                    predictions=tuple(tuple(map(float, row)) for row in given["golden"]["predictions"]),
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelRejected(
                f"the manifest is not of format {FORMAT_VERSION} ({type(error).__name__}: {error}); "
                "write it with the training pipeline or `spotctl models convert`"
            ) from error


@dataclass(frozen=True, slots=True)
class Scaler:
    """Standard scaling: (value - mean) / scale, feature by feature."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def as_json(self) -> str:
        """Write it."""
        return json.dumps(
            {
                "format_version": SCALER_FORMAT_VERSION,
                "features": self.features,
                "mean": self.mean,
                "scale": self.scale,
            },
            allow_nan=False,
            sort_keys=True,
        )

    @classmethod
    def read(cls, given: Any, *, features: Sequence[str]) -> Scaler:
        """Read a scaler's decoded file.

        Args:
            given: As decoded within bounds.
            features: The manifest's.

        Raises:
            ModelRejected: Another form, other features, or a number that is not finite; a scale that is not positive.
        """
        if not isinstance(given, Mapping) or given.get("format_version") != SCALER_FORMAT_VERSION:
            raise ModelRejected(f"the scaler is not of format {SCALER_FORMAT_VERSION}; expected {_SCALER_FORM}")
        if set(given) != {"format_version", "features", "mean", "scale"}:
            raise ModelRejected(
                f"the scaler has the keys {', '.join(sorted(map(str, given)))}; expected {_SCALER_FORM}"
            )
        if not isinstance(given["features"], list) or tuple(given["features"]) != tuple(features):
            raise ModelRejected(
                "the scaler's features are not the manifest's, in the same order; " + _difference(given, features)
            )
        mean = _finite_numbers("scaler.mean", given["mean"], len(features))
        scale = _finite_numbers("scaler.scale", given["scale"], len(features))
        for name, value in zip(features, scale, strict=True):
            if value <= 0:
                raise ModelRejected(f"scaler.scale of '{name}' is {value}; expected a number above 0")
        return cls(tuple(features), mean, scale)


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """Rows to be scored.

    Attributes:
        features: Names of their columns.
        pool_ids: One per row, where what becomes of them shall be learned; else empty.
    """

    features: tuple[str, ...]
    rows: tuple[Row, ...]
    pool_ids: tuple[str, ...] = ()


MOST_SCORED_ROWS: Final = 50_000


def scoring_request(given: Mapping[str, Any]) -> ScoringRequest:
    """Read a request to score rows: `features`, `rows` with null where a value is unknown, and perhaps `pool_ids`.

    Raises:
        InvalidRequest: It is malformed.
    """
    features, rows, pool_ids = given.get("features"), given.get("rows"), given.get("pool_ids", [])
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features):
        raise InvalidRequest("'features' names no columns", field="features", expected="a list of names")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_SCORED_ROWS:
        raise InvalidRequest("'rows' can not be scored", field="rows", expected=f"1 to {MOST_SCORED_ROWS} rows")
    for number, row in enumerate(rows):
        values_fit = isinstance(row, list) and all(value is None or is_finite_number(value) for value in row)
        if not values_fit or len(row) != len(features):
            raise InvalidRequest(
                f"row {number} can not be scored",
                field=f"rows.{number}",
                expected=f"{len(features)} finite numbers, null where one is unknown",
            )
    if not isinstance(pool_ids, list) or len(pool_ids) not in (0, len(rows)):
        raise InvalidRequest("'pool_ids' does not fit the rows", field="pool_ids", expected="one per row, or none")
    return ScoringRequest(tuple(features), tuple(map(tuple, rows)), tuple(map(str, pool_ids)))


_SCALER_FORM = '{"format_version": 1, "features": [names], "mean": [numbers], "scale": [numbers above 0]}'


def is_finite_number(value: object) -> bool:
    """Whether a decoded value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def looks_pickled(name: str) -> bool:
    """Whether a file's name is that of a pickle, or of what may hold one."""
    return name.lower().endswith(PICKLED_SUFFIXES)


def refusal_of_pickle(name: str) -> str:
    """What to tell whoever sends one."""
    return (
        f"'{name}' is a pickle, and loading one runs whatever code it carries, so none is ever loaded here; "
        f"convert it on your own machine: {CONVERT_COMMAND}"
    )


def check_manifest(manifest: Manifest, *, known_features: Sequence[str]) -> None:
    """Hold a manifest to what the product can use, before any file is opened.

    Args:
        manifest: Of the right shape.
        known_features: Those the decision engine computes.

    Raises:
        ModelRejected: It can not be used, and why.
    """
    if manifest.format_version != FORMAT_VERSION:
        raise ModelRejected(f"format_version is {manifest.format_version}; expected {FORMAT_VERSION}")
    _check_features(manifest.features, known_features)
    hours = tuple(one.hours for one in manifest.horizons)
    if hours != HORIZONS_HOURS:
        raise ModelRejected(f"horizons are {list(hours)} hours; expected {list(HORIZONS_HOURS)}, in this order")
    _check_files(manifest)
    for one in manifest.horizons:
        _check_calibration(one)
    _check_spans(manifest)
    for name, value in manifest.metrics.items():
        if not math.isfinite(value):
            raise ModelRejected(f"metrics.{name} is {value}; expected a finite number")
    _check_golden(manifest)


def _check_features(features: Sequence[str], known: Sequence[str]) -> None:
    if not 1 <= len(features) <= MOST_FEATURES:
        raise ModelRejected(f"there are {len(features)} features; expected 1 to {MOST_FEATURES}")
    if len(set(features)) != len(features):
        twice = sorted({name for name in features if features.count(name) > 1})
        raise ModelRejected(f"features are named twice: {', '.join(twice)}")
    unknown = [name for name in features if name not in set(known)]
    if unknown:
        raise ModelRejected(
            f"the decision engine computes no feature {', '.join(unknown)}; expected only: {', '.join(known)}"
        )


def _check_files(manifest: Manifest) -> None:
    names = manifest.file_names
    if len(set(names)) != len(names):
        raise ModelRejected("a file is named twice; expected each once")
    for file in manifest.files:
        if looks_pickled(file.name):
            raise ModelRejected(refusal_of_pickle(file.name))
        if not 1 <= file.size_bytes <= LARGEST_FILE_BYTES:
            raise ModelRejected(
                f"'{file.name}' has {file.size_bytes} bytes; expected 1 to {LARGEST_FILE_BYTES}; train fewer trees"
            )
    if sum(file.size_bytes for file in manifest.files) > LARGEST_MODEL_BYTES:
        raise ModelRejected(f"the files are larger than {LARGEST_MODEL_BYTES} bytes together; train fewer trees")
    used = [one.file for one in manifest.horizons] + ([manifest.scaler] if manifest.scaler else [])
    if set(used) != set(names) or manifest.scaler in {one.file for one in manifest.horizons}:
        raise ModelRejected(
            f"the files are {', '.join(sorted(names))}, but horizons and scaler name {', '.join(sorted(used))}; "
            "expected each file to be used"
        )


def _check_calibration(model: HorizonModel) -> None:
    if not model.calibration:
        return
    if len(model.calibration) < 2:
        raise ModelRejected(f"the calibration for {model.hours} h has one point; expected none, or two and more")
    for point in model.calibration:
        if not all(0 <= value <= 1 for value in point):
            raise ModelRejected(f"the calibration for {model.hours} h has the point {point}; expected 0 to 1")
    for before, after in pairwise(model.calibration):
        if after[0] <= before[0] or after[1] < before[1]:
            raise ModelRejected(f"the calibration for {model.hours} h falls from {before} to {after}; expected a rise")


def _check_spans(manifest: Manifest) -> None:
    training, test = manifest.training_span, manifest.test_span
    for name, span in (("training_span", training), ("test_span", test)):
        if span.start >= span.end:
            raise ModelRejected(f"{name} ends at {span.end.isoformat()}, before it starts; expected start < end")
    if training.end > test.start:
        raise ModelRejected(
            f"training_span reaches to {training.end.isoformat()} and test_span begins at {test.start.isoformat()}: "
            "the model has seen the future of what it is tested on; expected training to end before the test begins"
        )


def _check_golden(manifest: Manifest) -> None:
    golden = manifest.golden
    if not FEWEST_GOLDEN_ROWS <= len(golden.rows) <= MOST_GOLDEN_ROWS:
        raise ModelRejected(
            f"there are {len(golden.rows)} golden rows; expected {FEWEST_GOLDEN_ROWS} to {MOST_GOLDEN_ROWS}"
        )
    if len(golden.predictions) != len(golden.rows):
        raise ModelRejected(f"{len(golden.rows)} golden rows have {len(golden.predictions)} predictions")
    for number, (row, answers) in enumerate(zip(golden.rows, golden.predictions, strict=True)):
        if len(row) != len(manifest.features):
            raise ModelRejected(f"golden row {number} has {len(row)} values; expected {len(manifest.features)}")
        if any(value is not None and not math.isfinite(value) for value in row):
            raise ModelRejected(
                f"golden row {number} has a value that is not finite; expected null where it is unknown"
            )
        if len(answers) != len(HORIZONS_HOURS) or not all(0 <= value <= 1 for value in answers):
            raise ModelRejected(
                f"golden row {number} has the predictions {list(answers)}; expected {len(HORIZONS_HOURS)} from 0 to 1"
            )


def _difference(given: Mapping[str, Any], features: Sequence[str]) -> str:
    theirs = given.get("features")
    return f"expected {list(features)}, found {theirs if isinstance(theirs, list) else type(theirs).__name__}"[:500]


def _finite_numbers(name: str, given: Any, count: int) -> tuple[float, ...]:
    if not isinstance(given, list) or len(given) != count:
        raise ModelRejected(f"{name} has not {count} values; expected one for each feature")
    for value in given:
        if not is_finite_number(value):
            raise ModelRejected(f"{name} has the value {value!r}; expected finite numbers")
    return tuple(map(float, given))


def _points(given: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(raw), float(probability)) for raw, probability in given)


def _span_as_json(span: Span) -> dict[str, str]:
    return {"start": span.start.isoformat(), "end": span.end.isoformat()}


def _span_from(given: Mapping[str, str]) -> Span:
    span = Span(datetime.fromisoformat(given["start"]), datetime.fromisoformat(given["end"]))
    if span.start.tzinfo is None or span.end.tzinfo is None:
        raise ValueError("a span has no time zone")
    return span
