"""Our policies: the product's own decision engine, driven through a recorded market.

Nothing of the engine is repeated here. This only keeps the instances it asks for, and follows the failover protocol:
a notice is answered by a handover to the standby, or to a replacement launched at once; the primary serves until then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from backtest.market import FOREVER
from backtest.replay import ON_DEMAND, Instance, Replay
from spot_optimizer.domain.catalogue import COOLDOWN, LOOKBACK, ONE_EVENT
from spot_optimizer.domain.decisions import (
    Decision,
    DecisionRules,
    FailoverCost,
    Offer,
    OfferId,
    Situation,
    StandbyPolicy,
    Verdict,
    decide,
    unprepared_outage_seconds,
)
from spot_optimizer.domain.pools import Lifecycle, Pool, launch_order
from spot_optimizer.domain.risk import Exposure, Held, assess, on_demand_risk, recent_exposure


@dataclass
class Second:
    """An instance beside the primary, that is to take over or may have to.

    Attributes:
        ready: From then on it holds the state.
        to_switch: Whether it takes over as soon as it is ready.
    """

    instance: Instance
    ready: float
    to_switch: bool


class Optimizer:
    """One agent under the product's care."""

    def __init__(
        self,
        replay: Replay,
        rules: DecisionRules,
        *,
        every_seconds: float,
        retry_seconds: float,
        struck_for: timedelta,
    ) -> None:
        """Start it.

        Args:
            replay: The market, and where costs go.
            rules: As an operator would set them.
            every_seconds: Between scheduled decisions.
            retry_seconds: For how long a pool is left alone that had no capacity.
            struck_for: For how long one that gave notice comes after on-demand.
        """
        self.replay, self.rules = replay, rules
        self.every_seconds, self.retry_seconds = every_seconds, retry_seconds
        self.struck_seconds = struck_for.total_seconds()
        f = replay.figures
        self.prepare_seconds = f.mean_boot_seconds + f.transfer_seconds
        self.failover = FailoverCost(
            outage_seconds=Decimal(str(f.handover_seconds)),
            unprepared_outage_seconds=Decimal(
                str(
                    unprepared_outage_seconds(
                        rules.standby,
                        handover_seconds=f.handover_seconds,
                        boot_seconds=f.mean_boot_seconds,
                        transfer_seconds=f.transfer_seconds,
                        notice_seconds=f.notice_seconds - f.notice_read_after_seconds,
                    )
                )
            ),
            usd_per_outage_second=f.usd_per_outage_second,
            overlap_seconds=Decimal(str(self.prepare_seconds)),
            transfer_usd=Decimal(str(f.transfer_usd)),
        )
        tracks = replay.market.tracks
        self.over = [(replay.market.start, Exposure()) for _ in tracks]
        self.refused_until = [0.0] * len(tracks)
        self.signalled_at: list[list[float]] = [[] for _ in tracks]
        pools = [Pool.parse(track.pool_id) for track in tracks]
        self.zones = {pool.availability_zone: "subnet" for pool in pools}
        self.instance_types = tuple(dict.fromkeys(pool.instance_type for pool in pools))
        self.numbers = {OfferId(track.pool_id): number for number, track in enumerate(tracks)}
        self.second: Second | None = None
        self.primary = self._launch_best(0.0, primary_pool=None)
        self.since = 0.0

    def run(self) -> None:
        """Replay the whole market."""
        end, now, next_decision = self.replay.market.seconds, 0.0, 0.0
        while True:
            notice = max(now, self.replay.notice_at(self.primary))
            second_ends = self.second.instance.interrupted if self.second else FOREVER
            second_switches = self.second.ready if self.second and self.second.to_switch else FOREVER
            now = min(notice, second_ends, second_switches, next_decision)
            if now >= end:
                break
            if now == second_ends:
                self._lose_second()
                next_decision = now
            elif now == notice:
                now = self._fail_over(now)
                next_decision = now
            elif now == second_switches:
                self._switch(now)
                next_decision = now + self.every_seconds
            else:
                self._decide(now)
                next_decision = now + self.every_seconds
        self._end(self.primary, end)
        if self.second is not None:
            self._end(self.second.instance, end, as_standby=not self.second.to_switch)

    def _offer_id(self, pool: int) -> OfferId:
        tracks = self.replay.market.tracks
        if pool == ON_DEMAND:
            return OfferId(tracks[0].pool_id, Lifecycle.ON_DEMAND)
        return OfferId(tracks[pool].pool_id)

    def _offers(self, now: float) -> list[Offer]:
        """What the engine may know now: prices in force, and what this agent itself met."""
        market, moment = self.replay.market, self.replay.market.at(now)
        on_spot = self.primary.pool != ON_DEMAND
        cooling = self._signalled_since(now - COOLDOWN.total_seconds())
        offers = []
        for number, track in enumerate(market.tracks):
            excluded = ""
            if self.refused_until[number] > now:
                excluded = "no capacity when it was last tried"
            elif on_spot and track.pool_id in cooling:
                excluded = "in cooldown"
            offers.append(
                Offer(
                    offer_id=OfferId(track.pool_id),
                    usd_per_hour=track.usd_per_hour(now),
                    price_seen_at=moment,
                    risk=assess(track.band, self._exposure(number, now), now=moment),
                    excluded_because=excluded,
                )
            )
        offers += [
            Offer(
                offer_id=OfferId(track.pool_id, Lifecycle.ON_DEMAND),
                usd_per_hour=market.on_demand_usd_per_hour,
                price_seen_at=moment,
                risk=on_demand_risk(moment),
            )
            for track in market.tracks[:2]
        ]
        return offers

    def _ask(self, now: float) -> Decision:
        market = self.replay.market
        second = self.second
        situation = Situation(
            agent_id="agent",
            current=self._offer_id(self.primary.pool),
            since=market.at(self.since),
            failover=self.failover,
            standby_pool_id=self._offer_id(second.instance.pool).pool_id if second else None,
        )
        return decide(situation, self._offers(now), self.rules, now=market.at(now))

    def _decide(self, now: float) -> None:
        """Ask the engine, and again without the pools that turn out to have no capacity."""
        if self.second is not None and self.second.to_switch:
            return
        while True:
            decision = self._ask(now)
            if decision.standby_pool_id is None and self.second is not None and decision.verdict is Verdict.STAY:
                self._drop_second(now)
            if decision.verdict is Verdict.SWITCH:
                wanted = decision.target
                if self.second is not None and self._offer_id(self.second.instance.pool) == wanted:
                    self.second.to_switch = True
                    self.second.ready = max(self.second.ready, now)
                    return
            elif decision.verdict is Verdict.PREPARE_STANDBY and decision.standby_pool_id is not None:
                wanted = OfferId(decision.standby_pool_id)
                if self.refused_until[self.numbers[wanted]] > now:
                    wanted = OfferId(wanted.pool_id, Lifecycle.ON_DEMAND)
            else:
                return
            to_switch = decision.verdict is Verdict.SWITCH
            if to_switch and self.second is not None:
                self._drop_second(now)
            if self._prepare(self.numbers.get(wanted, ON_DEMAND), now, to_switch=to_switch):
                return

    def _prepare(self, pool: int, now: float, *, to_switch: bool) -> bool:
        instance = self._try(pool, now)
        if instance is None:
            return False
        ready = instance.booted + self.replay.figures.transfer_seconds
        self.second = Second(instance, ready, to_switch)
        self.replay.transfer()
        return True

    def _try(self, pool: int, now: float) -> Instance | None:
        instance = self.replay.launch(pool, now)
        if instance is None:
            self.refused_until[pool] = now + self.retry_seconds
        return instance

    def _launch_best(self, now: float, *, primary_pool: int | None) -> Instance:
        """Launch in the product's own order, until something has capacity; on-demand always has."""
        market = self.replay.market
        order = launch_order(
            self.zones,
            self.instance_types,
            prices={track.pool_id: track.usd_per_hour(now) for track in market.tracks},
            primary_pool_id=market.tracks[primary_pool].pool_id if primary_pool not in (None, ON_DEMAND) else "",
            cooling_pool_ids=self._signalled_since(now - COOLDOWN.total_seconds()),
            interruptions={
                track.pool_id: sum(at > now - LOOKBACK.total_seconds() for at in signals)
                for track, signals in zip(market.tracks, self.signalled_at, strict=True)
            },
            safest_first=True,
            struck_pool_ids=self._signalled_since(now - self.struck_seconds) if self.struck_seconds else (),
        )
        for target in order:
            number = self.numbers.get(OfferId(target.pool.pool_id, target.lifecycle), ON_DEMAND)
            if number == ON_DEMAND and target.lifecycle is Lifecycle.SPOT:
                continue  # no such pool was recorded
            instance = self._try(number, now)
            if instance is not None:
                return instance
        raise AssertionError("on-demand launches are taken to succeed")

    def _signal(self, pool: int, at: float) -> None:
        """Note a signal against a pool; notice and death are one event."""
        signals = self.signalled_at[pool]
        if signals and at - signals[-1] <= ONE_EVENT.total_seconds():
            signals[-1] = max(signals[-1], at)
        else:
            signals.append(at)

    def _signalled_since(self, moment: float) -> set[str]:
        tracks = self.replay.market.tracks
        return {
            track.pool_id
            for track, signals in zip(tracks, self.signalled_at, strict=True)
            if signals and signals[-1] > moment
        }

    def _fail_over(self, noticed: float) -> float:
        """Answer a notice; returns when the new primary serves."""
        f, lost, primary = self.replay.figures, self.replay.outcome, self.primary
        death = primary.interrupted
        self._signal(primary.pool, noticed)
        launches = self.rules.standby is not StandbyPolicy.NEVER
        second = self.second
        if second is None:
            second = self._replace(noticed if launches else death)
        self.second = None
        while True:
            ready = second.ready if second.instance.launched < death else FOREVER
            takes_over = max(noticed + f.handover_after_seconds, ready)
            in_time = takes_over <= death
            if not in_time:
                takes_over = max(death, second.instance.booted) + f.transfer_seconds + f.start_seconds
            if second.instance.interrupted > takes_over:
                break
            self._end(second.instance, second.instance.interrupted, as_standby=True)
            second = self._replace(second.instance.interrupted)
        if in_time:
            self.replay.out(takes_over, takes_over + f.handover_seconds)
        else:
            self.replay.out(death, takes_over)
            lost.lost_state_seconds += f.emergency_loss_seconds
        lost.failovers += 1
        # A primary that has its notice is left to AWS.
        self._end(primary, death)
        self._become_primary(second, takes_over)
        return takes_over

    def _replace(self, at: float) -> Second:
        instance = self._launch_best(at, primary_pool=self.primary.pool if at < self.primary.interrupted else None)
        self.replay.transfer()
        return Second(instance, instance.booted + self.replay.figures.transfer_seconds, to_switch=True)

    def _switch(self, now: float) -> None:
        second = self.second
        assert second is not None  # noqa: S101  # called when it is ready
        self.replay.out(now, now + self.replay.figures.handover_seconds)
        self.replay.outcome.planned_switches += 1
        self._end(self.primary, now)
        self._become_primary(second, now)

    def _become_primary(self, second: Second, now: float) -> None:
        self.primary, self.second, self.since = second.instance, None, now

    def _lose_second(self) -> None:
        second = self.second
        assert second is not None  # noqa: S101  # called when it is interrupted
        self._end(second.instance, second.instance.interrupted, as_standby=True)
        self.second = None

    def _drop_second(self, now: float) -> None:
        second = self.second
        assert second is not None  # noqa: S101  # called when there is one
        self._end(second.instance, now, as_standby=True)
        self.second = None

    def _end(self, instance: Instance, at: float, *, as_standby: bool = False) -> None:
        """Pay an instance that is over, and remember what its pool did."""
        self.replay.pay(instance, at, as_standby=as_standby)
        if instance.pool == ON_DEMAND:
            return
        market, interrupted = self.replay.market, at >= instance.interrupted
        moment = market.at(at)
        since, before = self.over[instance.pool]
        ended = recent_exposure([Held(market.at(instance.launched), moment, interrupted)], now=moment)
        # Of two that end in another order than they are paid, the later carries both on.
        latest = max(moment, since)
        self.over[instance.pool] = (latest, before.aged(latest - since) + ended.aged(latest - moment))
        if interrupted:
            self._signal(instance.pool, at)

    def _exposure(self, pool: int, now: float) -> Exposure:
        """What this agent met in a pool so far: instances that are over, and those that run."""
        market = self.replay.market
        moment = market.at(now)
        since, over = self.over[pool]
        running = [self.primary, *([self.second.instance] if self.second else [])]
        held = [Held(market.at(one.launched), None, False) for one in running if one.pool == pool]
        return over.aged(max(moment - since, timedelta())) + recent_exposure(held, now=moment)


def optimize(
    replay: Replay,
    rules: DecisionRules,
    *,
    every_seconds: float = 300,
    retry_seconds: float = 60,
    struck_for: timedelta = ONE_EVENT,
) -> None:
    """Run one of our policies; what it comes to is in the replay's outcome."""
    Optimizer(replay, rules, every_seconds=every_seconds, retry_seconds=retry_seconds, struck_for=struck_for).run()
