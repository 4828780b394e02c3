"""What each traffic adapter moves, and that every one of them keeps to the rule of the higher epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from spot_optimizer.control import failover, signals
from spot_optimizer.control.traffic import LOOKED_AT_LEAST
from spot_optimizer.domain.agents import Agent, TrafficAdapter
from spot_optimizer.domain.traffic import check_target, record_of
from spot_optimizer.errors import AddressNotMovable, InvalidRequest, Throttled
from tests.builders import AGENT, PRIMARY, STANDBY, a_heartbeat, a_standby, an_agent
from tests.unit.test_failover import FakePlane

GROUP = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/ledger/0123456789abcdef"
RECORD = "Z0123456789ABCDEFGHIJ/db.example.com"
TARGETS = {
    TrafficAdapter.EIP: "eipalloc-0123456789abcdef0",
    TrafficAdapter.TARGET_GROUP: GROUP,
    TrafficAdapter.ROUTE53: RECORD,
}


class FakePath:
    """Implements `TrafficPath`."""

    def __init__(self) -> None:
        self.leads_to: dict[str, str] = {}
        self.moves: list[str] = []
        self.refuses = 0
        self.unanswered: Exception | None = None
        self.answers_at_most = 100
        self.asked: list[tuple[str, ...]] = []

    def move(self, target: str, instance_id: str, *, client_id: str) -> None:
        assert client_id == "acme"
        if self.refuses:
            self.refuses -= 1
            raise AddressNotMovable(f"{instance_id} is pending")
        self.moves.append(instance_id)
        self.leads_to[target] = instance_id

    def holders(self, targets: Sequence[str]) -> Mapping[str, str | None]:
        self.asked.append(tuple(targets))
        if self.unanswered is not None:
            raise self.unanswered
        return {target: self.leads_to.get(target) for target in targets[: self.answers_at_most]}


@pytest.mark.parametrize(("adapter", "target"), [*TARGETS.items(), (TrafficAdapter.NONE, None)])
def test_each_adapter_takes_its_own_target(adapter: TrafficAdapter, target: str | None) -> None:
    check_target(adapter, target)


@pytest.mark.parametrize("adapter", TrafficAdapter)
def test_no_adapter_takes_anothers_target_or_nonsense(adapter: TrafficAdapter) -> None:
    others = [target for other, target in TARGETS.items() if other is not adapter]
    wrong = (*others, "", "eipalloc-", "Z1/", "Z1/name", f"{GROUP}/more", f" {RECORD}", "Z1/a..b.example.com")
    for target in (*wrong, *([] if adapter is TrafficAdapter.NONE else [None])):
        with pytest.raises(InvalidRequest) as refused:
            check_target(adapter, target)
        assert refused.value.field == "traffic_target"
        assert refused.value.expected


def test_a_record_target_is_a_zone_and_a_name() -> None:
    assert record_of(RECORD) == ("Z0123456789ABCDEFGHIJ", "db.example.com")


def promoted(adapter: TrafficAdapter) -> tuple[FakePlane, FakePath, Agent]:
    """An agent whose standby was promoted, and whose traffic still goes to the primary before."""
    plane, path = FakePlane(), FakePath()
    plane.paths[adapter] = path
    path.leads_to[TARGETS[adapter]] = PRIMARY
    agent = an_agent(
        epoch=2,
        primary_instance_id=STANDBY,
        traffic_adapter=adapter,
        traffic_target=TARGETS[adapter],
    )
    plane.records.put(agent, a_standby())
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=plane.now))
    return plane, path, agent


@pytest.mark.parametrize("adapter", [TrafficAdapter.TARGET_GROUP, TrafficAdapter.ROUTE53])
class TestEveryPath:
    def test_is_moved_once_to_the_primary_of_the_highest_epoch(self, adapter: TrafficAdapter) -> None:
        plane, path, _ = promoted(adapter)
        assert failover.move_traffic(plane, AGENT) is True
        assert (path.moves, plane.records.agent(AGENT).traffic_epoch) == ([STANDBY], 2)
        assert failover.move_traffic(plane, AGENT) is False
        assert path.moves == [STANDBY]

    def test_is_moved_on_where_another_promotion_came_meanwhile(self, adapter: TrafficAdapter) -> None:
        plane, path, agent = promoted(adapter)
        later = dataclasses.replace(agent, epoch=3, primary_instance_id="i-3")

        def overtaken(_: object) -> None:
            plane.records.before_commit = lambda _: None
            plane.records.put(later)

        plane.records.before_commit = overtaken
        failover.move_traffic(plane, AGENT)
        assert path.moves == [STANDBY, "i-3"]
        assert plane.records.agent(AGENT).traffic_epoch == 3

    def test_that_can_not_be_moved_now_is_not_recorded_as_moved(self, adapter: TrafficAdapter) -> None:
        plane, path, _ = promoted(adapter)
        path.refuses = 1
        with pytest.raises(AddressNotMovable):
            failover.move_traffic(plane, AGENT)
        assert plane.records.agent(AGENT).traffic_epoch == 1
        failover.move_traffic(plane, AGENT)
        assert path.moves == [STANDBY]

    def test_that_is_astray_is_brought_back_by_the_sweep(self, adapter: TrafficAdapter) -> None:
        plane, path, _ = promoted(adapter)
        failover.move_traffic(plane, AGENT)
        path.leads_to[TARGETS[adapter]] = PRIMARY
        signals.sweep(plane)
        assert path.moves == [STANDBY, STANDBY]
        signals.sweep(plane)
        assert path.moves == [STANDBY, STANDBY], "what leads where it should is left alone"

    def test_that_is_not_looked_at_this_time_is_left_alone(self, adapter: TrafficAdapter) -> None:
        plane, path, _ = promoted(adapter)
        failover.move_traffic(plane, AGENT)
        path.leads_to[TARGETS[adapter]] = PRIMARY
        path.answers_at_most = 0
        signals.sweep(plane)
        assert path.moves == [STANDBY]

    def test_whose_service_throttles_hides_no_other(self, adapter: TrafficAdapter) -> None:
        plane, path, agent = promoted(adapter)
        failover.move_traffic(plane, AGENT)
        path.unanswered = Throttled("slow down")
        address = TARGETS[TrafficAdapter.EIP]
        other = dataclasses.replace(
            agent, agent_id="agt-9", traffic_adapter=TrafficAdapter.EIP, traffic_target=address, traffic_epoch=2
        )
        plane.records.put(other)
        plane.records.put_heartbeat(a_heartbeat(agent_id="agt-9", instance_id=STANDBY, epoch=2, at=plane.now))
        plane.compute.addresses[address] = PRIMARY
        signals.sweep(plane)
        assert plane.compute.addresses[address] == STANDBY


def test_every_path_of_a_large_fleet_has_its_turn() -> None:
    plane, path = FakePlane(), FakePath()
    plane.paths[TrafficAdapter.ROUTE53] = path
    path.answers_at_most = LOOKED_AT_LEAST
    for number in range(53):
        target = f"Z0123456789/db{number}.example.com"
        path.leads_to[target] = PRIMARY
        plane.records.put(
            an_agent(agent_id=f"agt-{number}", traffic_adapter=TrafficAdapter.ROUTE53, traffic_target=target)
        )
    answered: set[str] = set()
    for _ in range(53 // LOOKED_AT_LEAST + 1):
        signals.sweep(plane)
        answered |= set(path.asked[-1][:LOOKED_AT_LEAST])
        plane.now += timedelta(minutes=1)
    assert len(answered) == 53
    assert all(len(asked) == 53 for asked in path.asked), "one question for all of them"
