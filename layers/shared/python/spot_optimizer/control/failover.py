"""The tasks of the `fail_over` state machine: each reads rows, lets the domain decide, writes, and reads back.

Every task is safe to run twice and at any later time: what it does is conditional on the claim of its attempt, on the
epoch, or on both. Decisions that the machine branches on are returned under `decision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from spot_optimizer.control import former_primaries, interruptions, replication, traffic
from spot_optimizer.control.plane import DEAD_STATES, Plane, active_replica, proven_dead
from spot_optimizer.domain import claims, handover
from spot_optimizer.domain.agents import (
    Agent,
    Instance,
    InstanceRole,
    Switch,
    Urgency,
)
from spot_optimizer.domain.handover import Restoring
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.snapshots import epoch_of, newest_usable
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import (
    AddressNotMovable,
    ClaimLost,
    ConditionFailed,
    HandoverFailed,
    NoStandbyObtainable,
    NotServingYet,
    OutcomeUnknown,
    ReplicaNotReady,
    SnapshotFound,
    Transient,
)

TRIES = 4
LAUNCHES_PER_ATTEMPT = 3
HANDOVERS_PER_ATTEMPT = 5
HANDOVER_PATIENCE = timedelta(seconds=30)
"""An open handover between two living instances is given so long; then it is aborted, and its primary thaws."""

PROOF_PATIENCE = timedelta(seconds=60)
"""With the primary proven dead there is nothing to thaw: the standby is given longer."""

RESTORED_BYTES_PER_SECOND = 10_000_000
"""A standby that restores a snapshot is given the time that it takes at this rate, on top."""

LONGEST_PATIENCE = timedelta(minutes=45)
"""No handover stays open longer, whatever is restored; an execution ends within the hour."""

SERVE_PATIENCE = timedelta(seconds=120)
"""So long may the promoted workload take to pass its first health check."""

DEADLINE_GRACE = timedelta(seconds=5)


def _current(plane: Plane, agent_id: str, epoch: int, attempt: int) -> Agent:
    """Read the agent; refuse to go on for an attempt whose claim is not its own any more."""
    agent = plane.records.agent(agent_id)
    _demand_claim(agent, epoch, attempt)
    return agent


def _current_or_overtaken(plane: Plane, agent_id: str, epoch: int, attempt: int) -> Agent:
    """As `_current`, but go on as well where the next epoch's failover has the claim.

    It has, because the promotion of this one has happened: to write down what came of it needs no claim.
    """
    agent = plane.records.agent(agent_id)
    if not _is_overtaken(agent, epoch):
        _demand_claim(agent, epoch, attempt)
    return agent


def _demand_claim(agent: Agent, epoch: int, attempt: int) -> None:
    if agent.claim_epoch != epoch or agent.claim_attempt != attempt or not agent.claim_open:
        raise ClaimLost(
            f"attempt {attempt} at epoch {epoch} does not hold the claim of {agent.agent_id} any more; attempt "
            f"{agent.claim_attempt} at epoch {agent.claim_epoch} does"
        )


def _is_overtaken(agent: Agent, epoch: int) -> bool:
    return agent.claim_epoch > epoch


def _promoted(agent: Agent, epoch: int) -> bool:
    return agent.epoch > epoch


def record_interruption(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Keep a record of the signal that the claim was made for; that it can not be kept now holds up nothing."""
    agent = _current_or_overtaken(plane, agent_id, epoch, attempt)
    event_id = None
    # After the promotion the signal stands on the switch, and is recorded with what came of it.
    if not _promoted(agent, epoch):
        with suppress(Transient):
            event_id = interruptions.record_claim(plane, agent)
    return {"event_id": event_id, "signal_type": agent.claim_signal}


def select_standby(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Decide where to go from here.

    Returns:
        `decision`: `promoted` (a promotion, or a fall back, has happened), `await_serving` (a handover is open),
        `hand_over` (the replica can take over), `restore` (it holds nothing, and there is a snapshot), `await_ready`
        (it is being prepared), `launch` (there is none), `launch_again` (there is none any more), or `lost` (every
        copy is gone).

    Raises:
        ClaimLost: Another attempt is at work.
        NoStandbyObtainable: The replacements that this attempt may launch have all failed.
        HandoverFailed: Too many handovers were aborted, or a planned one can not go on.
    """
    agent = _current_or_overtaken(plane, agent_id, epoch, attempt)
    if _promoted(agent, epoch):
        return {"decision": "promoted", "replica_id": agent.handover_replica_id}
    if agent.handover_open:
        return {"decision": "await_serving", "replica_id": agent.handover_replica_id}
    planned = not claims.is_emergency(agent.claim_urgency)
    aborted = agent.handover_count - agent.claim_handovers_before
    if aborted >= (1 if planned else HANDOVERS_PER_ATTEMPT):
        raise HandoverFailed(f"{aborted} handover(s) of this attempt were aborted; the primary serves on")
    primary_dead = _is_primary_dead(plane, agent)
    replica = active_replica(plane, agent)
    restorable = primary_dead and newest_usable(agent, now=plane.clock()) is not None
    if replica is None:
        if primary_dead:
            return _behind_a_dead_primary(plane, agent, attempt)
        if planned:
            raise HandoverFailed("a planned handover needs a replica, and none is active; create one first")
        return _launch_if_any_is_left(plane, agent, attempt)
    if handover.may_take_over(replica, primary_dead=primary_dead):
        restores = restorable and replica.status is not ReplicaState.READY and replica.generation == 0
        return {
            "decision": "restore" if restores else "hand_over",
            "replica_id": replica.replica_id,
            "primary_dead": primary_dead,
        }
    if replica.instance_id is not None and proven_dead(plane, replica.instance_id):
        # No event tells of an instance that died before it joined, and the primary has no time for a sweep.
        replication.end_replica(
            plane,
            agent_id,
            replica.replica_id,
            reason=f"its instance {replica.instance_id} died before it was ready",
        )
        return select_standby(plane, agent_id, epoch, attempt)
    if restorable:
        # It has not joined yet; when it has, it restores.
        return {"decision": "await_ready", "replica_id": replica.replica_id}
    if primary_dead:
        return _without_what_it_was_launched_for(plane, agent, replica, attempt)
    if planned:
        raise HandoverFailed(f"replica {replica.replica_id} is '{replica.status}'; a planned handover needs it ready")
    return {"decision": "await_ready", "replica_id": replica.replica_id}


def _without_what_it_was_launched_for(plane: Plane, agent: Agent, replica: Replica, attempt: int) -> dict[str, Any]:
    """The replica has not even joined, so it holds nothing, and the source of everything is gone."""
    ended = replication.give_up_launch(
        plane, agent.agent_id, replica.replica_id, reason="the primary died before the first generation was complete"
    )
    if ended.active:
        # It has joined in this very moment: it may restore, or say itself that it holds nothing.
        return select_standby(plane, agent.agent_id, agent.epoch, attempt)
    return _behind_a_dead_primary(plane, plane.records.agent(agent.agent_id), attempt)


def _launch_if_any_is_left(plane: Plane, agent: Agent, attempt: int) -> dict[str, Any]:
    creator = _creator(agent.epoch, attempt)
    launched = [replica for replica in plane.records.replicas(agent.agent_id) if replica.created_by == creator]
    if len(launched) >= LAUNCHES_PER_ATTEMPT:
        raise NoStandbyObtainable(f"{len(launched)} replacements were launched by this attempt, and all failed")
    return {"decision": "launch_again" if launched else "launch", "replica_id": None}


def _behind_a_dead_primary(plane: Plane, agent: Agent, attempt: int) -> dict[str, Any]:
    """The primary is dead and nobody follows it: go to the newest copy there is.

    That is the newest snapshot, or a former primary that still lives and kept its data. Whatever was acknowledged since
    is missing, and that is recorded; but an agent is lost only when every copy is.
    """
    now = plane.clock()
    found = _latest_former_primary(plane, agent)
    restoring = _restoring(plane, agent)
    snapshot_id = None if restoring is Restoring.GIVE_UP else newest_usable(agent, now=now)
    # A former primary holds what there was until it was replaced; clocks of several machines have no say in that.
    if snapshot_id is not None and (found is None or epoch_of(snapshot_id) >= found[1].epoch):
        try:
            if restoring is Restoring.WAIT:
                raise NoStandbyObtainable(
                    f"{handover.NOTHING_RESTORED} by the last standby of {agent.agent_id}; a later attempt tries again"
                )
            return _launch_if_any_is_left(plane, agent, attempt)
        except NoStandbyObtainable:
            if found is None:
                raise
    if found is None:
        return {"decision": "lost", "replica_id": None}
    former, switch = found
    lost_seconds = max((now - switch.switched_at) / timedelta(seconds=1), 0.0)
    plane.records.commit(handover.fall_back(agent, former, attempt=attempt, lost_seconds=lost_seconds, now=now))
    return {"decision": "promoted", "replica_id": None}


def _restoring(plane: Plane, agent: Agent) -> Restoring:
    """Whether one more standby is to try the snapshots, if there are any."""
    now = plane.clock()
    if newest_usable(agent, now=now) is None:
        return Restoring.GO_ON
    return handover.may_restore(plane.records.replicas(agent.agent_id), epoch=agent.epoch, now=now)


def _latest_former_primary(plane: Plane, agent: Agent) -> tuple[Instance, Switch] | None:
    for epoch in range(agent.epoch, 1, -1):
        switch = plane.records.switch(agent.agent_id, handover.switch_id_for(epoch))
        if switch is None:
            return None
        former = plane.records.instance(switch.from_instance_id)
        state = plane.compute.states([former.instance_id]).get(former.instance_id)
        if former.role is InstanceRole.RETIRED_PENDING and state == "running":
            return former, switch
    return None


def launch_replacement(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Launch a replacement, whatever the toggles say: an emergency bypasses them."""
    _current(plane, agent_id, epoch, attempt)
    replica = replication.create_replica(
        plane, agent_id, replica_type=ReplicaType.AUTOMATIC_TERMINATION, created_by=_creator(epoch, attempt)
    )
    return {"replica_id": replica.replica_id}


def await_ready(plane: Plane, agent_id: str, epoch: int, attempt: int, *, task_token: str) -> None:
    """Leave the token for whoever makes the replica ready, or ends it; then look whether that has happened already."""
    agent = _store_token(plane, agent_id, epoch, attempt, task_token)
    replica = active_replica(plane, agent)
    if agent.handover_open or _promoted(agent, epoch) or replica is None or replica.status is ReplicaState.READY:
        plane.workflows.wake(task_token)


def open_handover(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Open the handover; from here on the primary freezes, and the standby promotes itself.

    Raises:
        ReplicaNotReady: The replica can not take over any more: select again.
    """
    for _ in range(TRIES):
        agent = _current_or_overtaken(plane, agent_id, epoch, attempt)
        if _promoted(agent, epoch) or agent.handover_open:
            return {"handover_id": agent.handover_id, "replica_id": agent.handover_replica_id}
        replica = active_replica(plane, agent)
        if replica is None:
            raise ReplicaNotReady("the replica has ended; select another")
        opening = handover.open_handover(
            agent, replica, attempt=attempt, primary_dead=_is_primary_dead(plane, agent), now=plane.clock()
        )
        try:
            plane.records.commit(opening)
        except (ConditionFailed, OutcomeUnknown):
            continue
        return {"handover_id": handover.handover_id_for(agent), "replica_id": replica.replica_id}
    raise OutcomeUnknown(f"agent {agent_id} kept changing while a handover was being opened")


def await_serving(plane: Plane, agent_id: str, epoch: int, attempt: int, *, task_token: str) -> None:
    """Leave the token for the promoted instance's first serving heartbeat; then look whether that has come already."""
    agent = _store_token(plane, agent_id, epoch, attempt, task_token)
    is_over = _is_overtaken(agent, epoch) or (not _promoted(agent, epoch) and not agent.handover_open)
    if is_over or _serves(plane, agent, epoch):
        plane.workflows.wake(task_token)


def assess_handover(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Look where a handover stands, and move it on if one of its parties is dead.

    Returns:
        `decision`: `serving`, `wait`, `select` (it was aborted: select again), or `overtaken` (the promoted instance
        has been replaced by now).

    Raises:
        HandoverFailed: The promoted instance died, or does not come to serve.
        NotServingYet: The next epoch's failover is at work, so nobody would wake this one; ask again.
    """
    agent = _current_or_overtaken(plane, agent_id, epoch, attempt)
    if _is_overtaken(agent, epoch):
        return {"decision": _assess_overtaken(plane, agent, epoch)}
    if _promoted(agent, epoch):
        return {"decision": _assess_promoted(plane, agent, epoch)}
    if not agent.handover_open or agent.handover_id is None or agent.handover_replica_id is None:
        return {"decision": "select"}
    replica = plane.records.replica(agent_id, agent.handover_replica_id)
    parties = [agent.primary_instance_id, *([replica.instance_id] if replica.instance_id else [])]
    dead = proven_dead(plane, *parties)
    if replica.instance_id in dead:
        replication.end_replica(
            plane,
            agent_id,
            replica.replica_id,
            reason=f"its instance {replica.instance_id} died during the handover",
        )
        return {"decision": "select"}
    if agent.primary_instance_id in dead and not agent.handover_primary_dead:
        _commit_or_leave(plane, handover.prove_primary_dead(agent, now=plane.clock()))
        return {"decision": "wait"}
    opened_at = agent.handover_opened_at or plane.clock()
    patience = _patience(plane, agent)
    if abs(plane.clock() - opened_at) > patience:
        _commit_or_leave(plane, handover.abort(agent, handover_id=agent.handover_id))
        return {"decision": "select"}
    return {"decision": "wait"}


def switch_traffic(plane: Plane, agent_id: str) -> dict[str, Any]:
    """Move the traffic path to the primary of the highest epoch there is."""
    moved = move_traffic(plane, agent_id)
    return {"moved": moved}


def confirm_serving(plane: Plane, agent_id: str, epoch: int) -> dict[str, Any]:
    """Make sure that the promoted instance serves, now that traffic reaches it.

    Returns:
        `decision`: `demote` (an operator wants the old primary as the standby), or `record`.

    Raises:
        NotServingYet: Not yet; ask again.
    """
    agent = plane.records.agent(agent_id)
    if agent.epoch == epoch + 1 and not _serves(plane, agent, epoch):
        raise NotServingYet(f"{agent.primary_instance_id} has not reported a passed health check under {agent.epoch}")
    demotes = agent.claim_epoch == epoch and agent.claim_demotes and not claims.is_emergency(agent.claim_urgency)
    return {
        "decision": "demote" if demotes else "record",
        "epoch": agent.epoch,
        "instance_id": agent.primary_instance_id,
    }


def demote_old_primary(plane: Plane, agent_id: str, epoch: int) -> dict[str, Any]:
    """Make the old primary the new one's standby, if it still can be; what can not be done now, the sweep does.

    Under the claim that led here the new primary reports often, and so learns of its standby at once.
    """
    agent = plane.records.agent(agent_id)
    former_primaries.look_after(plane, agent)
    switch = plane.records.switch(agent_id, handover.switch_id_for(epoch + 1))
    return {"old_primary": None if switch is None else switch.old_primary}


def record_switch(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Write down what the failover achieved, and release the claim if it is still its own.

    Raises:
        Transient: Not all of it is written; do it again. Nobody waits for this claim: the epoch that it is for is over.
    """
    agent = plane.records.agent(agent_id)
    switch = plane.records.switch(agent_id, handover.switch_id_for(epoch + 1))
    achieved: Mapping[str, Any] = {}
    if switch is not None:
        serving = agent.epoch == switch.epoch and not agent.lost
        achieved = interruptions.conclude(plane, agent, switch, serving=serving, now=plane.clock())
    _commit_or_leave(plane, claims.release(agent, epoch=epoch, attempt=attempt))
    return {"epoch_before": epoch, "epoch_after": agent.epoch, **achieved}


def abort_handover(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Abort what this attempt left open, so that the primary thaws. A promotion that came first stands."""
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        mine = agent.claim_epoch == epoch and agent.claim_attempt == attempt
        if agent.epoch != epoch or not agent.handover_open or not mine or agent.handover_id is None:
            return {"handover_state": agent.handover_state, "epoch": agent.epoch}
        if agent.handover_primary_dead:
            # Nothing would thaw; the standby may still commit, and the next attempt adopts the handover.
            return {"handover_state": agent.handover_state, "epoch": agent.epoch}
        try:
            plane.records.commit(handover.abort(agent, handover_id=agent.handover_id))
        except (ConditionFailed, OutcomeUnknown):
            continue
    raise OutcomeUnknown(f"agent {agent_id} kept changing while its handover was being aborted")


def record_failure(plane: Plane, agent_id: str, epoch: int, attempt: int, *, cause: str) -> dict[str, Any]:
    """Write down why the attempt failed, and release its claim, so that the next signal starts the next attempt.

    One that failed after its promotion says so too: the promoted instance may have died before it served, and then the
    next epoch's failover is what succeeds.
    """
    agent = plane.records.agent(agent_id)
    # A later attempt of the same epoch will say itself what came of it; one of a later epoch has its own to tell.
    if agent.claim_epoch > epoch or (agent.claim_epoch == epoch and agent.claim_attempt == attempt):
        with suppress(Transient):
            interruptions.conclude_failed(plane, agent, epoch, cause=cause[:1000])
    _commit_or_leave(plane, claims.release(agent, epoch=epoch, attempt=attempt))
    return {"cause": cause[:1000], "epoch": agent.epoch}


def mark_lost(plane: Plane, agent_id: str, epoch: int, attempt: int) -> dict[str, Any]:
    """Every copy of the state is gone: say so, and let nothing start on empty state."""
    agent = _current(plane, agent_id, epoch, attempt)
    restorable = newest_usable(agent, now=plane.clock()) is not None
    if restorable and _restoring(plane, agent) is not Restoring.GIVE_UP:
        raise SnapshotFound(f"snapshot {agent.snapshot_id} was completed since; select again and restore it")
    if not _promoted(agent, epoch):
        # Nobody looks after a lost agent any more.
        replication.let_go_of_ended(plane, agent_id)
        failure = handover.NOTHING_RESTORED if restorable else "every copy of the state is gone"
        with suppress(Transient):
            interruptions.conclude_failed(plane, agent, epoch, cause=failure)
            interruptions.conclude_left_behind(plane, agent, is_lost=True)
        plane.records.commit(claims.give_up(agent, epoch=epoch, attempt=attempt))
    return {"lost": not _promoted(agent, epoch)}


def move_traffic(plane: Plane, agent_id: str, *, is_astray: bool = False) -> bool:
    """Point the traffic path at the primary of the highest epoch; read the row again after each move.

    A mover that was overtaken by a later promotion sees the later epoch when it reads again, and repairs what it did:
    also where the later one's mover has recorded his own move already, for ours may have come after it.

    Args:
        plane: The ports.
        agent_id: Whose.
        is_astray: Move it even where the row says that it was moved.

    Raises:
        AddressNotMovable: Not now; try again.
    """
    moved_for = None
    for _ in range(TRIES):
        agent = plane.records.agent(agent_id)
        recorded = agent.traffic_epoch >= agent.epoch
        if recorded and (moved_for == agent.epoch or (moved_for is None and not is_astray)):
            return moved_for is not None
        traffic.move(plane, agent)
        moved_for = agent.epoch
        if recorded:
            continue
        try:
            plane.records.commit(handover.traffic_moved(agent))
        except (ConditionFailed, OutcomeUnknown):
            continue
        return True
    raise AddressNotMovable(f"the epoch of {agent_id} kept changing while its traffic was being moved")


def _assess_promoted(plane: Plane, agent: Agent, epoch: int) -> str:
    if _serves(plane, agent, epoch):
        return "serving"
    if proven_dead(plane, agent.primary_instance_id):
        raise HandoverFailed(
            f"{agent.primary_instance_id} was promoted to epoch {agent.epoch} and died before it served"
        )
    promoted_at = agent.last_failover_at or plane.clock()
    if abs(plane.clock() - promoted_at) > SERVE_PATIENCE:
        raise HandoverFailed(
            f"{agent.primary_instance_id} was promoted to epoch {agent.epoch} and does not come to serve"
        )
    return "wait"


def _assess_overtaken(plane: Plane, agent: Agent, epoch: int) -> str:
    """If it serves, one thing is left to do: to move the traffic. The next failover does that at its end only."""
    if agent.epoch > epoch + 1 or agent.lost:
        return "overtaken"
    if _serves(plane, agent, epoch):
        return "serving"
    raise NotServingYet(f"{agent.primary_instance_id} does not serve under {agent.epoch}, and is failed over already")


def _serves(plane: Plane, agent: Agent, epoch: int) -> bool:
    if not _promoted(agent, epoch):
        return False
    heartbeat = plane.records.heartbeat(agent.agent_id, agent.primary_instance_id)
    return heartbeat is not None and heartbeat.serves_under(agent.epoch)


def _patience(plane: Plane, agent: Agent) -> timedelta:
    """How long an open handover is given: to restore takes its time, and bounded it is all the same."""
    if not agent.handover_primary_dead:
        return HANDOVER_PATIENCE
    newest = None
    if agent.handover_snapshot_id is not None:
        newest = plane.records.snapshot(agent.agent_id, agent.handover_snapshot_id)
    if newest is None:
        return PROOF_PATIENCE
    return min(PROOF_PATIENCE + newest.state_bytes / RESTORED_BYTES_PER_SECOND * timedelta(seconds=1), LONGEST_PATIENCE)


def _is_primary_dead(plane: Plane, agent: Agent) -> bool:
    """Ask EC2, but only where the signals leave it open: a notice that has time left needs no such call."""
    overdue = agent.claim_deadline is not None and plane.clock() > agent.claim_deadline + DEADLINE_GRACE
    if agent.claim_urgency < Urgency.DEAD and not overdue:
        return False
    return plane.compute.states([agent.primary_instance_id]).get(agent.primary_instance_id) in DEAD_STATES


def _store_token(plane: Plane, agent_id: str, epoch: int, attempt: int, task_token: str) -> Agent:
    agent = _current_or_overtaken(plane, agent_id, epoch, attempt)
    if _is_overtaken(agent, epoch):
        return agent
    try:
        plane.records.commit(claims.store_task_token(agent, epoch=epoch, attempt=attempt, token=task_token))
    except ConditionFailed:
        agent = _current_or_overtaken(plane, agent_id, epoch, attempt)
        if not _is_overtaken(agent, epoch):
            raise
        return agent
    return plane.records.agent(agent_id)


def _creator(epoch: int, attempt: int) -> str:
    return f"fail-over:{epoch}-{attempt}"


def _commit_or_leave(plane: Plane, transaction: Transaction) -> None:
    """Commit what may as well have been done, or overtaken, by somebody else."""
    with suppress(ConditionFailed, Transient):
        plane.records.commit(transaction)
