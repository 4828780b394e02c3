"""What is written down of each failover: once, whoever comes to do it, and whatever became of its claim."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from spot_optimizer.control import failover, interruptions, signals
from spot_optimizer.domain import handover
from spot_optimizer.domain.agents import Interruption, Switch
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.signals import Signal, SignalType
from spot_optimizer.domain.writes import Table, Transaction
from spot_optimizer.errors import ClaimLost, NotServingYet, OutcomeUnknown
from tests.builders import AGENT, NOON, PRIMARY, STANDBY, a_heartbeat, an_instance, an_interruption
from tests.unit.test_failover import FakePlane, commit, in_handover, with_a_ready_standby

NOTICE = f"{PRIMARY}#termination-notice"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def overtaken(*, serving: bool = True) -> FakePlane:
    """Promoted to epoch 2 for a notice; before that failover is concluded, the new primary is noticed as well."""
    plane = with_a_ready_standby()
    plane.notice()
    failover.record_interruption(plane, AGENT, 1, 1)
    failover.open_handover(plane, AGENT, 1, 1)
    plane.now = at(3)
    commit(plane)
    if serving:
        plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=at(4)))
    plane.now = at(5)
    signals.note_signal(plane, Signal(instance_id=STANDBY, type=SignalType.TERMINATION_NOTICE, at=at(5)))
    assert plane.records.agent(AGENT).claim_epoch == 2
    return plane


def recorded(plane: FakePlane, event_id: str) -> Interruption:
    found = plane.records.interruption(AGENT, event_id)
    assert found is not None
    return found


def switched(plane: FakePlane, epoch: int = 2) -> Switch:
    found = plane.records.switch(AGENT, handover.switch_id_for(epoch))
    assert found is not None
    return found


def test_a_failover_whose_claim_the_next_one_has_moves_the_traffic_and_is_concluded() -> None:
    plane = overtaken()
    assert failover.select_standby(plane, AGENT, 1, 1)["decision"] == "promoted"
    failover.await_serving(plane, AGENT, 1, 1, task_token="token")
    assert plane.workflows.woken == ["token"]
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "serving"
    assert failover.switch_traffic(plane, AGENT) == {"moved": True}
    assert failover.confirm_serving(plane, AGENT, 1)["decision"] == "record"
    failover.record_switch(plane, AGENT, 1, 1)
    found = recorded(plane, NOTICE)
    assert (found.failover_completed, found.failure, found.rto_seconds, found.rpo_seconds) == (True, None, 4.0, 0.0)
    assert [step["step"] for step in found.steps] == ["claim", "open-handover", "promote", "serve", "move-traffic"]
    assert switched(plane).served_at == at(4)
    agent = plane.records.agent(AGENT)
    assert (agent.claim_epoch, agent.claim_open) == (2, True), "the next one's claim is its own"


def test_one_whose_instance_does_not_serve_yet_is_asked_again_until_that_is_replaced() -> None:
    plane = overtaken(serving=False)
    with pytest.raises(NotServingYet):
        failover.assess_handover(plane, AGENT, 1, 1)
    agent = plane.records.agent(AGENT)
    plane.records.put(replace(agent, epoch=3, primary_instance_id="i-0third"))
    assert failover.assess_handover(plane, AGENT, 1, 1)["decision"] == "overtaken"
    failover.record_switch(plane, AGENT, 1, 1)
    found = recorded(plane, NOTICE)
    assert (found.failover_completed, found.failover_time_ms, found.rto_seconds) == (False, None, None)
    assert found.failure is not None
    assert STANDBY in found.failure
    assert [step["step"] for step in found.steps] == ["claim", "open-handover", "promote"]
    assert switched(plane).concluded
    assert switched(plane).served_at is None


def test_an_attempt_that_another_one_of_its_epoch_has_replaced_concludes_nothing() -> None:
    plane = in_handover()
    plane.workflows.ended.add(f"{AGENT}-1-1")
    plane.notice()
    for task in (failover.record_interruption, failover.select_standby, failover.assess_handover):
        with pytest.raises(ClaimLost):
            task(plane, AGENT, 1, 1)
    failover.record_failure(plane, AGENT, 1, 1, cause="redriven")
    assert plane.records.interruption(AGENT, NOTICE) is None


def test_what_its_execution_did_not_conclude_the_sweep_does() -> None:
    plane = overtaken()
    plane.workflows.ended |= {f"{AGENT}-1-1", f"{AGENT}-2-1"}
    assert not switched(plane).concluded
    signals.sweep(plane)
    assert recorded(plane, NOTICE).failover_completed
    before = switched(plane)
    plane.now = at(60)
    assert interruptions.conclude_left_behind(plane, plane.records.agent(AGENT)) == 0
    assert switched(plane) == before


def test_the_sweep_leaves_to_an_execution_what_that_will_conclude() -> None:
    plane = in_handover()
    commit(plane)
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2))
    assert interruptions.conclude_left_behind(plane, plane.records.agent(AGENT)) == 0


def test_a_promotion_that_serves_late_after_all_is_concluded_as_a_success() -> None:
    plane = in_handover()
    commit(plane)
    failover.record_failure(plane, AGENT, 1, 1, cause="does not come to serve")
    assert recorded(plane, NOTICE).failure == "does not come to serve"
    agent = plane.records.agent(AGENT)
    assert interruptions.conclude_left_behind(plane, agent) == 0
    plane.records.put_heartbeat(a_heartbeat(instance_id=STANDBY, epoch=2, at=at(300)))
    plane.now = at(320)
    assert interruptions.conclude_left_behind(plane, agent) == 1
    found = recorded(plane, NOTICE)
    assert (found.failover_completed, found.failure, found.rto_seconds) == (True, None, 300.0)


def test_earlier_promotions_that_are_left_are_concluded_first() -> None:
    plane = overtaken(serving=False)
    later = replace(
        switched(plane),
        switch_id=handover.switch_id_for(3),
        epoch=3,
        from_instance_id=STANDBY,
        to_instance_id=PRIMARY,
        basis=handover.FALL_BACK,
    )
    agent = replace(plane.records.agent(AGENT), epoch=3, primary_instance_id=PRIMARY)
    plane.records.put(later, agent)
    del plane.records.rows[Table.SWITCHES][AGENT, later.switch_id]["steps"]  # as a promotion leaves it
    interruptions.conclude(plane, agent, later, serving=True, now=at(9))
    assert switched(plane, 2).concluded
    assert switched(plane, 2).served_at is None
    assert switched(plane, 3).served_at is not None


@pytest.mark.parametrize(
    ("basis", "completed"),
    [
        (Basis.FINAL_GENERATION, True),
        (Basis.LEASE_EXPIRED, True),
        (Basis.PRIMARY_DEAD, False),
        (Basis.SNAPSHOT, False),
        (handover.FALL_BACK, False),
    ],
)
def test_a_primary_that_had_a_ready_standby_has_served_though_nobody_knows_since_when(
    basis: str, completed: bool
) -> None:
    plane = overtaken(serving=False)
    replaced = switched(plane)
    following = replace(replaced, switch_id=handover.switch_id_for(3), epoch=3, basis=basis)
    agent = replace(plane.records.agent(AGENT), epoch=3)
    plane.records.put(following, agent)
    interruptions.conclude(plane, agent, replaced, serving=False, now=at(60))
    found = recorded(plane, NOTICE)
    assert (found.failover_completed, found.failure is None) == (completed, completed)
    assert (found.rto_seconds, found.failover_time_ms) == (None, None)


def test_a_notice_that_is_answered_a_second_time_has_a_second_record() -> None:
    """A former primary was promoted back, and is still under the notice that it was replaced for."""
    plane = overtaken()
    failover.record_switch(plane, AGENT, 1, 1)
    first = recorded(plane, NOTICE)
    again = replace(
        switched(plane),
        switch_id=handover.switch_id_for(4),
        epoch=4,
        from_instance_id=PRIMARY,
        to_instance_id="i-0fourth",
        steps=(),
        served_at=None,
    )
    agent = replace(plane.records.agent(AGENT), epoch=4, primary_instance_id="i-0fourth", claim_epoch=3)
    plane.records.put(again, agent, an_instance(instance_id="i-0fourth"))
    interruptions.conclude(plane, agent, again, serving=True, now=at(30))
    assert recorded(plane, NOTICE) == first
    second = recorded(plane, f"{NOTICE}#3")
    assert (second.epoch, second.failover_completed, second.response_action) == (3, True, "fail-over")


def test_a_failover_for_a_signal_that_was_only_noted_before_has_a_record_of_its_own() -> None:
    plane = with_a_ready_standby()
    noted = an_interruption(event_id=NOTICE, instance_id=PRIMARY, response_action="paused", epoch=1)
    plane.records.put(noted)
    plane.notice()
    assert failover.record_interruption(plane, AGENT, 1, 1)["event_id"] == f"{NOTICE}#1"
    failover.record_failure(plane, AGENT, 1, 1, cause="capacity")
    assert recorded(plane, NOTICE) == noted
    assert recorded(plane, f"{NOTICE}#1").failure == "capacity"


def test_an_agent_that_is_lost_leaves_no_promotion_unconcluded() -> None:
    plane = overtaken(serving=False)
    plane.compute.instances |= {PRIMARY: "terminated", STANDBY: "terminated"}
    failover.mark_lost(plane, AGENT, 2, 1)
    assert plane.records.agent(AGENT).lost
    assert switched(plane).concluded
    assert recorded(plane, NOTICE).failure is not None


def test_a_record_that_can_not_be_written_holds_up_no_failover_and_is_written_in_the_end() -> None:
    plane = overtaken()

    def refuse(transaction: Transaction) -> None:
        if transaction.name in ("record interruption", "conclude interruption"):
            raise OutcomeUnknown("no answer")

    plane.records.before_commit = refuse
    assert failover.record_interruption(plane, AGENT, 2, 1)["event_id"] is None
    failover.record_failure(plane, AGENT, 2, 1, cause="capacity")
    assert not plane.records.agent(AGENT).claim_open
    with pytest.raises(OutcomeUnknown):
        failover.record_switch(plane, AGENT, 1, 1)
    assert not switched(plane).concluded, "the switch says that all is written down"
    plane.records.before_commit = lambda _: None
    failover.record_switch(plane, AGENT, 1, 1)
    assert recorded(plane, NOTICE).failover_completed
