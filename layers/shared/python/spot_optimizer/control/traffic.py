"""The traffic path, whatever it is made of. `control.failover.move_traffic` says when it moves, and where to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spot_optimizer.control.plane import Plane
from spot_optimizer.domain.agents import Agent, TrafficAdapter


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
    """Which instance each agent's path points at, by agent id; agents without a path are absent.

    Raises:
        Throttled: Try again.
        ControlPlaneUnavailable: A service did not answer.
    """
    targets = {
        agent.agent_id: (agent.traffic_adapter, agent.traffic_target)
        for agent in agents
        if agent.traffic_target is not None and agent.traffic_adapter is not TrafficAdapter.NONE
    }
    addresses = {target for adapter, target in targets.values() if adapter is TrafficAdapter.EIP}
    known = plane.compute.address_holders(addresses) if addresses else {}
    return {
        agent_id: known.get(target) if adapter is TrafficAdapter.EIP else plane.paths[adapter].holder(target)
        for agent_id, (adapter, target) in targets.items()
    }
