"""Questions and answers of reports: what agents cost and saved, and how well they were kept going."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from aws_lambda_powertools.event_handler.openapi.params import Query
from pydantic import Field

from spot_optimizer.api.fields import Answer, Moment
from spot_optimizer.control.reporting import AGENT_DAYS_AT_MOST, AGENTS_AT_MOST, Ledger, Report
from spot_optimizer.domain.metrics import SUCCESS_TARGET, UPTIME_TARGET, Failovers, Uptime

From = Annotated[Moment | None, Query(alias="from", description="ISO 8601 with a zone; a week before `to` without it.")]
To = Annotated[Moment | None, Query(alias="to", description="ISO 8601 with a zone; now without it. At most 31 days.")]
FewAgents = Annotated[int, Query(alias="limit", ge=1, le=10, description="How many agents at most.")]

Usd = Annotated[Decimal, Field(description="USD with six decimals, as text.")]
Unknown = Annotated[
    tuple[str, ...], Field(description="What is not known, and what that does to the sums. Nothing is guessed.")
]


class SavingsAnswer(Answer):
    """What one agent cost in a period, against on-demand."""

    agent_id: str
    client_id: str
    name: str
    since: Moment
    until: Moment
    spot_usd: Usd = Field(description="Of primaries on spot: price times time, over each step of the price.")
    standby_usd: Usd = Field(description="Of standbys, and of primaries that had handed over and still ran.")
    on_demand_fallback_usd: Usd = Field(description="Of primaries that had to be bought on demand.")
    paid_usd: Usd = Field(description="All of it. Storage, addresses and traffic are not in here.")
    sized_for: str = Field(description="The instance type it would run on, on demand.")
    on_demand_usd_per_hour: Decimal | None = Field(description="What that costs now.")
    on_demand_usd: Usd | None = Field(description="What the same hours of a primary would have cost on demand.")
    net_saving_usd: Usd | None = Field(description="Negative where standbys and fallbacks cost more than spot saved.")
    net_saving_percent: float | None
    unpriced_seconds: float = Field(description="For so long something ran whose price is not known.")
    presumed_spot: tuple[str, ...] = Field(
        description="Instances that we did not launch, such as the first primary: taken to be on spot."
    )
    unknown: Unknown

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """From the ledger."""
        agent, sums = ledger.agent, ledger.savings
        known = ledger.on_demand_usd_per_hour is not None
        return cls(
            agent_id=agent.agent_id,
            client_id=agent.client_id,
            name=agent.name,
            since=ledger.period.since,
            until=ledger.period.until,
            spot_usd=sums.spot_usd,
            standby_usd=sums.standby_usd,
            on_demand_fallback_usd=sums.on_demand_fallback_usd,
            paid_usd=sums.paid_usd,
            sized_for=ledger.sized_for,
            on_demand_usd_per_hour=ledger.on_demand_usd_per_hour,
            on_demand_usd=sums.counterfactual_usd if known else None,
            net_saving_usd=sums.net_saving_usd if known else None,
            net_saving_percent=None if sums.net_saving is None else round(float(sums.net_saving * 100), 2),
            unpriced_seconds=sums.unpriced.total_seconds(),
            presumed_spot=ledger.presumed_spot,
            unknown=ledger.unknown,
        )


class SavingsPage(Answer):
    """A page of agents' savings, by agent id."""

    savings: tuple[SavingsAnswer, ...]
    next_cursor: str | None = None


class FailoversAnswer(Answer):
    """What became of the failovers that nobody had planned."""

    completed: int
    failed: int = Field(description="Given up, and not made good for by a later attempt.")
    under_way: int
    success_percent: float | None = Field(description="Of those that are over.")
    target_percent: float = Field(description="More than that is promised.")
    rto_p50_seconds: float | None
    rto_p99_seconds: float | None
    with_loss: int = Field(description="How many of the completed may have lost anything at all.")
    lost_seconds: float = Field(description="At most, of all of them.")
    longest_loss_seconds: float
    lost_bytes: int = Field(description="Of those of which it is known.")
    planned: int = Field(description="Handovers that were asked for; in none of the other numbers.")

    @classmethod
    def of(cls, failovers: Failovers) -> Self:
        """From the tally."""
        told = {name: getattr(failovers, name) for name in cls.model_fields if hasattr(failovers, name)}
        success = failovers.success
        return cls(
            **told,
            success_percent=None if success is None else round(100 * success, 3),
            target_percent=100 * SUCCESS_TARGET,
        )


class UptimeAnswer(Answer):
    """Share of seconds in which the health check passed."""

    passed_seconds: float
    expected_seconds: float = Field(description="Since the period's first hour began, or the agent registered.")
    percent: float | None
    target_percent: float

    @classmethod
    def of(cls, uptime: Uptime) -> Self:
        """From the count."""
        return cls(
            passed_seconds=uptime.passed.total_seconds(),
            expected_seconds=uptime.expected.total_seconds(),
            percent=None if uptime.share is None else round(100 * uptime.share, 4),
            target_percent=100 * UPTIME_TARGET,
        )


class SavingTotal(Answer):
    """What all agents saved together."""

    paid_usd: Usd
    on_demand_usd: Usd | None = Field(description="None if of some agent it is not known.")
    net_saving_usd: Usd | None
    net_saving_percent: float | None

    @classmethod
    def of(cls, ledgers: tuple[Ledger, ...]) -> Self:
        """From the agents' ledgers."""
        paid = sum((ledger.savings.paid_usd for ledger in ledgers), Decimal(0))
        otherwise = sum((ledger.savings.counterfactual_usd for ledger in ledgers), Decimal(0))
        known = all(ledger.on_demand_usd_per_hour is not None for ledger in ledgers)
        return cls(
            paid_usd=paid,
            on_demand_usd=otherwise if known else None,
            net_saving_usd=otherwise - paid if known else None,
            net_saving_percent=round(float((otherwise - paid) / otherwise * 100), 2) if known and otherwise else None,
        )


class MetricsAnswer(Answer):
    """How well some agents were kept going in a period."""

    since: Moment
    until: Moment
    agents: int | None = Field(
        description=f"How many; null if more than {AGENTS_AT_MOST}, or than {AGENT_DAYS_AT_MOST} divided by the days."
    )
    failovers: FailoversAnswer
    uptime: UptimeAnswer | None = Field(description="Null for so many agents.")
    saving: SavingTotal | None = Field(description="Null for so many agents.")
    unknown: Unknown

    @classmethod
    def of(cls, report: Report) -> Self:
        """From the report."""
        return cls(
            since=report.period.since,
            until=report.period.until,
            agents=report.agents,
            failovers=FailoversAnswer.of(report.failovers),
            uptime=None if report.uptime is None else UptimeAnswer.of(report.uptime),
            saving=None if report.agents is None else SavingTotal.of(report.ledgers),
            unknown=report.unknown,
        )
