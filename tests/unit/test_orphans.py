"""What carries our tag and is nobody's: reported at once, ended after a grace, and never where it could cost a copy."""

from __future__ import annotations

import dataclasses
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.control import orphans as sweeper
from spot_optimizer.control import pausing
from spot_optimizer.control.orphans import Swept
from spot_optimizer.domain.agents import Agent, HandoverState, InstanceRole
from spot_optimizer.domain.orphans import (
    WORD_TRAVELS,
    Circumstances,
    Claims,
    Finding,
    Judged,
    Kind,
    Report,
    Resource,
    Sighting,
    judge,
    most_ended,
    plan_sweep,
)
from spot_optimizer.domain.pauses import Pause
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.errors import Throttled
from tests.builders import (
    AGENT,
    NOON,
    PRIMARY,
    REPLICA,
    STANDBY,
    a_ready_replica,
    a_replica,
    a_standby,
    an_agent,
    an_interruption,
)
from tests.fakes import FakeInventory
from tests.unit.test_failover import FakePlane

GRACE = timedelta(minutes=15)
VOLUME_GRACE = timedelta(days=1)
STRAY = "i-0ccccccccccccccc3"


def a_resource(resource_id: str = STRAY, **changes: Any) -> Resource:
    values: dict[str, Any] = {"kind": Kind.INSTANCE, "agent_id": AGENT, "replica_id": REPLICA} | changes
    return Resource(resource_id=resource_id, **values)


def a_plane(**replica: Any) -> FakePlane:
    """An agent whose only replica has failed."""
    plane = FakePlane()
    plane.records.put(a_replica(status=ReplicaState.FAILED, ended_at=NOON, instance_id=None, **replica))
    plane.compute.instances[STRAY] = "running"
    return plane


def sweep(plane: FakePlane, inventory: FakeInventory) -> Swept:
    return sweeper.sweep(plane, inventory, grace=GRACE, volume_grace=VOLUME_GRACE)


def sweep_after(plane: FakePlane, inventory: FakeInventory, wait: timedelta) -> Swept:
    plane.now += wait
    return sweep(plane, inventory)


def with_snapshot(agent: Agent, taken_at: datetime) -> Agent:
    return dataclasses.replace(
        agent,
        snapshot_id="0000000001-0000000000000001",
        snapshot_taken_at=taken_at,
        snapshot_expires_at=NOON + timedelta(days=8),
    )


# --- the sweep


def test_an_orphan_is_reported_at_once_and_ended_after_the_grace_and_not_before() -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource())
    assert sweep(plane, inventory) == Swept(found=1)
    [seen] = plane.records.orphan_report().sightings
    assert (seen.resource_id, seen.finding, seen.first_seen_at) == (STRAY, Finding.ORPHAN, NOON)
    assert seen.reason == f"replica {REPLICA} is 'failed'"
    assert sweep_after(plane, inventory, GRACE - timedelta(seconds=1)).ended == ()
    assert sweep_after(plane, inventory, timedelta(seconds=1)).ended == (STRAY,)
    report = plane.records.orphan_report()
    assert [one.resource_id for one in report.ended] == [STRAY]
    assert sweep_after(plane, inventory, timedelta(minutes=5)) == Swept()
    assert [one.resource_id for one in plane.records.orphan_report().ended] == [STRAY], "what was ended stays on record"


def test_a_claim_in_between_begins_the_grace_anew() -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource())
    sweep(plane, inventory)
    failed = plane.records.replica(AGENT, REPLICA)
    plane.records.put(dataclasses.replace(failed, status=ReplicaState.LAUNCHING))
    sweep_after(plane, inventory, GRACE / 2)
    plane.records.put(failed)
    assert sweep_after(plane, inventory, GRACE / 2 + timedelta(minutes=1)).ended == ()
    assert sweep_after(plane, inventory, GRACE).ended == (STRAY,)


@pytest.mark.parametrize("of_all", [False, True])
def test_a_pause_stops_it(of_all: bool) -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource())
    sweep(plane, inventory)
    if of_all:
        pausing.pause_all(plane, reason="maintenance")
    else:
        pausing.pause_agent(plane, AGENT, reason="maintenance")
    assert sweep_after(plane, inventory, 2 * GRACE) == Swept(found=1, kept=1)
    assert "maintenance" in plane.records.orphan_report().sightings[0].reason
    (pausing.resume_all(plane) if of_all else pausing.resume_agent(plane, AGENT))
    assert sweep_after(plane, inventory, timedelta(minutes=5)).ended == (STRAY,)


def test_what_is_claimed_between_the_plan_and_the_end_lives() -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource())
    sweep(plane, inventory)
    claimed = dataclasses.replace(plane.records.replica(AGENT, REPLICA), status=ReplicaState.LAUNCHING)

    def claim(_: object) -> None:
        plane.records.put(claimed)

    plane.records.after_commit = claim
    assert sweep_after(plane, inventory, GRACE).ended == ()
    assert inventory.ended == []


def test_of_two_sweeps_at_once_one_ends_something() -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource())
    sweep(plane, inventory)
    plane.now += GRACE
    results: list[Swept] = []

    def rival(_: object) -> None:
        plane.records.before_commit = lambda _: None
        results.append(sweep(plane, inventory))

    plane.records.before_commit = rival
    results.append(sweep(plane, inventory))
    assert [one.ended for one in results] == [(STRAY,), ()]
    assert "another sweep" in results[1].reason
    assert inventory.ended == [STRAY]


def test_more_than_the_limit_ends_nothing_and_says_so() -> None:
    plane = a_plane()
    inventory = FakeInventory(*(a_resource(f"i-{number:017x}") for number in range(3)))
    sweep(plane, inventory)
    halted = sweep_after(plane, inventory, GRACE)
    assert halted.ended == ()
    assert halted.halted_because is not None
    assert "3 orphans are due, and one sweep ends 2 at most" in halted.halted_because
    assert plane.records.orphan_report().halted_because == halted.halted_because
    inventory.resources.pop()
    assert len(sweep_after(plane, inventory, timedelta(minutes=5)).ended) == 2
    assert plane.records.orphan_report().halted_because is None


def test_one_that_can_not_be_ended_now_holds_up_no_other() -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource("i-1"), a_resource("i-2"))
    inventory.refusals["i-1"] = Throttled("slow down")
    sweep(plane, inventory)
    swept = sweep_after(plane, inventory, GRACE)
    assert (swept.ended, swept.failed) == (("i-2",), 1)
    inventory.refusals.clear()
    assert sweep_after(plane, inventory, timedelta(minutes=5)).ended == ("i-1",)


@pytest.mark.parametrize("by", ["standby", "snapshot"])
def test_an_instance_that_joined_is_ended_only_when_a_newer_copy_is_elsewhere(by: str) -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource(STANDBY))
    plane.records.put(a_standby())
    agent = plane.records.agent(AGENT)

    def cover(until: datetime) -> None:
        if by == "snapshot":
            plane.records.put(with_snapshot(agent, until))
        else:
            plane.records.put(dataclasses.replace(agent, active_replica_id="rep-2"))
            plane.records.put(a_ready_replica(replica_id="rep-2", instance_id=STRAY, covered_until=until))

    assert sweep(plane, inventory) == Swept(found=1, kept=1)
    cover(NOON + WORD_TRAVELS - timedelta(seconds=1))
    assert sweep_after(plane, inventory, GRACE) == Swept(found=1, kept=1), "the last of it may be on the orphan alone"
    cover(NOON + WORD_TRAVELS)
    assert sweep_after(plane, inventory, timedelta(minutes=5)).ended == (STANDBY,)


def test_what_aws_takes_back_is_left_to_it_whether_the_signal_was_recorded_or_not() -> None:
    plane, inventory = a_plane(), FakeInventory(a_resource())
    inventory.noticed.add(STRAY)
    assert sweep(plane, inventory) == Swept(found=1, kept=1)
    inventory.noticed.clear()
    plane.records.put(an_interruption(instance_id=STRAY, event_id=f"{STRAY}#termination-notice"))
    assert sweep(plane, inventory) == Swept(found=1, kept=1)
    assert "AWS has given notice" in plane.records.orphan_report().sightings[0].reason


def test_a_volume_waits_for_its_instance_and_for_a_grace_of_its_own() -> None:
    plane = a_plane()
    plane.records.put(a_replica(status=ReplicaState.FAILED, ended_at=NOON), a_standby())
    inventory = FakeInventory(a_resource("vol-1", kind=Kind.VOLUME))
    plane.compute.instances[STANDBY] = "shutting-down"
    assert sweep(plane, inventory).found == 0
    plane.compute.instances[STANDBY] = "terminated"
    assert sweep(plane, inventory) == Swept(found=1, kept=1), "it may hold the newest copy"
    later = plane.now + timedelta(hours=1)
    plane.records.put(with_snapshot(plane.records.agent(AGENT), later))
    assert sweep_after(plane, inventory, timedelta(minutes=5)) == Swept(found=1)
    assert sweep_after(plane, inventory, VOLUME_GRACE - timedelta(minutes=6)).ended == ()
    assert sweep_after(plane, inventory, timedelta(minutes=1)).ended == ("vol-1",)


# --- the rules


def claims(**changes: Any) -> Claims:
    values: dict[str, Any] = {"agent": an_agent(), "replica": a_replica(status=ReplicaState.FAILED)} | changes
    return Claims(**values)


SEEN = Circumstances(seen_since=NOON - timedelta(hours=1))
COPIED = {"active": a_ready_replica(replica_id="rep-2", instance_id="i-2")}


@pytest.mark.parametrize(
    ("resource", "changes", "reason"),
    [
        (a_resource(PRIMARY), {}, "is the primary"),
        (a_resource(STANDBY), {"replica": a_replica()}, "is 'syncing'"),
        (a_resource(STANDBY), {"replica": None, "active": a_replica()}, "is 'syncing'"),
        (a_resource(), {"replica": a_replica(status=ReplicaState.LAUNCHING, instance_id=None)}, "not be recorded yet"),
        (a_resource(STANDBY), {"instance": a_standby(role=InstanceRole.RETIRED_PENDING)}, "made the primary again"),
        (a_resource("eip-1", kind=Kind.ADDRESS), {"agent": an_agent(traffic_target="eip-1")}, "traffic"),
        (a_resource("vol-1", kind=Kind.VOLUME), {"is_holder_alive": True}, "its instance lives"),
    ],
)
def test_what_a_row_leads_to_is_claimed(resource: Resource, changes: dict[str, Any], reason: str) -> None:
    judged = judge(resource, claims(**changes), SEEN, now=NOON)
    assert judged.finding is Finding.CLAIMED
    assert reason in judged.reason


@pytest.mark.parametrize(
    ("changes", "circumstances", "reason"),
    [
        ({}, {"pause": Pause(NOON, "maintenance")}, "maintenance"),
        ({}, {"is_taken_back": True}, "AWS has given notice"),
        ({"agent": an_agent(claim_open=True)}, {}, "under way"),
        ({"agent": an_agent(handover_state=HandoverState.OPEN)}, {}, "under way"),
        ({"instance": a_standby()}, {}, "newest copy"),
        ({"instance": a_standby(), **COPIED}, {"seen_since": None}, "newest copy"),
        ({"instance": a_standby(), **COPIED}, {"seen_since": NOON}, "newest copy"),
        ({"instance": a_standby(), **COPIED, "agent": an_agent(lost=True)}, {}, "is lost"),
    ],
)
def test_what_nobody_claims_is_kept_where_something_speaks_for_it(
    changes: dict[str, Any], circumstances: dict[str, Any], reason: str
) -> None:
    judged = judge(a_resource(), claims(**changes), dataclasses.replace(SEEN, **circumstances), now=NOON)
    assert judged.finding is Finding.KEPT
    assert reason in judged.reason


def test_a_newer_copy_elsewhere_lets_an_orphan_that_joined_go() -> None:
    judged = judge(a_resource(), claims(instance=a_standby(), **COPIED), SEEN, now=NOON)
    assert judged.finding is Finding.ORPHAN


def test_nothing_of_ours_that_never_held_state_outlives_a_lost_agent() -> None:
    lost = an_agent(lost=True, traffic_target="eip-1")
    for resource in (a_resource(), a_resource("eip-1", kind=Kind.ADDRESS), a_resource("vol-1", kind=Kind.VOLUME)):
        judged = judge(resource, claims(agent=lost), Circumstances(), now=NOON)
        assert (judged.finding, judged.reason) == (Finding.ORPHAN, f"agent {AGENT} is lost")


def test_another_deployments_resources_are_not_even_reported() -> None:
    judged = judge(a_resource(), claims(agent=None), SEEN, now=NOON)
    assert judged.finding is Finding.FOREIGN
    plan = plan_sweep([judged], Report(), now=NOON, grace=timedelta(0), volume_grace=timedelta(0))
    assert (plan.due, plan.sightings) == ((), ())


@st.composite
def judgements(draw: st.DrawFn) -> tuple[list[Judged], Report]:
    """A fleet as it was judged, and the report of an earlier sweep of about the same fleet."""
    found: list[Judged] = []
    seen: list[Sighting] = []
    for number in range(draw(st.integers(0, 120))):
        kind = draw(st.sampled_from(Kind))
        finding = draw(st.sampled_from((*Finding, *[Finding.CLAIMED] * 12)))
        found.append(Judged(a_resource(f"r-{number:03}", kind=kind), finding, "because"))
        if draw(st.booleans()):
            at = NOON - timedelta(minutes=draw(st.integers(0, 3000)))
            before = draw(st.sampled_from((Finding.ORPHAN, Finding.KEPT)))
            seen.append(
                Sighting(
                    resource_id=f"r-{number:03}",
                    kind=kind,
                    agent_id=AGENT,
                    finding=before,
                    reason="before",
                    first_seen_at=at,
                )
            )
    return found, Report(number=1, sightings=tuple(seen))


@given(judgements(), st.randoms(use_true_random=False))
def test_a_sweep_ends_only_ripe_orphans_never_more_than_its_limit_and_in_any_order_the_same(
    case: tuple[list[Judged], Report], chance: random.Random
) -> None:
    judged, report = case
    plan = plan_sweep(judged, report, now=NOON, grace=GRACE, volume_grace=VOLUME_GRACE)
    by_id = {one.resource.resource_id: one for one in judged}
    before = {one.resource_id: one for one in report.sightings}
    instances = sum(one.resource.kind is Kind.INSTANCE and one.finding is not Finding.FOREIGN for one in judged)
    assert len(plan.due) <= most_ended(instances) == max(2, instances // 20)
    for resource in plan.due:
        sighting = before[resource.resource_id]
        grace = VOLUME_GRACE if resource.kind is Kind.VOLUME else GRACE
        assert by_id[resource.resource_id].finding is Finding.ORPHAN
        assert NOON - sighting.first_seen_at >= grace
    assert not (plan.due and plan.halted_because)
    reported = {one.resource_id for one in plan.sightings}
    assert reported == {name for name, one in by_id.items() if one.finding in (Finding.ORPHAN, Finding.KEPT)}
    chance.shuffle(judged)
    assert plan_sweep(judged, report, now=NOON, grace=GRACE, volume_grace=VOLUME_GRACE) == plan


def test_a_sighting_is_stored_as_it_is() -> None:
    sighting = Sighting(
        resource_id="i-1",
        kind=Kind.INSTANCE,
        agent_id=AGENT,
        finding=Finding.KEPT,
        reason="a reason",
        first_seen_at=NOON,
    )
    assert Sighting.of_record(sighting.as_record()) == sighting
