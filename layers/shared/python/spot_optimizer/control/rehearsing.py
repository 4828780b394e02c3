"""A launch, rehearsed: the function that would make it asks EC2 for a dry run, which tests its own permissions."""

from __future__ import annotations

from typing import Any, Protocol

from spot_optimizer.control import selecting
from spot_optimizer.control.plane import Plane
from spot_optimizer.domain.pools import LaunchTarget
from spot_optimizer.errors import NoPoolQualifies

POOLS = 3


class DryRuns(Protocol):
    """EC2, asked what it would do."""

    def refusal(self, target: LaunchTarget, *, launch_template_id: str, agent_id: str) -> str:
        """Why EC2 would refuse this launch; empty if it would not. Raises: Throttled, ControlPlaneUnavailable."""
        ...


def rehearse_launch(plane: Plane, dry_runs: DryRuns, agent_id: str) -> dict[str, Any]:
    """Ask for a dry run in the first pools that a standby would be launched in; nothing is launched.

    Returns:
        `launches`: of each, `pool_id`, `lifecycle`, and `refused_because`, which is empty if it would be made.
    """
    agent = plane.records.agent(agent_id)
    try:
        targets = selecting.launch_order(
            plane, agent, plane.compute.subnets(agent.subnet_ids), excluded_zones=(), safest_first=False
        )
    except NoPoolQualifies:
        return {"launches": []}
    return {
        "launches": [
            {
                "pool_id": target.pool.pool_id,
                "lifecycle": target.lifecycle,
                "refused_because": dry_runs.refusal(
                    target, launch_template_id=agent.launch_template_id, agent_id=agent_id
                ),
            }
            for target in targets[:POOLS]
        ]
    }
