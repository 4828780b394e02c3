"""Agents and pools across agents, read from the tables in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.catalogue import INTERRUPTING
from spot_optimizer.domain.stored_decisions import StoredDecision
from spot_optimizer.domain.writes import Table
from spot_optimizer.errors import Throttled
from tests.fakes.records import FakeRecords


class FakeFleet:
    """Implements `Fleet`.

    Attributes:
        decisions: What was last decided, by agent id.
        is_silent: Whether decisions can not be read now.
    """

    def __init__(self, records: FakeRecords) -> None:
        self.records = records
        self.decisions: dict[str, StoredDecision] = {}
        self.is_silent = False

    def agents_with_primary(self) -> tuple[Agent, ...]:
        agents = (self.records.agent(agent_id) for (agent_id,) in sorted(self.records.rows[Table.AGENTS]))
        return tuple(agent for agent in agents if not agent.lost)

    def latest_decision(self, agent_id: str) -> StoredDecision | None:
        if self.is_silent:
            raise Throttled("decisions are not told now")
        return self.decisions.get(agent_id)

    def interruptions_of_pools(
        self, pool_ids: Collection[str], since: datetime, *, signal_types: Collection[str] = INTERRUPTING
    ) -> Mapping[str, tuple[datetime, ...]]:
        found: dict[str, tuple[datetime, ...]] = {}
        for row in self.records.rows[Table.INTERRUPTIONS].values():
            if row["pool_id"] in pool_ids and row["detected_at"] >= since and row["signal_type"] in signal_types:
                found[row["pool_id"]] = (*found.get(row["pool_id"], ()), row["detected_at"])
        return found
