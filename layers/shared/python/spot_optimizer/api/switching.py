"""Requests and answers of the calls that move a workload on purpose."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spot_optimizer.api.fields import Answer, Body, Moment, PoolId, Reason, Zone
from spot_optimizer.api.fleet import CandidateAnswer
from spot_optimizer.control.switching import Issued, Wanted
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.signals import SignalType


class SwitchCommandRequest(Body):
    """Move a workload: as an operator, anywhere it can run and with a reason; or where the engine recommends."""

    source: Literal["operator", "engine"] = Field(
        default="operator",
        description="`engine` follows what is recommended now: within the agent's toggle and rules only.",
    )
    pool_id: PoolId | None = Field(
        default=None, description="None takes the standby that is there, or the cheapest pool that qualifies."
    )
    lifecycle: Lifecycle | None = Field(default=None, description="How the new primary is bought; spot without.")
    exclude_zones: Annotated[tuple[Zone, ...], Field(max_length=10)] = ()
    reason: Reason = Field(default="", description="Kept with the switch; an operator gives one.")

    @model_validator(mode="after")
    def _is_complete(self) -> SwitchCommandRequest:
        if self.source == "operator" and not self.reason.strip():
            raise ValueError("a reason where source is 'operator'")
        if self.source == "engine" and (self.pool_id or self.lifecycle or self.exclude_zones or self.reason):
            raise ValueError("neither pool_id, lifecycle, exclude_zones nor reason where source is 'engine'")
        return self

    def wanted(self, *, by: str, key: str | None) -> Wanted:
        """In the domain's words."""
        return Wanted(
            trigger=SignalType.AUTO_SWITCH if self.source == "engine" else SignalType.OPERATOR,
            by=by,
            reason=self.reason.strip(),
            pool_id=self.pool_id,
            lifecycle=self.lifecycle or Lifecycle.SPOT,
            exclude_zones=self.exclude_zones,
            key=key,
        )


class SwitchCommandAnswer(Answer):
    """A switch that is under way: its replica takes over as soon as it is ready. Prices are USD/hour."""

    agent_id: str
    replica_id: str
    status: str = Field(description="Of the replica.")
    switch_reason: str
    explanation: str
    asked_at: Moment
    from_pool_id: str
    from_lifecycle: Lifecycle
    to_pool_id: str | None = Field(description="Null while the cheapest pool that qualifies is yet to be found.")
    to_lifecycle: Lifecycle
    old_usd_per_hour: Decimal | None
    new_usd_per_hour: Decimal | None
    estimated_savings: Decimal | None
    look: str = Field(description="ARN of the execution that prepares the replica.")
    look_at: str = Field(description="Path under which the replica, and later the switch, are seen.")
    considered: tuple[CandidateAnswer, ...] = Field(description="The agent's pools as they stood; each says why not.")

    @classmethod
    def of(cls, issued: Issued, *, look: str) -> SwitchCommandAnswer:
        """From the domain's words."""
        replica, current = issued.replica, issued.current
        old, new = replica.old_usd_per_hour, replica.new_usd_per_hour
        return cls(
            agent_id=replica.agent_id,
            replica_id=replica.replica_id,
            status=replica.status,
            switch_reason=replica.switch_reason or "",
            explanation=replica.switch_explanation or "",
            asked_at=replica.switch_asked_at or replica.created_at,
            from_pool_id=current.pool_id,
            from_lifecycle=current.lifecycle,
            to_pool_id=replica.pool_id or replica.requested_pool_id,
            to_lifecycle=Lifecycle(replica.lifecycle or replica.requested_lifecycle or Lifecycle.SPOT),
            old_usd_per_hour=old,
            new_usd_per_hour=new,
            estimated_savings=None if old is None or new is None else old - new,
            look=look,
            look_at=f"/api/agents/{replica.agent_id}/replicas",
            considered=tuple(map(CandidateAnswer.of, issued.considered)),
        )
