"""Former primaries, looked after: demoted to standby, or retired once nothing needs their copy, and terminated."""

from __future__ import annotations

from spot_optimizer.control import pausing, replication
from spot_optimizer.control.plane import Plane, active_replica, latest_switches
from spot_optimizer.domain import former_primaries
from spot_optimizer.domain.agents import Agent, Switch
from spot_optimizer.domain.catalogue import ONE_EVENT
from spot_optimizer.domain.former_primaries import (
    Conclude,
    Demote,
    Fate,
    Keep,
    Retire,
    Terminate,
    demoted_replica_id,
)
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.signals import SignalType, event_id_of
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import ConditionFailed, OutcomeUnknown


def look_after(plane: Plane, listed: Agent) -> int:
    """Move on what became of the primaries that an agent's switches replaced; for how many that was done.

    Switches are concluded in their order, so that all before a concluded one are: mostly one row is read here.
    """
    open_switches = latest_switches(
        plane, listed.agent_id, until=listed.epoch, only=lambda switch: switch.old_primary is None
    )
    if not open_switches:
        return 0
    agent = plane.records.agent(listed.agent_id)
    if agent.lost or pausing.pause_of(plane, agent) is not None:
        return 0
    acted = 0
    all_concluded = True
    for switch in open_switches:
        concluded, moved = _settle(plane, agent, switch, may_conclude=all_concluded)
        all_concluded &= concluded
        acted += moved
    return acted


def _settle(plane: Plane, agent: Agent, switch: Switch, *, may_conclude: bool) -> tuple[bool, bool]:
    """Deal with one old primary; whether that is concluded, and whether anything was done."""
    former = plane.records.instance(switch.from_instance_id)
    judgement = former_primaries.judge(
        agent,
        switch,
        former,
        state=plane.compute.states([former.instance_id]).get(former.instance_id),
        beat=plane.records.heartbeat(agent.agent_id, agent.primary_instance_id),
        replica=active_replica(plane, agent),
        is_noticed=switch.switch_reason == SignalType.TERMINATION_NOTICE
        or is_noticed(plane, agent, former.instance_id),
        now=plane.clock(),
    )
    match judgement:
        case Keep():
            return False, False
        case Demote(write):
            if not _commit(plane, write):
                return False, False
            replication.start_preparing(plane, plane.records.replica(agent.agent_id, demoted_replica_id(switch)))
            return may_conclude and _commit(plane, former_primaries.conclude(switch, Fate.DEMOTED)), True
        case Conclude(fate):
            if fate is Fate.DEMOTED and switch.epoch == agent.epoch:
                _see_to_its_sync(plane, agent, switch)
            return may_conclude and _commit(plane, former_primaries.conclude(switch, fate)), False
        case Retire(write):
            if not _commit(plane, write):
                return False, False
        case Terminate():
            pass
    # The row retires first and the instance goes after it; whoever dies in between leaves that to the next sweep.
    if plane.compute.terminate(former.instance_id):
        return False, True
    return may_conclude and _commit(plane, former_primaries.conclude(switch, Fate.LEFT)), True


def _see_to_its_sync(plane: Plane, agent: Agent, switch: Switch) -> None:
    """Have somebody wait for a demoted primary to become ready, if whoever demoted it died before that."""
    replica = active_replica(plane, agent)
    if replica is not None and replica.replica_id == demoted_replica_id(switch):
        replication.start_preparing(plane, replica)


def unfit_for_demotion(plane: Plane, agent: Agent, replica: Replica) -> str:
    """Why the primary, replaced by this replica, could not be its standby; empty if it could.

    Raises:
        Transient: What its pool did lately could not be found out; ask again.
    """
    now = plane.clock()
    pool_id = agent.primary_pool_id
    return former_primaries.unfit_for_demotion(
        agent,
        replica,
        is_noticed=is_noticed(plane, agent, agent.primary_instance_id),
        interruptions=plane.fleet.interruptions_of_pools([pool_id], now - ONE_EVENT).get(pool_id, ()),
        now=now,
    )


def is_noticed(plane: Plane, agent: Agent, instance_id: str) -> bool:
    """Whether AWS gave notice that it takes an instance of the agent back."""
    notice = plane.records.interruption(agent.agent_id, event_id_of(instance_id, SignalType.TERMINATION_NOTICE))
    return notice is not None


def _commit(plane: Plane, transaction: Transaction) -> bool:
    """Commit, or leave it to the next sweep to see what is so by then."""
    try:
        plane.records.commit(transaction)
    except (ConditionFailed, OutcomeUnknown):
        return False
    return True
