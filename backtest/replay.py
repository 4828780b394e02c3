"""The machinery that every policy runs on: instances that boot, are interrupted, and are paid for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal

from backtest.market import FOREVER, Market
from spot_optimizer.domain.pools import Lifecycle

ON_DEMAND = -1
"""Instead of the number of a pool."""


@dataclass(frozen=True)
class Figures:
    """What is put into a replay. All that could be measured is measured; the rest is said to be assumed.

    Attributes:
        boot_seconds: Of a cold launch, measured on EC2: API call, pending, boot.
        boot_spread: Standard deviation of the logarithm of each; assumed, only the means were measured.
        handover_seconds: Longest gap that a client saw in a handover, measured by `make demo`, of which
        start_seconds: are the workload's own stop and start.
        handover_after_seconds: From notice to promotion with a ready standby; measured likewise.
        notice_seconds: What AWS gives.
        notice_read_after_seconds: The agent looks every five seconds.
        state_bytes: Of the workload; assumed.
        bytes_per_second: At which state is shipped, uploaded or restored; assumed, one S3 connection gives as much.
        transfer_usd_per_gigabyte: Between zones, both directions together; AWS's list price.
        emergency_loss_seconds: Of state, when no copy could be made ready inside the notice; what is promised.
        snapshot_seconds: Between snapshots of a policy that has no other copy.
        usd_per_outage_second: What the decision engine weighs an outage with; it is not part of any cost reported.
    """

    boot_seconds: tuple[float, float, float] = (4.8, 17.8, 3.2)
    boot_spread: float = 0.25
    handover_seconds: float = 1.16
    start_seconds: float = 0.32
    handover_after_seconds: float = 2.0
    notice_seconds: float = 120.0
    notice_read_after_seconds: float = 5.0
    state_bytes: float = 2.0**30
    bytes_per_second: float = 100e6
    transfer_usd_per_gigabyte: float = 0.02
    emergency_loss_seconds: float = 5.0
    snapshot_seconds: float = 300.0
    usd_per_outage_second: Decimal = Decimal("0.01")

    @property
    def transfer_seconds(self) -> float:
        """Of the whole state, one way."""
        return self.state_bytes / self.bytes_per_second

    @property
    def transfer_usd(self) -> float:
        """Of the whole state, between zones."""
        return self.state_bytes / 1e9 * self.transfer_usd_per_gigabyte

    @property
    def mean_boot_seconds(self) -> float:
        """Of a cold launch."""
        return sum(self.boot_seconds)

    def draw_boot_seconds(self, coin: random.Random) -> float:
        """One cold launch: each part with the measured mean."""
        shift = self.boot_spread**2 / 2
        return sum(mean * coin.lognormvariate(-shift, self.boot_spread) for mean in self.boot_seconds)


@dataclass
class Outcome:
    """What a policy came to on a market.

    Attributes:
        usd: Paid, for all instances and transfers.
        standby_usd: Of that, for standbys while they were no primary.
        failovers: Interruptions of the primary.
        planned_switches: Moves by its own decision.
    """

    usd: float = 0.0
    standby_usd: float = 0.0
    transfer_usd: float = 0.0
    on_demand_seconds: float = 0.0
    outage_seconds: float = 0.0
    failovers: int = 0
    planned_switches: int = 0
    lost_state_seconds: float = 0.0


@dataclass
class Instance:
    """A launched instance.

    Attributes:
        pool: Number of its pool, or `ON_DEMAND`.
        launched: From then on it is paid.
        booted: From then on its agent runs.
        interrupted: When AWS takes it back; only the replay looks ahead to it.
    """

    pool: int
    launched: float
    booted: float
    interrupted: float

    @property
    def lifecycle(self) -> Lifecycle:
        """How it is bought."""
        return Lifecycle.ON_DEMAND if self.pool == ON_DEMAND else Lifecycle.SPOT


@dataclass
class Replay:
    """One policy's run over one market."""

    market: Market
    figures: Figures
    coin: random.Random
    outcome: Outcome = field(default_factory=Outcome)

    def launch(self, pool: int, at: float) -> Instance | None:
        """Launch an instance; None where there is no capacity right now."""
        interrupted = FOREVER if pool == ON_DEMAND else self.market.tracks[pool].end_of_capacity(at)
        if interrupted is None:
            return None
        return Instance(pool, at, at + self.figures.draw_boot_seconds(self.coin), interrupted)

    def notice_at(self, instance: Instance) -> float:
        """When an agent has read its notice."""
        f = self.figures
        published = max(instance.launched, instance.interrupted - f.notice_seconds)
        return min(published + f.notice_read_after_seconds, instance.interrupted)

    def pay(self, instance: Instance, until: float, *, as_standby: bool = False) -> None:
        """Pay an instance from its launch to its end."""
        start, end = min(instance.launched, self.market.seconds), min(until, self.market.seconds)
        if instance.pool == ON_DEMAND:
            usd = float(self.market.on_demand_usd_per_hour) * (end - start) / 3600
            self.outcome.on_demand_seconds += end - start
        else:
            usd = self.market.tracks[instance.pool].usd(start, end)
        self.outcome.usd += usd
        if as_standby:
            self.outcome.standby_usd += usd

    def transfer(self) -> None:
        """Pay for shipping the whole state to another zone once."""
        self.outcome.usd += self.figures.transfer_usd
        self.outcome.transfer_usd += self.figures.transfer_usd

    def out(self, since: float, until: float) -> None:
        """Count an outage; what lies beyond the market's end does not count."""
        end = self.market.seconds
        self.outcome.outage_seconds += max(0.0, min(until, end) - min(since, end))
