"""Prices come in, gaps are filled, and both are read."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

from spot_optimizer.domain import pools_of_interest, price_series
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.gaps import LONG_BUCKETS, GapClass, Rules, changes_to, fill, find_gaps
from spot_optimizer.domain.pools_of_interest import PoolOfInterest
from spot_optimizer.domain.price_quality import Quality, assess
from spot_optimizer.domain.price_series import Point
from spot_optimizer.domain.price_submissions import (
    DEAREST_ON_DEMAND_USD_PER_HOUR,
    Refusal,
    Submission,
    by_agent,
    by_aws,
    screen,
)
from spot_optimizer.domain.prices import (
    BUCKET,
    Observation,
    PriceChange,
    Source,
    StepFunction,
    backfill,
    bucket_of,
    bucket_start,
    clean,
)
from spot_optimizer.errors import ControlPlaneUnavailable, PoolUnknown, Throttled, Transient
from spot_optimizer.ports import Advisor, Fleet, PriceHistory, PriceList, Prices

COLLECTED_BACK = timedelta(hours=1)
"""How far each collection looks back; so many may fail in a row before anything is left to gap filling."""

TYPES_ASKED_AT_ONCE = 10
"""For so many instance types the price list is asked in a row; the others wait for the next collection."""

FILLED_BACK = timedelta(hours=26)
"""How far each filling looks back."""

SETTLING = timedelta(minutes=10)
"""A bucket that ended so lately is no gap yet: its reports may be under way."""

WINDOW = timedelta(days=7)
"""Of one pool, at most so much is filled in one task."""

WINDOWS_AT_ONCE = 100
"""Of one page of the plan: their answers must fit into what a state machine may carry."""

LONGEST_FILLING = timedelta(days=90)
PEERS_AT_MOST = 8
REPORTERS_AT_MOST = 10
LATE_SUBMISSIONS = timedelta(days=1)
"""How much later than a price the submission that holds it may end and still count as what was said then."""

_AWS_SUBMISSION = "aws-history"


class Outcome(enum.StrEnum):
    """What became of a submitted row."""

    KEPT = "kept"
    NOT_BETTER = "not-better"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


_SAID: Mapping[Outcome, str] = {
    Outcome.KEPT: "",
    Outcome.NOT_BETTER: "the bucket holds as good a price or a better one; by source, then the latest, then the id",
    Outcome.SUPERSEDED: "a later price of the same bucket in this submission counts",
}


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of one row.

    Attributes:
        row: Its position in the submission, from 0.
        outcome: What became of it.
        refusal: Why it was refused, if it was.
        message: What was wrong, what was expected; empty where nothing was.
    """

    row: int
    outcome: Outcome
    refusal: Refusal | None
    message: str


def source_of(agent: Agent, instance_id: str) -> Source:
    """As whom an instance speaks about prices."""
    return Source.PRIMARY_AGENT if instance_id == agent.primary_instance_id else Source.REPLICA_AGENT


def take_submission(
    prices: Prices,
    agent: Agent,
    rows: Sequence[object],
    *,
    instance_id: str,
    submission_id: str,
    now: datetime,
) -> tuple[RowOutcome, ...]:
    """Take an agent's report: screen it, keep it, and let its prices compete.

    Safe to repeat, in any order and at any time: the rows that are left are the same.

    Returns:
        One outcome per row, in order.

    Raises:
        Transient: Some row could not be written; every other one was. Send the same submission again.
    """
    source = source_of(agent, instance_id)
    named = {row["pool_id"] for row in rows if isinstance(row, Mapping) and _is_pool_id(row.get("pool_id"))}
    known = prices.known_pools(sorted(named))
    screened = screen(
        rows,
        source=source,
        submission_id=submission_id,
        on_demand={pool_id: _on_demand(pool) for pool_id, pool in known.items()},
        now=now,
    )
    best = clean(screened.observations)
    not_better: frozenset[Any] = frozenset()
    if screened.observations:
        refused = {refusal.value: count for refusal, count in screened.refusals().items()}
        prices.keep(
            Submission(
                submitter=by_agent(agent.agent_id),
                submission_id=submission_id,
                source=source,
                submitted_at=now,
                observations=screened.observations,
                refused=refused,
            )
        )
        not_better = prices.offer(best.values())
    counted = iter(screened.observations)
    outcomes = []
    for verdict in screened.verdicts:
        if verdict.refusal is not None:
            outcomes.append(RowOutcome(verdict.row, Outcome.REFUSED, verdict.refusal, verdict.message))
            continue
        seen = next(counted)
        if best[seen.slot] is not seen:
            outcome = Outcome.SUPERSEDED
        else:
            outcome = Outcome.NOT_BETTER if seen.slot in not_better else Outcome.KEPT
        outcomes.append(RowOutcome(verdict.row, outcome, None, _SAID[outcome]))
    return tuple(outcomes)


def _is_pool_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100


def _on_demand(pool: PoolOfInterest) -> Decimal:
    return pool.on_demand_usd_per_hour or DEAREST_ON_DEMAND_USD_PER_HOUR


# --- collecting


def collect(prices: Prices, history: PriceHistory, fleet: Fleet, *, now: datetime) -> dict[str, int]:
    """Ask AWS for the last hour of every pool of interest, and let what it says compete.

    Which pools are of interest follows from the agents, each time anew. A price that AWS publishes again unchanged is
    no change. What is there and ranks higher is not offered against.

    Returns:
        How many pools were looked at, how many changes were new, and how many rows were offered.

    Raises:
        Transient: AWS or DynamoDB did not answer; the next collection makes up for it.
    """
    pools = _update_pools(prices, history, fleet)
    since = bucket_start(bucket_of(now - COLLECTED_BACK))
    published = history.changes([pool.pool_id for pool in pools], since, now) if pools else {}
    offered: list[Observation] = []
    noted = []
    for pool in pools:
        step = StepFunction(published.get(pool.pool_id, ()))
        new = _new_changes(pool, step)
        if new:
            _keep_changes(prices, pool.pool_id, new, now)
            noted.append(pools_of_interest.note_change(pool.pool_id, new[-1]))
        offered += _better_than_known(prices, pool.pool_id, step, range(bucket_of(since), bucket_of(now)))
    prices.offer(offered)
    # Last: a change counts as collected only when its row is written.
    prices.note_pools(noted)
    return {"pools": len(pools), "changes": len(noted), "rows": len(offered)}


def _update_pools(prices: Prices, history: PriceHistory, fleet: Fleet) -> list[PoolOfInterest]:
    agents = fleet.agents_with_primary()
    zones = history.zones({subnet_id for agent in agents for subnet_id in agent.subnet_ids})
    wanted = pools_of_interest.wanted(agents, zones)
    known = {pool.pool_id: pool for pool in prices.pools()}
    changes = [
        change
        for pool_id in sorted({*wanted, *known})
        if (change := pools_of_interest.want(pool_id, wanted.get(pool_id, ()), known.get(pool_id))) is not None
    ]
    prices.note_pools(changes)
    newly = prices.known_pools([pool_id for pool_id in wanted if pool_id not in known])
    return [{**known, **newly}[pool_id] for pool_id in wanted if pool_id in known or pool_id in newly]


def _new_changes(pool: PoolOfInterest, step: StepFunction) -> list[PriceChange]:
    if pool.changed_at is None or pool.usd_per_hour is None:
        return list(step.changes)
    known = PriceChange(pool.changed_at, pool.usd_per_hour)
    later = [change for change in step.changes if change.changed_at > known.changed_at]
    # Once more as one history: what AWS merely published again is no change.
    return [change for change in StepFunction([known, *later]).changes if change.changed_at > known.changed_at]


def _better_than_known(prices: Prices, pool_id: str, step: StepFunction, over: range) -> list[Observation]:
    """What AWS says of buckets that are over, and of a change in the one that is not, where that outranks the known."""
    rows = list(backfill(pool_id, step.changes, over, submission_id=_AWS_SUBMISSION))
    rows += [
        Observation(pool_id, change.changed_at, change.usd_per_hour, Source.AWS_HISTORY, _AWS_SUBMISSION)
        for change in step.changes
        if bucket_of(change.changed_at) == over.stop
    ][-1:]
    known = {row.bucket: row for row in prices.measured(pool_id, range(over.start, over.stop + 1))}
    return [row for row in rows if row.bucket not in known or row.outranks(known[row.bucket])]


def _keep_changes(prices: Prices, pool_id: str, changes: Sequence[PriceChange], now: datetime) -> None:
    prices.keep(
        Submission(
            submitter=by_aws(pool_id),
            submission_id=_AWS_SUBMISSION,
            source=Source.AWS_HISTORY,
            submitted_at=now,
            observations=tuple(
                Observation(pool_id, change.changed_at, change.usd_per_hour, Source.AWS_HISTORY, _AWS_SUBMISSION)
                for change in changes
            ),
            refused={},
        )
    )


def ask_on_demand(prices: Prices, price_list: PriceList, *, now: datetime) -> dict[str, int]:
    """Note what the instance types of the pools of interest cost on demand: at once where nobody has asked, then daily.

    Never raises what passes: what could not be asked or noted is due again the next time. When the list does not
    answer for one type, it is not asked for the others, so that this takes a bounded time.

    Returns:
        For how many types the list answered, of how many it knows a price, and whether something failed (0 or 1).
    """
    asked = found = 0
    try:
        due = pools_of_interest.types_to_ask(prices.pools(), now)
        for instance_type, pools in islice(due.items(), TYPES_ASKED_AT_ONCE):
            usd_per_hour = price_list.on_demand_usd_per_hour(instance_type)
            prices.note_pools([pools_of_interest.note_on_demand(pool, usd_per_hour, now) for pool in pools])
            asked += 1
            found += usd_per_hour is not None
    except Transient:
        return {"asked": asked, "found": found, "failed": 1}
    return {"asked": asked, "found": found, "failed": 0}


def ask_bands(prices: Prices, advisor: Advisor, *, now: datetime) -> dict[str, int]:
    """Note how often AWS interrupts the types of the pools of interest: at once where nobody has asked, then daily.

    Never raises what passes: what could not be asked or noted is due again the next time.

    Returns:
        For how many pools the advisor answered, of how many it knows a band, and whether something failed (0 or 1).
    """
    try:
        due = pools_of_interest.bands_due(prices.pools(), now)
        bands = advisor.bands() if due else {}
        prices.note_pools([pools_of_interest.note_band(pool, bands.get(pool.instance_type), now) for pool in due])
    except Transient:
        return {"asked": 0, "found": 0, "failed": 1}
    return {"asked": len(due), "found": sum(pool.instance_type in bands for pool in due), "failed": 0}


# --- filling


@dataclass(frozen=True, slots=True)
class Window:
    """Some buckets of one pool to be filled."""

    pool_id: str
    buckets: range

    def as_payload(self) -> dict[str, Any]:
        """For a state machine."""
        return {"pool_id": self.pool_id, "first_bucket": self.buckets.start, "end_bucket": self.buckets.stop}

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Window:
        """Read `as_payload` back."""
        return cls(str(payload["pool_id"]), range(int(payload["first_bucket"]), int(payload["end_bucket"])))


def plan_filling(
    prices: Prices, *, now: datetime, asked: Mapping[str, Any] | None = None, after: int = 0
) -> dict[str, Any]:
    """Tell which windows of which pools are to be filled.

    Args:
        prices: The tables.
        now: Nothing is filled that ended less than `SETTLING` ago.
        asked: `Window.as_payload` of what an operator asks for; every wanted pool over `FILLED_BACK` without it.
        after: How many windows earlier pages of the plan held.

    Returns:
        `windows`, at most `WINDOWS_AT_ONCE` of them, and `next`: the `after` of the next page, -1 without one.
    """
    settled = bucket_of(now - SETTLING)
    if asked is not None:
        only = Window.of(asked)
        width = WINDOW // BUCKET
        windows = [
            Window(only.pool_id, range(start, min(start + width, only.buckets.stop, settled)))
            for start in range(only.buckets.start, min(only.buckets.stop, settled), width)
        ]
    else:
        buckets = range(bucket_of(now - FILLED_BACK), settled)
        windows = [Window(pool.pool_id, buckets) for pool in prices.pools() if pool.wanted_by]
    page = windows[after : after + WINDOWS_AT_ONCE]
    end = after + len(page)
    return {"windows": [window.as_payload() for window in page], "next": end if end < len(windows) else -1}


def fill_pool(prices: Prices, history: PriceHistory, window: Window, *, now: datetime, rules: Rules) -> dict[str, Any]:
    """Fill the gaps of one pool: by what AWS's own history says, and what is left by inference.

    Idempotent: filling again writes nothing. When AWS does not answer, everything is inferred; the next filling asks
    again and replaces that.

    Returns:
        What was done, in numbers.

    Raises:
        Transient: DynamoDB did not answer.
    """
    pool_id, buckets = window.pool_id, window.buckets
    context = range(buckets.start - LONG_BUCKETS - 1, min(buckets.stop + LONG_BUCKETS + 1, bucket_of(now)))
    measured = clean(prices.measured(pool_id, context))
    known = {row.bucket for row in measured.values()}
    missing = [bucket for bucket in buckets if bucket not in known]
    backfilled: list[Observation] = []
    asked_aws = True
    if missing:
        try:
            published = history.changes([pool_id], bucket_start(missing[0]), bucket_start(missing[-1] + 1))
        except (Throttled, ControlPlaneUnavailable):
            asked_aws = False
        else:
            step = StepFunction(published.get(pool_id, ()))
            backfilled = list(backfill(pool_id, step.changes, missing, submission_id=_AWS_SUBMISSION))
            if backfilled:
                _keep_changes(prices, pool_id, step.changes, now)
                prices.offer(backfilled)
                measured = clean(backfilled, measured)
    series = {row.bucket: row.usd_per_hour for row in measured.values()}
    wanted = fill(pool_id, series, buckets, at=now, peers=_peers(prices, pool_id, series, buckets), rules=rules)
    filling = changes_to(prices.inferred(pool_id, buckets), wanted)
    # What is better replaces what is there; what is no better than that must go first.
    prices.withdraw(filling.obsolete)
    prices.put_inferred(filling.put)
    return {
        "pool_id": pool_id,
        "failed": False,
        "missing": len(missing),
        "backfilled": len(backfilled),
        "inferred": len(filling.put),
        "withdrawn": len(filling.obsolete),
        "aws_answered": asked_aws,
    }


def _peers(prices: Prices, pool_id: str, series: Mapping[int, Decimal], buckets: range) -> list[dict[int, Decimal]]:
    """The same instance type in other zones, around the long gaps; nothing is read where there are none."""
    long = [
        gap
        for gap in find_gaps(series, buckets)
        if gap.gap_class is GapClass.LONG and gap.before is not None and gap.after is not None
    ]
    if not long:
        return []
    around = range(long[0].first - 1, long[-1].buckets.stop)
    instance_type = pool_id.partition(".")[2]
    others = [
        pool.pool_id
        for pool in prices.pools()
        if pool.instance_type == instance_type and pool.pool_id != pool_id and pool.wanted_by
    ]
    return [
        {row.bucket: row.usd_per_hour for row in prices.measured(other, around)} for other in others[:PEERS_AT_MOST]
    ]


def record_filling(
    outcomes: Sequence[Mapping[str, Any]], *, following: int, earlier: Mapping[str, Any] | None
) -> dict[str, int]:
    """Add up what the windows of a page came to.

    Returns:
        The sums over this page and those before, and `next` of the plan.
    """
    before = earlier or {}
    sums = {
        name: int(before.get(name, 0)) + sum(int(outcome.get(name, 0)) for outcome in outcomes)
        for name in ("missing", "backfilled", "inferred", "withdrawn", "failed")
    }
    return {
        **sums,
        "windows": int(before.get("windows", 0)) + len(outcomes),
        "aws_silent": int(before.get("aws_silent", 0))
        + sum(not outcome.get("aws_answered", True) for outcome in outcomes),
        "next": following,
    }


# --- reading


def known_pool(prices: Prices, pool_id: str) -> PoolOfInterest:
    """Raises: PoolUnknown."""
    pool = prices.known_pools([pool_id]).get(pool_id)
    if pool is None:
        raise PoolUnknown(f"no pool '{pool_id}' is of interest; GET /api/pools lists those that are")
    return pool


def series(prices: Prices, pool_id: str, buckets: range, *, buckets_per_window: int) -> tuple[Sequence[Point], int]:
    """A pool's prices for a graph.

    Returns:
        At most `price_series.POINTS_AT_MOST` points with every peak and trough of the resolution, and how many buckets
        have a price.
    """
    points = price_series.merged(prices.measured(pool_id, buckets), prices.inferred(pool_id, buckets))
    return price_series.downsampled(points, buckets_per_window=buckets_per_window), len(points)


def quality(prices: Prices, pool: PoolOfInterest, buckets: range) -> Quality:
    """Assess a pool's prices over buckets that are over.

    What sources said is compared over what is still kept of AWS's history and of `REPORTERS_AT_MOST` agents.
    """
    pool_id = pool.pool_id
    since, until = bucket_start(buckets.start), bucket_start(buckets.stop) + LATE_SUBMISSIONS
    context = range(buckets.start - LONG_BUCKETS - 1, buckets.stop)
    published = [
        PriceChange(seen.observed_at, seen.usd_per_hour)
        for seen in prices.submitted(by_aws(pool_id), pool_id, since - LATE_SUBMISSIONS, until)
    ]
    submitted = list(backfill(pool_id, published, buckets, submission_id=_AWS_SUBMISSION))
    for agent_id in pool.wanted_by[:REPORTERS_AT_MOST]:
        submitted += prices.submitted(by_agent(agent_id), pool_id, since, until)
    return assess(
        buckets,
        measured=prices.measured(pool_id, context),
        inferred=prices.inferred(pool_id, buckets),
        submitted=submitted,
    )
