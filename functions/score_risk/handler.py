"""Scores rows with the live model, for batches; and tells whether this process serves what is live.

Nothing on the failover path calls it. Without a model it fails with `NoModelLive`, and the caller's advisor band stands
in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control.live_model import LiveModel, check_health
from spot_optimizer.domain.models import HORIZONS_HOURS, scoring_request
from spot_optimizer_ml.scoring import RiskModel

Payload = Mapping[str, Any]


def _live_model() -> LiveModel:
    return wiring.live_model(RiskModel.load)


def _score(event: Payload) -> Any:
    request = scoring_request(event)
    served = _live_model().current()
    predictions = served.model.score(request.rows, features=request.features)
    if request.pool_ids:
        wiring.outcomes().keep(
            request.pool_ids, request.rows, features=request.features, now=wiring.clock(), call_id=wiring.new_id()
        )
    return {"model_version": served.session_id, "horizons_hours": HORIZONS_HOURS, "predictions": predictions}


def _check_health(event: Payload) -> Any:
    session_id = event["session_id"]
    golden = wiring.model_files().manifest(session_id).golden
    return {"finding": check_health(_live_model(), wiring.models().slots(), golden, session_id=session_id)}


TASKS: Mapping[str, Callable[[Payload], Any]] = {"Score": _score, "CheckHealth": _check_health}


@wiring.logger.inject_lambda_context
def handle(event: dict[str, Any], _context: Any) -> Any:
    """Run one task; its name is in `task`."""
    return TASKS[event["task"]](event)
