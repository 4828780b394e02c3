"""An instance whose part is over, or has not been told yet: it runs nothing, keeps its data, and asks where it stands.

A retired primary stays a candidate until AWS takes it: the control plane may make it the primary of a later epoch
again, and its data is then the newest there is. Or it is demoted: before it follows its successor as a standby, it
makes what it holds an image, so that only what differs has to be sent, and so that it can serve if its successor dies
at once.
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
    HoldState,
    Listen,
    NoticeRead,
    OrdersReceived,
    Pace,
    Remember,
    StateHeld,
)

if TYPE_CHECKING:
    from spot_optimizer.domain.primary import Primary
    from spot_optimizer.domain.standby import Standby

BEAT_SECONDS = 5.0
BEAT_AROUND_HANDOVER_SECONDS = 0.5
SOON_SECONDS = 8.0
NOTICE_CHECK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """What a retired instance knows.

    Attributes:
        epoch: The latest epoch it was told of.
        restore: Its newest data is an image that it received as a standby, not its own live data.
        live: Its newest data is its own live data: it was a primary.
        follows: The replica that it is to be, while it makes what it holds an image.
        under_way: The failover that replaced it goes on.
        soon_until: Until then it asks often, if that is so: it may be demoted.
    """

    epoch: int
    last_beat: int = 0
    readiness: int = 0
    restore: bool = False
    live: bool = False
    follows: str | None = None
    under_way: bool = False
    soon_until: float = float("-inf")
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
            state = replace(state, last_beat=beat, epoch=orders.epoch, under_way=orders.under_way)
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
            follows = orders.peer.replica_id if orders.role is Role.STANDBY and orders.peer is not None else None
            if follows is not None and orders.peer is not None and not (state.live or state.restore):
                actions += [Remember(role=Role.STANDBY, epoch=orders.epoch), Listen(orders.peer), Beat()]
                standby = Standby(epoch=orders.epoch, replica_id=follows, last_beat=beat, granted_at=now)
                return standby, tuple(actions)
            if follows is not None and follows != state.follows:
                actions.append(HoldState())
            state = replace(state, follows=follows)
        case StateHeld(generation, covered_until, epoch) if state.follows is not None:
            # It listens, and beats, once it is a standby: its next orders name the peer.
            actions += [Remember(role=Role.STANDBY, epoch=state.epoch), Beat()]
            standby = Standby(
                epoch=state.epoch,
                replica_id=state.follows,
                last_beat=state.last_beat,
                granted_at=now,
                generation=generation,
                covered_until=covered_until,
                held_epoch=epoch,
                notice_deadline=state.notice_deadline,
            )
            return standby, tuple(actions)
        case NoticeRead(deadline):
            state = replace(state, notice_deadline=deadline)
        case _:
            pass
    soon = state.under_way and now < state.soon_until
    beat_seconds = BEAT_AROUND_HANDOVER_SECONDS if soon else BEAT_SECONDS
    pace = Pace(beat_seconds, NOTICE_CHECK_SECONDS)
    if pace != state.pace:
        state = replace(state, pace=pace)
        actions.append(pace)
    return state, tuple(actions)
