"""What switches came to: the prices of both places at the switch, and what it saved, by the prices in force since.

Nothing waits for this, and nothing decides by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from spot_optimizer.control.switching import SwitchingPlane
from spot_optimizer.domain import savings
from spot_optimizer.domain.agents import Switch
from spot_optimizer.domain.decisions import OfferId
from spot_optimizer.domain.handover import switch_id_for
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.prices import PriceChange
from spot_optimizer.domain.writes import Change, Missing, Present, Table, Transaction
from spot_optimizer.errors import ConditionFailed, Transient

REALISED_AFTER = timedelta(hours=24)
"""So long a switch is watched, unless the next one ends it before."""

SHORTEST = timedelta(minutes=1)
"""What was left again at once saved nothing that could be told."""

LOOKED_BACK = timedelta(days=8)
"""A switch that could not be looked at for a week, because no price is known, is left as it is."""


class Switches(Protocol):
    """The promotions of all agents."""

    def switches_between(self, since: datetime, until: datetime) -> Iterator[Switch]:
        """Those that happened in a period, the latest first; may lag."""
        ...


def realise(plane: SwitchingPlane, switches: Switches) -> dict[str, int]:
    """Write down what the switches of late came to, each once.

    Returns:
        How many were looked at, how many were written down, and how many will be looked at again.
    """
    now = plane.clock()
    looked = realised = 0
    for switch in switches.switches_between(now - LOOKED_BACK, now):
        if switch.realised_savings is not None:
            continue
        looked += 1
        try:
            realised += _realise(plane, switch, now=now)
        except Transient:
            # One pool's prices must not keep the others' from being looked at.
            continue
    return {"looked_at": looked, "realised": realised, "left": looked - realised}


def _realise(plane: SwitchingPlane, switch: Switch, *, now: datetime) -> bool:
    since, until = switch.switched_at, switch.switched_at + REALISED_AFTER
    following = plane.records.switch(switch.agent_id, switch_id_for(switch.epoch + 1))
    if following is not None:
        until = min(until, following.switched_at)
    is_over = until <= now and until - since >= SHORTEST
    if not is_over and None not in (switch.old_usd_per_hour, switch.new_usd_per_hour):
        return False
    before = plane.records.switch(switch.agent_id, switch_id_for(switch.epoch - 1))
    was_bought = (before.to_lifecycle if before is not None else None) or Lifecycle.SPOT
    old = _steps(plane, OfferId(switch.from_pool_id, Lifecycle(was_bought)), since, until)
    new = _steps(plane, OfferId(switch.to_pool_id, Lifecycle(switch.to_lifecycle or Lifecycle.SPOT)), since, until)
    values = _at_the_switch(switch, old, new) | (_came_to(old, new, since, until) if is_over else {})
    if values:
        change = Change(
            Table.SWITCHES,
            (switch.agent_id, switch.switch_id),
            "a switch is realised once",
            only_if={"switch_id": Present(), "realised_savings": Missing()},
            put=values,
        )
        with suppress(ConditionFailed):
            plane.records.commit(Transaction("realise switch", (change,)))
    return "realised_savings" in values


def _came_to(
    old: Sequence[PriceChange], new: Sequence[PriceChange], since: datetime, until: datetime
) -> dict[str, Any]:
    """What a switch saved; nothing where some price is not known."""
    was, is_now = (savings.average_usd_per_hour(steps, since=since, until=until) for steps in (old, new))
    if was is None or is_now is None:
        return {}
    return {"realised_savings": was - is_now, "realised_seconds": int((until - since) / timedelta(seconds=1))}


def _at_the_switch(switch: Switch, old: Sequence[PriceChange], new: Sequence[PriceChange]) -> dict[str, Any]:
    """The prices that nobody had asked for before: of a failover, or where the pool was yet to be found."""
    prices = {
        "old_usd_per_hour": switch.old_usd_per_hour or savings.price_at(old, switch.switched_at),
        "new_usd_per_hour": switch.new_usd_per_hour or savings.price_at(new, switch.switched_at),
    }
    missing: dict[str, Any] = {
        name: usd for name, usd in prices.items() if usd is not None and getattr(switch, name) is None
    }
    was, is_now = prices.values()
    if missing and was is not None and is_now is not None:
        missing["estimated_savings"] = was - is_now
    return missing


def _steps(plane: SwitchingPlane, offer: OfferId, since: datetime, until: datetime) -> Sequence[PriceChange]:
    if offer.lifecycle is Lifecycle.ON_DEMAND:
        known = plane.prices.known_pools([offer.pool_id]).get(offer.pool_id)
        usd_per_hour: Decimal | None = known.on_demand_usd_per_hour if known is not None else None
        return () if usd_per_hour is None else (PriceChange(since, usd_per_hour),)
    published = plane.price_history.changes([offer.pool_id], since, until).get(offer.pool_id, ())
    return sorted(published, key=lambda change: change.changed_at)
