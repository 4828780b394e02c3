"""The one starter: every trigger of a failover ends here, whoever saw the signal and however often it is delivered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from spot_optimizer.control import former_primaries, interruptions, pausing, replication, traffic
from spot_optimizer.control.plane import DEAD_STATES, Plane, proven_dead
from spot_optimizer.domain import catalogue, claims, snapshots, switching, upkeep
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, InstanceRole, Interruption
from spot_optimizer.domain.claims import Execution, Ignore, Join, Retake
from spot_optimizer.domain.rebalance import RebalanceRisk, rebalance_risk
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.risk import RiskBasis
from spot_optimizer.domain.signals import Signal, SignalType, event_id_of
from spot_optimizer.domain.switching import Begin
from spot_optimizer.domain.upkeep import HandOver, Protect, Release, Replace
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import AgentLost, ConditionFailed, InstanceUnknown, OutcomeUnknown, ReplicaUnknown, Transient

TRIES = 6
WATCH = "watch"
"""What was done about a recommendation that is not likely enough to come true."""

LEFT_ALONE = "paused"
"""What was done about a signal that came while nothing was to be changed."""

_REBALANCE = SignalType.REBALANCE_RECOMMENDATION
_NOTICE = SignalType.TERMINATION_NOTICE

LOOKED_AFTER_AT_LEAST = 50
"""So many agents a sweep gets round to, however slow the tables are."""

SILENT_AFTER = timedelta(seconds=60)
"""The sweep asks EC2 about a primary that has been silent for so long; agents say something at least every 30 s."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a signal led to.

    Attributes:
        execution: Name of the failover execution that is on it; None where none is needed.
        attempt: Its number within the epoch.
        replica_id: The replica that is being prepared because of it.
        reason: Why nothing, or what, was started.
    """

    execution: str | None = None
    attempt: int | None = None
    replica_id: str | None = None
    reason: str = ""

    def as_payload(self) -> dict[str, Any]:
        """The form that state machines and the API show."""
        return {
            "execution": self.execution,
            "attempt": self.attempt,
            "replica_id": self.replica_id,
            "reason": self.reason,
        }


def note_signal(plane: Plane, signal: Signal) -> Started:
    """Act on a signal about any instance; one that is not ours, or not at work, is ignored with the reason."""
    try:
        instance = plane.records.instance(signal.instance_id)
    except InstanceUnknown:
        return Started(reason=f"{signal.instance_id} carries no agent of ours")
    agent = plane.records.agent(instance.agent_id)
    if signal.instance_id == agent.primary_instance_id:
        if signal.type is SignalType.REBALANCE_RECOMMENDATION:
            return prepare_for_risk(plane, agent, signal)
        return start_fail_over(plane, agent.agent_id, signal)
    if instance.role is InstanceRole.RETIRED_PENDING and signal.type is _NOTICE:
        # Kept for as long as its copy may be needed, and from now on never terminated by us.
        return _note_former_primary(plane, agent, instance, signal)
    if instance.replica_id is not None:
        return _note_standby_signal(plane, agent, instance.replica_id, signal)
    return Started(reason=f"{signal.instance_id} is '{instance.role}'")


def start_fail_over(plane: Plane, agent_id: str, signal: Signal) -> Started:
    """Claim the agent and start its failover, or join the one that runs.

    Raises:
        AgentUnknown: No such agent.
        OutcomeUnknown: The agent's row kept changing; signal again.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        pause = pausing.pause_of(plane, agent)
        if pause is not None:
            record(plane, agent, signal, response_action=LEFT_ALONE)
            return Started(reason=pause.explanation)
        execution = Execution.UNKNOWN
        if claims.claim_stands(agent):
            execution = plane.workflows.fail_over_state(_name(agent, agent.claim_attempt))
        decision = claims.decide_claim(agent, signal, execution=execution, now=plane.clock())
        match decision:
            case Ignore(reason):
                return Started(reason=reason)
            case Join(attempt, raised):
                if raised is not None and not _try(plane, raised):
                    continue
                if execution is Execution.UNKNOWN:
                    _start(plane, agent, attempt)
                if raised is not None and agent.task_token is not None:
                    plane.workflows.wake(agent.task_token)
                return Started(_name(agent, attempt), attempt, reason="joined the failover that runs")
            case Retake(attempt, claim):
                if not _try(plane, claim):
                    continue
                _start(plane, agent, attempt)
                return Started(_name(agent, attempt), attempt, reason=f"started on {signal.type}")
    raise OutcomeUnknown(f"agent {agent_id} kept changing while a failover was being started; signal again")


def prepare_for_risk(plane: Plane, agent: Agent, signal: Signal) -> Started:
    """A rebalance recommendation pre-warms a standby where it is likely enough to come true; it never cuts over.

    The recommendation is no forecast: of the interruptions in one field sample, two in five came without one. What is
    not acted upon is watched: the sweep judges it again.
    """
    pause = pausing.pause_of(plane, agent)
    if pause is not None:
        record(plane, agent, signal, response_action=LEFT_ALONE)
        return Started(reason=pause.explanation)
    risk = _rebalance_risk(plane, agent)
    if risk.probability <= Decimal(str(agent.rebalance_threshold)):
        record(plane, agent, signal, response_action=WATCH)
        return Started(reason=f"watched: {risk.probability} is not above {agent.rebalance_threshold}; {risk.reason}")
    record(plane, agent, signal, response_action="prepare-replica")
    replica = replication.create_replica(
        plane, agent.agent_id, replica_type=ReplicaType.AUTOMATIC_REBALANCE, created_by=f"signal:{signal.type}"
    )
    return Started(
        replica_id=replica.replica_id,
        reason=f"replica is '{replica.status}': {risk.probability} is above {agent.rebalance_threshold}; {risk.reason}",
    )


def record(plane: Plane, agent: Agent, signal: Signal, *, response_action: str) -> None:
    """Keep a record of a signal, once; that it can not be kept now holds up nothing."""
    interruptions.record_once(
        plane, _interruption(agent, signal, pool_id=agent.primary_pool_id, response_action=response_action)
    )


def _interruption(
    agent: Agent, signal: Signal, *, pool_id: str, response_action: str, replica_id: str | None = None
) -> Interruption:
    return Interruption(
        agent_id=agent.agent_id,
        event_id=signal.event_id,
        instance_id=signal.instance_id,
        pool_id=pool_id,
        signal_type=signal.type,
        detected_at=signal.at,
        termination_time=signal.deadline,
        response_action=response_action,
        replica_id=replica_id,
        epoch=agent.epoch,
        client_id=agent.client_id,
    )


def wake_if_serving(plane: Plane, agent: Agent, heartbeat: Heartbeat) -> None:
    """Wake the failover that waits for the promoted instance, once that says that it serves.

    To be called after the heartbeat was written, with the agent read after that: so that whichever of the two, the
    waiting execution's last check or this call, comes second sees the other's write.
    """
    # A claim of the present epoch waits for something else: woken now, it would only look, and wait again.
    promoted = claims.concludes(agent) and heartbeat.instance_id == agent.primary_instance_id
    if promoted and heartbeat.serves_under(agent.epoch) and agent.task_token is not None:
        plane.workflows.wake(agent.task_token)


def sweep(plane: Plane) -> Mapping[str, int]:
    """Look after what nobody signals for: silent primaries, dead executions' claims, traffic and replicas left behind.

    Silence alone proves nothing; EC2 is asked, and only its word starts a failover.

    Returns:
        How many agents were looked at, were silent, and were acted upon.

    Raises:
        Exception: A fault of ours; the other agents were looked after.
    """
    now = plane.clock()
    agents = _in_turn(plane.fleet.agents_with_primary(), now)
    sight = _Sight()
    with sight.whatever_fails("where traffic leads"):
        sight.astray = _astray(plane, agents)
    for listed in agents:
        with sight.whatever_fails(listed.agent_id):
            heartbeat = plane.records.heartbeat(listed.agent_id, listed.primary_instance_id)
            sight.heard[listed.agent_id] = heartbeat
            last_sign = heartbeat.at if heartbeat is not None else listed.registered_at
            # What was heard in the future tells nothing either: this clock was set back.
            if abs(now - last_sign) > SILENT_AFTER:
                sight.silent[listed.agent_id] = listed.primary_instance_id
    # EC2 is asked about all of them at once: it takes few questions from an account, and a failover needs them.
    with sight.whatever_fails("which primaries are dead"):
        sight.states = plane.compute.states(tuple(sight.silent.values()))
    for listed in agents:
        if listed.agent_id in sight.heard:
            with sight.whatever_fails(listed.agent_id):
                sight.acted += _look_after_one(plane, listed, sight)
    dead_standbys: frozenset[str] = frozenset()
    with sight.whatever_fails("which standbys are dead"):
        dead_standbys = proven_dead(plane, *sight.standbys)
    for instance_id in sorted(dead_standbys):
        replica = sight.standbys[instance_id]
        with sight.whatever_fails(replica.agent_id):
            reason = f"sweep: its instance {instance_id} is dead"
            replication.end_replica(plane, replica.agent_id, replica.replica_id, reason=reason)
            sight.acted += 1
    if sight.failures:
        raise sight.failures[0]
    return {"agents": len(agents), "silent": len(sight.silent), "acted_upon": sight.acted}


@dataclass(slots=True)
class _Sight:
    """What a sweep sees on its way.

    Attributes:
        heard: Each primary's last sign of life, by agent id; an agent that is absent could not be looked at.
        silent: Silent primaries, by agent id.
        states: What EC2 says of them, by instance id.
        astray: Agents whose traffic leads elsewhere.
        standbys: Active replicas, by the instance of which EC2 is yet to be asked.
        failures: Faults of ours.
    """

    heard: dict[str, Heartbeat | None] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    astray: frozenset[str] = frozenset()
    standbys: dict[str, Replica] = field(default_factory=dict)
    acted: int = 0
    failures: list[Exception] = field(default_factory=list)

    @contextmanager
    def whatever_fails(self, what: str) -> Iterator[None]:
        """One agent's trouble must not keep the sweep from the others; what is transient, the next sweep makes up for.

        A fault of ours must not either; it is told of at the end.
        """
        try:
            yield
        except Transient:
            return
        except Exception as failure:  # noqa: BLE001 - raised at the end
            failure.add_note(f"while the sweep looked after {what}")
            self.failures.append(failure)


def _in_turn(agents: Sequence[Agent], now: datetime) -> tuple[Agent, ...]:
    """Begin each minute with others, so that a sweep that is cut short leaves nobody out for long."""
    if not agents:
        return ()
    first = int(now.timestamp() // 60) * LOOKED_AFTER_AT_LEAST % len(agents)
    return (*agents[first:], *agents[:first])


def _look_after_one(plane: Plane, listed: Agent, sight: _Sight) -> int:
    acted = 0
    heartbeat = sight.heard[listed.agent_id]
    if listed.agent_id in sight.silent or listed.claim_open or listed.traffic_epoch != listed.epoch:
        agent = plane.records.agent(listed.agent_id)
        acted += _look_after(plane, agent, state=sight.states.get(agent.primary_instance_id))
    if listed.replica_count:
        acted += _look_after_replicas(plane, listed, sight)
    elif snapshots.needs_standby(heartbeat, epoch=listed.epoch):
        acted += keep_up(plane, listed, heartbeat)
    if listed.epoch > 1:
        acted += interruptions.conclude_left_behind(plane, listed)
        acted += former_primaries.look_after(plane, listed)
    with suppress(AgentLost):
        acted += _catch_up(plane, listed)
    if listed.agent_id in sight.astray:
        acted += _return_traffic(plane, listed.agent_id)
    return acted


def reconcile_traffic(plane: Plane, agent_id: str) -> bool:
    """Point the traffic path at the agent's primary if it does not; True when it was moved."""
    from spot_optimizer.control.failover import move_traffic

    agent = plane.records.agent(agent_id)
    if claims.concludes(agent) or agent.lost:
        return False
    return move_traffic(plane, agent_id)


def _astray(plane: Plane, agents: Sequence[Agent]) -> frozenset[str]:
    """Agents whose address is elsewhere than their rows say: its mover was overtaken by a later one, and died there."""
    holders = traffic.holders(plane, agents)
    return frozenset(
        agent.agent_id
        for agent in agents
        if agent.agent_id in holders and holders[agent.agent_id] != agent.primary_instance_id
    )


def _return_traffic(plane: Plane, agent_id: str) -> bool:
    """Point an address at the primary again that the row calls moved, if that serves."""
    from spot_optimizer.control.failover import move_traffic

    agent = plane.records.agent(agent_id)
    if agent.lost or agent.claim_open or agent.traffic_epoch < agent.epoch or agent.traffic_target is None:
        return False
    if agent_id not in _astray(plane, [agent]):
        return False
    heartbeat = plane.records.heartbeat(agent_id, agent.primary_instance_id)
    if heartbeat is None or not heartbeat.serves_under(agent.epoch):
        return False
    return move_traffic(plane, agent_id, is_astray=True)


def _look_after(plane: Plane, agent: Agent, *, state: str | None) -> bool:
    if agent.lost:
        return False
    now = plane.clock()
    if state in DEAD_STATES:
        signal = Signal(
            instance_id=agent.primary_instance_id,
            type=SignalType.STATE_CHANGE,
            at=now,
            state=state,
            reason="sweep: silent, and EC2 says so",
        )
        return start_fail_over(plane, agent.agent_id, signal).execution is not None
    if claims.concludes(agent) and not _release_if_over(plane, agent):
        return False
    if claims.claim_stands(agent):
        name = _name(agent, agent.claim_attempt)
        if plane.workflows.fail_over_state(name) is not Execution.RUNNING and agent.claim_signal is not None:
            signal = Signal(
                instance_id=agent.primary_instance_id,
                type=SignalType(agent.claim_signal),
                at=agent.claim_signal_at or now,
                deadline=agent.claim_deadline,
                state="terminated" if agent.claim_signal == SignalType.STATE_CHANGE else None,
                reason="sweep: the claim's execution does not run",
            )
            return start_fail_over(plane, agent.agent_id, signal).execution is not None
    if agent.traffic_epoch < agent.epoch:
        heartbeat = plane.records.heartbeat(agent.agent_id, agent.primary_instance_id)
        if heartbeat is not None and heartbeat.serves_under(agent.epoch):
            return reconcile_traffic(plane, agent.agent_id)
    return False


def _look_after_replicas(plane: Plane, listed: Agent, sight: _Sight) -> int:
    """Mend what a call that died half-way, or an event that never came, left of the agent's replicas."""
    acted = replication.let_go_of_ended(plane, listed.agent_id)
    acted += keep_up(plane, listed, sight.heard[listed.agent_id])
    if listed.active_replica_id is None:
        return acted
    replica = plane.records.replica(listed.agent_id, listed.active_replica_id)
    if replica.active and replica.instance_id is not None:
        sight.standbys[replica.instance_id] = replica
    if replica.status is ReplicaState.LAUNCHING:
        # Its preparation may have failed so thoroughly that it could not even say so: nothing else would ever end it.
        if plane.workflows.prepare_replica_state(replica.replica_id) is Execution.ENDED:
            reason = "sweep: its preparation has ended, and it has not joined"
            replication.give_up_launch(plane, listed.agent_id, replica.replica_id, reason=reason)
            acted += 1
        else:
            replication.start_preparing(plane, replica)
    return acted


def keep_up(plane: Plane, listed: Agent, heartbeat: Heartbeat | None) -> int:
    """Replace a standby that was lost, make one that is missing, release one that nobody needs; how many were."""
    agent = plane.records.agent(listed.agent_id)
    if pausing.pause_of(plane, agent) is not None:
        return 0
    recommended = _recommendation(plane, agent)
    match upkeep.decide_upkeep(
        agent,
        plane.records.replicas(agent.agent_id),
        last_signal_at=None if recommended is None else recommended.detected_at,
        needs_standby=snapshots.needs_standby(heartbeat, epoch=agent.epoch),
        now=plane.clock(),
    ):
        case Release(replica, reason):
            return int(replication.release_replica(plane, agent, replica, reason=reason))
        case Replace(lost, purpose):
            replication.replace_replica(plane, lost, purpose=purpose)
            return 1
        case Protect(purpose):
            replication.create_replica(
                plane,
                agent.agent_id,
                replica_type=ReplicaType.AUTOMATIC_PROTECTION,
                created_by="sweep: unprotected without standby",
                purpose=purpose,
            )
            return 1
        case HandOver(signal_type, reason):
            return _hand_over(plane, agent, signal_type, reason=reason) is not None
    return 0


def hand_over_if_asked(plane: Plane, agent_id: str, replica_id: str) -> None:
    """Begin the switch that a replica was made for, now that it is ready; what fails here, the sweep makes up for."""
    with suppress(Transient):
        agent = plane.records.agent(agent_id)
        replica = plane.records.replica(agent_id, replica_id)
        if agent.active_replica_id != replica_id or not replica.active:
            return
        if pausing.pause_of(plane, agent) is not None:
            return
        match switching.next_step(agent, replica, now=plane.clock()):
            case Begin(signal_type, reason):
                _hand_over(plane, agent, signal_type, reason=reason)


def _hand_over(plane: Plane, agent: Agent, signal_type: SignalType, *, reason: str) -> str | None:
    signal = Signal(
        instance_id=agent.primary_instance_id,
        type=signal_type,
        at=plane.clock(),
        reason=reason,
        # It was to get away from there: a standby at that price is not what was asked for.
        demote_old_primary=False,
    )
    return start_fail_over(plane, agent.agent_id, signal).execution


def _catch_up(plane: Plane, listed: Agent) -> int:
    """Act on what a pause let go by, and judge a recommendation again: its pool may have raised the risk meanwhile."""
    now = plane.clock()
    notice = plane.records.interruption(listed.agent_id, event_id_of(listed.primary_instance_id, _NOTICE))
    recommended = _recommendation(plane, listed)
    is_noticed = notice is not None and notice.response_action == LEFT_ALONE
    is_watched = recommended is not None and recommended.response_action in (WATCH, LEFT_ALONE)
    if not is_noticed and not is_watched:
        return 0
    agent = plane.records.agent(listed.agent_id)
    is_other = agent.primary_instance_id != listed.primary_instance_id
    if is_other or agent.claim_open or agent.lost or pausing.pause_of(plane, agent) is not None:
        return 0
    if notice is not None and is_noticed and (notice.termination_time or now) > now:
        late = Signal(
            instance_id=agent.primary_instance_id,
            type=_NOTICE,
            at=notice.detected_at,
            deadline=notice.termination_time,
            reason="sweep: it came while the agent was paused",
        )
        return start_fail_over(plane, agent.agent_id, late).execution is not None
    if recommended is None or not is_watched or agent.active_replica_id is not None:
        return 0
    if now - recommended.detected_at > timedelta(seconds=agent.quiet_seconds):
        return 0
    signal = Signal(instance_id=agent.primary_instance_id, type=_REBALANCE, at=recommended.detected_at)
    return prepare_for_risk(plane, agent, signal).replica_id is not None


def _rebalance_risk(plane: Plane, agent: Agent) -> RebalanceRisk:
    now = plane.clock()
    instance = plane.records.instance(agent.primary_instance_id)
    times: tuple[datetime, ...] = ()
    with suppress(Transient):
        found = plane.fleet.interruptions_of_pools([agent.primary_pool_id], now - catalogue.LOOKBACK)
        times = found.get(agent.primary_pool_id, ())
    recommended = _recommendation(plane, agent)
    # The recommendation is no evidence beside itself.
    others = [at for at in times if recommended is None or abs(at - recommended.detected_at) > catalogue.ONE_EVENT]
    return rebalance_risk(
        agent.primary_pool_id,
        age=max(now - (instance.launched_at or instance.joined_at), timedelta(0)),
        interruptions=len(catalogue.events(others)),
        now=now,
        by_model=_risk_by_model(plane, agent, now),
    )


def _risk_by_model(plane: Plane, agent: Agent, now: datetime) -> Decimal | None:
    """What a model said when it was last decided for the agent; no model is asked here, and nothing waits for one."""
    with suppress(Transient):
        decision = plane.fleet.latest_decision(agent.agent_id)
        if decision is not None and decision.risk_basis is RiskBasis.MODEL:
            return None if decision.stale_because(agent, now=now) else decision.risk_within_6h
    return None


def _recommendation(plane: Plane, agent: Agent) -> Interruption | None:
    return plane.records.interruption(agent.agent_id, event_id_of(agent.primary_instance_id, _REBALANCE))


def _release_if_over(plane: Plane, agent: Agent) -> bool:
    """Release the claim that led to the present epoch if its execution died before it could; whether it is released."""
    name = claims.execution_name(agent.agent_id, epoch=agent.claim_epoch, attempt=agent.claim_attempt)
    if plane.workflows.fail_over_state(name) is Execution.RUNNING:
        return False
    return _try(plane, claims.release(agent, epoch=agent.claim_epoch, attempt=agent.claim_attempt))


def _note_former_primary(plane: Plane, agent: Agent, former: Instance, signal: Signal) -> Started:
    """Remember that AWS takes a former primary back. Unlike other records this one decides something: it must be kept.

    Raises:
        Transient: It could not be written; signal again.
    """
    interruptions.record(plane, _interruption(agent, signal, pool_id=former.pool_id, response_action="leave-to-aws"))
    return Started(reason=f"{signal.instance_id} is a former primary; AWS takes it back")


def _note_standby_signal(plane: Plane, agent: Agent, replica_id: str, signal: Signal) -> Started:
    try:
        replica = plane.records.replica(agent.agent_id, replica_id)
    except ReplicaUnknown:
        return Started(reason=f"replica {replica_id} is gone")
    if not replica.active:
        return Started(reason=f"replica {replica_id} is '{replica.status}'")
    _record_for_standby(plane, agent, replica, signal)
    if signal.type is SignalType.STATE_CHANGE and signal.state in DEAD_STATES:
        replication.end_replica(
            plane,
            agent.agent_id,
            replica_id,
            reason=f"its instance {signal.instance_id} is {signal.state}",
        )
        return Started(replica_id=replica_id, reason="the standby is dead; the replica has failed")
    return Started(replica_id=replica_id, reason=f"noted for the standby: {signal.type}")


def _record_for_standby(plane: Plane, agent: Agent, replica: Replica, signal: Signal) -> None:
    if signal.type is SignalType.STATE_CHANGE and signal.state not in DEAD_STATES:
        return
    noted = _interruption(
        agent,
        signal,
        pool_id=replica.pool_id or "",
        response_action="note-standby",
        replica_id=replica.replica_id,
    )
    interruptions.record_once(plane, noted)


def _start(plane: Plane, agent: Agent, attempt: int) -> None:
    # The input is made of the claim's key alone, so that whoever starts the execution starts it with the same input.
    payload = {"agent_id": agent.agent_id, "epoch": agent.epoch, "attempt": attempt}
    plane.workflows.start_fail_over(_name(agent, attempt), payload)


def _name(agent: Agent, attempt: int) -> str:
    return claims.execution_name(agent.agent_id, epoch=agent.epoch, attempt=attempt)


def _try(plane: Plane, transaction: Transaction) -> bool:
    """Commit, or say that fresh rows have to be looked at."""
    try:
        plane.records.commit(transaction)
    except (ConditionFailed, OutcomeUnknown):
        return False
    return True
