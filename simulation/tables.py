"""DynamoDB: conditional and transactional writes, linearizable per item, decided by `domain.writes.holds`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from spot_optimizer.domain import orphans
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, Interruption, Switch
from spot_optimizer.domain.pauses import ALL, FleetControl, Pause
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.snapshots import Snapshot
from spot_optimizer.domain.writes import Change, Table, Transaction, holds
from spot_optimizer.errors import AgentUnknown, ConditionFailed, InstanceUnknown, ReplicaUnknown

KEYS: Mapping[Table, tuple[str, ...]] = {
    Table.AGENTS: ("agent_id",),
    Table.REPLICAS: ("agent_id", "replica_id"),
    Table.INSTANCES: ("instance_id",),
    Table.INTERRUPTIONS: ("agent_id", "event_id"),
    Table.SWITCHES: ("agent_id", "switch_id"),
    Table.SNAPSHOTS: ("agent_id", "snapshot_id"),
    Table.FLEET_CONTROLS: ("control_id",),
}
VALUES: Mapping[Table, Callable[..., Any]] = {
    Table.AGENTS: Agent,
    Table.REPLICAS: Replica,
    Table.INSTANCES: Instance,
    Table.INTERRUPTIONS: Interruption,
    Table.SWITCHES: Switch,
    Table.SNAPSHOTS: Snapshot,
    Table.FLEET_CONTROLS: FleetControl,
}
Row = dict[str, Any]

EVERY = "*"
"""Stands for every condition of a change."""


@dataclass(frozen=True, slots=True, order=True)
class ConditionName:
    """One condition of one change; a mutant removes it by this name."""

    transaction: str
    change: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.transaction} / {self.change} / {self.attribute}"


@dataclass(frozen=True, slots=True)
class RowWritten:
    """What one change did to one row; both sides as they were at that moment."""

    table: Table
    key: tuple[str, ...]
    before: Row | None
    after: Row


class Tables:
    """The rows, and the writes to them. Calls take effect at once: when, and whether, is the caller's business.

    Attributes:
        removed: Conditions that are left out of every write.
        seen: Every condition that was evaluated, while `collecting`.
        decisive: Conditions that were, once, the only one to refuse a write: without it, the run would go another way.
        refusals: The conditions that refused a write together, while `collecting`.
        on_written: Told of every transaction that was written.
    """

    def __init__(self) -> None:
        self.rows: dict[Table, dict[tuple[str, ...], Row]] = {table: {} for table in KEYS}
        self.heartbeats: dict[tuple[str, str], Heartbeat] = {}
        self.removed: frozenset[ConditionName] = frozenset()
        self.on_written: Callable[[Transaction, list[RowWritten]], None] = lambda _transaction, _rows: None
        self.collecting = False
        self.seen: set[ConditionName] = set()
        self.decisive: set[ConditionName] = set()
        self.refusals: set[frozenset[ConditionName]] = set()
        self._values: dict[tuple[Table, tuple[str, ...]], Any] = {}

    def agent(self, agent_id: str) -> Agent:
        agent: Agent | None = self._read(Table.AGENTS, (agent_id,))
        if agent is None:
            raise AgentUnknown(agent_id)
        return agent

    def replica(self, agent_id: str, replica_id: str) -> Replica:
        replica: Replica | None = self._read(Table.REPLICAS, (agent_id, replica_id))
        if replica is None:
            raise ReplicaUnknown(replica_id)
        return replica

    def replicas(self, agent_id: str) -> tuple[Replica, ...]:
        keys = sorted(key for key in self.rows[Table.REPLICAS] if key[0] == agent_id)
        return tuple(self._read(Table.REPLICAS, key) for key in keys)

    def instance(self, instance_id: str) -> Instance:
        instance: Instance | None = self._read(Table.INSTANCES, (instance_id,))
        if instance is None:
            raise InstanceUnknown(instance_id)
        return instance

    def interruption(self, agent_id: str, event_id: str) -> Interruption | None:
        interruption: Interruption | None = self._read(Table.INTERRUPTIONS, (agent_id, event_id))
        return interruption

    def pause_of_all(self) -> Pause | None:
        control: FleetControl | None = self._read(Table.FLEET_CONTROLS, (ALL,))
        return None if control is None else control.pause

    def orphan_report(self) -> orphans.Report:
        return orphans.report_of(self._read(Table.FLEET_CONTROLS, (orphans.CONTROL,)))

    def switch(self, agent_id: str, switch_id: str) -> Switch | None:
        switch: Switch | None = self._read(Table.SWITCHES, (agent_id, switch_id))
        return switch

    def interruptions_of_pools(
        self,
        pool_ids: frozenset[str],
        since: datetime,
        signal_types: Collection[str],
        listed: frozenset[tuple[str, ...]],
    ) -> dict[str, tuple[datetime, ...]]:
        """As the port has it, of the records whose keys the index shows."""
        found: dict[str, tuple[datetime, ...]] = {}
        for key, row in self.rows[Table.INTERRUPTIONS].items():
            meant = row["pool_id"] in pool_ids and row["signal_type"] in signal_types and key in listed
            if meant and row["detected_at"] >= since:
                found[row["pool_id"]] = (*found.get(row["pool_id"], ()), row["detected_at"])
        return found

    def snapshot(self, agent_id: str, snapshot_id: str) -> Snapshot | None:
        snapshot: Snapshot | None = self._read(Table.SNAPSHOTS, (agent_id, snapshot_id))
        return snapshot

    def snapshots(self, agent_id: str) -> tuple[Snapshot, ...]:
        keys = sorted(key for key in self.rows[Table.SNAPSHOTS] if key[0] == agent_id)
        return tuple(self._read(Table.SNAPSHOTS, key) for key in keys)

    def commit(self, transaction: Transaction) -> None:
        """Write all changes or none.

        Raises:
            ConditionFailed: A condition did not hold.
        """
        broken: list[ConditionName] = []
        for change in transaction.changes:
            row = self.rows[change.table].get(change.key, {})
            for name, condition in change.only_if.items():
                if not holds(condition, row.get(name)):
                    broken.append(ConditionName(transaction.name, change.name, name))
            if self.collecting:
                self.seen.update(ConditionName(transaction.name, change.name, name) for name in change.only_if)
        if broken and self.collecting:
            self.refusals.add(frozenset(broken))
        if len(broken) == 1:
            self.decisive.add(broken[0])
        if broken and len({name.change for name in broken}) == 1:
            self.decisive.add(replace(broken[0], attribute=EVERY))
        if broken:
            self.decisive.add(ConditionName(transaction.name, EVERY, EVERY))
        if self.removed:
            broken = [name for name in broken if not self._is_removed(name)]
        if broken:
            raise ConditionFailed(f"'{transaction.name}' was refused: {', '.join(map(str, broken))}")
        written = [self._write(change) for change in transaction.changes if change.put]
        self.on_written(transaction, written)

    def _is_removed(self, name: ConditionName) -> bool:
        whole = replace(name, attribute=EVERY)
        return name in self.removed or whole in self.removed or replace(whole, change=EVERY) in self.removed

    def _write(self, change: Change) -> RowWritten:
        before = self.rows[change.table].get(change.key)
        after = dict(before) if before is not None else dict(zip(KEYS[change.table], change.key, strict=True))
        for name, value in change.put.items():
            if value is None:
                after.pop(name, None)
            else:
                after[name] = value
        self.rows[change.table][change.key] = after
        self._values.pop((change.table, change.key), None)
        return RowWritten(change.table, change.key, before, after)

    def _read(self, table: Table, key: tuple[str, ...]) -> Any:
        row = self.rows[table].get(key)
        if row is None:
            return None
        value = self._values.get((table, key))
        if value is None:
            value = self._values[table, key] = VALUES[table](**row)
        return value
