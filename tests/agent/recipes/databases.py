"""The databases of the recipes, as their tests use them: begun, written to by clients without pause, and read again."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from spot_agent.fence import descendants, end
from spot_agent.hooks import HookOutcome, HookRunner
from tests.agent.fence_rig import wait_until

RECIPES: Final = Path(__file__).parents[3] / "agent" / "recipes"
PATIENCE_SECONDS: Final = 120.0


class Database(ABC):
    """One instance's server and its recipe.

    Attributes:
        needs: Programs of Debian, and the packages that they are in.
        freezes: Whether the recipe has a freeze; otherwise the workload is stopped.
        image: The folder that is carried.
        acknowledged: Each number that a client was told to be written, and when (epoch seconds).
    """

    needs: ClassVar[Mapping[str, str]]
    freezes = True

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.image = folder / "image"
        self.acknowledged: dict[int, float] = {}
        self._hooks = HookRunner()
        self._recipe = RECIPES / name
        self._process: subprocess.Popen[bytes] | None = None
        self._writing = threading.Event()
        self._writers: list[threading.Thread] = []

    # -- the recipe

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """What places.sh reads."""

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.settings}

    def hook(self, name: str) -> HookOutcome:
        """Run one, as the agent does."""
        return self._hooks.run(
            name, str(self._recipe / name), environment=self.environment, timeout_seconds=PATIENCE_SECONDS
        )

    def must(self, name: str) -> None:
        outcome = self.hook(name)
        assert outcome.succeeded, outcome

    def begin(self) -> None:
        """Make an empty database."""
        subprocess.run([self._recipe / "begin"], env=self.environment, check=True)

    @property
    def start_command(self) -> str:
        return f"exec {self._recipe / 'start'}"

    def start(self) -> None:
        """Run the workload, and wait until it is healthy."""
        with (self.folder / "workload.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", self.start_command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        wait_until(lambda: self.hook("health").succeeded, PATIENCE_SECONDS)

    def stop(self) -> None:
        """As the supervisor does: the hook, SIGTERM, and at last SIGKILL."""
        process = self._process
        if process is None:
            return
        if (self._recipe / "stop").exists():
            self.must("stop")
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """What the loss of the instance does to it."""
        if self._process is not None:
            end((self._process.pid, *descendants(self._process.pid)))
            self._process.wait()
            self._process = None

    # -- clients

    def write_on(self) -> None:
        """Have a client write rising numbers, one after the other, until `rest`."""
        self._writing.set()
        thread = threading.Thread(target=self._write, daemon=True)
        thread.start()
        self._writers.append(thread)

    def rest(self) -> None:
        """No client writes any more; one that still waits for an answer goes without it."""
        self._writing.clear()
        for thread in self._writers:
            thread.join(PATIENCE_SECONDS)
        self._writers.clear()

    @abstractmethod
    def _write(self) -> None:
        """Write while `_writing`, noting what is acknowledged; ends when the server does."""

    @abstractmethod
    def entries(self) -> set[int]:
        """All numbers in the database."""

    @abstractmethod
    def check(self) -> None:
        """The server's own check of its integrity."""

    def close(self) -> None:
        self.kill()
        self.rest()
        self._hooks.close()


_APPLICATION: Final = """
import itertools, os, sqlite3, sys, time
database, acknowledgements, journal_mode = sys.argv[1:]
connection = sqlite3.connect(database, isolation_level=None, timeout=60)
connection.execute(f"PRAGMA journal_mode={journal_mode}")
connection.execute("CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, ballast BLOB)")
first = connection.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()[0] + 1
with open(acknowledgements, "a", buffering=1) as out:
    for number in itertools.count(first):
        connection.execute("INSERT INTO entries VALUES (?, ?)", (number, os.urandom(500)))
        out.write(f"{number} {time.time()}\\n")
        time.sleep(0.0005)
"""


class Sqlite(Database):
    """SQLite within an application, which writes as soon as it runs."""

    needs: ClassVar[Mapping[str, str]] = {"sqlite3": "sqlite3"}
    freezes = False
    journal_mode = "wal"

    def __init__(self, folder: Path) -> None:
        super().__init__("sqlite", folder)
        (folder / "app").mkdir()
        self.database = folder / "app" / "app.db"

    @property
    def settings(self) -> Mapping[str, str]:
        return {"SQLITE_DATABASE": str(self.database), "SQLITE_IMAGE": str(self.image)}

    def begin(self) -> None:
        sqlite3.connect(self.database).close()

    @property
    def start_command(self) -> str:
        program = self.folder / "application.py"
        program.write_text(_APPLICATION)
        acknowledgements = self.folder / "acknowledged"
        return f"exec {sys.executable} {program} {self.database} {acknowledgements} {self.journal_mode}"

    def _write(self) -> None:
        file = self.folder / "acknowledged"
        wait_until(file.exists, PATIENCE_SECONDS)
        with file.open() as lines:
            kept = ""
            while True:
                going_on = self._writing.is_set()
                kept += lines.read()
                *whole, kept = kept.split("\n")
                self.acknowledged.update((int(number), float(at)) for number, at in (line.split() for line in whole))
                if not going_on:
                    return
                time.sleep(0.01)

    def entries(self) -> set[int]:
        connection = sqlite3.connect(self.database, timeout=60)
        try:
            return {number for (number,) in connection.execute("SELECT number FROM entries")}
        finally:
            connection.close()

    def check(self) -> None:
        answer = subprocess.run(
            ["sqlite3", "-cmd", ".timeout 60000", self.database, "PRAGMA integrity_check"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert answer.stdout.strip() == "ok"


class SqliteRollback(Sqlite):
    journal_mode = "delete"


class Redis(Database):
    needs: ClassVar[Mapping[str, str]] = {
        "redis-server": "redis-server",
        "redis-cli": "redis-tools",
        "redis-check-aof": "redis-tools",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__("redis", folder)
        (folder / "redis.conf").write_text("appendfsync always\nbind 127.0.0.1\n")

    @property
    def settings(self) -> Mapping[str, str]:
        return {"REDIS_ROOT": str(self.folder), "REDIS_PORT": "0", "REDIS_CONF": str(self.folder / "redis.conf")}

    def _write(self) -> None:
        number = max(self.entries(), default=0)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.2)
            client.connect(str(self.folder / "redis.sock"))
            while self._writing.is_set():
                number += 1
                try:
                    client.sendall(f"RPUSH entries {number}\r\n".encode())
                except OSError:
                    return
                if not self._await_answer(client):
                    return
                self.acknowledged[number] = time.time()

    def _await_answer(self, client: socket.socket) -> bool:
        while self._writing.is_set():
            try:
                return client.recv(4096).startswith(b":")
            except TimeoutError:
                continue  # it is frozen
            except OSError:
                return False
        return False

    def entries(self) -> set[int]:
        answer = subprocess.run(
            ["redis-cli", "-s", self.folder / "redis.sock", "lrange", "entries", "0", "-1"],
            check=True,
            capture_output=True,
            text=True,
        )
        return {int(line) for line in answer.stdout.split()}

    def check(self) -> None:
        log = self.folder / "live" / "appendonlydir" / "appendonly.aof.manifest"
        answer = subprocess.run(["redis-check-aof", log], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout


class PostgreSQL(Database):
    programs = max(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"),
        key=lambda programs: int(programs.parent.name),
        default=Path("/usr/lib/postgresql/15/bin"),
    )
    needs: ClassVar[Mapping[str, str]] = {str(programs / "postgres"): "postgresql", "setpriv": "util-linux"}

    def __init__(self, folder: Path) -> None:
        super().__init__("postgresql", folder)
        self.root = folder / "pg"
        self.image = self.root / "image"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def settings(self) -> Mapping[str, str]:
        # So little log that base backups are taken again and again.
        return {"POSTGRES_ROOT": str(self.root), "POSTGRES_PORT": str(self.port), "POSTGRES_MOST_LOG_MB": "16"}

    def begin(self) -> None:
        super().begin()
        # Before the default rules, which ask for a password.
        rules = self.root / "data" / "pg_hba.conf"
        rules.write_text("host postgres app 127.0.0.1/32 trust\n" + rules.read_text())

    def start(self) -> None:
        super().start()
        self._ask("CREATE TABLE IF NOT EXISTS entries (number bigint PRIMARY KEY, ballast text)")
        self._ask("DO $$ BEGIN CREATE ROLE app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        self._ask("GRANT ALL ON entries TO app")

    def _write(self) -> None:
        number = max(self.entries(), default=0)
        client = subprocess.Popen(
            ["stdbuf", "-oL", *self._psql, "-h", "127.0.0.1", "-U", "app"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            while self._writing.is_set():
                number += 1
                client.stdin.write(f"INSERT INTO entries VALUES ({number}, repeat('x', 300)) RETURNING number;\n")
                if client.stdout.readline() != f"{number}\n":
                    return
                self.acknowledged[number] = time.time()
        except BrokenPipeError:
            return
        finally:
            client.kill()
            client.wait()
            client.stdout.close()

    def _ask(self, statement: str) -> str:
        return self._run(*self._psql, "-h", self.root, "-c", statement)

    @property
    def _psql(self) -> Sequence[str | Path]:
        options = ["-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]
        return [self.programs / "psql", *options, "-p", str(self.port)]

    def _run(self, *command: str | Path) -> str:
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        return subprocess.run([*as_postgres, *command], check=True, capture_output=True, text=True, cwd="/").stdout

    def entries(self) -> set[int]:
        return {int(line) for line in self._ask("SELECT number FROM entries").split()}

    def check(self) -> None:
        self._ask("CREATE EXTENSION IF NOT EXISTS amcheck")
        self._run(
            self.programs / "pg_amcheck", "-h", self.root, "-p", str(self.port), "--heapallindexed", "-d", "postgres"
        )
        self.stop()
        self._run(self.programs / "pg_checksums", "--check", "-D", self.root / "data")


DATABASES: Final[Mapping[str, type[Sqlite | Redis | PostgreSQL]]] = {
    "sqlite, write-ahead log": Sqlite,
    "sqlite, rollback journal": SqliteRollback,
    "redis": Redis,
    "postgresql": PostgreSQL,
}


def missing(needs: Mapping[str, str]) -> str | None:
    """How to install what a test needs, if it is not there."""
    packages = sorted({package for program, package in needs.items() if shutil.which(program) is None})
    return f"sudo apt-get install {' '.join(packages)}" if packages else None
