"""The link between a primary and one standby: two TLS connections, both opened by the primary.

`control` carries leases and signs of life, `data` carries generations, so a lease never waits behind bulk data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spot_agent.sync.generations import Generation, GenerationStore
from spot_agent.sync.identity import Identity
from spot_agent.sync.manifest import Manifest
from spot_agent.sync.source import OutgoingGeneration, Progress


@dataclass(frozen=True)
class Peer:
    """Where the standby listens and which certificate it must show (PEM)."""

    address: str
    port: int
    certificate: str


@dataclass(frozen=True)
class LeaseAsk:
    """A primary asks its standby for (more) time.

    Attributes:
        request_id: Chosen by the primary, never reused within a link.
        replica_id: The standby that is asked.
        epoch: The primary's epoch.
        generation: Number of the newest generation that the primary knows to be committed; 0 for none.
    """

    request_id: int
    replica_id: str
    epoch: int
    generation: int


@dataclass(frozen=True)
class LeaseReply:
    """The standby's answer.

    Attributes:
        request_id: Of the ask.
        granted: Whether the lease runs on, from when the primary *sent* the ask.
        reason: Why not; empty when granted.
        generation: Number of the newest generation that the standby has committed; 0 for none.
    """

    request_id: int
    granted: bool
    reason: str
    generation: int


@dataclass(frozen=True)
class Acknowledged:
    """The standby has durably committed this generation (the last one of a handover is applied and verified too)."""

    number: int
    root_hash: str


class PrimaryLink:
    """The primary's end of the link to one standby. Reconnecting is the caller's decision: connect a new one.

    Safe to use from several threads: `ask_lease` and `ship` do not wait for each other.
    """

    @staticmethod
    def connect(
        peer: Peer,
        *,
        identity: Identity,
        agent_id: str,
        replica_id: str,
        epoch: int,
        on_link: Callable[[bool], None],
        recall: Callable[[str], Manifest | None] | None = None,
        timeout_seconds: float = 5.0,
        silence_seconds: float = 5.0,
    ) -> PrimaryLink:
        """Open both connections.

        Args:
            peer: Where, and who must answer.
            identity: This instance's certificate and key.
            agent_id: The protected agent.
            replica_id: The standby's replica id.
            epoch: The primary's epoch.
            on_link: Told True before this returns and False once when the link is lost or closed; on any thread.
            recall: Finds a manifest by root hash (`GenerationSource.recall`), to save asking the standby for it.
            timeout_seconds: For everything together.
            silence_seconds: A standby that says nothing for so long is lost; it is pinged when there is nothing to say.

        Raises:
            LinkDown: Nobody answered in time.
            PeerNotTrusted: The peer showed another certificate, or refused ours.
            VersionNotSpoken: No protocol version in common.
        """
        raise NotImplementedError

    @property
    def held(self) -> Manifest | None:
        """What the standby holds: the base of the next generation. None means nothing; send everything."""
        raise NotImplementedError

    @property
    def up(self) -> bool:
        raise NotImplementedError

    @property
    def progress(self) -> Progress | None:
        """Of the generation being shipped, or of the last one."""
        raise NotImplementedError

    def ask_lease(self, ask: LeaseAsk, *, timeout_seconds: float) -> LeaseReply:
        """Ask and wait for the answer.

        Raises:
            LinkDown: No answer in time. The standby may nevertheless have granted.
        """
        raise NotImplementedError

    def ship(self, generation: OutgoingGeneration, *, timeout_seconds: float) -> Acknowledged:
        """Send a generation and wait until the standby has committed it.

        Raises:
            LinkDown: The connection broke or the time was up. The standby may nevertheless have committed it.
            GenerationRefused: The standby did not take it; `held` now says what it holds.
            GenerationUnsound: It could not be read soundly; the standby has dropped what it had of it.
        """
        raise NotImplementedError

    def confirm(self, *, taken_at: float) -> None:
        """Tell the standby that what it holds was still the newest state at `taken_at`, without shipping anything.

        Raises:
            LinkDown: It could not be told.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close both connections; wakes whoever waits on them."""
        raise NotImplementedError


class StandbyListener:
    """The standby's end: accepts the one primary whose certificate is pinned, a newer connection replaces an older one.

    All callbacks come on the listener's threads and should return quickly; `on_lease_ask` answers the primary.
    """

    def __init__(
        self,
        *,
        address: str,
        port: int,
        identity: Identity,
        peer_certificate: Callable[[], str | None],
        store: GenerationStore,
        on_lease_ask: Callable[[LeaseAsk], LeaseReply],
        on_committed: Callable[[Generation], None],
        on_link: Callable[[bool], None],
        silence_seconds: float = 5.0,
    ) -> None:
        """Keep what is given; nothing is opened yet.

        Args:
            address: To listen on; never a wildcard.
            port: 0 takes a free one.
            identity: This instance's certificate and key.
            peer_certificate: The primary's PEM as the control plane told it last; None refuses everybody. Asked anew
                for each connection.
            store: Where generations go.
            on_lease_ask: Decides on a lease.
            on_committed: Told after a generation is durably committed and acknowledged. With `final_for` set it is
                applied and verified as well: promotion may be asked for at once.
            on_link: Told True when both connections of a primary are up, False when they no longer are.
            silence_seconds: A primary that says nothing for so long is lost.
        """

    def start(self) -> int:
        """Begin to listen.

        Returns:
            The port.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Stop listening, drop a half-received generation, end all threads."""
        raise NotImplementedError

    @property
    def confirmed_at(self) -> float | None:
        """By the primary's clock: the latest moment at which what this standby holds was the newest state."""
        raise NotImplementedError

    @property
    def progress(self) -> Progress | None:
        """Of the generation being received; None when there is none."""
        raise NotImplementedError
