"""Tells who calls. It never refuses by itself: the gateway's refusal says nothing, so the routers refuse, in words.

What the routers are given is either a caller, or the problem with the token, or why that can not be told now; a router
opens nothing without a caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api.callers import as_context
from spot_optimizer.domain import tokens
from spot_optimizer.errors import TokenInvalid, Transient


def handle(event: Mapping[str, Any], _context: Any) -> dict[str, Any]:
    """Answer the HTTP API's authorizer event, format 2.0, simple response."""
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    try:
        presented = tokens.bearer(headers.get("authorization"))
        caller = tokens.admit(presented, wiring.records().token(presented.token_id), now=wiring.clock())
    except TokenInvalid as error:
        return {"isAuthorized": True, "context": {"problem": str(error)}}
    except Transient as error:
        return {"isAuthorized": True, "context": {"unavailable": str(error)}}
    return {"isAuthorized": True, "context": as_context(caller)}
