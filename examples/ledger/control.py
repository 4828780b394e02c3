# ruff: noqa: PTH103, PTH118
# pathlib would lengthen every hook by a fifth, and hooks are part of the outage; see settings.py.
"""The unix socket in the live folder, through which hooks reach the serving process. It is never on the network."""

import contextlib
import fcntl
import os
import socket
import time
from typing import NamedTuple

from examples.ledger.clock import process_started_boot_ns
from examples.ledger.errors import AlreadyServing, NotServing

# Linux takes 107 bytes for the path of a unix socket, and an instance's disk may lie deeper: it is named through its
# open folder.
_SOCKET_NAME = "control.sock"
STARTED_HEADER = "hook-started-boot-ns"


class Answer(NamedTuple):
    status: int
    body: str


def listening_socket(live_folder: str) -> socket.socket:
    """The control socket, ready to accept. The caller holds the live folder, so an old one is a dead one."""
    folder = os.open(live_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_SOCKET_NAME, dir_fd=folder)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        control.bind(f"/proc/self/fd/{folder}/{_SOCKET_NAME}")
        os.chmod(_SOCKET_NAME, 0o600, dir_fd=folder)
        control.listen(16)
        return control
    finally:
        os.close(folder)


def ask(live_folder: str, verb: str, *, within_seconds: float) -> Answer:
    """Have the serving process do something.

    Args:
        live_folder: The folder it serves from.
        verb: freeze, thaw, quiesce, or stop.
        within_seconds: How long its answer may take.

    Raises:
        NotServing: Nothing serves from the folder, or it did not answer in time.
    """
    try:
        folder = os.open(live_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotServing(f"no live folder at {live_folder}: start the ledger first") from error
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(within_seconds)
            connection.connect(f"/proc/self/fd/{folder}/{_SOCKET_NAME}")
            return _exchange(connection, "POST", f"/{verb}", within_seconds)
    except OSError as error:
        raise NotServing(f"no ledger serves from {live_folder}: {error}") from error
    finally:
        os.close(folder)


def ask_health(address: str, port: int, *, within_seconds: float) -> Answer:
    """Ask as a client would, over the network.

    Raises:
        NotServing: No answer in time.
    """
    try:
        with socket.create_connection((address, port), timeout=within_seconds) as connection:
            return _exchange(connection, "GET", "/health", within_seconds)
    except OSError as error:
        raise NotServing(f"no ledger answers at {address}:{port}: {error}") from error


def _exchange(connection: socket.socket, method: str, path: str, within_seconds: float) -> Answer:
    deadline = time.monotonic() + within_seconds
    connection.sendall(
        f"{method} {path} HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\nContent-Length: 0\r\n"
        f"{STARTED_HEADER}: {process_started_boot_ns()}\r\n\r\n".encode()
    )
    received = b""
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    head, _, body = received.decode("utf-8", errors="replace").partition("\r\n\r\n")
    status = head.split(" ", 2)[1:2]
    if not (status and status[0].isdigit()):
        raise NotServing("the answer is not HTTP: expected a ledger")
    return Answer(int(status[0]), body)


class LiveFolder:
    """The right to use a live folder. One process at a time has it, and loses it when it ends, however that is."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def release(self) -> None:
        os.close(self._handle)


def hold(live_folder: str, *, within_seconds: float = 0.0) -> LiveFolder:
    """Take the live folder, which is made where it is missing.

    Raises:
        AlreadyServing: Another process has it and keeps it that long.
    """
    os.makedirs(live_folder, mode=0o700, exist_ok=True)
    handle = os.open(os.path.join(live_folder, "in-use.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.005)
                continue
            os.close(handle)
            raise AlreadyServing(f"a process already serves from {live_folder}: stop it first") from None
        return LiveFolder(handle)
