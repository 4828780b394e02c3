"""The API's real handlers behind a loopback socket, for the command line to talk to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.api.conftest import Http
from tests.loopback import Loopback, Reply, Request


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

    def answer(request: Request) -> Reply:
        parts = urlsplit(request.path)
        text = request.content.decode()
        query = dict(parse_qsl(parts.query))
        headers = dict(request.headers)
        asked = Asked(request.method, unquote(parts.path), query, json.loads(text) if text else None, headers)
        api.asked.append(asked)
        if api.instead:
            status, said, content = api.instead.pop(0)
            return Reply(status, content, said)
        token = headers.pop("authorization", "").removeprefix("Bearer ") or None
        with api.one_at_a_time:
            answered = http.call(
                asked.method, asked.path, text or None, token=token, headers=headers, query=asked.query
            )
        content = b"" if answered.body is None else json.dumps(answered.body).encode()
        return Reply(answered.status, content, {"content-type": answered.headers.get("content-type", "")})

    with Loopback(answer) as server:
        api = ServedApi(server.url)
        yield api
