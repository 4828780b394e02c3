"""What `Records` promises, asked of DynamoDB and of the fake alike."""

from __future__ import annotations

import dataclasses
import typing
from datetime import timedelta

import pytest

from spot_optimizer.adapters.agents import AgentRow
from spot_optimizer.adapters.clients import ClientRow
from spot_optimizer.adapters.heartbeats import HeartbeatRow
from spot_optimizer.adapters.instances import InstanceRow
from spot_optimizer.adapters.interruptions import InterruptionRow
from spot_optimizer.adapters.model_sessions import ModelSessionRow, SlotsRow
from spot_optimizer.adapters.replicas import ReplicaRow
from spot_optimizer.adapters.switches import SwitchRow
from spot_optimizer.adapters.tokens import TokenRow
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, Interruption, Switch
from spot_optimizer.domain.clients import Client
from spot_optimizer.domain.handover import agent_values
from spot_optimizer.domain.model_sessions import ModelSession, Slots
from spot_optimizer.domain.replicas import Replica, instance_values
from spot_optimizer.domain.tokens import Token, token_values
from spot_optimizer.domain.writes import Change, Equals, Missing, Present, Table, Transaction
from spot_optimizer.errors import AgentUnknown, ConditionFailed, InstanceUnknown, ReplicaUnknown
from spot_optimizer.ports import Records
from tests import builders
from tests.fakes import FakeRecords

ROWS = {
    Agent: (AgentRow, {"listing"}),
    Replica: (ReplicaRow, set()),
    Instance: (InstanceRow, set()),
    Heartbeat: (HeartbeatRow, {"forget_at"}),
    Interruption: (InterruptionRow, {"listing"}),
    Switch: (SwitchRow, {"listing"}),
    Token: (TokenRow, set()),
    Client: (ClientRow, {"listing"}),
    ModelSession: (ModelSessionRow, {"listing"}),
    Slots: (SlotsRow, set()),
}


@pytest.fixture(params=["fake", "dynamodb"])
def some_records(request: pytest.FixtureRequest) -> Records:
    if request.param == "fake":
        return FakeRecords()
    return typing.cast("Records", request.getfixturevalue("records"))


def put(records: Records, table: Table, value: typing.Any, **key: str) -> None:
    values = {
        field.name: item
        for field in dataclasses.fields(value)
        if field.name not in key and (item := getattr(value, field.name)) is not None
    }
    records.commit(Transaction("put", (Change(table, tuple(key.values()), "put", put=values),)))


@pytest.mark.parametrize("value", ROWS, ids=lambda value: value.__name__)
def test_a_row_has_the_attributes_of_its_dataclass_and_those_of_its_indexes(value: typing.Any) -> None:
    row, more = ROWS[value]
    assert set(row.get_attributes()) == {field.name for field in dataclasses.fields(value)} | more


@pytest.mark.parametrize("value", ROWS, ids=lambda value: value.__name__)
def test_an_attribute_may_be_absent_exactly_where_its_field_may_be_none(value: typing.Any) -> None:
    row, more = ROWS[value]
    hints = typing.get_type_hints(value)
    optional = {name for name, hint in hints.items() if type(None) in typing.get_args(hint)}
    assert {name for name, attribute in row.get_attributes().items() if attribute.null} - more == optional


def test_an_agent_is_read_as_it_was_written(some_records: Records) -> None:
    agent = builders.an_agent(
        traffic_target="eipalloc-1",
        claim_signal="termination-notice",
        claim_signal_at=builders.NOON + timedelta(microseconds=1),
        sync_interval_seconds=0.25,
        task_token="token",
    )
    some_records.commit(
        Transaction(
            "register",
            (
                Change(
                    Table.AGENTS,
                    (agent.agent_id,),
                    "once",
                    only_if={"agent_id": Missing()},
                    put=agent_values(agent),
                ),
            ),
        )
    )
    assert some_records.agent(agent.agent_id) == agent


def test_replicas_are_read_as_they_were_written_in_the_order_of_their_ids(some_records: Records) -> None:
    second, first = builders.a_ready_replica(replica_id="rep-b"), builders.a_replica(replica_id="rep-a", attempts=())
    other = builders.a_replica(agent_id="agt-other", replica_id="rep-c")
    for replica in (second, first, other):
        put(some_records, Table.REPLICAS, replica, agent_id=replica.agent_id, replica_id=replica.replica_id)
    assert some_records.replicas(builders.AGENT) == (first, second)
    assert some_records.replica(builders.AGENT, "rep-b") == second


def test_instances_interruptions_and_switches_are_read_as_they_were_written(some_records: Records) -> None:
    instance = builders.an_instance(launched_at=builders.NOON)
    some_records.commit(
        Transaction("put", (Change(Table.INSTANCES, (instance.instance_id,), "put", put=instance_values(instance)),))
    )
    interruption = builders.an_interruption(failover_time_ms=4321, epoch=1, termination_time=builders.NOON)
    put(some_records, Table.INTERRUPTIONS, interruption, agent_id=builders.AGENT, event_id=interruption.event_id)
    switch = builders.a_switch(rpo_seconds=1.5, rpo_breached=True)
    put(some_records, Table.SWITCHES, switch, agent_id=builders.AGENT, switch_id=switch.switch_id)
    assert some_records.instance(instance.instance_id) == instance
    assert some_records.interruption(builders.AGENT, interruption.event_id) == interruption
    assert some_records.switch(builders.AGENT, switch.switch_id) == switch


def test_a_token_is_read_as_it_was_written(some_records: Records) -> None:
    token = builders.a_token(replica_id="rep-a", redeemed_by="i-1")
    some_records.commit(Transaction("put", (Change(Table.TOKENS, (token.token_id,), "put", put=token_values(token)),)))
    assert typing.cast("FakeRecords", some_records).token(token.token_id) == token


def test_a_heartbeat_replaces_the_one_before(some_records: Records) -> None:
    some_records.put_heartbeat(builders.a_heartbeat(serving=False))
    later = builders.a_heartbeat(at=builders.NOON + timedelta(seconds=30))
    some_records.put_heartbeat(later)
    assert some_records.heartbeat(builders.AGENT, builders.PRIMARY) == later
    assert some_records.heartbeat(builders.AGENT, builders.STANDBY) is None


def test_what_does_not_exist_is_unknown(some_records: Records) -> None:
    with pytest.raises(AgentUnknown):
        some_records.agent("agt-none")
    with pytest.raises(ReplicaUnknown):
        some_records.replica("agt-none", "rep-none")
    with pytest.raises(InstanceUnknown):
        some_records.instance("i-none")
    assert some_records.replicas("agt-none") == ()
    assert some_records.interruption("agt-none", "event") is None
    assert some_records.switch("agt-none", "switch") is None


def test_a_transaction_is_written_whole_or_not_at_all(some_records: Records) -> None:
    put(some_records, Table.AGENTS, builders.an_agent(), agent_id=builders.AGENT)
    raised = Change(
        Table.AGENTS, (builders.AGENT,), "raise", only_if={"epoch": Equals(1)}, put={"epoch": 2, "task_token": None}
    )
    absent = Change(Table.REPLICAS, (builders.AGENT, "rep-none"), "check", only_if={"replica_id": Present()})
    with pytest.raises(ConditionFailed, match="check"):
        some_records.commit(Transaction("both", (raised, absent)))
    assert some_records.agent(builders.AGENT).epoch == 1
    some_records.commit(Transaction("one", (raised,)))
    assert some_records.agent(builders.AGENT).epoch == 2
    with pytest.raises(ConditionFailed, match="raise"):
        some_records.commit(Transaction("again", (raised,)))


def test_a_check_alone_is_a_transaction_too(some_records: Records) -> None:
    check = Transaction("check", (Change(Table.AGENTS, (builders.AGENT,), "present", only_if={"agent_id": Present()}),))
    with pytest.raises(ConditionFailed):
        some_records.commit(check)
    put(some_records, Table.AGENTS, builders.an_agent(), agent_id=builders.AGENT)
    some_records.commit(check)


def test_putting_none_removes_the_attribute(some_records: Records) -> None:
    put(some_records, Table.AGENTS, builders.an_agent(active_replica_id="rep-a"), agent_id=builders.AGENT)
    some_records.commit(
        Transaction("clear", (Change(Table.AGENTS, (builders.AGENT,), "clear", put={"active_replica_id": None}),))
    )
    assert some_records.agent(builders.AGENT).active_replica_id is None
    some_records.commit(
        Transaction(
            "set",
            (
                Change(
                    Table.AGENTS,
                    (builders.AGENT,),
                    "set",
                    only_if={"active_replica_id": Missing()},
                    put={"active_replica_id": "rep-b"},
                ),
            ),
        )
    )
    assert some_records.agent(builders.AGENT).active_replica_id == "rep-b"
