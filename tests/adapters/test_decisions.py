"""Decisions come back as they were kept, the latest first, and are forgotten by the table itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest

from spot_optimizer.adapters.database import READ_ATTEMPTS, Database
from spot_optimizer.adapters.decisions import DynamoDecisions
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.domain.stored_decisions import KEPT_FOR
from tests.adapters.tables import ENVIRONMENT, REGION
from tests.adapters.transport import Transport, ok, refusal
from tests.builders import AGENT, NOON
from tests.unit.decisions.test_offers import a_stored_decision

TABLE = ENVIRONMENT["DECISIONS_TABLE"]


@pytest.fixture
def decisions(database: Database) -> DynamoDecisions:
    return DynamoDecisions(database, table_name=lambda: TABLE)


def rows() -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = boto3.client("dynamodb", region_name=REGION).scan(TableName=TABLE)["Items"]
    return found


def test_the_latest_decision_comes_back_as_it_was_kept(decisions: DynamoDecisions) -> None:
    first = a_stored_decision()
    second = replace(first, decided_at=NOON + timedelta(minutes=5), model_version="ses-1", without_model_because="")
    unpriced = replace(first.offers[0], usd_per_hour=None, price_seen_at=None, expected_usd_per_hour=None)
    third = replace(second, agent_id="agt-other", offers=(unpriced,))
    assert decisions.latest(AGENT) is None
    assert decisions.keep([second, first, third]) == 0
    assert decisions.latest(AGENT) == second
    assert decisions.latest("agt-other") == third


def test_a_decision_is_forgotten_after_its_time(decisions: DynamoDecisions) -> None:
    decisions.keep([a_stored_decision()])
    [row] = rows()
    assert int(row["forget_at"]["N"]) == int((NOON + KEPT_FOR).timestamp())


def test_what_can_not_be_kept_is_counted_and_crashes_nothing(clients: Clients) -> None:
    database = Database(clients)
    decisions = DynamoDecisions(database, table_name=lambda: TABLE)
    throttled = [refusal("ThrottlingException")] * READ_ATTEMPTS
    Transport(database.connection.client, "dynamodb", ok(), *throttled)
    assert decisions.keep([a_stored_decision()]) == 0
    assert decisions.keep([a_stored_decision()]) == 1
