"""Loopback addresses for instances, and the forwarder that a public address is.

One local AWS owns one 127.A.0.0/16, so that two can run side by side. An instance has 127.A.1.N as its primary private
address and 127.A.2.N as its secondary one; Elastic IPs are 127.A.3.N, and addresses that come with a launch 127.A.4.N.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

_log = logging.getLogger(__name__)

_CLAIM_PORT = 49_999
_CHUNK = 1 << 18
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class AddressesExhausted(Exception):
    """More than 254 addresses of one kind are in use at once."""


@dataclass
class AddressRange:
    """127.A.X.1 to 127.A.X.254, handed out in turn, so that a freed address rests before it is used again."""

    prefix: str
    _used: set[int] = field(default_factory=set)
    _last: int = 0

    def take(self) -> str:
        """Take the next free address.

        Raises:
            AddressesExhausted: All 254 are in use.
        """
        for step in range(1, 255):
            number = (self._last + step - 1) % 254 + 1
            if number not in self._used:
                self._used.add(number)
                self._last = number
                return f"{self.prefix}.{number}"
        raise AddressesExhausted(self.prefix)

    def give_back(self, address: str) -> None:
        """Return an address of this range; others are ignored."""
        prefix, _, number = address.rpartition(".")
        if prefix == self.prefix:
            self._used.discard(int(number))


class Network:
    """The part of loopback that belongs to one local AWS for as long as it lives."""

    def __init__(self) -> None:
        self._claim, second = _claim_a_network()
        self.private = AddressRange(f"127.{second}.1")
        self.secondary = AddressRange(f"127.{second}.2")
        self.elastic = AddressRange(f"127.{second}.3")
        self.ephemeral = AddressRange(f"127.{second}.4")

    def close(self) -> None:
        """Let another local AWS have this network."""
        self._claim.close()


def _claim_a_network() -> tuple[socket.socket, int]:
    """Bind a UDP socket inside a free 127.A.0.0/16: the kernel gives the claim back when its owner dies."""
    for second in random.sample(range(16, 250), 234):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((f"127.{second}.0.1", _CLAIM_PORT))
        except OSError:
            claim.close()
        else:
            return claim, second
    raise AddressesExhausted("127.0.0.0/8")


class Forwarder:
    """A public address: TCP connections to it reach the private address behind it, as through NAT.

    When the address moves or is taken away, live connections are reset, as they break on AWS.
    """

    def __init__(self, public_address: str) -> None:
        self.public_address = public_address
        self.target: str | None = None
        self._servers: dict[int, asyncio.Server] = {}
        self._live: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def point_at(self, target: str | None, ports: Iterable[int]) -> None:
        """Send new connections to `target` (None: nowhere), on these ports, and reset the old ones."""
        moved = target != self.target
        self.target = target
        if moved:
            self._reset_all()
        wanted = set(ports) if target is not None else set()
        for port in set(self._servers) - wanted:
            self._servers.pop(port).close()
        for port in wanted - set(self._servers):
            try:
                self._servers[port] = await asyncio.start_server(
                    functools.partial(self._accept, port),
                    self.public_address,
                    port,
                    limit=_CHUNK,
                )
            except OSError as error:
                _log.warning("%s cannot serve port %d: %s", self.public_address, port, error)

    async def close(self) -> None:
        """Stop listening and reset what is open."""
        await self.point_at(None, ())

    def _reset_all(self) -> None:
        for writer in tuple(self._live):
            _reset(writer)
        self._live.clear()

    async def _accept(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.target
        try:
            if target is None:
                raise ConnectionRefusedError  # moved away between accept and here
            behind_reader, behind_writer = await asyncio.open_connection(target, port, limit=_CHUNK)
        except OSError:
            _reset(writer)
            return
        if self.target != target:
            _reset(writer)
            _reset(behind_writer)
            return
        pair = (writer, behind_writer)
        self._live.update(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, behind_writer))
                group.create_task(_pump(behind_reader, writer))
        except* OSError:
            for each in pair:
                _reset(each)
        finally:
            self._live.difference_update(pair)
            for each in pair:
                each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until end of file, and pass the half-close on."""
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: the peer must learn at once that this connection is over."""
    connection = cast("socket.socket | None", writer.get_extra_info("socket"))
    if connection is not None:
        with contextlib.suppress(OSError):  # already closed
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
