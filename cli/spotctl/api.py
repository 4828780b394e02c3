"""The HTTP API, as a command calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from spotctl import __version__
from spotctl.failures import Document, Refused, Unreachable
from spotctl.signing_in import SignIn, is_loopback

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""API Gateway gives up on a function after 30 s."""

UPLOAD_SECONDS = 300.0
ATTEMPTS = 3
LONGEST_WAIT_SECONDS = 5.0
PAGE = 100
_TRY_AGAIN = (429, 502, 503, 504)


class Api:
    """Calls to one API with one token.

    Args:
        sign_in: Where, and with what. An empty token calls what is open to all.
        sleep: How to wait between two attempts.
        answer_seconds: How long to wait for an answer.
    """

    def __init__(
        self, sign_in: SignIn, *, sleep: Callable[[float], None] = time.sleep, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self.url = sign_in.api_url
        self._sleep = sleep
        headers = {"accept": "application/json", "user-agent": f"spotctl/{__version__}"}
        if sign_in.token:
            headers["authorization"] = f"Bearer {sign_in.token}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, answer_seconds)),
            # A proxy has no way to this machine's own addresses.
            trust_env=not is_loopback(urlsplit(sign_in.api_url).hostname or ""),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, *, query: Mapping[str, Any] | None = None, **ids: str) -> Document:
        """Read something.

        Args:
            path: As the API's description has it, such as `/api/agents/{agent_id}`.
            query: Parameters; those that are None are left out.
            **ids: What stands for the names in the path.

        Raises:
            Refused: The API answered with a problem.
            Unreachable: It did not answer.
        """
        return self._call("GET", path, ids, query=query, repeatable=True)

    def pages(
        self,
        path: str,
        key: str,
        *,
        at_most: int | None = None,
        page_size: int = PAGE,
        query: Mapping[str, Any] | None = None,
        **ids: str,
    ) -> Iterator[Document]:
        """Read a list to its end, page after page.

        Args:
            path: As for `get`.
            key: Under which the page holds its items.
            at_most: How many items to read.
            page_size: How many the API gives at once at most.
            query: Filters.
            **ids: As for `get`.
        """
        cursor: str | None = None
        left = at_most
        while left is None or left > 0:
            limit = page_size if left is None else min(page_size, left)
            page = self.get(path, query={**(query or {}), "limit": limit, "cursor": cursor}, **ids)
            items = page[key]
            yield from items if left is None else items[:left]
            cursor = page.get("next_cursor")
            if not cursor:
                return
            left = None if left is None else left - len(items)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **ids: str
    ) -> Document:
        """Have something done; with a key, again when no answer comes, for the API does it once. Raises as `get`."""
        headers = {"idempotency-key": idempotency_key} if idempotency_key else None
        return self._call("POST", path, ids, body=body, headers=headers, repeatable=idempotency_key is not None)

    def patch(self, path: str, body: Mapping[str, Any], **ids: str) -> Document:
        """Change what is named. Raises as `get`."""
        return self._call("PATCH", path, ids, body=body, repeatable=True)

    def delete(self, path: str, **ids: str) -> Document:
        """Remove, or end. Raises as `get`."""
        return self._call("DELETE", path, ids, repeatable=True)

    def upload(self, url: str, headers: Mapping[str, str], content: bytes) -> None:
        """Put a file where the API said, which is not at the API: no token goes there.

        Raises:
            Unreachable: Nobody took it.
        """
        try:
            answer = httpx.put(url, content=content, headers=dict(headers), timeout=UPLOAD_SECONDS)
        except httpx.HTTPError as error:
            raise Unreachable(url.partition("?")[0], str(error) or type(error).__name__) from error
        if not answer.is_success:
            raise Refused(answer.status_code, {"title": "Upload refused", "detail": answer.text[:500]})

    def _call(
        self,
        method: str,
        path: str,
        ids: Mapping[str, str],
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool,
    ) -> Document:
        url = self.url + path.format_map({name: quote(value, safe="") for name, value in ids.items()})
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                answer = self._http.request(method, url, params=parameters, json=body, headers=headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # Nothing was sent, so anything may be sent again.
                if last:
                    raise Unreachable(self.url, str(error) or "no connection") from error
                self._sleep(attempt)
            except httpx.HTTPError as error:
                if last or not repeatable:
                    raise Unreachable(self.url, str(error) or type(error).__name__) from error
                self._sleep(attempt)
            else:
                if answer.status_code in _TRY_AGAIN and repeatable and not last:
                    self._sleep(_wait_seconds(answer, otherwise=float(attempt)))
                    continue
                return _document(answer)
        raise AssertionError("unreachable")


def _wait_seconds(answer: httpx.Response, *, otherwise: float) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), LONGEST_WAIT_SECONDS) if told.isdecimal() else otherwise


def _document(answer: httpx.Response) -> Document:
    try:
        document = answer.json() if answer.content else {}
    except ValueError:
        document = {"detail": f"expected JSON, got {answer.headers.get('content-type', 'something without a type')}"}
        raise Refused(answer.status_code if answer.is_error else 502, document) from None
    if not answer.is_success:
        raise Refused(answer.status_code, document if isinstance(document, dict) else {"detail": str(document)})
    return document if isinstance(document, dict) else {"value": document}
