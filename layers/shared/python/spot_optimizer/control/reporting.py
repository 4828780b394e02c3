"""Reports on a period: what agents cost and saved, and how well they were kept going. Reads by key and index only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Protocol

from spot_optimizer.control.reading import at_once
from spot_optimizer.control.selecting import types_told
from spot_optimizer.domain import metrics, savings, stretches, uptime
from spot_optimizer.domain.agents import Agent, Instance, Interruption, Switch
from spot_optimizer.domain.clients import Scope
from spot_optimizer.domain.metrics import Failovers, Uptime
from spot_optimizer.domain.pools import Lifecycle, Pool
from spot_optimizer.domain.prices import bucket_of
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.savings import Ran, Savings, Step
from spot_optimizer.domain.uptime import HourPassed
from spot_optimizer.errors import InvalidRequest
from spot_optimizer.ports import Prices

LONGEST_PERIOD = timedelta(days=31)
AGENT_DAYS_AT_MOST = 25 * LONGEST_PERIOD.days
"""Of so much one answer adds up savings and uptime, which are read anew each time: of few agents over a long period, or
of many over a short one."""

AGENTS_AT_MOST = 200
"""However short the period is."""

EVENTS_AT_MOST = 2_000
"""Of one list; a fleet in which more happens asks for shorter periods."""

_PAGE = 100


class Paged[V](Protocol):
    """One page of a list."""

    @property
    def values(self) -> tuple[V, ...]:
        """What is on it."""
        ...

    @property
    def last(self) -> str | None:
        """Where the next one begins."""
        ...


class Rows(Protocol):
    """An agent's own rows."""

    def agent(self, agent_id: str) -> Agent:
        """Raises: AgentUnknown."""
        ...

    def replicas(self, agent_id: str) -> tuple[Replica, ...]:
        """All replicas an agent ever had."""
        ...


class History(Protocol):
    """What happened, the latest first."""

    def switches_page(
        self,
        scope: Scope,
        *,
        after: str | None,
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Paged[Switch]:
        """One page of promotions."""
        ...

    def interruptions_page(
        self,
        scope: Scope,
        *,
        after: str | None,
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Paged[Interruption]:
        """One page of signals."""
        ...

    def instances_of(self, agent_id: str) -> tuple[Instance, ...]:
        """All instances that an agent ever had."""
        ...


class Fleet(Protocol):
    """Agents across clients."""

    def agents_page(self, *, client_id: str | None, after: str | None, limit: int) -> Paged[Agent]:
        """One page of agents by id."""
        ...


class HoursPassed(Protocol):
    """For how long health checks passed, hour by hour."""

    def between(self, agent_id: str, since: datetime, until: datetime) -> tuple[HourPassed, ...]:
        """What an agent's instances came to in the hours of a period."""
        ...


class ReportingPlane(Protocol):
    """Everything outside that reports need."""

    @property
    def rows(self) -> Rows:
        """Agents' own rows."""
        ...

    @property
    def history(self) -> History:
        """What happened."""
        ...

    @property
    def fleet(self) -> Fleet:
        """Agents."""
        ...

    @property
    def prices(self) -> Prices:
        """The tables of prices."""
        ...

    @property
    def hours_passed(self) -> HoursPassed:
        """Uptime."""
        ...

    def clock(self) -> datetime:
        """The time, with its zone."""
        ...


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time that is reported on.

    Attributes:
        since: Inclusive.
        until: Exclusive; not after now.
    """

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What one agent cost in a period.

    Attributes:
        sized_for: The instance type that it would run on, on demand.
        on_demand_usd_per_hour: What that costs now; None if that is not known, and then no saving is either.
        unknown: For people: what is not known, and what that does to the sums.
        presumed_spot: Instances that we did not launch, so that how they were bought is not known: the first primary.
    """

    agent: Agent
    period: Period
    sized_for: str
    on_demand_usd_per_hour: Decimal | None
    savings: Savings
    unknown: tuple[str, ...]
    presumed_spot: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How well some agents were kept going.

    Attributes:
        agents: How many; None if they are more than `agents_at_most`.
        uptime: None for so many.
        ledgers: One per agent; none for so many.
        unknown: For people: what is left out, and how to get it.
    """

    period: Period
    agents: int | None
    failovers: Failovers
    uptime: Uptime | None
    ledgers: tuple[Ledger, ...]
    unknown: tuple[str, ...]


def period_of(since: datetime | None, until: datetime | None, *, now: datetime) -> Period:
    """Read the period that somebody asks for: up to now if they do not say, and over a week.

    Raises:
        InvalidRequest: It is empty, too long, or yet to come.
    """
    end = min(until or now, now)
    begin = since or end - timedelta(days=7)
    if begin >= end:
        raise InvalidRequest(
            f"the period from {begin.isoformat()} to {end.isoformat()} is empty; expected a time before its end and "
            "before now",
            field="from",
            expected="a time before `to`, and before now",
        )
    if end - begin > LONGEST_PERIOD:
        raise InvalidRequest(
            f"the period has {(end - begin) / timedelta(days=1):.1f} days; expected at most {LONGEST_PERIOD.days}",
            field="from",
            expected=f"at most {LONGEST_PERIOD.days} days before `to`",
        )
    return Period(begin, end)


def agents_at_most(period: Period) -> int:
    """Of how many agents one answer adds up this period."""
    return min(AGENTS_AT_MOST, int(timedelta(days=AGENT_DAYS_AT_MOST) / (period.until - period.since)))


def ledgers(plane: ReportingPlane, agents: Sequence[Agent], period: Period) -> tuple[Ledger, ...]:
    """What each of some agents cost. Prices that several of them need are read once.

    Raises:
        InvalidRequest: Too much happened in the period.
        Transient: Something could not be read; ask again.
    """
    runs = at_once(lambda agent: _runs(plane, agent, period), agents)
    steps = _steps(plane.prices, [ran for found, _ in runs for ran in found], period)
    on_demand = cache(lambda zones, types: types_told(plane.prices, zones, types).on_demand)
    return tuple(_ledger(agent, period, *found, steps, on_demand) for agent, found in zip(agents, runs, strict=True))


def agents_asked(
    plane: ReportingPlane, scope: Scope, *, after: str | None, limit: int
) -> tuple[tuple[Agent, ...], str | None]:
    """One page of the agents of a scope, by id, and where the next one begins."""
    if scope.agent_id is not None:
        return (plane.rows.agent(scope.agent_id),), None
    page = plane.fleet.agents_page(client_id=scope.client_id, after=after, limit=limit)
    return page.values, page.last


def report(plane: ReportingPlane, scope: Scope, period: Period) -> Report:
    """How well the agents of a scope were kept going.

    Raises:
        InvalidRequest: Too much happened in the period.
        Transient: Something could not be read; ask again.
    """
    events = _all(
        lambda after: plane.history.interruptions_page(
            scope, after=after, limit=_PAGE, since=period.since, until=period.until
        )
    )
    failovers = metrics.tally(events)
    most = agents_at_most(period)
    agents, _ = agents_asked(plane, scope, after=None, limit=most + 1)
    if len(agents) > most:
        note = (
            f"more than {most} agents: their uptime and saving over so long are not added up in one answer; ask for a "
            "shorter period, one client or one agent, or add up the pages of GET /api/savings"
        )
        return Report(period=period, agents=None, failovers=failovers, uptime=None, ledgers=(), unknown=(note,))
    found = ledgers(plane, agents, period)
    return Report(
        period=period,
        agents=len(agents),
        failovers=failovers,
        uptime=_uptime(plane, agents, period),
        ledgers=found,
        unknown=tuple(f"{ledger.agent.agent_id}: {what}" for ledger in found for what in ledger.unknown),
    )


def _runs(plane: ReportingPlane, agent: Agent, period: Period) -> tuple[tuple[Ran, ...], tuple[Replica, ...]]:
    scope = Scope(agent_id=agent.agent_id, client_id=agent.client_id)
    switches = []
    # The one before the period tells who was primary when it began.
    for switch in _all(lambda after: plane.history.switches_page(scope, after=after, limit=_PAGE)):
        switches.append(switch)
        if switch.switched_at < period.since:
            break
    # A notice can be up to ten minutes older than the end that it names.
    events = tuple(
        _all(
            lambda after: plane.history.interruptions_page(
                scope, after=after, limit=_PAGE, since=period.since - timedelta(minutes=10)
            )
        )
    )
    replicas = plane.rows.replicas(agent.agent_id)
    found = stretches.stretches(
        agent,
        switches=switches,
        replicas=replicas,
        instances={instance.instance_id: instance for instance in plane.history.instances_of(agent.agent_id)},
        interruptions=events,
        now=plane.clock(),
    )
    return tuple(ran for ran in found if ran.since < period.until and ran.until > period.since), replicas


def _steps(prices: Prices, runs: Sequence[Ran], period: Period) -> Mapping[str, Sequence[Step]]:
    """The spot prices of all pools in which anything ran, over the time in which it did."""
    wanted: dict[str, tuple[datetime, datetime]] = {}
    for ran in runs:
        if ran.lifecycle is Lifecycle.SPOT:
            since, until = max(ran.since, period.since), min(ran.until, period.until)
            known = wanted.get(ran.pool_id, (since, until))
            wanted[ran.pool_id] = (min(known[0], since), max(known[1], until))

    def seen(pool_id: str) -> tuple[Step, ...]:
        since, until = wanted[pool_id]
        buckets = range(bucket_of(since - savings.CARRIED_FOR), bucket_of(until) + 1)
        return savings.steps_seen(prices.measured(pool_id, buckets), until=until)

    return dict(zip(wanted, at_once(seen, tuple(wanted)), strict=True))


def _ledger(
    agent: Agent,
    period: Period,
    runs: Sequence[Ran],
    replicas: Sequence[Replica],
    steps: Mapping[str, Sequence[Step]],
    on_demand: Callable[[tuple[str, ...], tuple[str, ...]], Mapping[str, Decimal]],
) -> Ledger:
    sized_for = agent.instance_types[0]
    bought = {Pool.parse(ran.pool_id) for ran in runs if ran.lifecycle is Lifecycle.ON_DEMAND}
    zones = {Pool.parse(ran.pool_id).availability_zone for ran in runs}
    types = {sized_for, *(pool.instance_type for pool in bought)}
    known = on_demand(tuple(sorted(zones)), tuple(sorted(types)))
    came_to = savings.save(
        runs, since=period.since, until=period.until, prices=steps, on_demand=known, sized_for=sized_for
    )
    return Ledger(
        agent=agent,
        period=period,
        sized_for=sized_for,
        on_demand_usd_per_hour=known.get(sized_for),
        savings=came_to,
        unknown=tuple(_unknown(came_to, runs, known, sized_for)),
        presumed_spot=stretches.presumed_spot(runs, replicas),
    )


def _unknown(came_to: Savings, runs: Sequence[Ran], known: Mapping[str, Decimal], sized_for: str) -> Iterator[str]:
    if runs and sized_for not in known:
        yield f"what {sized_for} costs on demand is not known (yet), so no saving can be told"
    if came_to.unpriced:
        hours = came_to.unpriced / timedelta(hours=1)
        yield f"for {hours:.2f} instance hours no price is known; they are in no sum, on neither side"


def _uptime(plane: ReportingPlane, agents: Sequence[Agent], period: Period) -> Uptime:
    passed = expected = timedelta(0)
    since = uptime.hour_of(period.since)
    until = uptime.hour_of(period.until - timedelta(microseconds=1)) + uptime.HOUR
    counted = at_once(lambda agent: plane.hours_passed.between(agent.agent_id, since, until), agents)
    for agent, hours in zip(agents, counted, strict=True):
        passed += uptime.passed_of(hours, since=since, until=until)
        expected += uptime.expected(hours, since=max(since, agent.registered_at), until=min(until, plane.clock()))
    return Uptime(passed, expected)


def _all[V](page_after: Callable[[str | None], Paged[V]]) -> Iterator[V]:
    """A list to its end, which comes soon enough.

    Raises:
        InvalidRequest: It does not.
    """
    count, after = 0, None
    while True:
        page = page_after(after)
        yield from page.values
        count, after = count + len(page.values), page.last
        if after is None:
            return
        if count >= EVENTS_AT_MOST:
            raise InvalidRequest(
                f"more than {EVENTS_AT_MOST} switches or signals lie in the period; ask for a shorter or a later one",
                field="from",
                expected="a later time",
            )
