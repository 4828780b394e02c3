"""Signals: everything that can say that a primary may have to be replaced, brought into one form.

Sources: the EC2 user guide's pages on spot instance interruptions, rebalance recommendations and instance state
changes. EventBridge delivers these best effort: they may be lost, duplicated or late.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer.domain.agents import Urgency
from spot_optimizer.errors import InvalidRequest, NoticeTooOld

NOTICE = timedelta(seconds=120)
"""What AWS gives between warning and interruption; the warning event itself carries no termination time."""

OLDEST_NOTICE = timedelta(seconds=150)
"""A termination time further in the past belongs to no notice that can still be acted on."""


class SignalType(enum.StrEnum):
    """What was seen; stored as `signal_type`."""

    TERMINATION_NOTICE = "termination-notice"
    REBALANCE_RECOMMENDATION = "rebalance-recommendation"
    STATE_CHANGE = "state-change"
    PRIMARY_SILENT = "primary-silent"
    OPERATOR = "operator"
    AUTO_SWITCH = "auto-switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal about one instance.

    Attributes:
        instance_id: The instance it is about.
        type: What was seen.
        at: When it was published, by the publisher's clock.
        deadline: When the instance goes, if that is known.
        state: The EC2 state, for a state change.
        reason: For people: who saw it, or why an operator asks.
        demote_old_primary: Of what is planned: whether the old primary becomes the standby; False retires it.
    """

    instance_id: str
    type: SignalType
    at: datetime
    deadline: datetime | None = None
    state: str | None = None
    reason: str = ""
    demote_old_primary: bool | None = None

    @property
    def urgency(self) -> Urgency:
        """How soon the failover it calls for must be through."""
        match self.type:
            case SignalType.OPERATOR | SignalType.AUTO_SWITCH:
                return Urgency.PLANNED
            case SignalType.REBALANCE_RECOMMENDATION:
                return Urgency.RISK
            case SignalType.TERMINATION_NOTICE:
                return Urgency.NOTICED
            case SignalType.STATE_CHANGE | SignalType.PRIMARY_SILENT:
                return Urgency.DEAD

    @property
    def event_id(self) -> str:
        """Key of the interruption record: one record per instance and type of signal, however often it is delivered."""
        return event_id_of(self.instance_id, self.type)


def event_id_of(instance_id: str, signal_type: str) -> str:
    """The id of the record of what was seen of an instance."""
    return f"{instance_id}#{signal_type}"


def from_eventbridge(event: Mapping[str, Any]) -> Signal:
    """Read one EC2 event.

    The instance id is taken from the detail: the warning's ARN carries a zone where other ARNs carry an account.

    Raises:
        InvalidRequest: Not one of the three event types that are subscribed, or without an instance id.
    """
    detail = event.get("detail")
    instance_id = detail.get("instance-id") if isinstance(detail, Mapping) else None
    if not isinstance(detail, Mapping) or not isinstance(instance_id, str):
        raise InvalidRequest("the event names no instance", field="detail.instance-id", expected="an EC2 instance id")
    at = _instant(event.get("time"))
    match event.get("detail-type"):
        case "EC2 Spot Instance Interruption Warning":
            return Signal(
                instance_id=instance_id,
                type=SignalType.TERMINATION_NOTICE,
                at=at,
                deadline=at + NOTICE,
                reason=f"EventBridge: {detail.get('instance-action', 'terminate')}",
            )
        case "EC2 Instance Rebalance Recommendation":
            return Signal(
                instance_id=instance_id,
                type=SignalType.REBALANCE_RECOMMENDATION,
                at=at,
                reason="EventBridge: rebalance",
            )
        case "EC2 Instance State-change Notification":
            state = str(detail.get("state", ""))
            return Signal(
                instance_id=instance_id,
                type=SignalType.STATE_CHANGE,
                at=at,
                state=state,
                reason=f"EventBridge: {state}",
            )
    raise InvalidRequest(
        f"'{event.get('detail-type')}' is not a signal",
        field="detail-type",
        expected="a spot interruption warning, a rebalance recommendation or an instance state change",
    )


def check_termination_time(termination_time: datetime, *, now: datetime) -> None:
    """Refuse a notice that is over.

    Raises:
        NoticeTooOld: The time is more than `OLDEST_NOTICE` in the past.
    """
    if now - termination_time > OLDEST_NOTICE:
        past_seconds = (now - termination_time).total_seconds()
        raise NoticeTooOld(
            f"termination_time {termination_time.isoformat()} is {past_seconds:.0f} s in the past; "
            f"expected at most {OLDEST_NOTICE.total_seconds():.0f} s; check the instance's clock"
        )


def _instant(value: object) -> datetime:
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InvalidRequest(f"'{value}' is not a time", field="time", expected="ISO 8601 with a zone")
    return instant
