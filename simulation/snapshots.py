"""S3, and a primary's snapshots: what `spot_agent.snapshots` and `spot_agent.restoring` do, in virtual time.

When one is due, and of what kind, is decided by the product's own rules; what takes time (reading, uploading) is
modelled. An object is an image: a prefix of the log, like a generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from simulation import api
from simulation.machine import Image
from spot_agent.runtime import situation_of
from spot_optimizer.control.snapshots import Download, Part, PartUpload, Restorable, UploadedPart
from spot_optimizer.domain.protocol import SnapshotRefused, SnapshotRestored
from spot_optimizer.domain.snapshots import (
    Cadence,
    Chain,
    SnapshotKind,
    next_due,
    next_kind,
    snapshot_id_for,
)
from spot_optimizer.domain.standby import Standby
from spot_optimizer.errors import SnapshotUnknown, SpotOptimizerError, Transient

if TYPE_CHECKING:
    from simulation.agent import AgentProcess

CADENCE = Cadence(every_seconds=15.0, noticed_every_seconds=5.0)
DELTAS_PER_CHAIN = 3
"""Few, so that chains begin anew within a run."""


class Bucket:
    """Implements `SnapshotObjects`: an upload is there whole, or not at all.

    Attributes:
        images: What was uploaded, by snapshot id.
    """

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}

    def begin(self, agent_id: str, snapshot_id: str, kind: SnapshotKind) -> str:  # noqa: ARG002 - the port's words
        return snapshot_id

    def sign_parts(
        self,
        agent_id: str,  # noqa: ARG002 - the port's words
        snapshot_id: str,
        kind: SnapshotKind,  # noqa: ARG002 - the port's words
        *,
        upload_id: str,  # noqa: ARG002 - the port's words
        parts: Sequence[Part],
        now: datetime,
    ) -> tuple[PartUpload, ...]:
        return tuple(PartUpload(part.number, snapshot_id, {}, now) for part in parts)

    def complete(
        self,
        agent_id: str,  # noqa: ARG002 - the port's words
        snapshot_id: str,
        kind: SnapshotKind,  # noqa: ARG002 - the port's words
        *,
        upload_id: str,  # noqa: ARG002 - the port's words
        parts: Sequence[UploadedPart],
    ) -> int:
        if snapshot_id not in self.images:
            raise SnapshotUnknown(snapshot_id)
        return sum(part.size_bytes for part in parts)

    def sign_download(self, agent_id: str, snapshot_id: str, kind: SnapshotKind, *, now: datetime) -> Download:  # noqa: ARG002
        return Download(snapshot_id, now)


class Snapshotting:
    """One process's snapshots: takes them while it is a primary, restores the newest as a standby."""

    def __init__(self, process: AgentProcess) -> None:
        self._process = process
        self._world = process.world
        self._kernel = process.kernel
        self._chain: Chain | None = None
        self._newest_id: str | None = None
        self._epoch = 0
        self._busy = False
        self._last_taken = False
        self._alarm_at = float("inf")

    def consider(self) -> None:
        """Take one if it is due; to be called whenever the process has decided something."""
        situation = None if self._process.state is None else situation_of(self._process.state)
        if situation is None or self._busy or not self._world.takes_snapshots:
            return
        if situation.epoch != self._epoch:
            self._epoch, self._chain, self._newest_id = situation.epoch, None, None
        if not situation.last:
            self._last_taken = False
        elif self._last_taken:
            return
        now = self._process.machine.boot_clock
        due = next_due(CADENCE, self._chain, standby_ready=situation.standby_ready, noticed=situation.noticed)
        if not situation.last and (due is None or due > now):
            if due is not None and due < self._alarm_at:
                self._alarm_at = due
                self._process.later(self._process.machine.true_delay(due - now) + 0.01, self._alarm)
            return
        self._take(frozen=situation.last)

    def restore(self, handover_id: str) -> None:
        """Make the newest snapshot the image here."""
        if not isinstance(self._process.state, Standby):
            return
        caller = api.Caller(self._world.agent_id, self._process.instance_id, self._process.state.epoch)

        def found(steps: tuple[Restorable, ...], failure: SpotOptimizerError | None) -> None:
            if failure is None and self._world.weather.hits("fail", "restorable"):
                self._world.weather.count("failed", "restorable")
                self._process.take(SnapshotRefused(handover_id))
            elif failure is None and not self._world.weather.hits("fail", "restore"):
                image = self._world.bucket.images[steps[-1].snapshot.snapshot_id]
                self._process.later(self._kernel.between(0.3, 3.0), self._restored, handover_id, image)
            elif isinstance(failure, Transient) or failure is None:
                self._process.later(self._kernel.between(0.5, 2.0), self.restore, handover_id)
            else:
                self._process.take(SnapshotRefused(handover_id))

        self._process.request(
            "latest snapshot", lambda plane: api.latest_snapshot(plane, caller, self._world.bucket), found
        )

    def _restored(self, handover_id: str, image: Image) -> None:
        self._process.machine.disk.image = image
        if self._world.strikes(self._process, "agent:snapshot restored"):
            return
        self._kernel.tell(self._process.instance_id, "has restored the snapshot of %s", image.covered_until)
        self._process.take(SnapshotRestored(handover_id, image.number, image.covered_until))

    def _alarm(self) -> None:
        self._alarm_at = float("inf")
        self.consider()

    def _take(self, *, frozen: bool) -> None:
        process = self._process
        log = process.machine.disk.log
        if log is None:
            return
        self._busy = True
        kind = next_kind(self._chain, process.machine.boot_clock)
        if self._chain is not None and self._chain.deltas >= DELTAS_PER_CHAIN:
            kind = SnapshotKind.BASE
        taken_at = process.machine.wall_clock
        image = Image(
            number=process.next_generation(),
            epoch=self._epoch,
            log=log,
            length=len(log),
            covered_until=taken_at.isoformat(),
            taken_at=self._kernel.now,
        )
        takes = self._kernel.between(0.2, 3.0) if kind is SnapshotKind.BASE else self._kernel.soon(0.2)
        process.later(takes, self._upload, image, taken_at, kind, frozen, process.machine.boot_clock)

    def _upload(self, image: Image, taken_at: datetime, kind: SnapshotKind, frozen: bool, at: float) -> None:
        process = self._process
        if self._world.weather.hits("fail", "upload"):
            self._world.weather.count("failed", "upload")
            self._busy = False
            process.later(self._kernel.between(0.5, 3.0), self.consider)
            return
        snapshot_id = snapshot_id_for(epoch=image.epoch, generation=image.number)
        self._world.bucket.images[snapshot_id] = image
        caller = api.Caller(self._world.agent_id, process.instance_id, image.epoch)
        previous_id = self._newest_id if kind is SnapshotKind.DELTA else None

        def answered(_result: Any, failure: SpotOptimizerError | None) -> None:
            self._busy = False
            if failure is None:
                former = self._chain
                chain = Chain(begun_at=at, taken_at=at, deltas=0, base_bytes=10, delta_bytes=0)
                if kind is SnapshotKind.DELTA and former is not None:
                    chain = replace(former, taken_at=at, deltas=former.deltas + 1)
                self._chain, self._newest_id = chain, snapshot_id
                self._last_taken = frozen
                self.consider()
                return
            if not isinstance(failure, Transient):
                self._chain, self._newest_id = None, None
            process.later(self._kernel.between(0.5, 3.0), self.consider)

        process.request(
            "complete snapshot",
            lambda plane: api.complete_snapshot(
                plane,
                caller,
                self._world.bucket,
                generation=image.number,
                previous_id=previous_id,
                taken_at=taken_at,
                frozen=frozen,
            ),
            answered,
        )
