"""Risk models, really trained, on made-up rows: small, and quick to make."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from spot_optimizer.domain.models import Golden, HorizonModel, Manifest, ModelFile, Scaler, Span
from spot_optimizer.domain.risk import MODEL_FEATURES
from spot_optimizer_ml.scoring import RiskModel

FEATURES = MODEL_FEATURES[:6]
TRAINED_UNTIL = datetime(2026, 1, 1, tzinfo=UTC)
CALIBRATION = ((0.0, 0.0), (0.5, 0.3), (1.0, 1.0))

type Change = Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A manifest, and the files that are really there."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def announced_as(self, **changes: Any) -> TrainedModel:
        """The same files under another manifest."""
        return dataclasses.replace(self, manifest=dataclasses.replace(self.manifest, **changes))

    def with_file(self, name: str, change: Change, *, announced: bool = True) -> TrainedModel:
        """One file changed; announced as it now is, or as it was."""
        files = {**self.files, name: change(self.files[name])}
        manifest = self.manifest
        if announced:
            manifest = dataclasses.replace(manifest, files=tuple(announce(each, files[each]) for each in files))
        return TrainedModel(manifest, files)

    @property
    def body(self) -> dict[str, Any]:
        """As the API takes the manifest."""
        body: dict[str, Any] = json.loads(self.manifest.as_json())
        return {"manifest": body}


def announce(name: str, content: bytes) -> ModelFile:
    return ModelFile(name, len(content), hashlib.sha256(content).hexdigest())


def some_rows(count: int, *, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, 10, size=(count, len(FEATURES)))


@lru_cache
def a_trained_model(
    *,
    seed: int = 0,
    learns: str = "risk",
    features: tuple[str, ...] = FEATURES,
    kind: str = "ubj",
) -> TrainedModel:
    """Train one.

    Args:
        seed: Another one gives another model.
        learns: `risk`, `opposite` of it, or `nothing`, that is a constant.
        features: Names of the columns.
        kind: `json` or `ubj`.
    """
    rows = some_rows(600, seed=seed)
    truth = rows[:, 1] + np.random.default_rng(seed).normal(size=len(rows)) > 7
    labels = {"risk": truth, "opposite": ~truth, "nothing": np.zeros(len(rows)) + 1}[learns].astype(int)
    scaler = Scaler(features, tuple(rows.mean(axis=0).tolist()), tuple(rows.std(axis=0).tolist()))
    scaled = (rows - np.array(scaler.mean)) / np.array(scaler.scale)
    matrix = xgboost.DMatrix(scaled.astype(np.float32), label=labels, feature_names=list(features))
    parameters = {"objective": "binary:logistic", "max_depth": 2, "base_score": 0.5, "seed": seed, "nthread": 1}
    files = {
        f"risk-1h.{kind}": bytes(xgboost.train(parameters, matrix, 4).save_raw(kind)),
        f"risk-6h.{kind}": bytes(xgboost.train(parameters, matrix, 8).save_raw(kind)),
        "scaler.json": scaler.as_json().encode(),
    }
    golden_rows = [
        tuple(None if number == 3 else value for value in row) for number, row in enumerate(rows[:12].tolist())
    ]
    manifest = Manifest(
        format_version=1,
        features=features,
        training_span=Span(TRAINED_UNTIL - timedelta(days=60), TRAINED_UNTIL),
        test_span=Span(TRAINED_UNTIL, TRAINED_UNTIL + timedelta(days=20)),
        metrics={"auc_1h": 0.9},
        files=tuple(announce(name, content) for name, content in files.items()),
        horizons=(HorizonModel(1, f"risk-1h.{kind}", CALIBRATION), HorizonModel(6, f"risk-6h.{kind}")),
        scaler="scaler.json",
        golden=Golden(tuple(golden_rows), ()),
    )
    answers = RiskModel.load(manifest, files).score(golden_rows)
    golden = Golden(tuple(golden_rows), tuple(map(tuple, answers)))
    return TrainedModel(dataclasses.replace(manifest, golden=golden), files)
