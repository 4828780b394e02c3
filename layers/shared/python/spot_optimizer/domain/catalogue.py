"""The catalogue: every pool in which an agent could run, what it costs there, and why it is no candidate now.

One place says what a candidate is: the order of launches, what an operator is shown, what may be asked for by name, and
where a switch may go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain import risk
from spot_optimizer.domain.pools import Pool
from spot_optimizer.domain.risk import AdvisorBand, Held, Risk
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.errors import InvalidRequest, NoPoolQualifies

COOLDOWN = timedelta(hours=1)
"""A pool that took an instance of ours back, or said that it may, is avoided for so long."""

LOOKBACK = timedelta(days=7)
"""What a pool did before that says nothing about the next hours."""

ONE_EVENT = timedelta(minutes=10)
"""Signals of one pool that are so close together tell of one event: notice and death, or several instances at once.
Over 92 % of a pool's interruptions fall within three minutes of each other (arXiv 2604.16457)."""

INTERRUPTING = (SignalType.TERMINATION_NOTICE, SignalType.REBALANCE_RECOMMENDATION, SignalType.STATE_CHANGE)
"""Signals that speak against a pool. What an operator asks for, or a standby that hears nothing, does not."""

_REGION = re.compile(r"^[a-z]{2}(?:-[a-z]+)+-\d")


@dataclass(frozen=True, slots=True)
class InstanceKind:
    """What an instance type offers.

    Attributes:
        architectures: For example `x86_64`; a machine image runs on one of them.
        memory_mebibytes: As EC2 counts.
    """

    instance_type: str
    architectures: tuple[str, ...]
    vcpus: int
    memory_mebibytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One pool, as an agent sees it.

    Attributes:
        usd_per_hour: The spot price in force; None where none is known.
        on_demand_usd_per_hour: Of the same type; None where none is known.
        risk: Of an interruption, concluded from what the pool did to instances of ours.
        interruptions: How often it took instances of ours back within `LOOKBACK`.
        cooling_until: It is tried after all others until then.
        unfit_because: Why the workload can not run there, on spot or on demand; empty if it can.
        excluded_because: Why it is no candidate now: that, or something that passes; empty if it is one.
    """

    pool: Pool
    usd_per_hour: Decimal | None = None
    on_demand_usd_per_hour: Decimal | None = None
    risk: Risk
    interruptions: int = 0
    cooling_until: datetime | None = None
    unfit_because: str = ""
    excluded_because: str = ""

    @property
    def saving(self) -> Decimal | None:
        """Share of the on-demand price that spot saves."""
        if self.usd_per_hour is None or not self.on_demand_usd_per_hour:
            return None
        return 1 - self.usd_per_hour / self.on_demand_usd_per_hour

    def struck(self, now: datetime) -> bool:
        """Whether what it did last is likely not over yet."""
        return self.cooling_until is not None and self.cooling_until - COOLDOWN > now - ONE_EVENT

    @property
    def explanation(self) -> str:
        """For people: why it is excluded, or tried late; empty if neither."""
        if self.excluded_because:
            return self.excluded_because
        if self.cooling_until is not None:
            return f"in cooldown until {self.cooling_until.isoformat(timespec='seconds')}: it interrupted us lately"
        return "" if self.usd_per_hour is not None else "no price is known"


def region_of(zone: str) -> str:
    """The region of an availability zone, or of a local zone; the zone itself where that is not its form."""
    found = _REGION.match(zone)
    return found.group() if found else zone


def unfit(kind: InstanceKind | None, sized_for: InstanceKind | None) -> str:
    """Why a workload that was sized for one type can not run on another; empty if it can, or if that is not known."""
    if kind is None or sized_for is None or kind == sized_for:
        return ""
    if not set(kind.architectures) & set(sized_for.architectures):
        return f"its architecture is {'/'.join(kind.architectures)}, not {'/'.join(sized_for.architectures)}"
    if kind.vcpus < sized_for.vcpus:
        return f"it has {kind.vcpus} vCPU, fewer than {sized_for.instance_type}'s {sized_for.vcpus}"
    if kind.memory_mebibytes < sized_for.memory_mebibytes:
        return (
            f"it has {kind.memory_mebibytes} MiB of memory, less than {sized_for.instance_type}'s "
            f"{sized_for.memory_mebibytes}"
        )
    return ""


def list_candidates(
    zones: Iterable[str],
    instance_types: Sequence[str],
    *,
    primary_pool_id: str,
    now: datetime,
    excluded_zones: Iterable[str] = (),
    kinds: Mapping[str, InstanceKind] | None = None,
    prices: Mapping[str, Decimal] | None = None,
    on_demand: Mapping[str, Decimal] | None = None,
    interruptions: Mapping[str, Sequence[datetime]] | None = None,
    bands: Mapping[str, AdvisorBand] | None = None,
) -> tuple[Candidate, ...]:
    """Every pool of the agent's zones and types, by pool id, with what is known of it.

    Args:
        zones: Those in which the agent has a subnet.
        instance_types: Its allow list; the workload is sized for the first.
        primary_pool_id: Never a standby's.
        now: When.
        excluded_zones: Zones that an operator ruled out.
        kinds: What each type offers; a type that is not told is not judged.
        prices: USD/hour by pool id.
        on_demand: USD/hour by instance type.
        interruptions: When each pool took instances of ours back; older than `LOOKBACK` is left out.
        bands: How often AWS interrupts instances, by instance type; the worst is assumed of one that is not told.
    """
    ruled_out = frozenset(excluded_zones)
    known = kinds or {}
    sized_for = known.get(instance_types[0]) if instance_types else None

    def candidate(pool: Pool) -> Candidate:
        times = [at for at in (interruptions or {}).get(pool.pool_id, ()) if now - LOOKBACK < at <= now]
        happened = events(times)
        ends = max(times) + COOLDOWN if times else now
        unfit_because = because = unfit(known.get(pool.instance_type), sized_for)
        if pool.pool_id == primary_pool_id:
            because = "the primary runs there, and a standby never shares its pool"
        elif pool.availability_zone in ruled_out:
            because = f"zone {pool.availability_zone} is excluded"
        return Candidate(
            pool=pool,
            usd_per_hour=(prices or {}).get(pool.pool_id),
            on_demand_usd_per_hour=(on_demand or {}).get(pool.instance_type),
            interruptions=len(happened),
            risk=_risk(happened, (bands or {}).get(pool.instance_type), now=now),
            cooling_until=ends if ends > now else None,
            unfit_because=unfit_because,
            excluded_because=because,
        )

    pools = sorted({Pool(zone, kind) for zone in zones for kind in instance_types})
    return tuple(candidate(pool) for pool in pools)


def as_shown(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """As people read them: what qualifies, then what is in cooldown, then what is excluded; each by price."""

    def rank(candidate: Candidate) -> tuple[bool, bool, bool, Decimal, Pool]:
        usd_per_hour = candidate.usd_per_hour
        return (
            bool(candidate.excluded_because),
            candidate.cooling_until is not None,
            usd_per_hour is None,
            usd_per_hour or Decimal(0),
            candidate.pool,
        )

    return tuple(sorted(candidates, key=rank))


def check_wanted(candidates: Sequence[Candidate], *, pool_id: str | None, excluded_zones: Sequence[str] = ()) -> None:
    """Refuse a replica that could never be launched as it is asked for. A cooldown forbids nothing to who insists.

    Raises:
        InvalidRequest: The pool is unknown, of another region, the primary's, or does not fit.
        NoPoolQualifies: Nothing is left.
    """
    by_id = {candidate.pool.pool_id: candidate for candidate in candidates}
    possible = sorted(candidate.pool.pool_id for candidate in candidates if not candidate.excluded_because)
    expected = f"one of {', '.join(possible)}" if possible else "a pool that qualifies, and none does"
    if pool_id is None:
        if not possible:
            why = "; ".join(f"{candidate.pool.pool_id}: {candidate.excluded_because}" for candidate in candidates)
            raise NoPoolQualifies(
                f"no pool is left with exclude_zones {sorted(excluded_zones)}: {why or 'the agent has none'}; exclude "
                f"fewer zones, or allow the agent another zone or instance type"
            )
        return
    wanted = by_id.get(pool_id)
    if wanted is None:
        zone = Pool.parse(pool_id).availability_zone
        regions = {region_of(candidate.pool.availability_zone) for candidate in candidates}
        where = "of another region, which is out of scope" if region_of(zone) not in regions else "none of the agent's"
        raise InvalidRequest(f"pool {pool_id} is {where}; expected {expected}", field="pool_id", expected=expected)
    if wanted.excluded_because:
        raise InvalidRequest(
            f"pool {pool_id} does not qualify: {wanted.excluded_because}; expected {expected}",
            field="pool_id",
            expected=expected,
        )


def events(times: Iterable[datetime]) -> tuple[datetime, ...]:
    """When something happened, each time once."""
    happened: list[datetime] = []
    for at in sorted(times):
        if not happened or at - happened[-1] > ONE_EVENT:
            happened.append(at)
    return tuple(happened)


def _risk(happened: Sequence[datetime], band: AdvisorBand | None, *, now: datetime) -> Risk:
    # Events do not tell since when an instance was held; an hour each keeps the rate on the safe side.
    history = [Held(since=at - timedelta(hours=1), until=at, interrupted=True) for at in happened]
    exposure = risk.recent_exposure(history, now=now)
    return risk.assess(band, exposure, now=now, no_model_because=risk.NOT_ASKED)
