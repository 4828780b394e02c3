"""The primary's end of the replication link: keeps it up, ships generations over it, asks for the lease."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from spot_agent.fence import boot_clock
from spot_agent.sync.errors import GenerationRefused, GenerationUnsound, LinkDown, PeerNotTrusted, VersionNotSpoken
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import LeaseAsk, Peer, PrimaryLink
from spot_agent.sync.source import GenerationSource, Progress
from spot_agent.sync.throttle import Throttle
from spot_optimizer.domain.protocol import (
    AskLease,
    Covered,
    Event,
    LeaseAnswered,
    LinkChanged,
    ShipFinal,
    ShippingFailed,
)

log = logging.getLogger(__name__)

_SHIP_SECONDS: Final = 3600.0
"""Bounds one generation; a link that has died is noticed long before, by its silence."""

_FINAL_SECONDS: Final = 60.0
_SILENCE_SECONDS: Final = 3.0
_RATE_SECONDS: Final = 60.0
_LEASE_ANSWER_SECONDS: Final = 2.0
_FIRST_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Destination:
    """The standby that generations go to."""

    peer: Peer
    replica_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Shipped:
    """What the standby is known to hold, for reports.

    Attributes:
        until: The primary's boot clock up to which it holds everything.
        until_wall: The same by the wall clock.
        extra: What travelled along.
        final: Whether it is the last one of a handover.
    """

    generation: int
    until: float
    until_wall: str
    extra: Mapping[str, Any]
    final: bool


@dataclass(frozen=True, slots=True)
class Carried:
    """How fast a whole state was last carried to a standby."""

    state_bytes: int
    bytes_per_second: float


class ChangeRate:
    """How fast the state changes: what was sent of it, compressed, over the time that covers, of the last minute."""

    def __init__(self) -> None:
        self._sent: tuple[tuple[float, float, int], ...] = ()

    def note(self, since: float, until: float, sent_bytes: int) -> None:
        """Add what changed between two moments (CLOCK_BOOTTIME)."""
        # Replaced as a whole: another thread reads it.
        lately = (one for one in self._sent if one[1] > until - _RATE_SECONDS)
        self._sent = (*lately, (since, until, sent_bytes))

    @property
    def bytes_per_second(self) -> float | None:
        """None before anything is known."""
        sent = self._sent
        covered = sum(until - since for since, until, _ in sent)
        return sum(size for _, _, size in sent) / covered if covered > 0 else None


class Shipper:
    """Ships to one standby at a time, by one thread. Calls return at once; what comes of them is emitted as events."""

    def __init__(
        self,
        source: GenerationSource,
        *,
        identity: Identity,
        agent_id: str,
        emit: Callable[[Event], None],
        quiesce: Callable[[], bool],
        must_settle: bool,
        reading: threading.Lock,
        next_number: Callable[[], int],
        extra: Callable[[], Mapping[str, Any]],
        every_seconds: float,
        throttle: Throttle,
    ) -> None:
        """Keep what is given; `begin` makes it work.

        Args:
            source: Reads the watched paths.
            identity: This instance's certificate and key.
            agent_id: The protected agent.
            emit: Takes the events; called on several threads.
            quiesce: Makes the watched paths sound to read; False if that failed.
            must_settle: Whether files that change while a generation is read make it void; so where there is a quiesce.
            reading: Held from a quiesce until all is read, by whoever reads: the next quiesce writes.
            next_number: Numbers generations, durably.
            extra: What travels along with each generation.
            every_seconds: How often a generation is taken.
            throttle: Limits the rate while nobody is in a hurry.
        """
        self._throttle = throttle
        self._source = source
        self._identity = identity
        self._agent_id = agent_id
        self._emit = emit
        self._quiesce = quiesce
        self._must_settle = must_settle
        self._reading = reading
        self._next_number = next_number
        self._extra = extra
        self._every_seconds = every_seconds
        self._changed = threading.Condition()
        self._destination: Destination | None = None
        self._link: PrimaryLink | None = None
        self._linked: Destination | None = None
        self._final: ShipFinal | None = None
        self._resting = False
        self._due_at = 0.0
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._shipped: Shipped | None = None
        self._carried: Carried | None = None
        self._changes = ChangeRate()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="shipper", daemon=True)

    def begin(self) -> None:
        """Begin to work."""
        self._thread.start()

    def connect(self, destination: Destination) -> None:
        """Ship to this standby, and to no other."""
        with self._changed:
            self._destination = destination
            self._final = None
            self._shipped = None
            self._retry_seconds = _FIRST_RETRY_SECONDS
            self._due_at = 0.0
            link, self._link = self._link, None
            self._changed.notify()
        if link is not None:
            link.close()

    def disconnect(self) -> None:
        """Ship to nobody."""
        with self._changed:
            self._destination = None
            self._final = None
            self._shipped = None
            link, self._link = self._link, None
            self._changed.notify()
        if link is not None:
            link.close()

    def ship_final(self, final: ShipFinal) -> None:
        """Ship the last generation of a handover next, if there is a link, and rest after it.

        A workload that was stopped need not be frozen, and nothing may follow its last generation either.
        """
        self.rest(resting=True)
        with self._changed:
            if self._link is not None:
                self._final = final
                self._changed.notify()
                return
        self._emit(ShippingFailed(final.replica_id, final.handover_id))

    def rest(self, *, resting: bool) -> None:
        """Begin no generation but a final one: around a freeze, one that is under way would only be waited for.

        When the rest is over, the workload writes again: a final generation that has not begun is not wanted any more.
        """
        with self._changed:
            self._resting = resting
            if not resting:
                self._final = None
            self._changed.notify()
        self._throttle.lift(lifted=resting)

    def hurry(self) -> None:
        """Send as fast as the link allows until the next thaw or start: this instance has been given notice."""
        self._throttle.lift()

    def pace(self, every_seconds: float) -> None:
        """Take a generation every so often."""
        with self._changed:
            self._every_seconds = every_seconds
            self._changed.notify()

    def ask_lease(self, ask: AskLease, *, epoch: int) -> None:
        """Ask the standby for the lease; blocks until it answered. Without an answer, nothing is emitted."""
        link, destination, shipped = self._link, self._linked, self._shipped
        if link is None or destination is None or destination.replica_id != ask.replica_id:
            return
        generation = shipped.generation if shipped is not None else 0
        try:
            reply = link.ask_lease(
                LeaseAsk(
                    request_id=ask.request,
                    replica_id=ask.replica_id,
                    epoch=epoch,
                    generation=generation,
                    lag_seconds=ask.lag_seconds,
                ),
                timeout_seconds=_LEASE_ANSWER_SECONDS,
            )
        except LinkDown as error:
            log.info("no answer on the lease", extra={"request": ask.request, "error": str(error)})
            return
        if not reply.granted:
            log.warning("the standby does not grant the lease", extra={"reason": reply.reason})
        self._emit(LeaseAnswered(ask.replica_id, ask.request, ask.asked_at, reply.granted))

    @property
    def shipped(self) -> Shipped | None:
        """What the standby is known to hold; None before its first generation."""
        return self._shipped

    @property
    def carried(self) -> Carried | None:
        """How fast a whole state was last carried; None before that happened."""
        return self._carried

    @property
    def changed_bytes_per_second(self) -> float | None:
        """How fast the state changes, as far as that was sent to a standby; None before that is known."""
        return self._changes.bytes_per_second

    @property
    def progress(self) -> Progress | None:
        """Of the generation that is under way, or was last."""
        link = self._link
        return link.progress if link is not None else None

    def ship_last(self, timeout_seconds: float) -> bool:
        """Ship one more generation, by the caller's thread, after `close`; False if there is no link or it failed."""
        began = boot_clock()
        self._thread.join(timeout_seconds)
        timeout_seconds -= boot_clock() - began
        link, destination = self._link, self._linked
        if self._thread.is_alive() or link is None or destination is None or not link.up:
            return False
        try:
            return self._ship(link, destination, None, timeout_seconds=timeout_seconds)
        finally:
            link.close()

    def close(self) -> None:
        """Begin nothing more; the link stays open for `ship_last`."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    # -- the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._has_work():
                    self._changed.wait(self._patience())
                if self._closed:
                    return
                destination, link = self._destination, self._link
                final, self._final = self._final, None
                self._due_at = boot_clock() + self._every_seconds
            if destination is None:
                continue
            if link is None:
                self._connect(destination)
            elif not self._ship(link, destination, final) and not link.up:
                self._drop(link)

    def _has_work(self) -> bool:
        if self._destination is None:
            return False
        if self._link is not None and self._final is not None:
            return True
        return boot_clock() >= self._due_at and (self._link is None or not self._resting)

    def _patience(self) -> float | None:
        if self._destination is None or (self._link is not None and self._resting):
            return None
        return max(self._due_at - boot_clock(), 0.001)

    def _connect(self, destination: Destination) -> None:
        lost = threading.Event()

        def on_link(up: bool) -> None:
            if not up:
                lost.set()
                with self._changed:
                    mine = self._linked is destination
                    self._changed.notify()
                if mine:
                    self._emit(LinkChanged(destination.replica_id, up=False))

        try:
            link = PrimaryLink.connect(
                destination.peer,
                identity=self._identity,
                agent_id=self._agent_id,
                replica_id=destination.replica_id,
                epoch=destination.epoch,
                on_link=on_link,
                recall=self._source.recall,
                throttle=self._throttle,
                silence_seconds=_SILENCE_SECONDS,
            )
        except (LinkDown, PeerNotTrusted, VersionNotSpoken) as error:
            log.info("no link to the standby yet", extra={"replica_id": destination.replica_id, "error": str(error)})
            with self._changed:
                self._due_at = boot_clock() + self._retry_seconds
                self._retry_seconds = min(self._retry_seconds * 2, _LONGEST_RETRY_SECONDS)
            return
        with self._changed:
            wanted = self._destination is destination and not self._closed
            if wanted:
                self._link, self._linked = link, destination
                self._retry_seconds = _FIRST_RETRY_SECONDS
                self._due_at = 0.0
        if not wanted:
            link.close()
            return
        self._recognize(link)
        log.info("linked to the standby", extra={"replica_id": destination.replica_id})
        self._emit(LinkChanged(destination.replica_id, up=True))
        if lost.is_set():
            self._drop(link)

    def _recognize(self, link: PrimaryLink) -> None:
        """After a restart of this agent: not all of the state has to be read again."""
        if link.held is None or link.held_as_of is None:
            return
        try:
            self._source.recognize(link.held, as_of=link.held_as_of)
        except GenerationUnsound as error:  # the next generation says so as well
            log.info("the files are not recognized", extra={"error": str(error)})

    def _drop(self, link: PrimaryLink) -> None:
        link.close()
        with self._changed:
            if self._link is link:
                self._link = None
                self._due_at = boot_clock() + self._retry_seconds
                dropped = self._linked
                self._linked = None
                final, self._final = self._final, None
            else:
                dropped = final = None
        if dropped is not None:
            self._emit(LinkChanged(dropped.replica_id, up=False))
        if final is not None:  # whether it is still wanted when there is a link again is not for this class to say
            self._emit(ShippingFailed(final.replica_id, final.handover_id))

    def _ship(
        self,
        link: PrimaryLink,
        destination: Destination,
        final: ShipFinal | None,
        *,
        timeout_seconds: float | None = None,
    ) -> bool:
        """Take a generation and ship it, or confirm the one before if nothing changed; False if neither came about.

        What is claimed to be covered is dated from before the first look at anything.
        """
        handover_id = None if final is None else final.handover_id
        until, until_wall = boot_clock(), datetime.now(UTC)
        extra = dict(self._extra())
        former = self._shipped
        # After the last generation of a handover that was given up, another one says that the primary went on.
        may_confirm = final is None and former is not None and not former.final and former.extra == extra
        # A quiesce is what writes the state down, so nothing is known before it; and it may write as no watch notices.
        if may_confirm and not self._must_settle and self._source.is_unchanged(link.held):
            if self._confirm(link, destination, until, until_wall):
                return True
            may_confirm = False  # it holds something else than it acknowledged, or nothing: shipping finds out
        refused = None
        whole = link.held is None
        with self._reading:
            number = self._ready_to_read()
            if number is None:
                refused = "the workload could not be quiesced"
            else:
                if final is not None:
                    extra["readiness"] = final.readiness
                generation = self._source.take(
                    number,
                    epoch=destination.epoch,
                    held=link.held,
                    final_for=handover_id,
                    extra=extra,
                    must_settle=self._must_settle or final is not None,
                    # What the workload wrote while it was being quiesced may be missing from the image.
                    as_of=until_wall.timestamp(),
                )
                bound = timeout_seconds or (_FINAL_SECONDS if final is not None else _SHIP_SECONDS)
                try:
                    unchanged = may_confirm and not generation.has_changes(bound)
                    if unchanged and self._confirm(link, destination, until, until_wall):
                        generation.cancel()
                        return True
                    acknowledged = link.ship(generation, timeout_seconds=bound)
                    if whole and link.held is not None:
                        total = link.held.total_bytes
                        self._carried = Carried(total, total / max(boot_clock() - until, 1e-3))
                except (TimeoutError, LinkDown, GenerationRefused, GenerationUnsound) as error:
                    generation.cancel()
                    refused = str(error)
        if refused is not None:
            log.warning("a generation was not shipped", extra={"handover_id": handover_id, "error": refused})
            self._emit(ShippingFailed(destination.replica_id, handover_id))
            return False
        progress = link.progress
        if former is None and progress is not None:
            log.info(
                "the standby holds the state",
                extra={"replica_id": destination.replica_id, "sent_bytes": progress.wire_bytes},
            )
        if final is not None:
            log.info("final generation shipped", extra={"seconds": round(boot_clock() - until, 3)})
        shipped = Shipped(acknowledged.number, until, until_wall.isoformat(), extra, final is not None)
        sent_bytes = None if whole or progress is None else progress.wire_bytes
        self._note_shipped(link, destination, shipped, handover_id, sent_bytes=sent_bytes)
        return True

    def _ready_to_read(self) -> int | None:
        """The number of the next generation, once the watched paths are sound to read; None if they are not."""
        try:
            return self._next_number() if self._quiesce() else None
        except OSError:  # a full disk, mostly: that is no reason to end the agent of a workload that serves
            log.exception("a generation can not be begun")
            return None

    def _confirm(self, link: PrimaryLink, destination: Destination, until: float, until_wall: datetime) -> bool:
        """Have the standby note that what was shipped last is still all there is; False if it did not say so."""
        former = self._shipped
        if former is None:
            return False
        try:
            if not link.confirm(former.generation, taken_at=until_wall.timestamp()):
                return False
        except LinkDown as error:
            log.info("not confirmed", extra={"replica_id": destination.replica_id, "error": str(error)})
            return False
        covered = replace(former, until=until, until_wall=until_wall.isoformat())
        self._note_shipped(link, destination, covered, None, sent_bytes=0)
        return True

    def _note_shipped(
        self,
        link: PrimaryLink,
        destination: Destination,
        shipped: Shipped,
        handover_id: str | None,
        *,
        sent_bytes: int | None,
    ) -> None:
        former = self._shipped
        if former is not None and sent_bytes is not None:
            self._changes.note(former.until, shipped.until, sent_bytes)
        with self._changed:
            if self._link is link:  # and not on its way to another standby meanwhile
                self._shipped = shipped
        self._emit(Covered(destination.replica_id, shipped.until, shipped.until_wall, shipped.generation, handover_id))
