"""Pickled models are loaded on the operator's machine, apart and once, and become files that hold data alone."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import xgboost
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from spot_optimizer.domain.models import Manifest, check_manifest
from spot_optimizer.domain.risk import MODEL_FEATURES
from spot_optimizer_ml.scoring import RiskModel
from spotctl.failures import ExitCode
from tests.cli.conftest import Ended, Spotctl
from tests.trained_models import some_rows

FEATURES = MODEL_FEATURES[:6]
SPANS = ("--trained-from", "2025-01-01", "--trained-until", "2025-03-01", "--tested-until", "2025-04-01")


class Seeds:
    """A model and a scaler as the usual training script leaves them."""

    def __init__(self, folder: Path, scaler: Any) -> None:
        rows = some_rows(400)
        self.scaler = scaler.fit(rows)
        self.model = xgboost.XGBClassifier(n_estimators=5, max_depth=2)
        self.model.fit(self.scaler.transform(rows), (rows[:, 1] > 5).astype(int))
        self.folder = folder
        self.model_file, self.scaler_file = folder / "xgboost_model.pkl", folder / "scaler.joblib"
        self.model_file.write_bytes(pickle.dumps(self.model))
        joblib.dump(self.scaler, self.scaler_file)

    def predict(self, rows: Any) -> Any:
        return self.model.predict_proba(self.scaler.transform(rows))[:, 1]


def convert(spotctl: Spotctl, model: Path, *more: str, out: Path) -> Ended:
    features = ("--features", ",".join(FEATURES))
    return spotctl("models", "convert", str(model), *more, *SPANS, *features, "--out", str(out), "--yes", "--json")


@pytest.mark.parametrize(
    "scaler", [StandardScaler(), MinMaxScaler(), RobustScaler()], ids=lambda one: type(one).__name__
)
def test_a_converted_model_predicts_what_the_pickled_one_does(spotctl: Spotctl, tmp_path: Path, scaler: Any) -> None:
    seeds = Seeds(tmp_path, scaler)
    out = tmp_path / "model"
    found = convert(spotctl, seeds.model_file, str(seeds.scaler_file), out=out).document
    assert found["files"] == ["risk.ubj", "scaler.json", "manifest.json"]
    manifest = Manifest.from_json((out / "manifest.json").read_bytes())
    check_manifest(manifest, known_features=MODEL_FEATURES)
    model = RiskModel.load(manifest, {name: (out / name).read_bytes() for name in manifest.file_names})
    rows = some_rows(50, seed=7)
    within_1h, within_6h = model.predict(rows).T
    assert within_1h == pytest.approx(seeds.predict(rows), abs=1e-5)
    assert within_6h == pytest.approx(1 - (1 - within_1h) ** 6, abs=2e-3)
    assert np.array(model.score(manifest.golden.rows)) == pytest.approx(np.array(manifest.golden.predictions), abs=1e-6)


class Curious:
    """A pickle that looks around in the process that loads it."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __reduce__(self) -> Any:
        looks = "import json,os; json.dump([os.getpid(), dict(os.environ)], open({!r}, 'w'))"
        return exec, (looks.format(str(self.notes)),)


def test_a_pickle_is_loaded_in_a_process_without_the_operators_token(spotctl: Spotctl, tmp_path: Path) -> None:
    notes, file = tmp_path / "notes.json", tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(Curious(notes)))
    ended = convert(spotctl, file, out=tmp_path / "model")
    pid, environment = json.loads(notes.read_text())
    assert pid != os.getpid()
    assert not [name for name in environment if name.startswith(("SPOTCTL", "AWS", "HOME", "XDG"))]
    assert (ended.status, ended.problem["title"]) == (int(ExitCode.INVALID), "Not converted")
    assert "expected an xgboost Booster or XGBClassifier" in ended.problem["detail"]


def test_why_pickles_are_loaded_here_is_said_before_it_is_asked(spotctl: Spotctl, tmp_path: Path) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(Curious(tmp_path / "notes.json")))
    ended = spotctl("models", "convert", str(file), *SPANS)
    assert ended.status == int(ExitCode.USAGE)
    assert "runs whatever code its author put into it" in " ".join(ended.err.split())
    assert not (tmp_path / "notes.json").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle", pickle.dumps({"a": 1})])
def test_what_is_no_pickled_model_is_said_to_be_none(spotctl: Spotctl, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(content)
    assert convert(spotctl, file, out=tmp_path / "model").problem["title"] == "Not converted"
    assert not (tmp_path / "model").exists()


def test_a_model_of_other_features_than_named_is_not_converted(spotctl: Spotctl, tmp_path: Path) -> None:
    seeds = Seeds(tmp_path, StandardScaler())
    command = ("models", "convert", str(seeds.model_file), *SPANS, "--out", str(tmp_path / "model"), "--yes", "--json")
    assert "give them, in order, with --features" in spotctl(*command).problem["detail"]
    assert "takes 6 features; 2 are named" in spotctl(*command, "--features", "a,b").problem["detail"]
