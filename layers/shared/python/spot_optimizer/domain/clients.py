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
