"""The cheapest way to serve all the time, for whoever knows the future: dynamic programming over ticks and pools."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backtest.market import Market, Track
from backtest.replay import Figures, Outcome

FINEST_TICK_SECONDS = 40.0
"""A recording that is coarser than a launch is taken apart, or the oracle would have to plan launches too early."""


def foresee(market: Market, figures: Figures) -> Outcome:
    """Find the cheapest sequence of pools, on-demand among them, without a moment unserved.

    It moves only by planned switches, before every interruption: the target boots and takes the state while the old
    instance serves, and both are paid. Between ticks it may not act, which costs it nothing it could gain.

    Args:
        market: Whose future is known.
        figures: Costs and times, booting in the mean.
    """
    tick = market.tick_seconds / math.ceil(market.tick_seconds / FINEST_TICK_SECONDS)
    ticks = int(market.seconds // tick)
    prepare_seconds = figures.mean_boot_seconds + figures.transfer_seconds
    prepare_ticks = max(1, math.ceil(prepare_seconds / tick))
    hours = tick / 3600
    stays, enters, prices = _table(market, tick, ticks, prepare_ticks)
    entering = prices * prepare_seconds / 3600 + figures.transfer_usd
    best = np.where(stays[0], prices[0] * hours, np.inf)
    came_from = np.empty((ticks, prices.shape[1]), dtype=np.int32)
    came_from[0] = np.arange(prices.shape[1])
    own = np.arange(prices.shape[1])
    for number in range(1, ticks):
        cheapest = int(best.argmin())
        staying = np.where(stays[number], best, np.inf)
        moving = np.where(enters[number], best[cheapest] + entering[number], np.inf)
        came_from[number] = np.where(staying <= moving, own, cheapest)
        best = np.minimum(staying, moving) + prices[number] * hours
    return _follow(came_from, best, figures, on_demand=prices.shape[1] - 1, tick=tick)


def _table(
    market: Market, tick: float, ticks: int, prepare_ticks: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Per tick and pool: whether one can be there through the tick, whether one can have come there, and USD/hour."""
    columns = [_column(track, tick, ticks, prepare_ticks) for track in market.tracks]
    on_demand = np.ones(ticks, dtype=bool)
    stays = np.column_stack([*(up for up, _, _ in columns), on_demand])
    enters = np.column_stack([*(ready for _, ready, _ in columns), on_demand])
    always = np.full(ticks, float(market.on_demand_usd_per_hour))
    return stays, enters, np.column_stack([*(prices for *_, prices in columns), always])


def _column(
    track: Track, tick: float, ticks: int, prepare_ticks: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    up, ready = np.zeros(ticks, dtype=bool), np.zeros(ticks, dtype=bool)
    for begin, end in track.up:
        first, last = math.ceil(begin / tick - 1e-9), ticks if math.isinf(end) else min(ticks, int(end / tick + 1e-9))
        up[first:last] = True
        ready[min(first + prepare_ticks, ticks) : last] = True
    moments = np.arange(ticks) * tick
    positions = np.searchsorted(np.asarray(track.price_times), moments, side="right") - 1
    return up, ready, np.asarray([float(price) for price in track.prices])[positions]


def _follow(
    came_from: NDArray[np.int32], best: NDArray[np.float64], figures: Figures, *, on_demand: int, tick: float
) -> Outcome:
    where = int(best.argmin())
    outcome = Outcome(usd=float(best[where]))
    for number in range(len(came_from) - 1, 0, -1):
        outcome.on_demand_seconds += tick * (where == on_demand)
        before = int(came_from[number, where])
        outcome.planned_switches += before != where
        where = before
    outcome.transfer_usd = outcome.planned_switches * figures.transfer_usd
    outcome.outage_seconds = outcome.planned_switches * figures.handover_seconds
    return outcome
