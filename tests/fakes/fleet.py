"""Agents and pools across agents, read from the tables in memory."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.writes import Table
from tests.fakes.records import FakeRecords


class FakeFleet:
    """Implements `Fleet`."""

    def __init__(self, records: FakeRecords) -> None:
        self.records = records

    def agents_with_primary(self) -> tuple[Agent, ...]:
        agents = (self.records.agent(agent_id) for (agent_id,) in sorted(self.records.rows[Table.AGENTS]))
        return tuple(agent for agent in agents if not agent.lost)

    def pools_interrupted_since(self, pool_ids: Collection[str], since: datetime) -> frozenset[str]:
        rows = self.records.rows[Table.INTERRUPTIONS].values()
        return frozenset(row["pool_id"] for row in rows if row["pool_id"] in pool_ids and row["detected_at"] >= since)
