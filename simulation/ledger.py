"""The clients' side: what was acknowledged to whom and when, and whether it is still there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.kernel import Violation
from spot_optimizer.domain.agents import Switch
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.primary import LAG_GRACE_SECONDS

if TYPE_CHECKING:
    from simulation.kernel import Kernel
    from simulation.machine import Machine
    from simulation.world import World

EVERY_SECONDS = 0.05
PROMISED_INTERVALS = 2


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One write that a client was told of.

    Attributes:
        number: Which write.
        at: When it was acknowledged; it was asked for at the same moment, so acknowledgements are in real-time order.
        place: How many writes the ledger held after it, as the answer said.
    """

    number: int
    at: float
    instance_id: str
    epoch: int
    place: int


class Ledger:
    """Clients that write to whoever serves: through the traffic path, and straight to anybody who believes he may.

    Attributes:
        acknowledged: Everything that was acknowledged and is not given up as lost, by number.
        lost: What a promotion lost, within what is promised.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.acknowledged: dict[int, Acknowledged] = {}
        self.lost: list[Acknowledged] = []
        self.writes = 0
        self.last_served_at: dict[str, float] = {}
        self._written_at = float("-inf")

    def write(self, kernel: Kernel, serving: list[Machine]) -> None:
        """Write to everybody who serves, if the last write is a moment ago."""
        now = kernel.now
        if now - self._written_at < EVERY_SECONDS:
            return
        self._written_at = now
        for machine in serving:
            if machine.workload.is_held:
                self._world.reach("held")
                continue
            log = machine.disk.log
            if log is None:
                raise Violation("no empty state", f"{machine.instance_id} serves and has no state")
            self.writes += 1
            log.append(self.writes)
            self.acknowledged[self.writes] = Acknowledged(
                self.writes, now, machine.instance_id, machine.workload.epoch, len(log)
            )
            self.last_served_at[machine.instance_id] = now

    def check_restored(self, machine: Machine) -> None:
        """A promoted standby has made its generation the live state: what was acknowledged must be in it.

        Raises:
            Violation: More is missing than was promised.
        """
        world = self._world
        log = machine.disk.log or []
        held = set(log)
        missing = [write for number, write in self.acknowledged.items() if number not in held]
        agent = world.tables.agent(world.agent_id)
        switch = world.tables.switch(world.agent_id, f"{agent.epoch:010d}")
        if switch is None or switch.to_instance_id != machine.instance_id:
            return
        if missing:
            self._judge_by_snapshot(missing, agent.handover_snapshot_id, switch.basis)
            self._judge(missing, switch)
            for write in missing:
                del self.acknowledged[write.number]
            self.lost += missing
        self.check_history(log)

    def note_fall_back(self, machine: Machine) -> None:
        """A former primary goes on with what it has; what came after it is lost, and recorded.

        Raises:
            Violation: Another living copy is newer.
        """
        world = self._world
        mine = world.newest_held(machine)
        for other in world.ec2.instances.values():
            if world.newest_held(other.machine) > mine:
                raise Violation("back to the newest copy", f"{other.machine.instance_id} holds a newer one")
        held = set(machine.disk.log or ())
        missing = [write for number, write in self.acknowledged.items() if number not in held]
        switch = world.tables.switch(world.agent_id, f"{world.tables.agent(world.agent_id).epoch:010d}")
        if missing and (switch is None or not switch.rpo_breached):
            raise Violation("a loss is bounded or recorded", f"falling back loses {len(missing)} writes unrecorded")
        for write in missing:
            del self.acknowledged[write.number]
        self.lost += missing

    def _judge_by_snapshot(self, missing: list[Acknowledged], snapshot_id: str | None, basis: str) -> None:
        """Behind a dead primary nothing is missing that the snapshot has which was the newest when death was proven."""
        if snapshot_id is None or basis not in (Basis.PRIMARY_DEAD, Basis.SNAPSHOT):
            return
        stored = set(self._world.bucket.images[snapshot_id].entries())
        kept = [write.number for write in missing if write.number in stored]
        if kept:
            raise Violation(
                "no more is lost than since the last snapshot",
                f"promotion on {basis} lost {len(kept)} writes that snapshot {snapshot_id} has",
            )

    def _judge(self, missing: list[Acknowledged], switch: Switch) -> None:
        world, basis = self._world, switch.basis
        first, recorded = missing[0], switch.rpo_seconds or 0.0
        if basis == Basis.FINAL_GENERATION:
            raise Violation(
                "no write is lost in a handover",
                f"{len(missing)} acknowledged writes, the first at {first.at:.3f}, are not in the final generation",
            )
        if basis == Basis.SNAPSHOT:
            if not switch.rpo_breached:
                raise Violation("a loss is bounded or recorded", f"a snapshot lost {len(missing)} writes, recorded 0")
            return
        served_at = self.last_served_at.get(switch.from_instance_id, first.at)
        lost = served_at - first.at
        world.note_loss(lost)
        if switch.lag_seconds is not None and lost > recorded:
            raise Violation(
                "what is recorded as lost is the most that can be",
                f"promotion on {basis} lost {lost:.3f} s of writes, recorded {recorded:.3f}",
            )
        window = min(world.last_heard_at.get(switch.from_instance_id, 0.0), served_at) - first.at
        promised = PROMISED_INTERVALS * world.tables.agent(world.agent_id).sync_interval_seconds + LAG_GRACE_SECONDS
        if window > promised and not switch.rpo_breached:
            raise Violation(
                "a loss is bounded or recorded",
                f"promotion on {basis} lost {window:.2f} s of writes before the primary fell silent, promised are "
                f"{promised:.2f}, recorded {recorded:.2f}",
            )

    def check_history(self, log: list[int]) -> None:
        """The acknowledged writes are linearizable: each is in the log once, in the order of real time, at its place.

        Every write takes effect at the moment of its acknowledgement here, so their order is total, and a history is
        linearizable exactly if the log has it.

        Raises:
            Violation: Not so.
        """
        places = {number: place for place, number in enumerate(log, start=1)}
        if len(places) != len(log):
            raise Violation("linearizable", "a write is in the log twice")
        before = 0
        for number, write in self.acknowledged.items():
            place = places.get(number)
            if place is None:
                raise Violation("linearizable", f"write {number}, acknowledged at {write.at:.3f}, is not in the log")
            if place <= before:
                raise Violation("linearizable", f"write {number} is not in the order of its acknowledgement")
            if place != write.place:
                raise Violation("linearizable", f"write {number} was told place {write.place} and is at {place}")
            before = place
