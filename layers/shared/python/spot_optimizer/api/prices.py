"""Requests and answers of the calls about prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from aws_lambda_powertools.event_handler.openapi.params import Path, Query
from pydantic import Field

from spot_optimizer.api.fields import Answer, Body, Moment, Word
from spot_optimizer.control.pricing import Outcome, RowOutcome
from spot_optimizer.domain.gaps import GapClass
from spot_optimizer.domain.pools_of_interest import PoolOfInterest
from spot_optimizer.domain.price_quality import Quality
from spot_optimizer.domain.price_series import Point
from spot_optimizer.domain.price_submissions import Refusal
from spot_optimizer.domain.prices import BUCKET, Observation, Source, bucket_of, bucket_start
from spot_optimizer.errors import InvalidRequest

ROWS_AT_MOST = 10_000
LONGEST_SERIES = timedelta(days=90)
LONGEST_REPORT = timedelta(days=7)

PoolPath = Annotated[
    str,
    Path(
        max_length=90, pattern=r"^[a-z0-9-]{5,40}\.[a-z0-9-]{2,20}\.[a-z0-9-]{2,20}$", examples=["us-east-1a.m5.large"]
    ),
]
From = Annotated[Moment | None, Query(alias="from", description="ISO 8601 with a zone; a day before `to` without it.")]
To = Annotated[Moment | None, Query(alias="to", description="ISO 8601 with a zone; now without it.")]
ResolutionMinutes = Annotated[
    int, Query(alias="resolution", ge=5, le=1440, description="Minutes; made coarser until the answer is short enough.")
]


class PricingRequest(Body):
    """Prices that an agent saw."""

    submission_id: Word
    rows: Annotated[
        list[Any],
        Field(
            min_length=1,
            max_length=ROWS_AT_MOST,
            description=(
                "Objects with `pool_id`, `observed_at` (ISO 8601 with a zone), `usd_per_hour` (a decimal number, as "
                "number or text), and, if said at all, `currency` USD and `product` Linux/UNIX. Each row is judged for "
                "itself: one that is refused never costs another. The first 1,000 are taken."
            ),
        ),
    ]


class RowAnswer(Answer):
    """What became of one row."""

    row: int
    outcome: Outcome
    refusal: Refusal | None = None
    message: str = ""


class PricingAnswer(Answer):
    """What became of a submission, row by row."""

    submission_id: str
    counts: dict[Outcome, int]
    rows: tuple[RowAnswer, ...]

    @classmethod
    def of(cls, submission_id: str, outcomes: Sequence[RowOutcome]) -> PricingAnswer:
        """From the domain's words."""
        return cls(
            submission_id=submission_id,
            counts={outcome: sum(row.outcome is outcome for row in outcomes) for outcome in Outcome},
            rows=tuple(map(RowAnswer.model_validate, outcomes)),
        )


class LatestPrice(Answer):
    """The latest price that somebody saw."""

    usd_per_hour: Decimal
    observed_at: Moment
    source: Source
    confidence: Decimal


class PoolAnswer(Answer):
    """One pool whose prices are kept."""

    pool_id: str
    availability_zone: str
    instance_type: str
    is_collected: bool
    on_demand_usd_per_hour: Decimal | None
    latest: LatestPrice | None

    @classmethod
    def of(cls, pool: PoolOfInterest, latest: Observation | None) -> PoolAnswer:
        """From the rows."""
        return cls(
            pool_id=pool.pool_id,
            availability_zone=pool.availability_zone,
            instance_type=pool.instance_type,
            is_collected=bool(pool.wanted_by),
            on_demand_usd_per_hour=pool.on_demand_usd_per_hour,
            latest=None
            if latest is None
            else LatestPrice(
                usd_per_hour=latest.usd_per_hour,
                observed_at=latest.observed_at,
                source=latest.source,
                confidence=latest.source.confidence,
            ),
        )


class PoolsAnswer(Answer):
    """A page of pools."""

    pools: tuple[PoolAnswer, ...]
    next_cursor: str | None = None


class PointAnswer(Answer):
    """The price of one bucket."""

    bucket_start: Moment
    usd_per_hour: Decimal
    source: Source
    confidence: Decimal
    is_inferred: bool
    is_causal: Annotated[
        bool, Field(description="Whether it was knowable when the bucket ended; false: never decide by it.")
    ]

    @classmethod
    def of(cls, point: Point) -> PointAnswer:
        """From the domain's words."""
        return cls(
            bucket_start=bucket_start(point.bucket),
            usd_per_hour=point.usd_per_hour,
            source=point.source,
            confidence=point.confidence,
            is_inferred=not point.source.is_measured,
            is_causal=point.causal,
        )


class PricesAnswer(Answer):
    """A pool's prices over time; buckets that nobody knows are left out."""

    pool_id: str
    since: Moment
    until: Moment
    buckets: int
    buckets_priced: int
    points: tuple[PointAnswer, ...]

    @classmethod
    def of(cls, pool_id: str, buckets: range, points: Sequence[Point], priced: int) -> PricesAnswer:
        """From the domain's words."""
        return cls(
            pool_id=pool_id,
            since=bucket_start(buckets.start),
            until=bucket_start(buckets.stop),
            buckets=len(buckets),
            buckets_priced=priced,
            points=tuple(map(PointAnswer.of, points)),
        )


class DisagreementAnswer(Answer):
    """How far sources agree where they overlap."""

    compared: int
    differing: int
    largest_percent: Decimal


class QualityAnswer(Answer):
    """How good a pool's prices are."""

    pool_id: str
    since: Moment
    until: Moment
    buckets: int
    coverage_percent: Annotated[Decimal, Field(description="Measured or backfilled.")]
    measured_percent: Annotated[Decimal, Field(description="Seen by an agent.")]
    backfilled_percent: Annotated[Decimal, Field(description="From AWS's own history.")]
    inferred_percent: Decimal
    shares_percent: dict[Source, Decimal]
    gaps: Annotated[dict[GapClass, int], Field(description="By class, whether filled or not.")]
    disagreement: DisagreementAnswer

    @classmethod
    def of(cls, pool_id: str, buckets: range, found: Quality) -> QualityAnswer:
        """From the domain's words."""
        shares: Mapping[Source, Decimal] = found.shares_percent
        return cls(
            pool_id=pool_id,
            since=bucket_start(buckets.start),
            until=bucket_start(buckets.stop),
            buckets=found.buckets,
            coverage_percent=found.coverage_percent,
            measured_percent=shares[Source.PRIMARY_AGENT] + shares[Source.REPLICA_AGENT],
            backfilled_percent=shares[Source.AWS_HISTORY],
            inferred_percent=sum((share for source, share in shares.items() if not source.is_measured), Decimal(0)),
            shares_percent=dict(shares),
            gaps=dict(found.gaps),
            disagreement=DisagreementAnswer.model_validate(found.disagreement),
        )


class FillRequest(Body):
    """Which gaps to fill; the last day without both."""

    since: Annotated[Moment | None, Field(alias="from")] = None
    until: Annotated[Moment | None, Field(alias="to")] = None


class FillAnswer(Answer):
    """Filling was started."""

    pool_id: str
    since: Moment
    until: Moment
    execution: str
    look: Annotated[str, Field(description="ARN of the execution.")]


def asked_buckets(
    since: datetime | None, until: datetime | None, *, now: datetime, longest: timedelta, only_ended: bool = False
) -> range:
    """The buckets that a caller asks for.

    Args:
        since: Of the first bucket; a day before `until` without it.
        until: Of the last bucket; now without it.
        now: Nothing after it is asked for.
        longest: As long as it may be.
        only_ended: Whether the bucket that is under way is left out.

    Raises:
        InvalidRequest: The range is empty or too long, or lies in the future.
    """
    end = min(until or now, now)
    begin = since or end - timedelta(days=1)
    if begin > end:
        raise InvalidRequest("'from' is later than 'to', or in the future", field="from", expected="a time before 'to'")
    if end - begin > longest:
        raise InvalidRequest(
            f"'from' to 'to' is longer than {longest.days} days", field="from", expected=f"at most {longest.days} days"
        )
    first, last = bucket_of(begin), bucket_of(end)
    if not only_ended and end > bucket_start(last):
        last += 1
    if first >= last:
        raise InvalidRequest(
            f"no bucket of {BUCKET.seconds // 60} minutes that is over lies between 'from' and 'to'",
            field="from",
            expected="a longer range",
        )
    return range(first, last)
