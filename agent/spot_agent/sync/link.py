"""The link between a primary and one standby: two TLS connections, both opened by the primary.

`control` carries leases and signs of life, `data` carries generations, so a lease never waits behind bulk data.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from spot_agent.sync.channel import Channel, answer, dial, hung_up
from spot_agent.sync.errors import (
    GenerationRefused,
    ImageDamaged,
    LinkDown,
    PeerNotTrusted,
    ProtocolViolated,
    StorageFailed,
    VersionNotSpoken,
)
from spot_agent.sync.frames import (
    LONGEST_EXTRA,
    LONGEST_PAYLOAD,
    SPOKEN_VERSIONS,
    Frame,
    Header,
    Packer,
    agree_version,
    decode_header,
    unpack,
)
from spot_agent.sync.generations import Generation, GenerationStore, Incoming
from spot_agent.sync.identity import Identity
from spot_agent.sync.manifest import Entry, Key, Listed, Manifest, Reader, encode_listed, split
from spot_agent.sync.room import Room, listed_bytes, memory_for_lists
from spot_agent.sync.source import OutgoingGeneration, Progress
from spot_agent.sync.throttle import Throttle

log = logging.getLogger(__name__)

_FOREVER: Final = float("inf")
_MOST_ROOTS: Final = 1 << 16
_LIST_BYTES: Final = 1 << 20
_MOST_CONNECTIONS: Final = 16
_GREETING_SECONDS: Final = 5.0
_CONFIRM_SECONDS: Final = 1.0
# A standby with a large tree has much to say; it is given this long, as long as it goes on.
_DESCRIBE_SECONDS: Final = 600.0
# The last frame may overtake the reading thread's own end by as much.
_MOMENT: Final = 5.0


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
        lag_seconds: How far behind the standby is by the primary's word; None if it does not say (version before).
    """

    request_id: int
    replica_id: str
    epoch: int
    generation: int
    lag_seconds: float | None = None


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


class _Meter:
    """Counts the bytes of one generation on its way."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.done_bytes = 0
        self.total_bytes = 0
        self.wire_bytes = 0

    def note(self, frame: Frame) -> None:
        """Count a frame that has passed."""
        self.wire_bytes += len(frame.payload)
        header = Header(frame.header)
        if frame.kind == "begin":
            self.total_bytes = header.number("total")
        elif frame.kind in ("chunk", "end"):
            self.done_bytes = header.number("done")

    def read(self) -> Progress:
        seconds = max(time.monotonic() - self._started, 1e-3)
        return Progress(self.done_bytes, self.total_bytes, self.wire_bytes, self.done_bytes / seconds)


class PrimaryLink:
    """The primary's end of the link to one standby. Reconnecting is the caller's decision: connect a new one.

    Safe to use from several threads: `ask_lease` and `ship` do not wait for each other.

    Attributes:
        held_as_of: When this primary took what the standby held at the greeting, by its own wall clock; None if another
            one did, or that is not known.
    """

    def __init__(
        self,
        control: Channel,
        data: Channel,
        *,
        on_link: Callable[[bool], None],
        recall: Callable[[str], Manifest | None] | None,
        throttle: Throttle,
        silence_seconds: float,
    ) -> None:
        """Take over greeted channels; use `connect`."""
        self._throttle = throttle
        self._control = control
        self._data = data
        self._on_link = on_link
        self._recall = recall or (lambda _: None)
        self._silence_seconds = silence_seconds
        self._control_lock = threading.Lock()
        self._data_lock = threading.Lock()
        self._state = threading.Lock()
        self._announcing = threading.RLock()
        self._announced = False
        self._up = True
        self._heard = time.monotonic()
        self.held_as_of: float | None = None
        self._held: Manifest | None = None
        self._meter: _Meter | None = None
        self._pings = 0
        self._confirmations = 0

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
        throttle: Throttle | None = None,
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
            throttle: Limits the rate of all generations but the last one of a handover; None for no limit.
            timeout_seconds: For each step: connections, greetings, and each part of what the standby holds.
            silence_seconds: A standby that says nothing for so long is lost; it is pinged when there is nothing to say.

        Raises:
            LinkDown: Nobody answered in time, or not what was expected.
            PeerNotTrusted: The peer showed another certificate, or refused ours.
            VersionNotSpoken: No protocol version in common.
        """
        hello = {
            "type": "hello",
            "speaks": list(SPOKEN_VERSIONS),
            "session": secrets.token_hex(16),
            "agent_id": agent_id,
            "replica_id": replica_id,
            "epoch": epoch,
        }
        try:
            with contextlib.ExitStack() as opened:
                channels = []
                welcome = Header({})
                for name in ("control", "data"):
                    channel = dial(
                        peer.address,
                        peer.port,
                        identity=identity,
                        certificate=peer.certificate,
                        timeout_seconds=timeout_seconds,
                    )
                    opened.callback(channel.close)
                    welcome = _greet(channel, {**hello, "channel": name}, time.monotonic() + timeout_seconds)
                    channels.append(channel)
                control, data = channels
                data.allow_large_payloads()
                link = PrimaryLink(
                    control,
                    data,
                    on_link=on_link,
                    recall=recall,
                    throttle=throttle or Throttle(None),
                    silence_seconds=silence_seconds,
                )
                opened.callback(link.close)
                # From here on: learning what is held may take longer than a standby waits for a sign of life.
                threading.Thread(target=link._watch, name="sync-signs-of-life", daemon=True).start()
                link._learn(welcome.optional_text("holds"), timeout_seconds)
                # The version before does not say so, and what an earlier primary took tells nothing of the files here.
                taken_at = welcome.optional_seconds("taken_at")
                if taken_at is not None and welcome.number("epoch") == epoch:
                    link.held_as_of = taken_at
                link._announce()
                opened.pop_all()
        except ProtocolViolated as garbled:
            raise LinkDown(f"what answers there makes no sense: {garbled}") from garbled
        return link

    @property
    def held(self) -> Manifest | None:
        """What the standby holds: the base of the next generation. None means nothing; send everything."""
        return self._held

    @property
    def up(self) -> bool:
        return self._up

    @property
    def progress(self) -> Progress | None:
        """Of the generation being shipped, or of the last one."""
        meter = self._meter
        return None if meter is None else meter.read()

    def ask_lease(self, ask: LeaseAsk, *, timeout_seconds: float) -> LeaseReply:
        """Ask and wait for the answer.

        Raises:
            LinkDown: No answer in time. The standby may nevertheless have granted.
        """
        fields = {
            "type": "ask",
            "id": ask.request_id,
            "replica_id": ask.replica_id,
            "epoch": ask.epoch,
            "generation": ask.generation,
            "lag_seconds": ask.lag_seconds,
        }
        frame = self._converse(fields, "reply", timeout_seconds)
        try:
            header = Header(frame.header)
            return LeaseReply(
                request_id=header.number("id"),
                granted=header.flag("granted"),
                reason=header.text("reason"),
                generation=header.number("generation"),
            )
        except ProtocolViolated as violation:
            self._lose(violation)
            raise LinkDown("the standby's answer made no sense") from violation

    def ship(self, generation: OutgoingGeneration, *, timeout_seconds: float) -> Acknowledged:
        """Send a generation and wait until the standby has committed it.

        Whatever goes wrong, the generation is used up; take another one.

        Raises:
            LinkDown: The connection broke or the time was up. The standby may nevertheless have committed it.
            GenerationRefused: The standby did not take it; `held` now says what it holds.
            GenerationUnsound: It could not be read, or not soundly; the standby has dropped what it had of it.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            with self._data_lock:
                try:
                    acknowledged = self._ship(generation, deadline)
                except GenerationRefused as refused:
                    self._learn(refused.holds, self._silence_seconds)
                    raise
                self._held = generation.wait_until_read(_MOMENT)
                return acknowledged
        except (LinkDown, ProtocolViolated, TimeoutError) as broken:
            # Half a generation may be on the wire: nothing sensible can follow it on this connection.
            self._lose(broken)
            raise LinkDown(f"generation {generation.number} was not acknowledged: {broken}") from broken
        finally:
            generation.cancel()

    def confirm(self, number: int, *, taken_at: float) -> bool:
        """Tell the standby that the generation it holds was still the newest state at `taken_at`.

        Args:
            number: Of the generation that was acknowledged last.
            taken_at: Epoch seconds by this instance's clock.

        Returns:
            Whether the standby said that it holds this very generation, and took note. Otherwise ship one.

        Raises:
            LinkDown: It did not answer in time.
        """
        held = self._held
        if held is None:
            return False
        self._confirmations += 1
        fields = {
            "type": "confirm",
            "id": self._confirmations,
            "number": number,
            "root": held.root_hash,
            "taken_at": taken_at,
        }
        frame = self._converse(fields, "confirmed", _CONFIRM_SECONDS)
        try:
            return Header(frame.header).flag("held")
        except ProtocolViolated as violation:
            self._lose(violation)
            raise LinkDown("the standby's answer made no sense") from violation

    def close(self) -> None:
        """Close both connections; wakes whoever waits on them."""
        self._lose(None)

    def _ship(self, generation: OutgoingGeneration, deadline: float) -> Acknowledged:
        self._meter = meter = _Meter()
        begun = False
        try:
            for frame in generation.frames(deadline=deadline):
                early = self._data.poll()
                if early is not None:
                    return self._judge(early, generation)
                if generation.final_for is None:
                    self._throttle.wait(len(frame.payload), deadline=deadline, until=lambda: not self._up)
                self._data.send(frame, deadline=deadline)
                begun = True
                meter.note(frame)
        except (LinkDown, TimeoutError, ProtocolViolated):
            raise
        except GenerationRefused:
            self._data.send(Frame({"type": "abort"}), deadline=deadline)
            raise
        except Exception:
            # It could not be read, because it is unsound for example. The link itself is fine.
            if begun:
                self._data.send(Frame({"type": "abort"}), deadline=deadline)
                self._data.receive(deadline=deadline)
            raise
        return self._judge(self._data.receive(deadline=deadline), generation)

    def _judge(self, frame: Frame, generation: OutgoingGeneration) -> Acknowledged:
        header = Header(frame.header)
        if frame.kind == "refused":
            message, reason = header.text("message", longest=4096), header.text("reason")
            raise GenerationRefused(message, reason=reason, holds=header.optional_text("holds"))
        if frame.kind != "committed":
            raise ProtocolViolated(f"expected 'committed' or 'refused', not {frame.kind!r}")
        root_hash = generation.wait_until_read(_MOMENT).root_hash
        if (header.number("number"), header.text("root")) != (generation.number, root_hash):
            raise ProtocolViolated("the standby acknowledged something else than what was sent")
        return Acknowledged(generation.number, root_hash)

    def _learn(self, holds: str | None, timeout_seconds: float) -> None:
        """Find out what the standby's tree contains, given its root hash."""
        if holds is None:
            self._held = None
            return
        self._held = self._recall(holds) or self._described(holds, timeout_seconds)

    def _described(self, holds: str, timeout_seconds: float) -> Manifest | None:
        end = time.monotonic() + _DESCRIBE_SECONDS

        def soon() -> float:
            return min(time.monotonic() + timeout_seconds, end)

        self._data.send(Frame({"type": "describe"}), deadline=soon())
        entries: dict[Key, Entry] = {}
        room = Room(memory_for_lists())
        try:
            while (frame := self._data.receive(deadline=soon())).kind == "entries":
                content = unpack(Header(frame.header).text("coding"), frame.payload, most=LONGEST_PAYLOAD)
                reader = Reader(content, roots=_MOST_ROOTS)
                while not reader.exhausted:
                    listed = reader.listed()
                    room.take(listed_bytes(listed))
                    entries[listed.key] = listed.entry
        except GenerationRefused as too_much:
            raise ProtocolViolated(str(too_much)) from too_much
        except TimeoutError as late:
            raise LinkDown("the standby did not say in time what it holds") from late
        manifest = Manifest(entries)
        # It may have changed or lost its image since it greeted; then a full generation is right in any case.
        return manifest if manifest.root_hash == holds else None

    def _converse(self, fields: Mapping[str, Any], answer_kind: str, timeout_seconds: float) -> Frame:
        """Send a small message on the control channel and wait for its answer."""
        deadline = time.monotonic() + timeout_seconds
        if not self._control_lock.acquire(timeout=timeout_seconds):
            raise LinkDown(f"no answer within {timeout_seconds} s")
        try:
            self._control.send(Frame(fields), deadline=deadline)
            while True:
                frame = self._control.receive(deadline=deadline)
                self._heard = time.monotonic()
                # Answers to questions that were given up on are passed over.
                if frame.kind == answer_kind and frame.header.get("id") == fields["id"]:
                    return frame
        except TimeoutError as late:
            raise LinkDown(f"no answer within {timeout_seconds} s") from late
        except (LinkDown, ProtocolViolated) as broken:
            self._lose(broken)
            raise LinkDown(str(broken)) from broken
        finally:
            self._control_lock.release()

    def _watch(self) -> None:
        """Ping when there is nothing to say, and notice when the standby falls silent."""
        pause = self._silence_seconds / 4
        while self._up:
            try:
                if hung_up([self._control, self._data], timeout_seconds=pause):
                    self._lose(LinkDown("the standby closed the connection"))
                    return
            except LinkDown:  # closed here
                return
            silent = time.monotonic() - self._heard
            if silent >= self._silence_seconds:
                self._lose(LinkDown(f"the standby has said nothing for {silent:.1f} s"))
            elif silent >= pause:
                self._pings += 1
                with contextlib.suppress(LinkDown):
                    self._converse({"type": "ping", "id": self._pings}, "pong", self._silence_seconds - silent)

    def _lose(self, why: Exception | None) -> None:
        with self._state:
            if not self._up:
                return
            self._up = False
        self._control.close()
        self._data.close()
        if why is not None:
            log.warning("lost the link to the standby: %s", why)
        with self._announcing:
            if self._announced:
                self._on_link(False)

    def _announce(self) -> None:
        """Tell that there is a link, before anybody is told that there is none any more."""
        with self._announcing:
            if not self._up:
                raise LinkDown("the link was lost before all was known of what the standby holds")
            self._announced = True
            self._on_link(True)


class _Session:
    """The two connections of one primary."""

    def __init__(self, name: str, control: Channel) -> None:
        self.name = name
        self.control = control
        self.data: Channel | None = None

    def close(self) -> None:
        self.control.close()
        if self.data is not None:
            self.data.close()


class StandbyListener:
    """The standby's end: accepts the one primary whose certificate is pinned, a newer connection replaces an older one.

    All callbacks come on the listener's threads, should return quickly, and must not call `stop`.
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
        on_confirmed: Callable[[Generation, float], None] | None = None,
        silence_seconds: float = 5.0,
    ) -> None:
        """Keep what is given; nothing is opened yet.

        Args:
            address: To listen on; the private address of this instance, never a wildcard.
            port: 0 takes a free one.
            identity: This instance's certificate and key.
            peer_certificate: The primary's PEM as the control plane told it last; None refuses everybody. Asked anew
                for each connection.
            store: Where generations go.
            on_lease_ask: Decides on a lease.
            on_committed: Told after a generation is durably committed and acknowledged. With `final_for` set it is
                applied and verified as well: promotion may be asked for at once.
            on_link: Told True when both connections of a primary are up, False when they no longer are.
            on_confirmed: Told that a generation was still the newest state at a moment, in epoch seconds by the
                primary's clock. May overtake `on_committed` of the same generation.
            silence_seconds: A primary that says nothing for so long is lost.
        """
        self._address = address
        self._port = port
        self._identity = identity
        self._peer_certificate = peer_certificate
        self._store = store
        self._on_lease_ask = on_lease_ask
        self._on_committed = on_committed
        self._on_link = on_link
        self._on_confirmed = on_confirmed
        self._silence_seconds = silence_seconds
        self._lock = threading.Lock()
        self._announcing = threading.Lock()
        self._announced = False
        self._session: _Session | None = None
        self._socket: socket.socket | None = None
        self._threads: set[threading.Thread] = set()
        self._channels: set[Channel] = set()
        self._stopping = False
        self._meter: _Meter | None = None
        current = store.current()
        self._confirmed_at = None if current is None else current.taken_at

    def start(self) -> int:
        """Begin to listen.

        Returns:
            The port.
        """
        self._socket = socket.create_server((self._address, self._port), backlog=_MOST_CONNECTIONS)
        port: int = self._socket.getsockname()[1]
        self._spawn(self._accept, self._socket, name="sync-accept")
        return port

    def stop(self) -> None:
        """Stop listening, drop a half-received generation, end all threads."""
        with self._lock:
            self._stopping = True
            channels, threads = set(self._channels), set(self._threads)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        for channel in channels:
            channel.close()
        for thread in threads:
            thread.join(timeout=_GREETING_SECONDS + 1)

    def hang_up(self) -> None:
        """End the connections that there are: they were let in by a certificate that is not pinned any more."""
        with self._lock:
            channels = set(self._channels)
        for channel in channels:
            channel.close()

    @property
    def confirmed_at(self) -> float | None:
        """By the primary's clock: the latest moment at which what this standby holds was the newest state."""
        return self._confirmed_at

    @property
    def progress(self) -> Progress | None:
        """Of the generation being received; None when there is none."""
        meter = self._meter
        return None if meter is None else meter.read()

    # --- connections -------------------------------------------------------------------------------------------------

    def _spawn(self, target: Callable[[socket.socket], None], connection: socket.socket, *, name: str) -> None:
        def run() -> None:
            try:
                target(connection)
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=name, daemon=True)
        with self._lock:
            if self._stopping or len(self._threads) > _MOST_CONNECTIONS:
                connection.close()
                return
            self._threads.add(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        while not self._stopping:
            try:
                connection, _ = listening.accept()
            except OSError:
                if not self._stopping:
                    log.exception("could not accept a connection")
                    time.sleep(0.1)  # out of descriptors, for example: do not spin
                continue
            self._spawn(self._serve, connection, name="sync-peer")

    def _serve(self, connection: socket.socket) -> None:
        certificate = self._peer_certificate()
        if certificate is None:
            connection.close()
            return
        try:
            channel = answer(
                connection, identity=self._identity, certificate=certificate, timeout_seconds=_GREETING_SECONDS
            )
        except (LinkDown, PeerNotTrusted) as refused:
            log.warning("refused a connection: %s", refused)
            return
        with self._lock:
            self._channels.add(channel)
            stopping = self._stopping
        if stopping or self._peer_certificate() != certificate:
            channel.close()
        try:
            self._greet_and_serve(channel)
        except (LinkDown, TimeoutError) as lost:
            log.info("a connection of the primary ended: %s", lost)
        except (ProtocolViolated, VersionNotSpoken) as violation:
            log.warning("closed a connection of the primary: %s", violation)
        finally:
            channel.close()
            with self._lock:
                self._channels.discard(channel)
            self._connection_ended(channel)

    def _greet_and_serve(self, channel: Channel) -> None:
        deadline = time.monotonic() + _GREETING_SECONDS
        hello = channel.receive(deadline=deadline)
        header = Header(hello.header)
        if hello.kind != "hello":
            raise ProtocolViolated(f"expected 'hello', not {hello.kind!r}")
        name, kind = header.text("session"), header.text("channel")
        try:
            version = agree_version(header.numbers("speaks"))
        except VersionNotSpoken as unknown:
            channel.send(
                Frame({"type": "refused", "reason": "version", "message": str(unknown)[:4000]}), deadline=deadline
            )
            raise
        if kind not in ("control", "data"):
            raise ProtocolViolated(f"there is no channel {kind!r}")
        self._enter(channel, name, kind)
        # In this order: if one is committed in between, the moment is told of the one before, which claims less.
        current, manifest = self._store.current(), self._store.manifest()
        welcome = {"type": "welcome", "version": version, "holds": None if manifest is None else manifest.root_hash}
        if current is not None:
            welcome |= {"epoch": current.epoch, "taken_at": current.taken_at}
        channel.send(Frame(welcome), deadline=deadline)
        self._announce()
        if kind == "control":
            self._serve_control(channel)
        else:
            channel.allow_large_payloads()
            self._serve_data(channel)

    def _enter(self, channel: Channel, name: str, kind: str) -> None:
        with self._lock:
            old = self._session
            if kind == "data":
                if old is None or old.name != name or old.data is not None:
                    raise ProtocolViolated("a data connection without its control connection")
                old.data = channel
                return
            self._session = _Session(name, channel)
        if old is not None:
            old.close()

    def _connection_ended(self, channel: Channel) -> None:
        with self._lock:
            session = self._session
            if session is not None and channel in (session.control, session.data):
                self._session = None
            else:
                session = None
        if session is not None:
            session.close()
        self._announce()

    def _announce(self) -> None:
        with self._announcing:
            with self._lock:
                up = self._session is not None and self._session.data is not None
            if up != self._announced:
                self._announced = up
                self._on_link(up)

    # --- control -----------------------------------------------------------------------------------------------------

    def _serve_control(self, channel: Channel) -> None:
        while True:
            frame = channel.receive(deadline=time.monotonic() + self._silence_seconds)
            header = Header(frame.header)
            deadline = time.monotonic() + self._silence_seconds
            if frame.kind == "ask":
                channel.send(self._lease_answer(header), deadline=deadline)
            elif frame.kind == "ping":
                channel.send(Frame({"type": "pong", "id": header.number("id")}), deadline=deadline)
            elif frame.kind == "confirm":
                held = self._note_confirmed(header)
                channel.send(Frame({"type": "confirmed", "id": header.number("id"), "held": held}), deadline=deadline)
            else:
                raise ProtocolViolated(f"{frame.kind!r} has no place on the control channel")

    def _lease_answer(self, header: Header) -> Frame:
        ask = LeaseAsk(
            request_id=header.number("id"),
            replica_id=header.text("replica_id"),
            epoch=header.number("epoch"),
            generation=header.number("generation"),
            lag_seconds=header.optional_seconds("lag_seconds"),
        )
        reply = self._on_lease_ask(ask)
        return Frame(
            {
                "type": "reply",
                "id": ask.request_id,
                "granted": reply.granted,
                "reason": reply.reason[:256],
                "generation": reply.generation,
            }
        )

    def _note_confirmed(self, header: Header) -> bool:
        """Note that what is held was still the newest; False if something else is held, or held no longer.

        The last generation of a handover is not confirmed: who goes on after it says so with another generation.
        """
        current, taken_at = self._store.current(), header.seconds("taken_at")
        if (
            current is None
            or current.number != header.number("number")
            or current.root_hash != header.text("root")
            or current.final_for is not None
            or self._store.is_stuck
        ):
            return False
        self._confirmed_at = max(taken_at, self._confirmed_at or 0.0)
        if self._on_confirmed is not None:
            self._on_confirmed(current, self._confirmed_at)
        return True

    # --- data --------------------------------------------------------------------------------------------------------

    def _serve_data(self, channel: Channel) -> None:
        while True:
            frame = _next_frame(channel)
            if frame.kind == "describe":
                self._describe(channel)
            elif frame.kind == "begin":
                self._receive_generation(channel, frame)
            elif frame.kind != "abort":  # of a generation that was refused before
                raise ProtocolViolated(f"{frame.kind!r} has no place outside of a generation")

    def _describe(self, channel: Channel) -> None:
        manifest = self._store.manifest()
        packer = Packer()
        listed = () if manifest is None else (Listed(key, entry) for key, entry in manifest.items())
        for piece in split(listed, encode_listed, limit=_LIST_BYTES):
            coding, payload = packer.pack(piece)
            channel.send(Frame({"type": "entries", "coding": coding}, payload), deadline=_FOREVER)
        channel.send(Frame({"type": "described"}), deadline=_FOREVER)

    def _receive_generation(self, channel: Channel, begin: Frame) -> None:
        """Receive one generation; answers exactly once, also when it is aborted."""
        self._meter = meter = _Meter()
        incoming: Incoming | None = None
        frames = _Frames(channel, begin, meter)
        try:
            try:
                meter.note(begin)
                if len(begin.payload) > LONGEST_EXTRA:
                    raise ProtocolViolated(f"{len(begin.payload)} bytes travel along; {LONGEST_EXTRA} are allowed")
                extra = decode_header(begin.payload)
                incoming = self._store.receive(Header(begin.header), extra)
                generation = receive_frames(frames.next, incoming)
            except (GenerationRefused, ProtocolViolated, StorageFailed, ImageDamaged) as refusal:
                self._refuse(channel, refusal)
                if frames.current.kind != "end":
                    _drain(channel)
                return
            finally:
                if incoming is not None:
                    incoming.drop()
        finally:
            self._meter = None
        if generation is None:
            channel.send(Frame({"type": "dropped"}), deadline=_FOREVER)
            return
        self._committed(channel, generation)

    def _committed(self, channel: Channel, generation: Generation) -> None:
        """Acknowledge a committed generation, and bring the image up to it."""
        final = generation.final_for is not None
        try:
            if final:
                # The standby promotes itself on this one, so it is applied and checked before anybody hears of it.
                self._store.apply_pending(check_all=True)
        except (ImageDamaged, StorageFailed) as refusal:
            self._refuse(channel, refusal)
            return
        self._confirmed_at = generation.taken_at
        committed = {"type": "committed", "number": generation.number, "root": generation.root_hash}
        try:
            channel.send(Frame(committed), deadline=_FOREVER)
        finally:
            # Also when the primary can not hear it any more: committed is committed.
            self._on_committed(generation)
        try:
            self._store.apply_pending()
        except (ImageDamaged, StorageFailed):
            # The next generation meets the same, and is refused with the reason.
            log.exception("generation %d is committed and could not be applied", generation.number)

    def _refuse(self, channel: Channel, refusal: Exception) -> None:
        log.warning("refused a generation: %s", refusal)
        manifest = self._store.manifest()
        refused = {
            "type": "refused",
            "reason": _reason(refusal),
            "message": str(refusal)[:4000],
            "holds": None if manifest is None else manifest.root_hash,
        }
        channel.send(Frame(refused), deadline=_FOREVER)


class _Frames:
    """Receives the frames of one generation, and remembers the last one.

    Attributes:
        current: The last one.
    """

    def __init__(self, channel: Channel, begin: Frame, meter: _Meter) -> None:
        self._channel = channel
        self._meter = meter
        self.current = begin

    def next(self) -> Frame:
        self.current = _next_frame(self._channel)
        self._meter.note(self.current)
        return self.current


def receive_frames(next_frame: Callable[[], Frame], incoming: Incoming) -> Generation | None:
    """Receive up to the end of a generation and commit it; None if the primary gave it up."""
    while True:
        frame = next_frame()
        if frame.kind == "chunk":
            incoming.add_chunk(frame)
        elif frame.kind == "entries":
            incoming.add_entries(frame)
        elif frame.kind == "removed":
            incoming.add_removed(frame)
        elif frame.kind == "end":
            return incoming.commit(frame)
        elif frame.kind == "abort":
            return None
        else:
            raise ProtocolViolated(f"{frame.kind!r} has no place in a generation")


def _next_frame(channel: Channel) -> Frame:
    """Wait for a frame as long as the channel lives; the control channel notices when the primary does not."""
    while True:
        try:
            return channel.receive(deadline=_FOREVER)
        except TimeoutError:
            continue
        except ProtocolViolated as garbled:
            raise LinkDown(f"what arrives is no frame: {garbled}") from garbled


def _drain(channel: Channel) -> None:
    """Pass over what is on its way of a generation that was refused."""
    while _next_frame(channel).kind not in ("end", "abort"):
        pass


def _reason(refusal: Exception) -> str:
    if isinstance(refusal, GenerationRefused):
        return refusal.reason
    if isinstance(refusal, ImageDamaged):
        return "mismatch"
    return "storage" if isinstance(refusal, StorageFailed) else "malformed"


def _greet(channel: Channel, hello: Mapping[str, Any], deadline: float) -> Header:
    """Say hello; answers the welcome, which says what the standby holds."""
    try:
        channel.send(Frame(hello), deadline=deadline)
        welcome = channel.receive(deadline=deadline)
    except TimeoutError as late:
        raise LinkDown("the standby did not answer the greeting") from late
    except LinkDown as broken:
        cause = broken.__cause__
        # In TLS 1.3 the listening side judges our certificate after our handshake is done: its alert arrives here.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            raise PeerNotTrusted(f"the standby does not take our certificate: {cause.reason}") from broken
        raise
    header = Header(welcome.header)
    if welcome.kind == "refused":
        raise VersionNotSpoken(header.text("message", longest=4096))
    if welcome.kind != "welcome":
        raise ProtocolViolated(f"expected 'welcome', not {welcome.kind!r}")
    agree_version([header.number("version")])
    return header
