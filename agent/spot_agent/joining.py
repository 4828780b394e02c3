"""How an instance comes to speak for an agent: it registers once, and takes up again what it was after each restart."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Final

from spot_agent import wire
from spot_agent.control_plane import Answer, Answered, ControlPlane, OutcomeUnknown, Registration, Rejected, StaleEpoch
from spot_agent.imds import Addresses, InstanceIdentity
from spot_agent.journal import Journal, Memory
from spot_agent.settings import SettingRefused, Settings
from spot_agent.workload import WorkloadStatus
from spot_optimizer.domain.orders import Role
from spot_optimizer.domain.primary import NEVER, Primary, Workload
from spot_optimizer.domain.protocol import GenerationCommitted
from spot_optimizer.domain.retired import Retired
from spot_optimizer.domain.standby import Standby

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 10.0


class Leaving(Exception):
    """The agent was told to end while it waited for something."""


def register(
    settings: Settings,
    identity: InstanceIdentity,
    addresses: Addresses,
    *,
    certificate: str,
    sync_port: int,
    journal: Journal,
    control_plane: ControlPlane,
    pause: Callable[[float], bool],
) -> Memory:
    """Register this instance, unless it was registered before; tries until it is.

    Args:
        settings: With a client token, or a join token.
        identity: Proof of what this instance is.
        addresses: Its private addresses.
        certificate: What its peer shall pin.
        sync_port: Where it will listen.
        journal: Remembers the outcome; it has begun already.
        control_plane: Whom to ask.
        pause: Waits so many seconds; True when the agent was told to end.

    Raises:
        SettingRefused: There is no token to register with.
        Leaving: It was told to end.
    """
    memory = journal.memory
    if memory.agent_id is not None and memory.agent_token is not None:
        return memory
    token = settings.join_token or settings.client_token
    if token is None:
        raise SettingRefused("CLIENT_TOKEN: found nowhere; expected a client token, or JOIN_TOKEN on a replica")
    details = wire.registration(settings, identity, addresses, certificate=certificate, sync_port=sync_port)
    registration = Registration(token=token, key=memory.registration_key, details=details)
    seconds = _FIRST_PAUSE_SECONDS
    while True:
        answer = control_plane.register(registration)
        if isinstance(answer, Answered):
            try:
                joined = wire.parse_registered(answer.body)
            except wire.AnswerNotUnderstood:
                log.exception("registered, and the answer is not understood")
            else:
                log.info("registered", extra={"agent_id": joined.agent_id, "epoch": joined.epoch})
                return journal.remember(
                    agent_id=joined.agent_id, agent_token=joined.agent_token, epoch=joined.epoch, role=Role.RETIRED
                )
        log.error("not registered; trying again", extra={"answer": _described(answer), "after_seconds": seconds})
        if pause(seconds):
            raise Leaving
        seconds = min(seconds * 2, _LONGEST_PAUSE_SECONDS)


def new_memory() -> Memory:
    """Of an instance that was never registered."""
    return Memory(registration_key=secrets.token_hex(32))


def resume(
    memory: Memory, status: WorkloadStatus, held: GenerationCommitted | None, *, now: float
) -> Primary | Standby | Retired:
    """What the protocol knows at the start of a process.

    A role that nobody remembers is `Retired`: it runs nothing and asks.

    Args:
        memory: What an earlier process made durable.
        status: What the supervisor says of the workload.
        held: The received generation that has not become the live state.
        now: CLOCK_BOOTTIME.
    """
    epoch = memory.epoch or 0
    if memory.role == Role.PRIMARY:
        workload = Workload.STOPPED
        if status.running and status.epoch == epoch:
            # What may be frozen may as well still serve: it is frozen again before anybody relies on it.
            workload = Workload.FREEZING if memory.frozen else Workload.RUNNING
        return Primary(
            epoch=epoch,
            workload=workload,
            restore=held is not None and memory.restored_epoch != epoch,
            readiness=memory.readiness,
            # The fence keeps it: the process before had this lease, of the replica that may be ready.
            lease_until=status.deadline if workload is not Workload.STOPPED and status.deadline is not None else NEVER,
        )
    if memory.role == Role.STANDBY and memory.replica_id is not None:
        return Standby(
            epoch=epoch,
            replica_id=memory.replica_id,
            granting=memory.granting is not False,
            refused_at_readiness=-1 if memory.refused_at_readiness is None else memory.refused_at_readiness,
            granted_at=now,
            generation=0 if held is None else held.generation,
            held_epoch=None if held is None else held.epoch,
            covered_until=None if held is None else held.covered_until,
            final_for=None if held is None else held.final_for,
            final_readiness=0 if held is None else held.readiness or 0,
        )
    live = held is None and memory.live_epoch is not None
    return Retired(epoch=epoch, readiness=memory.readiness, restore=held is not None, live=live)


def may_go_on(memory: Memory, status: WorkloadStatus) -> bool:
    """Whether a workload that an earlier process left running may go on until the control plane was asked."""
    return memory.role == Role.PRIMARY and status.epoch == memory.epoch


def _described(answer: Answer) -> str:
    match answer:
        case Rejected(status, problem):
            return f"{status}: {problem.get('detail') or problem.get('title')}"
        case OutcomeUnknown(reason):
            return reason
        case StaleEpoch(current_epoch):
            return f"the agent is at epoch {current_epoch}"
        case Answered():
            return "not understood"
