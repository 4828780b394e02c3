"""The one-minute sweep over a whole fleet: nobody is left out for another's sake, and EC2 is asked few questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from spot_optimizer.control import signals
from spot_optimizer.control.signals import LOOKED_AFTER_AT_LEAST
from spot_optimizer.domain.agents import Heartbeat
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.writes import Table, Transaction
from spot_optimizer.errors import Throttled
from tests.builders import a_heartbeat, a_ready_replica, an_agent
from tests.unit.test_failover import FakePlane


def a_fleet(agents: int, *, with_standbys: bool = False) -> FakePlane:
    """Agents `agt-00` and on, with primaries `i-00` and on; all were heard just now."""
    plane = FakePlane()
    plane.records.rows[Table.AGENTS].clear()
    for number in range(agents):
        agent_id, primary = f"agt-{number:02}", f"i-{number:02}"
        standby = {"active_replica_id": f"rep-{number:02}", "replica_count": 1} if with_standbys else {}
        plane.records.put(an_agent(agent_id=agent_id, primary_instance_id=primary, **standby))
        plane.records.put_heartbeat(a_heartbeat(agent_id=agent_id, instance_id=primary, at=plane.now))
        plane.compute.instances |= {primary: "running", f"s-{number:02}": "running"}
        if with_standbys:
            replica_id, instance_id = f"rep-{number:02}", f"s-{number:02}"
            plane.records.put(a_ready_replica(agent_id=agent_id, replica_id=replica_id, instance_id=instance_id))
    return plane


def count_questions(plane: FakePlane, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    asked: list[Sequence[str]] = []
    states = plane.compute.states

    def counting(instance_ids: Sequence[str]) -> Mapping[str, str]:
        if instance_ids:
            asked.append(instance_ids)
        return states(instance_ids)

    monkeypatch.setattr(plane.compute, "states", counting)
    return asked


def test_ec2_is_asked_once_about_all_standbys(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = a_fleet(30, with_standbys=True)
    plane.compute.instances |= {"s-07": "terminated", "s-21": "terminated"}
    asked = count_questions(plane, monkeypatch)
    signals.sweep(plane)
    assert len(asked) == 1
    failed = [
        replica.replica_id
        for number in range(30)
        for replica in plane.records.replicas(f"agt-{number:02}")
        if replica.status is ReplicaState.FAILED
    ]
    assert failed == ["rep-07", "rep-21"]


def test_ec2_is_asked_once_about_all_silent_primaries(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = a_fleet(30)
    plane.now += timedelta(minutes=10)
    plane.compute.instances |= {"i-07": "terminated", "i-21": "terminated"}
    asked = count_questions(plane, monkeypatch)
    assert signals.sweep(plane) == {"agents": 30, "silent": 30, "acted_upon": 2}
    assert len(asked) == 1
    assert sorted(plane.workflows.fail_overs) == ["agt-07-1-1", "agt-21-1-1"]


@pytest.mark.parametrize("trouble", [Throttled("slow down"), ZeroDivisionError("a fault of ours")])
def test_an_agent_that_can_not_be_read_keeps_the_sweep_from_no_other(
    trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = a_fleet(3)
    plane.now += timedelta(minutes=10)
    plane.compute.instances |= {"i-01": "terminated"}
    heartbeat = plane.records.heartbeat

    def unreadable(agent_id: str, instance_id: str) -> Heartbeat | None:
        if agent_id == "agt-00":
            raise trouble
        return heartbeat(agent_id, instance_id)

    monkeypatch.setattr(plane.records, "heartbeat", unreadable)
    if isinstance(trouble, Throttled):
        assert signals.sweep(plane)["silent"] == 2
    else:
        with pytest.raises(ZeroDivisionError) as raised:
            signals.sweep(plane)
        assert "agt-00" in str(raised.value.__notes__)
    assert list(plane.workflows.fail_overs) == ["agt-01-1-1"]


def test_a_fault_of_ours_keeps_the_sweep_from_no_other_agent_and_is_told_of() -> None:
    plane = a_fleet(3)
    plane.now += timedelta(minutes=10)
    plane.compute.instances |= {"i-00": "terminated", "i-01": "terminated"}

    def breaks(transaction: Transaction) -> None:
        if any(change.key[0] == "agt-00" for change in transaction.changes):
            raise ZeroDivisionError("a fault of ours")

    plane.records.before_commit = breaks
    with pytest.raises(ZeroDivisionError) as raised:
        signals.sweep(plane)
    assert "agt-00" in str(raised.value.__notes__)
    assert list(plane.workflows.fail_overs) == ["agt-01-1-1"]


def test_a_sweep_that_is_cut_short_has_begun_with_others_each_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = a_fleet(3 * LOOKED_AFTER_AT_LEAST - 7)
    reached: set[str] = set()

    class CutShort(BaseException):
        pass

    for _ in range(3):
        begun: set[str] = set()

        def read(agent_id: str, _event_id: str, begun: set[str] = begun) -> None:
            if agent_id not in begun and len(begun) == LOOKED_AFTER_AT_LEAST:
                raise CutShort
            begun.add(agent_id)

        monkeypatch.setattr(plane.records, "interruption", read)
        with pytest.raises(CutShort):
            signals.sweep(plane)
        reached |= begun
        plane.now += timedelta(minutes=1)
    assert len(reached) == 3 * LOOKED_AFTER_AT_LEAST - 7
