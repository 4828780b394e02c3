"""What a manifest promises is held to before any file is opened."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.models import (
    LARGEST_FILE_BYTES,
    Golden,
    HorizonModel,
    Manifest,
    ModelFile,
    Scaler,
    Span,
    check_manifest,
)
from spot_optimizer.errors import ModelRejected
from tests.unit.models.model_builders import FEATURES, NOW, a_manifest

KNOWN = ("advisor_band", "age_hours", "hour_of_day", "price_ratio")


def rejection(manifest: Manifest) -> str:
    with pytest.raises(ModelRejected) as rejected:
        check_manifest(manifest, known_features=KNOWN)
    return str(rejected.value)


def test_a_manifest_survives_being_written_and_read() -> None:
    manifest = a_manifest()
    assert Manifest.from_json(manifest.as_json()) == manifest
    check_manifest(manifest, known_features=KNOWN)


@pytest.mark.parametrize("key", sorted(json.loads(a_manifest().as_json())))
def test_a_manifest_without_one_of_its_parts_is_rejected(key: str) -> None:
    given = json.loads(a_manifest().as_json())
    del given[key]
    with pytest.raises(ModelRejected, match="not of format 1"):
        Manifest.from_json(json.dumps(given))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["features", "files", "golden", "x"]), inner),
        max_leaves=10,
    )
)
def test_whatever_is_not_a_manifest_is_rejected_in_our_words(anything: Any) -> None:
    with pytest.raises(ModelRejected):
        Manifest.from_json(json.dumps(anything))


def test_a_span_without_a_time_zone_is_rejected() -> None:
    given = json.loads(a_manifest().as_json())
    given["test_span"]["end"] = "2026-03-01T12:00:00"
    with pytest.raises(ModelRejected, match="time zone"):
        Manifest.from_json(json.dumps(given))


def golden(**changes: Any) -> Golden:
    return dataclasses.replace(a_manifest().golden, **changes)


BOTH = a_manifest().horizons


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format_version": 2}, "format_version is 2; expected 1"),
        ({"features": ()}, "0 features"),
        ({"features": ("age_hours", "age_hours")}, "named twice: age_hours"),
        ({"features": ("age_hours", "price_ratio", "future_price")}, "computes no feature future_price"),
        ({"horizons": BOTH[:1]}, "horizons are [1] hours"),
        ({"horizons": BOTH[::-1]}, "horizons are [6, 1] hours"),
        ({"scaler": None}, "each file to be used"),
        ({"metrics": {"auc_1h": math.nan}}, "metrics.auc_1h is nan"),
        ({"test_span": Span(NOW, NOW)}, "before it starts"),
        ({"training_span": Span(NOW - timedelta(days=80), NOW - timedelta(days=19))}, "seen the future"),
        ({"training_span": Span(NOW + timedelta(days=1), NOW + timedelta(days=2))}, "seen the future"),
        ({"golden": golden(rows=a_manifest().golden.rows[:7])}, "7 golden rows"),
        ({"golden": golden(predictions=((0.1, 0.4),) * 7)}, "have 7 predictions"),
        ({"golden": golden(rows=((1.0, 2.0),) * 8)}, "golden row 0 has 2 values; expected 3"),
        ({"golden": golden(rows=((1.0, 2.0, math.inf),) * 8)}, "not finite"),
        ({"golden": golden(predictions=((0.1, 1.4),) * 8)}, "expected 2 from 0 to 1"),
        ({"golden": golden(predictions=((0.1, math.nan),) * 8)}, "expected 2 from 0 to 1"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_rejected_and_says_why(changes: dict[str, Any], says: str) -> None:
    assert says in rejection(a_manifest(**changes))


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (((0.5, 0.5),), "one point"),
        (((0.0, 0.0), (1.0, 1.2)), "expected 0 to 1"),
        (((0.0, 0.0), (math.nan, 1.0)), "expected 0 to 1"),
        (((0.0, 0.5), (1.0, 0.4)), "expected a rise"),
        (((0.3, 0.1), (0.3, 0.4)), "expected a rise"),
    ],
)
def test_a_calibration_rises_from_point_to_point(points: tuple[tuple[float, float], ...], says: str) -> None:
    assert says in rejection(a_manifest(horizons=(HorizonModel(1, "risk-1h.json", points), BOTH[1])))


def replaced(change: Callable[[ModelFile], ModelFile]) -> Manifest:
    first, *others = a_manifest().files
    return a_manifest(files=(change(first), *others))


@pytest.mark.parametrize("size", [0, LARGEST_FILE_BYTES + 1])
def test_a_file_has_a_size_within_bounds(size: int) -> None:
    assert f"has {size} bytes" in rejection(replaced(lambda file: dataclasses.replace(file, size_bytes=size)))


def test_files_are_bounded_together_too() -> None:
    files = tuple(dataclasses.replace(file, size_bytes=LARGEST_FILE_BYTES) for file in a_manifest().files)
    assert "together" in rejection(a_manifest(files=files))


@pytest.mark.parametrize("name", ["xgboost_model.pkl", "scaler.joblib", "MODEL.PICKLE", "a.npy"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(name: str) -> None:
    said = rejection(replaced(lambda file: dataclasses.replace(file, name=name)))
    assert "spotctl models convert xgboost_model.pkl scaler.joblib" in said


def test_a_file_that_is_named_twice_is_rejected() -> None:
    manifest = a_manifest()
    assert "named twice" in rejection(dataclasses.replace(manifest, files=(*manifest.files, manifest.files[0])))


# --- the scaler


def read_scaler(**changes: Any) -> Scaler:
    given = {"format_version": 1, "features": list(FEATURES), "mean": [0, 1.5, 2], "scale": [1, 2.5, 3]} | changes
    return Scaler.read(given, features=FEATURES)


def test_a_scaler_survives_being_written_and_read() -> None:
    scaler = read_scaler()
    assert scaler.mean == (0.0, 1.5, 2.0)
    assert Scaler.read(json.loads(scaler.as_json()), features=FEATURES) == scaler


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format_version": 2}, "not of format 1"),
        ({"more": 1}, "has the keys"),
        ({"features": list(FEATURES[::-1])}, "not the manifest's, in the same order"),
        ({"features": list(FEATURES[:2])}, "not the manifest's"),
        ({"features": "age_hours"}, "not the manifest's"),
        ({"mean": [0, 1]}, "scaler.mean has not 3 values"),
        ({"mean": [0, 1, math.nan]}, "scaler.mean has the value nan"),
        ({"mean": [0, 1, "2"]}, "scaler.mean has the value '2'"),
        ({"mean": [0, 1, 10**400]}, "scaler.mean has the value 1000"),
        ({"mean": [0, 1, True]}, "scaler.mean has the value True"),
        ({"scale": [1, 1, math.inf]}, "scaler.scale has the value inf"),
        ({"scale": [1, 0, 1]}, "scaler.scale of 'price_ratio' is 0"),
        ({"scale": [1, 1, -1]}, "scaler.scale of 'advisor_band' is -1"),
    ],
)
def test_a_scaler_that_cannot_scale_is_rejected(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelRejected) as rejected:
        read_scaler(**changes)
    assert says in str(rejected.value)


@pytest.mark.parametrize("anything", [None, [], "scaler", 1, {}])
def test_what_is_no_scaler_is_rejected(anything: Any) -> None:
    with pytest.raises(ModelRejected):
        Scaler.read(anything, features=FEATURES)
