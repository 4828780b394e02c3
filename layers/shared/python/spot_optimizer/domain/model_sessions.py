"""The life of an uploaded model, and the two slots: the model that is live, and the one to fall back to.

`pending → validating → live ⇄ fallback → superseded`, or `rejected`. One row, the slots, says which sessions are what,
and which one is being activated; every change of it is a conditional write, so that of two activations one wins, and
live and fallback change places in one transaction or not at all.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from spot_optimizer.domain.claims import Execution
from spot_optimizer.domain.writes import Change, Condition, Equals, Missing, OneOf, Table, Transaction
from spot_optimizer.errors import ActivationInProgress, ActivationLost, ModelNotActivatable, NoFallbackModel

MODEL: Final = "interruption-risk"
"""Key of the slots' row: there is one kind of model."""

UPLOAD_WITHIN: Final = timedelta(hours=1)
PENDING_FOR: Final = timedelta(days=7)
REJECTED_FOR: Final = timedelta(days=30)
PROPAGATES_WITHIN: Final = timedelta(seconds=10)
"""After so long every warm function serves what is live; each looks at most `LOOK_EVERY` after it last looked."""

LOOK_EVERY: Final = timedelta(seconds=3)

STARTS_WITHIN: Final = timedelta(minutes=1)
"""An activation that was begun has an execution after so long, or never will."""


class SessionStatus(enum.StrEnum):
    """Where a model stands."""

    PENDING = "pending"
    """Being uploaded, or waiting to be activated."""
    VALIDATING = "validating"
    LIVE = "live"
    FALLBACK = "fallback"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSession:
    """One uploaded model's row.

    Attributes:
        file_names: Beside the manifest.
        trained_from, trained_until: The manifest's training span.
        metrics: The manifest's, as JSON.
        is_live, is_fallback: As `status` says; for whoever looks for the seed's attributes.
        reason: Why it was rejected, or refused the last time.
        forced_because: Why it was activated although it does worse than what was live.
        findings: What each step of the last activation found, in order: {step, finding}.
        activated_at: When it was last made live.
        forget_at: From when on it is no longer shown, and its row is deleted; None keeps it.
    """

    session_id: str
    status: SessionStatus
    created_at: datetime
    created_by: str
    file_names: tuple[str, ...]
    trained_from: datetime
    trained_until: datetime
    metrics: str
    is_live: bool = False
    is_fallback: bool = False
    reason: str | None = None
    forced_because: str | None = None
    findings: tuple[Mapping[str, Any], ...] = ()
    activated_at: datetime | None = None
    forget_at: datetime | None = None

    def is_forgotten(self, now: datetime) -> bool:
        """Whether it is only waiting to be deleted."""
        return self.forget_at is not None and self.forget_at <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What serves, and what is under way.

    Attributes:
        revision: Number of changes of what is live; a function that knows it knows what to serve. 0: no row yet.
        activation: Number of activations that were begun; names the execution of the last one.
        activating_session_id: The one under way.
        activation_key: Idempotency key of the last activation that was asked for.
        begun_at: When the last activation was begun.
        unconfirmed: Whether the activation under way has made its session live, and nobody has seen it serve yet.
        displaced_session_id: The fallback that this one pushed out, kept until it is confirmed.
        fallback_key: Idempotency key of the last fallback that was asked for.
        changed_at: When what is live last changed.
    """

    model: str = MODEL
    revision: int = 0
    activation: int = 0
    live_session_id: str | None = None
    fallback_session_id: str | None = None
    activating_session_id: str | None = None
    activation_key: str | None = None
    begun_at: datetime | None = None
    unconfirmed: bool = False
    displaced_session_id: str | None = None
    fallback_key: str | None = None
    changed_at: datetime | None = None

    @property
    def execution(self) -> str:
        """Name of the execution of the last activation."""
        return f"activation-{self.activation}"

    @property
    def kept_session_ids(self) -> frozenset[str]:
        """Sessions whose files must stay."""
        named = (
            self.live_session_id,
            self.fallback_session_id,
            self.displaced_session_id,
            self.activating_session_id,
        )
        return frozenset(session_id for session_id in named if session_id)


def open_session(session: ModelSession) -> Transaction:
    """Store a new session, waiting for its files."""
    return Transaction(
        "open model session",
        (
            Change(
                Table.MODEL_SESSIONS,
                (session.session_id,),
                "a session is opened once",
                only_if={"session_id": Missing()},
                put={
                    "status": session.status,
                    "created_at": session.created_at,
                    "created_by": session.created_by,
                    "file_names": session.file_names,
                    "trained_from": session.trained_from,
                    "trained_until": session.trained_until,
                    "metrics": session.metrics,
                    "is_live": False,
                    "is_fallback": False,
                    "findings": (),
                    "forget_at": session.created_at + PENDING_FOR,
                },
            ),
        ),
    )


def begin_activation(
    slots: Slots, session: ModelSession, *, key: str | None, forced_because: str | None, now: datetime
) -> Transaction:
    """Claim the slots for one session.

    Raises:
        ActivationInProgress: They are claimed.
        ModelNotActivatable: The session is not waiting to be activated.
    """
    if slots.activating_session_id is not None:
        raise ActivationInProgress(
            f"session {slots.activating_session_id} is being activated ({slots.execution}); expected none to be; "
            "wait for its end"
        )
    if session.status is not SessionStatus.PENDING:
        advice = "use POST admin/ml-models/fallback" if session.is_fallback else "upload it as a new session"
        raise ModelNotActivatable(f"session {session.session_id} is '{session.status}'; expected 'pending'; {advice}")
    return Transaction(
        "begin activation",
        (
            Change(
                Table.MODEL_SLOTS,
                (slots.model,),
                "only one activation at a time",
                only_if=_unchanged(slots),
                put={
                    "activation": slots.activation + 1,
                    "revision": slots.revision,
                    "unconfirmed": False,
                    "activating_session_id": session.session_id,
                    "activation_key": key,
                    "begun_at": now,
                },
            ),
            Change(
                Table.MODEL_SESSIONS,
                (session.session_id,),
                "only a pending session is activated",
                only_if={"status": Equals(SessionStatus.PENDING)},
                put={
                    "status": SessionStatus.VALIDATING,
                    "reason": None,
                    "findings": (),
                    "forced_because": forced_because,
                    "forget_at": None,
                },
            ),
        ),
    )


def make_live(slots: Slots, session_id: str, *, now: datetime) -> Transaction:
    """Put a validated session in the place of the live one, that one in the place of the fallback, all at once.

    Raises:
        ActivationLost: The session's activation was given up.
    """
    require_activating(slots, session_id)
    changes = [
        Change(
            Table.MODEL_SLOTS,
            (slots.model,),
            "only the activation under way changes what is live",
            only_if=_unchanged(slots),
            put={
                "revision": slots.revision + 1,
                "live_session_id": session_id,
                "fallback_session_id": slots.live_session_id,
                "displaced_session_id": slots.fallback_session_id,
                "unconfirmed": True,
                "changed_at": now,
            },
        ),
        _moved(session_id, SessionStatus.VALIDATING, SessionStatus.LIVE, activated_at=now),
    ]
    if slots.live_session_id is not None:
        changes.append(_moved(slots.live_session_id, SessionStatus.LIVE, SessionStatus.FALLBACK))
    if slots.fallback_session_id is not None:
        changes.append(_moved(slots.fallback_session_id, SessionStatus.FALLBACK, SessionStatus.SUPERSEDED))
    return Transaction("make live", tuple(changes))


def confirm(slots: Slots, session_id: str, *, now: datetime) -> Transaction:
    """End an activation whose model serves; what it pushed out is forgotten.

    Raises:
        ActivationLost: The session's activation was given up, or has changed nothing.
    """
    require_activating(slots, session_id)
    if not slots.unconfirmed:
        raise ActivationLost(f"session {session_id} was not made live; nothing is to be confirmed")
    changes = [_released(slots, "only the activation under way is confirmed")]
    if slots.displaced_session_id is not None:
        changes.append(
            Change(
                Table.MODEL_SESSIONS,
                (slots.displaced_session_id,),
                "what was superseded is forgotten",
                only_if={"status": Equals(SessionStatus.SUPERSEDED)},
                put={"forget_at": now},
            )
        )
    return Transaction("confirm activation", tuple(changes))


def roll_back(slots: Slots, session_id: str, *, reason: str, now: datetime) -> Transaction:
    """Undo `make_live`: live, fallback and what they had pushed out are again what they were.

    Raises:
        ActivationLost: The session's activation was given up, or has changed nothing.
    """
    require_activating(slots, session_id)
    if not slots.unconfirmed:
        raise ActivationLost(f"session {session_id} was not made live; nothing is to be rolled back")
    changes = [
        _released(
            slots,
            "only the activation under way is rolled back",
            revision=slots.revision + 1,
            live_session_id=slots.fallback_session_id,
            fallback_session_id=slots.displaced_session_id,
            changed_at=now,
        ),
        _moved(session_id, SessionStatus.LIVE, SessionStatus.REJECTED, reason=reason, forget_at=now + REJECTED_FOR),
    ]
    if slots.fallback_session_id is not None:
        changes.append(_moved(slots.fallback_session_id, SessionStatus.FALLBACK, SessionStatus.LIVE))
    if slots.displaced_session_id is not None:
        changes.append(_moved(slots.displaced_session_id, SessionStatus.SUPERSEDED, SessionStatus.FALLBACK))
    return Transaction("roll back", tuple(changes))


def reject(slots: Slots, session_id: str, *, reason: str, now: datetime) -> Transaction:
    """End a session that can not be used; what is live stays.

    Raises:
        ActivationLost: The session's activation was given up.
    """
    require_activating(slots, session_id)
    return Transaction(
        "reject model",
        (
            _released(slots, "only the activation under way rejects its session"),
            _moved(
                session_id,
                SessionStatus.VALIDATING,
                SessionStatus.REJECTED,
                reason=reason,
                forget_at=now + REJECTED_FOR,
            ),
        ),
    )


def put_back(slots: Slots, session_id: str, *, reason: str, now: datetime) -> Transaction:
    """End an activation for now: the session waits again, to be forced, or for what failed to be mended.

    Raises:
        ActivationLost: The session's activation was given up.
    """
    require_activating(slots, session_id)
    return Transaction(
        "put model back",
        (
            _released(slots, "only the activation under way puts its session back"),
            _moved(
                session_id,
                SessionStatus.VALIDATING,
                SessionStatus.PENDING,
                reason=reason,
                forget_at=now + PENDING_FOR,
            ),
        ),
    )


def fall_back(slots: Slots, *, key: str | None, now: datetime) -> Transaction:
    """Let live and fallback change places.

    Raises:
        ActivationInProgress: What is live may be about to change.
        NoFallbackModel: There is none.
    """
    if slots.activating_session_id is not None:
        raise ActivationInProgress(
            f"session {slots.activating_session_id} is being activated ({slots.execution}); expected none to be; "
            "it rolls back by itself if it does not serve"
        )
    if slots.live_session_id is None or slots.fallback_session_id is None:
        raise NoFallbackModel("no model is kept to fall back to; expected two activations before")
    return Transaction(
        "fall back",
        (
            Change(
                Table.MODEL_SLOTS,
                (slots.model,),
                "live and fallback are those that were read",
                only_if=_unchanged(slots),
                put={
                    "revision": slots.revision + 1,
                    "live_session_id": slots.fallback_session_id,
                    "fallback_session_id": slots.live_session_id,
                    "fallback_key": key,
                    "changed_at": now,
                },
            ),
            _moved(slots.fallback_session_id, SessionStatus.FALLBACK, SessionStatus.LIVE, activated_at=now),
            _moved(slots.live_session_id, SessionStatus.LIVE, SessionStatus.FALLBACK),
        ),
    )


def note(session: ModelSession, step: str, finding: str) -> Transaction:
    """Write down what a step of the activation found; a step that is repeated replaces what it had written."""
    others = tuple(entry for entry in session.findings if entry["step"] != step)
    return Transaction(
        "note finding",
        (
            Change(
                Table.MODEL_SESSIONS,
                (session.session_id,),
                "only what is being activated has findings",
                only_if={"status": OneOf((SessionStatus.VALIDATING, SessionStatus.LIVE))},
                put={"findings": (*others, {"step": step, "finding": finding})},
            ),
        ),
    )


def is_given_up(slots: Slots, execution: Execution, *, now: datetime) -> bool:
    """Whether the activation that claims the slots does not run any more, so that somebody else must end it."""
    if slots.activating_session_id is None or slots.begun_at is None:
        return False
    if execution is Execution.UNKNOWN:
        return now - slots.begun_at > STARTS_WITHIN
    return execution is Execution.ENDED


def require_activating(slots: Slots, session_id: str) -> None:
    """Let only the activation under way pass.

    Raises:
        ActivationLost: It was given up, or another one was begun.
    """
    if slots.activating_session_id != session_id:
        under_way = slots.activating_session_id or "none"
        raise ActivationLost(f"session {session_id} is no longer being activated (under way: {under_way})")


def _unchanged(slots: Slots) -> dict[str, Condition]:
    if not slots.activation:
        return {"model": Missing()}
    active = slots.activating_session_id
    return {
        "revision": Equals(slots.revision),
        "activation": Equals(slots.activation),
        "activating_session_id": Missing() if active is None else Equals(active),
    }


def _released(slots: Slots, name: str, **more: Any) -> Change:
    return Change(
        Table.MODEL_SLOTS,
        (slots.model,),
        name,
        only_if=_unchanged(slots),
        put={"activating_session_id": None, "displaced_session_id": None, "unconfirmed": False, **more},
    )


def _moved(session_id: str, before: SessionStatus, after: SessionStatus, **more: Any) -> Change:
    return Change(
        Table.MODEL_SESSIONS,
        (session_id,),
        f"{before} becomes {after}",
        only_if={"status": Equals(before)},
        put={
            "status": after,
            "is_live": after is SessionStatus.LIVE,
            "is_fallback": after is SessionStatus.FALLBACK,
            **more,
        },
    )
