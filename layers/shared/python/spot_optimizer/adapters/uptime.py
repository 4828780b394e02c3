"""For how long health checks passed, hour by hour: rows beside the heartbeats, which no promotion touches.

The table's range key is `instance_id`; such a row's begins with `uptime#` and the hour, so that a period of one agent
is one query, and no instance is called like that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import BoundTable, Database, EpochSecondsAttribute, InstantAttribute
from spot_optimizer.domain.agents import Heartbeat
from spot_optimizer.domain.uptime import HOUR, HourPassed, count, hour_of

KEPT_FOR = timedelta(days=40)
"""Longer than any period that may be asked for."""

_PREFIX = "uptime#"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    agent_id: str
    instance_id: str
    of_instance: str
    hour: datetime
    passed_us: int
    seen_at: datetime
    passing: bool
    epoch: int

    def as_value(self) -> HourPassed:
        return HourPassed(
            agent_id=self.agent_id,
            instance_id=self.of_instance,
            hour=self.hour,
            passed_us=self.passed_us,
            seen_at=self.seen_at,
            passing=self.passing,
            epoch=self.epoch,
        )


class HourPassedRow(Model):
    """What an instance came to in one hour; attributes are those of `HourPassed`."""

    agent_id = UnicodeAttribute(hash_key=True)
    instance_id = UnicodeAttribute(range_key=True)
    of_instance = UnicodeAttribute()
    hour = InstantAttribute()
    passed_us = NumberAttribute()
    seen_at = InstantAttribute()
    passing = BooleanAttribute()
    epoch = NumberAttribute()
    forget_at = EpochSecondsAttribute()


class DynamoUptime:
    """Implements `Uptime`.

    Args:
        database: The connection.
        table_name: Tells the physical name of the heartbeats' table; asked when it is first used.
    """

    def __init__(self, database: Database, *, table_name: Callable[[], str]) -> None:
        self._database = database
        self._table_name = table_name

    @cached_property
    def _table(self) -> BoundTable[_Kept]:
        return BoundTable(self._database, self._table_name(), row=HourPassedRow, value=_Kept)

    def note(self, heartbeat: Heartbeat) -> None:
        """Go on counting with a sign of life: one read and one write, two of each after a new hour's first."""
        hour = hour_of(heartbeat.at)
        last = self._hour(heartbeat, hour) or self._hour(heartbeat, hour - HOUR)
        for passed in count(last, heartbeat):
            self.keep(passed)

    def keep(self, passed: HourPassed) -> None:
        """Write an hour as it is now."""
        self._table.put(
            _Kept(
                agent_id=passed.agent_id,
                instance_id=_key(passed.hour, passed.instance_id),
                of_instance=passed.instance_id,
                hour=passed.hour,
                passed_us=passed.passed_us,
                seen_at=passed.seen_at,
                passing=passed.passing,
                epoch=passed.epoch,
            ),
            forget_at=passed.hour + KEPT_FOR,
        )

    def between(self, agent_id: str, since: datetime, until: datetime) -> tuple[HourPassed, ...]:
        """What an agent's instances came to in the hours of a period; both ends are whole hours, the last excluded."""
        rows = self._table.between(agent_id, _key(since, ""), _key(until, ""))
        return tuple(row.as_value() for row in rows)

    def _hour(self, heartbeat: Heartbeat, hour: datetime) -> HourPassed | None:
        kept = self._table.get(heartbeat.agent_id, _key(hour, heartbeat.instance_id))
        return None if kept is None else kept.as_value()


def _key(hour: datetime, instance_id: str) -> str:
    return f"{_PREFIX}{hour_of(hour).isoformat()}#{instance_id}"
