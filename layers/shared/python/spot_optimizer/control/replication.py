"""Replicas and handovers as agents and operators drive them: create, ready, unready, commit, abort, end."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from spot_optimizer.control import pausing, selecting
from spot_optimizer.control.plane import HEARD_LATELY, Plane, active_replica, find_replica, primary_is_well
from spot_optimizer.domain import handover, replicas, snapshots
from spot_optimizer.domain.agents import Agent, HandoverState
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType, SyncPace
from spot_optimizer.domain.snapshots import Snapshot
from spot_optimizer.errors import (
    AgentLost,
    ConditionFailed,
    HandoverInProgress,
    HandoverNotOpen,
    HandoverUnknown,
    OutcomeUnknown,
    ReplicaAlreadyActive,
    ReplicaNeeded,
    ReplicaNotReady,
    ReplicaPromoted,
    StaleEpoch,
    ToggledOff,
    Transient,
)

TRIES = 4
"""How often a write is decided anew on fresh rows before the caller is told that the outcome is unknown."""

ENDED_LATELY = timedelta(hours=2)
"""So long the sweep looks whether the instance of an ended replica is gone."""


def create_replica(
    plane: Plane,
    agent_id: str,
    *,
    replica_type: ReplicaType,
    created_by: str,
    purpose: str | None = None,
    pool_id: str | None = None,
    exclude_zones: tuple[str, ...] = (),
) -> Replica:
    """Create a replica and start to prepare it; the same purpose in the same epoch gives the same replica.

    Without a purpose, the number of replicas made so far stands in: triggers that come at the same time make one
    replica. Emergencies are given the replica that is active already, whoever made it; an operator is refused instead.

    Raises:
        AgentUnknown: No such agent.
        AgentLost: Nothing may be started for it.
        Paused: An operator asks, and nothing is to be changed.
        ToggledOff: An operator asks, and the agent's configuration forbids manual replicas.
        ReplicaAlreadyActive: An operator asks, and a replica is active.
        InvalidRequest: An operator asks for a pool that can not be had.
        NoPoolQualifies: An operator excludes every zone.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        if agent.lost:
            raise AgentLost(f"agent {agent_id} is lost: every copy of its state is gone; register a new agent")
        if replica_type is ReplicaType.MANUAL:
            pausing.refuse_while_paused(plane, agent)
        if replica_type is ReplicaType.MANUAL and not agent.manual_replica:
            raise ToggledOff("manual_replica is off for this agent; expected it on; switch it on in the configuration")
        replica_id = replicas.replica_id_for(agent_id, epoch=agent.epoch, purpose=purpose or f"#{agent.replica_count}")
        active = active_replica(plane, agent)
        if active is not None:
            if active.replica_id != replica_id and replica_type is ReplicaType.MANUAL:
                raise ReplicaAlreadyActive(
                    f"replica {active.replica_id} is '{active.status}'; one is active at a time; terminate it first"
                )
            start_preparing(plane, active)
            return active
        if replica_type is ReplicaType.MANUAL:
            selecting.check_wanted(plane, agent, pool_id=pool_id, excluded_zones=exclude_zones)
        replica = Replica(
            agent_id=agent_id,
            replica_id=replica_id,
            type=replica_type,
            status=ReplicaState.LAUNCHING,
            epoch=agent.epoch,
            created_by=created_by,
            created_at=plane.clock(),
            requested_pool_id=pool_id,
            exclude_zones=exclude_zones,
        )
        try:
            plane.records.commit(replicas.create(agent, replica))
        except (ConditionFailed, OutcomeUnknown):
            existing = find_replica(plane, agent_id, replica_id)
            if existing is not None and not existing.active:
                return existing
            continue
        start_preparing(plane, replica)
        return replica
    raise OutcomeUnknown(f"agent {agent_id} changed while a replica was being created; try again")


def report_ready(
    plane: Plane,
    agent_id: str,
    replica_id: str,
    *,
    instance_id: str,
    epoch: int,
    readiness: int,
    lag_seconds: float,
    covered_until: datetime,
) -> Replica:
    """The primary reports the replica ready. Repeating the same report is no error.

    Raises:
        StaleEpoch: The caller is not the primary of the present epoch.
        ReplicaNotReady: The replica is at its end, or the report is older than one that came in before.
    """
    for _ in range(TRIES):
        agent = _agent_of_primary(plane, agent_id, instance_id=instance_id, epoch=epoch)
        replica = plane.records.replica(agent_id, replica_id)
        if replica.status is ReplicaState.READY and replica.readiness == readiness:
            wake_all(plane, agent, replica)
            return replica
        if replica.status is not ReplicaState.SYNCING or replica.readiness >= readiness:
            raise ReplicaNotReady(
                f"replica {replica_id} is '{replica.status}' at readiness {replica.readiness}; "
                f"expected 'syncing' below {readiness}"
            )
        change = replicas.report_ready(
            agent,
            replica,
            readiness=readiness,
            lag_seconds=lag_seconds,
            covered_until=covered_until,
            now=plane.clock(),
        )
        try:
            plane.records.commit(change)
        except (ConditionFailed, OutcomeUnknown):
            continue
    raise OutcomeUnknown(f"replica {replica_id} kept changing; report again")


def report_unready(
    plane: Plane, agent_id: str, replica_id: str, *, instance_id: str, epoch: int, readiness: int
) -> Replica:
    """The primary takes readiness back. Done, too, where the replica's life is over: it can not become ready again.

    Raises:
        StaleEpoch: The replica was promoted first, or the caller is not the primary.
        ReplicaNotReady: A report with a higher number came in before.
    """
    for _ in range(TRIES):
        agent = _agent_of_primary(plane, agent_id, instance_id=instance_id, epoch=epoch)
        replica = plane.records.replica(agent_id, replica_id)
        if replica.status in (ReplicaState.FAILED, ReplicaState.TERMINATED):
            return replica
        if replica.status is ReplicaState.SYNCING and replica.readiness == readiness:
            wake_all(plane, agent, replica)
            return replica
        if replica.readiness > readiness or replica.status is ReplicaState.LAUNCHING:
            raise ReplicaNotReady(
                f"replica {replica_id} is '{replica.status}' at readiness {replica.readiness}; {readiness} is "
                f"older; read the present number from the heartbeat's answer"
            )
        try:
            plane.records.commit(replicas.report_unready(agent, replica, readiness=readiness))
        except (ConditionFailed, OutcomeUnknown):
            continue
    raise OutcomeUnknown(f"replica {replica_id} kept changing; report again")


def report_progress(
    plane: Plane,
    agent_id: str,
    replica_id: str,
    *,
    epoch: int,
    generation: int,
    sync_percent: float,
    lag_seconds: float | None,
    covered_until: datetime | None,
    pace: SyncPace | None = None,
) -> Replica:
    """Record how far the standby is; changes no state.

    Raises:
        StaleEpoch: The reporter follows an epoch that is over.
    """
    agent = plane.records.agent(agent_id)
    if agent.epoch != epoch:
        raise _stale(epoch, agent)
    replica = plane.records.replica(agent_id, replica_id)
    if not replica.active or replica.status is ReplicaState.LAUNCHING:
        raise ReplicaNotReady(f"replica {replica_id} is '{replica.status}'; progress belongs to one that syncs")
    progress = replicas.record_sync(
        replica,
        generation=max(generation, replica.generation),
        sync_percent=sync_percent,
        lag_seconds=lag_seconds,
        covered_until=covered_until,
        pace=pace,
    )
    try:
        plane.records.commit(progress)
    except ConditionFailed:
        # A later report was faster, or the replica has just ended: nothing is left to say.
        return plane.records.replica(agent_id, replica_id)
    if replica.generation == 0 and generation > 0:
        wake_all(plane, agent, replica)
    return plane.records.replica(agent_id, replica_id)


def commit_handover(
    plane: Plane,
    agent_id: str,
    handover_id: str,
    *,
    instance_id: str,
    epoch: int,
    basis: Basis,
    readiness: int,
    covered_until: datetime | None,
    lag_seconds: float | None,
) -> Agent:
    """Promote the standby that asks. Asking again after success gives the same answer.

    Returns:
        The agent at its new epoch.

    Raises:
        StaleEpoch: Another promotion ended the epoch.
        HandoverUnknown: The handover is not this agent's, or not to this instance.
        HandoverNotOpen: It was aborted.
        ReplicaNotReady: Readiness was taken back.
        PromotionUnproven: `primary-dead` without proof.
        OutcomeUnknown: Ask again.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        if agent.epoch == epoch + 1 and handover.committed_by(agent, handover_id=handover_id, instance_id=instance_id):
            return agent
        if agent.epoch != epoch:
            raise _stale(epoch, agent)
        if agent.handover_id != handover_id or agent.handover_replica_id is None:
            raise HandoverUnknown(f"'{handover_id}' is not the agent's handover; expected '{agent.handover_id}'")
        replica = plane.records.replica(agent_id, agent.handover_replica_id)
        if replica.instance_id != instance_id:
            raise HandoverUnknown(f"handover {handover_id} is not to instance {instance_id}")
        promotion = handover.promote(
            agent,
            replica,
            handover_id=handover_id,
            instance_id=instance_id,
            pool_id=plane.records.instance(instance_id).pool_id,
            basis=basis,
            readiness=readiness,
            covered_until=covered_until,
            lag_seconds=lag_seconds,
            frozen=basis is Basis.SNAPSHOT and _nothing_came_after(plane, agent, covered_until),
            changed_bytes_per_second=None if basis is Basis.FINAL_GENERATION else _change_rate(plane, agent),
            now=plane.clock(),
        )
        try:
            plane.records.commit(promotion)
        except (ConditionFailed, OutcomeUnknown):
            # Read back: whether it took effect, and if not, why, the fresh rows tell.
            continue
    raise OutcomeUnknown(f"the promotion under handover {handover_id} has no known outcome yet; ask again")


def _change_rate(plane: Plane, agent: Agent) -> float | None:
    """How fast the primary's state changed, by its own last word: once it is no primary it tells that no more.

    One without a standby says something each half minute only; its latest delta tells as well.
    """
    with suppress(Transient):
        beat = plane.records.heartbeat(agent.agent_id, agent.primary_instance_id)
        if beat is not None and beat.changed_bytes_per_second is not None:
            return beat.changed_bytes_per_second
        delta = _snapshot(plane, agent, agent.snapshot_id)
        if delta is not None and delta.previous_id is None:
            delta = _snapshot(plane, agent, snapshots.id_before(delta))
        previous = None if delta is None else _snapshot(plane, agent, delta.previous_id)
        return None if delta is None or previous is None else snapshots.change_rate(delta, previous)
    return None


def _snapshot(plane: Plane, agent: Agent, snapshot_id: str | None) -> Snapshot | None:
    return None if snapshot_id is None else plane.records.snapshot(agent.agent_id, snapshot_id)


def abort_handover(plane: Plane, agent_id: str, handover_id: str, *, epoch: int) -> Agent:
    """Abort a handover. Aborting it again is no error; a committed one is.

    Raises:
        StaleEpoch: It was committed: the epoch is over.
        HandoverUnknown: The agent's handover is another one.
        HandoverNotOpen: It ended otherwise.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        if agent.epoch != epoch:
            raise _stale(epoch, agent)
        if agent.handover_id != handover_id:
            raise HandoverUnknown(f"'{handover_id}' is not the agent's handover; expected '{agent.handover_id}'")
        if agent.handover_state is HandoverState.ABORTED:
            if agent.task_token is not None:
                plane.workflows.wake(agent.task_token)
            return agent
        if agent.handover_state is not HandoverState.OPEN:
            raise HandoverNotOpen(f"handover {handover_id} is '{agent.handover_state}'")
        try:
            plane.records.commit(handover.abort(agent, handover_id=handover_id))
        except (ConditionFailed, OutcomeUnknown):
            continue
    raise OutcomeUnknown(f"handover {handover_id} kept changing; ask again")


def decline_handover(plane: Plane, agent_id: str, handover_id: str, *, epoch: int) -> Agent:
    """The standby says that it holds no complete generation of a primary that is proven dead: the replica has failed.

    Raises:
        StaleEpoch: The epoch is over.
        HandoverUnknown: The agent's handover is another one.
        HandoverNotOpen: It has ended, or the primary may live: then the standby has nothing to say.
        OutcomeUnknown: Ask again.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        if agent.epoch != epoch:
            raise _stale(epoch, agent)
        if agent.handover_id != handover_id or agent.handover_replica_id is None:
            raise HandoverUnknown(f"'{handover_id}' is not the agent's handover; expected '{agent.handover_id}'")
        replica = plane.records.replica(agent_id, agent.handover_replica_id)
        if agent.handover_state is HandoverState.ABORTED and replica.status is ReplicaState.FAILED:
            _let_go(plane, replica)
            return agent
        if not agent.handover_open or not agent.handover_primary_dead:
            raise HandoverNotOpen(
                f"handover {handover_id} is '{agent.handover_state}'; expected it open behind a dead primary"
            )
        declining = handover.decline(
            agent,
            replica,
            handover_id=handover_id,
            reason=handover.NOTHING_HELD if agent.handover_snapshot_id is None else handover.NOTHING_RESTORED,
            now=plane.clock(),
        )
        try:
            plane.records.commit(declining)
        except (ConditionFailed, OutcomeUnknown):
            continue
        wake_all(plane, agent, replica)
    raise OutcomeUnknown(f"handover {handover_id} kept changing; ask again")


def end_replica(plane: Plane, agent_id: str, replica_id: str, *, reason: str) -> Replica:
    """End a replica whose instance is dead, and a handover that leads to it. Competes with its promotion; a promoted
    replica is left alone.

    The row is ended first and the instance terminated after, so that a crash in between leaves an instance to clean up
    and never a row that promises one.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        replica = plane.records.replica(agent_id, replica_id)
        if not replica.active:
            _let_go(plane, replica)
            return replica
        if agent.handover_open and agent.handover_replica_id == replica_id and agent.handover_id is not None:
            try:
                plane.records.commit(handover.abort(agent, handover_id=agent.handover_id))
            except (ConditionFailed, OutcomeUnknown):
                continue
        try:
            plane.records.commit(replicas.end(agent_id, replica, reason=reason, now=plane.clock()))
        except (ConditionFailed, OutcomeUnknown):
            continue
        wake_all(plane, agent, replica)
    raise OutcomeUnknown(f"replica {replica_id} kept changing; try again")


def give_up_launch(plane: Plane, agent_id: str, replica_id: str, *, reason: str) -> Replica:
    """End a replica that nobody has joined as; one that was joined as in this very moment is left alone.

    Returns:
        The replica as it is then: failed, or not launching any more.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        replica = plane.records.replica(agent_id, replica_id)
        if replica.status is not ReplicaState.LAUNCHING:
            _let_go(plane, replica)
            return replica
        giving_up = replicas.give_up_launch(replica, state=ReplicaState.FAILED, reason=reason, now=plane.clock())
        try:
            plane.records.commit(giving_up)
        except (ConditionFailed, OutcomeUnknown):
            continue
        wake_all(plane, agent, replica)
    raise OutcomeUnknown(f"replica {replica_id} kept changing; try again")


def terminate_replica(plane: Plane, agent_id: str, replica_id: str, *, reason: str) -> Replica:
    """End a replica because somebody asks. Ending it again is no error.

    Raises:
        ReplicaUnknown: The agent has no such replica.
        ReplicaPromoted: It is the primary, or was.
        HandoverInProgress: It has joined, and a failover is under way, which may need it.
        ReplicaNeeded: It has joined, and its primary does not run, or has not been heard: it may be the newest copy.
        OutcomeUnknown: Ask again.
    """
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        replica = plane.records.replica(agent_id, replica_id)
        if replica.status is ReplicaState.PROMOTED:
            raise ReplicaPromoted(
                f"replica {replica_id} was promoted: its instance is, or was, the agent's primary; expected a replica "
                f"that is launching, syncing or ready"
            )
        if not replica.active:
            _let_go(plane, replica)
            return replica
        if replica.status is ReplicaState.LAUNCHING:
            ending = replicas.give_up_launch(replica, state=ReplicaState.TERMINATED, reason=reason, now=plane.clock())
        else:
            _refuse_if_needed(plane, agent, replica)
            ending = replicas.release(agent, replica, reason=reason, now=plane.clock())
        try:
            plane.records.commit(ending)
        except (ConditionFailed, OutcomeUnknown):
            continue
        wake_all(plane, agent, replica)
    raise OutcomeUnknown(f"replica {replica_id} kept changing; try again")


def _refuse_if_needed(plane: Plane, agent: Agent, replica: Replica) -> None:
    if agent.claim_open or agent.handover_open:
        raise HandoverInProgress(
            f"a failover of agent {agent.agent_id} is under way, and may need replica {replica.replica_id}; wait until "
            f"it has ended"
        )
    if not primary_is_well(plane, agent):
        raise ReplicaNeeded(
            f"the primary {agent.primary_instance_id} does not run, or has not been heard for "
            f"{HEARD_LATELY.seconds} s: replica {replica.replica_id} may be the newest copy; promote it, or wait until "
            f"the primary is heard again"
        )


def replace_replica(plane: Plane, lost: Replica, *, purpose: str) -> None:
    """Prepare another replica in the place of one that was lost, unless something has changed in this very moment.

    Its zones stay excluded, and it goes wherever there is a place: the pool may be why the other was lost.
    """
    agent = plane.records.agent(lost.agent_id)
    replica = Replica(
        agent_id=agent.agent_id,
        replica_id=replicas.replica_id_for(agent.agent_id, epoch=agent.epoch, purpose=purpose),
        type=lost.type,
        status=ReplicaState.LAUNCHING,
        epoch=agent.epoch,
        created_by=purpose,
        created_at=plane.clock(),
        exclude_zones=lost.exclude_zones,
    )
    try:
        plane.records.commit(replicas.create(agent, replica))
    except (ConditionFailed, OutcomeUnknown):
        # Made by another sweep, or not: the next one sees which.
        return
    start_preparing(plane, replica)


def release_replica(plane: Plane, agent: Agent, replica: Replica, *, reason: str) -> bool:
    """End a replica that nobody needs, if its primary is well; whether it was ended.

    The row is ended first and the instance terminated after; what is left in between, the next sweep terminates.

    Args:
        plane: The ports.
        agent: As it was read before anything was asked: has a failover begun since, this is the copy that it needs.
        replica: Its active replica.
        reason: What an operator reads.
    """
    if not primary_is_well(plane, agent):
        return False
    try:
        plane.records.commit(replicas.release(agent, replica, reason=reason, now=plane.clock()))
    except (ConditionFailed, OutcomeUnknown):
        return False
    wake_all(plane, agent, replica)
    _let_go(plane, plane.records.replica(agent.agent_id, replica.replica_id))
    return True


def let_go_of_ended(plane: Plane, agent_id: str) -> int:
    """Terminate what still runs of replicas that ended lately; how many did.

    A replica's row ends first and its instance after that: whoever died in between left the instance to this.
    """
    since = plane.clock() - ENDED_LATELY
    ended = [
        replica.instance_id
        for replica in plane.records.replicas(agent_id)
        if replica.status in (ReplicaState.FAILED, ReplicaState.TERMINATED)
        and replica.instance_id is not None
        and replica.ended_at is not None
        and replica.ended_at > since
    ]
    states = plane.compute.states(ended) if ended else {}
    left = [instance_id for instance_id in ended if states.get(instance_id) in ("pending", "running", "stopping")]
    for instance_id in left:
        plane.compute.terminate(instance_id)
    return len(left)


def wake_all(plane: Plane, agent: Agent, replica: Replica) -> None:
    """Wake whoever waits on this agent or this replica; to be called after the state was written."""
    for token in (agent.task_token, replica.task_token):
        if token is not None:
            plane.workflows.wake(token)


def start_preparing(plane: Plane, replica: Replica) -> None:
    """Have the replica prepared; one that is being prepared is left as it is."""
    plane.workflows.start_prepare_replica(
        replica.replica_id, {"agent_id": replica.agent_id, "replica_id": replica.replica_id}
    )


def _nothing_came_after(plane: Plane, agent: Agent, covered_until: datetime | None) -> bool:
    """Whether what was restored is the last snapshot of a primary that served nothing from then to its death."""
    newest = _snapshot(plane, agent, agent.snapshot_id)
    beat = plane.records.heartbeat(agent.agent_id, agent.primary_instance_id)
    served_on = beat is not None and beat.serving and newest is not None and beat.at > newest.taken_at
    return newest is not None and newest.frozen and newest.taken_at == covered_until and not served_on


def _let_go(plane: Plane, replica: Replica) -> None:
    """Terminate the instance of a replica that has ended without taking over."""
    if replica.status in (ReplicaState.FAILED, ReplicaState.TERMINATED) and replica.instance_id is not None:
        plane.compute.terminate(replica.instance_id)


def _agent_of_primary(plane: Plane, agent_id: str, *, instance_id: str, epoch: int) -> Agent:
    agent = plane.records.agent(agent_id)
    if agent.epoch != epoch or agent.primary_instance_id != instance_id:
        raise _stale(epoch, agent)
    return agent


def _stale(epoch: int, agent: Agent) -> StaleEpoch:
    return StaleEpoch(
        f"epoch {epoch} is over; the agent is at {agent.epoch}: stop the workload", current_epoch=agent.epoch
    )
