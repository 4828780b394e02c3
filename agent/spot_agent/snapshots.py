"""Keeps a copy of the state in S3 while no standby is ready: a base, then deltas, each uploaded by signed URLs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from spot_agent.control_plane import Answer, Answered, ControlPlane, Rejected, StaleEpoch
from spot_agent.sync.errors import GenerationUnsound, StorageFailed
from spot_agent.sync.manifest import Manifest
from spot_agent.sync.source import GenerationSource, OutgoingGeneration
from spot_agent.sync.spool import Part, Spool, Spooled
from spot_agent.sync.throttle import Throttle
from spot_optimizer.domain.snapshots import (
    Cadence,
    Chain,
    SnapshotKind,
    next_due,
    next_kind,
    snapshot_id_for,
    usd_per_day,
)

log = logging.getLogger(__name__)

_READ_SECONDS: Final = 3600.0
_PARTS_AT_ONCE: Final = 20
# S3 hangs up on who sends nothing for about 20 s, so even the least bandwidth has to pass one of these in less.
_CHUNK_BYTES: Final = 64 << 10
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_LONGEST_PAUSE_IN_A_HURRY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Situation:
    """What the primary is in, as far as snapshots are concerned.

    Attributes:
        epoch: Confirmed to this process.
        standby_ready: A standby holds the state, and is the better copy.
        noticed: AWS takes this instance.
        last: The workload acknowledges nothing any more, and what is taken now is the last.
    """

    epoch: int
    standby_ready: bool = False
    noticed: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """What the last snapshots told.

    Attributes:
        state_bytes: Of the state, not compressed.
        bytes_per_second: Of the state, from the first byte read to the last one stored; None before the first base.
        changed_bytes_per_second: Size of the deltas over the time they cover; None before the first one.
        usd_per_day: What keeping them costs; None before the first one of this process.
    """

    state_bytes: int
    bytes_per_second: float | None
    changed_bytes_per_second: float | None
    usd_per_day: Decimal | None


@dataclass(slots=True)
class _Counted:
    """Since this process began, for what a day costs."""

    since: float
    snapshots: int = 0
    parts: int = 0
    base_bytes: int = 0
    delta_bytes: int = 0


class Snapshots:
    """Takes and uploads snapshots by a thread of its own; calls return at once."""

    def __init__(
        self,
        spool: Spool,
        source: GenerationSource,
        control_plane: ControlPlane,
        *,
        cadence: Cadence,
        quiesce: Callable[[], bool],
        must_settle: bool,
        reading: threading.Lock,
        next_number: Callable[[], int],
        extra: Callable[[], Mapping[str, Any]],
        throttle: Throttle,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep what is given; `begin` makes it work.

        Args:
            spool: Where a snapshot waits until it is uploaded.
            source: Reads the watched paths.
            control_plane: Signs the uploads.
            cadence: How often.
            quiesce: Makes the watched paths sound to read; False if that failed.
            must_settle: Whether files that change while they are read make it void; so where there is a quiesce.
            reading: Held from a quiesce until all is read, by whoever reads: the next quiesce writes.
            next_number: Numbers generations, durably.
            extra: What travels along with each generation.
            throttle: Limits the rate.
            clock: Epoch seconds; they outlive a restart, and may be set back.
        """
        self._spool = spool
        self._source = source
        self._control_plane = control_plane
        self._cadence = cadence
        self._quiesce = quiesce
        self._must_settle = must_settle
        self._reading = reading
        self._next_number = next_number
        self._extra = extra
        self._throttle = throttle
        self._clock = clock
        self._changed = threading.Condition()
        self._situation: Situation | None = None
        self._chain: Chain | None = None
        self._newest_id: str | None = None
        self._epoch = 0
        self._held: Manifest | None = None
        self._taking: OutgoingGeneration | None = None
        self._last_taken = False
        self._pause_until = float("-inf")
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._measured: Measured | None = None
        self._counted = _Counted(clock())
        self._closed = False
        self._take_up()

    def begin(self) -> None:
        """Begin to work."""
        threading.Thread(target=self._work, name="snapshots", daemon=True).start()

    def situate(self, situation: Situation | None) -> None:
        """Tell what the primary is in; None: this is no primary, and nothing is taken."""
        if situation == self._situation:
            return
        with self._changed:
            before, self._situation = self._situation, situation
            if situation is None or not situation.last:
                self._last_taken = False
            if situation is not None and (before is None or situation.last or situation.noticed != before.noticed):
                self._pause_until = float("-inf")
            self._changed.notify()

    def close(self) -> None:
        """Take no more; an upload that is under way is left for the next process."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._taking is not None:
            self._taking.cancel()

    @property
    def measured(self) -> Measured | None:
        """What the last snapshots told; None before the first one."""
        return self._measured

    # -- the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (patience := self._patience()) > 0:
                    self._changed.wait(min(patience, 60.0))
                situation = self._situation
                if self._closed:
                    return
            if situation is None:
                continue
            if self._do(situation):
                self._pause_seconds = _FIRST_PAUSE_SECONDS
            else:
                longest = _LONGEST_PAUSE_IN_A_HURRY_SECONDS if situation.noticed else _LONGEST_PAUSE_SECONDS
                self._pause_until = time.monotonic() + self._pause_seconds
                self._pause_seconds = min(2 * self._pause_seconds, longest)

    def _patience(self) -> float:
        """Seconds until there is something to do; 0 or less for now."""
        situation = self._situation
        if situation is None:
            return float("inf")
        pause = self._pause_until - time.monotonic()
        if pause > 0:
            return pause
        if self._spool.waiting is not None:
            return 0.0
        if situation.last:
            return float("inf") if self._last_taken else 0.0
        due = next_due(self._cadence, self._chain, standby_ready=situation.standby_ready, noticed=situation.noticed)
        if due is None:
            return float("inf")
        now = self._clock()
        # Taken in the future: the clock was set back, and would put the next one off by as much.
        return 0.0 if self._chain is not None and self._chain.taken_at > now else due - now

    def _do(self, situation: Situation) -> bool:
        """Upload what waits, or take the next one; False if it did not come about."""
        try:
            return self._bring_on(situation)
        except OSError as broken:
            # A full disk, mostly; that is no reason to end the agent of a workload that serves.
            log.warning("the spool of the snapshots can not be written", extra={"error": str(broken)})
            return False

    def _bring_on(self, situation: Situation) -> bool:
        waiting = self._spool.waiting
        if waiting is not None and waiting.epoch != situation.epoch:
            self._spool.drop()
            return True
        if self._epoch != situation.epoch:
            self._begin_chain(situation.epoch)
        if waiting is not None:
            return self._upload(waiting)
        return self._take(situation)

    def _take(self, situation: Situation) -> bool:
        kind = next_kind(self._chain, self._clock())
        # The last one has to be quick: whatever a new base is good for can wait.
        if situation.last and self._held is not None:
            kind = SnapshotKind.DELTA
        began = self._clock()
        with self._reading:
            if self._situation != situation:
                return True  # it changed while another generation was read: look again
            if not self._quiesce():
                return False
            if self._held is not None and self._chain is not None:
                self._recognize(self._held, self._chain)
            generation = self._source.take(
                self._next_number(),
                epoch=situation.epoch,
                held=self._held if kind is SnapshotKind.DELTA else None,
                extra=self._extra(),
                must_settle=self._must_settle or situation.last,
                as_of=began,
            )
            self._taking = generation
            if self._closed:
                generation.cancel()
            try:
                spooled = self._spool.write(
                    generation,
                    previous_id=self._newest_id if kind is SnapshotKind.DELTA else None,
                    frozen=situation.last,
                    deadline=time.monotonic() + _READ_SECONDS,
                )
            except (GenerationUnsound, StorageFailed, TimeoutError) as error:
                generation.cancel()
                log.warning("a snapshot was not taken", extra={"error": str(error)})
                return False
        return self._upload(spooled)

    def _recognize(self, held: Manifest, chain: Chain) -> None:
        """After a restart of this agent: not all of the state has to be read again."""
        try:
            self._source.recognize(held, as_of=chain.taken_at)
        except GenerationUnsound as error:  # reading says so as well
            log.info("the files are not recognized", extra={"error": str(error)})

    def _upload(self, spooled: Spooled) -> bool:
        for start in range(0, len(spooled.parts), _PARTS_AT_ONCE):
            batch = [part for part in spooled.parts[start : start + _PARTS_AT_ONCE] if part.etag is None]
            if batch and not self._upload_parts(batch):
                return False
        waiting = self._spool.waiting
        return waiting is not None and self._complete(waiting)

    def _upload_parts(self, parts: list[Part]) -> bool:
        waiting = self._spool.waiting
        if waiting is None:
            return False
        answer = self._control_plane.begin_snapshot(
            {
                "epoch": waiting.epoch,
                "generation": waiting.generation,
                "previous_id": waiting.previous_id,
                "upload_id": waiting.upload_id,
                "parts": [{name: asdict(part)[name] for name in ("number", "size_bytes", "sha256")} for part in parts],
            }
        )
        if not isinstance(answer, Answered):
            self._refused(answer)
            return False
        try:
            upload_id = str(answer.body["upload_id"])
            uploads = {int(upload["number"]): upload for upload in answer.body["uploads"]}
            signed = [(part, str(uploads[part.number]["url"]), dict(uploads[part.number]["headers"])) for part in parts]
        except (LookupError, TypeError, ValueError):
            log.exception("the answer to a snapshot is not understood")
            return False
        self._spool.note(replace(waiting, upload_id=upload_id))
        return all(self._upload_part(part, url, headers) for part, url, headers in signed)

    def _upload_part(self, part: Part, url: str, headers: Mapping[str, str]) -> bool:
        if not self._spool.is_whole(part):
            log.warning("a crash has cut off a part of the snapshot; taking another one", extra={"number": part.number})
            self._spool.drop()
            return False
        answer = self._control_plane.upload_part(url, headers, self._content(part))
        if isinstance(answer, Answered):
            self._spool.uploaded(part, etag=str(answer.body["etag"]))
            return True
        log.warning("a part was not uploaded", extra={"number": part.number, "answer": repr(answer)})
        if isinstance(answer, Rejected):
            self._spool.drop()  # S3 has forgotten the upload, and with it the parts that are gone from here
        return False

    def _content(self, part: Part) -> Iterator[bytes]:
        with self._spool.part(part.number).open("rb") as source:
            while piece := source.read(_CHUNK_BYTES):
                self._throttle.wait(len(piece), until=lambda: self._closed)
                yield piece

    def _complete(self, waiting: Spooled) -> bool:
        snapshot_id = snapshot_id_for(epoch=waiting.epoch, generation=waiting.generation)
        answer = self._control_plane.complete_snapshot(
            snapshot_id,
            {
                "epoch": waiting.epoch,
                "generation": waiting.generation,
                "previous_id": waiting.previous_id,
                "upload_id": waiting.upload_id,
                "taken_at": datetime.fromtimestamp(waiting.taken_at, UTC).isoformat(),
                "frozen": waiting.frozen,
                "root_hash": waiting.root_hash,
                "state_bytes": waiting.state_bytes,
                "parts": [asdict(part) for part in waiting.parts],
            },
        )
        if not isinstance(answer, Answered):
            self._refused(answer)
            return False
        former, is_base = self._chain, waiting.previous_id is None
        if is_base or former is None:
            chain = Chain(
                begun_at=waiting.taken_at,
                taken_at=waiting.taken_at,
                deltas=0,
                base_bytes=waiting.size_bytes,
                delta_bytes=0,
            )
        else:
            chain = replace(
                former,
                taken_at=waiting.taken_at,
                deltas=former.deltas + 1,
                delta_bytes=former.delta_bytes + waiting.size_bytes,
            )
        rate = self._measured.bytes_per_second if self._measured is not None else None
        if is_base:
            rate = waiting.state_bytes / max(self._clock() - waiting.taken_at, 1e-3)
        self._spool.complete(
            {"snapshot_id": snapshot_id, "epoch": waiting.epoch, "bytes_per_second": rate, **asdict(chain)}
        )
        held = self._spool.held()
        self._held = None if held is None else held[1]
        self._newest_id, self._chain = snapshot_id, chain
        if waiting.frozen:
            self._last_taken = True
        self._measure(waiting, rate, is_base=is_base)
        return True

    def _measure(self, done: Spooled, rate: float | None, *, is_base: bool) -> None:
        now, counted, chain = self._clock(), self._counted, self._chain
        counted.snapshots += 1
        counted.parts += len(done.parts)
        if is_base:
            counted.base_bytes += done.size_bytes
        else:
            counted.delta_bytes += done.size_bytes
        # Not more often than this has been going on: the first minutes say little about a day, and a base is for a day.
        per_day = 86_400 / max(now - counted.since, self._cadence.every_seconds)
        bases_per_day = min(per_day, 1.0)
        cost = usd_per_day(
            base_bytes_per_day=int(counted.base_bytes * bases_per_day),
            delta_bytes_per_day=int(counted.delta_bytes * per_day),
            snapshots_per_day=int(counted.snapshots * per_day),
            parts_per_day=int(counted.parts * per_day),
        )
        self._measured = Measured(done.state_bytes, rate, None if chain is None else _changed(chain), cost)
        log.info(
            "snapshot complete",
            extra={
                "snapshot_id": self._newest_id,
                "kind": SnapshotKind.BASE if is_base else SnapshotKind.DELTA,
                "bytes": done.size_bytes,
                "frozen": done.frozen,
                "seconds": round(now - done.taken_at, 3),
                "usd_per_day": f"{cost:.4f}",
            },
        )

    def _refused(self, answer: Answer) -> None:
        match answer:
            case StaleEpoch():
                self._spool.drop()  # the protocol learns of it by its own means
            case Rejected(status, problem):
                log.warning("a snapshot was refused", extra={"status": status, "problem": dict(problem)})
                self._begin_chain(self._epoch)
            case _:
                log.info("no answer about a snapshot", extra={"answer": repr(answer)})

    def _begin_chain(self, epoch: int) -> None:
        self._spool.forget()
        self._epoch, self._chain, self._newest_id, self._held = epoch, None, None, None

    def _take_up(self) -> None:
        """Go on with the chain that an earlier process began."""
        if self._spool.waiting is not None:
            self._epoch = self._spool.waiting.epoch
        held = self._spool.held()
        if held is None:
            return
        said, manifest = held
        try:
            names = ("begun_at", "taken_at", "deltas", "base_bytes", "delta_bytes")
            self._chain = Chain(**{name: said[name] for name in names})
            self._epoch, self._newest_id = int(said["epoch"]), str(said["snapshot_id"])
            rate = said.get("bytes_per_second")  # not said by the version before
            self._measured = Measured(
                manifest.total_bytes, None if rate is None else float(rate), _changed(self._chain), None
            )
        except (LookupError, TypeError, ValueError):
            self._begin_chain(0)
            return
        self._held = manifest


def _changed(chain: Chain) -> float | None:
    """Bytes a second: size of the deltas over the time they cover."""
    return chain.delta_bytes / max(chain.taken_at - chain.begun_at, 1e-3) if chain.deltas else None
