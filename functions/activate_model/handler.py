"""The tasks of `activate_model.asl.json` that do not need a serving process: from files to a model that is live."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import model_activation
from spot_optimizer.domain.risk import MODEL_FEATURES
from spot_optimizer_ml.scoring import RiskModel

Payload = Mapping[str, Any]


def _check_contract(event: Payload) -> Any:
    return model_activation.check_contract(wiring.model_plane(), event["session_id"], known_features=MODEL_FEATURES)


def _reproduce_predictions(event: Payload) -> Any:
    return model_activation.reproduce_predictions(wiring.model_plane(), event["session_id"], load=RiskModel.load)


def _probe_predictions(event: Payload) -> Any:
    return model_activation.probe_predictions(
        wiring.model_plane(), event["session_id"], load=RiskModel.load, processor_seconds=time.thread_time
    )


def _compare_with_live(event: Payload) -> Any:
    return model_activation.compare_with_live(wiring.model_plane(), event["session_id"], load=RiskModel.load)


def _end(event: Payload) -> Any:
    return model_activation.end_activation(
        wiring.model_plane(),
        event["session_id"],
        reason=model_activation.reason_of(event["cause"]),
        is_models_fault=event["task"] == "RejectModel",
    )


TASKS: Mapping[str, Callable[[Payload], Any]] = {
    "VerifyFiles": lambda e: model_activation.verify_files(wiring.model_plane(), e["session_id"]),
    "CheckContract": _check_contract,
    "ReproducePredictions": _reproduce_predictions,
    "ProbePredictions": _probe_predictions,
    "CompareWithLive": _compare_with_live,
    "MakeLive": lambda e: model_activation.make_live(wiring.model_plane(), e["session_id"]),
    "ConfirmLive": lambda e: model_activation.confirm(wiring.model_plane(), e["session_id"]),
    "RejectModel": _end,
    "PutModelBack": _end,
    "RollBack": _end,
}


@wiring.logger.inject_lambda_context
def handle(event: dict[str, Any], _context: Any) -> Any:
    """Run one task; its name is in `task`."""
    return TASKS[event["task"]](event)
