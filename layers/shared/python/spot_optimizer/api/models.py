"""Requests and answers about risk models. A request is held to its shape here; activation judges what it means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, model_validator

from spot_optimizer.api.fields import Answer, Body, Flag, Moment
from spot_optimizer.control.model_uploads import Opened
from spot_optimizer.domain.model_sessions import ModelSession, SessionStatus, Slots
from spot_optimizer.domain.models import (
    LARGEST_FILE_BYTES,
    MOST_FEATURES,
    MOST_GOLDEN_ROWS,
    Golden,
    HorizonModel,
    Manifest,
    ModelFile,
    Span,
    looks_pickled,
    refusal_of_pickle,
)
from spot_optimizer.errors import InvalidRequest

FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
FileName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.(json|ubj)$",
        description="A booster in XGBoost's own JSON or UBJSON, or a scaler in JSON.",
        examples=["risk-1h.ubj"],
    ),
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
MetricName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,40}$", examples=["20260301t120000-0a1b2c3d4e"])]
Why = Annotated[str, Field(min_length=4, max_length=400)]


class SpanBody(Body):
    """A stretch of time, its end excluded."""

    start: AwareDatetime
    end: AwareDatetime

    def span(self) -> Span:
        return Span(self.start, self.end)


class FileBody(Body):
    """A file that will be uploaded: no other bytes are accepted in its place."""

    name: FileName
    size_bytes: Annotated[int, Field(strict=True, ge=1, le=LARGEST_FILE_BYTES)]
    sha256: Sha256


class HorizonBody(Body):
    """The booster for one horizon."""

    hours: Annotated[int, Field(strict=True, ge=1, le=168)]
    file: FileName
    calibration: Annotated[tuple[tuple[Finite, Finite], ...], Field(max_length=1_000)] = ()


class GoldenBody(Body):
    """Rows, null where a value is unknown, and what the trained model predicted for them."""

    rows: Annotated[tuple[tuple[Finite | None, ...], ...], Field(max_length=MOST_GOLDEN_ROWS)]
    predictions: Annotated[tuple[tuple[Finite, ...], ...], Field(max_length=MOST_GOLDEN_ROWS)]


class ManifestBody(Body):
    """What the files are; `spotctl models convert` and the training pipeline write it."""

    format_version: Annotated[int, Field(strict=True, ge=1, le=1_000)]
    features: Annotated[tuple[FeatureName, ...], Field(min_length=1, max_length=MOST_FEATURES)]
    training_span: SpanBody
    test_span: SpanBody
    metrics: Annotated[dict[MetricName, Finite], Field(max_length=64)]
    files: Annotated[tuple[FileBody, ...], Field(min_length=1, max_length=8)]
    horizons: Annotated[tuple[HorizonBody, ...], Field(min_length=1, max_length=8)]
    scaler: FileName | None = None
    golden: GoldenBody

    @model_validator(mode="before")
    @classmethod
    def _refuse_pickles(cls, given: Any) -> Any:
        files = given.get("files") if isinstance(given, dict) else None
        for position, file in enumerate(files if isinstance(files, list) else ()):
            name = file.get("name") if isinstance(file, dict) else None
            if isinstance(name, str) and looks_pickled(name):
                raise InvalidRequest(
                    refusal_of_pickle(name[:100]),
                    field=f"manifest.files.{position}.name",
                    expected="a .json or .ubj file, as `spotctl models convert` writes it",
                )
        return given

    def manifest(self) -> Manifest:
        """As the domain has it."""
        return Manifest(
            format_version=self.format_version,
            features=self.features,
            training_span=self.training_span.span(),
            test_span=self.test_span.span(),
            metrics=self.metrics,
            files=tuple(ModelFile(one.name, one.size_bytes, one.sha256) for one in self.files),
            horizons=tuple(HorizonModel(one.hours, one.file, one.calibration) for one in self.horizons),
            scaler=self.scaler,
            golden=Golden(self.golden.rows, self.golden.predictions),
        )


class SessionRequest(Body):
    """A model to be uploaded."""

    manifest: ManifestBody


class ActivateRequest(Body):
    """Which model shall be live."""

    session_id: Annotated[SessionId, Field(alias="sessionId")]
    force: Flag = False
    reason: Why | None = Field(default=None, description="Why the model shall be live even if it does clearly worse.")

    def forced_because(self) -> str | None:
        """The reason, if the activation is forced.

        Raises:
            InvalidRequest: It is forced for no reason, or not forced and yet for a reason.
        """
        if self.force == (self.reason is None):
            raise InvalidRequest(
                "'force' and 'reason' go together: a model that does clearly worse is made live for a reason only",
                field="reason",
                expected="a reason of 4 to 400 characters with force, none without",
            )
        return self.reason


class FindingAnswer(Answer):
    """What one step of an activation found."""

    step: str
    finding: str


class SessionAnswer(Answer):
    """One uploaded model."""

    session_id: str
    status: SessionStatus
    is_live: bool
    is_fallback: bool
    created_at: Moment
    created_by: str
    file_names: tuple[str, ...]
    trained_from: Moment
    trained_until: Moment
    metrics: dict[str, float]
    reason: str | None = Field(default=None, description="Why it was rejected, or not made live the last time.")
    forced_because: str | None = None
    findings: tuple[FindingAnswer, ...] = ()
    activated_at: Moment | None = None

    @classmethod
    def of(cls, session: ModelSession) -> SessionAnswer:
        """From the session's row."""
        return cls.model_validate(
            {name: getattr(session, name) for name in cls.model_fields} | {"metrics": json.loads(session.metrics)}
        )


class UploadAnswer(Answer):
    """Where a file goes: by PUT, with these headers, before it expires."""

    name: str
    method: str = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: Moment


class OpenedAnswer(Answer):
    """A session that waits for its files."""

    session_id: str
    status: SessionStatus
    uploads: tuple[UploadAnswer, ...]

    @classmethod
    def of(cls, opened: Opened) -> OpenedAnswer:
        """From the session and its signed uploads."""
        uploads = tuple(UploadAnswer.model_validate(upload) for upload in opened.uploads)
        return cls(session_id=opened.session.session_id, status=opened.session.status, uploads=uploads)


class SessionsAnswer(Answer):
    """A page of uploaded models, by id."""

    sessions: tuple[SessionAnswer, ...]
    next_cursor: str | None = None

    @classmethod
    def of(cls, sessions: Sequence[ModelSession], next_cursor: str | None) -> SessionsAnswer:
        """From the sessions' rows."""
        return cls(sessions=tuple(map(SessionAnswer.of, sessions)), next_cursor=next_cursor)


class ActivationAnswer(Answer):
    """What is live, and what is under way."""

    live: str | None
    fallback: str | None
    activating: str | None
    revision: int
    look: str | None = Field(default=None, description="ARN of the execution to look at.")

    @classmethod
    def of(cls, slots: Slots, *, look: str | None = None) -> ActivationAnswer:
        """From the slots' row."""
        return cls(
            live=slots.live_session_id,
            fallback=slots.fallback_session_id,
            activating=slots.activating_session_id,
            revision=slots.revision,
            look=look,
        )
