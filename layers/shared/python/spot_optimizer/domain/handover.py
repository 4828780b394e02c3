"""Handovers: the conditional writes from opening one to the promotion that ends it.

A handover is opened against one replica at one readiness, and ends once: committed by the standby's promotion or
aborted. The promotion is one transaction; whatever else happens at the same moment, at most one promotion per epoch
can succeed.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer.domain import lease, timeline
from spot_optimizer.domain.agents import NOT_OPEN, Agent, HandoverState, Instance, InstanceRole, Urgency
from spot_optimizer.domain.replicas import Replica, ReplicaState, instance_values
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.snapshots import newest_usable
from spot_optimizer.domain.writes import Below, Change, Condition, Equals, Missing, OneOf, Table, Transaction
from spot_optimizer.errors import HandoverNotOpen, HandoverUnknown, PromotionUnproven, ReplicaNotReady, StaleEpoch

SYNC_INTERVALS_PROMISED = 2
"""A promotion after a sudden death may lose at most this many sync intervals of writes."""


HELD_STATES = (ReplicaState.SYNCING, ReplicaState.READY)
"""States in which a replica has a standby that may hold a generation."""


EVENT_RESOLUTION = timedelta(seconds=1)
"""EventBridge tells the time of an event in whole seconds; what happened may have happened so much later."""

RESTORES = 6
"""So many standbys may find that no snapshot can be restored before that is believed."""

FIRST_RESTORE_DELAY = timedelta(minutes=1)
"""Between the first and the second; twice as long each time after: half an hour in all, for S3 to come back."""

NOTHING_HELD = "the primary died before the first generation was complete"
NOTHING_RESTORED = "no snapshot could be restored"
"""Why a standby declines a handover. The second only after it has tried the newest chains, each several times."""


class Restoring(enum.Enum):
    """Whether one more standby is to try and restore a snapshot."""

    GO_ON = "go on"
    WAIT = "wait"
    GIVE_UP = "give up"


class Basis(enum.StrEnum):
    """Why a standby may promote itself."""

    FINAL_GENERATION = "final-generation"
    """The primary is frozen, and its last generation is on the standby, durably and verified."""

    LEASE_EXPIRED = "lease-expired"
    """The standby stopped granting the lease and waited it out: the primary no longer serves."""

    PRIMARY_DEAD = "primary-dead"
    """EC2 itself says that the primary is stopped or terminated."""

    SNAPSHOT = "snapshot"
    """As `PRIMARY_DEAD`, and the newest snapshot is newer than what any standby held; it was restored."""


NEEDS_PROOF = (Basis.PRIMARY_DEAD, Basis.SNAPSHOT)
"""Without a word from the primary or a lease that ran out, only EC2's word that it is dead will do."""


def handover_id_for(agent: Agent) -> str:
    """The id of the agent's next handover; the same however often one attempt asks for it."""
    return f"{agent.agent_id}-h{agent.epoch}-{agent.handover_count + 1}"


def may_restore(replicas: Iterable[Replica], *, epoch: int, now: datetime) -> Restoring:
    """Decide whether the snapshots of an agent whose primary is dead are tried once more.

    Each trial has launched an instance of its own, so that neither a broken machine nor a moment's outage decides; and
    it must end: what can not be restored by the last trial counts as lost.

    Args:
        replicas: All that the agent ever had.
        epoch: Of the dead primary.
        now: When.
    """
    refused = [one for one in replicas if one.epoch == epoch and one.failure == NOTHING_RESTORED]
    if not refused:
        return Restoring.GO_ON
    if len(refused) >= RESTORES:
        return Restoring.GIVE_UP
    since = max(one.ended_at or one.created_at for one in refused)
    return Restoring.WAIT if now - since < FIRST_RESTORE_DELAY * (1 << (len(refused) - 1)) else Restoring.GO_ON


def open_handover(agent: Agent, replica: Replica, *, attempt: int, primary_dead: bool, now: datetime) -> Transaction:
    """Open a handover from the agent's primary to a replica.

    Args:
        agent: The agent as read.
        replica: Must be ready; behind a primary that is proven dead, syncing is enough, because nothing newer exists,
            and only the standby itself knows whether it holds a complete generation.
        attempt: The failover attempt that acts; its claim must still be open.
        primary_dead: EC2 says that the primary is stopped or terminated.
        now: When.

    Raises:
        ReplicaNotReady: The replica can not take over.
    """
    if not may_take_over(replica, primary_dead=primary_dead):
        expected = "'ready' or 'syncing'" if primary_dead else "'ready'"
        raise ReplicaNotReady(f"replica {replica.replica_id} is '{replica.status}'; expected {expected}")
    return Transaction(
        "open handover",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "one handover at a time, under an own claim",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "primary_instance_id": Equals(agent.primary_instance_id),
                    "claim_epoch": Equals(agent.epoch),
                    "claim_attempt": Equals(attempt),
                    "claim_open": Equals(True),
                    "active_replica_id": Equals(replica.replica_id),
                    "handover_state": OneOf(NOT_OPEN),
                    "handover_count": Equals(agent.handover_count),
                },
                put={
                    "handover_id": handover_id_for(agent),
                    "handover_state": HandoverState.OPEN,
                    "handover_replica_id": replica.replica_id,
                    "handover_readiness": replica.readiness,
                    "handover_opened_at": now,
                    "handover_primary_dead": primary_dead,
                    "handover_snapshot_id": newest_usable(agent, now=now) if primary_dead else None,
                    "handover_count": agent.handover_count + 1,
                },
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "only a replica that can take over is handed to",
                only_if={"status": Equals(replica.status), "readiness": Equals(replica.readiness)},
            ),
        ),
    )


def may_take_over(replica: Replica, *, primary_dead: bool) -> bool:
    """Whether a handover may be opened to this replica.

    Behind a dead primary the row is not asked for a generation: the standby may hold one that nobody came to report. If
    it holds none, it declines.
    """
    return replica.status is ReplicaState.READY or (primary_dead and replica.status is ReplicaState.SYNCING)


def prove_primary_dead(agent: Agent, *, now: datetime) -> Transaction:
    """Record EC2's word that the primary is dead: the standby may commit the last generation it holds, or restore the
    newest snapshot if that is newer.
    """
    return Transaction(
        "prove primary dead",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "a proof belongs to the open handover of this epoch",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "primary_instance_id": Equals(agent.primary_instance_id),
                    "handover_id": Equals(agent.handover_id),
                    "handover_state": Equals(HandoverState.OPEN),
                },
                put={"handover_primary_dead": True, "handover_snapshot_id": newest_usable(agent, now=now)},
            ),
        ),
    )


def abort(agent: Agent, *, handover_id: str) -> Transaction:
    """End a handover without promotion: from here on, and only from here on, its primary may thaw."""
    return Transaction(
        "abort handover",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "only an open handover is aborted",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "handover_id": Equals(handover_id),
                    "handover_state": Equals(HandoverState.OPEN),
                },
                put={"handover_state": HandoverState.ABORTED},
            ),
        ),
    )


def decline(agent: Agent, replica: Replica, *, handover_id: str, reason: str, now: datetime) -> Transaction:
    """End a handover, and the replica that it leads to, on the word of its standby that it holds nothing.

    In one write, so that it ends no other handover to the same standby, which may hold something by then.
    """
    return Transaction(
        "decline handover",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "a standby declines the handover that it names, while that is open",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "handover_id": Equals(handover_id),
                    "handover_state": Equals(HandoverState.OPEN),
                },
                put={"handover_state": HandoverState.ABORTED, "active_replica_id": None},
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "a replica that declines has joined, and has not ended",
                only_if={"status": OneOf(HELD_STATES)},
                put={"status": ReplicaState.FAILED, "failure": reason, "ended_at": now},
            ),
        ),
    )


def abort_planned(agent: Agent, *, handover_id: str) -> Transaction:
    """End a handover because an operator asks, as `abort` does; but none that an interruption calls for by now."""
    ending = abort(agent, handover_id=handover_id)
    (change,) = ending.changes
    conditions = {**change.only_if, "claim_urgency": Equals(int(Urgency.PLANNED))}
    planned = dataclasses.replace(change, name="an operator aborts what is planned", only_if=conditions)
    return Transaction("abort planned handover", (planned,))


def promote(
    agent: Agent,
    replica: Replica,
    *,
    handover_id: str,
    instance_id: str,
    pool_id: str,
    basis: Basis,
    readiness: int,
    covered_until: datetime | None,
    lag_seconds: float | None,
    frozen: bool = False,
    changed_bytes_per_second: float | None = None,
    now: datetime,
) -> Transaction:
    """The promotion: the one write that moves an agent to its next epoch.

    Args:
        agent: The agent as read.
        replica: The replica that asks, as read.
        handover_id: The handover it acts on.
        instance_id: The replica's instance, as its token proves.
        pool_id: The pool of that instance.
        basis: Why it may.
        readiness: The readiness number it acts on; a promotion that was delayed while readiness was taken back and
            given again must not pass. A final generation needs none: its primary is frozen until the handover ends, and
            may have been about to take readiness back when it froze.
        covered_until: The old primary's state up to here is on the standby.
        lag_seconds: How far behind the standby was when it last heard its primary; None if it can not tell.
        frozen: The snapshot that it restored was taken when nothing was acknowledged any more.
        changed_bytes_per_second: How fast the old primary's state changed; None if that is not known.
        now: When.

    Raises:
        StaleEpoch: The agent is past the epoch this replica follows.
        HandoverUnknown: The agent's handover is another one.
        HandoverNotOpen: It was aborted.
        ReplicaNotReady: The replica can not take over, or not on this readiness.
        PromotionUnproven: `primary-dead` or `snapshot` is claimed and nothing proves it.
    """
    if agent.epoch != replica.epoch:
        raise StaleEpoch(
            f"replica {replica.replica_id} follows epoch {replica.epoch}; the agent is at {agent.epoch}",
            current_epoch=agent.epoch,
        )
    if agent.handover_id != handover_id or agent.handover_replica_id != replica.replica_id:
        raise HandoverUnknown(f"'{handover_id}' is not this replica's handover; expected '{agent.handover_id}'")
    if agent.handover_state is not HandoverState.OPEN:
        raise HandoverNotOpen(f"handover {handover_id} is '{agent.handover_state}'; wait for the next one")
    if basis in NEEDS_PROOF and not agent.handover_primary_dead:
        raise PromotionUnproven("EC2 does not say that the primary is stopped or terminated; wait for the proof")
    if basis is Basis.SNAPSHOT and agent.handover_snapshot_id is None:
        raise PromotionUnproven(f"handover {handover_id} offers no snapshot; commit what is held, or decline")
    if not _fits(replica, basis=basis, readiness=readiness):
        raise ReplicaNotReady(
            f"replica {replica.replica_id} is '{replica.status}' at readiness {replica.readiness}; the promotion was "
            f"asked for at readiness {readiness}"
        )
    if basis is Basis.SNAPSHOT:
        loss = loss_with_snapshot(agent, covered_until=covered_until, frozen=frozen, now=now)
    else:
        loss = loss_with_generation(replica, basis=basis, covered_until=covered_until, lag_seconds=lag_seconds, now=now)
    promised = agent.sync_interval_seconds * SYNC_INTERVALS_PROMISED
    replica_conditions: dict[str, Condition] = {"status": Equals(replica.status), "readiness": Equals(readiness)}
    if basis in (Basis.FINAL_GENERATION, Basis.SNAPSHOT):
        replica_conditions = {"status": OneOf(HELD_STATES)}
    agent_conditions: dict[str, Condition] = {
        "epoch": Equals(agent.epoch),
        "primary_instance_id": Equals(agent.primary_instance_id),
        "handover_id": Equals(handover_id),
        "handover_state": Equals(HandoverState.OPEN),
        "handover_replica_id": Equals(replica.replica_id),
        "lost": Equals(False),
    }
    if basis in NEEDS_PROOF:
        agent_conditions["handover_primary_dead"] = Equals(True)
    return Transaction(
        "promote",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "one promotion per epoch and handover",
                only_if=agent_conditions,
                put={
                    "epoch": agent.epoch + 1,
                    "primary_instance_id": instance_id,
                    "primary_pool_id": pool_id,
                    "handover_state": HandoverState.COMMITTED,
                    "handover_count": 0,
                    "active_replica_id": None,
                    "last_failover_at": now,
                },
            ),
            Change(
                Table.REPLICAS,
                (replica.agent_id, replica.replica_id),
                "only the readiness that was asked on is promoted",
                only_if=replica_conditions,
                put={"status": ReplicaState.PROMOTED, "ended_at": now},
            ),
            Change(
                Table.INSTANCES,
                (agent.primary_instance_id,),
                "the old primary steps down",
                only_if={"role": Equals(InstanceRole.PRIMARY)},
                put={"role": InstanceRole.RETIRED_PENDING},
            ),
            Change(
                Table.INSTANCES,
                (instance_id,),
                "the standby's instance steps up",
                only_if={"role": Equals(InstanceRole.STANDBY)},
                put={"role": InstanceRole.PRIMARY, "epoch": agent.epoch + 1},
            ),
            Change(
                Table.SWITCHES,
                (agent.agent_id, switch_id_for(agent.epoch + 1)),
                "one switch per epoch",
                only_if={"switch_id": Missing()},
                put={
                    "epoch": agent.epoch + 1,
                    "client_id": agent.client_id,
                    "from_instance_id": agent.primary_instance_id,
                    "to_instance_id": instance_id,
                    "from_pool_id": agent.primary_pool_id,
                    "to_pool_id": pool_id,
                    **_cause(agent),
                    "handover_opened_at": agent.handover_opened_at,
                    "replica_id": replica.replica_id,
                    "basis": basis,
                    "switched_at": now,
                    "rpo_seconds": loss.at_most_seconds,
                    "rpo_bytes": timeline.lost_bytes(
                        rpo_seconds=loss.at_most_seconds, changed_bytes_per_second=changed_bytes_per_second
                    ),
                    "lag_seconds": loss.lag_seconds,
                    "rpo_breached": loss.lag_seconds is None or loss.lag_seconds > promised,
                    "demote_old_primary": _wish(agent, basis=basis),
                    **_economics(replica),
                },
            ),
        ),
    )


def _cause(agent: Agent) -> dict[str, Any]:
    """What a switch row says of why it came about: the claim may be the next failover's before this one is over."""
    return {
        "switch_reason": agent.claim_signal or "",
        "signal_at": agent.claim_signal_at,
        "claimed_at": agent.claimed_at,
    }


def _economics(replica: Replica) -> dict[str, Any]:
    """What a switch row says of money; where nobody asked for prices before, they are looked up afterwards."""
    old, new = replica.old_usd_per_hour, replica.new_usd_per_hour
    return {
        "explanation": replica.switch_explanation,
        "to_lifecycle": replica.lifecycle,
        "old_usd_per_hour": old,
        "new_usd_per_hour": new,
        "estimated_savings": None if old is None or new is None else old - new,
    }


def _fits(replica: Replica, *, basis: Basis, readiness: int) -> bool:
    if basis in (Basis.FINAL_GENERATION, Basis.SNAPSHOT):
        return replica.status in HELD_STATES
    return readiness == replica.readiness and may_take_over(replica, primary_dead=basis is Basis.PRIMARY_DEAD)


def _wish(agent: Agent, *, basis: Basis) -> bool | None:
    """What was wished for the old primary: that it be demoted, that it be retired, or (None) nothing.

    Only where a planned handover came through as planned is there anything to wish for: otherwise the old primary is
    going, or dead, or may have gone its own way since its standby last heard of it.
    """
    planned = agent.claim_urgency == Urgency.PLANNED and basis is Basis.FINAL_GENERATION
    return agent.claim_demotes if planned else None


def switch_id_for(epoch: int) -> str:
    """Key of the switch that began an epoch; sorts by epoch."""
    return f"{epoch:010d}"


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """What a promotion can have lost.

    Attributes:
        at_most_seconds: So much of the primary's time.
        lag_seconds: So much of it the new primary's copy was behind at the last word of the old one; None if nobody can
            vouch for that, and then clocks of several machines have a say in the bound.
    """

    at_most_seconds: float
    lag_seconds: float | None


NOTHING_LOST = Loss(0.0, 0.0)


def loss_with_generation(
    replica: Replica, *, basis: Basis, covered_until: datetime | None, lag_seconds: float | None, now: datetime
) -> Loss:
    """Bound what is missing on a standby that goes on with the generation it holds.

    A handover with a final generation misses nothing. A ready standby was told how far behind it is with each question
    for the lease; after the last one its primary served at most until its workload was held. Where nobody can tell (the
    replica was not ready; the standby, or its primary, had just been restarted, or speaks the version before), nothing
    bounds it but the time since.
    """
    if basis is Basis.FINAL_GENERATION:
        return NOTHING_LOST
    if lag_seconds is not None and replica.status is ReplicaState.READY:
        return Loss(round(lease.longest_loss(lag_seconds), 3), lag_seconds)
    since = covered_until or replica.covered_until or replica.created_at
    return Loss(max(replica.lag_seconds or 0.0, (now - since) / timedelta(seconds=1), 0.0), None)


def loss_with_snapshot(agent: Agent, *, covered_until: datetime | None, frozen: bool, now: datetime) -> Loss:
    """Bound what is missing in a snapshot: all up to the primary's death if that is known, else up to now.

    Args:
        agent: The agent as read.
        covered_until: The state up to here is in it.
        frozen: Nothing was acknowledged after it.
        now: When.
    """
    if frozen:
        return NOTHING_LOST
    until = now
    if agent.claim_signal == SignalType.STATE_CHANGE and agent.claim_signal_at is not None:
        until = min(agent.claim_signal_at + EVENT_RESOLUTION, now)
    since = covered_until or agent.snapshot_taken_at or agent.registered_at
    return Loss(max((until - since) / timedelta(seconds=1), 0.0), None)


FALL_BACK = "fall-back"
"""Recorded as the basis of a promotion that nobody asked for: everything newer had died."""


def fall_back(agent: Agent, former: Instance, *, attempt: int, lost_seconds: float, now: datetime) -> Transaction:
    """Make a former primary the primary again, because the present one is dead and no replica is left.

    Its copy is older than what the dead one may have acknowledged, and it is all there is: the alternative is `lost`.
    It is always recorded as a breach, for nothing bounds what is missing.

    Args:
        agent: The agent as read, its primary proven dead.
        former: A retired instance that lives and keeps its data.
        attempt: The failover attempt that acts; its claim must still be open.
        lost_seconds: How long its copy has not been the newest, by clocks that may differ; recorded.
        now: When.
    """
    return Transaction(
        "fall back",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "back only where no way forward is left",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "claim_epoch": Equals(agent.epoch),
                    "claim_attempt": Equals(attempt),
                    "claim_open": Equals(True),
                    "handover_state": OneOf(NOT_OPEN),
                    "active_replica_id": Missing(),
                    "lost": Equals(False),
                },
                put={
                    "epoch": agent.epoch + 1,
                    "primary_instance_id": former.instance_id,
                    "primary_pool_id": former.pool_id,
                    "handover_count": 0,
                    "last_failover_at": now,
                },
            ),
            Change(
                Table.INSTANCES,
                (agent.primary_instance_id,),
                "the dead primary steps down",
                only_if={"role": Equals(InstanceRole.PRIMARY)},
                put={"role": InstanceRole.RETIRED_PENDING},
            ),
            Change(
                Table.INSTANCES,
                (former.instance_id,),
                "a former primary steps up again",
                only_if={"role": Equals(InstanceRole.RETIRED_PENDING)},
                put={"role": InstanceRole.PRIMARY, "epoch": agent.epoch + 1},
            ),
            Change(
                Table.SWITCHES,
                (agent.agent_id, switch_id_for(agent.epoch + 1)),
                "one switch per epoch",
                only_if={"switch_id": Missing()},
                put={
                    "epoch": agent.epoch + 1,
                    "client_id": agent.client_id,
                    "from_instance_id": agent.primary_instance_id,
                    "to_instance_id": former.instance_id,
                    "from_pool_id": agent.primary_pool_id,
                    "to_pool_id": former.pool_id,
                    **_cause(agent),
                    "basis": FALL_BACK,
                    "switched_at": now,
                    "rpo_seconds": lost_seconds,
                    "rpo_breached": True,
                },
            ),
        ),
    )


def committed_by(agent: Agent, *, handover_id: str, instance_id: str) -> bool:
    """Whether a promotion whose outcome is unknown did take effect; ask with a row that was read consistently."""
    return (
        agent.handover_id == handover_id
        and agent.handover_state is HandoverState.COMMITTED
        and agent.primary_instance_id == instance_id
    )


def register(agent: Agent, instance: Instance) -> Transaction:
    """Register an agent with its first primary: epoch 1."""
    return Transaction(
        "register",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "an agent id is registered once",
                only_if={"agent_id": Missing()},
                put=agent_values(agent),
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


def agent_values(agent: Agent) -> dict[str, object]:
    """The attributes of a new agent row, without its key and without what is unset."""
    return {
        field.name: value
        for field in dataclasses.fields(agent)
        if field.name != "agent_id" and (value := getattr(agent, field.name)) is not None
    }


def traffic_moved(agent: Agent) -> Transaction:
    """Record that the traffic path points at the primary of this epoch; it never points back."""
    return Transaction(
        "traffic moved",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "traffic follows the epoch upwards",
                only_if={"epoch": Equals(agent.epoch), "traffic_epoch": Below(agent.epoch)},
                put={"traffic_epoch": agent.epoch},
            ),
        ),
    )
