"""Instance metadata, version 2 only, one server per instance on its own address."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus

_log = logging.getLogger(__name__)

_TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105 - the header's name
_LONGEST_TTL = 21_600

type Metadata = Callable[[str], str | None]
"""Path under `/latest/` -> its text now, or None where there is nothing."""


class MetadataServer:
    """The link-local metadata service of one instance."""

    def __init__(self, address: str, read: Metadata) -> None:
        self._address = address
        self._read = read
        self._tokens: dict[str, float] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.endpoint = ""

    async def start(self) -> None:
        """Listen on a free port of the instance's address."""
        self._server = await asyncio.start_server(self._serve, self._address, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"http://{self._address}:{port}"

    async def close(self) -> None:
        """Go away with the instance, open connections included."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
                while await self._answer_one(reader, writer):
                    pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *header_lines = head.rstrip().split("\r\n")
        method, target, _ = request_line.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, separator, value in (line.partition(":") for line in header_lines)
            if separator
        }
        await reader.readexactly(int(headers.get("content-length", "0") or "0"))
        status, body, extra = self._answer(method, target.partition("?")[0], headers)
        keep = headers.get("connection", "").lower() != "close"
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Server: EC2ws",
            "Content-Type: text/plain",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in extra.items()),
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()
        return keep

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[HTTPStatus, bytes, dict[str, str]]:
        if path == "/latest/api/token":
            return self._answer_token(method, headers)
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, b"", {"Allow": "OPTIONS, GET"}
        if not self._is_valid(headers.get(_TOKEN_HEADER)):
            return HTTPStatus.UNAUTHORIZED, b"", {}
        text = self._read(path.removeprefix("/latest/")) if path.startswith("/latest/") else None
        if text is None:
            return HTTPStatus.NOT_FOUND, b"", {}
        return HTTPStatus.OK, text.encode(), {}

    def _answer_token(self, method: str, headers: dict[str, str]) -> tuple[HTTPStatus, bytes, dict[str, str]]:
        if method != "PUT":
            return HTTPStatus.METHOD_NOT_ALLOWED, b"", {"Allow": "OPTIONS, PUT"}
        if "x-forwarded-for" in headers:
            return HTTPStatus.FORBIDDEN, b"", {}  # a proxied request never gets a token
        try:
            ttl = int(headers[_TTL_HEADER])
        except (KeyError, ValueError):
            return HTTPStatus.BAD_REQUEST, b"", {}
        if not 1 <= ttl <= _LONGEST_TTL:
            return HTTPStatus.BAD_REQUEST, b"", {}
        now = time.monotonic()
        self._tokens = {token: until for token, until in self._tokens.items() if until > now}
        token = secrets.token_urlsafe(40)
        self._tokens[token] = now + ttl
        return HTTPStatus.OK, token.encode(), {_TTL_HEADER: str(ttl)}

    def _is_valid(self, token: str | None) -> bool:
        return token is not None and self._tokens.get(token, 0.0) > time.monotonic()
