"""The sweep for orphans: compare what EC2 shows with the rows, report, and end what has been nobody's for a while.

What is ended was looked at twice: once with everything else, and once more, on fresh rows, right before it is ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from spot_optimizer.control import pausing
from spot_optimizer.control.plane import Plane, find_instance, find_replica
from spot_optimizer.domain import orphans
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.orphans import Circumstances, Claims, Finding, Judged, Kind, Resource, Sighting
from spot_optimizer.domain.signals import SignalType, event_id_of
from spot_optimizer.errors import (
    AgentUnknown,
    ConditionFailed,
    OutcomeUnknown,
    Transient,
)
from spot_optimizer.ports import Inventory


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep came to."""

    found: int = 0
    kept: int = 0
    ended: tuple[str, ...] = ()
    failed: int = 0
    halted_because: str | None = None
    reason: str = ""

    def as_payload(self) -> dict[str, Any]:
        """The form that the log shows."""
        return {
            "found": self.found,
            "kept": self.kept,
            "ended": list(self.ended),
            "failed": self.failed,
            "halted_because": self.halted_because,
            "reason": self.reason,
        }


def sweep(
    plane: Plane,
    inventory: Inventory,
    *,
    grace: timedelta,
    volume_grace: timedelta,
) -> Swept:
    """Sweep once. Of two sweeps at once one does the work.

    Raises:
        Throttled: EC2 or a table asked to slow down before anything was ended; the next sweep looks again.
        ControlPlaneUnavailable: As well.
    """
    now = plane.clock()
    report = plane.records.orphan_report()
    agent_of = cache(lambda agent_id: _agent(plane, agent_id))
    seen = {sighting.resource_id: sighting.first_seen_at for sighting in report.sightings}
    judged = [
        look(plane, inventory, resource, agent_of(resource.agent_id), seen_since=seen.get(resource.resource_id))
        for resource in inventory.ours()
    ]
    plan = orphans.plan_sweep(judged, report, now=now, grace=grace, volume_grace=volume_grace)
    try:
        plane.records.commit(orphans.write_report(report, plan, now=now))
    except (ConditionFailed, OutcomeUnknown):
        return Swept(reason="another sweep is under way, or the report could not be kept")
    ended, failed = _end(plane, inventory, plan.due, seen)
    if ended:
        sightings = [sighting for sighting in plan.sightings if sighting.resource_id in ended]
        _report_ended(plane, report.number + 1, sightings)
    kept = sum(sighting.finding is Finding.KEPT for sighting in plan.sightings)
    return Swept(
        found=len(plan.sightings), kept=kept, ended=tuple(ended), failed=failed, halted_because=plan.halted_because
    )


def look(
    plane: Plane, inventory: Inventory, resource: Resource, agent: Agent | None, *, seen_since: datetime | None
) -> Judged:
    """Judge one resource by its rows; what claims it at the first glance is asked nothing more."""
    now = plane.clock()
    if agent is None:
        return orphans.judge(resource, Claims(agent=None), Circumstances(), now=now)
    replica = find_replica(plane, agent.agent_id, resource.replica_id)
    active = replica
    if agent.active_replica_id is not None and agent.active_replica_id != resource.replica_id:
        active = find_replica(plane, agent.agent_id, agent.active_replica_id)
    holder_id = resource.resource_id
    if resource.kind is Kind.VOLUME:
        holder_id = "" if replica is None else replica.instance_id or ""
    states: Mapping[str, str] = {}
    if resource.kind is Kind.VOLUME and holder_id:
        states = plane.compute.states([holder_id])
    claims = Claims(
        agent=agent,
        replica=replica,
        active=active,
        instance=find_instance(plane, holder_id) if holder_id and resource.kind is not Kind.ADDRESS else None,
        is_holder_alive=holder_id in states and states[holder_id] != "terminated",
    )
    if orphans.claim_on(resource, claims) is not None:
        return orphans.judge(resource, claims, Circumstances(), now=now)
    circumstances = Circumstances(
        pause=pausing.pause_of(plane, agent),
        is_taken_back=resource.kind is Kind.INSTANCE and _is_taken_back(plane, inventory, resource),
        seen_since=seen_since,
    )
    return orphans.judge(resource, claims, circumstances, now=plane.clock())


def _end(
    plane: Plane, inventory: Inventory, due: Sequence[Resource], seen: Mapping[str, datetime]
) -> tuple[list[str], int]:
    ended: list[str] = []
    failed = 0
    for resource in due:
        try:
            agent = _agent(plane, resource.agent_id)
            again = look(plane, inventory, resource, agent, seen_since=seen.get(resource.resource_id))
            if again.finding is Finding.ORPHAN:
                inventory.end(resource)
                ended.append(resource.resource_id)
        except Transient:
            # The next sweep ends it; it must not keep this one from the others.
            failed += 1
    return ended, failed


def _report_ended(plane: Plane, number: int, sightings: list[Sighting]) -> None:
    try:
        plane.records.commit(orphans.write_ended(number, sightings, now=plane.clock()))
    except (ConditionFailed, Transient):
        # What was ended is in the log as well.
        return


def _is_taken_back(plane: Plane, inventory: Inventory, resource: Resource) -> bool:
    event_id = event_id_of(resource.resource_id, SignalType.TERMINATION_NOTICE)
    recorded = plane.records.interruption(resource.agent_id, event_id)
    return recorded is not None or inventory.is_taken_back(resource.resource_id)


def _agent(plane: Plane, agent_id: str) -> Agent | None:
    try:
        return plane.records.agent(agent_id)
    except AgentUnknown:
        return None
