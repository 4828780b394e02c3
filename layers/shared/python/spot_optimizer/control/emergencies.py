"""Alarms over the API: who may raise which, what they have to be about, and the planned handover beside them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from spot_optimizer.control import former_primaries, pausing, signals
from spot_optimizer.control.plane import Plane
from spot_optimizer.control.signals import Started
from spot_optimizer.domain import handover
from spot_optimizer.domain.agents import Agent, HandoverState, Urgency
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.signals import Signal, SignalType, check_termination_time
from spot_optimizer.errors import (
    ConditionFailed,
    DemotionRefused,
    Forbidden,
    HandoverNeeded,
    HandoverNotOpen,
    HandoverUnknown,
    InstanceUnknown,
    OutcomeUnknown,
    ReplicaNotReady,
    StaleEpoch,
)

TRIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What somebody says of an instance.

    Attributes:
        instance_id: The instance that goes, or that found its primary silent.
        reporter: The instance whose token raises the alarm; None for an operator.
        epoch: The epoch the reporter acts under, if it says so.
        replica_id: The replica that should take over, if the reporter knows one.
    """

    instance_id: str
    type: SignalType
    reporter: str | None
    epoch: int | None = None
    termination_time: datetime | None = None
    replica_id: str | None = None


def take_alarm(plane: Plane, agent_id: str, alarm: Alarm) -> Started:
    """Act on an alarm, or find what acts on it already.

    Raises:
        AgentUnknown: No such agent.
        StaleEpoch: The reporter's epoch is over.
        InstanceUnknown: The instance is not the agent's.
        ReplicaUnknown: The replica is not the agent's.
        Forbidden: An instance speaks for another.
        NoticeTooOld: The time of termination is long past.
    """
    agent = plane.records.agent(agent_id)
    _check(plane, agent, alarm)
    about = agent.primary_instance_id if alarm.type is SignalType.PRIMARY_SILENT else alarm.instance_id
    return signals.note_signal(
        plane,
        Signal(
            instance_id=about,
            type=alarm.type,
            at=plane.clock(),
            deadline=alarm.termination_time,
            reason=f"API: {alarm.reporter or 'operator'}",
        ),
    )


def plan_handover(
    plane: Plane, agent_id: str, replica_id: str, *, reason: str, demote_old_primary: bool | None = False
) -> Started:
    """Start a planned handover to a replica. It loses nothing; if it does not come through, the primary serves on.

    Args:
        plane: The control plane.
        agent_id: The agent.
        replica_id: Its active replica.
        reason: For people.
        demote_old_primary: True makes the old primary the new one's standby, without another full copy. False retires
            it: it is terminated once another copy exists. None demotes it if it is fit for that, and retires it if not.

    Raises:
        AgentUnknown: No such agent.
        ReplicaUnknown: The replica is not the agent's.
        Paused: Nothing is to be changed.
        ReplicaNotReady: It is not ready, or not the agent's active one.
        DemotionRefused: The old primary must be demoted, and would be no good standby.
    """
    agent = plane.records.agent(agent_id)
    pausing.refuse_while_paused(plane, agent)
    replica = plane.records.replica(agent_id, replica_id)
    if replica.status is not ReplicaState.READY or agent.active_replica_id != replica_id:
        raise ReplicaNotReady(f"replica {replica_id} is {_why_not_ready(replica)}; expected the active one, 'ready'")
    if demote_old_primary is not False:
        unfit = former_primaries.unfit_for_demotion(plane, agent, replica)
        if unfit and demote_old_primary:
            raise DemotionRefused(
                f"{agent.primary_instance_id} can not be demoted: {unfit}; retire it instead, with demote_old_primary "
                f"false, and create another standby"
            )
        demote_old_primary = not unfit
    return signals.start_fail_over(
        plane,
        agent_id,
        Signal(
            instance_id=agent.primary_instance_id,
            type=SignalType.OPERATOR,
            at=plane.clock(),
            reason=reason or "API: operator",
            demote_old_primary=demote_old_primary,
        ),
    )


def abort_planned(plane: Plane, agent_id: str, handover_id: str) -> Agent:
    """Abort a planned handover: its primary serves on, within a moment. Aborting it again is no error.

    The execution that opened it ends with that, and so does its claim.

    Raises:
        AgentUnknown: No such agent.
        HandoverUnknown: The agent's handover is another one.
        HandoverNotOpen: It was committed before.
        HandoverNeeded: The primary is going, or dead: nothing would serve.
        OutcomeUnknown: Ask again.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        if agent.handover_id != handover_id:
            raise HandoverUnknown(f"'{handover_id}' is not the agent's handover; expected '{agent.handover_id}'")
        if agent.handover_state is HandoverState.ABORTED:
            if agent.task_token is not None:
                plane.workflows.wake(agent.task_token)
            return agent
        if agent.handover_state is not HandoverState.OPEN:
            raise HandoverNotOpen(
                f"handover {handover_id} is '{agent.handover_state}'; expected it open; hand over again to go back"
            )
        if agent.claim_urgency != Urgency.PLANNED or agent.handover_primary_dead:
            raise HandoverNeeded(
                f"handover {handover_id} answers '{agent.claim_signal}': the primary is going or gone; expected one "
                f"that was planned, whose primary serves on"
            )
        with suppress(ConditionFailed, OutcomeUnknown):
            # Whether it took effect, and if not, why, the fresh row tells.
            plane.records.commit(handover.abort_planned(agent, handover_id=handover_id))
    raise OutcomeUnknown(f"handover {handover_id} kept changing; ask again")


def _why_not_ready(replica: Replica) -> str:
    """What an operator reads of a replica that can not be promoted."""
    match replica.status:
        case ReplicaState.SYNCING:
            lag = "" if replica.lag_seconds is None else f", {replica.lag_seconds:.1f} s behind"
            return f"'syncing': {replica.sync_percent:.0f} % of the state is there{lag}"
        case ReplicaState.FAILED | ReplicaState.TERMINATED:
            return f"'{replica.status}': {replica.failure or 'its life is over'}"
        case _:
            return f"'{replica.status}'"


def _check(plane: Plane, agent: Agent, alarm: Alarm) -> None:
    if alarm.epoch is not None and alarm.epoch != agent.epoch:
        raise StaleEpoch(
            f"epoch {alarm.epoch} is over; the agent is at {agent.epoch}: stop the workload", current_epoch=agent.epoch
        )
    if plane.records.instance(alarm.instance_id).agent_id != agent.agent_id:
        raise InstanceUnknown(f"instance '{alarm.instance_id}' carries no agent {agent.agent_id}")
    if alarm.replica_id is not None:
        plane.records.replica(agent.agent_id, alarm.replica_id)
    of_itself = alarm.type is not SignalType.PRIMARY_SILENT
    if of_itself and alarm.reporter is not None and alarm.reporter != alarm.instance_id:
        raise Forbidden(f"{alarm.reporter} may not speak for {alarm.instance_id}; expected an alarm about itself")
    if alarm.termination_time is not None:
        check_termination_time(alarm.termination_time, now=plane.clock())
