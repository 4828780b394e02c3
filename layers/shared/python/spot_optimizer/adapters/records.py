"""The tables a failover reads and writes, as one port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from spot_optimizer.adapters.agents import agents_table
from spot_optimizer.adapters.database import BoundTable, Database, Page
from spot_optimizer.adapters.fleet_controls import fleet_controls_table
from spot_optimizer.adapters.heartbeats import Heartbeats
from spot_optimizer.adapters.instances import instances_table
from spot_optimizer.adapters.interruptions import interruptions_table
from spot_optimizer.adapters.replicas import replicas_table
from spot_optimizer.adapters.snapshots import snapshots_table
from spot_optimizer.adapters.switches import switches_table
from spot_optimizer.adapters.tokens import tokens_table
from spot_optimizer.adapters.transactions import Writer
from spot_optimizer.domain import orphans, pauses
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, Interruption, Switch
from spot_optimizer.domain.pauses import FleetControl, Pause
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.snapshots import Snapshot
from spot_optimizer.domain.tokens import Token
from spot_optimizer.domain.writes import Table, Transaction
from spot_optimizer.errors import AgentUnknown, InstanceUnknown, ReplicaUnknown

_BINDINGS: Mapping[Table, Callable[[Database, str], BoundTable[Any]]] = {
    Table.AGENTS: agents_table,
    Table.REPLICAS: replicas_table,
    Table.INSTANCES: instances_table,
    Table.INTERRUPTIONS: interruptions_table,
    Table.SWITCHES: switches_table,
    Table.TOKENS: tokens_table,
    Table.FLEET_CONTROLS: fleet_controls_table,
    Table.SNAPSHOTS: snapshots_table,
}


class DynamoRecords:
    """Implements `Records`.

    Args:
        database: The connection.
        tables: Physical names of those tables this function may touch; others than a failover's are passed over.
        heartbeats_table_name: Tells the physical name of the heartbeats' table; asked when it is first used.
    """

    def __init__(
        self, database: Database, *, tables: Mapping[Table, str], heartbeats_table_name: Callable[[], str]
    ) -> None:
        self._database = database
        self._tables: dict[Table, BoundTable[Any]] = {
            table: _BINDINGS[table](database, table_name) for table, table_name in tables.items() if table in _BINDINGS
        }
        self._heartbeats_table_name = heartbeats_table_name

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self._database, self._tables)

    @cached_property
    def _heartbeats(self) -> Heartbeats:
        return Heartbeats(self._database, self._heartbeats_table_name())

    def _table(self, table: Table) -> BoundTable[Any]:
        return self._tables[table]

    def agent(self, agent_id: str) -> Agent:
        """Raises: AgentUnknown."""
        agent: Agent | None = self._table(Table.AGENTS).get(agent_id)
        if agent is None:
            raise AgentUnknown(f"no agent '{agent_id}'; register it first")
        return agent

    def replica(self, agent_id: str, replica_id: str) -> Replica:
        """Raises: ReplicaUnknown."""
        replica: Replica | None = self._table(Table.REPLICAS).get(agent_id, replica_id)
        if replica is None:
            raise ReplicaUnknown(f"agent {agent_id} has no replica '{replica_id}'")
        return replica

    def replicas(self, agent_id: str) -> tuple[Replica, ...]:
        """All replicas an agent ever had, by replica id."""
        return self._table(Table.REPLICAS).query(agent_id)

    def replicas_page(self, agent_id: str, *, after: str | None, limit: int) -> Page[Replica]:
        """One page of an agent's replicas, by replica id."""
        page: Page[Replica] = self._table(Table.REPLICAS).range_page(agent_id, after=after, limit=limit)
        return page

    def instance(self, instance_id: str) -> Instance:
        """Raises: InstanceUnknown."""
        instance: Instance | None = self._table(Table.INSTANCES).get(instance_id)
        if instance is None:
            raise InstanceUnknown(f"instance '{instance_id}' carries no agent of ours")
        return instance

    def heartbeat(self, agent_id: str, instance_id: str) -> Heartbeat | None:
        """The last sign of life of an instance."""
        return self._heartbeats.get(agent_id, instance_id)

    def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Replace the instance's last sign of life."""
        self._heartbeats.put(heartbeat)

    def interruption(self, agent_id: str, event_id: str) -> Interruption | None:
        """One recorded signal."""
        interruption: Interruption | None = self._table(Table.INTERRUPTIONS).get(agent_id, event_id)
        return interruption

    def switch(self, agent_id: str, switch_id: str) -> Switch | None:
        """One recorded promotion."""
        switch: Switch | None = self._table(Table.SWITCHES).get(agent_id, switch_id)
        return switch

    def snapshot(self, agent_id: str, snapshot_id: str) -> Snapshot | None:
        """One complete snapshot."""
        snapshot: Snapshot | None = self._table(Table.SNAPSHOTS).get(agent_id, snapshot_id)
        return snapshot

    def snapshots(self, agent_id: str) -> tuple[Snapshot, ...]:
        """All complete snapshots of an agent, by id."""
        return self._table(Table.SNAPSHOTS).query(agent_id)

    def pause_of_all(self) -> Pause | None:
        """The pause that holds for every agent."""
        control: FleetControl | None = self._table(Table.FLEET_CONTROLS).get(pauses.ALL)
        return None if control is None else control.pause

    def orphan_report(self) -> orphans.Report:
        """What the last sweep for orphans saw."""
        return orphans.report_of(self._table(Table.FLEET_CONTROLS).get(orphans.CONTROL))

    def token(self, token_id: str) -> Token | None:
        """One token's row."""
        token: Token | None = self._table(Table.TOKENS).get(token_id)
        return token

    def commit(self, transaction: Transaction) -> None:
        """Write all changes or none.

        Raises:
            ConditionFailed: A condition did not hold; nothing was written.
            Throttled: Nothing was written; try again.
            OutcomeUnknown: No answer came; read back.
        """
        self._writer.commit(transaction)
