"""Files are decoded within bounds, whatever they hold."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain import model_files
from spot_optimizer.domain.boosters import check_booster
from spot_optimizer.domain.model_files import DEEPEST, decode
from spot_optimizer.domain.models import LARGEST_FILE_BYTES
from spot_optimizer.errors import ModelRejected
from tests.unit.models.model_builders import FEATURES, a_booster, a_tree


def rejection(name: str, content: bytes) -> str:
    with pytest.raises(ModelRejected) as rejected:
        decode(name, content)
    return str(rejected.value)


def ubjson(value: Any) -> bytes:
    """Write what XGBoost writes: lengths of 64 bits, and arrays of one type where they are numbers."""
    match value:
        case bool():
            return b"T" if value else b"F"
        case int():
            return b"L" + struct.pack(">q", value)
        case float():
            return b"D" + struct.pack(">d", value)
        case str():
            return b"S" + _bare(value)
        case None:
            return b"Z"
        case dict():
            return b"{" + b"".join(_bare(key) + ubjson(item) for key, item in value.items()) + b"}"
        case [float(), *_] if all(isinstance(item, float) for item in value):
            return b"[$d#" + ubjson(len(value)) + struct.pack(f">{len(value)}f", *value)
        case [int(), *_] if all(type(item) is int for item in value):
            return b"[$l#" + ubjson(len(value)) + struct.pack(f">{len(value)}i", *value)
        case list():
            return b"[#" + ubjson(len(value)) + b"".join(map(ubjson, value))
    raise AssertionError(value)


def _bare(text: str) -> bytes:
    return ubjson(len(text.encode())) + text.encode()


def plain(value: Any) -> Any:
    """As JSON would have it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if hasattr(value, "__iter__") and not isinstance(value, str) else value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(width=32, allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_both_formats_say_the_same(value: Any) -> None:
    assert plain(decode("a.ubj", ubjson(value))) == value
    if not isinstance(value, float) and "Infinity" not in json.dumps(value):
        assert decode("a.json", json.dumps(value).encode()) == value


@given(st.binary(max_size=64))
def test_any_bytes_are_decoded_or_rejected_and_nothing_else_happens(content: bytes) -> None:
    for name in ("a.json", "a.ubj"):
        try:
            decode(name, content)
        except ModelRejected:
            continue


@given(VALUES, st.data())
def test_a_truncated_file_is_rejected(value: Any, data: st.DataObject) -> None:
    whole = ubjson({"a": value})
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert rejection("a.ubj", cut)
    text = json.dumps({"a": value}).encode()
    assert rejection("a.json", text[: data.draw(st.integers(0, len(text) - 1))])


@pytest.mark.parametrize("levels", [DEEPEST + 1, 500, 2_000_000])
def test_a_file_many_levels_deep_is_rejected_before_anything_recurses(levels: int) -> None:
    assert "levels deep" in rejection("a.json", b"[" * levels + b"]" * levels)
    assert "levels deep" in rejection("a.json", b'{"a":' * levels + b"1" + b"}" * levels)
    assert "levels deep" in rejection("a.ubj", b"[" * levels + b"]" * levels)


def test_brackets_inside_strings_are_no_levels() -> None:
    text = "[" * 100 + '\\"{' * 50
    assert decode("a.json", json.dumps({"a": text}).encode()) == {"a": text}


def test_as_many_levels_as_are_allowed_are_decoded() -> None:
    assert decode("a.json", b"[" * DEEPEST + b"]" * DEEPEST)
    assert plain(decode("a.ubj", b"[" * DEEPEST + b"]" * DEEPEST))


@pytest.mark.parametrize("name", ["a.json", "a.ubj"])
def test_a_file_of_more_values_than_a_forest_has_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "MOST_VALUES", 1_000)
    content = json.dumps([1.5] * 1_001).encode() if name == "a.json" else b"[" + b"Z" * 1_001 + b"]"
    assert "more than 1000 values" in rejection(name, content)


def test_a_file_that_is_too_large_is_rejected_unread() -> None:
    assert f"expected at most {LARGEST_FILE_BYTES}" in rejection("a.json", b" " * (LARGEST_FILE_BYTES + 1))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_are_finite(constant: str) -> None:
    assert f"holds {constant}" in rejection("a.json", f'{{"mean": [{constant}]}}'.encode())


def test_an_archive_is_not_unpacked() -> None:
    assert "gzip archive" in rejection("a.json", gzip.compress(b"0" * 1_000_000))
    assert "zip archive" in rejection("a.ubj", b"PK\x03\x04" + b"0" * 100)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_another_name_is_refused_with_the_command_that_converts_it(protocol: int) -> None:
    for content in (pickle.dumps({"a": 1}, protocol), zlib.compress(pickle.dumps({"a": 1}, protocol))):
        assert "spotctl models convert" in rejection("model.json", content)


def test_a_length_beyond_the_file_is_rejected_without_reserving_it() -> None:
    assert "more than the file holds" in rejection("a.ubj", b"[$d#L" + struct.pack(">q", 2**62))
    assert "more than the file holds" in rejection("a.ubj", b"[#L" + struct.pack(">q", -1))


def test_what_follows_the_end_is_rejected() -> None:
    assert "goes on after its end" in rejection("a.ubj", ubjson({"a": 1}) + ubjson(2))


# --- boosters


def booster_rejection(decoded: Any) -> str:
    with pytest.raises(ModelRejected) as rejected:
        check_booster("risk-1h.json", decoded, features=FEATURES)
    return str(rejected.value)


def test_a_booster_is_accepted_in_both_formats() -> None:
    booster = a_booster(a_tree(), a_tree())
    check_booster("a.json", decode("a.json", json.dumps(booster).encode()), features=FEATURES)
    check_booster("a.ubj", decode("a.ubj", ubjson(booster)), features=FEATURES)


@pytest.mark.parametrize(
    ("learner", "says"),
    [
        ({"objective": {"name": "reg:squarederror"}}, "expected 'binary:logistic'"),
        ({"feature_names": list(FEATURES[::-1])}, "expected the same, in order"),
        ({"feature_names": []}, "expected the same, in order"),
        ({"feature_names": None}, "no XGBoost booster"),
        (
            {"learner_model_param": {"num_feature": "4", "num_class": "0", "num_target": "1"}},
            "takes 4 features; the manifest names 3",
        ),
        ({"learner_model_param": {"num_feature": "3", "num_class": "3", "num_target": "1"}}, "several values"),
        ({"learner_model_param": {"num_feature": "x", "num_class": "0", "num_target": "1"}}, "no XGBoost booster"),
        ({"gradient_booster": {"name": "gblinear", "model": {"trees": []}}}, "expected 'gbtree'"),
        ({"gradient_booster": {"name": "gbtree", "model": {"trees": []}}}, "has not 1 to 5000 trees"),
    ],
)
def test_a_booster_of_another_kind_is_rejected(learner: dict[str, Any], says: str) -> None:
    assert says in booster_rejection(a_booster(**learner))


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"left_children": [0, -1, -1]}, "has the child 0"),
        ({"left_children": [3, -1, -1]}, "has the child 3"),
        ({"left_children": [-1, -1, -1]}, "has one child"),
        ({"left_children": [2, -1, -1]}, "two parents"),
        ({"left_children": [1, -2, -1], "right_children": [2, -2, -1]}, "has the child -2"),
        ({"left_children": [1.0, -1, -1]}, "something else than a whole number"),
        ({"split_indices": [3, 0, 0]}, "splits by feature 3; there are 3"),
        ({"split_indices": [-1, 0, 0]}, "splits by feature -1"),
        ({"split_conditions": [0.5, float("nan"), 1.0]}, "not a finite number"),
        ({"split_conditions": [0.5, 10**400, 1.0]}, "not a finite number"),
        ({"split_conditions": [0.5, 1.0]}, "another number of split_conditions"),
        ({"split_conditions": None}, "another number of split_conditions"),
        ({"categories": [1], "categories_nodes": [0]}, "splits by category"),
        ({"tree_param": {"num_nodes": "3", "num_feature": "2"}}, "plain numeric splits"),
        ({"tree_param": None}, "is malformed"),
    ],
)
def test_a_tree_that_could_be_walked_for_ever_or_out_of_bounds_is_rejected(tree: dict[str, Any], says: str) -> None:
    assert says in booster_rejection(a_booster(a_tree(), a_tree(**tree)))


def test_a_forest_that_miscounts_its_trees_is_rejected() -> None:
    miscounted: tuple[dict[str, Any], ...] = (
        {"tree_info": [0, 1]},
        {"iteration_indptr": [0, 2, 1]},
        {"iteration_indptr": []},
        {"gbtree_model_param": {"num_trees": "3"}},
    )
    for changes in miscounted:
        booster = a_booster(a_tree(), a_tree())
        booster["learner"]["gradient_booster"]["model"] |= changes
        assert booster_rejection(booster)


@pytest.mark.parametrize("anything", [None, [], 1, "text", {}, {"learner": 1}, {"learner": {}}])
def test_what_is_no_booster_is_rejected(anything: Any) -> None:
    assert "no XGBoost booster" in booster_rejection(anything)
