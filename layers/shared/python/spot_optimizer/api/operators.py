"""Requests and answers of the operators' calls."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from spot_optimizer.api.fields import Answer, Body, Moment, Name
from spot_optimizer.domain.clients import Client
from spot_optimizer.domain.model_sessions import Slots
from spot_optimizer.domain.orphans import Finding, Kind, Report
from spot_optimizer.domain.pauses import Pause
from spot_optimizer.domain.tokens import OperatorRole, Presented, Token, TokenKind, write


class ClientRequest(Body):
    """A new tenant."""

    client_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,39}$", examples=["acme"])]
    name: Name


class ClientAnswer(Answer):
    """One tenant."""

    client_id: str
    name: str
    created_at: Moment

    @classmethod
    def of(cls, client: Client) -> ClientAnswer:
        """From the client's row."""
        return cls.model_validate(client)


class ClientsAnswer(Answer):
    """A page of tenants."""

    clients: tuple[ClientAnswer, ...]
    next_cursor: str | None = None


class SightingAnswer(Answer):
    """One thing on EC2 that carries our tag and that nobody claims."""

    resource_id: str
    kind: Kind
    agent_id: str
    finding: Finding = Field(description="`orphan`: ended after a grace; `kept`: not ended, for the reason given.")
    reason: str
    first_seen_at: Moment


class OrphansAnswer(Answer):
    """What the last sweep for orphans saw, and what one that ended something ended."""

    swept_at: Moment | None
    halted_because: str | None = Field(description="Why the last sweep ended nothing although it should have.")
    orphans: tuple[SightingAnswer, ...] = Field(description="The longest seen first.")
    ended: tuple[SightingAnswer, ...] = Field(description="By the last sweep that ended something.")
    ended_at: Moment | None

    @classmethod
    def of(cls, report: Report) -> OrphansAnswer:
        """From the report."""
        return cls(
            swept_at=report.swept_at,
            halted_because=report.halted_because,
            orphans=tuple(map(SightingAnswer.model_validate, report.sightings)),
            ended=tuple(map(SightingAnswer.model_validate, report.ended)),
            ended_at=report.ended_at,
        )


class TokenRequest(Body):
    """A new token for a client."""

    name: Name | None = None
    valid_days: Annotated[int, Field(strict=True, ge=1, le=365)] = 365


class OperatorTokenRequest(Body):
    """A new token for a person."""

    role: OperatorRole
    name: Name = Field(description="Whose it is.")
    valid_days: Annotated[int, Field(strict=True, ge=1, le=365)] = 90


class TokenAnswer(Answer):
    """A token. This is the only time its secret is shown."""

    token_id: str
    token: str
    kind: TokenKind
    role: OperatorRole | None
    client_id: str | None
    expires_at: Moment

    @classmethod
    def of(cls, token: Token, presented: Presented) -> TokenAnswer:
        """From the token's row and its secret."""
        return cls(
            token_id=token.token_id,
            token=write(presented),
            kind=token.kind,
            role=token.role,
            client_id=token.client_id,
            expires_at=token.expires_at,
        )


class HealthModel(Answer):
    """Which risk model serves. Versions are ids of model sessions."""

    live: str | None = Field(description="None: the advisor band stands in.")
    fallback: str | None
    activating: str | None = Field(description="Being validated, or live and not yet seen to serve.")
    revision: int = Field(description="How often what is live has changed.")
    changed_at: Moment | None

    @classmethod
    def of(cls, slots: Slots) -> HealthModel:
        """From the slots' row."""
        return cls(
            live=slots.live_session_id,
            fallback=slots.fallback_session_id,
            activating=slots.activating_session_id,
            revision=slots.revision,
            changed_at=slots.changed_at,
        )


class HealthAnswer(Answer):
    """Whether the control plane can do its work."""

    status: str = Field(description="`ok`, or `paused`: it could, and an operator wants nothing changed.")
    version: str
    stage: str
    checks: dict[str, str]
    paused_at: Moment | None = Field(description="Since when everything is paused.")
    model: HealthModel

    @classmethod
    def of(cls, slots: Slots, pause: Pause | None, *, version: str, stage: str) -> HealthAnswer:
        """From the rows. Why it is paused is told to who presents a token: anybody may ask for health."""
        return cls(
            status="ok" if pause is None else "paused",
            version=version,
            stage=stage,
            checks={"tables": "ok"},
            paused_at=None if pause is None else pause.paused_at,
            model=HealthModel.of(slots),
        )
