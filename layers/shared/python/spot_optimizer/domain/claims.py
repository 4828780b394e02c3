"""The claim: how any number of triggers become one failover execution at a time.

Every trigger calls one starter. It claims the agent's row with the next attempt number, and names the execution after
agent, epoch and attempt; a trigger that finds a claim whose execution runs joins it, and raises its urgency if its own
is higher; a claim whose execution no longer runs is retaken. The name only avoids waste: that a failover happens once
comes from the promotion transaction.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from spot_optimizer.domain.agents import NOT_OPEN, Agent, Urgency
from spot_optimizer.domain.signals import Signal, SignalType
from spot_optimizer.domain.writes import AtMost, Change, Equals, Missing, OneOf, Table, Transaction


class Execution(enum.StrEnum):
    """What Step Functions knows of an execution."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to do, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Join:
    """An execution is on it: make sure that it runs, and raise its urgency if `raised` is not None."""

    attempt: int
    raised: Transaction | None = None


@dataclass(frozen=True, slots=True)
class Retake:
    """Claim the agent with the next attempt number and start its execution."""

    attempt: int
    claim: Transaction


ClaimDecision = Ignore | Join | Retake


def execution_name(agent_id: str, *, epoch: int, attempt: int) -> str:
    """Name a failover execution; at most 80 characters of `[0-9A-Za-z-_]`, as Step Functions requires."""
    return f"{agent_id}-{epoch}-{attempt}"


def decide_claim(agent: Agent, signal: Signal, *, execution: Execution, now: datetime) -> ClaimDecision:
    """Decide what a signal about an agent's primary leads to.

    Args:
        agent: The agent's row, read consistently.
        signal: What was seen.
        execution: State of the execution of the agent's current claim; `unknown` where there is none.
        now: When.
    """
    if agent.lost:
        return Ignore("the agent is lost: every copy of its state is gone")
    if signal.instance_id != agent.primary_instance_id:
        return Ignore(f"{signal.instance_id} is not the primary; {agent.primary_instance_id} is")
    if signal.type is SignalType.STATE_CHANGE and signal.state not in ("stopped", "terminated"):
        return Ignore(f"state '{signal.state}' does not prove a death")
    if claim_stands(agent) and execution is not Execution.ENDED:
        # An execution that is unknown was claimed by a trigger which has not started it yet, or died in between: the
        # caller starts it under the same name, which Step Functions makes idempotent.
        return Join(agent.claim_attempt, _raise(agent, signal) if signal.urgency > agent.claim_urgency else None)
    attempt = agent.claim_attempt + 1 if agent.claim_epoch == agent.epoch else 1
    return Retake(attempt, _claim(agent, signal, attempt=attempt, now=now))


def claim_stands(agent: Agent) -> bool:
    """Whether an execution may be at work on the agent's present epoch.

    A claim of an earlier epoch has already led to a promotion; it must not hold up the failover of the new primary.
    """
    return agent.claim_open and agent.claim_epoch == agent.epoch


def concludes(agent: Agent) -> bool:
    """Whether the execution that led to the present epoch may still be at work: it is the one that moves the
    traffic.
    """
    return agent.claim_open and agent.claim_epoch < agent.epoch


def _claim(agent: Agent, signal: Signal, *, attempt: int, now: datetime) -> Transaction:
    return Transaction(
        "claim",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "one claim per attempt",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "primary_instance_id": Equals(agent.primary_instance_id),
                    "claim_epoch": Equals(agent.claim_epoch),
                    "claim_attempt": Equals(agent.claim_attempt),
                    "claim_open": Equals(agent.claim_open),
                    "lost": Equals(False),
                },
                put={
                    "claim_epoch": agent.epoch,
                    "claim_attempt": attempt,
                    "claim_open": True,
                    "claim_urgency": int(signal.urgency),
                    "claim_handovers_before": agent.handover_count,
                    "claim_signal": signal.type,
                    "claim_signal_at": signal.at,
                    "claim_deadline": signal.deadline,
                    "claim_demotes": signal.demote_old_primary,
                    "claimed_at": now,
                    "task_token": None,
                },
            ),
        ),
    )


def _raise(agent: Agent, signal: Signal) -> Transaction:
    return Transaction(
        "raise urgency",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "urgency only rises",
                only_if={
                    "epoch": Equals(agent.epoch),
                    "claim_epoch": Equals(agent.epoch),
                    "claim_attempt": Equals(agent.claim_attempt),
                    "claim_open": Equals(True),
                    "claim_urgency": AtMost(int(signal.urgency) - 1),
                },
                put={
                    "claim_urgency": int(signal.urgency),
                    "claim_signal": signal.type,
                    "claim_signal_at": signal.at,
                    "claim_deadline": signal.deadline if signal.deadline is not None else agent.claim_deadline,
                },
            ),
        ),
    )


def release(agent: Agent, *, epoch: int, attempt: int) -> Transaction:
    """End the claim of an attempt, so that the next signal can start a new one."""
    return Transaction(
        "release claim",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "only the own claim is released",
                only_if={
                    "claim_epoch": Equals(epoch),
                    "claim_attempt": Equals(attempt),
                    "claim_open": Equals(True),
                },
                put={"claim_open": False, "task_token": None},
            ),
        ),
    )


def is_emergency(urgency: int) -> bool:
    """Whether the primary is going, or gone, for certain."""
    return urgency >= Urgency.NOTICED


def store_task_token(agent: Agent, *, epoch: int, attempt: int, token: str) -> Transaction:
    """Leave the token that wakes the execution of an attempt; the caller then checks again what it waits for."""
    return Transaction(
        "store task token",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "only the claiming execution waits",
                only_if={
                    "claim_epoch": Equals(epoch),
                    "claim_attempt": Equals(attempt),
                    "claim_open": Equals(True),
                },
                put={"task_token": token},
            ),
        ),
    )


def give_up(agent: Agent, *, epoch: int, attempt: int) -> Transaction:
    """Every copy is gone: nothing may be started in the agent's name any more."""
    return Transaction(
        "mark lost",
        (
            Change(
                Table.AGENTS,
                (agent.agent_id,),
                "an agent is lost only while no handover can still succeed, and no snapshot has come",
                only_if={
                    "epoch": Equals(epoch),
                    "claim_epoch": Equals(epoch),
                    "claim_attempt": Equals(attempt),
                    "claim_open": Equals(True),
                    "handover_state": OneOf(NOT_OPEN),
                    "active_replica_id": Missing(),
                    "snapshot_id": Missing() if agent.snapshot_id is None else Equals(agent.snapshot_id),
                },
                put={"lost": True, "claim_open": False, "task_token": None},
            ),
        ),
    )
