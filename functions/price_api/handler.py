"""Prices: agents report them; operators read them, and have gaps filled."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.api import callers
from spot_optimizer.api.fields import AgentId, Cursor, IdempotencyKey, Limit, cursor_after, read_cursor
from spot_optimizer.api.prices import (
    LONGEST_REPORT,
    LONGEST_SERIES,
    FillAnswer,
    FillRequest,
    From,
    PoolAnswer,
    PoolPath,
    PoolsAnswer,
    PricesAnswer,
    PricingAnswer,
    PricingRequest,
    QualityAnswer,
    ResolutionMinutes,
    To,
    asked_buckets,
)
from spot_optimizer.api.router import Router
from spot_optimizer.control import pricing
from spot_optimizer.control.pricing import LONGEST_FILLING, RowOutcome, Window
from spot_optimizer.domain import tokens
from spot_optimizer.domain.prices import BUCKET, bucket_start
from spot_optimizer.domain.tokens import OperatorRole

api = Router()


@api.post("/api/agents/<agent_id>/pricing", summary="Report prices", tags=["prices"])
def report_prices(agent_id: AgentId, body: PricingRequest) -> PricingAnswer:
    """For the agent. Every row gets an outcome. 503 asks for the same submission again, which is always harmless."""
    instance_id = callers.as_agent(api.caller, agent_id)
    outcomes = pricing.take_submission(
        wiring.prices(),
        wiring.records().agent(agent_id),
        body.rows,
        instance_id=instance_id,
        submission_id=body.submission_id,
        now=wiring.clock(),
    )
    _count(outcomes)
    return PricingAnswer.of(body.submission_id, outcomes)


@api.get("/api/pools", summary="List pools", tags=["prices"])
def list_pools(cursor: Cursor = None, limit: Limit = 50) -> PoolsAnswer:
    """For operators of any role: pools in which an agent runs or may be launched, each with its latest price."""
    tokens.require_role(api.caller, OperatorRole.VIEWER)
    page = wiring.prices().pools_page(after=read_cursor(cursor), limit=limit)
    latest = wiring.prices().latest_of([pool.pool_id for pool in page.values])
    return PoolsAnswer(
        pools=tuple(PoolAnswer.of(pool, latest.get(pool.pool_id)) for pool in page.values),
        next_cursor=cursor_after(page.last),
    )


@api.get("/api/pools/<pool_id>/prices", summary="Look at a pool's prices", tags=["prices"])
def get_prices(
    pool_id: PoolPath, since: From = None, until: To = None, resolution: ResolutionMinutes = 5
) -> PricesAnswer:
    """For operators of any role: at most 2,000 points, thinned so that every peak and trough stays; at most 90 days."""
    tokens.require_role(api.caller, OperatorRole.VIEWER)
    buckets = asked_buckets(since, until, now=wiring.clock(), longest=LONGEST_SERIES)
    pool = pricing.known_pool(wiring.prices(), pool_id)
    points, priced = pricing.series(
        wiring.prices(), pool.pool_id, buckets, buckets_per_window=resolution * 60 // BUCKET.seconds
    )
    return PricesAnswer.of(pool.pool_id, buckets, points, priced)


@api.get("/api/pools/<pool_id>/quality", summary="How good a pool's prices are", tags=["prices"])
def get_quality(pool_id: PoolPath, since: From = None, until: To = None) -> QualityAnswer:
    """For operators of any role: coverage, gaps, shares by source, disagreement of sources; at most 7 days."""
    tokens.require_role(api.caller, OperatorRole.VIEWER)
    buckets = asked_buckets(since, until, now=wiring.clock(), longest=LONGEST_REPORT, only_ended=True)
    pool = pricing.known_pool(wiring.prices(), pool_id)
    return QualityAnswer.of(pool.pool_id, buckets, pricing.quality(wiring.prices(), pool, buckets))


@api.post(
    "/api/pools/<pool_id>/gaps/fill",
    summary="Fill a pool's gaps",
    status_code=HTTPStatus.ACCEPTED,
    tags=["prices"],
)
def fill_gaps(pool_id: PoolPath, body: FillRequest, idempotency_key: IdempotencyKey = None) -> FillAnswer:
    """For operators: from AWS's own history, and what is left by inference; at most 90 days. Repeating is harmless."""
    tokens.require_role(api.caller, OperatorRole.OPERATOR)
    now = wiring.clock()
    buckets = asked_buckets(body.since, body.until, now=now, longest=LONGEST_FILLING, only_ended=True)
    pool = pricing.known_pool(wiring.prices(), pool_id)
    asked = Window(pool.pool_id, buckets).as_payload()
    name = tokens.derived_id("fill-gaps", *map(str, asked.values()), idempotency_key or now.isoformat())
    look = wiring.filling().start(name, {"asked": asked})
    return FillAnswer(
        pool_id=pool.pool_id,
        since=bucket_start(buckets.start),
        until=bucket_start(buckets.stop),
        execution=name,
        look=look,
    )


def _count(outcomes: tuple[RowOutcome, ...]) -> None:
    wiring.count("PriceRowsSubmitted", len(outcomes))
    for refusal in {row.refusal for row in outcomes if row.refusal is not None}:
        wiring.count("PriceRowsRefused", sum(row.refusal is refusal for row in outcomes), reason=refusal.value)


@wiring.logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one call."""
    return api.answer(event, context)
