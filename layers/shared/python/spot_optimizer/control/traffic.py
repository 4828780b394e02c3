"""The traffic path, whatever it is made of. `control.failover.move_traffic` says when it moves, and where to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from spot_optimizer.control.plane import Plane
from spot_optimizer.domain.agents import Agent, TrafficAdapter
from spot_optimizer.errors import Transient

LOOKED_AT_LEAST = 2
"""Of so many targets a path tells where they lead, however they are spread over zones and groups."""


def move(plane: Plane, agent: Agent) -> None:
    """Point an agent's traffic path at its primary; again is no error.

    Raises:
        AddressNotMovable: Not now; try again.
    """
    if agent.traffic_target is None:
        return
    match agent.traffic_adapter:
        case TrafficAdapter.NONE:
            return
        case TrafficAdapter.EIP:
            plane.compute.move_address(agent.traffic_target, agent.primary_instance_id)
        case adapter:
            plane.paths[adapter].move(agent.traffic_target, agent.primary_instance_id, client_id=agent.client_id)


def holders(plane: Plane, agents: Sequence[Agent]) -> Mapping[str, str | None]:
    """Which instance each agent's path points at, by agent id.

    Absent are agents without a path, and those whose path could not be asked about this time. Of a fleet too large to
    be asked about at once, the next ones have their turn each minute.
    """
    by_adapter: dict[TrafficAdapter, dict[str, list[str]]] = {}
    for agent in agents:
        if agent.traffic_target is not None and agent.traffic_adapter is not TrafficAdapter.NONE:
            by_adapter.setdefault(agent.traffic_adapter, {}).setdefault(agent.traffic_target, []).append(agent.agent_id)
    minute = int(plane.clock().timestamp() // 60)
    found: dict[str, str | None] = {}
    for adapter, named_by in by_adapter.items():
        targets = sorted(named_by)
        first = minute * LOOKED_AT_LEAST % len(targets)
        # One service that does not answer hides nothing of the others.
        with suppress(Transient):
            known = _ask(plane, adapter, [*targets[first:], *targets[:first]])
            found |= {agent_id: held for target, held in known.items() for agent_id in named_by[target]}
    return found


def _ask(plane: Plane, adapter: TrafficAdapter, targets: Sequence[str]) -> Mapping[str, str | None]:
    if adapter is TrafficAdapter.EIP:
        known = plane.compute.address_holders(targets)
        return {target: known.get(target) for target in targets}
    return plane.paths[adapter].holders(targets)
