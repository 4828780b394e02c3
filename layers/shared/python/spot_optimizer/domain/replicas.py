"""Replicas: instances that are being prepared to take over, and the conditional writes of their life.

`launching → syncing ⇄ ready → promoted | terminated | failed`. Only the primary turns a replica ready, because being
ready binds the primary to the replica's lease; a readiness number makes a delayed report of an earlier readiness
harmless.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from spot_optimizer.domain.agents import NOT_OPEN, Agent, Instance
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.writes import AtMost, Below, Change, Equals, Missing, OneOf, Present, Table, Transaction

AGENT_TAG = "spot-optimizer:agent"
REPLICA_TAG = "spot-optimizer:replica"
"""What is launched for a replica carries its agent's id and its own under these tags; nothing else is ever ended."""


class ReplicaState(enum.StrEnum):
    """The life of a replica."""

    LAUNCHING = "launching"
    SYNCING = "syncing"
    READY = "ready"
    PROMOTED = "promoted"
    TERMINATED = "terminated"
    FAILED = "failed"


ACTIVE_STATES = (ReplicaState.LAUNCHING, ReplicaState.SYNCING, ReplicaState.READY)


class ReplicaType(enum.StrEnum):
    """Why a replica was made; the values are the seed's."""

    MANUAL = "manual"
    AUTOMATIC_REBALANCE = "automatic-rebalance"
    AUTOMATIC_TERMINATION = "automatic-termination"
    AUTOMATIC_PROTECTION = "automatic-protection"
    """The state is too big to be carried within a notice: it always needs a standby."""

    SWITCH = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """An instance being prepared to take over.

    Attributes:
        epoch: The agent's epoch whose primary it follows.
        readiness: Number of the latest readiness report, rising with each; 0 before the first.
        launch_number: Number of the latest launch attempt; part of that attempt's client token.
        attempts: Every launch attempt: `{number, pool_id, lifecycle, outcome}`.
        generation: Number of the last generation the standby holds durably; 0 for none.
        covered_until: The primary's state up to here is on the standby.
        sync_done_bytes: Bytes of state dealt with, of the generation that was under way when that was reported.
        sync_total_bytes: Bytes of state that have to be dealt with for it.
        sync_bytes_per_second: Its rate.
        requested_lifecycle: How it has to be bought; None lets on-demand stand in where spot has no capacity.
        switch_reason: It is to take over as soon as it is ready: `operator` or `auto-switch`; None where it only
            stands by.
        switch_explanation: Why, for people.
        switch_asked_at: When.
        switch_handovers_before: Handovers that had been opened in this epoch by then.
        old_usd_per_hour: What the primary's place cost then; None if nobody knew.
        new_usd_per_hour: What the replica's was expected to cost.
    """

    agent_id: str
    replica_id: str
    type: ReplicaType
    status: ReplicaState
    epoch: int
    created_by: str
    created_at: datetime
    requested_pool_id: str | None = None
    exclude_zones: tuple[str, ...] = ()
    pool_id: str | None = None
    lifecycle: str | None = None
    instance_id: str | None = None
    readiness: int = 0
    launch_number: int = 0
    attempts: tuple[Mapping[str, Any], ...] = ()
    generation: int = 0
    sync_percent: float = 0.0
    lag_seconds: float | None = None
    covered_until: datetime | None = None
    sync_done_bytes: int | None = None
    sync_total_bytes: int | None = None
    sync_bytes_per_second: float | None = None
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    failure: str | None = None
    task_token: str | None = None
    requested_lifecycle: str | None = None
    switch_reason: SignalType | None = None
    switch_explanation: str | None = None
    switch_asked_at: datetime | None = None
    switch_handovers_before: int = 0
    old_usd_per_hour: Decimal | None = None
    new_usd_per_hour: Decimal | None = None

    @property
    def active(self) -> bool:
        """Whether the replica can still take over."""
        return self.status in ACTIVE_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPace:
    """How far, and how fast, the generation is that is under way."""

    done_bytes: int
    total_bytes: int
    bytes_per_second: float


def replica_id_for(agent_id: str, *, epoch: int, purpose: str) -> str:
    """Derive the id of the replica that a purpose calls for, so that two triggers of one purpose make one replica."""
    digest = hashlib.sha256(f"{agent_id}/{epoch}/{purpose}".encode()).hexdigest()
    return f"rep-{digest[:20]}"


def create(agent: Agent, replica: Replica) -> Transaction:
    """Make a replica the agent's one active replica.

    One active replica at a time keeps the lease simple: there is exactly one lessor to wait for.
    """
    return Transaction(
        "create replica",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "one active replica per agent",
                only_if={"epoch": Equals(agent.epoch), "active_replica_id": Missing(), "lost": Equals(False)},
                put={"active_replica_id": replica.replica_id, "replica_count": agent.replica_count + 1},
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "a replica id is used once",
                only_if={"replica_id": Missing()},
                put={
                    "type": replica.type,
                    "status": replica.status,
                    "epoch": replica.epoch,
                    "created_by": replica.created_by,
                    "created_at": replica.created_at,
                    "requested_pool_id": replica.requested_pool_id,
                    "exclude_zones": replica.exclude_zones,
                    "requested_lifecycle": replica.requested_lifecycle,
                    **switch_values(replica),
                    "readiness": 0,
                    "launch_number": 0,
                    "attempts": (),
                    "generation": 0,
                    "sync_percent": 0.0,
                },
            ),
        ),
    )


def switch_values(replica: Replica) -> dict[str, Any]:
    """What a replica's row says of the switch that it is for."""
    return {
        "switch_reason": replica.switch_reason,
        "switch_explanation": replica.switch_explanation,
        "switch_asked_at": replica.switch_asked_at,
        "switch_handovers_before": replica.switch_handovers_before,
        "old_usd_per_hour": replica.old_usd_per_hour,
        "new_usd_per_hour": replica.new_usd_per_hour,
    }


def ask_switch(standby: Replica, asked: Replica) -> Transaction:
    """Have a standby that is there take over for a switch: that begins as soon as the standby is ready.

    Args:
        standby: The agent's active replica as read; a switch that it was for before is given up.
        asked: The same, with what is to be written of the switch.
    """
    before = standby.switch_asked_at
    return Transaction(
        "ask switch",
        (
            Change(
                Table.REPLICAS,
                (standby.agent_id, standby.replica_id),
                "one switch at a time, to a replica that lives",
                only_if={
                    "status": OneOf(ACTIVE_STATES),
                    "switch_asked_at": Missing() if before is None else Equals(before),
                },
                put=switch_values(asked),
            ),
        ),
    )


def begin_launch(replica: Replica, *, number: int, pool_id: str, lifecycle: str) -> Transaction:
    """Persist a launch attempt before AWS is asked, so that a retry repeats it instead of launching twice."""
    attempt = {"number": number, "pool_id": pool_id, "lifecycle": lifecycle, "outcome": "asked"}
    return Transaction(
        "begin launch",
        (
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "launch attempts are counted",
                only_if={"status": Equals(ReplicaState.LAUNCHING), "launch_number": Equals(number - 1)},
                put={
                    "launch_number": number,
                    "pool_id": pool_id,
                    "lifecycle": lifecycle,
                    "attempts": (*replica.attempts, attempt),
                },
            ),
        ),
    )


def end_launch(replica: Replica, *, outcome: str, instance_id: str | None) -> Transaction:
    """Record how the current launch attempt ended; with an instance, the replica carries it from now on."""
    attempts = (*replica.attempts[:-1], {**replica.attempts[-1], "outcome": outcome})
    return Transaction(
        "end launch",
        (
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "only the current attempt is concluded",
                only_if={"status": Equals(ReplicaState.LAUNCHING), "launch_number": Equals(replica.launch_number)},
                put={"attempts": attempts, "instance_id": instance_id},
            ),
        ),
    )


def join(agent: Agent, replica: Replica, instance: Instance) -> Transaction:
    """The launched instance has proven itself: the replica begins to sync."""
    return Transaction(
        "join",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "a standby joins the epoch it was launched for",
                only_if={"epoch": Equals(replica.epoch), "active_replica_id": Equals(replica.replica_id)},
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "only a launching replica joins",
                only_if={"status": Equals(ReplicaState.LAUNCHING)},
                put={"status": ReplicaState.SYNCING, "instance_id": instance.instance_id},
            ),
            Change(
                Table.INSTANCES,
                (instance.instance_id,),
                "an instance joins once",
                only_if={"instance_id": Missing()},
                put=instance_values(instance),
            ),
        ),
    )


def instance_values(instance: Instance) -> dict[str, Any]:
    """The attributes of a new instance row, without its key."""
    return {
        "agent_id": instance.agent_id,
        "client_id": instance.client_id,
        "role": instance.role,
        "pool_id": instance.pool_id,
        "epoch": instance.epoch,
        "private_address": instance.private_address,
        "sync_port": instance.sync_port,
        "certificate": instance.certificate,
        "joined_at": instance.joined_at,
        "replica_id": instance.replica_id,
        "launched_at": instance.launched_at,
    }


def report_ready(
    agent: Agent, replica: Replica, *, readiness: int, lag_seconds: float, covered_until: datetime, now: datetime
) -> Transaction:
    """The primary holds the replica's lease and the replica is close behind: it may take over from now on.

    The check on the agent's row fences a primary of an earlier epoch; the readiness number fences a report that was
    delayed on its way while the primary already took it back.
    """
    return Transaction(
        "report ready",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "only the current primary makes a standby ready",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "primary_instance_id": Equals(agent.primary_instance_id),
                    "active_replica_id": Equals(replica.replica_id),
                },
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "a delayed readiness report is void",
                only_if={"status": Equals(ReplicaState.SYNCING), "readiness": Below(readiness)},
                put={
                    "status": ReplicaState.READY,
                    "readiness": readiness,
                    "lag_seconds": lag_seconds,
                    "covered_until": covered_until,
                    "ready_at": now,
                    "sync_percent": 100.0,
                },
            ),
        ),
    )


def report_unready(agent: Agent, replica: Replica, *, readiness: int) -> Transaction:
    """The primary takes readiness back; this write competes with the promotion, and whichever comes first wins."""
    return Transaction(
        "report unready",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "only the current primary takes readiness back",
                only_if={"epoch": Equals(agent.epoch), "primary_instance_id": Equals(agent.primary_instance_id)},
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "readiness reports are in order",
                only_if={
                    "status": OneOf((ReplicaState.SYNCING, ReplicaState.READY)),
                    "readiness": AtMost(readiness),
                },
                put={"status": ReplicaState.SYNCING, "readiness": readiness, "ready_at": None},
            ),
        ),
    )


def record_sync(
    replica: Replica,
    *,
    generation: int,
    sync_percent: float,
    lag_seconds: float | None,
    covered_until: datetime | None,
    pace: SyncPace | None = None,
) -> Transaction:
    """Record how far the standby is; it changes no state."""
    return Transaction(
        "record sync",
        (
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "progress belongs to an active replica, and goes forwards",
                only_if={
                    "status": OneOf((ReplicaState.SYNCING, ReplicaState.READY)),
                    "generation": AtMost(generation),
                },
                put={
                    "generation": generation,
                    "sync_percent": sync_percent,
                    "lag_seconds": lag_seconds,
                    "covered_until": covered_until,
                    **_of_pace(pace),
                },
            ),
        ),
    )


def _of_pace(pace: SyncPace | None) -> dict[str, Any]:
    if pace is None:
        return {}
    return {
        "sync_done_bytes": pace.done_bytes,
        "sync_total_bytes": pace.total_bytes,
        "sync_bytes_per_second": pace.bytes_per_second,
    }


def end(agent_id: str, replica: Replica, *, reason: str, now: datetime) -> Transaction:
    """End a replica whose instance is dead. Competes with its promotion: a promoted replica is not ended.

    Args:
        agent_id: Its agent.
        replica: The replica as read.
        reason: What an operator reads.
        now: When.
    """
    return Transaction(
        "end replica",
        (
            Change(
                Table.REPLICAS,
                (agent_id, replica.replica_id),
                "a promoted replica is not ended",
                only_if={"status": OneOf(ACTIVE_STATES)},
                put={"status": ReplicaState.FAILED, "failure": reason, "ended_at": now},
            ),
            Change(
                Table.AGENTS,
                (agent_id,),
                "no replica ends while a handover to it is open",
                only_if={
                    "active_replica_id": Equals(replica.replica_id),
                    "handover_state": OneOf(NOT_OPEN),
                },
                put={"active_replica_id": None},
            ),
        ),
    )


def give_up_launch(replica: Replica, *, state: ReplicaState, reason: str, now: datetime) -> Transaction:
    """End a replica that no instance has joined as: it holds nothing, whatever has become of its primary.

    Args:
        replica: The replica as read, launching.
        state: `failed`, or `terminated` where somebody asked.
        reason: What an operator reads.
        now: When.
    """
    return Transaction(
        "give up launch",
        (
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "what has joined may hold the newest copy",
                only_if={"status": Equals(ReplicaState.LAUNCHING)},
                put={"status": state, "failure": reason, "ended_at": now},
            ),
            Change(
                Table.AGENTS,
                (replica.agent_id,),
                "the agent lets go of it",
                only_if={"active_replica_id": Equals(replica.replica_id)},
                put={"active_replica_id": None},
            ),
        ),
    )


def release(agent: Agent, replica: Replica, *, reason: str, now: datetime) -> Transaction:
    """End a replica that lives and that nobody needs, because its primary is well.

    Args:
        agent: The agent as it was read before its primary was looked at, with nothing under way. Has a failover begun
            since, the replica may be the newest copy there is: also where that failover has failed by now.
        replica: Its active replica.
        reason: What an operator reads.
        now: When.
    """
    return Transaction(
        "release replica",
        (
            Change(
                Table.AGENTS,
                (replica.agent_id,),
                "a standby is released only if nothing has begun since its primary was found well",
                only_if={
                    "active_replica_id": Equals(replica.replica_id),
                    "handover_state": OneOf(NOT_OPEN),
                    "claim_epoch": Equals(agent.claim_epoch),
                    "claim_attempt": Equals(agent.claim_attempt),
                    "claim_open": Equals(False),
                },
                put={"active_replica_id": None},
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "a promoted replica is not released",
                only_if={"status": OneOf(ACTIVE_STATES)},
                put={"status": ReplicaState.TERMINATED, "failure": reason, "ended_at": now},
            ),
        ),
    )


def store_task_token(replica: Replica, token: str) -> Transaction:
    """Leave the token that wakes the execution which prepares this replica."""
    return Transaction(
        "store task token",
        (
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "a token waits on a row that exists",
                only_if={"replica_id": Present()},
                put={"task_token": token},
            ),
        ),
    )
