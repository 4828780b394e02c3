"""What an examination of an agent came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field

from spot_optimizer.api.fields import Answer, Moment
from spot_optimizer.domain.examination import Finding, Outcome


class FindingAnswer(Answer):
    """One thing that was looked at."""

    check: str
    outcome: Outcome = Field(description="`failed` is what a failover would fail on; `unknown` could not be looked at.")
    found: str
    advice: str = Field(description="What to do; empty where nothing is to be done.")


class ExaminationAnswer(Answer):
    """All that an agent's next failover depends on, as it is now."""

    agent_id: str
    examined_at: Moment
    outcome: Outcome = Field(description="The worst of all.")
    findings: tuple[FindingAnswer, ...]

    @classmethod
    def of(cls, agent_id: str, findings: Sequence[Finding], *, examined_at: Moment) -> Self:
        """From the findings."""
        order = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.WARNING)
        found = {finding.outcome for finding in findings}
        return cls(
            agent_id=agent_id,
            examined_at=examined_at,
            outcome=next((outcome for outcome in order if outcome in found), Outcome.OK),
            findings=tuple(map(FindingAnswer.model_validate, findings)),
        )
