"""Risk models: uploading them, and saying which is live. For admins."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api.fields import Cursor, IdempotencyKey, Limit, cursor_after, read_cursor
from spot_optimizer.api.models import (
    ActivateRequest,
    ActivationAnswer,
    OpenedAnswer,
    SessionRequest,
    SessionsAnswer,
)
from spot_optimizer.api.router import Router
from spot_optimizer.control import model_uploads
from spot_optimizer.domain import tokens
from spot_optimizer.domain.tokens import OperatorRole

api = Router()


@api.post("/api/admin/ml-models/sessions", summary="Open an upload", status_code=HTTPStatus.CREATED, tags=["models"])
def open_session(body: SessionRequest, idempotency_key: IdempotencyKey = None) -> OpenedAnswer:
    """For admins. The files go to the answered URLs, which take exactly the announced bytes. Pickles are refused."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    unique = tokens.derived_id("model", api.caller.token_id, idempotency_key) if idempotency_key else wiring.new_id()
    opened = model_uploads.open_session(
        wiring.model_plane(),
        body.manifest.manifest(),
        session_id=unique,
        created_by=f"operator:{api.caller.token_id}",
    )
    return OpenedAnswer.of(opened)


@api.get("/api/admin/ml-models/sessions", summary="List uploaded models", tags=["models"])
def list_sessions(cursor: Cursor = None, limit: Limit = 50) -> SessionsAnswer:
    """For admins. What is live, its fallback, what is pending, and what was rejected within 30 days."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    page = wiring.models().page(after=read_cursor(cursor), limit=limit)
    now = wiring.clock()
    kept = [session for session in page.values if not session.is_forgotten(now)]
    return SessionsAnswer.of(kept, cursor_after(page.last))


@api.post(
    "/api/admin/ml-models/activate", summary="Make a model live", status_code=HTTPStatus.ACCEPTED, tags=["models"]
)
def activate(body: ActivateRequest, idempotency_key: IdempotencyKey = None) -> ActivationAnswer:
    """For admins. It is validated and compared first, and rolled back if it does not serve. One at a time."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    slots = model_uploads.activate(
        wiring.model_plane(), body.session_id, key=idempotency_key, forced_because=body.forced_because()
    )
    return ActivationAnswer.of(slots, look=wiring.activations().arn(slots.execution))


@api.post("/api/admin/ml-models/fallback", summary="Go back to the model before", tags=["models"])
def fall_back(idempotency_key: IdempotencyKey = None) -> ActivationAnswer:
    """For admins. Live and fallback change places, at once; doing it again undoes it."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    return ActivationAnswer.of(model_uploads.fall_back(wiring.model_plane(), key=idempotency_key))


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
