"""Claims and handovers as conditional writes: what each lets pass, and what it fences."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain import claims, handover, lease, pools, replicas
from spot_optimizer.domain.agents import Agent, HandoverState, InstanceRole, Urgency
from spot_optimizer.domain.claims import Execution, Ignore, Join, Retake
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.signals import Signal, SignalType, check_termination_time, from_eventbridge
from spot_optimizer.domain.writes import Table, Transaction
from spot_optimizer.errors import (
    ConditionFailed,
    HandoverNotOpen,
    HandoverUnknown,
    InvalidRequest,
    NoPoolQualifies,
    NoticeTooOld,
    PromotionUnproven,
    ReplicaNotReady,
    StaleEpoch,
)
from tests.builders import (
    NOON,
    PRIMARY,
    REPLICA,
    STANDBY,
    a_ready_replica,
    a_replica,
    a_standby,
    an_agent,
    an_instance,
)
from tests.fakes import FakeRecords

HANDOVER = "agt-0123456789abcdef0-h1-1"


def a_signal(signal_type: SignalType = SignalType.TERMINATION_NOTICE, **changes: object) -> Signal:
    values: dict[str, object] = {"instance_id": PRIMARY, "type": signal_type, "at": NOON}
    return Signal(**(values | changes))  # type: ignore[arg-type]


def an_agent_in_handover(**changes: object) -> Agent:
    values: dict[str, object] = {
        "active_replica_id": REPLICA,
        "claim_epoch": 1,
        "claim_attempt": 1,
        "claim_open": True,
        "claim_urgency": 2,
        "handover_id": HANDOVER,
        "handover_state": HandoverState.OPEN,
        "handover_replica_id": REPLICA,
        "handover_readiness": 1,
        "handover_count": 1,
    }
    return an_agent(**(values | changes))


def promotion(agent: Agent, replica: Replica, **changes: object) -> Transaction:
    values: dict[str, object] = {
        "handover_id": HANDOVER,
        "instance_id": STANDBY,
        "pool_id": "us-east-1b.m5.large",
        "basis": Basis.FINAL_GENERATION,
        "readiness": 1,
        "covered_until": NOON,
        "lag_seconds": 0.4,
        "now": NOON,
    }
    return handover.promote(agent, replica, **(values | changes))  # type: ignore[arg-type]


def tables(agent: Agent, replica: Replica) -> FakeRecords:
    return FakeRecords().put(agent, replica, an_instance(), a_standby())


def test_a_signal_about_a_quiet_agent_claims_the_first_attempt() -> None:
    decision = claims.decide_claim(an_agent(), a_signal(), execution=Execution.UNKNOWN, now=NOON)
    assert isinstance(decision, Retake) and decision.attempt == 1


def test_a_signal_joins_the_failover_that_runs() -> None:
    decision = claims.decide_claim(an_agent_in_handover(), a_signal(), execution=Execution.RUNNING, now=NOON)
    assert decision == Join(1)


def test_a_more_urgent_signal_raises_the_urgency_of_the_failover_that_runs() -> None:
    planned = an_agent_in_handover(claim_urgency=int(Urgency.PLANNED))
    decision = claims.decide_claim(planned, a_signal(), execution=Execution.RUNNING, now=NOON)
    assert isinstance(decision, Join) and decision.raised is not None
    records = tables(planned, a_ready_replica())
    records.commit(decision.raised)
    assert records.agent(planned.agent_id).claim_urgency == Urgency.NOTICED


def test_a_claim_whose_execution_ended_is_retaken_as_the_next_attempt() -> None:
    decision = claims.decide_claim(an_agent_in_handover(), a_signal(), execution=Execution.ENDED, now=NOON)
    assert isinstance(decision, Retake) and decision.attempt == 2


def test_a_claim_of_the_epoch_before_does_not_hold_up_the_new_primary() -> None:
    agent = an_agent_in_handover(epoch=2, handover_state=HandoverState.COMMITTED)
    decision = claims.decide_claim(agent, a_signal(), execution=Execution.RUNNING, now=NOON)
    assert isinstance(decision, Retake) and decision.attempt == 1


@pytest.mark.parametrize("state", ["pending", "running", "shutting-down", "stopping"])
def test_no_state_but_stopped_or_terminated_proves_a_death(state: str) -> None:
    signal = a_signal(SignalType.STATE_CHANGE, state=state)
    assert isinstance(claims.decide_claim(an_agent(), signal, execution=Execution.UNKNOWN, now=NOON), Ignore)


def test_two_starters_that_read_the_same_row_make_one_claim() -> None:
    agent = an_agent()
    first = claims.decide_claim(agent, a_signal(), execution=Execution.UNKNOWN, now=NOON)
    second = claims.decide_claim(agent, a_signal(), execution=Execution.UNKNOWN, now=NOON)
    assert isinstance(first, Retake) and isinstance(second, Retake)
    records = FakeRecords().put(agent)
    records.commit(first.claim)
    with pytest.raises(ConditionFailed):
        records.commit(second.claim)


def test_a_promotion_moves_the_agent_to_its_next_epoch_and_records_the_switch() -> None:
    agent, replica = an_agent_in_handover(), a_ready_replica()
    records = tables(agent, replica)
    records.commit(promotion(agent, replica))
    after = records.agent(agent.agent_id)
    assert (after.epoch, after.primary_instance_id, after.handover_state) == (2, STANDBY, HandoverState.COMMITTED)
    assert records.replica(agent.agent_id, REPLICA).status is ReplicaState.PROMOTED
    assert records.instance(PRIMARY).role == "retired-pending"
    assert records.switch(agent.agent_id, "0000000002") is not None


def test_the_same_promotion_passes_once() -> None:
    agent, replica = an_agent_in_handover(), a_ready_replica()
    records = tables(agent, replica)
    records.commit(promotion(agent, replica))
    with pytest.raises(ConditionFailed):
        records.commit(promotion(agent, replica))


def test_whichever_of_abort_and_promotion_comes_first_wins() -> None:
    agent, replica = an_agent_in_handover(), a_ready_replica()
    abort, promote = handover.abort(agent, handover_id=HANDOVER), promotion(agent, replica)
    for first, second in ((abort, promote), (promote, abort)):
        records = tables(agent, replica)
        records.commit(first)
        with pytest.raises(ConditionFailed):
            records.commit(second)


def test_whichever_of_unready_and_promotion_comes_first_wins() -> None:
    agent, replica = an_agent_in_handover(), a_ready_replica()
    unready = replicas.report_unready(agent, replica, readiness=2)
    promote = promotion(agent, replica, basis=Basis.LEASE_EXPIRED)
    for first, second in ((unready, promote), (promote, unready)):
        records = tables(agent, replica)
        records.commit(first)
        with pytest.raises(ConditionFailed):
            records.commit(second)


def test_a_promotion_delayed_past_a_new_readiness_is_refused() -> None:
    agent, replica = an_agent_in_handover(), a_ready_replica()
    delayed = promotion(agent, replica, basis=Basis.LEASE_EXPIRED)
    records = tables(agent, replica)
    records.commit(replicas.report_unready(agent, replica, readiness=2))
    records.commit(
        replicas.report_ready(
            agent, replace(replica, readiness=2), readiness=3, lag_seconds=0, covered_until=NOON, now=NOON
        )
    )
    with pytest.raises(ConditionFailed):
        records.commit(delayed)


def test_a_final_generation_is_promoted_though_its_primary_was_about_to_take_readiness_back() -> None:
    agent, replica = an_agent_in_handover(), a_ready_replica()
    records = tables(agent, replica)
    records.commit(replicas.report_unready(agent, replica, readiness=2))
    records.commit(promotion(agent, replica, basis=Basis.FINAL_GENERATION, readiness=1))
    assert records.agent(agent.agent_id).epoch == agent.epoch + 1


def test_a_readiness_report_delayed_past_its_withdrawal_is_void() -> None:
    agent, replica = an_agent(active_replica_id=REPLICA), a_replica()
    ready = replicas.report_ready(agent, replica, readiness=1, lag_seconds=0, covered_until=NOON, now=NOON)
    records = tables(agent, replica)
    records.commit(replicas.report_unready(agent, replica, readiness=2))
    with pytest.raises(ConditionFailed):
        records.commit(ready)


@pytest.mark.parametrize(
    ("changes", "asked", "error"),
    [
        ({"epoch": 2}, {}, StaleEpoch),
        ({"handover_id": "other"}, {}, HandoverUnknown),
        ({"handover_state": HandoverState.ABORTED}, {}, HandoverNotOpen),
        ({}, {"basis": Basis.PRIMARY_DEAD}, PromotionUnproven),
        ({}, {"basis": Basis.LEASE_EXPIRED, "readiness": 2}, ReplicaNotReady),
    ],
)
def test_a_promotion_without_title_is_refused_with_its_reason(
    changes: dict[str, object], asked: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        promotion(an_agent_in_handover(**changes), a_ready_replica(), **asked)


def test_a_replica_that_syncs_takes_over_only_behind_a_proven_death() -> None:
    syncing = a_replica(generation=2, readiness=1)
    assert not handover.may_take_over(syncing, primary_dead=False)
    assert handover.may_take_over(syncing, primary_dead=True)
    assert handover.may_take_over(a_replica(generation=0), primary_dead=True), "only the standby knows what it holds"
    assert not handover.may_take_over(a_replica(status=ReplicaState.LAUNCHING), primary_dead=True)


@pytest.mark.parametrize(
    ("replica", "asked", "rpo_seconds", "is_breach"),
    [
        # Beside what the standby was behind: what may have been acknowledged until the workload was held.
        (a_ready_replica(), {"lag_seconds": 0.4}, 2.924, False),
        (a_ready_replica(), {"lag_seconds": 2.0}, 4.54, False),
        (a_ready_replica(), {"lag_seconds": 7.5}, 10.096, True),
        # A version that does not say how far behind it was; or one that could not know.
        (a_ready_replica(lag_seconds=0.1), {"lag_seconds": None, "now": NOON + timedelta(seconds=1)}, 1.0, True),
        (a_ready_replica(lag_seconds=3.5), {"lag_seconds": None, "now": NOON + timedelta(seconds=1)}, 3.5, True),
        # While a replica is not ready, its primary serves without its lease.
        (a_replica(readiness=1), {"lag_seconds": 0.1, "now": NOON + timedelta(seconds=9)}, 9.0, True),
        (a_ready_replica(), {"basis": Basis.FINAL_GENERATION, "lag_seconds": None}, 0.0, False),
        (a_ready_replica(), {"basis": Basis.FINAL_GENERATION, "lag_seconds": 7.5}, 0.0, False),
    ],
)
def test_what_a_promotion_may_miss_is_recorded_and_is_a_breach_beyond_what_is_promised(
    replica: Replica, asked: dict[str, object], rpo_seconds: float, is_breach: bool
) -> None:
    agent = an_agent_in_handover(handover_primary_dead=True)
    records = tables(agent, replica)
    records.commit(promotion(agent, replica, **({"basis": Basis.PRIMARY_DEAD} | asked)))
    switch = records.switch(agent.agent_id, "0000000002")
    assert switch is not None
    assert (switch.rpo_seconds, switch.rpo_breached) == (rpo_seconds, is_breach)


@given(
    lag=st.floats(0, 10),
    primary_rate=st.floats(1 - lease.CLOCK_DRIFT, 1 + lease.CLOCK_DRIFT),
    fence_seconds=st.floats(0, lease.FENCE_LATENCY_SECONDS),
)
def test_no_clock_within_its_drift_lets_more_be_lost_than_is_recorded(
    lag: float, primary_rate: float, fence_seconds: float
) -> None:
    held_after = lease.hold_at(lease.held_until(0.0)) / primary_rate + fence_seconds
    assert lag / primary_rate + held_after <= lease.longest_loss(lag) + 1e-9


@pytest.mark.parametrize("lost_seconds", [0.0, 60.0])
def test_a_fall_back_is_a_breach_whatever_the_clocks_say(lost_seconds: float) -> None:
    agent = an_agent(claim_epoch=1, claim_attempt=1, claim_open=True)
    former = an_instance(instance_id=STANDBY, role=InstanceRole.RETIRED_PENDING)
    change = handover.fall_back(agent, former, attempt=1, lost_seconds=lost_seconds, now=NOON)
    (switch,) = (change.put for change in change.changes if change.table is Table.SWITCHES)
    assert (switch["rpo_seconds"], switch["rpo_breached"]) == (lost_seconds, True)


def test_a_replica_in_handover_can_not_be_ended() -> None:
    agent, replica = an_agent_in_handover(), a_ready_replica()
    ending = replicas.end(agent.agent_id, replica, reason="its instance died", now=NOON)
    with pytest.raises(ConditionFailed):
        tables(agent, replica).commit(ending)


SUBNETS = {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b", "us-east-1c": "subnet-c"}


@given(
    excluded=st.sets(st.sampled_from(sorted(SUBNETS)), max_size=2),
    cooling=st.sets(st.sampled_from([f"{zone}.{kind}" for zone in SUBNETS for kind in ("m5.large", "c5.large")])),
    priced=st.dictionaries(
        st.sampled_from([f"{zone}.{kind}" for zone in SUBNETS for kind in ("m5.large", "c5.large")]),
        st.decimals("0.01", "9", places=4),
    ),
)
def test_the_launch_order_never_buys_spot_in_the_primarys_pool_and_ends_on_demand(
    excluded: set[str], cooling: set[str], priced: dict[str, object]
) -> None:
    order = pools.launch_order(
        SUBNETS,
        ("m5.large", "c5.large"),
        prices=priced,  # type: ignore[arg-type]
        primary_pool_id="us-east-1a.m5.large",
        cooling_pool_ids=cooling,
        excluded_zones=excluded,
    )
    spot = [target.pool.pool_id for target in order if target.lifecycle is Lifecycle.SPOT]
    assert "us-east-1a.m5.large" not in spot
    assert [target.lifecycle for target in order] == sorted((t.lifecycle for t in order), reverse=True)
    assert order[-1].lifecycle is Lifecycle.ON_DEMAND
    assert not {target.pool.availability_zone for target in order} & excluded
    warm = [pool_id for pool_id in spot if pool_id not in cooling]
    assert spot[: len(warm)] == warm


def test_a_launch_with_every_zone_excluded_is_refused() -> None:
    with pytest.raises(NoPoolQualifies):
        pools.launch_order(
            SUBNETS, ("m5.large",), prices={}, primary_pool_id="us-east-1a.m5.large", excluded_zones=SUBNETS
        )


def test_the_warning_event_is_read_by_its_detail_and_leaves_two_minutes() -> None:
    signal = from_eventbridge(
        {
            "detail-type": "EC2 Spot Instance Interruption Warning",
            "time": "2026-01-01T00:00:00Z",
            "resources": ["arn:aws:ec2:us-east-2a:instance/i-0other"],
            "detail": {"instance-id": PRIMARY, "instance-action": "terminate"},
        }
    )
    assert signal.instance_id == PRIMARY
    assert signal.deadline is not None and signal.deadline - signal.at == timedelta(seconds=120)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"detail": {}},
        {"detail": {"instance-id": PRIMARY}, "detail-type": "Something else", "time": "2026-01-01T00:00:00Z"},
        {"detail": {"instance-id": PRIMARY}, "detail-type": "EC2 Instance Rebalance Recommendation", "time": "soon"},
    ],
)
def test_an_event_that_is_no_signal_is_refused(event: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        from_eventbridge(event)


def test_a_notice_more_than_150_seconds_old_is_refused() -> None:
    check_termination_time(NOON - timedelta(seconds=149), now=NOON)
    with pytest.raises(NoticeTooOld):
        check_termination_time(NOON - timedelta(seconds=151), now=NOON)
