"""Who reaches whom: messages between agents and the control plane, and the replication link between two agents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.agent import AgentProcess
    from simulation.faults import Weather
    from simulation.kernel import Kernel

CONTROL_PLANE = "control-plane"


class Network:
    """Delivers, delays, repeats, loses.

    Attributes:
        cut: One-way partitions: pairs of (sender, receiver).
    """

    def __init__(self, kernel: Kernel, weather: Weather) -> None:
        self.kernel = kernel
        self.weather = weather
        self.cut: list[tuple[str, str]] = []

    def reaches(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) not in self.cut

    def send(self, sender: str, receiver: str, kind: str, deliver: Callable[..., None], *what: Any) -> bool:
        """Deliver once, late, twice or never; False if never."""
        weather, kernel = self.weather, self.kernel
        if not self.reaches(sender, receiver):
            weather.count("partition", kind)
            return False
        if weather.hits("lose", kind) or weather.hits("lose", f"{kind}@{receiver}"):
            weather.count("lost", kind)
            kernel.tell(sender, "%s to %s is lost", kind, receiver)
            return False
        delay = kernel.soon(0.006)
        if weather.hits("delay", kind):
            weather.count("delayed", kind)
            delay += kernel.between(0.3, 6.0)
        kernel.after(delay, deliver, *what)
        if weather.hits("repeat", kind):
            weather.count("repeated", kind)
            kernel.after(delay + kernel.between(0.001, 15.0), deliver, *what)
        return True


@dataclass(slots=True)
class Link:
    """One connection between a primary and its standby.

    Attributes:
        up_at_primary: The primary has not noticed that it is gone; likewise at the standby.
    """

    primary: AgentProcess
    standby: AgentProcess
    replica_id: str
    epoch: int
    up_at_primary: bool = True
    up_at_standby: bool = True

    @property
    def works(self) -> bool:
        return self.up_at_primary and self.up_at_standby

    def send_to_standby(self, kind: str, deliver: Callable[..., None], *what: Any) -> None:
        self._send(self.primary, self.standby, kind, True, deliver, *what)

    def send_to_primary(self, kind: str, deliver: Callable[..., None], *what: Any) -> None:
        self._send(self.standby, self.primary, kind, False, deliver, *what)

    def _send(self, sender: AgentProcess, receiver: AgentProcess, kind: str, *how: Any) -> None:
        sent = sender.world.network.send(sender.instance_id, receiver.instance_id, kind, self._if_up, *how)
        if not sent and not kind.startswith("lease"):
            # What a stream can not deliver it misses: the connection is found dead. A lease's frames just come late.
            self.broken(slowly=True)

    def _if_up(self, to_standby: bool, deliver: Callable[..., None], *what: Any) -> None:
        if (self.up_at_standby and self.standby.alive) if to_standby else (self.up_at_primary and self.primary.alive):
            deliver(*what)

    def broken(self, *, slowly: bool) -> None:
        """One end is gone, or nothing passes any more: each end finds out in its own time."""
        kernel = self.primary.world.kernel
        for at_primary in (True, False):
            delay = kernel.between(0.5, 4.0) if slowly else kernel.soon(0.05)
            kernel.after(delay, self.drop, at_primary)

    def drop(self, at_primary: bool) -> None:
        """One end notices."""
        if at_primary and self.up_at_primary:
            self.up_at_primary = False
            self.primary.note_link_lost(self)
        elif not at_primary and self.up_at_standby:
            self.up_at_standby = False
            self.standby.note_link_lost(self)
