"""Loads a model's files, once they have been found to be in order, and scores rows with it.

Everything is float64 but what the boosters see, which is float32, as when they were trained. An unknown value is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from spot_optimizer.domain.boosters import check_booster
from spot_optimizer.domain.model_files import decode
from spot_optimizer.domain.models import Manifest, Row, Scaler
from spot_optimizer.errors import InvalidRequest, ModelRejected

Floats = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class RiskModel:
    """A loaded model.

    Attributes:
        features: The columns it takes, in order.
    """

    features: tuple[str, ...]
    _boosters: tuple[Any, ...]
    _calibrations: tuple[Floats | None, ...]
    _mean: Floats
    _scale: Floats

    @classmethod
    def load(cls, manifest: Manifest, files: Mapping[str, bytes]) -> RiskModel:
        """Load a model from the files that its manifest names.

        Raises:
            ModelRejected: A file is not what it should be; XGBoost never sees it.
        """
        mean, scale = np.zeros(len(manifest.features)), np.ones(len(manifest.features))
        if manifest.scaler is not None:
            scaler = Scaler.read(decode(manifest.scaler, files[manifest.scaler]), features=manifest.features)
            mean, scale = np.array(scaler.mean), np.array(scaler.scale)
        boosters = []
        for horizon in manifest.horizons:
            content = files[horizon.file]
            check_booster(horizon.file, decode(horizon.file, content), features=manifest.features)
            boosters.append(_booster(horizon.file, content))
        calibrations = (np.array(one.calibration) if one.calibration else None for one in manifest.horizons)
        return cls(manifest.features, tuple(boosters), tuple(calibrations), mean, scale)

    def predict(self, matrix: Floats) -> Floats:
        """Score a matrix of shape (rows, features); the answer has one column per horizon."""
        scaled = (matrix - self._mean) / self._scale
        # XGBoost refuses infinity, which a large value becomes in 32 bits; it is larger than any split either way.
        seen = np.clip(scaled, -_LARGEST, _LARGEST).astype(np.float32)
        answers = np.empty((len(matrix), len(self._boosters)))
        for column, (booster, calibration) in enumerate(zip(self._boosters, self._calibrations, strict=True)):
            raw = booster.inplace_predict(seen, validate_features=False)
            answers[:, column] = raw if calibration is None else np.interp(raw, calibration[:, 0], calibration[:, 1])
        return answers

    def score(self, rows: Sequence[Row], *, features: Sequence[str] | None = None) -> list[list[float]]:
        """Score plain rows.

        Args:
            rows: None where a value is unknown.
            features: Names of their columns, in any order, more than are needed; None: the model's own.

        Raises:
            InvalidRequest: A feature is missing, or a row has another number of values.
        """
        names = self.features if features is None else tuple(features)
        missing = [name for name in self.features if name not in names]
        if missing:
            raise InvalidRequest(
                f"the model needs the features {', '.join(missing)} too",
                field="features",
                expected=f"at least {', '.join(self.features)}",
            )
        if any(len(row) != len(names) for row in rows):
            raise InvalidRequest(
                "a row has another number of values than there are features",
                field="rows",
                expected=f"{len(names)} values each",
            )
        matrix = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)
        columns = [names.index(name) for name in self.features]
        answers: list[list[float]] = self.predict(matrix.reshape(len(rows), len(names))[:, columns]).tolist()
        return answers


def _booster(name: str, content: bytes) -> Any:
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        raise ModelRejected(f"XGBoost {xgboost.__version__} refuses '{name}': {error}"[:600]) from error
    booster.set_param({"nthread": 1})  # a function has one processor; a second thread would only spin
    return booster
