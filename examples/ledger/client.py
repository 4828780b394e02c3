"""A client that writes without pause and remembers every acknowledgement it was given."""

import argparse
import http.client
import json
import secrets
import signal
import sys
import threading
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from examples.ledger.clock import boot_ns
from examples.ledger.errors import SettingRefused
from examples.ledger.eventlog import EventLog
from examples.ledger.outage import OutageMeter

# Retry-After asks for a second. This client is a measuring instrument: it asks again at once, to see the outage as
# short as it was.
RETRY_SECONDS = 0.02


class Acknowledged(NamedTuple):
    """The ledger has the entry."""

    seq: int
    epoch: int


class Failed(NamedTuple):
    """Whether the ledger has the entry is unknown, or it has not: try again with the same id."""

    error: str


class Refused(NamedTuple):
    """The ledger will never take this entry."""

    error: str


class LedgerClient:
    """Writes entries from a thread of its own.

    An entry keeps its id until it is acknowledged, so trying again after an unknown outcome cannot enter it twice.
    """

    def __init__(
        self, url: str, log_path: str, *, rate: float = 50.0, timeout_seconds: float = 0.5, name: str | None = None
    ) -> None:
        """Prepare a client; `start` begins to write.

        Args:
            url: Such as http://203.0.113.7:8080.
            log_path: Its own log, appended to.
            rate: Entries per second while all goes well.
            timeout_seconds: How long to wait for a connection, and again for an answer.
            name: What its ids begin with; random, so that two clients, or two runs of one, never share an id.

        Raises:
            SettingRefused: The url is not http, or a number is not positive.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise SettingRefused(f"url {url}: expected one such as http://127.0.0.1:8080")
        if rate <= 0 or timeout_seconds <= 0:
            raise SettingRefused("rate and timeout: expected numbers above 0")
        self._host, self._port = parts.hostname, parts.port or 80
        self._every_seconds = 1 / rate
        self._timeout_seconds = timeout_seconds
        self._name = name or secrets.token_hex(4)
        self._log = EventLog(log_path, client=self._name)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._write_until_stopped, name=f"ledger-client-{self._name}", daemon=True
        )
        self._connection: http.client.HTTPConnection | None = None
        self._meter = OutageMeter()
        self._last_acknowledged_ns: int | None = None
        self.acknowledged = 0
        self.failed_attempts = 0
        self.last_error: str | None = None
        self.last_epoch: int | None = None

    @property
    def longest_gap_seconds(self) -> float:
        """The longest outage so far, as `OutageMeter` defines it."""
        return self._meter.longest_ns / 1e9

    @property
    def seconds_since_acknowledged(self) -> float | None:
        """How long ago the last acknowledgement came; None before the first."""
        last = self._last_acknowledged_ns
        return None if last is None else (boot_ns() - last) / 1e9

    def start(self) -> None:
        self._log.append("started", url=f"http://{self._host}:{self._port}")
        self._thread.start()

    def stop(self) -> None:
        """Finish the attempt under way, then write no more. Stopping twice is stopping once."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._disconnect()
        self._log.append("stopped", acknowledged=self.acknowledged)
        self._log.close()

    def _write_until_stopped(self) -> None:
        number = 0
        due = time.monotonic()
        while not self._stop.is_set():
            number += 1
            self._write_one(f"{self._name}-{number:08d}", amount=1 + number % 997)
            # After an outage it goes on at its rate: catching up in a burst would distort what comes next.
            due = max(due + self._every_seconds, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def _write_one(self, entry_id: str, *, amount: int) -> None:
        attempt = 0
        while True:
            attempt += 1
            asked_ns = boot_ns()
            outcome = self._ask(entry_id, amount)
            match outcome:
                case Acknowledged(seq, epoch):
                    waited_ns = boot_ns() - asked_ns
                    at_ns = self._log.append(
                        "acknowledged",
                        id=entry_id,
                        amount=amount,
                        seq=seq,
                        epoch=epoch,
                        attempt=attempt,
                        waited_ns=waited_ns,
                    )
                    self._meter.note_acknowledgement(at_ns, waited_ns=waited_ns)
                    self._last_acknowledged_ns = at_ns
                    self.acknowledged += 1
                    self.last_epoch = epoch
                    return
                case Failed(error):
                    at_ns = self._log.append("failed", id=entry_id, attempt=attempt, error=error)
                    self._meter.note_failure(at_ns)
                    self.failed_attempts += 1
                    self.last_error = error
                    if self._stop.wait(RETRY_SECONDS):
                        self._log.append("abandoned", id=entry_id, amount=amount)
                        return
                case Refused(error):
                    self._log.append("refused", id=entry_id, amount=amount, error=error)
                    self.last_error = error
                    return

    def _ask(self, entry_id: str, amount: int) -> Acknowledged | Failed | Refused:
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)
            self._connection.request(
                "POST",
                "/entries",
                body=json.dumps({"id": entry_id, "amount": amount}),
                headers={"Content-Type": "application/json"},
            )
            response = self._connection.getresponse()
            body = response.read()
            if response.will_close:
                self._disconnect()
        except (OSError, http.client.HTTPException) as error:
            self._disconnect()
            return Failed(f"{type(error).__name__}: {error}")
        return _judge(response.status, body, entry_id=entry_id)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _judge(status: int, body: bytes, *, entry_id: str) -> Acknowledged | Failed | Refused:
    if status in (400, 409, 413):
        return Refused(f"{status}: {body.decode(errors='replace')}")
    if status not in (200, 201):
        return Failed(f"status {status}")
    try:
        entry = json.loads(body)
    except ValueError:
        return Failed(f"status {status} without JSON")
    # What acknowledges another entry, or comes from something that is no ledger, acknowledges nothing.
    if not isinstance(entry, dict) or entry.get("id") != entry_id:
        return Failed(f"status {status} for another entry")
    seq, epoch = entry.get("seq"), entry.get("serving_epoch")
    if type(seq) is not int or type(epoch) is not int:
        return Failed(f"status {status} without seq and serving_epoch")
    return Acknowledged(seq, epoch)


def main(arguments: list[str]) -> int:
    """Write until SIGTERM or SIGINT, or for as long as asked, then print what was seen."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.ledger client", description="Write entries without pause."
    )
    parser.add_argument("--url", required=True, help="where the ledger answers, such as http://127.0.0.1:8080")
    parser.add_argument("--log", required=True, help="file that gets every acknowledged id, one JSON object per line")
    parser.add_argument("--rate", type=float, default=50.0, help="entries per second (%(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=0.5, help="seconds to wait for a connection or an answer (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=None, help="stop by itself after this long")
    chosen = parser.parse_args(arguments)
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    client = LedgerClient(chosen.url, chosen.log, rate=chosen.rate, timeout_seconds=chosen.timeout)
    client.start()
    if chosen.seconds is None:
        signal.sigwait(ends)
    else:
        signal.sigtimedwait(ends, chosen.seconds)
    client.stop()
    summary = {
        "acknowledged": client.acknowledged,
        "failed_attempts": client.failed_attempts,
        "longest_gap_seconds": round(client.longest_gap_seconds, 3),
        "last_error": client.last_error,
        "last_epoch": client.last_epoch,
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
