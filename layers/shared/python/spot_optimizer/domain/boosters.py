"""Holds a decoded XGBoost booster to what may be loaded: a small forest of well-formed trees that gives a probability.

The schema is XGBoost's own (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html). What is checked here
is what its loader does not: that children exist, that no tree runs in a circle, that splits name features there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from spot_optimizer.domain.models import is_finite_number
from spot_optimizer.errors import ModelRejected

MOST_TREES: Final = 5_000
_LEAF: Final = -1
_PER_NODE: Final = ("left_children", "right_children", "split_indices", "split_conditions", "default_left")


def check_booster(name: str, decoded: Any, *, features: Sequence[str]) -> None:
    """Check one booster.

    Args:
        name: The file's, for messages.
        decoded: As `model_files.decode` gives it.
        features: The manifest's.

    Raises:
        ModelRejected: It may not be loaded, and why.
    """
    try:
        learner = decoded["learner"]
        objective = learner["objective"]["name"]
        booster = learner["gradient_booster"]
        parameters = learner["learner_model_param"]
        named, kind, forest = list(learner["feature_names"]), booster["name"], booster["model"]
        trees = forest["trees"]
        shape = {key: int(parameters[key]) for key in ("num_feature", "num_class", "num_target")}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelRejected(
            f"'{name}' is no XGBoost booster ({type(error).__name__}: {error}); "
            "expected what Booster.save_model wrote to .json or .ubj"
        ) from error
    if objective != "binary:logistic":
        raise ModelRejected(f"'{name}' has the objective {objective!r}; expected 'binary:logistic', a probability")
    if kind != "gbtree":
        raise ModelRejected(f"'{name}' is a booster of kind {kind!r}; expected 'gbtree'")
    if shape["num_feature"] != len(features):
        raise ModelRejected(f"'{name}' takes {shape['num_feature']} features; the manifest names {len(features)}")
    if named != list(features):
        raise ModelRejected(
            f"'{name}' names its features {named[:20]}, the manifest {list(features)[:20]}; expected the same, in order"
        )
    if shape["num_class"] not in (0, 1) or shape["num_target"] != 1:
        raise ModelRejected(f"'{name}' answers with several values; expected one probability")
    if not isinstance(trees, list) or not 1 <= len(trees) <= MOST_TREES:
        raise ModelRejected(f"'{name}' has not 1 to {MOST_TREES} trees")
    for number, tree in enumerate(trees):
        _check_tree(f"'{name}' tree {number}", tree, feature_count=len(features))
    _check_forest(name, forest, tree_count=len(trees))


def _check_forest(name: str, forest: Mapping[str, Any], *, tree_count: int) -> None:
    try:
        groups = list(forest["tree_info"])
        rounds = list(forest.get("iteration_indptr", [0, tree_count]))
        declared = int(forest["gbtree_model_param"]["num_trees"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelRejected(f"'{name}' has a malformed forest ({type(error).__name__}: {error})") from error
    ascending = all(isinstance(at, int) for at in rounds) and rounds == sorted(rounds)
    if declared != tree_count or groups != [0] * tree_count:
        raise ModelRejected(f"'{name}' declares {declared} trees in groups that do not fit the {tree_count} it has")
    if not ascending or not rounds or rounds[0] != 0 or rounds[-1] != tree_count:
        raise ModelRejected(f"'{name}' has rounds of boosting that do not end at its {tree_count} trees")


def _check_tree(what: str, tree: Any, *, feature_count: int) -> None:
    try:
        count = int(tree["tree_param"]["num_nodes"])
        columns = {key: tree[key] for key in _PER_NODE}
        categorical = any(len(tree[key]) for key in ("categories", "categories_nodes", "categories_sizes"))
        vector = int(tree["tree_param"].get("size_leaf_vector", 1))
        feature_limit = int(tree["tree_param"]["num_feature"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelRejected(f"{what} is malformed ({type(error).__name__}: {error})") from error
    if categorical or vector not in (0, 1) or feature_limit != feature_count:
        raise ModelRejected(f"{what} splits by category, or has vectors as leaves; expected plain numeric splits")
    for key, values in columns.items():
        if count < 1 or not hasattr(values, "__len__") or len(values) != count:
            raise ModelRejected(f"{what} has {count} nodes, but another number of {key}")
    if not all(isinstance(value, int) for key in _PER_NODE[:3] for value in columns[key]):
        raise ModelRejected(f"{what} names a node or a feature by something else than a whole number")
    if not all(is_finite_number(value) for value in columns["split_conditions"]):
        raise ModelRejected(f"{what} splits or ends at a value that is not a finite number")
    _check_branches(what, columns, count=count, feature_count=feature_count)


def _check_branches(what: str, columns: Mapping[str, Sequence[int]], *, count: int, feature_count: int) -> None:
    """Every node but the root has one parent that comes before it: then nothing runs in a circle."""
    parents = [0] * count
    for node in range(count):
        left, right = columns["left_children"][node], columns["right_children"][node]
        if (left == _LEAF) != (right == _LEAF):
            raise ModelRejected(f"{what}, node {node} has one child; expected two or none")
        if left == _LEAF:
            continue
        for child in (left, right):
            if not node < child < count:
                raise ModelRejected(f"{what}, node {node} has the child {child}; expected one of the nodes behind it")
            parents[child] += 1
        if not 0 <= columns["split_indices"][node] < feature_count:
            raise ModelRejected(
                f"{what}, node {node} splits by feature {columns['split_indices'][node]}; there are {feature_count}"
            )
    if any(parents[node] > 1 for node in range(1, count)):
        raise ModelRejected(f"{what} has a node with two parents; expected a tree")
