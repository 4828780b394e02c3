"""What is written down is what answers."""

from __future__ import annotations

import json

import httpx

from local.rehearsal import Tenancy
from local.rehearsal.tenancy import REPOSITORY


def test_the_written_openapi_document_is_the_one_that_the_running_api_serves(tenancy: Tenancy) -> None:
    written = json.loads((REPOSITORY / "docs" / "openapi.json").read_text())
    served = httpx.get(f"{tenancy.api_url}/api/openapi.json", timeout=10, trust_env=False).json()
    assert served == written


def test_health_answers_without_a_token(tenancy: Tenancy) -> None:
    answer = httpx.get(f"{tenancy.api_url}/api/health", timeout=10, trust_env=False)
    assert answer.status_code == 200


def test_everything_else_wants_a_token(tenancy: Tenancy) -> None:
    for path in ("/api/agents", "/api/clients", "/api/agents/agt-1"):
        assert httpx.get(f"{tenancy.api_url}{path}", timeout=10, trust_env=False).status_code == 401
