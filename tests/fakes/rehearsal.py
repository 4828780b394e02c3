"""A rehearsal of a launch without another function to ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from functions.prepare_replica import handler as prepare_replica
from spot_optimizer.domain.examination import RehearsedLaunch
from spot_optimizer.domain.pools import Lifecycle


@dataclass
class PlayedRehearsal:
    """Runs the task of the function that launches, in this process and with its adapters."""

    context: Any
    failure: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def launches(self, agent_id: str) -> tuple[RehearsedLaunch, ...]:
        self.asked.append(agent_id)
        if self.failure is not None:
            raise self.failure
        said = prepare_replica.handle({"task": "RehearseLaunch", "agent_id": agent_id}, self.context)
        return tuple(
            RehearsedLaunch(
                pool_id=launch["pool_id"],
                lifecycle=Lifecycle(launch["lifecycle"]),
                refused_because=launch["refused_because"],
            )
            for launch in said["launches"]
        )
