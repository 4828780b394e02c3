"""An instance whose part is over, or has not been told yet: it runs nothing, keeps its data, and asks where it stands.

A retired primary stays a candidate until AWS takes it: the control plane may make it the primary of a later epoch
again, and its data is then the newest there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spot_optimizer.domain.orders import Role
from spot_optimizer.domain.protocol import (
    Action,
    Beat,
    EpochOver,
    Event,
    Listen,
    NoticeRead,
    OrdersReceived,
    Pace,
    Remember,
)

if TYPE_CHECKING:
    from spot_optimizer.domain.primary import Primary
    from spot_optimizer.domain.standby import Standby

BEAT_SECONDS = 5.0
NOTICE_CHECK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """What a retired instance knows.

    Attributes:
        epoch: The latest epoch it was told of.
        restore: Its newest data is an image that it received as a standby, not its own live data.
    """

    epoch: int
    last_beat: int = 0
    readiness: int = 0
    restore: bool = False
    notice_deadline: str | None = None
    notice_sent_at: float = float("-inf")
    pace: Pace | None = None


def decide(state: Retired, event: Event, now: float) -> tuple[Retired | Primary | Standby, tuple[Action, ...]]:
    """Take one event; see `protocol`."""
    from spot_optimizer.domain.primary import Primary
    from spot_optimizer.domain.standby import Standby

    actions: list[Action] = []
    match event:
        case EpochOver(current_epoch) if current_epoch > state.epoch:
            state = replace(state, epoch=current_epoch)
            actions += [Remember(role=Role.RETIRED, epoch=current_epoch), Beat()]
        case OrdersReceived(beat, _, orders) if beat > state.last_beat and orders.epoch >= state.epoch:
            state = replace(state, last_beat=beat, epoch=orders.epoch)
            if orders.role is Role.PRIMARY:
                actions += [Remember(role=Role.PRIMARY, epoch=orders.epoch), Beat()]
                primary = Primary(
                    epoch=orders.epoch,
                    last_beat=beat,
                    readiness=state.readiness,
                    restore=state.restore,
                    notice_deadline=state.notice_deadline,
                )
                return primary, tuple(actions)
            if orders.role is Role.STANDBY and orders.peer is not None:
                actions += [Remember(role=Role.STANDBY, epoch=orders.epoch), Listen(orders.peer), Beat()]
                standby = Standby(epoch=orders.epoch, replica_id=orders.peer.replica_id, last_beat=beat, granted_at=now)
                return standby, tuple(actions)
        case NoticeRead(deadline):
            state = replace(state, notice_deadline=deadline)
        case _:
            pass
    pace = Pace(BEAT_SECONDS, NOTICE_CHECK_SECONDS)
    if pace != state.pace:
        state = replace(state, pace=pace)
        actions.append(pace)
    return state, tuple(actions)
