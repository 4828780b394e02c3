"""A router: who calls is settled before anything else, and every failure leaves as problem+json."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import (
    RequestUnsupportedContentType,
    RequestValidationError,
)

from spot_optimizer.api import problems
from spot_optimizer.api.callers import caller_of
from spot_optimizer.domain.tokens import Caller
from spot_optimizer.errors import ControlPlaneUnavailable, SpotOptimizerError, TokenInvalid
from spot_optimizer.wiring import logger

JSON = "application/json"


class Router(APIGatewayHttpResolver):
    """Routes of one function.

    Args:
        open_paths: Paths that need no token; all others do.
    """

    def __init__(self, *, open_paths: Collection[str] = ()) -> None:
        super().__init__(enable_validation=True, json_body_deserializer=_read_json)
        self.open_paths = frozenset(open_paths)
        self.exception_handler(SpotOptimizerError)(self._refuse)
        self.exception_handler([RequestValidationError, RequestUnsupportedContentType])(self._refuse_invalid)
        self.exception_handler(Exception)(self._fail)
        self.not_found(self._refuse_unknown_path)

    @property
    def caller(self) -> Caller:
        """Who asks.

        Raises:
            TokenInvalid: No valid token was presented.
        """
        return caller_of(self.current_event.raw_event)

    @property
    def request_id(self) -> str:
        """What to name when asking for help."""
        return _request_id(self.current_event.raw_event)

    def answer(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one event of the HTTP API."""
        if event.get("rawPath") not in self.open_paths:
            try:
                caller_of(event)
            except (TokenInvalid, ControlPlaneUnavailable) as error:
                status, document, headers = problems.problem_of(error, request_id=_request_id(event))
                return _raw(status, document, headers)
        return self.resolve(event, context)

    @property
    def account_id(self) -> str:
        """The AWS account this function runs in."""
        return str(self.lambda_context.invoked_function_arn.split(":")[4])

    def header(self, name: str) -> str | None:
        """A header of the request."""
        value: str | None = self.current_event.headers.get(name)
        return value

    def _refuse(self, error: SpotOptimizerError) -> Response[Any]:
        status, document, headers = problems.problem_of(error, request_id=self.request_id)
        logger.info("refused", extra={"problem": document["title"], "detail": document["detail"]})
        return _response(status, document, headers)

    def _refuse_invalid(self, error: RequestValidationError) -> Response[Any]:
        return self._refuse(problems.invalid(error.errors()))

    def _refuse_unknown_path(self, _error: NotFoundError) -> Response[Any]:
        path = self.current_event.path
        document = problems.problem(
            "RouteUnknown",
            HTTPStatus.NOT_FOUND,
            f"no {self.current_event.http_method} {path}; expected a call that GET /api/openapi.json lists",
            request_id=self.request_id,
        )
        return _response(HTTPStatus.NOT_FOUND, document, {})

    def _fail(self, error: Exception) -> Response[Any]:
        logger.exception("failed", exc_info=error)
        document = problems.problem(
            "Unexpected",
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "the request failed for a reason that is ours; name the request id when asking for help",
            request_id=self.request_id,
        )
        return _response(HTTPStatus.INTERNAL_SERVER_ERROR, document, {})


def _read_json(text: str) -> Any:
    """Read a body; numbers too long and lists too deep to be read are no JSON that anybody needs.

    Raises:
        json.JSONDecodeError: It is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(str(error), text, 0) from error


def _request_id(event: Mapping[str, Any]) -> str:
    return str(event.get("requestContext", {}).get("requestId", ""))


def _response(status: HTTPStatus, document: Mapping[str, Any], headers: Mapping[str, str]) -> Response[Any]:
    return Response(
        status_code=int(status), content_type=problems.CONTENT_TYPE, body=json.dumps(document), headers=dict(headers)
    )


def _raw(status: HTTPStatus, document: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "statusCode": int(status),
        "headers": {"Content-Type": problems.CONTENT_TYPE, **headers},
        "body": json.dumps(document),
        "isBase64Encoded": False,
        "cookies": [],
    }
