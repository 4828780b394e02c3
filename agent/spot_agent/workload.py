"""What agent and supervisor say to each other about the workload: one JSON object per line, over an inherited socket.

The agent orders (`start`, `stop`, `fence`, `hold`, `look`), the supervisor answers every order, and every change, with
the whole status: an agent that was restarted asks once and knows what runs and under which epoch.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from spot_agent.fence import EndReason

SUPERVISOR_DESCRIPTOR: Final = "SPOT_SUPERVISOR_FD"


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """What the supervisor knows.

    Attributes:
        running: Some process of the run lives, or may.
        epoch: The epoch it was started under, or was last; None if it never was since the supervisor started.
        deadline: When the running workload is killed (CLOCK_BOOTTIME); None: never.
        ended: How the last run ended; None while one runs and before the first.
        code: Exit status of the last run's command, negative for a signal, None if unknown.
        answers: Which order this answers; None when it tells of a change.
        refusal: Why that order was not obeyed; None if it was.
    """

    running: bool
    epoch: int | None = None
    deadline: float | None = None
    ended: EndReason | None = None
    code: int | None = None
    answers: str | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class StartWorkload:
    """Start it, unless some run has not ended, or an epoch above this one has been seen."""

    epoch: int
    command: str
    environment: Mapping[str, str]
    deadline: float | None


@dataclass(frozen=True, slots=True)
class StopWorkload:
    """SIGTERM, and SIGKILL after the grace; 0 kills at once."""

    grace_seconds: float


@dataclass(frozen=True, slots=True)
class MoveFence:
    """Kill the run of this epoch at the deadline (CLOCK_BOOTTIME), instead of when it was to be killed before."""

    epoch: int
    deadline: float | None


@dataclass(frozen=True, slots=True)
class HoldWorkload:
    """Stop every process of the run of this epoch (SIGSTOP) at this moment (CLOCK_BOOTTIME), until it is moved.

    An order of its own: a supervisor of the version before refuses it, and nothing else.
    """

    epoch: int
    at: float | None


@dataclass(frozen=True, slots=True)
class LookAtWorkload:
    """Say how it is; also the agent's sign of life."""


Order = StartWorkload | StopWorkload | MoveFence | HoldWorkload | LookAtWorkload
_ORDERS: Final[Mapping[str, Callable[..., Order]]] = {
    "start": StartWorkload,
    "stop": StopWorkload,
    "fence": MoveFence,
    "hold": HoldWorkload,
    "look": LookAtWorkload,
}
_NAMES: Final[Mapping[Any, str]] = {kind: name for name, kind in _ORDERS.items()}


def name_of(order: Order) -> str:
    """What the order is called on the wire."""
    return _NAMES[type(order)]


def encode_order(order: Order) -> bytes:
    """One line that `decode_order` reads."""
    return _line({"order": name_of(order), **asdict(order)})


def decode_order(line: bytes) -> Order:
    """Read a line of `encode_order`."""
    said = json.loads(line)
    return _ORDERS[said.pop("order")](**said)


def encode_status(status: WorkloadStatus) -> bytes:
    """One line that `decode_status` reads."""
    return _line(asdict(status))


def decode_status(line: bytes) -> WorkloadStatus:
    """Read a line of `encode_status`; what a newer supervisor adds to it is passed over."""
    said = json.loads(line)
    return WorkloadStatus(**{field.name: said[field.name] for field in fields(WorkloadStatus) if field.name in said})


class WorkloadLink:
    """The agent's end: orders go out at once, each status comes to a callback."""

    def __init__(
        self, connection: socket.socket, *, on_status: Callable[[WorkloadStatus], None], on_lost: Callable[[], None]
    ) -> None:
        """Listen on the connection, in a thread of its own.

        Args:
            connection: The socket inherited from the supervisor.
            on_status: Called, in that thread, with each status.
            on_lost: Called once when the supervisor is gone: its keeper has killed the workload.
        """
        self._connection = connection
        self._on_status = on_status
        self._on_lost = on_lost
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    def order(self, order: Order) -> None:
        """Send it; the answer is a status. An order to a dead supervisor is lost, and `on_lost` says so."""
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(encode_order(order))

    def _listen(self) -> None:
        for line in received_lines(self._connection):
            self._on_status(decode_status(line))
        self._on_lost()


def received_lines(connection: socket.socket) -> Iterator[bytes]:
    """Each line that arrives, until the other end is gone."""
    kept = b""
    while True:
        try:
            received = connection.recv(65536)
        except ConnectionResetError:
            return
        if not received:
            return
        *lines, kept = (kept + received).split(b"\n")
        yield from lines


def _line(said: Mapping[str, object]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
