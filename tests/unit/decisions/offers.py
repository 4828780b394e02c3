"""Builders of offers, situations and failover costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain.decisions import FailoverCost, Offer, OfferId, Situation
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.risk import Risk, RiskBasis

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def a_risk(within_1h: str = "0.01", basis: RiskBasis = RiskBasis.ADVISOR_BAND) -> Risk:
    return Risk(Decimal(within_1h), Decimal(within_1h), basis, NOW, "as the test says")


def an_offer(
    pool_id: str,
    usd_per_hour: str | None,
    within_1h: str = "0.01",
    *,
    lifecycle: Lifecycle = Lifecycle.SPOT,
    excluded_because: str = "",
    seen: datetime = NOW,
    basis: RiskBasis = RiskBasis.ADVISOR_BAND,
) -> Offer:
    return Offer(
        offer_id=OfferId(pool_id, lifecycle),
        usd_per_hour=Decimal(usd_per_hour) if usd_per_hour is not None else None,
        price_seen_at=seen if usd_per_hour is not None else None,
        risk=a_risk(within_1h, basis),
        excluded_because=excluded_because,
    )


def a_failover_cost(
    *, unprepared_seconds: str = "1.2", usd_per_second: str = "0.01", overlap: str = "60", transfer: str = "0.04"
) -> FailoverCost:
    return FailoverCost(
        outage_seconds=Decimal("1.2"),
        unprepared_outage_seconds=Decimal(unprepared_seconds),
        usd_per_outage_second=Decimal(usd_per_second),
        overlap_seconds=Decimal(overlap),
        transfer_usd=Decimal(transfer),
    )


def a_situation(
    current: str = "a.m5.large",
    *,
    lifecycle: Lifecycle = Lifecycle.SPOT,
    stayed: timedelta = timedelta(days=1),
    failover: FailoverCost | None = None,
    standby_pool_id: str | None = None,
) -> Situation:
    return Situation(
        agent_id="agt-1",
        current=OfferId(current, lifecycle),
        since=NOW - stayed,
        failover=failover or a_failover_cost(),
        standby_pool_id=standby_pool_id,
    )
