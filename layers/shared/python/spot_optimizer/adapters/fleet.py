"""Agents and pools seen across agents, through indexes that may lag."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import cached_property

from spot_optimizer.adapters.agents import CLIENT_INDEX, LISTING, LISTING_INDEX, agents_table
from spot_optimizer.adapters.database import BoundTable, Database, Page
from spot_optimizer.adapters.decisions import decisions_table
from spot_optimizer.adapters.interruptions import POOL_INDEX, interruptions_table
from spot_optimizer.domain.agents import Agent, Interruption
from spot_optimizer.domain.catalogue import INTERRUPTING
from spot_optimizer.domain.stored_decisions import StoredDecision


class DynamoFleet:
    """Implements `Fleet`, and lists agents for people.

    Args:
        database: The connection.
        agents_table_name: Tells the physical name; asked when the table is first read.
        interruptions_table_name: As well.
        decisions_table_name: As well.
    """

    def __init__(
        self,
        database: Database,
        *,
        agents_table_name: Callable[[], str],
        interruptions_table_name: Callable[[], str],
        decisions_table_name: Callable[[], str],
    ) -> None:
        self._database = database
        self._agents_table_name = agents_table_name
        self._interruptions_table_name = interruptions_table_name
        self._decisions_table_name = decisions_table_name

    @cached_property
    def _agents(self) -> BoundTable[Agent]:
        return agents_table(self._database, self._agents_table_name())

    @cached_property
    def _decisions(self) -> BoundTable[StoredDecision]:
        return decisions_table(self._database, self._decisions_table_name())

    @cached_property
    def _interruptions(self) -> BoundTable[Interruption]:
        return interruptions_table(self._database, self._interruptions_table_name())

    def agents_with_primary(self) -> tuple[Agent, ...]:
        """Every agent that is not lost."""
        return tuple(agent for agent in self._agents.query_index(LISTING_INDEX, LISTING) if not agent.lost)

    def interruptions_of_pools(
        self, pool_ids: Collection[str], since: datetime, *, signal_types: Collection[str] = INTERRUPTING
    ) -> Mapping[str, tuple[datetime, ...]]:
        """When each of the pools took an instance of ours back, or said that it may, at or after `since`."""
        path = self._interruptions.path("detected_at")
        found = {
            pool_id: tuple(
                event.detected_at
                for event in self._interruptions.query_index(POOL_INDEX, pool_id, path >= since)
                if event.signal_type in signal_types
            )
            for pool_id in pool_ids
        }
        return {pool_id: times for pool_id, times in found.items() if times}

    def latest_decision(self, agent_id: str) -> StoredDecision | None:
        """What was last decided for an agent."""
        return self._decisions.last(agent_id)

    def agents_page(self, *, client_id: str | None, after: str | None, limit: int) -> Page[Agent]:
        """One page of agents by id: of one client, or of all."""
        if client_id is not None:
            return self._agents.page(CLIENT_INDEX, client_id, after=after, limit=limit)
        return self._agents.page(LISTING_INDEX, LISTING, after=after, limit=limit)
