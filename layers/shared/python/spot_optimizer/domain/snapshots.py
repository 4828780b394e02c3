"""Snapshots: copies of an agent's state in S3, for when no standby is left.

A snapshot is one generation, as a standby would have received it: a *base* stands alone, a *delta* changes the one
before it. The agent's row points at the newest one that is complete; that pointer only goes forwards, and whoever
moves it is the primary of the present epoch. Everything that is kept can be restored: all rows of a chain expire at the
same moment, before any of its objects does.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.agents import Agent, Heartbeat
from spot_optimizer.domain.signals import NOTICE
from spot_optimizer.domain.writes import Change, Condition, Equals, Missing, Table, Transaction
from spot_optimizer.errors import AgentLost, SnapshotOutOfOrder, StaleEpoch

KEPT_FOR = timedelta(days=8)
"""A chain can be restored for so long after its base was complete."""

BASE_AFTER = timedelta(days=1)
"""A chain is at most so old when a new base begins the next one."""

BASE_GRACE = timedelta(hours=2)
"""A delta that was begun just in time may be complete so much later."""

DELTAS_PER_BASE = 300
"""A restore reads one base and at most so many deltas."""

DELTA_OBJECTS_KEPT = timedelta(days=9)
BASE_OBJECTS_KEPT = timedelta(days=11)
"""S3 forgets by an object's own age: a base longer than any of its deltas, and both longer than their rows."""

BOOT_ALLOWANCE = timedelta(seconds=60)
"""What launching a replacement takes of the notice before its first byte is synced."""

STORED_USD_PER_GIGABYTE_MONTH = Decimal("0.023")
WRITTEN_USD_PER_REQUEST = Decimal("0.000005")
"""S3 Standard in us-east-1 (aws.amazon.com/s3/pricing): storage of the first 50 TB, and PUT requests."""


class SnapshotKind(enum.StrEnum):
    """Whether a snapshot stands alone."""

    BASE = "base"
    DELTA = "delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One complete snapshot.

    Attributes:
        snapshot_id: Sorts by epoch, then by generation.
        base_id: The base of its chain; its own id for a base.
        taken_at: By the primary's wall clock: the state up to here is in it.
        frozen: The workload acknowledged nothing any more when it was taken.
        root_hash: Stands for every name, metadata and byte of the state.
        size_bytes: Of the object.
        state_bytes: Of the state.
        expires_at: From then on it is not restored any more; the same for all of a chain.
        previous_id: What it changes; None for a base.
    """

    agent_id: str
    snapshot_id: str
    kind: SnapshotKind
    epoch: int
    generation: int
    instance_id: str
    base_id: str
    taken_at: datetime
    completed_at: datetime
    frozen: bool
    root_hash: str
    size_bytes: int
    state_bytes: int
    expires_at: datetime
    previous_id: str | None = None


def snapshot_id_for(*, epoch: int, generation: int) -> str:
    """The id of the snapshot of a generation; ids sort as generations do."""
    return f"{epoch:010d}-{generation:016d}"


def id_before(base: Snapshot) -> str | None:
    """The id of what was taken before the base of a chain, in the same epoch; None if that is the first one."""
    before = base.generation - 1
    return snapshot_id_for(epoch=base.epoch, generation=before) if before > 0 else None


def change_rate(delta: Snapshot, previous: Snapshot) -> float | None:
    """How fast the state changed up to a delta, compressed, in bytes a second; None if no time lies between the two."""
    seconds = (delta.taken_at - previous.taken_at) / timedelta(seconds=1)
    return delta.size_bytes / seconds if seconds > 0 else None


def epoch_of(snapshot_id: str) -> int:
    """The epoch in which a snapshot was taken; its id tells."""
    return int(snapshot_id.partition("-")[0])


def object_key(agent_id: str, snapshot_id: str, kind: SnapshotKind) -> str:
    """Where a snapshot lies; bases and deltas lie apart because they are kept for different times."""
    return f"{prefix(kind)}/{agent_id}/{snapshot_id}"


def prefix(kind: SnapshotKind) -> str:
    """Below which the snapshots of a kind lie."""
    return f"snapshots/{kind}s"


def check_begin(agent: Agent, *, instance_id: str, epoch: int) -> None:
    """Let only the primary of the present epoch upload.

    Raises:
        StaleEpoch: Another instance, or another epoch.
        AgentLost: The agent was given up.
    """
    if agent.epoch != epoch or agent.primary_instance_id != instance_id:
        raise StaleEpoch(
            f"epoch {epoch} is over, or {instance_id} is not its primary; the agent is at {agent.epoch}: stop the "
            f"workload",
            current_epoch=agent.epoch,
        )
    if agent.lost:
        raise AgentLost(f"agent {agent.agent_id} is lost; register a new agent")


def joined_to(
    agent: Agent, previous: Snapshot | None, *, previous_id: str | None, snapshot_id: str, now: datetime
) -> tuple[SnapshotKind, str, datetime]:
    """Find the place of a new snapshot.

    Args:
        agent: The agent as read.
        previous: The row that `previous_id` names, if it exists.
        previous_id: What the new one changes; None for a base.
        snapshot_id: Of the new one.
        now: When.

    Returns:
        Its kind, the id of its base, and when its chain expires.

    Raises:
        SnapshotOutOfOrder: It is not newer than the newest, or changes something else than that one, or its base is
            too old to carry on.
    """
    if agent.snapshot_id is not None and snapshot_id <= agent.snapshot_id:
        raise SnapshotOutOfOrder(
            f"snapshot {snapshot_id} is not newer than {agent.snapshot_id}; take one of a later generation"
        )
    if previous_id is None:
        return SnapshotKind.BASE, snapshot_id, (now + KEPT_FOR).replace(microsecond=0)
    if previous is None or previous_id != agent.snapshot_id or previous.snapshot_id != previous_id:
        raise SnapshotOutOfOrder(
            f"the delta changes snapshot '{previous_id}', and the newest is '{agent.snapshot_id}'; begin with a base"
        )
    begun_at = previous.expires_at - KEPT_FOR
    if now - begun_at > BASE_AFTER + BASE_GRACE:
        raise SnapshotOutOfOrder(
            f"the chain of '{previous.base_id}' began at {begun_at.isoformat()}, more than "
            f"{BASE_AFTER + BASE_GRACE} ago; begin with a base"
        )
    return SnapshotKind.DELTA, previous.base_id, previous.expires_at


def complete(agent: Agent, snapshot: Snapshot) -> Transaction:
    """Count an uploaded snapshot as the agent's newest.

    Args:
        agent: The agent as read; its pointer must not have moved since.
        snapshot: What was uploaded, verified.
    """
    newest: Condition = Missing() if agent.snapshot_id is None else Equals(agent.snapshot_id)
    changes = [
        Change(
            Table.AGENTS,
            (agent.agent_id,),
            "only the present primary's snapshots count, one after the other",
            only_if={
                "epoch": Equals(snapshot.epoch),
                "primary_instance_id": Equals(snapshot.instance_id),
                "lost": Equals(False),
                "snapshot_id": newest,
            },
            put={
                "snapshot_id": snapshot.snapshot_id,
                "snapshot_taken_at": snapshot.taken_at,
                "snapshot_expires_at": snapshot.expires_at,
            },
        ),
        Change(
            Table.SNAPSHOTS,
            (agent.agent_id, snapshot.snapshot_id),
            "a snapshot is complete once",
            only_if={"snapshot_id": Missing()},
            put=_values(snapshot),
        ),
    ]
    if snapshot.previous_id is not None:
        changes.append(
            Change(
                Table.SNAPSHOTS,
                (agent.agent_id, snapshot.previous_id),
                "never a delta without what it changes",
                only_if={"base_id": Equals(snapshot.base_id)},
            )
        )
    return Transaction("complete snapshot", tuple(changes))


def newest_usable(agent: Agent, *, now: datetime) -> str | None:
    """Id of the newest snapshot that can be restored; None if there is none."""
    if agent.snapshot_id is None or agent.snapshot_expires_at is None or agent.snapshot_expires_at <= now:
        return None
    return agent.snapshot_id


def chain_at(rows: Iterable[Snapshot], *, at: datetime | None, now: datetime) -> tuple[Snapshot, ...]:
    """What has to be restored, in this order, to be at a point in time: a base, then its deltas.

    Args:
        rows: An agent's snapshots, in any order.
        at: The state up to here, at most; None for the newest.
        now: When.

    Returns:
        Nothing if no snapshot is that old, or none is left.
    """
    usable = {row.snapshot_id: row for row in rows if row.expires_at > now and (at is None or row.taken_at <= at)}
    for last in sorted(usable.values(), key=lambda row: row.snapshot_id, reverse=True):
        chain = [last]
        while (previous_id := chain[-1].previous_id) is not None and previous_id in usable:
            chain.append(usable[previous_id])
        if chain[-1].kind is SnapshotKind.BASE:
            return tuple(reversed(chain))
    return ()


def _values(snapshot: Snapshot) -> dict[str, object]:
    return {
        field.name: value
        for field in dataclasses.fields(snapshot)
        if field.name not in ("agent_id", "snapshot_id") and (value := getattr(snapshot, field.name)) is not None
    }


# --- when to take one ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How often snapshots are taken.

    Attributes:
        every_seconds: While no standby is ready; 0 for none before a notice.
        noticed_every_seconds: The same, once this instance was given notice.
    """

    every_seconds: float = 300.0
    noticed_every_seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What the primary's newest chain amounts to.

    Attributes:
        begun_at: When its base was taken.
        taken_at: When its newest snapshot was taken.
        deltas: How many follow the base.
        base_bytes: Size of the base.
        delta_bytes: Size of all deltas together.
    """

    begun_at: float
    taken_at: float
    deltas: int
    base_bytes: int
    delta_bytes: int


def next_kind(chain: Chain | None, now: float) -> SnapshotKind:
    """Whether the next snapshot is a delta, or begins a new chain because the present one is long, large or old."""
    if chain is None or chain.deltas >= DELTAS_PER_BASE or chain.delta_bytes > chain.base_bytes:
        return SnapshotKind.BASE
    return SnapshotKind.BASE if now - chain.begun_at >= BASE_AFTER.total_seconds() else SnapshotKind.DELTA


def next_due(cadence: Cadence, chain: Chain | None, *, standby_ready: bool, noticed: bool) -> float | None:
    """When the next snapshot is due, in the seconds of the chain's clock; None for never.

    A ready standby is the better copy; and reading all of a large state for a base would make it fall behind.
    """
    if standby_ready or not (cadence.every_seconds or noticed):
        return None
    if chain is None:
        return float("-inf")
    return chain.taken_at + (cadence.noticed_every_seconds if noticed else cadence.every_seconds)


# --- what it protects from, and what it costs ---


class Protection(enum.StrEnum):
    """How well an agent's state is protected at this moment."""

    STANDBY = "standby ready"
    FITS = "fits through a notice"
    UNKNOWN = "not measured yet"
    UNPROTECTED = "unprotected without standby"


def protection(*, standby_ready: bool, state_bytes: int | None, bytes_per_second: float | None) -> Protection:
    """Tell whether the state could be handed over inside an interruption notice.

    Args:
        standby_ready: A standby holds the state already.
        state_bytes: How much a replacement would have to be sent.
        bytes_per_second: The rate at which that was measured to go; None before the first measurement.
    """
    if standby_ready:
        return Protection.STANDBY
    if state_bytes is None or not bytes_per_second:
        return Protection.UNKNOWN
    left = (NOTICE - BOOT_ALLOWANCE).total_seconds()
    return Protection.FITS if state_bytes / bytes_per_second <= left else Protection.UNPROTECTED


def needs_standby(heartbeat: Heartbeat | None, *, epoch: int) -> bool:
    """Whether the primary of an epoch has measured that its state does not fit through a notice."""
    if heartbeat is None or not heartbeat.serves_under(epoch):
        return False
    without = protection(
        standby_ready=False,
        state_bytes=heartbeat.state_bytes,
        bytes_per_second=heartbeat.state_bytes_per_second,
    )
    return without is Protection.UNPROTECTED


def usd_per_day(
    *, base_bytes_per_day: int, delta_bytes_per_day: int, snapshots_per_day: int, parts_per_day: int
) -> Decimal:
    """What the snapshots of one agent cost a day, once as many are kept as ever will be.

    Args:
        base_bytes_per_day: Size of all bases of a day.
        delta_bytes_per_day: Size of all deltas of a day.
        snapshots_per_day: How many are begun; each takes a request to begin it and one to complete it.
        parts_per_day: How many parts they are uploaded in.
    """
    kept = base_bytes_per_day * BASE_OBJECTS_KEPT.days + delta_bytes_per_day * DELTA_OBJECTS_KEPT.days
    stored = Decimal(kept) / 10**9 * STORED_USD_PER_GIGABYTE_MONTH / 30
    return stored + WRITTEN_USD_PER_REQUEST * (2 * snapshots_per_day + parts_per_day)
