"""The one place that says how a failure looks over HTTP: problem+json as RFC 9457 has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from spot_optimizer import errors
from spot_optimizer.errors import InvalidRequest, SpotOptimizerError, StaleEpoch, Transient

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:spot-optimizer:problem:"
RETRY_AFTER_SECONDS = 1

STATUS: Mapping[type[SpotOptimizerError], HTTPStatus] = {
    errors.TokenInvalid: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.InstanceUnproven: HTTPStatus.FORBIDDEN,
    errors.ResourceNotAllowed: HTTPStatus.FORBIDDEN,
    errors.AgentUnknown: HTTPStatus.NOT_FOUND,
    errors.ReplicaUnknown: HTTPStatus.NOT_FOUND,
    errors.InstanceUnknown: HTTPStatus.NOT_FOUND,
    errors.ClientUnknown: HTTPStatus.NOT_FOUND,
    errors.HandoverUnknown: HTTPStatus.NOT_FOUND,
    errors.CommandUnknown: HTTPStatus.NOT_FOUND,
    errors.TokenUnknown: HTTPStatus.NOT_FOUND,
    errors.SnapshotUnknown: HTTPStatus.NOT_FOUND,
    errors.ModelSessionUnknown: HTTPStatus.NOT_FOUND,
    errors.ModelRejected: HTTPStatus.UNPROCESSABLE_CONTENT,
    errors.PoolUnknown: HTTPStatus.NOT_FOUND,
    errors.NoticeTooOld: HTTPStatus.UNPROCESSABLE_CONTENT,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_CONTENT,
    errors.Transient: HTTPStatus.SERVICE_UNAVAILABLE,
    # Whatever else is refused is refused because of how things stand: a fence, a handover, a toggle.
    errors.Rejected: HTTPStatus.CONFLICT,
}

TITLES: Mapping[str, str] = {
    "json_invalid": "valid JSON",
    "missing": "a value",
    "extra_forbidden": "no field of this name",
    "value_error": "another value",
}


def status_of(error: SpotOptimizerError) -> HTTPStatus:
    """The status of a failure: that of its class, else of the nearest class above."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    name: str,
    status: HTTPStatus,
    detail: str,
    *,
    request_id: str,
    field: str | None = None,
    expected: str | None = None,
) -> dict[str, Any]:
    """A problem document.

    Args:
        name: The failure's class; it is what programs decide by.
        status: The HTTP status.
        detail: What was wrong, what was expected, and what to do.
        request_id: What to name when asking for help.
        field: Path of the offending field.
        expected: What would have been accepted.
    """
    document = {
        "type": f"{TYPE_PREFIX}{name}",
        "title": _words(name),
        "status": int(status),
        "detail": detail,
        "request_id": request_id,
    }
    return document | {key: value for key, value in (("field", field), ("expected", expected)) if value is not None}


def problem_of(error: SpotOptimizerError, *, request_id: str) -> tuple[HTTPStatus, dict[str, Any], dict[str, str]]:
    """Status, document and extra headers of a deliberate failure."""
    status = status_of(error)
    field, expected = None, None
    if isinstance(error, InvalidRequest):
        field, expected = error.field, error.expected
    document = problem(type(error).__name__, status, str(error), request_id=request_id, field=field, expected=expected)
    headers: dict[str, str] = {}
    if isinstance(error, StaleEpoch):
        document["current_epoch"] = error.current_epoch
    if isinstance(error, Transient):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="spot-optimizer"'
    return status, document, headers


def invalid(failures: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """Turn what validation found into our failure; the first finding is the one that is named."""
    failure = failures[0]
    where = [] if failure.get("type") == "json_invalid" else failure.get("loc", ())
    where = [str(part) for part in where if part not in ("body", "path", "query", "header")]
    field = ".".join(where) or "body"
    expected = _expected(failure)
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return InvalidRequest(f"'{field}' is not acceptable; expected {expected}{more}", field=field, expected=expected)


def _expected(failure: Mapping[str, Any]) -> str:
    kind = str(failure.get("type", ""))
    known = TITLES.get(kind)
    if kind == "value_error" and failure.get("ctx", {}).get("error"):
        return str(failure["ctx"]["error"])
    if known is not None:
        return known
    message = str(failure.get("msg", "another value"))
    for opening in ("Input should be ", "String should ", "List should ", "Value should ", "Input should "):
        if message.startswith(opening):
            return message.removeprefix(opening)
    return message


def _words(name: str) -> str:
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return spaced[:1].upper() + spaced[1:]
