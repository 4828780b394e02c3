"""Agents and pools across agents, read from the tables in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.catalogue import INTERRUPTING
from spot_optimizer.domain.writes import Table
from tests.fakes.records import FakeRecords


class FakeFleet:
    """Implements `Fleet`."""

    def __init__(self, records: FakeRecords) -> None:
        self.records = records

    def agents_with_primary(self) -> tuple[Agent, ...]:
        agents = (self.records.agent(agent_id) for (agent_id,) in sorted(self.records.rows[Table.AGENTS]))
        return tuple(agent for agent in agents if not agent.lost)

    def interruptions_of_pools(
        self, pool_ids: Collection[str], since: datetime, *, signal_types: Collection[str] = INTERRUPTING
    ) -> Mapping[str, tuple[datetime, ...]]:
        found: dict[str, tuple[datetime, ...]] = {}
        for row in self.records.rows[Table.INTERRUPTIONS].values():
            if row["pool_id"] in pool_ids and row["detected_at"] >= since and row["signal_type"] in signal_types:
                found[row["pool_id"]] = (*found.get(row["pool_id"], ()), row["detected_at"])
        return found
