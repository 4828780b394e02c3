"""Operators: tenants and tokens; and, for everybody, health and the description of the API."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler import Response

from spot_optimizer import __version__, wiring
from spot_optimizer.api.fields import (
    ClientPath,
    Cursor,
    IdempotencyKey,
    Limit,
    PauseAnswer,
    PauseRequest,
    TokenPath,
    cursor_after,
    read_cursor,
)
from spot_optimizer.api.operators import (
    ClientAnswer,
    ClientRequest,
    ClientsAnswer,
    HealthAnswer,
    OperatorTokenRequest,
    OrphansAnswer,
    TokenAnswer,
    TokenRequest,
)
from spot_optimizer.api.router import JSON, Router
from spot_optimizer.control import issuing, pausing
from spot_optimizer.domain import tokens
from spot_optimizer.domain.clients import Client
from spot_optimizer.domain.pauses import Pause
from spot_optimizer.domain.tokens import OperatorRole, TokenKind

DESCRIPTION = Path(__file__).with_name("openapi.json")
"""Written by `functions.operator_api.document` from the routes of all functions."""

api = Router(open_paths=("/api/health", "/api/openapi.json"))


@api.get("/api/health", summary="Whether the control plane can do its work", tags=["looking"])
def health() -> HealthAnswer:
    """Reads three rows; 503 if the tables can not be reached."""
    wiring.records().token("health")
    return HealthAnswer.of(
        wiring.models().slots(),
        wiring.records().pause_of_all(),
        version=__version__,
        stage=wiring.settings().stage,
    )


@api.get("/api/openapi.json", summary="This description", tags=["looking"], enable_validation=False)
def description() -> Response[str]:
    """All calls of the API."""
    return Response(status_code=HTTPStatus.OK, content_type=JSON, body=DESCRIPTION.read_text())


@api.post("/api/clients", summary="Create a client", status_code=HTTPStatus.CREATED, tags=["tenants"])
def create_client(body: ClientRequest) -> ClientAnswer:
    """For admins. Creating a client that exists gives that client."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    client = Client(client_id=body.client_id, name=body.name, created_at=wiring.clock())
    return ClientAnswer.of(wiring.clients().create(client))


@api.get("/api/clients", summary="List clients", tags=["tenants"])
def list_clients(cursor: Cursor = None, limit: Limit = 50) -> ClientsAnswer:
    """For operators of any role."""
    tokens.require_role(api.caller, OperatorRole.VIEWER)
    page = wiring.clients().page(after=read_cursor(cursor), limit=limit)
    return ClientsAnswer(clients=tuple(map(ClientAnswer.of, page.values)), next_cursor=cursor_after(page.last))


@api.post(
    "/api/clients/<client_id>/tokens",
    summary="Issue a client's token",
    status_code=HTTPStatus.CREATED,
    tags=["tenants"],
)
def issue_client_token(
    client_id: ClientPath, body: TokenRequest, idempotency_key: IdempotencyKey = None
) -> TokenAnswer:
    """For admins. The secret is shown this once; the same Idempotency-Key issues nothing twice."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    client = wiring.clients().get(client_id)
    token, presented = issuing.issue(
        wiring.records(),
        TokenKind.CLIENT,
        token_id=tokens.derived_id("issued", client_id, idempotency_key) if idempotency_key else wiring.new_id(),
        secret=wiring.new_secret(),
        now=wiring.clock(),
        client_id=client.client_id,
        name=body.name,
        lifetime=timedelta(days=body.valid_days),
    )
    return TokenAnswer.of(token, presented)


@api.post("/api/tokens", summary="Issue an operator's token", status_code=HTTPStatus.CREATED, tags=["tenants"])
def issue_operator_token(body: OperatorTokenRequest, idempotency_key: IdempotencyKey = None) -> TokenAnswer:
    """For admins. The secret is shown this once; the same Idempotency-Key issues nothing twice."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    token, presented = issuing.issue(
        wiring.records(),
        TokenKind.OPERATOR,
        token_id=tokens.derived_id("operator", body.name, idempotency_key) if idempotency_key else wiring.new_id(),
        secret=wiring.new_secret(),
        now=wiring.clock(),
        role=body.role,
        name=body.name,
        lifetime=timedelta(days=body.valid_days),
    )
    return TokenAnswer.of(token, presented)


@api.post("/api/tokens/<token_id>/rotate", summary="Give a token a new secret", tags=["tenants"])
def rotate_token(token_id: TokenPath) -> TokenAnswer:
    """For admins. The old secret is void at once."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    token, presented = issuing.rotate(wiring.records(), token_id, secret=wiring.new_secret(), now=wiring.clock())
    return TokenAnswer.of(token, presented)


@api.delete("/api/tokens/<token_id>", summary="Revoke a token", status_code=HTTPStatus.NO_CONTENT, tags=["tenants"])
def revoke_token(token_id: TokenPath) -> None:
    """For admins. It is void at once."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    issuing.revoke(wiring.records(), token_id, now=wiring.clock())


@api.get("/api/pause", summary="Whether everything is paused", tags=["pausing"])
def get_pause() -> PauseAnswer:
    """For operators of any role; agents may be paused for themselves beside it."""
    tokens.require_role(api.caller, OperatorRole.VIEWER)
    return _paused(wiring.records().pause_of_all())


@api.post("/api/pause", summary="Change nothing at all", tags=["pausing"])
def pause_all(body: PauseRequest) -> PauseAnswer:
    """For admins. No failover, replica or switch is begun until it is resumed; what is under way ends."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    return _paused(pausing.pause_all(wiring.plane(), reason=body.reason))


@api.post("/api/resume", summary="End the pause of all", tags=["pausing"])
def resume_all() -> PauseAnswer:
    """For admins. Agents that are paused for themselves stay so; what went by is looked at within a minute."""
    tokens.require_role(api.caller, OperatorRole.ADMIN)
    pausing.resume_all(wiring.plane())
    return _paused(wiring.records().pause_of_all())


@api.get("/api/orphans", summary="What carries our tag on EC2 and is nobody's", tags=["looking"])
def get_orphans() -> OrphansAnswer:
    """For operators of any role. Swept for every five minutes; a pause keeps everything where it is."""
    tokens.require_role(api.caller, OperatorRole.VIEWER)
    return OrphansAnswer.of(wiring.records().orphan_report())


def _paused(pause: Pause | None) -> PauseAnswer:
    return PauseAnswer(
        paused_at=None if pause is None else pause.paused_at, paused_because=None if pause is None else pause.reason
    )


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
