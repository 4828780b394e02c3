"""HTTP/1.1, as much of it as a ledger needs.

`http.server` would do, but importing it costs more than all the rest of the start, in which users wait.
"""

import json
from typing import BinaryIO, NamedTuple

MAX_LINE = 8192
MAX_HEADERS = 64
MAX_BODY = 16384

REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}

type Json = str | int | float | bool | list["Json"] | dict[str, "Json"] | None


class Request(NamedTuple):
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class Response(NamedTuple):
    status: int
    body: dict[str, Json]
    retry_after_seconds: int | None = None
    allow: str | None = None


class RequestUnreadable(Exception):
    """What came in is no request that can be answered; the connection ends after the answer."""

    def __init__(self, status: int, expected: str) -> None:
        super().__init__(expected)
        self.status = status


def read_request(stream: BinaryIO) -> Request | None:
    """Read one request.

    Args:
        stream: A buffered stream from the client.

    Returns:
        The request, or None when the client is done with the connection.

    Raises:
        RequestUnreadable: It is malformed, too large, or chunked.
    """
    line = stream.readline(MAX_LINE)
    if not line:
        return None
    parts = line.decode("latin-1").split()
    if len(parts) != 3 or not line.endswith(b"\n") or not parts[2].startswith("HTTP/1."):
        raise RequestUnreadable(400, "expected a request line such as: GET /health HTTP/1.1")
    method, target, version = parts
    headers = _read_headers(stream)
    if "transfer-encoding" in headers:
        raise RequestUnreadable(501, "expected a body with Content-Length, not a transfer encoding")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise RequestUnreadable(400, "Content-Length: expected a whole number")
    if len(length) > 9 or int(length) > MAX_BODY:
        raise RequestUnreadable(413, f"expected a body of at most {MAX_BODY} bytes")
    body = stream.read(int(length))
    if len(body) < int(length):
        return None
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" if version == "HTTP/1.1" else connection == "keep-alive"
    path, _, query = target.partition("?")
    return Request(method, path, query, headers, body, keep_alive)


def _read_headers(stream: BinaryIO) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        line = stream.readline(MAX_LINE)
        if line in (b"\r\n", b"\n"):
            return headers
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not line.endswith(b"\n"):
            raise RequestUnreadable(400, "expected header lines such as: Content-Length: 12")
        headers[name.strip().lower()] = value.strip()
    raise RequestUnreadable(400, f"expected at most {MAX_HEADERS} headers")


def encode_response(response: Response, *, keep_alive: bool) -> bytes:
    """The bytes of a response; sent in one piece, so that no client waits for the second half."""
    is_problem = response.status >= 400
    body = json.dumps(response.body, separators=(",", ":")).encode()
    lines = [
        f"HTTP/1.1 {response.status} {REASONS[response.status]}",
        f"Content-Type: application/{'problem+json' if is_problem else 'json'}",
        f"Content-Length: {len(body)}",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    if response.retry_after_seconds is not None:
        lines.append(f"Retry-After: {response.retry_after_seconds}")
    if response.allow is not None:
        lines.append(f"Allow: {response.allow}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def problem(status: int, detail: str, **more: Json) -> Response:
    """A refusal as problem+json (RFC 9457)."""
    return Response(
        status, {"type": "about:blank", "title": REASONS[status], "status": status, "detail": detail, **more}
    )
