"""The API's real handlers behind a loopback socket, for the command line to talk to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.api.conftest import Http


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class ServedApi:
    """The address, what was asked, and what is to be answered instead of the truth.

    Attributes:
        instead: Status, headers and body of the next answers, in order; the handlers answer when there is none left.
        one_at_a_time: Held while the handlers work; who plays an agent beside the command line holds it too.
    """

    url: str
    asked: list[Asked] = field(default_factory=list)
    instead: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def calls(self, method: str) -> list[Asked]:
        """What was asked with this method."""
        return [asked for asked in self.asked if asked.method == method]


@contextmanager
def serve(http: Http) -> Iterator[ServedApi]:
    """Serve the handlers on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(parts.query))
            asked = Asked(self.command, unquote(parts.path), query, json.loads(text) if text else None, headers)
            api.asked.append(asked)
            if api.instead:
                self.send(*api.instead.pop(0))
                return
            token = headers.pop("authorization", "").removeprefix("Bearer ") or None
            with api.one_at_a_time:
                answered = http.call(
                    asked.method, asked.path, text or None, token=token, headers=headers, query=asked.query
                )
            content = b"" if answered.body is None else json.dumps(answered.body).encode()
            self.send(answered.status, {"content-type": answered.headers.get("content-type", "")}, content)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 -- the names that http.server calls

        def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api = ServedApi(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
