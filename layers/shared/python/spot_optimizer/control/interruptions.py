"""What AWS did to an instance, and what a failover made of it: each is written down once, whoever comes to do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer.control.plane import Plane, latest_switches
from spot_optimizer.domain import claims, timeline
from spot_optimizer.domain.agents import FAIL_OVER, Agent, Interruption, Switch
from spot_optimizer.domain.handover import Basis, switch_id_for
from spot_optimizer.domain.signals import SignalType, event_id_of
from spot_optimizer.domain.writes import Change, Equals, Missing, Present, Table, Transaction
from spot_optimizer.errors import ConditionFailed, Transient


def record_once(plane: Plane, interruption: Interruption) -> None:
    """Write an interruption record unless it exists; that it can not be written now holds up nothing."""
    with suppress(Transient):
        record(plane, interruption)


def record(plane: Plane, interruption: Interruption) -> bool:
    """Write an interruption record unless it exists; whether it was written.

    Raises:
        Transient: It can not be written now.
    """
    change = Change(
        Table.INTERRUPTIONS,
        (interruption.agent_id, interruption.event_id),
        "one record per instance and signal",
        only_if={"event_id": Missing()},
        put={
            "instance_id": interruption.instance_id,
            "pool_id": interruption.pool_id,
            "signal_type": interruption.signal_type,
            "detected_at": interruption.detected_at,
            "termination_time": interruption.termination_time,
            "response_action": interruption.response_action,
            "replica_id": interruption.replica_id,
            "epoch": interruption.epoch,
            "client_id": interruption.client_id,
            "failover_completed": False,
        },
    )
    try:
        plane.records.commit(Transaction("record interruption", (change,)))
    except ConditionFailed:
        return False
    return True


def record_claim(plane: Plane, agent: Agent) -> str:
    """Keep a record of the signal that the agent's claim was made for, before its epoch ends; the record's id.

    Raises:
        Transient: It can not be written now.
    """
    return _record_failover(plane, _answered_by_claim(agent))


def conclude(plane: Plane, agent: Agent, switch: Switch, *, serving: bool, now: datetime) -> Mapping[str, Any]:
    """Write down what a promotion achieved, with the switch and with the signal that it answered.

    Those before it come first, if they are left: so all are concluded that are older than a concluded one. Written
    again, or by somebody else as well, everything stays as it is.

    Args:
        plane: The ports.
        agent: As read.
        switch: As read.
        serving: The new primary is known to serve. Its last sign of life may say so too.
        now: When traffic had been moved.

    Returns:
        What was achieved; `failover_time_ms` is None where nobody knows when the new primary began to serve, if it did.

    Raises:
        Transient: Not all of it is written; do it again.
    """
    left = latest_switches(plane, switch.agent_id, until=switch.epoch - 1, only=lambda one: not one.concluded)
    for earlier in left:
        _conclude_promotion(plane, agent, earlier, serving=False, now=now)
    return _conclude_promotion(plane, agent, switch, serving=serving, now=now)


def conclude_left_behind(plane: Plane, listed: Agent, *, is_lost: bool = False) -> int:
    """Conclude the promotions whose executions died before they came to that; how many agents had some.

    Only the first word of the new primary that it serves is missing then: what is known of that is from its last one.

    Args:
        plane: The ports.
        listed: The agent as read some time ago.
        is_lost: It is about to be, so that nobody will come to serve.
    """
    switch = plane.records.switch(listed.agent_id, switch_id_for(listed.epoch))
    if switch is None or switch.concluded:
        return 0
    agent = plane.records.agent(listed.agent_id)
    beat = plane.records.heartbeat(agent.agent_id, switch.to_instance_id)
    serves = beat is not None and beat.serves_under(switch.epoch)
    is_over = is_lost or agent.epoch > switch.epoch or serves
    if not is_over or claims.concludes(agent):
        return 0
    conclude(plane, agent, switch, serving=False, now=plane.clock())
    return 1


def conclude_failed(plane: Plane, agent: Agent, epoch: int, *, cause: str) -> None:
    """Write down why the failover of an epoch has failed, before its promotion or after it.

    After it the promotion is left to be concluded: its instance may come to serve all the same.

    Raises:
        Transient: It is not written; do it again.
    """
    switch = plane.records.switch(agent.agent_id, switch_id_for(epoch + 1))
    answered = _answered_by_claim(agent) if switch is None else _answered_by(switch, agent)
    failed: dict[str, Any] = {"failure": cause}
    if answered.replica_id is not None:
        failed["replica_id"] = answered.replica_id
    _conclude_signal(plane, answered, failed)


def _conclude_promotion(
    plane: Plane, agent: Agent, switch: Switch, *, serving: bool, now: datetime
) -> Mapping[str, Any]:
    beat = plane.records.heartbeat(agent.agent_id, switch.to_instance_id)
    serves = serving or (beat is not None and beat.serves_under(switch.epoch))
    served = serves or _is_followed(plane, switch)
    gone = f"{switch.to_instance_id} was promoted to epoch {switch.epoch}, and was gone before it was known to serve"
    served_at = None if not serves else now if beat is None else min(beat.at, now)
    rto_ms = None if served_at is None else _milliseconds(switch.signal_at, served_at)
    took_ms = None if served_at is None else _milliseconds(switch.signal_at, now)
    cost = {
        "rto_seconds": None if rto_ms is None else max(rto_ms, 0) / 1000,
        "rpo_bytes": switch.rpo_bytes if switch.rpo_bytes is not None else _lost_bytes(plane, switch),
        "steps": timeline.steps(switch, served_at=served_at, now=now),
    }
    _conclude_signal(
        plane,
        _answered_by(switch, agent),
        {
            "failover_completed": served,
            "failover_time_ms": took_ms,
            "failure": None if served else gone,
            "replica_id": switch.replica_id,
            "rpo_seconds": switch.rpo_seconds,
            "lag_seconds": switch.lag_seconds,
            **cost,
        },
    )
    # Last, for it says that all is written down.
    _conclude_switch(plane, switch, cost if served_at is None else {"served_at": served_at, **cost})
    return {
        "from_instance_id": switch.from_instance_id,
        "to_instance_id": switch.to_instance_id,
        "basis": switch.basis,
        "rpo_seconds": switch.rpo_seconds,
        "rpo_breached": switch.rpo_breached,
        "failover_time_ms": took_ms,
    }


def _lost_bytes(plane: Plane, switch: Switch) -> int | None:
    """By the old primary's last word, where the promotion could not tell: there, mostly, it had died by then."""
    former = plane.records.heartbeat(switch.agent_id, switch.from_instance_id)
    changed = None if former is None else former.changed_bytes_per_second
    return timeline.lost_bytes(rpo_seconds=switch.rpo_seconds, changed_bytes_per_second=changed)


def _is_followed(plane: Plane, switch: Switch) -> bool:
    """Whether the new primary had a ready standby before it was replaced: none is ready behind what does not serve."""
    following = plane.records.switch(switch.agent_id, switch_id_for(switch.epoch + 1))
    return following is not None and following.basis in (Basis.FINAL_GENERATION, Basis.LEASE_EXPIRED)


def _answered_by_claim(agent: Agent) -> Interruption:
    signal_type = agent.claim_signal or SignalType.OPERATOR
    return Interruption(
        agent_id=agent.agent_id,
        event_id=event_id_of(agent.primary_instance_id, signal_type),
        instance_id=agent.primary_instance_id,
        pool_id=agent.primary_pool_id,
        signal_type=signal_type,
        detected_at=agent.claim_signal_at or agent.claimed_at or agent.registered_at,
        termination_time=agent.claim_deadline,
        response_action=FAIL_OVER,
        replica_id=agent.handover_replica_id if agent.handover_count else None,
        epoch=agent.epoch,
        client_id=agent.client_id,
    )


def _answered_by(switch: Switch, agent: Agent) -> Interruption:
    signal_type = switch.switch_reason or SignalType.OPERATOR
    epoch = switch.epoch - 1
    return Interruption(
        agent_id=switch.agent_id,
        event_id=event_id_of(switch.from_instance_id, signal_type),
        instance_id=switch.from_instance_id,
        pool_id=switch.from_pool_id,
        signal_type=signal_type,
        detected_at=switch.signal_at or switch.switched_at,
        termination_time=agent.claim_deadline if agent.claim_epoch == epoch else None,
        response_action=FAIL_OVER,
        replica_id=switch.replica_id,
        epoch=epoch,
        client_id=switch.client_id,
    )


def _conclude_switch(plane: Plane, switch: Switch, values: Mapping[str, Any]) -> None:
    change = Change(
        Table.SWITCHES,
        (switch.agent_id, switch.switch_id),
        "concluded once",
        only_if={"switch_id": Present(), "steps": Missing()},
        put=values,
    )
    _commit_once(plane, Transaction("record switch", (change,)))


def _conclude_signal(plane: Plane, answered: Interruption, values: Mapping[str, Any]) -> None:
    change = Change(
        Table.INTERRUPTIONS,
        (answered.agent_id, _record_failover(plane, answered)),
        "concluded once, by success",
        only_if={"failover_completed": Equals(False)},
        put=values,
    )
    _commit_once(plane, Transaction("conclude interruption", (change,)))


def _record_failover(plane: Plane, answered: Interruption) -> str:
    """Have a record of this failover, one that only raised the urgency of what was under way has none yet; its id.

    A signal may be on record already for something else: it was noted for a standby before that was promoted, or while
    all was paused, or a former primary was promoted back under the notice that it was replaced for before.
    """
    again = f"{answered.event_id}#{answered.epoch}"
    if record(plane, answered):
        return answered.event_id
    known = plane.records.interruption(answered.agent_id, answered.event_id)
    if known is None or (known.response_action == FAIL_OVER and known.epoch == answered.epoch):
        return answered.event_id
    record(plane, dataclasses.replace(answered, event_id=again))
    return again


def _commit_once(plane: Plane, transaction: Transaction) -> None:
    with suppress(ConditionFailed):
        plane.records.commit(transaction)


def _milliseconds(since: datetime | None, now: datetime) -> int | None:
    return None if since is None else int((now - since) / timedelta(milliseconds=1))
