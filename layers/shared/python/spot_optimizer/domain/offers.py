"""What an agent could be offered, and how it stands: the inputs of a decision, made of what the control plane knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain import catalogue, risk
from spot_optimizer.domain.agents import Agent, Heartbeat
from spot_optimizer.domain.catalogue import Candidate
from spot_optimizer.domain.decisions import (
    DecisionRules,
    FailoverCost,
    Offer,
    OfferId,
    Situation,
    StandbyPolicy,
    unprepared_outage_seconds,
)
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.replicas import Replica
from spot_optimizer.domain.risk import AdvisorBand, Held, Risk

HANDOVER_SECONDS = 1.16
"""Gap that a client saw in a handover to a ready standby (`make demo`)."""

BOOT_SECONDS = 25.8
"""From asking for an instance to its agent running; measured on EC2: API 4.8 s, pending 17.8 s, boot 3.2 s."""

NOTICE_SECONDS = 115.0
"""Left of a notice of two minutes when an agent that looks every five seconds has read it."""

ASSUMED_BYTES_PER_SECOND = 100e6
"""Of state on its way to a standby, until the agent has measured it."""

USD_PER_TRANSFERRED_BYTE = Decimal("0.02") / 10**9
"""Between zones, both directions together (https://aws.amazon.com/ec2/pricing/on-demand/#Data_Transfer)."""

_CERTAIN = Decimal(1)


@dataclass(frozen=True, slots=True)
class SeenPrice:
    """A spot price that somebody saw.

    Attributes:
        usd_per_hour: In force then, and since.
        seen_at: When that was last confirmed.
        confidence: 0 to 1, of its source.
    """

    usd_per_hour: Decimal
    seen_at: datetime
    confidence: Decimal = _CERTAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One agent, as it is decided for.

    Attributes:
        agent: Its row.
        situation: How it stands.
        offers: What it can be offered, by rising id; agents of the same zones and types share the tuple.
        launched_at: Since when its primary's instance runs.
        rules: What is decided by.
    """

    agent: Agent
    situation: Situation
    offers: tuple[Offer, ...]
    launched_at: datetime
    rules: DecisionRules


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPast:
    """What a risk model may know of a pool.

    Attributes:
        held: Instances of ours: primaries that run there, and an hour before each interruption, by rising start.
        price_shares: (since when, spot price over on-demand price), by rising time; empty where either is unknown.
        band: The advisor's; None where it is not known.
    """

    pool_id: str
    held: tuple[Held, ...]
    price_shares: tuple[tuple[datetime, float], ...]
    band: AdvisorBand | None


def pool_past(
    pool_id: str,
    *,
    running_since: Iterable[datetime],
    interruptions: Iterable[datetime],
    prices: Iterable[SeenPrice],
    on_demand_usd_per_hour: Decimal | None,
    band: AdvisorBand | None,
) -> PoolPast:
    """Put together what a risk model may know of a pool.

    Args:
        pool_id: The pool.
        running_since: Since when instances of ours run there.
        interruptions: When AWS took instances of ours back; several signals of one event count once.
        prices: What was seen, in any order.
        on_demand_usd_per_hour: Of its type.
        band: Likewise, the advisor's.
    """
    lost = [Held(at - timedelta(hours=1), at, interrupted=True) for at in catalogue.events(interruptions)]
    running = [Held(since, None, interrupted=False) for since in running_since]
    shares = [
        (price.seen_at, float(price.usd_per_hour / on_demand_usd_per_hour))
        for price in prices
        if on_demand_usd_per_hour
    ]
    return PoolPast(
        pool_id=pool_id,
        held=tuple(sorted((*lost, *running), key=lambda held: held.since)),
        price_shares=tuple(sorted(shares)),
        band=band,
    )


def offers(
    candidates: Iterable[Candidate], *, now: datetime, seen: Mapping[str, SeenPrice] | None = None
) -> tuple[Offer, ...]:
    """Everything that an agent can be offered: each of its pools on spot, and on demand where that has a known price.

    A pool in cooldown is no target on spot; on demand it is, because AWS takes nothing back there.

    Args:
        candidates: The agent's catalogue.
        now: When.
        seen: Spot prices by pool id; a candidate without one has its own price, as seen just now.

    Returns:
        By rising offer id, each once.
    """
    found = []
    for candidate in candidates:
        pool_id = candidate.pool.pool_id
        own = None if candidate.usd_per_hour is None else SeenPrice(candidate.usd_per_hour, now)
        price = (seen or {}).get(pool_id, own)
        cooling = "" if candidate.cooling_until is None else candidate.explanation
        found.append(
            Offer(
                offer_id=OfferId(pool_id),
                usd_per_hour=None if price is None else price.usd_per_hour,
                price_seen_at=None if price is None else price.seen_at,
                price_confidence=_CERTAIN if price is None else price.confidence,
                risk=candidate.risk,
                excluded_because=candidate.excluded_because or cooling,
            )
        )
        if candidate.on_demand_usd_per_hour is not None:
            found.append(
                Offer(
                    offer_id=OfferId(pool_id, Lifecycle.ON_DEMAND),
                    usd_per_hour=candidate.on_demand_usd_per_hour,
                    price_seen_at=now,
                    risk=risk.on_demand_risk(now),
                    excluded_because=candidate.excluded_because,
                )
            )
    return tuple(sorted(found, key=lambda offer: offer.offer_id))


def with_current(offered: tuple[Offer, ...], current: OfferId, *, now: datetime) -> tuple[Offer, ...]:
    """The same with the offer at which the workload runs, though it may not be launched there any more."""
    if any(offer.offer_id == current for offer in offered):
        return offered
    on_demand = current.lifecycle is Lifecycle.ON_DEMAND
    here = Offer(
        offer_id=current,
        usd_per_hour=None,
        price_seen_at=None,
        risk=risk.on_demand_risk(now) if on_demand else _unknown_risk(now),
        excluded_because="the agent's subnets and instance types do not lead there any more",
    )
    return tuple(sorted((*offered, here), key=lambda offer: offer.offer_id))


def current_offer(agent: Agent, promoted: Replica | None) -> OfferId:
    """Where the primary runs, and how it was bought.

    Args:
        agent: Its row.
        promoted: The replica that the primary was; None for the first one, which is taken for spot.
    """
    bought = promoted.lifecycle if promoted is not None else None
    return OfferId(agent.primary_pool_id, Lifecycle(bought) if bought else Lifecycle.SPOT)


def situation(
    agent: Agent,
    heartbeat: Heartbeat | None,
    *,
    promoted: Replica | None,
    standby: Replica | None,
    rules: DecisionRules,
) -> Situation:
    """How an agent stands.

    Args:
        agent: Its row.
        heartbeat: The primary's last one; its measured state and rate make the cost of a failover.
        promoted: The replica that the primary was.
        standby: The agent's active replica.
        rules: Whose standby policy decides what a failover costs without a standby.
    """
    return Situation(
        agent_id=agent.agent_id,
        current=current_offer(agent, promoted),
        since=agent.last_failover_at or agent.registered_at,
        failover=failover_cost(
            heartbeat, rules.standby, usd_per_outage_second=Decimal(str(agent.usd_per_outage_second))
        ),
        standby_pool_id=None if standby is None else standby.pool_id or standby.requested_pool_id or "",
    )


def failover_cost(
    heartbeat: Heartbeat | None, policy: StandbyPolicy, *, usd_per_outage_second: Decimal
) -> FailoverCost:
    """What one failover costs: from what the primary measured of its state, what was measured of ours, and what the
    operator says that waiting is worth.
    """
    state_bytes = (heartbeat.state_bytes if heartbeat is not None else None) or 0
    transfer_seconds = _transfer_seconds(heartbeat)
    unprepared_seconds = unprepared_outage_seconds(
        policy,
        handover_seconds=HANDOVER_SECONDS,
        boot_seconds=BOOT_SECONDS,
        transfer_seconds=transfer_seconds,
        notice_seconds=NOTICE_SECONDS,
    )
    return FailoverCost(
        outage_seconds=_seconds(HANDOVER_SECONDS),
        unprepared_outage_seconds=_seconds(unprepared_seconds),
        usd_per_outage_second=usd_per_outage_second,
        overlap_seconds=_seconds(BOOT_SECONDS + transfer_seconds),
        transfer_usd=(state_bytes * USD_PER_TRANSFERRED_BYTE).quantize(Decimal("0.000001")),
    )


def _unknown_risk(now: datetime) -> Risk:
    return risk.assess(None, risk.Exposure(), now=now, no_model_because=risk.NOT_ASKED)


def _seconds(seconds: float) -> Decimal:
    return Decimal(str(round(seconds, 3)))


def launch_and_sync(heartbeat: Heartbeat | None) -> timedelta:
    """How long a new instance takes until it holds the state; for so long two are paid."""
    return timedelta(seconds=BOOT_SECONDS + _transfer_seconds(heartbeat))


def _transfer_seconds(heartbeat: Heartbeat | None) -> float:
    state_bytes = (heartbeat.state_bytes if heartbeat is not None else None) or 0
    measured = heartbeat.state_bytes_per_second if heartbeat is not None else None
    return state_bytes / (measured or ASSUMED_BYTES_PER_SECOND)


def rules_of(agent: Agent) -> DecisionRules:
    """By which rules is decided for an agent: what its operator set."""
    return DecisionRules(
        minimum_saving=Decimal(str(agent.switch_minimum_saving)), dwell=timedelta(seconds=agent.switch_dwell_seconds)
    )
