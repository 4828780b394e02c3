"""Former primaries: what becomes of an instance that handed over, and the conditional writes that say so.

Until its successor is confirmed serving and a committed copy exists beside that, a former primary keeps its data and
may become the primary again (`handover.fall_back`). Then it is demoted to the new primary's standby, if an operator
wanted that, or terminated. One that AWS gave notice to is left to AWS. Each switch records what became of the primary
that it replaced, so that what was dealt with is not looked at again.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, InstanceRole, Switch
from spot_optimizer.domain.catalogue import ONE_EVENT
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.snapshots import epoch_of, newest_usable
from spot_optimizer.domain.writes import Change, Equals, Missing, Present, Table, Transaction

HEARD_WITHIN = timedelta(seconds=60)
"""A new primary is confirmed serving by a heartbeat that is not older."""

KEPT_WITHOUT_A_COPY = timedelta(minutes=30)
"""Where an operator retired the old primary and no other copy comes about (no standby, no snapshots), it is kept so
long; after that the new primary has proven itself."""


def unfit_for_demotion(
    agent: Agent, replica: Replica, *, is_noticed: bool, interruptions: Sequence[datetime], now: datetime
) -> str:
    """Why an agent's primary, replaced by this replica, could not be its standby; empty if it could.

    Args:
        agent: Its row.
        replica: What is to be promoted.
        is_noticed: AWS gave notice of the primary's interruption.
        interruptions: When the primary's pool took instances of ours back, or said that it may.
        now: When.
    """
    if replica.pool_id == agent.primary_pool_id:
        return f"it would share pool {agent.primary_pool_id} with the new primary, and a standby never does"
    if is_noticed:
        return f"AWS gave {agent.primary_instance_id} notice, and takes it back"
    latest = max((at for at in interruptions if at <= now), default=None)
    if latest is not None and now - latest < ONE_EVENT:
        return (
            f"its pool {agent.primary_pool_id} was struck at {latest.isoformat(timespec='seconds')}, and that is most "
            f"likely not over"
        )
    return ""


class Fate(enum.StrEnum):
    """What became of a primary that was replaced; stored as `old_primary` on the switch."""

    DEMOTED = "demoted"
    """It is, or was, its successor's standby."""

    RECALLED = "recalled"
    """It became the primary again."""

    TERMINATED = "terminated"
    """We terminated it."""

    GONE = "gone"
    """AWS took it back, or it died."""

    LEFT = "left"
    """It was not launched by us, so it is not ours to terminate: it still runs."""


@dataclass(frozen=True, slots=True)
class Keep:
    """It is kept as it is for now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Nothing needs its copy any more: it may be terminated."""

    write: Transaction


@dataclass(frozen=True, slots=True)
class Terminate:
    """It is retired, and still runs."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """Nothing is left to do about it."""

    fate: Fate


Judgement = Keep | Retire | Terminate | Conclude


def judge(
    agent: Agent,
    switch: Switch,
    former: Instance,
    *,
    state: str | None,
    beat: Heartbeat | None,
    replica: Replica | None,
    is_noticed: bool,
    now: datetime,
) -> Judgement:
    """Decide what becomes of the primary that a switch replaced.

    Args:
        agent: Its agent, as read.
        switch: The promotion that replaced it.
        former: Its row.
        state: What EC2 says of it; None where EC2 does not know it any more.
        beat: The present primary's last sign of life.
        replica: The agent's active replica.
        is_noticed: AWS gave notice of its interruption.
        now: When.
    """
    match former.role:
        case InstanceRole.PRIMARY:
            return Conclude(Fate.RECALLED)
        case InstanceRole.STANDBY:
            return Conclude(Fate.DEMOTED)
        case InstanceRole.RETIRED if state in _RUNNING:
            return Terminate()
        case InstanceRole.RETIRED:
            return Conclude(Fate.TERMINATED)
        case InstanceRole.RETIRED_PENDING if state in (None, "terminated"):
            return Conclude(Fate.GONE)
        case InstanceRole.RETIRED_PENDING if state == "shutting-down":
            return Keep("it is shutting down")
    if is_noticed:
        return Keep("AWS gave it notice, and takes it back itself")
    if not _is_confirmed(agent, beat, now=now):
        return Keep(f"{agent.primary_instance_id} is not confirmed serving under epoch {agent.epoch}")
    if agent.claim_open:
        return Keep("a failover is under way, and may need its copy")
    if replica is not None and replica.status is ReplicaState.READY:
        return Retire(retire(agent, former, standby=replica))
    if is_copied(agent, switch, now=now):
        return Retire(retire(agent, former, standby=None))
    return Keep("no committed copy exists yet beside the primary's")


_RUNNING = ("pending", "running", "stopping", "stopped")


def is_copied(agent: Agent, switch: Switch, *, now: datetime) -> bool:
    """Whether nobody but a standby need be waited for: a snapshot of the present epoch is complete, or the operator who
    retired the old primary has gone without any copy for long enough.
    """
    snapshot_id = newest_usable(agent, now=now)
    if snapshot_id is not None and epoch_of(snapshot_id) == agent.epoch:
        return True
    return switch.demote_old_primary is False and now - switch.switched_at > KEPT_WITHOUT_A_COPY


def _is_confirmed(agent: Agent, beat: Heartbeat | None, *, now: datetime) -> bool:
    return beat is not None and beat.serving and beat.epoch == agent.epoch and now - beat.at <= HEARD_WITHIN


def retire(agent: Agent, former: Instance, *, standby: Replica | None) -> Transaction:
    """Give up a former primary's copy. Competes with a fall back to it, and with a failover that begins.

    Args:
        agent: Its agent, as read.
        former: Its row.
        standby: The standby that holds a copy; None where a snapshot does, which is never taken back.
    """
    changes = [
        Change(
            Table.AGENTS,
            (agent.agent_id,),
            "a copy is given up only while nothing is under way",
            only_if={"epoch": Equals(agent.epoch), "claim_open": Equals(False)},
        ),
        Change(
            Table.INSTANCES,
            (former.instance_id,),
            "only a former primary retires",
            only_if={"role": Equals(InstanceRole.RETIRED_PENDING)},
            put={"role": InstanceRole.RETIRED},
        ),
    ]
    if standby is not None:
        held = Change(
            Table.REPLICAS,
            (standby.agent_id, standby.replica_id),
            "another copy exists",
            only_if={"status": Equals(ReplicaState.READY)},
        )
        changes.append(held)
    return Transaction("retire", tuple(changes))


def conclude(switch: Switch, fate: Fate) -> Transaction:
    """Record what became of the primary that a switch replaced."""
    return Transaction(
        "conclude switch",
        (
            Change(
                Table.SWITCHES,
                (switch.agent_id, switch.switch_id),
                "a fate is recorded once",
                only_if={"switch_id": Present(), "old_primary": Missing()},
                put={"old_primary": fate},
            ),
        ),
    )
