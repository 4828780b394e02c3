from __future__ import annotations

from tests.api.conftest import deployed, environment, http, registered, rows, signer

__all__ = ["deployed", "environment", "http", "registered", "rows", "signer"]
