"""What others do: policies that keep one instance and restart it, and SpotHedge.

None of them replicates state. All are given the benefit of the doubt: each notice is used for a last checkpoint, so
that a restart loses nothing when it fits; none of them waits for capacity longer than there is none. A restart then
takes the upload of the checkpoint, a boot where nothing has booted yet, the restore and the workload's start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backtest.market import FOREVER, Market
from backtest.replay import ON_DEMAND, Instance, Replay

CHECK_SECONDS = 300.0
RETRY_SECONDS = 60.0

Order = Callable[[Market, float, "Known"], Sequence[int]]
"""Pools in the order in which they are tried."""


@dataclass
class Known:
    """What a restarting policy has met so far.

    Attributes:
        interruptions: By pool, when it was interrupted there.
    """

    interruptions: list[list[float]]


def cheapest_first(market: Market, now: float, known: Known) -> Sequence[int]:
    """By price alone."""
    del known
    return sorted(range(len(market.tracks)), key=lambda pool: (market.tracks[pool].usd_per_hour(now), pool))


def most_spare_first(market: Market, now: float, known: Known) -> Sequence[int]:
    """A proxy for capacity-optimized allocation, whose true input is AWS's own: the better advisor band, then the fewer
    interruptions met in the last day, then the cheaper.
    """
    tracks = market.tracks

    def rank(pool: int) -> tuple[int, int, float]:
        band = tracks[pool].band
        recent = sum(now - at < 86_400 for at in known.interruptions[pool])
        return (4 if band is None else band, recent, float(tracks[pool].usd_per_hour(now)))

    return sorted(range(len(tracks)), key=rank)


def on_demand(replay: Replay) -> None:
    """Never interrupted."""
    replay.pay(Instance(ON_DEMAND, 0.0, 0.0, FOREVER), replay.market.seconds)


@dataclass
class Restarting:
    """One instance, restarted elsewhere from its checkpoint.

    Attributes:
        order: Which pools are tried.
        chases: Whether it moves whenever another pool is cheaper.
        stays_in_first: Whether it waits for the pool it began in rather than go anywhere else.
        launches_on_notice: Whether the next instance is launched when the notice is there, as with capacity
            rebalancing, or after the interruption.
    """

    order: Order
    chases: bool = False
    stays_in_first: bool = False
    launches_on_notice: bool = False

    def run(self, replay: Replay) -> None:
        """Replay the whole market."""
        market = replay.market
        known = Known([[] for _ in market.tracks])
        home = self.order(market, 0.0, known)[0] if self.stays_in_first else None
        primary, now = self._launch(replay, 0.0, known, home)
        if home is not None:
            replay.out(0.0, now)
        while now < market.seconds:
            check = now + CHECK_SECONDS
            reconsiders = primary.pool == ON_DEMAND or (self.chases and check < replay.notice_at(primary))
            if reconsiders:
                now = check
                if now < market.seconds:
                    primary, now = self._reconsider(replay, primary, now, known)
                continue
            if primary.interrupted >= market.seconds:
                break
            primary, now = self._restart(replay, primary, known, home)
        replay.pay(primary, market.seconds)

    def _reconsider(self, replay: Replay, primary: Instance, now: float, known: Known) -> tuple[Instance, float]:
        """Return from on-demand, or go where it is cheaper; stop, copy, start."""
        market, f = replay.market, replay.figures
        for pool in self.order(market, now, known):
            if primary.pool != ON_DEMAND:
                here, there = market.tracks[primary.pool], market.tracks[pool]
                if not self.chases or there.usd_per_hour(now) >= here.usd_per_hour(now):
                    return primary, now
            target = replay.launch(pool, now)
            if target is None:
                continue
            moved = target.booted + 2 * f.transfer_seconds + f.start_seconds
            if target.interrupted < moved:
                replay.pay(target, target.interrupted)
                return primary, now
            if primary.interrupted < moved:
                replay.pay(target, now)
                return primary, now
            replay.out(target.booted, moved)
            replay.transfer()
            replay.outcome.planned_switches += 1
            replay.pay(primary, target.booted + f.transfer_seconds)
            return target, moved
        return primary, now

    def _restart(self, replay: Replay, primary: Instance, known: Known, home: int | None) -> tuple[Instance, float]:
        f, death = replay.figures, primary.interrupted
        noticed = replay.notice_at(primary)
        replay.pay(primary, death)
        replay.outcome.failovers += 1
        if primary.pool != ON_DEMAND:
            known.interruptions[primary.pool].append(death)
        checkpoint = min(f.transfer_seconds, death - primary.launched)
        if death - noticed < f.transfer_seconds:
            replay.outcome.lost_state_seconds += min(
                replay.coin.uniform(0, f.snapshot_seconds), death - primary.launched
            )
            checkpoint = 0.0
        at = noticed if self.launches_on_notice and home is None else death
        while True:
            target, launched = self._launch(replay, at, known, home, but=primary.pool if at < death else None)
            serving = max(death, target.booted) + f.transfer_seconds + f.start_seconds
            if launched >= replay.market.seconds or target.interrupted > serving:
                break
            replay.pay(target, target.interrupted)
            at = target.interrupted
        replay.out(death - checkpoint, serving)
        replay.transfer()
        return target, serving

    def _launch(
        self, replay: Replay, at: float, known: Known, home: int | None, but: int | None = None
    ) -> tuple[Instance, float]:
        """Launch as soon as possible; returns the instance, and when it was launched."""
        market = replay.market
        if home is not None:
            # A persistent request: fulfilled the moment that there is capacity.
            starts = (max(at, begin) for begin, end in market.tracks[home].up if end > at)
            at = min(starts, default=FOREVER)
            if at >= market.seconds:
                return Instance(home, market.seconds, market.seconds, FOREVER), market.seconds
            instance = replay.launch(home, at)
            assert instance is not None  # noqa: S101  # there is capacity then
            return instance, at
        for pool in self.order(market, at, known):
            instance = replay.launch(pool, at) if pool != but else None
            if instance is not None:
                return instance, at
        instance = replay.launch(ON_DEMAND, at)
        assert instance is not None  # noqa: S101  # on-demand launches are taken to succeed
        return instance, at


class SpotHedge:
    """SpotHedge (SkyServe, arXiv 2411.01438) for one stateful replica.

    As there: zones are available or preemptive; a preemption moves a zone to the preemptive ones, a successful launch
    moves it back, and when fewer than two are available all are again; the next replica goes to the available zone with
    the fewest replicas, then the cheapest. 1 + `extra` spot replicas are wanted, min(1, 1 + extra - ready) on demand.

    Adapted: the paper serves stateless models, where any replica answers. Here one serves; the others are booted but
    hold no state, so taking over means the last checkpoint, a restore and a start, as does going back to spot.
    """

    def __init__(self, replay: Replay, *, extra: int) -> None:
        """Start it.

        Args:
            replay: The market, and where costs go.
            extra: Spot replicas more than needed.
        """
        self.replay, self.extra = replay, extra
        self.available = set(range(len(replay.market.tracks)))
        self.preemptive: set[int] = set()
        self.spot: list[Instance] = []
        self.fallback: Instance | None = None
        self.serving: Instance | None = None
        self.busy_until = 0.0

    def run(self) -> None:
        """Replay the whole market."""
        market, now = self.replay.market, 0.0
        down_since: float | None = None
        first = True
        while now < market.seconds:
            down_since = self._bury(now, down_since)
            self._launch_missing(now)
            ready = sorted((one for one in self.spot if one.booted <= now), key=lambda one: one.launched)
            self._balance_on_demand(now, len(ready))
            if self.serving is None:
                if first:
                    candidates = [*self.spot, *([self.fallback] if self.fallback else [])]
                    self.serving, first = candidates[0], False
                else:
                    down_since = self._take_over(now, ready, down_since)
            elif self.serving is self.fallback and ready and now >= self.busy_until:
                self._move(ready[0], now)
            now = self._next(now)
        if down_since is not None:
            self.replay.out(down_since, market.seconds)
        for one in (*self.spot, *([self.fallback] if self.fallback else [])):
            self.replay.pay(one, market.seconds)

    def _next(self, now: float) -> float:
        missing = len(self.spot) <= self.extra or self.serving is None or self.serving is self.fallback
        moments = [now + RETRY_SECONDS] if missing else [self.replay.market.seconds]
        for one in (*self.spot, *([self.fallback] if self.fallback else [])):
            moments += [moment for moment in (one.booted, one.interrupted) if moment > now]
        if self.busy_until > now:
            moments.append(self.busy_until)
        return min(moments)

    def _bury(self, now: float, down_since: float | None) -> float | None:
        """Take out what was interrupted; a zone that did is preemptive."""
        f = self.replay.figures
        for one in [one for one in self.spot if one.interrupted <= now]:
            self.spot.remove(one)
            self.replay.pay(one, one.interrupted)
            self._mark_preemptive(one.pool)
            if one is self.serving:
                self.serving = None
                self.replay.outcome.failovers += 1
                fits = one.interrupted - self.replay.notice_at(one) >= f.transfer_seconds
                down_since = one.interrupted - (f.transfer_seconds if fits else 0.0)
                if not fits:
                    self.replay.outcome.lost_state_seconds += min(
                        self.replay.coin.uniform(0, f.snapshot_seconds), one.interrupted - one.launched
                    )
        return down_since

    def _mark_preemptive(self, zone: int) -> None:
        self.available.discard(zone)
        self.preemptive.add(zone)
        if len(self.available) < 2:
            self.available |= self.preemptive
            self.preemptive = set()

    def _launch_missing(self, now: float) -> None:
        market = self.replay.market
        tried: set[int] = set()
        while len(self.spot) < 1 + self.extra:
            zones = sorted(
                self.available - tried,
                key=lambda zone: (
                    sum(one.pool == zone for one in self.spot),
                    market.tracks[zone].usd_per_hour(now),
                    zone,
                ),
            )
            if not zones:
                return
            instance = self.replay.launch(zones[0], now)
            tried.add(zones[0])
            if instance is None:
                self._mark_preemptive(zones[0])
                continue
            self.spot.append(instance)
            self.available.add(zones[0])
            self.preemptive.discard(zones[0])

    def _balance_on_demand(self, now: float, ready: int) -> None:
        wanted = min(1, 1 + self.extra - ready)
        if wanted and self.fallback is None:
            self.fallback = self.replay.launch(ON_DEMAND, now)
        elif not wanted and self.fallback is not None and self.serving is not self.fallback and now >= self.busy_until:
            self.replay.pay(self.fallback, now)
            self.fallback = None

    def _take_over(self, now: float, ready: Sequence[Instance], down_since: float | None) -> float | None:
        f = self.replay.figures
        fallback = self.fallback
        booted = [*ready, *([fallback] if fallback is not None and fallback.booted <= now else [])]
        if not booted:
            return down_since
        self.serving = booted[0]
        serves = now + f.transfer_seconds + f.start_seconds
        if self.serving.interrupted <= serves:
            return down_since
        self.busy_until = serves
        self.replay.transfer()
        if down_since is not None:
            self.replay.out(down_since, serves)
        return None

    def _move(self, target: Instance, now: float) -> None:
        f = self.replay.figures
        serves = now + 2 * f.transfer_seconds + f.start_seconds
        if target.interrupted <= serves:
            return
        self.replay.out(now, serves)
        self.replay.transfer()
        self.replay.outcome.planned_switches += 1
        self.serving, self.busy_until = target, serves
