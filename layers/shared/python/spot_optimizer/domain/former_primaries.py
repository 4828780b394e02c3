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
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType, replica_id_for
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


@dataclass(frozen=True, slots=True)
class Demote:
    """It becomes the standby of its successor."""

    write: Transaction


Judgement = Keep | Retire | Demote | Terminate | Conclude


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
    settled = _settled(former.role, state)
    if settled is not None:
        return settled
    if is_noticed:
        return Keep("AWS gave it notice, and takes it back itself")
    if not _is_confirmed(agent, beat, now=now):
        return Keep(f"{agent.primary_instance_id} is not confirmed serving under epoch {agent.epoch}")
    if _is_to_be_demoted(agent, switch, former) and state == "running":
        return Demote(demote(agent, switch, former, now=now))
    if agent.claim_open:
        return Keep("a failover is under way, and may need its copy")
    if replica is not None and replica.status is ReplicaState.READY:
        return Retire(retire(agent, former, standby=replica))
    if is_copied(agent, switch, now=now):
        return Retire(retire(agent, former, standby=None))
    return Keep("no committed copy exists yet beside the primary's")


def _settled(role: InstanceRole, state: str | None) -> Judgement | None:
    """What follows from its role and from what EC2 says; None while it is still a candidate."""
    match role:
        case InstanceRole.PRIMARY:
            return Conclude(Fate.RECALLED)
        case InstanceRole.STANDBY:
            return Conclude(Fate.DEMOTED)
        case InstanceRole.RETIRED:
            return Terminate() if state in _RUNNING else Conclude(Fate.TERMINATED)
        case InstanceRole.RETIRED_PENDING if state in (None, "terminated"):
            return Conclude(Fate.GONE)
        case InstanceRole.RETIRED_PENDING:
            return Keep("it is shutting down") if state == "shutting-down" else None


def _is_to_be_demoted(agent: Agent, switch: Switch, former: Instance) -> bool:
    """Whether an operator wants it as the standby, and nobody else has become that meanwhile."""
    wanted = bool(switch.demote_old_primary) and switch.epoch == agent.epoch and agent.active_replica_id is None
    return wanted and former.pool_id != agent.primary_pool_id


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
    return beat is not None and beat.serves_under(agent.epoch) and now - beat.at <= HEARD_WITHIN


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


def demoted_replica_id(switch: Switch) -> str:
    """The id of the replica that a switch makes of the old primary."""
    return replica_id_for(switch.agent_id, epoch=switch.epoch, purpose=f"demote:{switch.from_instance_id}")


def demote(agent: Agent, switch: Switch, former: Instance, *, now: datetime) -> Transaction:
    """Make a former primary the agent's one active replica. Competes with every other replica, with its own retirement,
    and with a fall back to it.

    It has joined already, so it begins to sync; the instance is told with its next heartbeat.
    """
    replica_id = demoted_replica_id(switch)
    return Transaction(
        "demote",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "one active replica per agent",
                only_if={"epoch": Equals(switch.epoch), "active_replica_id": Missing(), "lost": Equals(False)},
                put={"active_replica_id": replica_id, "replica_count": agent.replica_count + 1},
            ),
            Change(
                Table.REPLICAS,
                (agent.agent_id, replica_id),
                "a replica id is used once",
                only_if={"replica_id": Missing()},
                put={
                    "type": ReplicaType.MANUAL,
                    "status": ReplicaState.SYNCING,
                    "epoch": switch.epoch,
                    "created_by": f"demotion:{switch.switch_id}",
                    "created_at": now,
                    "pool_id": former.pool_id,
                    "instance_id": former.instance_id,
                    "exclude_zones": (),
                    "readiness": 0,
                    "launch_number": 0,
                    "attempts": (),
                    "generation": 0,
                    "sync_percent": 0.0,
                },
            ),
            Change(
                Table.INSTANCES,
                (former.instance_id,),
                "only a former primary is demoted",
                only_if={"role": Equals(InstanceRole.RETIRED_PENDING)},
                put={"role": InstanceRole.STANDBY, "replica_id": replica_id},
            ),
        ),
    )


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
