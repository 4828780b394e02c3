"""From a manifest to an activation that runs; what an operator asks for, and gets an answer to at once."""

from __future__ import annotations

import json
from dataclasses import dataclass

from spot_optimizer.control.model_activation import end_activation
from spot_optimizer.control.model_plane import ModelPlane
from spot_optimizer.domain import model_sessions
from spot_optimizer.domain.model_sessions import ModelSession, SessionStatus, Slots
from spot_optimizer.domain.models import Manifest
from spot_optimizer.errors import ConditionFailed, ModelSessionUnknown, UploadIncomplete
from spot_optimizer.ports import Upload


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session, and where its files go."""

    session: ModelSession
    uploads: tuple[Upload, ...]


def open_session(plane: ModelPlane, manifest: Manifest, *, session_id: str, created_by: str) -> Opened:
    """Open a session; repeated with the same id it is the same session, with uploads signed again."""
    now = plane.clock()
    session = ModelSession(
        session_id=session_id,
        status=SessionStatus.PENDING,
        created_at=now,
        created_by=created_by,
        file_names=manifest.file_names,
        trained_from=manifest.training_span.start,
        trained_until=manifest.training_span.end,
        metrics=json.dumps(dict(manifest.metrics), sort_keys=True),
    )
    try:
        plane.models.commit(model_sessions.open_session(session))
    except ConditionFailed:
        session = plane.models.session(session_id)
        manifest = plane.model_files.manifest(session_id)
    else:
        plane.model_files.put_manifest(session_id, manifest)
    uploads = tuple(plane.model_files.sign_upload(session_id, file, now=now) for file in manifest.files)
    return Opened(session, uploads)


def activate(plane: ModelPlane, session_id: str, *, key: str | None, forced_because: str | None) -> Slots:
    """Begin the activation of a session; with the key of the last one, find that one.

    Raises:
        ModelSessionUnknown: There is none, or it is forgotten.
        UploadIncomplete: Files are missing.
        ActivationInProgress: Another one is under way.
        ModelNotActivatable: The session is not pending.
    """
    now = plane.clock()
    key = None if key is None else f"{session_id}:{key}"
    slots = _without_given_up(plane, plane.models.slots())
    if key is not None and key == slots.activation_key:
        if slots.activating_session_id is not None:
            _start(plane, slots)
        return slots
    session = plane.models.session(session_id)
    if session.is_forgotten(now):
        raise ModelSessionUnknown(f"no model session '{session_id}'; it is older than it is kept; upload it again")
    beginning = model_sessions.begin_activation(slots, session, key=key, forced_because=forced_because, now=now)
    missing = plane.model_files.missing(session_id, session.file_names)
    if missing:
        raise UploadIncomplete(
            f"session {session_id} lacks {', '.join(missing)}; expected every file; upload them, or open a new session "
            f"if the uploads have expired (after {model_sessions.UPLOAD_WITHIN})"
        )
    try:
        plane.models.commit(beginning)
    except ConditionFailed:
        # Whoever was faster is named, in place of the condition.
        current = plane.models.session(session_id)
        model_sessions.begin_activation(plane.models.slots(), current, key=key, forced_because=forced_because, now=now)
        raise
    slots = plane.models.slots()
    _start(plane, slots)
    return slots


def fall_back(plane: ModelPlane, *, key: str | None) -> Slots:
    """Let live and fallback change places; with the key of the last time, leave it at that.

    Raises:
        ActivationInProgress: What is live may be about to change.
        NoFallbackModel: There is none.
    """
    slots = _without_given_up(plane, plane.models.slots())
    if key is None or key != slots.fallback_key:
        plane.models.commit(model_sessions.fall_back(slots, key=key, now=plane.clock()))
    return plane.models.slots()


def _without_given_up(plane: ModelPlane, slots: Slots) -> Slots:
    """End an activation whose execution is gone, for example because somebody stopped it by hand."""
    if slots.activating_session_id is None:
        return slots
    execution = plane.activations.state(slots.execution)
    if not model_sessions.is_given_up(slots, execution, now=plane.clock()):
        return slots
    end_activation(plane, slots.activating_session_id, reason="its execution ended without an end; activate it again")
    return plane.models.slots()


def _start(plane: ModelPlane, slots: Slots) -> None:
    plane.activations.start(slots.execution, {"session_id": slots.activating_session_id})
