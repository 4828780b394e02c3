from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from moto import mock_aws

from spot_optimizer.adapters.database import Database
from spot_optimizer.adapters.records import DynamoRecords
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.config import Config
from tests.adapters.tables import ENVIRONMENT, REGION, make_tables


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS in process, with every table."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        make_tables()
        yield


@pytest.fixture
def clients(aws: None) -> Clients:
    return Clients(REGION)


@pytest.fixture
def database(clients: Clients) -> Database:
    return Database(clients)


def dynamo_records(database: Database) -> DynamoRecords:
    config = Config(ENVIRONMENT)
    return DynamoRecords(database, tables=config.tables_given(), heartbeats_table_name=lambda: config.heartbeats_table)


@pytest.fixture
def records(database: Database) -> DynamoRecords:
    return dynamo_records(database)


def as_any(value: object) -> Any:
    return value
