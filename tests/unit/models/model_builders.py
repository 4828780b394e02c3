"""Models made by hand, small enough to be read."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from spot_optimizer.domain.model_sessions import ModelSession, SessionStatus
from spot_optimizer.domain.models import Golden, HorizonModel, Manifest, ModelFile, Scaler, Span

FEATURES = ("age_hours", "price_ratio", "advisor_band")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_tree(**changes: Any) -> dict[str, Any]:
    """A root that splits by the second feature, and two leaves."""
    return {
        "base_weights": [0.0, -1.0, 1.0],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [0, 0, 0],
        "left_children": [1, -1, -1],
        "right_children": [2, -1, -1],
        "split_conditions": [0.5, -1.0, 1.0],
        "split_indices": [1, 0, 0],
        "tree_param": {"num_deleted": "0", "num_feature": "3", "num_nodes": "3", "size_leaf_vector": "1"},
    } | changes


def a_booster(*trees: dict[str, Any], **learner: Any) -> dict[str, Any]:
    """A booster as XGBoost writes it, decoded."""
    forest = list(trees) or [a_tree()]
    return {
        "learner": {
            "attributes": {},
            "feature_names": list(FEATURES),
            "feature_types": [],
            "gradient_booster": {
                "name": "gbtree",
                "model": {
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(forest))},
                    "iteration_indptr": list(range(len(forest) + 1)),
                    "tree_info": [0] * len(forest),
                    "trees": forest,
                },
            },
            "learner_model_param": {"base_score": "[5E-1]", "num_class": "0", "num_feature": "3", "num_target": "1"},
            "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
        }
        | learner,
        "version": [3, 4, 1],
    }


def a_file(name: str, content: bytes) -> ModelFile:
    return ModelFile(name, len(content), hashlib.sha256(content).hexdigest())


def some_files() -> dict[str, bytes]:
    """The files of `a_manifest`."""
    scaler = Scaler(FEATURES, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    return {
        "risk-1h.json": json.dumps(a_booster()).encode(),
        "risk-6h.json": json.dumps(a_booster(a_tree(), a_tree())).encode(),
        "scaler.json": scaler.as_json().encode(),
    }


def a_manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "format_version": 1,
        "features": FEATURES,
        "training_span": Span(NOW - timedelta(days=80), NOW - timedelta(days=20)),
        "test_span": Span(NOW - timedelta(days=20), NOW),
        "metrics": {"auc_1h": 0.8, "brier_1h": 0.02},
        "files": tuple(a_file(name, content) for name, content in some_files().items()),
        "horizons": (
            HorizonModel(1, "risk-1h.json", ((0.0, 0.0), (0.5, 0.1), (1.0, 0.9))),
            HorizonModel(6, "risk-6h.json"),
        ),
        "scaler": "scaler.json",
        "golden": Golden(
            rows=tuple((float(number), number / 8, None) for number in range(8)),
            predictions=tuple((0.1, 0.4) for _ in range(8)),
        ),
    } | changes
    return Manifest(**values)


def a_session(session_id: str = "m-1", **changes: Any) -> ModelSession:
    values: dict[str, Any] = {
        "session_id": session_id,
        "status": SessionStatus.PENDING,
        "created_at": NOW,
        "created_by": "operator:1",
        "file_names": ("risk-1h.json",),
        "trained_from": NOW - timedelta(days=80),
        "trained_until": NOW - timedelta(days=20),
        "metrics": "{}",
    } | changes
    return ModelSession(**values)
