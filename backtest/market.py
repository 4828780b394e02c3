"""Markets to replay: when which pool had capacity, and what it cost.

Time is seconds since the market's start. A policy may ask for a price at the moment it decides, and may try to launch;
when a pool's capacity ends is for the replay alone to know, and for the oracle.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise

from spot_optimizer.domain.risk import AdvisorBand
from training.recorded import Trace

FOREVER = float("inf")


@dataclass(frozen=True)
class Track:
    """One pool over the time of a market.

    Attributes:
        pool_id: As everywhere.
        up: (from, to) of each stretch with capacity, rising; an instance that is held at its end is interrupted then.
        price_times, prices: Steps, USD/hour; the first is at 0.
        band: The advisor band that was last known when the market begins.
    """

    pool_id: str
    up: Sequence[tuple[float, float]]
    price_times: Sequence[float]
    prices: Sequence[Decimal]
    band: AdvisorBand | None
    _starts: list[float] = field(init=False, repr=False)
    _spent: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [start for start, _ in self.up])
        steps = [
            (end - start) * float(price) / 3600
            for (start, end), price in zip(pairwise(self.price_times), self.prices, strict=False)
        ]
        object.__setattr__(self, "_spent", [0.0, *accumulate(steps)])

    def end_of_capacity(self, at: float) -> float | None:
        """When an instance launched at a moment is interrupted; None if it can not be launched."""
        position = bisect_right(self._starts, at) - 1
        if position < 0 or self.up[position][1] <= at:
            return None
        return self.up[position][1]

    def usd_per_hour(self, at: float) -> Decimal:
        """The price in force."""
        return self.prices[bisect_right(self.price_times, at) - 1]

    def usd(self, start: float, end: float) -> float:
        """What an instance costs over a time: the price integrated."""
        return self._spent_until(end) - self._spent_until(start)

    def _spent_until(self, at: float) -> float:
        step = bisect_right(self.price_times, at) - 1
        return self._spent[step] + (at - self.price_times[step]) * float(self.prices[step]) / 3600


@dataclass(frozen=True)
class Market:
    """Pools that could replace each other, and the on-demand price of what runs there.

    Attributes:
        kind: `preemption`, `availability` or `prices`: what was recorded.
        tick_seconds: How finely.
        start: Of the recording.
        seconds: How long it lasts.
    """

    name: str
    kind: str
    tick_seconds: float
    start: datetime
    seconds: float
    tracks: Sequence[Track]
    on_demand_usd_per_hour: Decimal

    def at(self, seconds: float) -> datetime:
        """As the domain wants it."""
        return self.start + timedelta(seconds=seconds)

    @property
    def on_demand_usd(self) -> float:
        """What the whole time costs on demand."""
        return float(self.on_demand_usd_per_hour) * self.seconds / 3600


Bands = Mapping[tuple[str, str], Sequence[tuple[datetime, AdvisorBand]]]


def markets_of(traces: Iterable[Trace], bands: Bands) -> list[Market]:
    """Group traces that ran side by side and could replace each other.

    A failed launch probe interrupts nobody. In traces of kind availability it is nevertheless taken for the end of what
    is held there, as the papers that published them do: the strictest reading, the same for every policy.
    """
    groups: dict[tuple[str, str, str, str], list[Trace]] = defaultdict(list)
    for trace in traces:
        groups[trace.market].append(trace)
    markets = []
    for (kind, day, region, instance_type), group in sorted(groups.items()):
        start = group[0].start
        seconds = min((trace.end - start).total_seconds() for trace in group)
        markets.append(
            Market(
                name=f"{instance_type} {region} {day}",
                kind=kind,
                tick_seconds=max(trace.gap_seconds for trace in group),
                start=start,
                seconds=seconds,
                tracks=tuple(_track(trace, seconds, bands) for trace in group),
                on_demand_usd_per_hour=group[0].on_demand_usd_per_hour,
            )
        )
    return markets


def _track(trace: Trace, seconds: float, bands: Bands) -> Track:
    up = []
    for held in trace.held():
        begin = (held.since - trace.start).total_seconds()
        # What was still up when the recording stopped is not interrupted within it.
        end = (held.until - trace.start).total_seconds() if held.interrupted and held.until else FOREVER
        if begin < seconds:
            up.append((begin, end))
    changes = trace.price_changes()
    known = [band for published, band in bands.get((trace.region, trace.instance_type), ()) if published <= trace.start]
    return Track(
        pool_id=trace.pool_id,
        up=up,
        price_times=[0.0, *((moment - trace.start).total_seconds() for moment, _ in changes[1:])],
        prices=[usd for _, usd in changes],
        band=known[-1] if known else None,
    )


def with_generated_interruptions(
    pool_id: str,
    changes: Sequence[tuple[datetime, Decimal]],
    *,
    start: datetime,
    seconds: float,
    band: AdvisorBand | None,
    away_seconds: float,
    coin: random.Random,
) -> Track:
    """A pool with recorded prices, interrupted by a coin at the rate of its advisor band.

    Args:
        pool_id: The pool.
        changes: Of its price, by rising time; the first holds before it as well.
        start: Of the market.
        seconds: How long it lasts.
        band: Last known when the market begins; unknown counts as the worst.
        away_seconds: For how long it has no capacity after an interruption.
        coin: Draws the times.
    """
    rate = (AdvisorBand.OVER_20_PERCENT if band is None else band).interruptions_per_hour / 3600
    up, begin = [], 0.0
    while begin < seconds:
        end = begin + coin.expovariate(rate)
        up.append((begin, end))
        begin = end + away_seconds
    times, prices = [0.0], [changes[0][1]]
    for moment, usd in changes:
        at = (moment - start).total_seconds()
        if at <= 0:
            prices[0] = usd
        elif usd != prices[-1]:
            times.append(at)
            prices.append(usd)
    return Track(pool_id=pool_id, up=up, price_times=times, prices=prices, band=band)
