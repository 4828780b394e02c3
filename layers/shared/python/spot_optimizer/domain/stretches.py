"""Who ran for an agent, from when to when, and as what: read off the rows that failovers leave behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spot_optimizer.domain.agents import Agent, Instance, Interruption, Switch
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.savings import FREE_IF_INTERRUPTED_WITHIN, Part, Ran
from spot_optimizer.domain.signals import SignalType


@dataclass(frozen=True, slots=True)
class _Served:
    instance_id: str
    pool_id: str
    since: datetime
    until: datetime


def stretches(
    agent: Agent,
    *,
    switches: Sequence[Switch],
    replicas: Iterable[Replica],
    instances: Mapping[str, Instance],
    interruptions: Iterable[Interruption],
    now: datetime,
) -> tuple[Ran, ...]:
    """Tell for how long each instance of an agent had to be paid for.

    One primary follows the other without a hole, from the first that is told to `now`. A primary that AWS took back
    after it had handed over ran on until then, and a standby from its launch until it was promoted or ended.

    Args:
        agent: Its row.
        switches: Its promotions, from some moment on, in any order.
        replicas: Its replicas.
        instances: By id; what is missing is taken to have begun with its part.
        interruptions: Signals that concerned its instances.
        now: The end of what still runs.
    """
    events = tuple(interruptions)
    noticed = {event.instance_id for event in events if event.signal_type == SignalType.TERMINATION_NOTICE}
    taken = _taken(events)
    bought = {
        replica.instance_id: Lifecycle(replica.lifecycle)
        for replica in replicas
        if replica.instance_id is not None and replica.lifecycle is not None
    }

    def ran(
        instance_id: str, pool_id: str, part: Part, since: datetime, until: datetime, *, begun: datetime | None = None
    ) -> Ran:
        instance = instances.get(instance_id)
        launched_at = None if instance is None else instance.launched_at
        launched_at = launched_at or begun or since
        ended = taken.get(instance_id)
        return Ran(
            instance_id=instance_id,
            pool_id=pool_id,
            lifecycle=bought.get(instance_id, Lifecycle.SPOT),
            part=part,
            since=since,
            until=until,
            # For all of its stretches alike: what decides is when the instance ended, not when it handed over. A death
            # that no notice announced may have been our own doing.
            interrupted=(
                ended is not None and instance_id in noticed and ended - launched_at < FREE_IF_INTERRUPTED_WITHIN
            ),
            launched_at=min(launched_at, since),
        )

    found: list[Ran] = []
    for served in _primaries(agent, switches, taken, now=now):
        found.append(ran(served.instance_id, served.pool_id, Part.PRIMARY, served.since, served.until))
        ended = min(taken.get(served.instance_id, served.until), now)
        if ended > served.until:
            begun = served.since
            found.append(ran(served.instance_id, served.pool_id, Part.STANDBY, served.until, ended, begun=begun))
    for replica in replicas:
        if replica.instance_id is None or replica.pool_id is None:
            continue
        instance = instances.get(replica.instance_id)
        launched_at = None if instance is None else instance.launched_at
        # One that was a primary before was launched long ago.
        since = max(replica.created_at, launched_at or replica.created_at)
        until = min(replica.ended_at or now, now)
        if until > since:
            found.append(ran(replica.instance_id, replica.pool_id, Part.STANDBY, since, until))
    return tuple(found)


def presumed_spot(runs: Iterable[Ran], replicas: Iterable[Replica]) -> tuple[str, ...]:
    """Instances that somebody else than us launched: how they were bought is not known, and taken to be on spot."""
    ours = {replica.instance_id for replica in replicas}
    return tuple(sorted({ran.instance_id for ran in runs} - ours))


def _primaries(
    agent: Agent, switches: Sequence[Switch], taken: Mapping[str, datetime], *, now: datetime
) -> tuple[_Served, ...]:
    ordered = sorted(switches, key=lambda switch: switch.epoch)
    end = now
    if agent.lost:
        end = min(taken.get(agent.primary_instance_id, now), now)
    if not ordered:
        served = [_Served(agent.primary_instance_id, agent.primary_pool_id, agent.registered_at, end)]
    else:
        first = ordered[0]
        served = [_Served(first.from_instance_id, first.from_pool_id, agent.registered_at, first.switched_at)]
        for switch, until in zip(ordered, [*(later.switched_at for later in ordered[1:]), end], strict=True):
            served.append(_Served(switch.to_instance_id, switch.to_pool_id, switch.switched_at, until))
    return tuple(one for one in served if one.until > one.since)


def _taken(interruptions: Iterable[Interruption]) -> dict[str, datetime]:
    """When AWS took instances back: at the time its notice named, else when their death was seen."""
    taken: dict[str, datetime] = {}
    for event in interruptions:
        if event.signal_type == SignalType.TERMINATION_NOTICE and event.termination_time is not None:
            taken[event.instance_id] = event.termination_time
        elif event.signal_type == SignalType.STATE_CHANGE:
            taken.setdefault(event.instance_id, event.detected_at)
    return taken
