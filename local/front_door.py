"""What stands before ministack: the control endpoint, and plain words for services that nobody here serves."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from local.control import Control

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type Application = Callable[[Message, Receive, Send], Awaitable[None]]

TOKEN_HEADER = "x-local-token"  # noqa: S105 - the header's name
_CONTROL = "/_local/"
_APIS = "/_aws/execute-api/"
_SIGNED_FOR = re.compile(r"Credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request")
_UNSERVED = {"fis"}
"""Services that ministack would answer as if they were S3."""


class FrontDoor:
    """The ASGI application that hypercorn serves."""

    def __init__(self, inner: Application, control: Control, token: str) -> None:
        self._inner = inner
        self._control = control
        self._token = token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer what is ours, pass the rest on."""
        if scope["type"] == "http":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            path = str(scope["path"])
            if path.startswith(_CONTROL):
                await self._pull_a_lever(path.removeprefix(_CONTROL), headers, receive, send)
                return
            if path.startswith(_APIS) and not self._control.reaches_api(headers.get("authorization", "")):
                await _answer(send, 503, b'{"message": "Service Unavailable"}')
                return
            service = _SIGNED_FOR.search(headers.get("authorization", ""))
            if service is not None and service[1] in _UNSERVED:
                body = {"__type": "ServiceNotServed", "message": f"The local AWS does not serve {service[1]}"}
                await _answer(send, 501, json.dumps(body).encode())
                return
        await self._inner(scope, receive, send)

    async def _pull_a_lever(self, lever: str, headers: dict[str, str], receive: Receive, send: Send) -> None:
        if not hmac.compare_digest(headers.get(TOKEN_HEADER, ""), self._token):
            await _answer(
                send, 403, b'{"error": "Forbidden", "message": "the run\'s control token is missing or wrong"}'
            )
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await _answer(send, *await self._control.answer(lever, body))


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
