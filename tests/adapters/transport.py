"""What a service answers, decided by the test: botocore asks here instead of opening a socket."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

from botocore.awsrequest import AWSResponse


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Iterable[bytes]:
        yield self.read()


class Transport:
    """Answers each request with the next of the prepared answers.

    Attributes:
        requests: Bodies of the requests that were sent.
    """

    def __init__(self, client: Any, service: str, *answers: Any) -> None:
        self.requests: list[Any] = []
        self._answers = list(answers)
        # First: before anything else that would answer.
        client.meta.events.register_first(f"before-send.{service}.*", self._answer)

    def _answer(self, request: Any, **_: Any) -> AWSResponse:
        body = request.body
        self.requests.append(body.decode() if isinstance(body, bytes) else body)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, text, headers = answer
        return AWSResponse(request.url, status, headers, _Raw(text.encode()))


def refusal(code: str, *, status: int = 400, **more: Any) -> tuple[int, str, dict[str, str]]:
    """An error as the JSON services write it."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": code, **more}
    return status, json.dumps(body), {"content-type": "application/x-amz-json-1.0"}


def ok(**body: Any) -> tuple[int, str, dict[str, str]]:
    """Success as the JSON services write it."""
    return 200, json.dumps(body), {"content-type": "application/x-amz-json-1.0"}


def cancelled(*codes: str) -> tuple[int, str, dict[str, str]]:
    """A transaction that was cancelled, item by item."""
    return refusal("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


def ec2_refusal(code: str, *, status: int = 400) -> tuple[int, str, dict[str, str]]:
    """An error as EC2 writes it."""
    error = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    body = f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"
    return status, body, {"content-type": "text/xml"}


def ec2(name: str, inner: str) -> tuple[int, str, dict[str, str]]:
    """Success as EC2 writes it."""
    return 200, f"<{name}Response>{inner}</{name}Response>", {"content-type": "text/xml"}
