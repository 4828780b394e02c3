"""The steps of an activation, each safe to repeat; drawn in statemachines/activate_model.asl.json."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from spot_optimizer.control.model_plane import ModelPlane
from spot_optimizer.domain import model_checks, model_comparison, model_sessions
from spot_optimizer.domain.boosters import check_booster
from spot_optimizer.domain.model_files import decode
from spot_optimizer.domain.models import LARGEST_FILE_BYTES, Manifest, Scaler, check_manifest
from spot_optimizer.errors import (
    ActivationLost,
    ConditionFailed,
    ModelClearlyWorse,
    ModelRejected,
    ModelSessionUnknown,
    UploadIncomplete,
)
from spot_optimizer.ports import LoadedModel, LoadModel

type Answer = Mapping[str, Any]

_PROBE_SEED = 7
_TIMED = 3
"""Runs of which the fastest counts: a busy machine only ever makes one slower."""

_LONGEST_REASON = 1_000


def verify_files(plane: ModelPlane, session_id: str) -> Answer:
    """Size and checksum of every file are those of the manifest.

    Raises:
        ModelRejected: Another size or checksum, or a file is missing.
    """
    model_sessions.require_activating(plane.models.slots(), session_id)
    manifest, files = read_files(plane, session_id)
    total = sum(map(len, files.values()))
    return _note(plane, session_id, "VerifyFiles", f"{len(manifest.files)} files, {total} bytes, checksums match")


def check_contract(plane: ModelPlane, session_id: str, *, known_features: tuple[str, ...]) -> Answer:
    """Manifest, boosters and scaler have the form, the features and the bounds that they must have.

    Raises:
        ModelRejected: One has not.
    """
    manifest, files = read_files(plane, session_id)
    check_manifest(manifest, known_features=known_features)
    for horizon in manifest.horizons:
        check_booster(horizon.file, decode(horizon.file, files[horizon.file]), features=manifest.features)
    if manifest.scaler is not None:
        Scaler.read(decode(manifest.scaler, files[manifest.scaler]), features=manifest.features)
    return _note(plane, session_id, "CheckContract", f"{len(manifest.features)} features, in order")


def reproduce_predictions(plane: ModelPlane, session_id: str, *, load: LoadModel) -> Answer:
    """The loaded model gives the answers that the trained one gave.

    Raises:
        ModelRejected: It does not.
    """
    manifest, files = read_files(plane, session_id)
    answers = load(manifest, files).score(manifest.golden.rows)
    return _note(plane, session_id, "ReproducePredictions", model_checks.check_golden(manifest.golden, answers))


def probe_predictions(
    plane: ModelPlane, session_id: str, *, load: LoadModel, processor_seconds: Callable[[], float]
) -> Answer:
    """Answers are finite, bounded, not all alike, and come fast enough.

    Raises:
        ModelRejected: They are not.
    """
    manifest, files = read_files(plane, session_id)
    model = load(manifest, files)
    rows = model_checks.probe_rows(manifest.golden, choose=random.Random(_PROBE_SEED).choice)  # noqa: S311 -- no secret
    answers, seconds = model.score(rows), []
    for _ in range(_TIMED):
        began = processor_seconds()
        model.score(rows)
        seconds.append(processor_seconds() - began)
    speed = model_checks.check_speed(rows=len(rows), seconds=min(seconds))
    return _note(plane, session_id, "ProbePredictions", f"{model_checks.check_answers(answers)}; {speed}")


def compare_with_live(plane: ModelPlane, session_id: str, *, load: LoadModel) -> Answer:
    """On recent data the model does not do clearly worse than the live one, or an operator has said why it shall be.

    Raises:
        ModelClearlyWorse: It does.
    """
    slots = plane.models.slots()
    if slots.live_session_id is None:
        return _note(plane, session_id, "CompareWithLive", "no model is live to be compared with")
    candidate, live = load_model(plane, session_id, load=load), load_model(plane, slots.live_session_id, load=load)
    outcomes = model_comparison.usable(plane.outcomes.recent(now=plane.clock()), candidate.features, live.features)
    if not model_comparison.is_enough(outcomes):
        found = f"not compared: {len(outcomes)} rows with a known outcome are too few"
        return _note(plane, session_id, "CompareWithLive", found)
    answers = [model.score([outcome.values(model.features) for outcome in outcomes]) for model in (candidate, live)]
    comparison = model_comparison.compare(outcomes, *answers)
    forced_because = plane.models.session(session_id).forced_because
    if comparison.is_clearly_worse and forced_because is None:
        raise ModelClearlyWorse(
            f"clearly worse than the live model {slots.live_session_id}: {comparison.finding}; "
            "activate with force and a reason if it shall be live all the same"
        )
    finding = f"clearly worse, forced ({forced_because}): " if comparison.is_clearly_worse else "not clearly worse: "
    return _note(plane, session_id, "CompareWithLive", finding + comparison.finding)


def make_live(plane: ModelPlane, session_id: str) -> Answer:
    """Swap live and fallback, all at once; a repetition finds it done.

    Raises:
        ActivationLost: The activation was given up.
    """
    slots = plane.models.slots()
    model_sessions.require_activating(slots, session_id)
    if not slots.unconfirmed:
        plane.models.commit(model_sessions.make_live(slots, session_id, now=plane.clock()))
        slots = plane.models.slots()
    return {"revision": slots.revision, "displaced": slots.fallback_session_id}


def confirm(plane: ModelPlane, session_id: str) -> Answer:
    """End the activation, and delete what it pushed out and what was forgotten.

    Raises:
        ActivationLost: The activation was given up.
    """
    slots = plane.models.slots()
    if slots.activating_session_id is not None or slots.live_session_id != session_id:
        plane.models.commit(model_sessions.confirm(slots, session_id, now=plane.clock()))
    # Only now: until here a roll back would have needed them.
    return {"live": session_id, "deleted": _sweep(plane)}


def _sweep(plane: ModelPlane) -> int:
    """Delete files of sessions that nobody will see again, such as uploads that were never activated; how many."""
    kept, now = plane.models.slots().kept_session_ids, plane.clock()
    deleted = 0
    for session_id in plane.model_files.session_ids():
        try:
            is_over = session_id not in kept and plane.models.session(session_id).is_forgotten(now)
        except ModelSessionUnknown:
            is_over = True
        if is_over:
            plane.model_files.delete(session_id)
            deleted += 1
    return deleted


def end_activation(plane: ModelPlane, session_id: str, *, reason: str, is_models_fault: bool = False) -> Answer:
    """End an activation that does not go on: undo it if it has changed what is live, and say why.

    Args:
        plane: Ports.
        session_id: The session.
        reason: For people.
        is_models_fault: Then the session is rejected and its files are deleted; else it waits to be tried again.
    """
    slots = plane.models.slots()
    if slots.activating_session_id != session_id:
        return {"ended": False}
    rejects = slots.unconfirmed or is_models_fault
    now = plane.clock()
    try:
        if slots.unconfirmed:
            plane.models.commit(model_sessions.roll_back(slots, session_id, reason=reason, now=now))
        elif is_models_fault:
            plane.models.commit(model_sessions.reject(slots, session_id, reason=reason, now=now))
        else:
            plane.models.commit(model_sessions.put_back(slots, session_id, reason=reason, now=now))
    except (ConditionFailed, ActivationLost):
        if plane.models.slots().activating_session_id == session_id:
            raise
    if rejects:
        plane.model_files.delete(session_id)
    return {"ended": True, "live": plane.models.slots().live_session_id}


def reason_of(cause: str) -> str:
    """What to tell people of a state machine's `$.failure`: our own message, where there is one.

    Args:
        cause: JSON with `Error` and `Cause`, the latter often JSON with `errorMessage`.
    """
    try:
        failure = json.loads(cause)
        name, detail = str(failure.get("Error", "")), str(failure.get("Cause", ""))
    except (ValueError, AttributeError):
        return cause[:_LONGEST_REASON]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        detail = str(json.loads(detail)["errorMessage"])
    return f"{name}: {detail}"[:_LONGEST_REASON]


def load_model(plane: ModelPlane, session_id: str, *, load: LoadModel) -> LoadedModel:
    """Load a session's model.

    Raises:
        ModelRejected: A file is missing, is not the one that was announced, or can not be loaded.
    """
    manifest, files = read_files(plane, session_id)
    return load(manifest, files)


def read_files(plane: ModelPlane, session_id: str) -> tuple[Manifest, dict[str, bytes]]:
    """A session's manifest and files; each is held to its checksum whenever it is read.

    Raises:
        ModelRejected: A file is missing, or not the one that was announced.
    """
    manifest = plane.model_files.manifest(session_id)
    files = {}
    for file in manifest.files:
        if not 0 <= file.size_bytes <= LARGEST_FILE_BYTES:
            raise ModelRejected(
                f"'{file.name}' is announced with {file.size_bytes} bytes; at most {LARGEST_FILE_BYTES}"
            )
        try:
            content = plane.model_files.read(session_id, file.name, at_most_bytes=file.size_bytes + 1)
        except UploadIncomplete as missing:
            raise ModelRejected(f"'{file.name}' is gone: {missing}") from missing
        if len(content) != file.size_bytes:
            found = f"more than {file.size_bytes}" if len(content) > file.size_bytes else str(len(content))
            raise ModelRejected(f"'{file.name}' has {found} bytes; the manifest announces {file.size_bytes}")
        checksum = hashlib.sha256(content).hexdigest()
        if checksum != file.sha256:
            raise ModelRejected(f"'{file.name}' has the SHA-256 {checksum}; the manifest announces {file.sha256}")
        files[file.name] = content
    return manifest, files


def _note(plane: ModelPlane, session_id: str, step: str, finding: str) -> Answer:
    plane.models.commit(model_sessions.note(plane.models.session(session_id), step, finding))
    return {"finding": finding}
