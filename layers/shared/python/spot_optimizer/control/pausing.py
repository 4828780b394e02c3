"""The pause: an operator's word that nothing is to be changed, for one agent or for all.

While it holds, no failover, replica or switch is begun, and no signal is acted upon; each is recorded. What is under
way ends, and fencing goes on: primaries and standbys keep their leases, and a handover that is open is committed or
aborted. When it ends, what went by is looked at.
"""

from __future__ import annotations

from contextlib import suppress

from spot_optimizer.control.plane import Plane
from spot_optimizer.domain import pauses
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.pauses import Pause
from spot_optimizer.errors import ConditionFailed, Paused


def pause_of(plane: Plane, agent: Agent) -> Pause | None:
    """The pause that holds for an agent: its own, or everybody's."""
    return agent.pause or plane.records.pause_of_all()


def refuse_while_paused(plane: Plane, agent: Agent) -> None:
    """Raises: Paused."""
    pause = pause_of(plane, agent)
    if pause is not None:
        raise Paused(f"{pause.explanation}; resume first")


def pause_agent(plane: Plane, agent_id: str, *, reason: str) -> Agent:
    """Pause one agent. Pausing it again is no error: the first pause stands.

    Raises:
        AgentUnknown: No such agent.
    """
    plane.records.agent(agent_id)
    with suppress(ConditionFailed):
        plane.records.commit(pauses.pause_agent(agent_id, reason=reason, now=plane.clock()))
    return plane.records.agent(agent_id)


def resume_agent(plane: Plane, agent_id: str) -> Agent:
    """End an agent's pause; one that is not paused is left as it is.

    Raises:
        AgentUnknown: No such agent.
    """
    plane.records.agent(agent_id)
    plane.records.commit(pauses.resume_agent(agent_id))
    return plane.records.agent(agent_id)


def pause_all(plane: Plane, *, reason: str) -> Pause | None:
    """Pause everything. Pausing it again is no error: the first pause stands."""
    with suppress(ConditionFailed):
        plane.records.commit(pauses.pause_all(reason=reason, now=plane.clock()))
    return plane.records.pause_of_all()


def resume_all(plane: Plane) -> None:
    """End the pause of all; agents that are paused for themselves stay so."""
    plane.records.commit(pauses.resume_all())
