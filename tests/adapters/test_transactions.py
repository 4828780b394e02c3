"""DynamoDB decides a transaction as `domain.writes.holds` does, and its refusals become our errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spot_optimizer.adapters.database import Database
from spot_optimizer.adapters.records import DynamoRecords
from spot_optimizer.domain.agents import Agent, HandoverState
from spot_optimizer.domain.writes import (
    AtMost,
    Below,
    Change,
    Condition,
    Equals,
    Missing,
    MissingOrAbove,
    OneOf,
    Present,
    Table,
    Transaction,
)
from spot_optimizer.errors import AgentUnknown, ConditionFailed, OutcomeUnknown, Throttled
from tests import builders
from tests.adapters.conftest import dynamo_records
from tests.adapters.transport import Transport, cancelled, ok, refusal
from tests.fakes import FakeRecords

EPOCHS = st.integers(0, 3)
TEXTS = st.sampled_from(["rep-a", "rep-b"])
STATES = st.sampled_from(list(HandoverState))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "epoch": EPOCHS,
    "active_replica_id": TEXTS,
    "handover_state": STATES,
    "handover_readiness": EPOCHS,
    "claim_open": st.booleans(),
}
REMOVABLE = ("active_replica_id", "handover_readiness")
KINDS = {
    "epoch": ["below", "at most"],
    "handover_readiness": ["below", "at most"],
    "active_replica_id": ["missing or above"],
}


@st.composite
def conditions(draw: st.DrawFn, name: str) -> Condition:
    kinds = ["equals", "one of", "missing", "present", *KINDS.get(name, [])]
    values = VALUES[name] | st.none()
    match draw(st.sampled_from(kinds)):
        case "equals":
            return Equals(draw(values))
        case "one of":
            return OneOf(tuple(draw(st.lists(values, max_size=3))))
        case "missing":
            return Missing()
        case "below":
            return Below(draw(EPOCHS))
        case "at most":
            return AtMost(draw(EPOCHS))
        case "missing or above":
            return MissingOrAbove(draw(TEXTS))
    return Present()


@st.composite
def changes(draw: st.DrawFn, key: str) -> Change:
    checked = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2, unique=True))
    only_if = {name: draw(conditions(name)) for name in checked}
    written = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2, unique=True))
    if not only_if and not written:
        only_if = {"agent_id": Present()}
    put = {name: draw(VALUES[name] | st.none() if name in REMOVABLE else VALUES[name]) for name in written}
    # A row must exist to be read back as an agent; that it must is a condition like any other.
    return Change(Table.AGENTS, (key,), f"change of {key}", only_if=only_if | {"agent_id": Present()}, put=put)


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    keys = draw(st.lists(st.sampled_from(["agt-1", "agt-2", "agt-absent"]), min_size=1, max_size=3, unique=True))
    return Transaction("any", tuple(draw(changes(key)) for key in keys))


@st.composite
def agents(draw: st.DrawFn, key: str) -> Agent:
    return builders.an_agent(
        agent_id=key,
        epoch=draw(EPOCHS),
        active_replica_id=draw(TEXTS | st.none()),
        handover_state=draw(STATES),
        handover_readiness=draw(EPOCHS | st.none()),
        claim_open=draw(st.booleans()),
    )


def write_whole(records: DynamoRecords, agent: Agent) -> None:
    values = {name: getattr(agent, name) for name in agent.__dataclass_fields__ if name != "agent_id"}
    records.commit(Transaction("put", (Change(Table.AGENTS, (agent.agent_id,), "put", put=values),)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=agents("agt-1"), second=agents("agt-2"), transaction=transactions())
def test_dynamodb_decides_and_writes_as_the_rules_in_memory_do(
    records: DynamoRecords, first: Agent, second: Agent, transaction: Transaction
) -> None:
    fake = FakeRecords().put(first, second)
    for agent in (first, second):
        write_whole(records, agent)
    outcomes = []
    for each in (fake, records):
        try:
            each.commit(transaction)
        except ConditionFailed:
            outcomes.append("refused")
        else:
            outcomes.append("written")
    assert outcomes[0] == outcomes[1]
    assert [records.agent(key) for key in ("agt-1", "agt-2")] == [fake.agent(key) for key in ("agt-1", "agt-2")]
    with pytest.raises(AgentUnknown):
        records.agent("agt-absent")


def test_a_new_row_is_put_under_the_key_of_its_listing(records: DynamoRecords, database: Database) -> None:
    put = {name: value for name, value in vars_of(builders.an_agent()).items() if name != "agent_id"}
    create = Change(Table.AGENTS, (builders.AGENT,), "create", only_if={"agent_id": Missing()}, put=put)
    records.commit(Transaction("create", (create,)))
    item = database.connection.get_item("test-agents", builders.AGENT)["Item"]
    assert item["listing"] == {"S": "agent"}
    assert item["epoch"] == {"N": "1"}
    assert item["registered_at"] == {"S": "2026-03-01T12:00:00.000000+00:00"}
    assert "active_replica_id" not in item


def vars_of(agent: Agent) -> dict[str, Any]:
    return {name: getattr(agent, name) for name in agent.__dataclass_fields__}


# --- answers

ONE = Transaction("one", (Change(Table.AGENTS, ("agt-1",), "raise", only_if={"epoch": Equals(1)}, put={"epoch": 2}),))
TWO = Transaction(
    "two",
    (
        Change(Table.AGENTS, ("agt-1",), "the raise", only_if={"epoch": Equals(1)}, put={"epoch": 2}),
        Change(Table.REPLICAS, ("agt-1", "rep-1"), "the check", only_if={"replica_id": Present()}),
    ),
)


@pytest.fixture
def quick(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Does not wait between attempts."""
    monkeypatch.setattr(database, "wait", lambda _attempt: None)
    return database


def answering(database: Database, *answers: Any) -> tuple[DynamoRecords, Transport]:
    return dynamo_records(database), Transport(database.connection.client, "dynamodb", *answers)


def read_timeout() -> ReadTimeoutError:
    return ReadTimeoutError(endpoint_url="http://dynamodb")


@pytest.mark.parametrize("failure", [refusal("ProvisionedThroughputExceededException"), refusal("ThrottlingException")])
def test_a_throttled_write_is_tried_again(quick: Database, failure: Any) -> None:
    records, transport = answering(quick, failure, failure, ok())
    records.commit(ONE)
    assert len(transport.requests) == 3


def test_a_write_that_stays_throttled_is_given_up(quick: Database) -> None:
    records, transport = answering(quick, *[refusal("ThrottlingException")] * 5)
    with pytest.raises(Throttled):
        records.commit(ONE)
    assert len(transport.requests) == 5


def test_a_conflict_of_transactions_is_tried_again(quick: Database) -> None:
    records, transport = answering(
        quick, cancelled("None", "TransactionConflict"), cancelled("TransactionConflict", "None"), ok()
    )
    records.commit(TWO)
    assert len(transport.requests) == 3


def test_a_conflict_that_stays_is_throttled(quick: Database) -> None:
    records, _ = answering(quick, *[cancelled("None", "TransactionConflict")] * 5)
    with pytest.raises(Throttled):
        records.commit(TWO)


def test_a_single_write_that_gives_way_to_a_transaction_is_tried_again(quick: Database) -> None:
    records, transport = answering(quick, refusal("TransactionConflictException"), ok())
    records.commit(ONE)
    assert len(transport.requests) == 2


def test_a_refused_condition_names_the_change_and_is_final(quick: Database) -> None:
    # Checks are sent first: the first reason belongs to the check.
    records, transport = answering(quick, cancelled("ConditionalCheckFailed", "None"))
    with pytest.raises(ConditionFailed, match="the check"):
        records.commit(TWO)
    assert len(transport.requests) == 1


def test_a_refused_condition_counts_more_than_a_conflict_beside_it(quick: Database) -> None:
    records, _ = answering(quick, cancelled("TransactionConflict", "ConditionalCheckFailed"))
    with pytest.raises(ConditionFailed, match="the raise"):
        records.commit(TWO)


def test_a_lost_answer_to_a_single_write_is_unknown_at_once(quick: Database) -> None:
    records, transport = answering(quick, read_timeout())
    with pytest.raises(OutcomeUnknown):
        records.commit(ONE)
    assert len(transport.requests) == 1


def test_a_lost_answer_to_a_transaction_is_asked_for_again_under_the_same_token(quick: Database) -> None:
    records, transport = answering(quick, read_timeout(), ok())
    records.commit(TWO)
    sent = {json.loads(request)["ClientRequestToken"] for request in transport.requests}
    assert len(transport.requests) == 2
    assert len(sent) == 1


def test_a_transaction_that_never_gets_an_answer_is_unknown(quick: Database) -> None:
    records, _ = answering(quick, *[read_timeout() for _ in range(5)])
    with pytest.raises(OutcomeUnknown):
        records.commit(TWO)


def test_a_failure_inside_dynamodb_is_unknown(quick: Database) -> None:
    records, _ = answering(quick, refusal("InternalServerError", status=500))
    with pytest.raises(OutcomeUnknown):
        records.commit(ONE)


@pytest.mark.parametrize(
    "failure",
    [ConnectTimeoutError(endpoint_url="http://dynamodb"), EndpointConnectionError(endpoint_url="http://dynamodb")],
)
def test_what_was_never_sent_is_tried_again(quick: Database, failure: Exception) -> None:
    records, transport = answering(quick, failure, ok())
    records.commit(ONE)
    assert len(transport.requests) == 2


def test_a_read_is_repeated_until_it_is_answered(quick: Database) -> None:
    records, transport = answering(quick, read_timeout(), refusal("ThrottlingException"), ok())
    with pytest.raises(AgentUnknown):
        records.agent("agt-1")
    assert len(transport.requests) == 3
    assert all(json.loads(request)["ConsistentRead"] is True for request in transport.requests)


def test_what_is_not_known_crashes(quick: Database) -> None:
    records, _ = answering(quick, refusal("ResourceNotFoundException"))
    with pytest.raises(Exception, match="ResourceNotFoundException"):
        records.commit(ONE)
