"""User data: the same for the same launch, and only its token's hash is kept."""

from __future__ import annotations

from datetime import timedelta

import boto3
import pytest

from spot_optimizer.adapters.joining import KmsJoining
from spot_optimizer.adapters.parameters import Parameters
from spot_optimizer.adapters.records import DynamoRecords
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.domain import tokens
from spot_optimizer.domain.handover import agent_values
from spot_optimizer.domain.writes import Change, Table, Transaction
from tests import builders

ASKED = {"agent_id": builders.AGENT, "replica_id": builders.REPLICA}


@pytest.fixture
def joining(clients: Clients, records: DynamoRecords) -> KmsJoining:
    key = boto3.client("kms").create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
    boto3.client("ssm").put_parameter(Name="/test/api-url", Value="https://api.example.test", Type="String")
    agent = builders.an_agent()
    records.commit(Transaction("put", (Change(Table.AGENTS, (agent.agent_id,), "put", put=agent_values(agent)),)))
    return KmsJoining(
        clients, Parameters(clients), records, join_key_id=lambda: key, api_url_parameter=lambda: "/test/api-url"
    )


def settings(user_data: str) -> dict[str, str]:
    first, *lines = user_data.splitlines()
    assert first == "# spot-agent"
    return dict(line.split("=", 1) for line in lines)


def test_user_data_says_where_and_as_what_to_join(joining: KmsJoining, records: DynamoRecords) -> None:
    said = settings(joining.user_data(**ASKED, launch_number=1, now=builders.NOON))
    assert said["CENTRAL_SERVER_URL"] == "https://api.example.test"
    assert (said["AGENT_ID"], said["REPLICA_ID"]) == (builders.AGENT, builders.REPLICA)
    presented = tokens.parse(said["JOIN_TOKEN"])
    caller = tokens.admit(presented, records.token(presented.token_id), now=builders.NOON)
    assert (caller.kind, caller.agent_id, caller.replica_id) == ("join", builders.AGENT, builders.REPLICA)
    assert caller.expires_at == builders.NOON + timedelta(minutes=15)


def test_a_retry_gets_identical_user_data_and_another_launch_does_not(joining: KmsJoining) -> None:
    first = joining.user_data(**ASKED, launch_number=1, now=builders.NOON)
    assert joining.user_data(**ASKED, launch_number=1, now=builders.NOON + timedelta(seconds=9)) == first
    assert joining.user_data(**ASKED, launch_number=2, now=builders.NOON) != first


def test_the_secret_is_nowhere_in_the_tables(joining: KmsJoining, records: DynamoRecords) -> None:
    presented = tokens.parse(settings(joining.user_data(**ASKED, launch_number=1, now=builders.NOON))["JOIN_TOKEN"])
    row = records.token(presented.token_id)
    assert row is not None
    assert presented.secret not in repr(row)
    assert row.secret_hash == tokens.hash_of(presented.secret)


def test_a_redeemed_token_stays_redeemed(joining: KmsJoining, records: DynamoRecords) -> None:
    first = joining.user_data(**ASKED, launch_number=1, now=builders.NOON)
    presented = tokens.parse(settings(first)["JOIN_TOKEN"])
    caller = tokens.admit(presented, records.token(presented.token_id), now=builders.NOON)
    records.commit(Transaction("redeem", (tokens.redeem_join(caller, instance_id=builders.STANDBY),)))
    assert joining.user_data(**ASKED, launch_number=1, now=builders.NOON) == first
    row = records.token(presented.token_id)
    assert row is not None
    assert row.redeemed_by == builders.STANDBY
