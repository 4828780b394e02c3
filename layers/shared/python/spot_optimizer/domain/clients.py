"""Clients: the tenants. One client never sees another's rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

OWNER_TAG = "spot-optimizer:client"
"""A launch template, address or subnet may be used by the client whose id this tag holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One tenant."""

    client_id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose rows somebody looks at: one agent's, else one client's, else everybody's."""

    client_id: str | None = None
    agent_id: str | None = None

    @property
    def everybodys(self) -> bool:
        """Whether nothing narrows it."""
        return self.client_id is None and self.agent_id is None
