"""What the control plane does on an agent's request and on a task's: the real functions, by the names they go by.

Requests are answered in the terms of the agent's protocol. Authentication and parsing are for the API's tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from spot_optimizer.control import (
    emergencies,
    failover,
    heartbeats,
    pausing,
    preparation,
    replication,
    signals,
    snapshots,
    switching,
    sync_reports,
)
from spot_optimizer.control.plane import Plane
from spot_optimizer.domain import replicas, tokens
from spot_optimizer.domain.agents import Heartbeat, Instance, InstanceRole
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.orders import Orders
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.signals import Signal, SignalType, from_eventbridge
from spot_optimizer.domain.snapshots import snapshot_id_for
from spot_optimizer.errors import (
    ConditionFailed,
    ControlPlaneUnavailable,
    OutcomeUnknown,
    ReplicaFailed,
    StaleEpoch,
)

if TYPE_CHECKING:
    from spot_optimizer.domain.agents import Agent

Payload = Mapping[str, Any]


def _attempt(payload: Payload) -> tuple[str, int, int]:
    return payload["agent_id"], payload["epoch"], payload["attempt"]


def _replica(payload: Payload) -> tuple[str, str]:
    return payload["agent_id"], payload["replica_id"]


def _launch(plane: Plane, payload: Payload) -> Any:
    target = payload["target"]
    return preparation.launch_instance(
        plane,
        *_replica(payload),
        number=target["number"],
        pool_id=target["pool_id"],
        lifecycle=target["lifecycle"],
        subnet_id=target["subnet_id"],
    )


Task = Callable[[Plane, Payload], Any]

FAIL_OVER_TASKS: Mapping[str, Task] = {
    "NoteSignal": lambda plane, e: signals.note_signal(plane, from_eventbridge(e["event"])).as_payload(),
    "SweepSilentAgents": lambda plane, _: signals.sweep(plane),
    "ReconcileTraffic": lambda plane, e: {"moved": signals.reconcile_traffic(plane, e["agent_id"])},
    "RecordInterruption": lambda plane, e: failover.record_interruption(plane, *_attempt(e)),
    "SelectStandby": lambda plane, e: failover.select_standby(plane, *_attempt(e)),
    "LaunchReplacement": lambda plane, e: failover.launch_replacement(plane, *_attempt(e)),
    "AwaitReady": lambda plane, e: failover.await_ready(plane, *_attempt(e), task_token=e["task_token"]),
    "OpenHandover": lambda plane, e: failover.open_handover(plane, *_attempt(e)),
    "RestoreSnapshot": lambda plane, e: failover.open_handover(plane, *_attempt(e)),
    "AwaitServing": lambda plane, e: failover.await_serving(plane, *_attempt(e), task_token=e["task_token"]),
    "AssessHandover": lambda plane, e: failover.assess_handover(plane, *_attempt(e)),
    "SwitchTraffic": lambda plane, e: failover.switch_traffic(plane, e["agent_id"]),
    "ConfirmServing": lambda plane, e: failover.confirm_serving(plane, e["agent_id"], e["epoch"]),
    "DemoteOldPrimary": lambda plane, e: failover.demote_old_primary(plane, e["agent_id"], e["epoch"]),
    "RecordSwitch": lambda plane, e: failover.record_switch(plane, *_attempt(e)),
    "MarkLost": lambda plane, e: failover.mark_lost(plane, *_attempt(e)),
    "AbortHandover": lambda plane, e: failover.abort_handover(plane, *_attempt(e)),
    "RecordFailure": lambda plane, e: failover.record_failure(plane, *_attempt(e), cause=e["cause"]),
}
PREPARE_REPLICA_TASKS: Mapping[str, Task] = {
    "SelectPool": lambda plane, e: preparation.select_pool(plane, *_replica(e)),
    "LaunchInstance": _launch,
    "AwaitAgent": lambda plane, e: preparation.await_agent(plane, *_replica(e), task_token=e["task_token"]),
    "AwaitSync": lambda plane, e: preparation.await_sync(plane, *_replica(e), task_token=e["task_token"]),
    "ConfirmReady": lambda plane, e: preparation.confirm_ready(plane, *_replica(e)),
    "FailReplica": lambda plane, e: preparation.fail_replica(plane, *_replica(e), cause=e["cause"]),
}
MACHINES: Mapping[str, Mapping[str, Task]] = {"fail_over": FAIL_OVER_TASKS, "prepare_replica": PREPARE_REPLICA_TASKS}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as its token proves, and under which epoch it acts."""

    agent_id: str
    instance_id: str
    epoch: int


def heartbeat(plane: Plane, caller: Caller, *, role: str, serving: bool, reconciling: heartbeats.Reconciling) -> Orders:
    """Take a sign of life; answers where its sender stands."""
    sign = Heartbeat(
        agent_id=caller.agent_id,
        instance_id=caller.instance_id,
        epoch=caller.epoch,
        role=role,
        serving=serving,
        healthy=serving,
        at=plane.clock(),
    )
    bearer = tokens.Caller(
        kind=tokens.TokenKind.AGENT,
        token_id=caller.instance_id,
        expires_at=plane.clock() + tokens.LIFETIMES[tokens.TokenKind.AGENT],
    )
    return heartbeats.take_heartbeat(plane, sign, caller=bearer, reconciling=reconciling).orders


def ready(
    plane: Plane, caller: Caller, *, replica_id: str, readiness: int, lag_seconds: float, covered_until: str
) -> None:
    report = sync_reports.SyncReport(
        epoch=caller.epoch,
        generation=0,
        sync_percent=100.0,
        lag_seconds=lag_seconds,
        covered_until=datetime.fromisoformat(covered_until),
        readiness=readiness,
    )
    sync_reports.report_sync(plane, caller.agent_id, replica_id, caller.instance_id, report)


def unready(plane: Plane, caller: Caller, *, replica_id: str, readiness: int) -> None:
    replication.report_unready(
        plane,
        caller.agent_id,
        replica_id,
        instance_id=caller.instance_id,
        epoch=caller.epoch,
        readiness=readiness,
    )


def progress(
    plane: Plane, caller: Caller, *, replica_id: str, generation: int, lag_seconds: float, covered_until: str
) -> None:
    replication.report_progress(
        plane,
        caller.agent_id,
        replica_id,
        epoch=caller.epoch,
        generation=generation,
        sync_percent=100.0,
        lag_seconds=lag_seconds,
        covered_until=datetime.fromisoformat(covered_until),
    )


def commit(
    plane: Plane,
    caller: Caller,
    *,
    handover_id: str,
    basis: Basis,
    readiness: int,
    covered_until: str | None,
    lag_seconds: float | None,
) -> int:
    """Answers the new epoch."""
    return replication.commit_handover(
        plane,
        caller.agent_id,
        handover_id,
        instance_id=caller.instance_id,
        epoch=caller.epoch,
        basis=basis,
        readiness=readiness,
        covered_until=None if covered_until is None else datetime.fromisoformat(covered_until),
        lag_seconds=lag_seconds,
    ).epoch


def abort(plane: Plane, caller: Caller, *, handover_id: str) -> None:
    sync_reports.abort_as_party(plane, caller.agent_id, handover_id, caller.instance_id, epoch=caller.epoch)


def notice(plane: Plane, caller: Caller, *, deadline: str) -> None:
    _alarm(plane, caller, SignalType.TERMINATION_NOTICE, termination_time=datetime.fromisoformat(deadline))


def rebalance(plane: Plane, caller: Caller) -> None:
    _alarm(plane, caller, SignalType.REBALANCE_RECOMMENDATION)


def silent(plane: Plane, caller: Caller, *, primary_instance_id: str) -> None:
    _alarm(plane, caller, SignalType.PRIMARY_SILENT, about=primary_instance_id)


def _alarm(
    plane: Plane,
    caller: Caller,
    kind: SignalType,
    *,
    about: str | None = None,
    termination_time: datetime | None = None,
) -> None:
    alarm = emergencies.Alarm(
        instance_id=about or caller.instance_id,
        type=kind,
        reporter=caller.instance_id,
        epoch=caller.epoch,
        termination_time=termination_time,
    )
    emergencies.take_alarm(plane, caller.agent_id, alarm)


def join(plane: Plane, agent_id: str, *, replica_id: str, instance: Instance) -> int:
    """A launched instance proves itself and begins to sync. Answers the epoch it follows.

    Raises:
        ReplicaFailed: The replica has ended, or the instance is not the one that it is for.
    """
    for _ in range(replication.TRIES):
        replica = plane.records.replica(agent_id, replica_id)
        agent: Agent = plane.records.agent(agent_id)
        if replica.instance_id is None and not replica.active:
            raise ReplicaFailed(f"replica {replica_id} is '{replica.status}'")
        if replica.instance_id is None:
            raise ControlPlaneUnavailable("the launch is still being recorded")
        if replica.instance_id != instance.instance_id:
            raise ReplicaFailed(f"replica {replica_id} is for {replica.instance_id}")
        if replica.active and replica.status is not replicas.ReplicaState.LAUNCHING:
            return replica.epoch
        if replica.status is not replicas.ReplicaState.LAUNCHING:
            raise ReplicaFailed(f"replica {replica_id} is '{replica.status}'")
        if agent.epoch != replica.epoch:
            raise StaleEpoch(f"replica {replica_id} follows {replica.epoch}", current_epoch=agent.epoch)
        try:
            plane.records.commit(replicas.join(agent, replica, instance))
        except (ConditionFailed, OutcomeUnknown):
            continue
        replication.wake_all(plane, agent, plane.records.replica(agent_id, replica_id))
    raise OutcomeUnknown(f"replica {replica_id} kept changing")


def standby_row(
    agent_id: str, replica_id: str, *, instance_id: str, pool_id: str, epoch: int, now: datetime
) -> Instance:
    """What a launched instance says of itself."""
    return Instance(
        instance_id=instance_id,
        agent_id=agent_id,
        client_id="acme",
        role=InstanceRole.STANDBY,
        pool_id=pool_id,
        epoch=epoch,
        private_address=instance_id,
        sync_port=7443,
        certificate=f"certificate of {instance_id}",
        joined_at=now,
        replica_id=replica_id,
    )


def operator_creates_replica(plane: Plane, agent_id: str, *, purpose: str | None) -> None:
    replication.create_replica(
        plane, agent_id, replica_type=replicas.ReplicaType.MANUAL, created_by="operator", purpose=purpose
    )


def operator_pauses(plane: Plane, agent_id: str, *, everything: bool) -> None:
    if everything:
        pausing.pause_all(plane, reason="an operator asked")
    else:
        pausing.pause_agent(plane, agent_id, reason="an operator asked")


def operator_resumes(plane: Plane, agent_id: str, *, everything: bool) -> None:
    if everything:
        pausing.resume_all(plane)
    else:
        pausing.resume_agent(plane, agent_id)


def operator_promotes(plane: Plane, agent_id: str, *, demote_old_primary: bool) -> None:
    """Promote the active replica; if there is none, as when it is gone by the time that the request comes through."""
    agent = plane.records.agent(agent_id)
    if agent.active_replica_id is not None:
        emergencies.plan_handover(
            plane, agent_id, agent.active_replica_id, reason="operator", demote_old_primary=demote_old_primary
        )
        return
    wish = Signal(
        instance_id=agent.primary_instance_id,
        type=SignalType.OPERATOR,
        at=plane.clock(),
        reason="operator",
        demote_old_primary=demote_old_primary,
    )
    signals.start_fail_over(plane, agent_id, wish)


def operator_switches(plane: switching.SwitchingPlane, agent_id: str, *, on_demand: bool) -> None:
    """Have the workload moved: to the standby that is there, or to a replica that is made for it."""
    wanted = switching.Wanted(
        trigger=SignalType.OPERATOR,
        by="operator",
        reason="an operator asked",
        pool_id=None,
        lifecycle=Lifecycle.ON_DEMAND if on_demand else Lifecycle.SPOT,
    )
    issued = switching.issue(plane, agent_id, wanted)
    signals.hand_over_if_asked(plane, agent_id, issued.replica.replica_id)


def operator_aborts(plane: Plane, agent_id: str, *, handover_id: str) -> None:
    emergencies.abort_planned(plane, agent_id, handover_id)


def operator_terminates_replica(plane: Plane, agent_id: str) -> None:
    agent = plane.records.agent(agent_id)
    if agent.active_replica_id is not None:
        replication.terminate_replica(plane, agent_id, agent.active_replica_id, reason="an operator asked")


def complete_snapshot(
    plane: Plane,
    caller: Caller,
    objects: snapshots.SnapshotObjects,
    *,
    generation: int,
    previous_id: str | None,
    taken_at: datetime,
    frozen: bool,
) -> None:
    """All of a snapshot is uploaded."""
    snapshots.complete(
        plane,
        plane.records,
        objects,
        caller.agent_id,
        snapshot_id_for(epoch=caller.epoch, generation=generation),
        instance_id=caller.instance_id,
        taken=snapshots.Taken(
            epoch=caller.epoch,
            generation=generation,
            previous_id=previous_id,
            taken_at=taken_at,
            frozen=frozen,
            root_hash="",
            state_bytes=1,
        ),
        upload_id="",
        parts=[snapshots.UploadedPart(1, 1, "", "")],
    )


def latest_snapshot(
    plane: Plane, caller: Caller, objects: snapshots.SnapshotObjects
) -> tuple[snapshots.Restorable, ...]:
    """What has to be restored."""
    return snapshots.find(plane, plane.records, objects, caller.agent_id, at=None)
