"""Submissions of prices: read row by row, so that one bad row never costs the others.

The rows come from machines that we do not trust and whose clocks may be wrong. Every row gets a verdict; what is
refused is refused with a reason that a metric can count and a sentence that a person can act on.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from spot_optimizer.domain.prices import DECIMALS, HIGHEST_USD_PER_HOUR, Observation, Source, rounded

PRODUCT = "Linux/UNIX"
CURRENCY = "USD"
FIELDS = frozenset({"pool_id", "observed_at", "usd_per_hour", "currency", "product"})


DEAREST_ON_DEMAND_USD_PER_HOUR = Decimal(500)
"""Above what any instance costs on demand: stands in for a price on demand that nobody has looked up yet."""


class Refusal(enum.StrEnum):
    """Why a row does not count; the value is the metric's dimension."""

    MALFORMED = "malformed"
    UNKNOWN_FIELD = "unknown-field"
    UNKNOWN_POOL = "unknown-pool"
    WRONG_CURRENCY = "wrong-currency"
    WRONG_PRODUCT = "wrong-product"
    NOT_A_PRICE = "not-a-price"
    NOT_POSITIVE = "not-positive"
    TOO_PRECISE = "too-precise"
    ABSURD = "absurd"
    NOT_A_TIME = "not-a-time"
    FUTURE = "future"
    ANCIENT = "ancient"
    DUPLICATE = "duplicate"
    CONTRADICTED = "contradicted"
    BEYOND_BATCH = "beyond-batch"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is believable.

    Attributes:
        rows: Of one submission; those after are refused, to be sent again in another one.
        ahead: How far a clock may be ahead of ours.
        oldest: How far back a price is taken: as far as AWS's own history goes.
        times_on_demand: How many times the on-demand price a spot price may be.
    """

    rows: int = 1_000
    ahead: timedelta = timedelta(minutes=2)
    oldest: timedelta = timedelta(days=90)
    times_on_demand: int = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one row.

    Attributes:
        row: Its position in the submission, from 0.
        refusal: Why it does not count; `None` if it does.
        message: What was wrong, what was expected; empty if nothing was.
    """

    row: int
    refusal: Refusal | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Screened:
    """A submission after screening.

    Attributes:
        observations: The rows that count, in the order they came in.
        verdicts: One per row, in order.
    """

    observations: tuple[Observation, ...]
    verdicts: tuple[Verdict, ...]

    def refusals(self) -> dict[Refusal, int]:
        """How many rows were refused for which reason."""
        counts: dict[Refusal, int] = {}
        for verdict in self.verdicts:
            if verdict.refusal is not None:
                counts[verdict.refusal] = counts.get(verdict.refusal, 0) + 1
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is kept of a submission as the audit trail.

    Attributes:
        submitter: Who brought it: `by_agent` or `by_aws`.
        submission_id: Its id; the same submission repeated is the same one.
        source: Who saw the prices.
        submitted_at: When it came.
        observations: The rows that count; at least one.
        refused: How many rows were refused, by reason.
    """

    submitter: str
    submission_id: str
    source: Source
    submitted_at: datetime
    observations: tuple[Observation, ...]
    refused: Mapping[str, int]

    @property
    def observed_until(self) -> datetime:
        """When the latest of its prices was seen."""
        return max(seen.observed_at for seen in self.observations)


def by_agent(agent_id: str) -> str:
    """The submitter that an agent is."""
    return f"agent:{agent_id}"


def by_aws(pool_id: str) -> str:
    """The submitter that AWS's own history of one pool is."""
    return f"aws-history:{pool_id}"


class _Refused(Exception):
    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


def screen(
    rows: Sequence[object],
    *,
    source: Source,
    submission_id: str,
    on_demand: Mapping[str, Decimal],
    now: datetime,
    limits: Limits = Limits(),
) -> Screened:
    """Judge every row of a submission.

    A row that repeats another is refused as a duplicate. Of rows that name different prices for one pool and moment the
    highest counts, whatever their order, and the others are refused as contradicted.

    Args:
        rows: As they were submitted: objects of `FIELDS`; currency and product may be left out.
        source: Who submits; a measured source.
        submission_id: Of the submission.
        on_demand: On-demand USD/hour by id of every known pool.
        now: Our clock.
        limits: What is believable.

    Returns:
        What counts, and a verdict per row.
    """
    verdicts: list[Verdict] = []
    chosen: dict[tuple[str, datetime], tuple[int, Observation]] = {}
    for position, row in enumerate(rows):
        try:
            if position >= limits.rows:
                raise _Refused(
                    Refusal.BEYOND_BATCH,
                    f"a submission holds at most {limits.rows} rows; send this one again in another submission",
                )
            seen = _read(row, source, submission_id, on_demand, now, limits)
        except _Refused as refused:
            verdicts.append(Verdict(position, refused.refusal, str(refused)))
            continue
        verdicts.append(Verdict(position))
        moment = (seen.pool_id, seen.observed_at)
        first, other = chosen.setdefault(moment, (position, seen))
        if first == position:
            continue
        if other.usd_per_hour == seen.usd_per_hour:
            verdicts[position] = Verdict(position, Refusal.DUPLICATE, f"repeats row {first}; leave it out")
        elif other.usd_per_hour > seen.usd_per_hour:
            verdicts[position] = _contradicted(position, seen, first, other)
        else:
            verdicts[first] = _contradicted(first, other, position, seen)
            chosen[moment] = (position, seen)
    kept = sorted(chosen.values(), key=lambda choice: choice[0])
    return Screened(tuple(seen for _, seen in kept), tuple(verdicts))


def _contradicted(row: int, loser: Observation, by: int, winner: Observation) -> Verdict:
    return Verdict(
        row,
        Refusal.CONTRADICTED,
        f"{loser.usd_per_hour} for the same pool and moment as row {by}, which says {winner.usd_per_hour}; "
        "of prices that contradict each other the highest counts",
    )


def _read(
    row: object,
    source: Source,
    submission_id: str,
    on_demand: Mapping[str, Decimal],
    now: datetime,
    limits: Limits,
) -> Observation:
    if not isinstance(row, Mapping):
        raise _Refused(Refusal.MALFORMED, f"a row is an object with {', '.join(sorted(FIELDS))}")
    if unknown := sorted(str(name) for name in row if name not in FIELDS):
        raise _Refused(Refusal.UNKNOWN_FIELD, f"unknown: {', '.join(unknown)}; expected {', '.join(sorted(FIELDS))}")
    pool_id = row.get("pool_id")
    if not isinstance(pool_id, str) or pool_id not in on_demand:
        raise _Refused(Refusal.UNKNOWN_POOL, f"pool_id {_shown(pool_id)} is not a pool of interest")
    if row.get("currency", CURRENCY) != CURRENCY:
        raise _Refused(Refusal.WRONG_CURRENCY, f"currency is {_shown(row['currency'])}; expected {CURRENCY}")
    if row.get("product", PRODUCT) != PRODUCT:
        raise _Refused(Refusal.WRONG_PRODUCT, f"product is {_shown(row['product'])}; expected {PRODUCT}")
    observed_at = _time(row.get("observed_at"), now, limits)
    price = _price(row.get("usd_per_hour"), min(limits.times_on_demand * on_demand[pool_id], HIGHEST_USD_PER_HOUR))
    return Observation(pool_id, observed_at, price, source, submission_id)


def _price(value: Any, highest: Decimal) -> Decimal:
    # A JSON number may arrive as float: its shortest form is what was written. A bool is an int, but no price.
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            raise InvalidOperation
        price = Decimal(str(value))
        if not price.is_finite():
            raise InvalidOperation
    except (InvalidOperation, ValueError):
        raise _Refused(
            Refusal.NOT_A_PRICE, f"usd_per_hour is {_shown(value)}; expected a finite decimal number"
        ) from None
    if price <= 0:
        raise _Refused(Refusal.NOT_POSITIVE, f"usd_per_hour is {_shown(value)}; expected more than 0")
    if price > highest:
        raise _Refused(Refusal.ABSURD, f"usd_per_hour is {_shown(value)}; at most {highest} is believable")
    published = rounded(price)
    if published != price:
        raise _Refused(Refusal.TOO_PRECISE, f"usd_per_hour is {_shown(value)}; expected at most {DECIMALS} decimals")
    return published


def _time(value: object, now: datetime, limits: Limits) -> datetime:
    try:
        moment = (
            value if isinstance(value, datetime) else datetime.fromisoformat(value if isinstance(value, str) else "")
        )
        # Comparing first: near the ends of the calendar a conversion overflows, a comparison does not.
        if moment.tzinfo is None or moment.utcoffset() is None:
            raise ValueError
        is_future, is_ancient = moment > now + limits.ahead, moment < now - limits.oldest
    except (ValueError, OverflowError):
        raise _Refused(Refusal.NOT_A_TIME, f"observed_at is {_shown(value)}; expected ISO 8601 with a zone") from None
    if is_future:
        raise _Refused(Refusal.FUTURE, f"observed_at {_shown(value)} is in the future; check the instance's clock")
    if is_ancient:
        raise _Refused(Refusal.ANCIENT, f"observed_at {_shown(value)} is older than {limits.oldest.days} days")
    return moment.astimezone(UTC)


def _shown(value: object) -> str:
    """A value as it may appear in an answer: never long."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    text = repr(str(value) if isinstance(value, datetime | Decimal) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
