"""Which function serves which call. A test holds this against docs/openapi.json, which the code writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Calls that need no token.
OPEN: Final = ("GET /api/health", "GET /api/openapi.json")

AGENT_API: Final = (
    "GET /api/agents",
    "POST /api/agents/register",
    "GET /api/agents/{agent_id}",
    "GET /api/agents/{agent_id}/config",
    "PATCH /api/agents/{agent_id}/config",
    "POST /api/agents/{agent_id}/heartbeat",
    "POST /api/agents/{agent_id}/commands/{command_id}/result",
    "POST /api/agents/{agent_id}/log-tail",
)

REPLICA_API: Final = (
    "GET /api/agents/{agent_id}/replicas",
    "POST /api/agents/{agent_id}/replicas",
    "DELETE /api/agents/{agent_id}/replicas/{replica_id}",
    "POST /api/agents/{agent_id}/replicas/{replica_id}/sync-status",
    "POST /api/agents/{agent_id}/replicas/{replica_id}/unready",
    "POST /api/agents/{agent_id}/replicas/{replica_id}/promote",
    "POST /api/agents/{agent_id}/handovers/{handover_id}/commit",
    "POST /api/agents/{agent_id}/handovers/{handover_id}/abort",
    "POST /api/agents/{agent_id}/create-emergency-replica",
    "POST /api/agents/{agent_id}/issue-switch-command",
    "POST /api/agents/{agent_id}/pause",
    "POST /api/agents/{agent_id}/resume",
    "POST /api/agents/{agent_id}/termination-imminent",
)

SNAPSHOT_API: Final = (
    "POST /api/agents/{agent_id}/snapshots",
    "POST /api/agents/{agent_id}/snapshots/{snapshot_id}/complete",
    "GET /api/agents/{agent_id}/snapshots/latest",
)

MODEL_API: Final = (
    "POST /api/admin/ml-models/sessions",
    "GET /api/admin/ml-models/sessions",
    "POST /api/admin/ml-models/activate",
    "POST /api/admin/ml-models/fallback",
)

PRICE_API: Final = (
    "POST /api/agents/{agent_id}/pricing",
    "GET /api/pools",
    "GET /api/pools/{pool_id}/prices",
    "GET /api/pools/{pool_id}/quality",
    "POST /api/pools/{pool_id}/gaps/fill",
)

#: Looking only: the role behind these can write nothing.
FLEET_API: Final = (
    "GET /api/agents/{agent_id}/pools",
    "GET /api/agents/{agent_id}/switch-recommendation",
    "GET /api/clients/{client_id}/instances",
    "GET /api/interruptions",
    "GET /api/switches",
)

DOCTOR_API: Final = ("POST /api/agents/{agent_id}/doctor",)

#: Looking only, at what takes longer to read.
REPORT_API: Final = (
    "GET /api/metrics",
    "GET /api/savings",
)

OPERATOR_API: Final = (
    "GET /api/clients",
    "POST /api/clients",
    "POST /api/clients/{client_id}/tokens",
    "POST /api/tokens",
    "GET /api/orphans",
    "GET /api/pause",
    "POST /api/pause",
    "POST /api/resume",
    "POST /api/tokens/{token_id}/rotate",
    "DELETE /api/tokens/{token_id}",
    # whatever has no route gets its 404 in the same form as every other refusal
    "$default",
)

#: Calls that cost much of what failovers need too, questions to EC2 and room in Lambda: how many a second, and at once.
LIMITED: Final[Mapping[str, tuple[int, int]]] = {
    "POST /api/agents/{agent_id}/doctor": (1, 5),
    "GET /api/agents/{agent_id}/pools": (10, 50),
    "GET /api/agents/{agent_id}/switch-recommendation": (10, 50),
    "GET /api/metrics": (5, 20),
    "GET /api/savings": (5, 20),
}
