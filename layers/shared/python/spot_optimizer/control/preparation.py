"""The tasks of the `prepare_replica` state machine: from a row that says `launching` to a standby that is ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spot_optimizer.control import replication, selecting
from spot_optimizer.control.plane import Plane, proven_dead
from spot_optimizer.domain import replicas
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.clients import OWNER_TAG
from spot_optimizer.domain.pools import LaunchTarget, Lifecycle, Pool
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import (
    ConditionFailed,
    LaunchRefused,
    NoPoolQualifies,
    OutcomeUnknown,
    PoolUnavailable,
    ReplicaFailed,
)

LAUNCHED = "launched"
ASKED = "asked"


def select_pool(plane: Plane, agent_id: str, replica_id: str) -> dict[str, Any]:
    """Choose where to launch next: the first target, in order, that this replica has not tried.

    Returns:
        `number` of the attempt, `pool_id`, `lifecycle`, `subnet_id`. A repeated call repeats an attempt whose outcome
        is not known, so that it is asked for again under the same client token.

    Raises:
        NoPoolQualifies: Everything was tried, on-demand too.
        ReplicaFailed: The replica was ended meanwhile.
    """
    agent = plane.records.agent(agent_id)
    replica = _living(plane, agent_id, replica_id)
    if replica.status is not ReplicaState.LAUNCHING:
        # A primary that was demoted: nothing has to be launched, only to be waited for.
        return {
            "number": replica.launch_number,
            "pool_id": replica.pool_id,
            "lifecycle": replica.lifecycle or "",
            "subnet_id": "",
        }
    subnets = plane.compute.subnets(agent.subnet_ids)
    asked = [attempt for attempt in replica.attempts if attempt["outcome"] in (ASKED, LAUNCHED)]
    if asked:
        pool = Pool.parse(asked[-1]["pool_id"])
        return _choice(
            replica.launch_number,
            LaunchTarget(pool, Lifecycle(asked[-1]["lifecycle"]), subnets[pool.availability_zone]),
        )
    tried = {(attempt["pool_id"], attempt["lifecycle"]) for attempt in replica.attempts}
    for target in _order(plane, agent, replica, subnets):
        if (target.pool.pool_id, target.lifecycle) not in tried:
            return _choice(replica.launch_number + 1, target)
    raise NoPoolQualifies(
        f"all {len(tried)} ways to launch replica {replica_id} were tried: "
        + ", ".join(f"{attempt['pool_id']} {attempt['outcome']}" for attempt in replica.attempts)
    )


def launch_instance(
    plane: Plane, agent_id: str, replica_id: str, *, number: int, pool_id: str, lifecycle: str, subnet_id: str
) -> dict[str, Any]:
    """Launch one instance; the attempt is persisted first, and a retry of it repeats the same request.

    Raises:
        PoolUnavailable: No capacity or no quota; recorded. Select the next pool.
        LaunchRefused: No pool will do.
        ReplicaFailed: The replica was ended meanwhile; what was launched is terminated.
    """
    agent = plane.records.agent(agent_id)
    replica = _living(plane, agent_id, replica_id)
    if replica.status is not ReplicaState.LAUNCHING:
        return {"instance_id": replica.instance_id}
    if replica.launch_number < number:
        _commit(plane, replicas.begin_launch(replica, number=number, pool_id=pool_id, lifecycle=lifecycle))
        replica = _living(plane, agent_id, replica_id)
    if replica.launch_number < number:
        raise OutcomeUnknown(
            f"launch {number} of replica {replica_id} is not persisted, as it must be before AWS is asked"
        )
    if replica.launch_number > number or replica.attempts[-1]["outcome"] not in (ASKED, LAUNCHED):
        # This attempt is over; asking again under its token could launch an instance that nobody waits for.
        raise PoolUnavailable(f"launch {number} of replica {replica_id} is over; the latest is {replica.launch_number}")
    target = LaunchTarget(Pool.parse(pool_id), Lifecycle(lifecycle), subnet_id)
    try:
        instance_id = _launch(plane, agent, replica, target)
    except PoolUnavailable as refusal:
        _commit(plane, replicas.end_launch(replica, outcome=str(refusal)[:200], instance_id=None))
        raise
    _commit(plane, replicas.end_launch(replica, outcome=LAUNCHED, instance_id=instance_id))
    after = plane.records.replica(agent_id, replica_id)
    if after.instance_id == instance_id and (after.active or after.status is ReplicaState.PROMOTED):
        return {"instance_id": instance_id}
    if after.instance_id is None and after.active and after.launch_number == number:
        raise OutcomeUnknown(f"the launch of {instance_id} for replica {replica_id} is not recorded yet")
    plane.compute.terminate(instance_id)
    raise ReplicaFailed(f"replica {replica_id} went on or ended while it was launched; {instance_id} is terminated")


def await_agent(plane: Plane, agent_id: str, replica_id: str, *, task_token: str) -> None:
    """Leave the token for the agent's registration; then look whether it has come already."""
    replica = _store_token(plane, agent_id, replica_id, task_token)
    if replica.status is not ReplicaState.LAUNCHING:
        plane.workflows.wake(task_token)


def await_sync(plane: Plane, agent_id: str, replica_id: str, *, task_token: str) -> None:
    """Leave the token for the report that the replica is ready; then look whether it has come already."""
    replica = _store_token(plane, agent_id, replica_id, task_token)
    if replica.status not in (ReplicaState.LAUNCHING, ReplicaState.SYNCING):
        plane.workflows.wake(task_token)


def confirm_ready(plane: Plane, agent_id: str, replica_id: str) -> dict[str, Any]:
    """Look what became of the replica.

    Returns:
        `decision`: `ready`, or `wait` while it syncs.

    Raises:
        ReplicaFailed: It has ended.
    """
    replica = plane.records.replica(agent_id, replica_id)
    if replica.status in (ReplicaState.READY, ReplicaState.PROMOTED):
        return {"decision": "ready", "instance_id": replica.instance_id}
    if not replica.active:
        raise ReplicaFailed(f"replica {replica_id} is '{replica.status}': {replica.failure}")
    if replica.instance_id is not None and proven_dead(plane, replica.instance_id):
        raise ReplicaFailed(f"instance {replica.instance_id} of replica {replica_id} died before it was ready")
    return {"decision": "wait", "instance_id": replica.instance_id}


def fail_replica(plane: Plane, agent_id: str, replica_id: str, *, cause: str) -> dict[str, Any]:
    """End a replica that could not be prepared, and let go of its instance, also of one that was never recorded.

    A standby that has joined and lives is left as it is, whatever its preparation could not do in the end: its primary
    makes it ready all the same; and if that is dead, which EC2 may not have noticed, this may be the newest copy.
    """
    replica = plane.records.replica(agent_id, replica_id)
    if replica.active and replica.status is not ReplicaState.LAUNCHING:
        if replica.instance_id is not None and proven_dead(plane, replica.instance_id):
            replica = replication.end_replica(plane, agent_id, replica_id, reason=cause[:1000])
        return {"status": replica.status, "cause": cause[:1000]}
    replica = replication.give_up_launch(plane, agent_id, replica_id, reason=cause[:1000])
    if replica.instance_id is None and replica.attempts and replica.attempts[-1]["outcome"] == ASKED:
        _terminate_unrecorded(plane, replica)
    return {"status": replica.status, "cause": cause[:1000]}


def _launch(plane: Plane, agent: Agent, replica: Replica, target: LaunchTarget) -> str:
    """Ask for the replica's latest attempt; asking again gives the same instance."""
    return plane.compute.launch(
        target,
        launch_template_id=agent.launch_template_id,
        client_token=f"{replica.replica_id}-{replica.launch_number}",
        user_data=plane.joining.user_data(
            agent_id=agent.agent_id,
            replica_id=replica.replica_id,
            launch_number=replica.launch_number,
            now=replica.created_at,
        ),
        tags={
            replicas.AGENT_TAG: agent.agent_id,
            replicas.REPLICA_TAG: replica.replica_id,
            OWNER_TAG: agent.client_id,
        },
    ).instance_id


def _terminate_unrecorded(plane: Plane, replica: Replica) -> None:
    """An instance may run of which no row knows: the same client token tells which."""
    agent = plane.records.agent(replica.agent_id)
    pool = Pool.parse(replica.attempts[-1]["pool_id"])
    subnet_id = plane.compute.subnets(agent.subnet_ids)[pool.availability_zone]
    target = LaunchTarget(pool, Lifecycle(replica.attempts[-1]["lifecycle"]), subnet_id)
    try:
        instance_id = _launch(plane, agent, replica, target)
    except (PoolUnavailable, LaunchRefused):
        return
    plane.compute.terminate(instance_id)


def _order(plane: Plane, agent: Agent, replica: Replica, subnets: Mapping[str, str]) -> tuple[LaunchTarget, ...]:
    if replica.requested_pool_id is not None:
        pool = Pool.parse(replica.requested_pool_id)
        subnet_id = subnets.get(pool.availability_zone)
        if subnet_id is None:
            raise NoPoolQualifies(
                f"pool {pool.pool_id} is asked for, and the agent has no subnet in {pool.availability_zone}; it has "
                f"{sorted(subnets)}"
            )
        lifecycle = Lifecycle(replica.requested_lifecycle or Lifecycle.SPOT)
        if pool.pool_id == agent.primary_pool_id and lifecycle is Lifecycle.SPOT:
            raise NoPoolQualifies(
                f"pool {pool.pool_id} is asked for, and the primary runs there by now; a standby never shares its pool"
            )
        return (LaunchTarget(pool, lifecycle, subnet_id),)
    order = selecting.launch_order(
        plane,
        agent,
        subnets,
        excluded_zones=replica.exclude_zones,
        safest_first=replica.type not in (ReplicaType.MANUAL, ReplicaType.SWITCH),
        under_notice=replica.type is ReplicaType.AUTOMATIC_TERMINATION,
    )
    return tuple(target for target in order if replica.requested_lifecycle in (None, target.lifecycle))


def _choice(number: int, target: LaunchTarget) -> dict[str, Any]:
    return {
        "number": number,
        "pool_id": target.pool.pool_id,
        "lifecycle": target.lifecycle,
        "subnet_id": target.subnet_id,
    }


def _living(plane: Plane, agent_id: str, replica_id: str) -> Replica:
    replica = plane.records.replica(agent_id, replica_id)
    if not replica.active:
        raise ReplicaFailed(f"replica {replica_id} is '{replica.status}': {replica.failure}")
    return replica


def _store_token(plane: Plane, agent_id: str, replica_id: str, task_token: str) -> Replica:
    replica = plane.records.replica(agent_id, replica_id)
    plane.records.commit(replicas.store_task_token(replica, task_token))
    return plane.records.replica(agent_id, replica_id)


def _commit(plane: Plane, transaction: Transaction) -> None:
    """Commit a step of a launch; that it was done before, or overtaken by the agent's own joining, is found on the
    row.
    """
    try:
        plane.records.commit(transaction)
    except (ConditionFailed, OutcomeUnknown):
        return
