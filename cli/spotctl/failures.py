"""How a command can end, and what its exit status says about it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

type Document = dict[str, Any]
"""A JSON object as the API answers it. What a reader does not know, it passes over."""


class ExitCode(enum.IntEnum):
    """The exit statuses. Scripts decide by them, so their meaning does not change."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_SIGNED_IN = 3
    FORBIDDEN = 4
    UNKNOWN = 5
    CONFLICT = 6
    INVALID = 7
    UNAVAILABLE = 8
    UNFINISHED = 9
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """For people."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "the API, or spotctl itself, failed",
    ExitCode.USAGE: "the command line was not understood, or a question could not be asked",
    ExitCode.NOT_SIGNED_IN: "no token, or one that is not in force",
    ExitCode.FORBIDDEN: "the token does not allow this",
    ExitCode.UNKNOWN: "there is no such agent, replica, pool, client or token",
    ExitCode.CONFLICT: "refused because of how things stand: a toggle, a handover, a replica that is not ready",
    ExitCode.INVALID: "a value was not acceptable",
    ExitCode.UNAVAILABLE: "the API could not be reached, or asks to try again later",
    ExitCode.UNFINISHED: "what was waited for, or looked into, did not come out well",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}

_BY_STATUS = {
    400: ExitCode.INVALID,
    401: ExitCode.NOT_SIGNED_IN,
    403: ExitCode.FORBIDDEN,
    404: ExitCode.UNKNOWN,
    409: ExitCode.CONFLICT,
    413: ExitCode.INVALID,
    422: ExitCode.INVALID,
    429: ExitCode.UNAVAILABLE,
    502: ExitCode.UNAVAILABLE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.UNAVAILABLE,
}

_NEXT_BY_PROBLEM = {
    "AgentUnknown": "`spotctl agents list` shows those there are",
    "ClientUnknown": "`spotctl clients list` shows those there are",
    "Paused": "`spotctl resume`, with the agent's id or for all, ends the pause",
    "PoolUnknown": "`spotctl pools` shows those there are",
    "ReplicaAlreadyActive": "`spotctl replicas list AGENT` shows it",
    "ReplicaNotReady": "`spotctl replicas list AGENT` shows how far it is",
    "ReplicaUnknown": "`spotctl replicas list AGENT` shows those there are",
    "SwitchHeld": "`spotctl recommend AGENT` says what is recommended; `spotctl agents config get AGENT`, the rules",
    "SwitchInProgress": "`spotctl agents watch AGENT` shows how far it is",
    "ToggledOff": "`spotctl agents config set AGENT` turns it on",
    "RouteUnknown": "the API is of another version than spotctl; `spotctl health` tells which",
}
_NEXT_BY_EXIT = {
    ExitCode.FAILED: "name the request id when asking for help",
    ExitCode.NOT_SIGNED_IN: "sign in with `spotctl sign-in`, or set SPOTCTL_TOKEN",
    ExitCode.FORBIDDEN: "ask an admin, or sign in with a token of a higher role",
    ExitCode.UNAVAILABLE: "try again in a moment; `spotctl health` tells when the API is back",
}


class Failure(Exception):
    """A command ends without what was asked for.

    Attributes:
        exit_code: The status to end with.
        title: What happened, in a few words.
        detail: What was wrong, and what was expected.
        advice: What to do next, if there is something to say.
    """

    def __init__(self, exit_code: ExitCode, title: str, detail: str, *, advice: str | None = None) -> None:
        super().__init__(f"{title}: {detail}")
        self.exit_code = exit_code
        self.title = title
        self.detail = detail
        self.advice = advice

    def as_document(self) -> Document:
        """For machines: in the form of a problem document, as the API has it."""
        known = {"title": self.title, "detail": self.detail, "next": self.advice, "exit_code": int(self.exit_code)}
        return {key: value for key, value in known.items() if value is not None}


class Refused(Failure):
    """The API answered with a problem.

    Attributes:
        status: HTTP status.
        problem: The problem document (RFC 9457).
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        exit_code = _BY_STATUS.get(status, ExitCode.FAILED)
        self.status = status
        self.problem = dict(problem)
        super().__init__(
            exit_code,
            str(problem.get("title") or f"HTTP {status}"),
            str(problem.get("detail") or "the API did not say why"),
            advice=_NEXT_BY_PROBLEM.get(self.name) or _NEXT_BY_EXIT.get(exit_code),
        )

    @property
    def name(self) -> str:
        """The failure's name in the API: the last segment of the problem's type."""
        return str(self.problem.get("type", "")).rpartition(":")[2]

    def as_document(self) -> Document:
        return self.problem | super().as_document()


class Unreachable(Failure):
    """No answer came."""

    def __init__(self, api_url: str, reason: str) -> None:
        super().__init__(
            ExitCode.UNAVAILABLE,
            "No answer",
            f"{api_url} did not answer: {reason}",
            advice="check the address and the network; `spotctl sign-in` changes the address",
        )


class NotSignedIn(Failure):
    """There is nothing to present to the API."""

    def __init__(self, detail: str) -> None:
        super().__init__(ExitCode.NOT_SIGNED_IN, "Not signed in", detail)


class Unfinished(Failure):
    """What a command waited for did not come, or came out badly."""

    def __init__(self, title: str, detail: str, *, advice: str | None = None) -> None:
        super().__init__(ExitCode.UNFINISHED, title, detail, advice=advice)


class NotUnderstood(Failure):
    """The command line can not be meant like this."""

    def __init__(self, detail: str, *, advice: str | None = None) -> None:
        super().__init__(ExitCode.USAGE, "Not understood", detail, advice=advice)
