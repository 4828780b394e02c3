"""The control plane's API as an agent uses it: each call is sent once, and says how it ended.

Whether and when to try again is decided by the protocol, so nothing here repeats a request, and nothing raises: a call
that may have taken effect is `OutcomeUnknown`, and the caller reads back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from spot_agent.logs import Report

log = logging.getLogger(__name__)

_TIMEOUT: Final = httpx.Timeout(3.0, connect=2.0, pool=1.0)
_UPLOAD_TIMEOUT: Final = httpx.Timeout(15.0, connect=3.0)
_PART_TIMEOUT: Final = httpx.Timeout(30.0, connect=3.0)
_COMPLETE_TIMEOUT: Final = httpx.Timeout(30.0, connect=2.0, pool=1.0)

# A connection that the server closes while it is idle costs the next call; ours is closed first.
_LIMITS: Final = httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=4.0)

# These say "not now" or "not with this token"; they are no word on the question that was asked.
_UNDECIDED: Final = frozenset({401, 403, 408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answered:
    """It was done; this is what was said."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """It was not done, and will not be as it was asked.

    Attributes:
        problem: The problem document (RFC 9457), or what stands in for one.
    """

    status: int
    problem: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StaleEpoch:
    """It was not done, because the epoch it was asked under is over."""

    current_epoch: int


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """It may or may not have been done."""

    reason: str


Answer = Answered | Rejected | StaleEpoch | OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Registration:
    """What an instance says of itself when it registers.

    Attributes:
        key: Makes a repeated registration the same one.
        details: The fields of the request.
    """

    token: str
    key: str
    details: Mapping[str, Any]


class ControlPlane:
    """Calls of one instance. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Keep the address; nothing is opened yet.

        Args:
            url: Where `/api` lies, without a trailing slash.
        """
        self._http = httpx.Client(base_url=f"{url}/api", timeout=_TIMEOUT, limits=_LIMITS)
        self._agent_id = ""
        self._token = ""

    def authenticate(self, agent_id: str, token: str) -> None:
        """Speak for this agent from now on."""
        self._agent_id = agent_id
        self._token = token

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def register(self, registration: Registration) -> Answer:
        """Register this instance; the same key gets the same answer."""
        return self._post("agents/register", registration.details, token=registration.token, key=registration.key)

    def heartbeat(self, body: Mapping[str, Any]) -> Answer:
        """Say how this instance is; the answer tells what it is to be."""
        return self._post(self._path("heartbeat"), body)

    def report_sync(self, replica_id: str, body: Mapping[str, Any]) -> Answer:
        """Say how far a replica is, or that it is ready."""
        return self._post(self._path(f"replicas/{replica_id}/sync-status"), body)

    def report_unready(self, replica_id: str, body: Mapping[str, Any]) -> Answer:
        """Take a replica's readiness back."""
        return self._post(self._path(f"replicas/{replica_id}/unready"), body)

    def commit(self, handover_id: str, body: Mapping[str, Any]) -> Answer:
        """Ask for promotion; asking again after it took effect gets the same answer."""
        return self._post(self._path(f"handovers/{handover_id}/commit"), body)

    def abort(self, handover_id: str, body: Mapping[str, Any]) -> Answer:
        """Ask that a handover be aborted; asking again gets the same answer."""
        return self._post(self._path(f"handovers/{handover_id}/abort"), body)

    def report_termination(self, body: Mapping[str, Any]) -> Answer:
        """Say that an instance is about to go, or has fallen silent."""
        return self._post(self._path("termination-imminent"), body)

    def ask_for_replica(self, body: Mapping[str, Any]) -> Answer:
        """Say that an interruption has become likely."""
        return self._post(self._path("create-emergency-replica"), body)

    def answer_command(self, command_id: str, body: Mapping[str, Any]) -> Answer:
        """Say how a command ended."""
        return self._post(self._path(f"commands/{command_id}/result"), body)

    def submit(self, report: Report) -> Answer:
        """Hand in a report that was kept."""
        return self._post(self._path(report.path), report.body, key=report.key)

    def log_tail_destination(self, *, size_bytes: int) -> Answer:
        """Where the tail of the log may be put: `url`, and the `headers` that belong to it."""
        return self._post(self._path("log-tail"), {"size_bytes": size_bytes})

    def upload(self, url: str, headers: Mapping[str, str], content: bytes) -> bool:
        """Put content at a presigned address; it carries its own permission, so no token goes there."""
        try:
            answer = self._http.put(url, content=content, headers=dict(headers), timeout=_UPLOAD_TIMEOUT)
        except httpx.HTTPError as error:
            log.warning("upload failed", extra={"error": repr(error)})
            return False
        if not answer.is_success:
            log.warning("upload refused", extra={"status": answer.status_code})
        return answer.is_success

    def begin_snapshot(self, body: Mapping[str, Any]) -> Answer:
        """Have the upload of some parts of a snapshot signed."""
        return self._post(self._path("snapshots"), body)

    def complete_snapshot(self, snapshot_id: str, body: Mapping[str, Any]) -> Answer:
        """Say that all parts are there; saying it again gets the same answer."""
        return self._post(self._path(f"snapshots/{snapshot_id}/complete"), body, timeout=_COMPLETE_TIMEOUT)

    def latest_snapshot(self, *, at: str | None) -> Answer:
        """What has to be restored, for the newest state or that of an earlier moment (ISO 8601)."""
        return self._send("GET", self._path("snapshots/latest"), params={} if at is None else {"at": at})

    def upload_part(self, url: str, headers: Mapping[str, str], content: Iterator[bytes]) -> Answer:
        """Put a part at a presigned address; answered with its `etag`. Rejected: there is no such upload any more."""
        try:
            answer = self._http.put(url, content=content, headers=dict(headers), timeout=_PART_TIMEOUT)
        except (httpx.HTTPError, OSError) as error:
            return OutcomeUnknown(f"a part was not uploaded: {error!r}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return Rejected(answer.status_code, {"title": answer.text[:300]})
        if not answer.is_success or "etag" not in answer.headers:
            # An address that has expired is among these, and signed anew the next time.
            return OutcomeUnknown(f"a part was refused with {answer.status_code}: {answer.text[:300]}")
        return Answered({"etag": answer.headers["etag"]})

    def download(self, url: str, file: Path, *, size_bytes: int) -> bool:
        """Get what lies at a presigned address into a file, going on where that ends; whether all of it is there."""
        try:
            there = file.stat().st_size if file.exists() else 0
            if there == size_bytes:
                return True
            if there > size_bytes:
                file.unlink()
                there = 0
            wanted = {"Range": f"bytes={there}-"} if there else {}
            with self._http.stream("GET", url, headers=wanted, timeout=_PART_TIMEOUT) as answer:
                if not answer.is_success:
                    log.warning("a snapshot can not be read", extra={"status": answer.status_code})
                    return False
                goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
                with file.open("ab" if goes_on else "wb") as out:
                    for piece in answer.iter_bytes(1 << 20):
                        out.write(piece)
            return file.stat().st_size == size_bytes
        except (httpx.HTTPError, OSError) as error:
            log.warning("a snapshot was not read", extra={"error": repr(error)})
            return False

    def _path(self, below: str) -> str:
        return f"agents/{self._agent_id}/{below}"

    def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        token: str | None = None,
        key: str | None = None,
        timeout: httpx.Timeout = _TIMEOUT,
    ) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self._send("POST", path, token=token, json=dict(body), headers=headers, timeout=timeout)

    def _send(self, method: str, path: str, *, token: str | None = None, **request: Any) -> Answer:
        headers = {"Authorization": f"Bearer {token or self._token}", **request.pop("headers", {})}
        try:
            response = self._http.request(method, path, headers=headers, **request)
        except httpx.ConnectError as error:
            return OutcomeUnknown(f"{path}: no connection ({error})")
        except httpx.HTTPError as error:
            return OutcomeUnknown(f"{path}: no answer ({error!r})")
        return read_answer(path, response)


def read_answer(path: str, response: httpx.Response) -> Answer:
    """Tell what a response says about the request."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_success and isinstance(body, dict):
        return Answered(body)
    problem = body if isinstance(body, dict) else {"title": response.reason_phrase}
    if response.is_server_error or response.is_success or response.is_redirect or response.status_code in _UNDECIDED:
        detail = problem.get("detail") or problem.get("title")
        return OutcomeUnknown(f"{path} answered {response.status_code}: {detail}")
    current_epoch = problem.get("current_epoch")
    if response.status_code == httpx.codes.CONFLICT and isinstance(current_epoch, int):
        return StaleEpoch(current_epoch)
    return Rejected(response.status_code, problem)
