"""Services of AWS's JSON protocol that ministack lacks: each answers one action, and refuses the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import ministack.core.iam_actions as iam_actions
import ministack.core.router as router
from ministack import app as ministack_app

from local.market.wire import HttpAnswer


class JsonRefusal(Exception):
    """An error response, by the service's own code for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def serve(service: str, *, target: str, action: str, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Make ministack route to a service, and enforce who may ask it.

    Args:
        service: Its name in ARNs and in IAM.
        target: What `X-Amz-Target` begins with.
        action: The one it has.
        answer: From request to answer; raises `JsonRefusal`.
    """

    async def handle(
        _method: str, _path: str, headers: dict[str, str], body: bytes, _query: dict[str, list[str]]
    ) -> HttpAnswer:
        asked = headers.get("x-amz-target", "").rpartition(".")[2]
        try:
            if asked != action:
                raise JsonRefusal("UnknownOperationException", f"The local {service} does not serve {asked}")
            return _write(200, answer(json.loads(body or b"{}")))
        except JsonRefusal as refusal:
            return _write(400, {"__type": refusal.code, "Message": refusal.message})

    router.SERVICE_PATTERNS[service] = {"target_prefixes": [target]}
    iam_actions.SERVICE_TO_IAM_NAMESPACE[service] = service
    ministack_app.SERVICE_HANDLERS[service] = handle


def _write(status: int, content: Mapping[str, Any]) -> HttpAnswer:
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(content).encode()
