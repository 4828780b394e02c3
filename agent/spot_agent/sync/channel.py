"""One TLS connection that carries frames; both sides show a certificate, and only the pinned one is taken.

A channel may be closed by any thread at any time; sending and receiving is for one thread at a time.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from spot_agent.sync.errors import LinkDown, PeerNotTrusted
from spot_agent.sync.frames import (
    LONGEST_PAYLOAD,
    PREFIX,
    SMALL_PAYLOAD,
    Frame,
    check_lengths,
    decode_header,
    encode_frame,
)
from spot_agent.sync.identity import Identity, fingerprint

_PARTING_SECONDS: Final = 0.5


class Channel:
    """Sends and receives frames.

    Attributes:
        sent_bytes: Bytes put on the wire so far, before encryption.
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False
        self._longest_payload = SMALL_PAYLOAD
        self._part = bytearray(PREFIX.size)
        self._filled = 0
        self._lengths: tuple[int, int] | None = None
        self._header: dict[str, object] | None = None
        self.sent_bytes = 0

    def allow_large_payloads(self) -> None:
        """For data, and only once the peer is known."""
        self._longest_payload = LONGEST_PAYLOAD

    def send(self, frame: Frame, *, deadline: float) -> None:
        """Send one frame.

        Args:
            frame: What to send.
            deadline: On the monotonic clock. After it nothing more can be sent: the peer has half a frame.

        Raises:
            LinkDown: It could not be sent.
        """
        head = encode_frame(frame)
        with self.connection_in_use():
            # A small frame goes out as one record, so that it is one packet.
            if len(frame.payload) <= SMALL_PAYLOAD:
                self._send_all(memoryview(head + bytes(frame.payload)), deadline)
            else:
                self._send_all(memoryview(head), deadline)
                self._send_all(memoryview(frame.payload), deadline)
        self.sent_bytes += len(head) + len(frame.payload)

    def receive(self, *, deadline: float) -> Frame:
        """Wait for the next frame.

        Args:
            deadline: On the monotonic clock.

        Raises:
            TimeoutError: It has not arrived in time; asking again goes on where this stopped.
            LinkDown: The connection is gone.
            ProtocolViolated: What arrived is no frame.
        """
        with self.connection_in_use():
            if self._lengths is None:
                self._fill(deadline)
                self._lengths = check_lengths(self._part, longest_payload=self._longest_payload)
                self._expect(self._lengths[0])
            if self._header is None:
                self._fill(deadline)
                self._header = decode_header(self._part)
                self._expect(self._lengths[1])
            self._fill(deadline)
            frame = Frame(self._header, self._part)
            self._lengths = self._header = None
            self._expect(PREFIX.size)
            return frame

    def poll(self) -> Frame | None:
        """The next frame if it has arrived; does not wait."""
        try:
            return self.receive(deadline=0)
        except TimeoutError:
            return None

    def close(self) -> None:
        """Close; wakes a thread that waits in `send` or `receive`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._users:
                # Not the TLS shutdown, which is not for two threads at once; the user closes when it wakes up.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
            else:
                self._connection.close()

    @contextlib.contextmanager
    def connection_in_use(self) -> Iterator[ssl.SSLSocket]:
        """The connection, which is not closed, only shut down, as long as it is in use."""
        with self._lock:
            if self._closed:
                raise LinkDown("the connection to the peer is closed")
            self._users += 1
        try:
            yield self._connection
        finally:
            with self._lock:
                self._users -= 1
                if self._closed and not self._users:
                    self._connection.close()

    def _expect(self, length: int) -> None:
        self._part = bytearray(length)
        self._filled = 0

    def _fill(self, deadline: float) -> None:
        view = memoryview(self._part)
        while self._filled < len(view):
            try:
                # Once the deadline has passed: what is there already, without waiting.
                self._connection.settimeout(0 if deadline <= time.monotonic() else wait_until(deadline))
                got = self._connection.recv_into(view[self._filled :])
            except TimeoutError:
                raise
            except ssl.SSLWantReadError as nothing:
                raise TimeoutError("nothing has arrived yet") from nothing
            except (OSError, ValueError) as broken:
                raise LinkDown(f"the connection to the peer broke: {broken}") from broken
            if not got:
                raise LinkDown("the peer closed the connection")
            self._filled += got

    def _send_all(self, view: memoryview, deadline: float) -> None:
        while view:
            try:
                self._connection.settimeout(wait_until(deadline))
                view = view[self._connection.send(view) :]
            except (OSError, ValueError) as broken:
                raise LinkDown(f"could not send to the peer: {broken}") from broken


def hung_up(channels: Sequence[Channel], *, timeout_seconds: float) -> bool:
    """Wait for a peer to close one of some channels, without reading from them.

    Raises:
        LinkDown: One is closed on this side.
    """
    poll = select.poll()
    with contextlib.ExitStack() as stack:
        for channel in channels:
            poll.register(stack.enter_context(channel.connection_in_use()), select.POLLRDHUP)
        return bool(poll.poll(timeout_seconds * 1000))


def dial(address: str, port: int, *, identity: Identity, certificate: str, timeout_seconds: float) -> Channel:
    """Open a channel to a listening peer.

    Args:
        address: Where it listens.
        port: Where it listens.
        identity: What we show.
        certificate: What it must show (PEM).
        timeout_seconds: For connection and handshake, each.

    Raises:
        LinkDown: Nobody answers there.
        PeerNotTrusted: Somebody else does, or our certificate is not taken.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, identity, certificate)
    try:
        connection = socket.create_connection((address, port), timeout=timeout_seconds)
    except OSError as unreachable:
        raise LinkDown(f"{address}:{port} does not answer: {unreachable}") from unreachable
    return _shake_hands(context, connection, certificate, server_side=False, timeout_seconds=timeout_seconds)


def answer(connection: socket.socket, *, identity: Identity, certificate: str, timeout_seconds: float) -> Channel:
    """Make a channel of an accepted connection; the connection is closed if that fails.

    Raises:
        LinkDown: The other side went away.
        PeerNotTrusted: It did not show the pinned certificate.
    """
    try:
        context = _context(ssl.PROTOCOL_TLS_SERVER, identity, certificate)
    except BaseException:
        connection.close()
        raise
    return _shake_hands(context, connection, certificate, server_side=True, timeout_seconds=timeout_seconds)


def _context(protocol: ssl._SSLMethod, identity: Identity, certificate: str) -> ssl.SSLContext:
    fingerprint(certificate)  # refuses what is no certificate, with our own error
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # Every connection proves itself anew: a resumed session would outlive a pin that has changed.
    context.options |= ssl.OP_NO_TICKET
    if protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.load_cert_chain(identity.identity_file)
    try:
        context.load_verify_locations(cadata=certificate)
    except ssl.SSLError as unreadable:
        raise PeerNotTrusted(f"what was handed out for the peer is no certificate: {unreadable.reason}") from unreadable
    return context


def _shake_hands(
    context: ssl.SSLContext, connection: socket.socket, certificate: str, *, server_side: bool, timeout_seconds: float
) -> Channel:
    try:
        connection.settimeout(timeout_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = context.wrap_socket(connection, server_side=server_side, do_handshake_on_connect=False)
    except OSError as broken:
        connection.close()
        raise LinkDown(f"the peer went away before the handshake: {broken}") from broken
    try:
        secured.do_handshake()
        shown = secured.getpeercert(binary_form=True)
        if shown is None or fingerprint(ssl.DER_cert_to_PEM_cert(shown)) != fingerprint(certificate):
            raise PeerNotTrusted("the peer showed another certificate than the control plane handed out for it")
    except ssl.SSLCertVerificationError as untrusted:
        _let_the_alert_arrive(secured)
        secured.close()
        raise PeerNotTrusted(f"the peer's certificate is not the pinned one: {untrusted.verify_message}") from untrusted
    except ssl.SSLError as failed:
        secured.close()
        raise PeerNotTrusted(f"no TLS handshake with the peer: {failed.reason}") from failed
    except OSError as broken:
        secured.close()
        raise LinkDown(f"the peer went away during the handshake: {broken}") from broken
    except PeerNotTrusted:
        secured.close()
        raise
    return Channel(secured)


def _let_the_alert_arrive(connection: ssl.SSLSocket) -> None:
    """Wait a moment for the other side to close first.

    It may have said more already. Closing with that unread would reset the connection, and it would not learn why.
    """
    end = time.monotonic() + _PARTING_SECONDS
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_WR)
        while time.monotonic() < end:
            connection.settimeout(wait_until(end))
            if not socket.socket.recv(connection, 4096):
                return


def wait_until(deadline: float) -> float:
    """Seconds to wait for a deadline on the monotonic clock, at most an hour at a time."""
    # Never 0, which would mean "do not block" and fail with another error.
    return min(max(deadline - time.monotonic(), 0.001), 3600.0)
