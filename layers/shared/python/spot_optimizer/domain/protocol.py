"""The vocabulary of an agent's protocol: what can happen to it (events) and what it can do (actions).

An instance runs one role at a time: `primary.decide` or `standby.decide`. Both are pure: `(state, event, now) ->
(state, actions)`. `now` is CLOCK_BOOTTIME in seconds. The agent's loop performs the actions in order and feeds what
comes of them back as events; so does the simulator. Rules for whoever drives them:

* `Remember` is durable before any later action of the same decision is performed.
* Requests to the control plane answer with exactly one event; a time-out, a 5xx or a lost answer is `Outcome.UNKNOWN`.
* Orders carry the number of the heartbeat that asked for them; they may arrive in any order.
* `Tick` comes at least every 0.25 s.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.orders import Orders, Peer


class Outcome(enum.StrEnum):
    """How a request to the control plane ended."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


# --- events
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class OrdersReceived:
    """The answer to heartbeat number `beat`, which was sent at `sent_at`."""

    beat: int
    sent_at: float
    orders: Orders


@dataclass(frozen=True, slots=True)
class EpochOver:
    """The control plane refused a write with 409: the epoch it was sent under is over; this is the current one."""

    current_epoch: int


@dataclass(frozen=True, slots=True)
class NoticeRead:
    """IMDS shows an interruption notice for this instance.

    Attributes:
        deadline: When it goes, by the wall clock; for the report only.
        seconds_left: Until then, when it was read; None if nobody said.
    """

    deadline: str
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class RebalanceRead:
    """IMDS shows a rebalance recommendation for this instance."""


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The replication link to, or from, this replica came up or went down."""

    replica_id: str
    up: bool


@dataclass(frozen=True, slots=True)
class LeaseAnswered:
    """Primary: the standby answered lease request `request`, which was sent at `asked_at`."""

    replica_id: str
    request: int
    asked_at: float
    granted: bool


@dataclass(frozen=True, slots=True)
class LeaseAsked:
    """Standby: the primary of `epoch` asks for the lease.

    Attributes:
        request: What the answer refers to.
        asked: The primary's own number of the question, rising on one link.
        lag_seconds: How far behind the standby was when that was sent, by the primary's word; None if it did not say.
    """

    request: int
    epoch: int
    asked: int = 0
    lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Covered:
    """Primary: the standby durably holds everything up to `until` (this primary's monotonic clock).

    Attributes:
        until_wall: The same moment on this primary's wall clock, ISO 8601; carried for reports.
        final_for: Set when what was acknowledged is the final generation of this handover.
    """

    replica_id: str
    until: float
    until_wall: str
    generation: int
    final_for: str | None = None


@dataclass(frozen=True, slots=True)
class ShippingFailed:
    """Primary: a generation was not acknowledged; `final_for` names the handover whose final one it was."""

    replica_id: str
    final_for: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationCommitted:
    """Standby: a generation is durable here.

    Attributes:
        covered_until: The primary's wall clock when it was taken, ISO 8601.
        final_for: Set when it is the final generation of this handover: its primary is frozen.
        readiness: The readiness that the primary had reported when it froze; with `final_for` only.
        epoch: Of the primary that took it; None for the one that is followed. Generations are counted per epoch.
    """

    generation: int
    covered_until: str
    final_for: str | None = None
    readiness: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class StateHeld:
    """Retired: what lies here is an image by now, durably, and generations can follow it.

    Attributes:
        generation: 0 if nothing can be held.
        covered_until: The state up to here is in it, by the clock of whoever was its primary (ISO 8601).
        epoch: Whose state it is.
    """

    generation: int
    covered_until: str | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class SnapshotRestored:
    """Standby: the newest snapshot that can be restored is the image here, durably.

    Attributes:
        handover_id: For which it was asked.
        covered_until: The primary's wall clock when it was taken, ISO 8601.
    """

    handover_id: str
    generation: int
    covered_until: str


@dataclass(frozen=True, slots=True)
class SnapshotRefused:
    """Standby: no snapshot can be restored."""

    handover_id: str


@dataclass(frozen=True, slots=True)
class ReadyAnswered:
    """Primary: the report that a replica is ready, number `readiness`, ended so."""

    replica_id: str
    readiness: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class UnreadyAnswered:
    """Primary: taking readiness back, number `readiness`, ended so. `DONE` also where the replica's life is over."""

    replica_id: str
    readiness: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CommitAnswered:
    """Standby: the promotion it asked for ended so; `epoch` is the new epoch when it is `DONE`."""

    handover_id: str
    outcome: Outcome
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class AbortAnswered:
    """Primary: the abort it asked for ended so; `DONE` means that the handover is aborted for good."""

    handover_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WorkloadRunning:
    """The workload runs under this epoch and has passed its health check."""

    epoch: int


@dataclass(frozen=True, slots=True)
class WorkloadFrozen:
    """The workload acknowledges nothing any more, until it is thawed or started."""

    handover_id: str


@dataclass(frozen=True, slots=True)
class WorkloadStopped:
    """No process of the workload is left: it was stopped, it exited, or the fence killed it."""

    reason: str


Event = (
    Tick
    | OrdersReceived
    | EpochOver
    | NoticeRead
    | RebalanceRead
    | LinkChanged
    | LeaseAnswered
    | LeaseAsked
    | Covered
    | ShippingFailed
    | GenerationCommitted
    | StateHeld
    | SnapshotRestored
    | SnapshotRefused
    | ReadyAnswered
    | UnreadyAnswered
    | CommitAnswered
    | AbortAnswered
    | WorkloadRunning
    | WorkloadFrozen
    | WorkloadStopped
)


# --- actions
# -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beat:
    """Send a heartbeat now, out of turn."""


@dataclass(frozen=True, slots=True)
class Pace:
    """From now on send a heartbeat, and look for a notice, at most so many seconds after the last."""

    heartbeat_seconds: float
    notice_check_seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """Start the workload under this epoch, restoring the image first if `restore`; answers `WorkloadRunning` or
    `WorkloadStopped`. A workload that already runs under this epoch is adopted.
    """

    epoch: int
    restore: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the workload, by force if need be; answers `WorkloadStopped`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Freeze:
    """Make the workload acknowledge nothing; answers `WorkloadFrozen`, or `WorkloadStopped` where it had to be
    stopped.
    """

    handover_id: str


@dataclass(frozen=True, slots=True)
class Thaw:
    """Let a frozen workload serve again under the same epoch; answers `WorkloadRunning` or `WorkloadStopped`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SetFence:
    """Tell the independent fence when it must act unless it is told otherwise before; `None` lifts it.

    Attributes:
        deadline: The workload is killed (CLOCK_BOOTTIME).
        hold_at: It is held: it lives, and acknowledges nothing until it is let go on.
    """

    deadline: float | None
    hold_at: float | None = None


@dataclass(frozen=True, slots=True)
class Connect:
    """Primary: keep a link to this standby and ship generations over it. Replaces any other link."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Listen:
    """Standby: accept this primary, and no other."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Give up the link."""


@dataclass(frozen=True, slots=True)
class AskLease:
    """Primary: ask the standby for the lease; answers `LeaseAnswered`, or nothing.

    Attributes:
        lag_seconds: How far behind the standby is, as far as this process knows; None if it does not.
    """

    replica_id: str
    request: int
    asked_at: float
    lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerLease:
    """Standby: answer lease request `request`."""

    request: int
    granted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ShipFinal:
    """Primary: quiesce, take the final generation of this handover, ship it; answers `Covered` or `ShippingFailed`.

    Nothing is shipped after it until the next `Start` or `Thaw`: one that follows says that the primary went on.
    """

    replica_id: str
    handover_id: str
    readiness: int


@dataclass(frozen=True, slots=True)
class TakeLastSnapshot:
    """Primary: the workload is frozen and no standby can be had: store the state as it is now."""


@dataclass(frozen=True, slots=True)
class HoldState:
    """Retired: make the state that was last live here an image, as if it had been received; answers `StateHeld`."""


@dataclass(frozen=True, slots=True)
class RestoreSnapshot:
    """Standby: make the newest snapshot the image here; answers `SnapshotRestored` or `SnapshotRefused`."""

    handover_id: str


@dataclass(frozen=True, slots=True)
class ReportReady:
    """Primary: tell the control plane that the replica is ready; answers `ReadyAnswered`."""

    replica_id: str
    readiness: int
    lag_seconds: float
    covered_until: str
    generation: int


@dataclass(frozen=True, slots=True)
class ReportUnready:
    """Primary: take the replica's readiness back; answers `UnreadyAnswered`."""

    replica_id: str
    readiness: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Standby: ask for promotion; answers `CommitAnswered`.

    Attributes:
        lag_seconds: How far behind its primary it was when that was last heard; None if nobody told it.
    """

    handover_id: str
    basis: Basis
    readiness: int
    generation: int
    covered_until: str | None
    lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Abort:
    """Ask that the handover be aborted; answers `AbortAnswered`. A standby asks so only to say that it holds
    nothing.
    """

    handover_id: str


@dataclass(frozen=True, slots=True)
class ReportNotice:
    """Tell the control plane of the interruption notice."""

    deadline: str


@dataclass(frozen=True, slots=True)
class ReportRebalance:
    """Tell the control plane of the rebalance recommendation."""


@dataclass(frozen=True, slots=True)
class ReportSilent:
    """Standby: tell the control plane that the primary is silent."""


@dataclass(frozen=True, slots=True)
class Remember:
    """Make this durable before anything that follows; fields that are `None` stay as they are.

    Attributes:
        readiness: Primary: number of the last readiness report that may have been sent.
        granting: Standby: whether it grants the lease.
        refused_at_readiness: Standby: readiness at which it stopped granting, or asked for a promotion.
        role: With `epoch`, what this instance is from now on.
    """

    readiness: int | None = None
    granting: bool | None = None
    refused_at_readiness: int | None = None
    role: str | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class FlushTail:
    """The instance's service is over: submit what was cached, and the tail of the log."""


Action = (
    Beat
    | Pace
    | Start
    | Stop
    | Freeze
    | Thaw
    | SetFence
    | Connect
    | Listen
    | Disconnect
    | AskLease
    | AnswerLease
    | ShipFinal
    | TakeLastSnapshot
    | HoldState
    | RestoreSnapshot
    | ReportReady
    | ReportUnready
    | Commit
    | Abort
    | ReportNotice
    | ReportRebalance
    | ReportSilent
    | Remember
    | FlushTail
)
