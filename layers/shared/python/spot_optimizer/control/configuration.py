"""What people may change of an agent while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spot_optimizer.control.plane import Plane
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.writes import Change, Equals, Present, Table, Transaction

CHANGEABLE = (
    "auto_switch",
    "auto_replica",
    "manual_replica",
    "sync_interval_seconds",
    "rebalance_threshold",
    "quiet_seconds",
    "switch_minimum_saving",
    "switch_dwell_seconds",
    "switch_hysteresis",
    "switches_per_day",
    "maintenance_windows",
    "usd_per_outage_second",
)


def configure(plane: Plane, agent_id: str, changes: Mapping[str, Any]) -> Agent:
    """Change some of an agent's settings; the others stay. It learns of them with its next heartbeat.

    Raises:
        AgentUnknown: No such agent.
        ConditionFailed: The agent is lost.
    """
    plane.records.agent(agent_id)
    plane.records.commit(
        Transaction(
            "configure",
            (
                Change(
                    Table.AGENTS,
                    (agent_id,),
                    "only an agent that is not lost is configured",
                    only_if={"agent_id": Present(), "lost": Equals(False)},
                    put={name: value for name, value in changes.items() if name in CHANGEABLE},
                ),
            ),
        )
    )
    return plane.records.agent(agent_id)
