"""What a risk model looks at: one row of numbers per pool and moment, from what was known at that moment.

Training and serving build their rows here, so that they can not come to differ. Every feature is causal: cutting the
history at the moment changes nothing, which a property test holds. Time of day and placement scores are not among them:
the recorded traces name no hour of their start, and carry no scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from spot_optimizer.domain.risk import AdvisorBand, Held, interruptions_per_hour, recent_exposure

LONGEST_HOURS = 48.0
"""Ages beyond this are alike: the traces hold few longer ones."""

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class PoolHistory:
    """All that is known of a pool.

    Attributes:
        pool_id: The pool.
        held: Instances that were held there, by rising start.
        price_times: When the price changed, rising, in seconds since 1970.
        price_shares: From then on, spot price over on-demand price; as long as `price_times`.
        bands: When which advisor band was published, by rising time.
    """

    pool_id: str
    held: Sequence[Held]
    price_times: NDArray[np.float64]
    price_shares: NDArray[np.float64]
    bands: Sequence[tuple[datetime, AdvisorBand]]

    def price_share(self, at: datetime) -> float:
        """The price in force, over on-demand; NaN before the first."""
        position = int(np.searchsorted(self.price_times, at.timestamp(), side="right"))
        return float(self.price_shares[position - 1]) if position else float("nan")

    def band(self, at: datetime) -> AdvisorBand:
        """The last one published; the worst before the first."""
        known = [band for published, band in self.bands if published <= at]
        return known[-1] if known else AdvisorBand.OVER_20_PERCENT


def row(pool: PoolHistory, peers: Sequence[PoolHistory], *, launched_at: datetime, now: datetime) -> list[float]:
    """The features of an instance that is held in a pool.

    Args:
        pool: Where it runs.
        peers: The same instance type in other zones of the region.
        launched_at: When it was launched.
        now: Nothing that happened later is looked at.

    Returns:
        As `MODEL_FEATURES` of the domain names them; NaN where nothing is known.
    """
    lost = _interruptions(pool, now)
    peers_lost = [moment for peer in peers for moment in _interruptions(peer, now)]
    band = pool.band(now)
    since_last = (now - max(lost)) / _HOUR if lost else LONGEST_HOURS
    share = pool.price_share(now)
    return [
        min((now - launched_at) / _HOUR, LONGEST_HOURS),
        _within(lost, now, _HOUR),
        _within(lost, now, 6 * _HOUR),
        _within(lost, now, _DAY),
        min(since_last, LONGEST_HOURS),
        interruptions_per_hour(band, recent_exposure(pool.held, now=now)),
        _held_share(pool, now, _DAY),
        _within(peers_lost, now, _HOUR),
        _within(peers_lost, now, 6 * _HOUR),
        share,
        share - pool.price_share(now - _HOUR),
        share - pool.price_share(now - _DAY),
        float(band),
    ]


def _interruptions(pool: PoolHistory, now: datetime) -> list[datetime]:
    return [held.until for held in pool.held if held.interrupted and held.until is not None and held.until <= now]


def _within(moments: Sequence[datetime], now: datetime, span: timedelta) -> float:
    return float(sum(now - moment < span for moment in moments))


def _held_share(pool: PoolHistory, now: datetime, span: timedelta) -> float:
    """The share of the span in which an instance was held, over what is recorded of the span."""
    if not pool.held or pool.held[0].since >= now:
        return float("nan")
    begin = max(now - span, pool.held[0].since)
    spells = ((max(held.since, begin), min(held.until or now, now)) for held in pool.held if held.since < now)
    total = sum((until - since for since, until in spells if until > since), timedelta())
    return total / (now - begin)
