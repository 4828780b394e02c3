"""Real ledgers in processes of their own, on loopback."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Machine:
    """One instance: a disk, an address, and the hooks that the agent would run on it."""

    disk: Path
    logs: Path
    port: int
    instance_id: str = "i-a"
    epoch: int = 1
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def live(self) -> Path:
        return self.disk / "ledger" / "live"

    @property
    def image(self) -> Path:
        return self.disk / "ledger" / "image" / "ledger.db"

    @property
    def log(self) -> Path:
        return self.logs / f"{self.instance_id}.jsonl"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "INSTANCE_DISK": str(self.disk),
            "LEDGER_LOG": f"{self.logs}/",
            "PORT": str(self.port),
            "SPOT_SERVICE_ADDRESS": "127.0.0.1",
            "SPOT_INSTANCE_ID": self.instance_id,
            "SPOT_EPOCH": str(self.epoch),
        }

    def command(self, verb: str) -> list[str]:
        return [sys.executable, "-m", "examples.ledger", verb]

    def start(self) -> None:
        self.disk.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            self.command("serve"), env=self.environment(), cwd=self.disk, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                assert self.ask("GET", "/health")[0] == 200
                return
            assert self.process.poll() is None, "the ledger ended at once"
            time.sleep(0.005)
        raise AssertionError("the ledger does not answer")

    def run(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Run a hook to its end, as the agent would."""
        self.disk.mkdir(parents=True, exist_ok=True)
        return subprocess.run(
            self.command(verb), env=self.environment(), cwd=self.disk, capture_output=True, text=True, timeout=20
        )

    def hook(self, verb: str) -> dict[str, Any]:
        """Run a hook that has to succeed."""
        done = self.run(verb)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, body=data)
            response = connection.getresponse()
            return response.status, json.loads(response.read()), dict(response.getheaders())
        finally:
            connection.close()

    def entry_ids(self) -> set[str]:
        found: set[str] = set()
        after = 0
        while True:
            page = self.ask("GET", f"/entries?after={after}&limit=1000")[1]
            if not page["entries"]:
                return found
            found |= {entry["id"] for entry in page["entries"]}
            after = page["next_after"]


class Writers:
    """Threads that write as fast as they are served, each id once, and note what was acknowledged and when."""

    def __init__(self, port: int, *, threads: int = 3, name: str = "w") -> None:
        self.acknowledged: list[tuple[str, int]] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(f"{name}{n}",)) for n in range(threads)]

    @property
    def acknowledged_ids(self) -> set[str]:
        return {entry_id for entry_id, _ in self.acknowledged}

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def await_more(self, count: int) -> None:
        target = len(self.acknowledged) + count
        deadline = time.monotonic() + 10
        while len(self.acknowledged) < target:
            assert time.monotonic() < deadline, "no acknowledgements"
            time.sleep(0.002)

    def _write(self, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                while not self._stop.is_set():
                    number += 1
                    entry_id = f"{name}-{number}"
                    connection.request("POST", "/entries", body=json.dumps({"id": entry_id, "amount": number}))
                    response = connection.getresponse()
                    response.read()
                    if response.status == 201:
                        self.acknowledged.append((entry_id, time.monotonic_ns()))
                    else:
                        self._stop.wait(0.005)
            self._stop.wait(0.01)


def problems_of(database: Path) -> list[str]:
    """What SQLite has to say against a database file; nothing, if it is sound."""
    connection = sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)
    try:
        return [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    finally:
        connection.close()


def seqs_and_ids(database: Path) -> tuple[list[int], set[str]]:
    connection = sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)
    try:
        rows = connection.execute("SELECT seq, id FROM entries ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [row[0] for row in rows], {row[1] for row in rows}


@contextlib.contextmanager
def machines(folder: Path, count: int = 1, *, same_port: bool = False) -> Iterator[list[Machine]]:
    """Instances i-a, i-b, ... at epochs 1, 2, ...; whatever they run is killed at the end."""
    first = a_free_port()
    made = [
        Machine(
            disk=folder / f"disk-{n}",
            logs=folder / "logs",
            port=first if same_port or n == 0 else a_free_port(),
            instance_id=f"i-{'abcdef'[n]}",
            epoch=n + 1,
        )
        for n in range(count)
    ]
    try:
        yield made
    finally:
        for machine in made:
            machine.kill()
