"""What may go wrong between a primary and its standby."""

from __future__ import annotations

from spot_optimizer.errors import Rejected, Transient


class LinkDown(Transient):
    """The peer did not answer in time, or the connection broke; connect again."""


class GenerationUnsound(Transient):
    """Watched files kept changing or could not be read, so no point in time was captured; take another generation."""


class PeerNotTrusted(Rejected):
    """The other side showed another certificate than the one the control plane handed out."""


class ProtocolViolated(Rejected):
    """The peer sent something that the protocol does not allow; nothing of it was used."""


class VersionNotSpoken(Rejected):
    """The peers have no protocol version in common; upgrade the older one."""


class GenerationRefused(Rejected):
    """The standby did not take the generation.

    Attributes:
        reason: One of `stale`, `base`, `mismatch`, `malformed`, `storage`.
        holds: Root hash of what the standby holds now; None if it holds nothing.
    """

    def __init__(self, message: str, *, reason: str, holds: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.holds = holds


class ImageDamaged(Rejected):
    """The files on disk are not what the committed generation says; only a full generation repairs this."""


class StorageFailed(Transient):
    """The disk did not take a write; see the cause. What was committed before is still there."""


class PathNotWatchable(Rejected):
    """A watched path can not be carried: not absolute, inside another, around the state folder, or unreadable."""
