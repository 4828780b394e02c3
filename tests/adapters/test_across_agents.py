"""Lists: agents and pools across agents, clients, pages."""

from __future__ import annotations

from datetime import timedelta

import pytest

from spot_optimizer.adapters.clients import DynamoClients
from spot_optimizer.adapters.database import Database
from spot_optimizer.adapters.fleet import DynamoFleet
from spot_optimizer.adapters.records import DynamoRecords
from spot_optimizer.domain.clients import Client
from spot_optimizer.domain.handover import agent_values
from spot_optimizer.domain.orphans import Finding, Kind, Plan, Report, Sighting, write_ended, write_report
from spot_optimizer.domain.writes import Change, Missing, Table, Transaction
from spot_optimizer.errors import ClientUnknown, ConditionFailed
from tests import builders
from tests.adapters.tables import ENVIRONMENT
from tests.fakes import FakeRecords


@pytest.fixture
def fleet(database: Database) -> DynamoFleet:
    return DynamoFleet(
        database,
        agents_table_name=lambda: ENVIRONMENT["AGENTS_TABLE"],
        interruptions_table_name=lambda: ENVIRONMENT["INTERRUPTIONS_TABLE"],
        decisions_table_name=lambda: ENVIRONMENT["DECISIONS_TABLE"],
    )


def register(records: DynamoRecords, agent_id: str, **changes: object) -> None:
    agent = builders.an_agent(agent_id=agent_id, **changes)
    create = Change(Table.AGENTS, (agent_id,), "create", only_if={"agent_id": Missing()}, put=agent_values(agent))
    records.commit(Transaction("create", (create,)))


def test_the_sweep_sees_every_agent_that_is_not_lost(records: DynamoRecords, fleet: DynamoFleet) -> None:
    register(records, "agt-1")
    register(records, "agt-2", lost=True)
    register(records, "agt-3", client_id="globex")
    assert [agent.agent_id for agent in fleet.agents_with_primary()] == ["agt-1", "agt-3"]


def test_agents_are_listed_page_by_page_of_one_client_or_of_all(records: DynamoRecords, fleet: DynamoFleet) -> None:
    for agent_id, client_id in (("agt-1", "acme"), ("agt-2", "globex"), ("agt-3", "acme"), ("agt-4", "acme")):
        register(records, agent_id, client_id=client_id)
    first = fleet.agents_page(client_id="acme", after=None, limit=2)
    assert [agent.agent_id for agent in first.values] == ["agt-1", "agt-3"]
    second = fleet.agents_page(client_id="acme", after=first.last, limit=2)
    assert [agent.agent_id for agent in second.values] == ["agt-4"]
    assert second.last is None
    everything = fleet.agents_page(client_id=None, after="agt-1", limit=100)
    assert [agent.agent_id for agent in everything.values] == ["agt-2", "agt-3", "agt-4"]


def test_a_pool_is_told_only_if_it_interrupted_somebody_lately(records: DynamoRecords, fleet: DynamoFleet) -> None:
    for number, (pool_id, minutes, signal_type) in enumerate(
        (
            ("zone-a.m5.large", 1, "termination-notice"),
            ("zone-a.m5.large", 2, "rebalance-recommendation"),
            ("zone-b.m5.large", 90, "termination-notice"),
            ("zone-c.m5.large", 1, "termination-notice"),
            ("zone-d.m5.large", 1, "operator"),
            ("zone-d.m5.large", 1, "primary-silent"),
        )
    ):
        event = builders.an_interruption(
            event_id=f"event-{number}",
            pool_id=pool_id,
            detected_at=builders.NOON - timedelta(minutes=minutes),
            signal_type=signal_type,
        )
        put = {
            name: value
            for name in event.__dataclass_fields__
            if name not in ("agent_id", "event_id") and (value := getattr(event, name)) is not None
        }
        key = (event.agent_id, event.event_id)
        records.commit(Transaction("put", (Change(Table.INTERRUPTIONS, key, "put", put=put),)))
    found = fleet.interruptions_of_pools(
        ["zone-a.m5.large", "zone-b.m5.large", "zone-d.m5.large"], builders.NOON - timedelta(hours=1)
    )
    assert found == {"zone-a.m5.large": tuple(builders.NOON - timedelta(minutes=minutes) for minutes in (2, 1))}


def test_creating_a_client_again_finds_the_first(database: Database) -> None:
    clients = DynamoClients(database, ENVIRONMENT["CLIENTS_TABLE"])
    acme = Client(client_id="acme", name="Acme", created_at=builders.NOON)
    assert clients.create(acme) == acme
    later = Client(client_id="acme", name="Other", created_at=builders.NOON + timedelta(days=1))
    assert clients.create(later) == acme
    clients.create(Client(client_id="globex", name="Globex", created_at=builders.NOON))
    assert [client.client_id for client in clients.page(after=None, limit=10).values] == ["acme", "globex"]
    with pytest.raises(ClientUnknown):
        clients.get("nobody")


def test_replicas_are_listed_page_by_page(records: DynamoRecords) -> None:
    for replica_id in ("rep-a", "rep-b", "rep-c"):
        replica = builders.a_replica(replica_id=replica_id)
        put = {
            name: value
            for name in replica.__dataclass_fields__
            if name not in ("agent_id", "replica_id") and (value := getattr(replica, name)) is not None
        }
        key = (builders.AGENT, replica_id)
        records.commit(Transaction("put", (Change(Table.REPLICAS, key, "put", put=put),)))
    first = records.replicas_page(builders.AGENT, after=None, limit=2)
    assert [replica.replica_id for replica in first.values] == ["rep-a", "rep-b"]
    rest = records.replicas_page(builders.AGENT, after=first.last, limit=2)
    assert [replica.replica_id for replica in rest.values] == ["rep-c"]


def test_a_report_on_orphans_is_read_back_as_it_was_written(records: DynamoRecords) -> None:
    fake = FakeRecords()
    seen = Sighting(
        resource_id="i-1",
        kind=Kind.INSTANCE,
        agent_id=builders.AGENT,
        finding=Finding.ORPHAN,
        reason="a reason",
        first_seen_at=builders.NOON,
    )
    for place in (records, fake):
        assert place.orphan_report() == Report()
        for number, plan in enumerate((Plan((), (seen,), "too many"), Plan((), (seen,)))):
            place.commit(write_report(place.orphan_report(), plan, now=builders.NOON))
            expected = Report(
                number=number + 1, swept_at=builders.NOON, sightings=(seen,), halted_because=plan.halted_because
            )
            assert place.orphan_report() == expected
        with pytest.raises(ConditionFailed):
            place.commit(write_report(Report(), Plan((), ()), now=builders.NOON))
        place.commit(write_ended(2, [seen], now=builders.NOON))
        assert place.orphan_report().ended == (seen,)
        assert place.pause_of_all() is None
