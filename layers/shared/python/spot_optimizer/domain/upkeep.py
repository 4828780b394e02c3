"""Upkeep of an agent's standby while nothing is under way: replace one that was lost, let go of one nobody needs.

A standby that was made because AWS recommended a rebalance is kept while the risk lasts, and released after a quiet
time: in the field, the longest lead between recommendation and interruption was about nine hours. One that is lost is
replaced, each time later than the time before, so that a pool that takes everything back, or an image that does not
boot, costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spot_optimizer.domain import switching
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.switching import Begin, GiveUp, Wait

FIRST_DELAY = timedelta(seconds=30)
LONGEST_DELAY = timedelta(minutes=30)
REPLACEMENTS = 8
"""So many in a row; what fails on is not mended by trying on."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """All is as it should be, or has to wait."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of the active replica."""

    replica: Replica
    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Make another replica in the place of one that was lost.

    Attributes:
        purpose: Names the replacement, so that two sweeps make one.
    """

    lost: Replica
    purpose: str


@dataclass(frozen=True, slots=True)
class Protect:
    """Make a standby for state that is too big to be handed over within a notice.

    Attributes:
        purpose: Names it, so that two sweeps make one.
    """

    purpose: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """Begin the planned handover that the active replica is for."""

    signal: SignalType
    reason: str


Upkeep = Nothing | Release | Replace | Protect | HandOver


def decide_upkeep(
    agent: Agent,
    replicas: Sequence[Replica],
    *,
    last_signal_at: datetime | None,
    needs_standby: bool = False,
    now: datetime,
) -> Upkeep:
    """Decide what an agent's standby needs.

    Args:
        agent: Its row.
        replicas: All that it ever had.
        last_signal_at: When its primary's pool, or its primary, last gave a sign of being taken back.
        needs_standby: Its state does not fit through a notice: without a standby it is unprotected, whatever the
            toggles say and however quiet it is.
        now: When.
    """
    if agent.lost or agent.claim_open or agent.handover_open:
        return Nothing("a failover is under way, or over for good")
    by_age = sorted(replicas, key=lambda replica: (replica.created_at, replica.replica_id))
    active = next((replica for replica in by_age if replica.replica_id == agent.active_replica_id), None)
    if active is not None:
        return _keep(agent, active, last_signal_at=last_signal_at, needs_standby=needs_standby, now=now)
    if agent.active_replica_id is not None:
        return Nothing()
    if needs_standby:
        return _protect(by_age, now=now)
    return _replace(agent, by_age, last_signal_at=last_signal_at, now=now) if by_age else Nothing()


def _keep(
    agent: Agent, active: Replica, *, last_signal_at: datetime | None, needs_standby: bool, now: datetime
) -> Upkeep:
    if active.switch_reason is not None:
        match switching.next_step(agent, active, now=now):
            case Begin(signal, reason):
                return HandOver(signal, reason)
            case Wait(reason):
                return Nothing(reason)
            case GiveUp(reason) if active.type is ReplicaType.SWITCH:
                return Release(active, reason)
    quiet = timedelta(seconds=agent.quiet_seconds)
    since = max(active.created_at, last_signal_at or active.created_at)
    if active.type is ReplicaType.AUTOMATIC_REBALANCE and now - since > quiet and not needs_standby:
        return Release(active, f"quiet for {quiet}: no sign since {since.isoformat(timespec='seconds')}")
    return Nothing()


def _replace(agent: Agent, by_age: Sequence[Replica], *, last_signal_at: datetime | None, now: datetime) -> Upkeep:
    lost = by_age[-1]
    quiet = timedelta(seconds=agent.quiet_seconds)
    if not _is_replaced(agent, lost, quiet=quiet, last_signal_at=last_signal_at, now=now):
        return Nothing()
    in_a_row = _failures_in_a_row(by_age)
    delay = _delay(in_a_row)
    if in_a_row > REPLACEMENTS:
        return Nothing(f"{in_a_row} standbys in a row were lost; create one when the cause is mended")
    if lost.ended_at is None or now - lost.ended_at < delay:
        return Nothing(f"the next standby is made {delay} after the last was lost")
    return Replace(lost, f"replace:{lost.replica_id}")


def _protect(by_age: Sequence[Replica], *, now: datetime) -> Upkeep:
    """Make a standby at once, or after one was lost, each time later. Never give up: nothing else protects the state.

    One that an operator ended stays ended for the longest of these times.
    """
    last = by_age[-1] if by_age else None
    if last is not None and last.ended_at is not None:
        in_a_row = _failures_in_a_row(by_age)
        delay = _delay(in_a_row) if in_a_row else LONGEST_DELAY
        if now - last.ended_at < delay:
            return Nothing(f"unprotected without standby: the next is made {delay} after the last was lost")
    return Protect(f"protect:{len(by_age)}")


def _delay(in_a_row: int) -> timedelta:
    # Beyond the longest the exponent would only grow.
    return min(FIRST_DELAY * (1 << min(in_a_row - 1, 10)), LONGEST_DELAY)


def _is_replaced(
    agent: Agent, lost: Replica, *, quiet: timedelta, last_signal_at: datetime | None, now: datetime
) -> bool:
    """Whether somebody still wants what was lost. A replica that an operator ended, or that took over, is none."""
    if lost.status is not ReplicaState.FAILED or lost.epoch != agent.epoch:
        return False
    match lost.type:
        case ReplicaType.AUTOMATIC_REBALANCE:
            return now - max(lost.created_at, last_signal_at or lost.created_at) <= quiet
        case ReplicaType.MANUAL:
            return agent.auto_replica and agent.manual_replica
        case ReplicaType.AUTOMATIC_TERMINATION | ReplicaType.AUTOMATIC_PROTECTION | ReplicaType.SWITCH:
            return False


def _failures_in_a_row(by_age: Sequence[Replica]) -> int:
    count = 0
    for replica in reversed(by_age):
        if replica.status is not ReplicaState.FAILED:
            break
        count += 1
    return count
