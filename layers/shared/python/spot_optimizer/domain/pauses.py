"""Pauses, as rows: of one agent on its own row, of all on a row of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spot_optimizer.domain.writes import Change, Missing, Present, Table, Transaction

ALL = "all"
"""Key of the row that pauses everything."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is to be changed.

    Attributes:
        paused_at: Since when.
        reason: An operator's words.
        of_all: Whether it holds for every agent.
    """

    paused_at: datetime
    reason: str
    of_all: bool = False

    @property
    def explanation(self) -> str:
        """For people."""
        who = "everything" if self.of_all else "the agent"
        return f"{who} is paused since {self.paused_at.isoformat(timespec='seconds')}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetControl:
    """A row about all agents at once: that which pauses everything, or the report of `domain.orphans`.

    Attributes:
        paused_at: There while everything is paused.
    """

    control_id: str
    paused_at: datetime | None = None
    paused_because: str | None = None
    sweep_number: int = 0
    swept_at: datetime | None = None
    sightings: tuple[Mapping[str, Any], ...] = ()
    ended: tuple[Mapping[str, Any], ...] = ()
    ended_at: datetime | None = None
    halted_because: str | None = None

    @property
    def pause(self) -> Pause | None:
        """The pause of all, if there is one."""
        return None if self.paused_at is None else Pause(self.paused_at, self.paused_because or "", of_all=True)


def pause_agent(agent_id: str, *, reason: str, now: datetime) -> Transaction:
    """Pause an agent that is not paused."""
    return Transaction(
        "pause agent",
        (
            Change(
                Table.AGENTS,
                (agent_id,),
                "the first pause stands",
                only_if={"agent_id": Present(), "paused_at": Missing()},
                put={"paused_at": now, "paused_because": reason},
            ),
        ),
    )


def resume_agent(agent_id: str) -> Transaction:
    """End an agent's pause."""
    return Transaction(
        "resume agent",
        (
            Change(
                Table.AGENTS,
                (agent_id,),
                "only an agent that exists is resumed",
                only_if={"agent_id": Present()},
                put={"paused_at": None, "paused_because": None},
            ),
        ),
    )


def pause_all(*, reason: str, now: datetime) -> Transaction:
    """Pause everything, if it is not paused."""
    return Transaction(
        "pause all",
        (
            Change(
                Table.FLEET_CONTROLS,
                (ALL,),
                "the first pause stands",
                only_if={"paused_at": Missing()},
                put={"paused_at": now, "paused_because": reason},
            ),
        ),
    )


def resume_all() -> Transaction:
    """End the pause of all."""
    return Transaction(
        "resume all",
        (
            Change(
                Table.FLEET_CONTROLS,
                (ALL,),
                "the row of all",
                put={"paused_at": None, "paused_because": None},
            ),
        ),
    )
