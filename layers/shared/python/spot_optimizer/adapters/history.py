"""What happened, as people look at it, the latest first: promotions, signals, instances. These indexes may lag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any

from spot_optimizer.adapters import instances, interruptions, switches
from spot_optimizer.adapters.database import BoundTable, Database, Index, Page
from spot_optimizer.domain.agents import Instance, InstanceRole, Interruption, Switch
from spot_optimizer.domain.clients import Scope

_PAGE = 100


class DynamoHistory:
    """Lists for people; nothing that decides reads them.

    Args:
        database: The connection.
        switches_table_name: Tells the physical name; asked when the table is first read.
        interruptions_table_name: As well.
        instances_table_name: As well.
    """

    def __init__(
        self,
        database: Database,
        *,
        switches_table_name: Callable[[], str],
        interruptions_table_name: Callable[[], str],
        instances_table_name: Callable[[], str],
    ) -> None:
        self._database = database
        self._switches_table_name = switches_table_name
        self._interruptions_table_name = interruptions_table_name
        self._instances_table_name = instances_table_name

    @cached_property
    def _switches(self) -> BoundTable[Switch]:
        return switches.switches_table(self._database, self._switches_table_name())

    @cached_property
    def _interruptions(self) -> BoundTable[Interruption]:
        return interruptions.interruptions_table(self._database, self._interruptions_table_name())

    @cached_property
    def _instances(self) -> BoundTable[Instance]:
        return instances.instances_table(self._database, self._instances_table_name())

    def switches_page(
        self,
        scope: Scope,
        *,
        after: str | None,
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
        switch_reason: str | None = None,
    ) -> Page[Switch]:
        """One page of promotions; of `since` and `until`, the first is inclusive and the second is not."""
        index, hash_value = _way_in(switches, scope)
        return self._switches.newest(
            index,
            hash_value,
            after=after,
            limit=limit,
            since=since,
            until=until,
            only={"switch_reason": switch_reason},
        )

    def switches_between(self, since: datetime, until: datetime) -> Iterator[Switch]:
        """All promotions of a period, the latest first."""
        after: str | None = None
        while True:
            page = self.switches_page(Scope(), after=after, limit=_PAGE, since=since, until=until)
            yield from page.values
            after = page.last
            if after is None:
                return

    def interruptions_page(
        self,
        scope: Scope,
        *,
        after: str | None,
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
        signal_type: str | None = None,
        pool_id: str | None = None,
    ) -> Page[Interruption]:
        """One page of signals; as `switches_page`."""
        index, hash_value = _way_in(interruptions, scope)
        if scope.everybodys and pool_id is not None:
            index, hash_value, pool_id = interruptions.POOL_INDEX, pool_id, None
        return self._interruptions.newest(
            index,
            hash_value,
            after=after,
            limit=limit,
            since=since,
            until=until,
            only={"signal_type": signal_type, "pool_id": pool_id},
        )

    def instances_page(
        self, client_id: str, *, after: str | None, limit: int, role: InstanceRole | None = None
    ) -> Page[Instance]:
        """One page of a client's instances, the last that joined first."""
        return self._instances.newest(instances.CLIENT_INDEX, client_id, after=after, limit=limit, only={"role": role})

    def instances_of(self, agent_id: str) -> tuple[Instance, ...]:
        """All instances that an agent ever had."""
        return tuple(self._instances.query_index(instances.AGENT_INDEX, agent_id))


def _way_in(table: Any, scope: Scope) -> tuple[Index, str]:
    if scope.agent_id is not None:
        return table.AGENT_INDEX, scope.agent_id
    if scope.client_id is not None:
        return table.CLIENT_INDEX, scope.client_id
    return table.LISTING_INDEX, table.LISTING
