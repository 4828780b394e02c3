import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.ledger.control import hold
from examples.ledger.errors import AlreadyServing, SettingRefused, StillInFlight, WritesFrozen
from examples.ledger.gate import WriteGate
from examples.ledger.settings import read_settings
from examples.ledger.store import Store
from tests.examples.ledger_rig import Machine, Writers, machines


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machines(tmp_path) as [one]:
        one.start()
        yield one


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A ledger for tests that must leave it without an entry."""
    with machines(tmp_path_factory.mktemp("untouched")) as [one]:
        one.start()
        yield one


def logged(machine: Machine) -> list[str]:
    return [json.loads(line)["event"] for line in machine.log.read_text().splitlines()]


def test_acknowledged_entries_survive_a_sigkill(machine: Machine) -> None:
    acknowledged: set[str] = set()
    for round_number in range(4):
        with Writers(machine.port, name=f"r{round_number}-") as writers:
            writers.await_more(20)
            machine.kill()
        acknowledged |= writers.acknowledged_ids
        machine.start()
        assert acknowledged <= machine.entry_ids()


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "ledger.db"))
    full = 2
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (full,)
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_every_acknowledgement_is_in_the_log_of_who_gave_it(machine: Machine) -> None:
    with Writers(machine.port) as writers:
        writers.await_more(50)
        machine.kill()
    records = [json.loads(line) for line in machine.log.read_text().splitlines()]
    assert writers.acknowledged_ids <= {record["id"] for record in records if record["event"] == "acknowledged"}


def test_the_same_entry_again_is_acknowledged_but_not_entered_again(machine: Machine) -> None:
    entry = {"id": "a-1", "amount": 250}
    first = machine.ask("POST", "/entries", entry)
    again = machine.ask("POST", "/entries", entry)
    assert (first[0], again[0]) == (201, 200)
    assert first[1] == again[1] == {"seq": 1, "id": "a-1", "amount": 250, "epoch": 1, "serving_epoch": 1}
    assert machine.ask("GET", "/entries/a-1")[1] == {"seq": 1, "id": "a-1", "amount": 250, "epoch": 1}
    assert machine.ask("POST", "/entries", {"id": "a-1", "amount": 251})[0] == 409


def test_entries_are_listed_in_pages(machine: Machine) -> None:
    for number in range(5):
        machine.ask("POST", "/entries", {"id": f"a-{number}", "amount": number})
    pages = [machine.ask("GET", f"/entries?after={after}&limit=2")[1] for after in (0, 2, 4, 5)]
    assert [[entry["seq"] for entry in page["entries"]] for page in pages] == [[1, 2], [3, 4], [5], []]
    assert [page["next_after"] for page in pages] == [2, 4, 5, 5]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/entries", b"not json", 400, "body"),
        ("POST", "/entries", b"[" * 10_000, 400, "body"),
        ("POST", "/entries", {"id": "a"}, 400, "amount"),
        ("POST", "/entries", {"id": "a b", "amount": 1}, 400, "id"),
        ("POST", "/entries", {"id": 7, "amount": 1}, 400, "id"),
        ("POST", "/entries", {"id": "a", "amount": 1.5}, 400, "amount"),
        ("POST", "/entries", {"id": "a", "amount": True}, 400, "amount"),
        ("POST", "/entries", {"id": "a", "amount": 2**63}, 400, "amount"),
        ("POST", "/entries", {"id": "a", "amount": 1, "currency": "EUR"}, 400, "currency"),
        ("POST", "/entries", b" " * 20_000, 413, None),
        ("GET", "/entries?after=x", None, 400, "after"),
        ("GET", "/entries?limit=1001", None, 400, "limit"),
        ("GET", "/entries?before=3", None, 400, "before"),
        ("GET", "/entries/nobody", None, 404, None),
        ("GET", "/nowhere", None, 404, None),
        ("DELETE", "/entries", None, 405, None),
        ("POST", "/freeze", None, 404, None),
    ],
)
def test_bad_input_is_refused_and_named(
    untouched: Machine, method: str, path: str, body: object, status: int, field: str | None
) -> None:
    answer, problem, headers = untouched.ask(method, path, body)
    assert (answer, problem["status"], problem.get("field")) == (status, status, field)
    assert headers["Content-Type"] == "application/problem+json"
    assert untouched.entry_ids() == set()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /entries HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /entries HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 100 + b"\r\n",
    ],
)
def test_what_is_no_request_is_answered_and_the_connection_closed(untouched: Machine, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", untouched.port), timeout=5) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass  # it closed without reading the rest of what it refused
    assert received[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5")
    assert untouched.run("health").returncode == 0


def test_half_an_entry_is_no_entry(untouched: Machine) -> None:
    with socket.create_connection(("127.0.0.1", untouched.port), timeout=5) as connection:
        connection.sendall(b'POST /entries HTTP/1.1\r\nContent-Length: 40\r\n\r\n{"id": "a", "amount": 1}')
    assert untouched.entry_ids() == set()


def test_nothing_is_acknowledged_between_freeze_and_thaw(machine: Machine) -> None:
    with Writers(machine.port) as writers:
        writers.await_more(30)
        machine.hook("freeze")
        frozen_ns = time.monotonic_ns()
        time.sleep(0.1)
        status, _, headers = machine.ask("POST", "/entries", {"id": "late", "amount": 1})
        assert (status, headers["Retry-After"]) == (503, "1")
        assert machine.ask("GET", "/health")[1]["frozen"] is True
        held = machine.entry_ids()
        thawed_ns = time.monotonic_ns()
        machine.hook("thaw")
        writers.await_more(30)
    assert {entry_id for entry_id, at_ns in writers.acknowledged if at_ns < frozen_ns} <= held
    # A writer notes an acknowledgement a little after it was given.
    slack_ns = 20_000_000
    assert not [1 for _, at_ns in writers.acknowledged if frozen_ns + slack_ns < at_ns < thawed_ns]
    events = logged(machine)
    between = events[events.index("frozen") + 1 : events.index("thawed")]
    assert "acknowledged" not in between
    assert "acknowledged" in events[events.index("thawed") :]


def test_freeze_waits_for_the_write_in_flight(machine: Machine) -> None:
    holder = sqlite3.connect(machine.live / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    answers: list[int] = []
    writing = threading.Thread(
        target=lambda: answers.append(machine.ask("POST", "/entries", {"id": "slow", "amount": 1})[0])
    )
    writing.start()
    time.sleep(0.2)  # the write is at the database's lock
    frozen = threading.Event()

    def freeze() -> None:
        machine.hook("freeze")
        frozen.set()

    freezing = threading.Thread(target=freeze)
    freezing.start()
    try:
        assert not frozen.wait(0.5)
    finally:
        holder.execute("COMMIT")
        holder.close()
        freezing.join()
        writing.join()
    assert answers == [201]
    assert logged(machine)[-2:] == ["acknowledged", "frozen"]


def test_freezing_fails_when_a_write_does_not_end_and_stays_closed() -> None:
    gate = WriteGate()
    with gate.one_write():
        with pytest.raises(StillInFlight):
            gate.freeze(within_seconds=0.01)
        with pytest.raises(WritesFrozen), gate.one_write():
            pass
    gate.freeze(within_seconds=0)
    gate.thaw()
    with gate.one_write():
        pass


def test_a_stopping_ledger_cannot_be_thawed() -> None:
    gate = WriteGate()
    gate.stop(within_seconds=0)
    with pytest.raises(WritesFrozen):
        gate.thaw()
    assert gate.is_frozen


def test_sigterm_ends_it_gracefully_even_with_idle_clients(machine: Machine) -> None:
    with socket.create_connection(("127.0.0.1", machine.port)), Writers(machine.port) as writers:
        writers.await_more(20)
        began = time.monotonic()
        assert machine.terminate() == 0
        assert time.monotonic() - began < 2
    assert logged(machine)[-1] == "stopped"
    assert not (machine.live / "ledger.db-wal").exists()
    machine.start()
    assert writers.acknowledged_ids <= machine.entry_ids()


def test_stop_returns_when_the_ledger_has_ended(machine: Machine) -> None:
    assert machine.process is not None
    machine.hook("stop")
    assert machine.process.wait(timeout=1) == 0
    assert machine.run("health").returncode == 1


def test_nobody_else_gets_the_folder_that_a_ledger_serves_from(machine: Machine) -> None:
    with pytest.raises(AlreadyServing):
        hold(str(machine.live))
    refused = machine.run("restore")
    assert refused.returncode == 1
    assert "already serves" in refused.stderr
    assert machine.run("health").returncode == 0
    machine.kill()
    hold(str(machine.live)).release()


def test_hooks_fail_when_nothing_serves(tmp_path: Path) -> None:
    with machines(tmp_path) as [machine]:
        for verb in ("health", "freeze", "thaw", "stop", "quiesce", "restore"):
            done = machine.run(verb)
            assert done.returncode == 1, verb
            assert done.stderr.startswith(f"ledger: {verb}: "), verb
        assert not machine.image.exists()


def test_hooks_reach_a_ledger_that_lies_deeper_than_a_socket_name_may(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with machines(deep) as [machine]:
        machine.start()
        assert machine.hook("freeze") == {"frozen": True}
        assert machine.hook("quiesce") == {"changed": True, "entries_up_to": 0}


def test_the_control_socket_is_for_its_owner_alone(untouched: Machine) -> None:
    assert (untouched.live / "control.sock").stat().st_mode & 0o077 == 0
    assert untouched.live.stat().st_mode & 0o077 == 0


def test_it_serves_soon_after_its_start(untouched: Machine) -> None:
    healthy = next(json.loads(line) for line in untouched.log.read_text().splitlines() if '"healthy"' in line)
    # Several times what it takes on an idle untouched: this catches a heavy import, not a busy neighbour.
    assert healthy["took_ns"] < 1_500_000_000


@pytest.mark.parametrize(
    "environment",
    [
        {"PORT": "http"},
        {"PORT": "65536"},
        {"SPOT_EPOCH": "-1"},
        {"LEDGER_LIVE": "/d/ledger", "LEDGER_IMAGE": "/d/ledger"},
        {"LEDGER_LIVE": "/d/ledger/live", "LEDGER_IMAGE": "/d/ledger"},
        {"LEDGER_LIVE": "/d", "LEDGER_IMAGE": "/d/image"},
    ],
)
def test_settings_that_cannot_work_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(SettingRefused):
        read_settings(environment)


def test_the_log_folder_gets_one_log_per_instance() -> None:
    settings = read_settings({"LEDGER_LOG": "/logs/", "SPOT_INSTANCE_ID": "i-7", "INSTANCE_DISK": "/disk"})
    assert settings.log_path == "/logs/i-7.jsonl"
    assert settings.database_path == "/disk/ledger/live/ledger.db"
    assert settings.image_path == "/disk/ledger/image/ledger.db"
