"""The tables in memory: every transaction is decided by `domain.writes.holds`, and written whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from spot_optimizer.domain import orphans
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, Interruption, Switch
from spot_optimizer.domain.gaps import InferredRow
from spot_optimizer.domain.model_sessions import ModelSession, Slots
from spot_optimizer.domain.pauses import ALL, FleetControl, Pause
from spot_optimizer.domain.pools_of_interest import PoolOfInterest
from spot_optimizer.domain.prices import CleanRow
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.snapshots import Snapshot
from spot_optimizer.domain.tokens import Token
from spot_optimizer.domain.writes import Change, Table, Transaction, holds
from spot_optimizer.errors import AgentUnknown, ConditionFailed, InstanceUnknown, ReplicaUnknown

KEYS: dict[Table, tuple[str, ...]] = {
    Table.AGENTS: ("agent_id",),
    Table.REPLICAS: ("agent_id", "replica_id"),
    Table.INSTANCES: ("instance_id",),
    Table.INTERRUPTIONS: ("agent_id", "event_id"),
    Table.SWITCHES: ("agent_id", "switch_id"),
    Table.TOKENS: ("token_id",),
    Table.FLEET_CONTROLS: ("control_id",),
    Table.MODEL_SESSIONS: ("session_id",),
    Table.MODEL_SLOTS: ("model",),
    Table.SNAPSHOTS: ("agent_id", "snapshot_id"),
    Table.POOLS: ("pool_id",),
    Table.CLEAN_PRICES: ("pool_id", "bucket_start"),
    Table.INFERRED_PRICES: ("pool_id", "bucket_start"),
}
VALUES: dict[Table, Callable[..., Any]] = {
    Table.AGENTS: Agent,
    Table.REPLICAS: Replica,
    Table.INSTANCES: Instance,
    Table.INTERRUPTIONS: Interruption,
    Table.SWITCHES: Switch,
    Table.TOKENS: Token,
    Table.FLEET_CONTROLS: FleetControl,
    Table.MODEL_SESSIONS: ModelSession,
    Table.MODEL_SLOTS: Slots,
    Table.SNAPSHOTS: Snapshot,
    Table.POOLS: PoolOfInterest,
    Table.CLEAN_PRICES: CleanRow,
    Table.INFERRED_PRICES: InferredRow,
}


class FakeRecords:
    """Implements `Records`.

    Attributes:
        committed: Every transaction that was written, in order.
        refused: Every transaction that was refused, in order.
        before_commit: Called with each transaction before it is decided; may raise, or write something first.
        after_commit: Called with each transaction after it was written; raising here is a lost answer.
    """

    def __init__(self) -> None:
        self.rows: dict[Table, dict[tuple[str, ...], dict[str, Any]]] = {table: {} for table in Table}
        self.heartbeats: dict[tuple[str, str], Heartbeat] = {}
        self.committed: list[Transaction] = []
        self.refused: list[Transaction] = []
        self.before_commit: Callable[[Transaction], None] = lambda _: None
        self.after_commit: Callable[[Transaction], None] = lambda _: None

    def put(self, *values: Agent | Replica | Instance | Interruption | Switch | Token | Snapshot) -> FakeRecords:
        """Set rows as they are, without conditions."""
        for value in values:
            table = next(table for table, make in VALUES.items() if make is type(value))
            row = {
                field.name: item
                for field in dataclasses.fields(value)
                if (item := getattr(value, field.name)) is not None
            }
            self.rows[table][tuple(row[name] for name in KEYS[table])] = row
        return self

    def agent(self, agent_id: str) -> Agent:
        agent: Agent | None = self._read(Table.AGENTS, agent_id)
        if agent is None:
            raise AgentUnknown(agent_id)
        return agent

    def replica(self, agent_id: str, replica_id: str) -> Replica:
        replica: Replica | None = self._read(Table.REPLICAS, agent_id, replica_id)
        if replica is None:
            raise ReplicaUnknown(replica_id)
        return replica

    def replicas(self, agent_id: str) -> tuple[Replica, ...]:
        keys = sorted(key for key in self.rows[Table.REPLICAS] if key[0] == agent_id)
        return tuple(self._read(Table.REPLICAS, *key) for key in keys)

    def instance(self, instance_id: str) -> Instance:
        instance: Instance | None = self._read(Table.INSTANCES, instance_id)
        if instance is None:
            raise InstanceUnknown(instance_id)
        return instance

    def heartbeat(self, agent_id: str, instance_id: str) -> Heartbeat | None:
        return self.heartbeats.get((agent_id, instance_id))

    def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        self.heartbeats[heartbeat.agent_id, heartbeat.instance_id] = heartbeat

    def interruption(self, agent_id: str, event_id: str) -> Interruption | None:
        interruption: Interruption | None = self._read(Table.INTERRUPTIONS, agent_id, event_id)
        return interruption

    def pause_of_all(self) -> Pause | None:
        row = self.rows[Table.FLEET_CONTROLS].get((ALL,))
        return None if row is None else FleetControl(**row).pause

    def orphan_report(self) -> orphans.Report:
        row = self.rows[Table.FLEET_CONTROLS].get((orphans.CONTROL,))
        return orphans.report_of(None if row is None else FleetControl(**row))

    def switch(self, agent_id: str, switch_id: str) -> Switch | None:
        switch: Switch | None = self._read(Table.SWITCHES, agent_id, switch_id)
        return switch

    def token(self, token_id: str) -> Token | None:
        token: Token | None = self._read(Table.TOKENS, token_id)
        return token

    def snapshot(self, agent_id: str, snapshot_id: str) -> Snapshot | None:
        snapshot: Snapshot | None = self._read(Table.SNAPSHOTS, agent_id, snapshot_id)
        return snapshot

    def snapshots(self, agent_id: str) -> tuple[Snapshot, ...]:
        keys = sorted(key for key in self.rows[Table.SNAPSHOTS] if key[0] == agent_id)
        return tuple(self._read(Table.SNAPSHOTS, *key) for key in keys)

    def commit(self, transaction: Transaction) -> None:
        self.before_commit(transaction)
        broken = [change for change in transaction.changes if not self._allows(change)]
        if broken:
            self.refused.append(transaction)
            raise ConditionFailed(f"'{transaction.name}' was refused: {', '.join(change.name for change in broken)}")
        for change in transaction.changes:
            if not change.is_check:
                self._write(change)
        self.committed.append(transaction)
        self.after_commit(transaction)

    def _allows(self, change: Change) -> bool:
        row = self.rows[change.table].get(change.key, {})
        return all(holds(condition, row.get(name)) for name, condition in change.only_if.items())

    def _write(self, change: Change) -> None:
        key = dict(zip(KEYS[change.table], change.key, strict=True))
        row = self.rows[change.table].setdefault(change.key, key)
        for name, value in change.put.items():
            if value is None:
                row.pop(name, None)
            else:
                row[name] = value

    def _read(self, table: Table, *key: str) -> Any:
        row = self.rows[table].get(key)
        return None if row is None else VALUES[table](**row)
