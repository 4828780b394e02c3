"""Orphans: what carries our tag on EC2, costs money, and is nobody's.

A launch whose answer was lost, a termination that did not come through, a volume that outlived its instance: each
leaves something that no row leads to. A scheduled sweep compares what EC2 shows with the rows. What nobody claims is
reported at once, ended after a grace, and left alone where a mistake could cost the newest copy of somebody's state. A
sweep that would end more than a few things at once is taken to be wrong, and ends nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer.domain.agents import Agent, Instance, InstanceRole
from spot_optimizer.domain.pauses import FleetControl, Pause
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.snapshots import newest_usable
from spot_optimizer.domain.writes import Change, Equals, Missing, Table, Transaction

CONTROL = "orphans"
"""Key of the row that holds the last sweep's report."""

WORD_TRAVELS = timedelta(seconds=60)
"""By then a primary has heard that a standby is none any more, and ships nothing to it; clocks may differ a little."""

FEWEST_ENDED = 2
MOST_PERCENT_ENDED = 5
REPORTED = 200
"""So many sightings are kept, the oldest first; more would be a fault of its own, and stop the sweep anyway."""


class Kind(enum.StrEnum):
    """What costs money."""

    INSTANCE = "instance"
    VOLUME = "volume"
    ADDRESS = "address"


class Finding(enum.StrEnum):
    """What became of looking."""

    CLAIMED = "claimed"
    """Somebody's."""

    FOREIGN = "foreign"
    """Of an agent that this deployment never had: another one's in the same account. No agent is ever deleted."""

    KEPT = "kept"
    """Nobody's, and still not to be ended: for a while, or not by a machine."""

    ORPHAN = "orphan"
    """Nobody's, and to be ended after the grace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something of EC2's that carries our tag.

    Attributes:
        agent_id: What its tag says.
        replica_id: What its tag says: the replica it was launched for.
    """

    resource_id: str
    kind: Kind
    agent_id: str
    replica_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The rows that may claim a resource.

    Attributes:
        agent: None if there is no such agent.
        replica: The one that the resource's tag names.
        active: The agent's active one.
        instance: Of an instance its own row; of a volume that of the instance it was launched with.
        is_holder_alive: Of a volume: EC2 still has the instance that it was launched with.
    """

    agent: Agent | None
    replica: Replica | None = None
    active: Replica | None = None
    instance: Instance | None = None
    is_holder_alive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What speaks against ending what nobody claims.

    Attributes:
        pause: An operator's word that nothing is to be changed.
        is_taken_back: AWS has given notice of it: by a signal that was recorded, or by EC2's word, as a signal about
            an instance that never joined is not recorded.
        seen_since: Since when it has been seen to be nobody's, without a break; None the first time.
    """

    pause: Pause | None = None
    is_taken_back: bool = False
    seen_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What is thought of a resource, and why."""

    resource: Resource
    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One resource that nobody claims, as the report keeps it from sweep to sweep."""

    resource_id: str
    kind: Kind
    agent_id: str
    finding: Finding
    reason: str
    first_seen_at: datetime

    def as_record(self) -> dict[str, str]:
        """The form that is stored."""
        return {
            "resource_id": self.resource_id,
            "kind": self.kind,
            "agent_id": self.agent_id,
            "finding": self.finding,
            "reason": self.reason,
            "first_seen_at": self.first_seen_at.isoformat(),
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Sighting:
        """From the form that is stored."""
        return cls(
            resource_id=record["resource_id"],
            kind=Kind(record["kind"]),
            agent_id=record["agent_id"],
            finding=Finding(record["finding"]),
            reason=record["reason"],
            first_seen_at=datetime.fromisoformat(record["first_seen_at"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What sweeps found, as a row.

    Attributes:
        number: Of the last sweep; each writes on top of the one it read.
        sightings: What nobody claims, the longest seen first.
        ended: What the last sweep that ended something ended.
        halted_because: Why the last sweep ended nothing although it should have.
    """

    number: int = 0
    swept_at: datetime | None = None
    sightings: tuple[Sighting, ...] = ()
    ended: tuple[Sighting, ...] = ()
    ended_at: datetime | None = None
    halted_because: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep is to do.

    Attributes:
        due: To be looked at once more, and ended.
        sightings: For the report.
        halted_because: Why nothing is due although something would be.
    """

    due: tuple[Resource, ...]
    sightings: tuple[Sighting, ...]
    halted_because: str | None = None


def report_of(control: FleetControl | None) -> Report:
    """Read the row; before the first sweep there is none."""
    if control is None:
        return Report()
    return Report(
        number=control.sweep_number or 0,
        swept_at=control.swept_at,
        sightings=tuple(map(Sighting.of_record, control.sightings or ())),
        ended=tuple(map(Sighting.of_record, control.ended or ())),
        ended_at=control.ended_at,
        halted_because=control.halted_because,
    )


def claim_on(resource: Resource, claims: Claims) -> str | None:
    """Who claims a resource of an agent that exists; None if nobody does."""
    agent = claims.agent
    if agent is None:
        return None
    replica, active = claims.replica, claims.active
    if resource.kind is Kind.ADDRESS:
        in_use = not agent.lost and agent.traffic_target == resource.resource_id
        return f"the traffic of agent {agent.agent_id} goes through it" if in_use else None
    if replica is not None and replica.active and replica.instance_id is None:
        return f"replica {replica.replica_id} is '{replica.status}', and its launch may not be recorded yet"
    if resource.kind is Kind.VOLUME:
        return "its instance lives" if claims.is_holder_alive else None
    if resource.resource_id == agent.primary_instance_id:
        return f"it is the primary of epoch {agent.epoch}"
    for one in (replica, active):
        if one is not None and one.active and one.instance_id == resource.resource_id:
            return f"replica {one.replica_id} is '{one.status}'"
    if claims.instance is not None and claims.instance.role is InstanceRole.RETIRED_PENDING and not agent.lost:
        return "it keeps the state of a former primary, and may be made the primary again"
    return None


def judge(resource: Resource, claims: Claims, circumstances: Circumstances, *, now: datetime) -> Judged:
    """Tell whether a resource is to be ended, and why, or why not."""
    agent = claims.agent
    if agent is None:
        return Judged(resource, Finding.FOREIGN, f"this deployment has no agent {resource.agent_id}")
    claim = claim_on(resource, claims)
    if claim is not None:
        return Judged(resource, Finding.CLAIMED, claim)
    kept = _reason_to_keep(resource, agent, claims, circumstances, now=now)
    if kept is not None:
        return Judged(resource, Finding.KEPT, kept)
    return Judged(resource, Finding.ORPHAN, _why_nobodys(resource, agent, claims))


def _reason_to_keep(
    resource: Resource, agent: Agent, claims: Claims, circumstances: Circumstances, *, now: datetime
) -> str | None:
    if circumstances.pause is not None:
        return circumstances.pause.explanation
    if circumstances.is_taken_back:
        return "AWS has given notice and takes it back"
    if agent.claim_open or agent.handover_open:
        return f"a failover of agent {agent.agent_id} is under way"
    if may_hold_state(resource, claims) and not newer_copy_exists(claims, circumstances, now=now):
        return (
            f"it joined once and may hold the newest copy there is: agent {agent.agent_id} "
            f"{'is lost; end it by hand' if agent.lost else 'has no newer one elsewhere yet'}"
        )
    return None


def may_hold_state(resource: Resource, claims: Claims) -> bool:
    """Whether anything of a workload can be on it: only an instance that joined is ever sent any."""
    return resource.kind is not Kind.ADDRESS and claims.instance is not None


def newer_copy_exists(claims: Claims, circumstances: Circumstances, *, now: datetime) -> bool:
    """Whether a standby, or a snapshot, holds what came after anything that can have reached an orphan.

    That the primary serves would not do: it may have died a moment ago.
    """
    agent, active, since = claims.agent, claims.active, circumstances.seen_since
    if agent is None or agent.lost or since is None:
        return False
    covered = [agent.snapshot_taken_at if newest_usable(agent, now=now) is not None else None]
    if active is not None and active.status is ReplicaState.READY:
        covered.append(active.covered_until)
    return any(until is not None and until >= since + WORD_TRAVELS for until in covered)


def _why_nobodys(resource: Resource, agent: Agent, claims: Claims) -> str:
    if agent.lost:
        return f"agent {agent.agent_id} is lost"
    if resource.kind is Kind.ADDRESS:
        return f"no traffic of agent {agent.agent_id} goes through it"
    replica = claims.replica
    if replica is None:
        return f"agent {agent.agent_id} has no replica {resource.replica_id or 'that its tag would name'}"
    if replica.instance_id not in (None, resource.resource_id) and resource.kind is Kind.INSTANCE:
        return f"replica {replica.replica_id} is on {replica.instance_id}"
    return f"replica {replica.replica_id} is '{replica.status}'"


def plan_sweep(
    judged: Iterable[Judged], report: Report, *, now: datetime, grace: timedelta, volume_grace: timedelta
) -> Plan:
    """Decide what a sweep ends.

    Args:
        judged: Everything that carries our tag, in any order.
        report: Of the sweep before.
        now: When.
        grace: How long something is seen to be nobody's before it is ended.
        volume_grace: The same, of volumes.

    Returns:
        What is due: never more than `most_ended` of the instances that are this deployment's; nothing where there
        would be more.
    """
    seen = {sighting.resource_id: sighting for sighting in report.sightings}
    ours = [one for one in judged if one.finding is not Finding.FOREIGN]
    sightings = tuple(
        sorted(
            (
                _sighted(one, seen.get(one.resource.resource_id), now=now)
                for one in ours
                if one.finding is not Finding.CLAIMED
            ),
            key=lambda sighting: (sighting.first_seen_at, sighting.resource_id),
        )
    )
    ripe = {
        sighting.resource_id
        for sighting in sightings
        if sighting.finding is Finding.ORPHAN
        and now - sighting.first_seen_at >= (volume_grace if sighting.kind is Kind.VOLUME else grace)
    }
    due = tuple(
        sorted(
            (one.resource for one in ours if one.resource.resource_id in ripe),
            key=lambda resource: resource.resource_id,
        )
    )
    most = most_ended(sum(one.resource.kind is Kind.INSTANCE for one in ours))
    if len(due) > most:
        halted = (
            f"{len(due)} orphans are due, and one sweep ends {most} at most: nothing was ended; look at what is "
            f"listed, and end by hand what is nobody's"
        )
        return Plan((), sightings[:REPORTED], halted)
    return Plan(due, sightings[:REPORTED])


def most_ended(instances: int) -> int:
    """How many things one sweep may end, of a fleet of so many instances."""
    return max(FEWEST_ENDED, instances * MOST_PERCENT_ENDED // 100)


def _sighted(judged: Judged, before: Sighting | None, *, now: datetime) -> Sighting:
    # What somebody claimed in between is in no report, and begins anew: the grace is one of uninterrupted orphanhood.
    return Sighting(
        resource_id=judged.resource.resource_id,
        kind=judged.resource.kind,
        agent_id=judged.resource.agent_id,
        finding=judged.finding,
        reason=judged.reason,
        first_seen_at=now if before is None else before.first_seen_at,
    )


def write_report(before: Report, plan: Plan, *, now: datetime) -> Transaction:
    """Keep what a sweep saw, before it ends anything. Of two sweeps at once the second writes nothing, and stops."""
    return Transaction(
        "report orphans",
        (
            Change(
                Table.FLEET_CONTROLS,
                (CONTROL,),
                "one sweep at a time",
                only_if={"sweep_number": Equals(before.number) if before.number else Missing()},
                put={
                    "sweep_number": before.number + 1,
                    "swept_at": now,
                    "sightings": tuple(sighting.as_record() for sighting in plan.sightings),
                    "halted_because": plan.halted_because,
                },
            ),
        ),
    )


def write_ended(number: int, ended: Sequence[Sighting], *, now: datetime) -> Transaction:
    """Keep what a sweep ended."""
    return Transaction(
        "report ended orphans",
        (
            Change(
                Table.FLEET_CONTROLS,
                (CONTROL,),
                "a sweep reports for itself",
                only_if={"sweep_number": Equals(number)},
                put={"ended": tuple(sighting.as_record() for sighting in ended), "ended_at": now},
            ),
        ),
    )
