import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.ledger.audit import Audit, audit, entries_of_server, read_client_log, read_server_log
from examples.ledger.client import LedgerClient
from examples.ledger.errors import NotServing, SettingRefused
from spot_agent.settings import read_settings
from tests.examples.ledger_rig import Machine, a_free_port, machines


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Machine]]:
    """Two instances that answer at the same address, one after the other, as an Elastic IP has it."""
    with machines(tmp_path, 2, same_port=True) as two:
        yield two


def await_acknowledged(client: LedgerClient, count: int) -> None:
    target = client.acknowledged + count
    deadline = time.monotonic() + 10
    while client.acknowledged < target:
        assert time.monotonic() < deadline, client.last_error
        time.sleep(0.005)


def verdict_on(client_log: Path, served: list[Machine]) -> Audit:
    return audit(
        [read_client_log(client_log)],
        [read_server_log(machine.log) for machine in served],
        entries_of_server(served[-1].url),
    )


def hand_over(old: Machine, new: Machine) -> None:
    shutil.copytree(old.image.parent, new.image.parent, dirs_exist_ok=True)
    new.hook("restore")
    new.start()


def test_a_handover_loses_nothing_and_the_audit_says_so(pair: list[Machine], tmp_path: Path) -> None:
    old, new = pair
    old.start()
    client = LedgerClient(old.url, str(tmp_path / "client.jsonl"), rate=200)
    client.start()
    await_acknowledged(client, 50)
    old.hook("freeze")
    old.hook("quiesce")
    old.terminate()
    hand_over(old, new)
    await_acknowledged(client, 50)
    client.stop()
    verdict = verdict_on(tmp_path / "client.jsonl", pair)
    assert verdict.is_clean
    assert verdict.acknowledged_writes == client.acknowledged >= 100
    assert verdict.failed_attempts == client.failed_attempts > 0
    assert verdict.longest_gap_seconds == client.longest_gap_seconds > 0
    # Freezing hardly counts: while its process starts, the ledger goes on acknowledging.
    assert {hook.hook for hook in verdict.hooks if hook.seconds_in_outage > 0} >= {"quiesce", "restore", "start"}
    assert 0 < verdict.hook_seconds <= verdict.longest_gap_seconds
    assert client.last_epoch == 2


def test_a_handover_from_an_old_image_loses_what_the_audit_names(pair: list[Machine], tmp_path: Path) -> None:
    old, new = pair
    old.start()
    client = LedgerClient(old.url, str(tmp_path / "client.jsonl"), rate=200)
    client.start()
    await_acknowledged(client, 20)
    held = old.hook("quiesce")["entries_up_to"]
    await_acknowledged(client, 20)
    old.kill()
    hand_over(old, new)
    await_acknowledged(client, 5)
    client.stop()
    verdict = verdict_on(tmp_path / "client.jsonl", pair)
    records = [json.loads(line) for line in (tmp_path / "client.jsonl").read_text().splitlines()]
    beyond = {r["id"] for r in records if r["event"] == "acknowledged" and r["epoch"] == 1 and r["seq"] > held}
    assert set(verdict.lost_ids) == beyond
    assert len(beyond) >= 20
    assert not verdict.is_clean


def test_two_primaries_that_serve_at_once_are_found(tmp_path: Path) -> None:
    with machines(tmp_path, 2) as pair:
        clients = []
        for machine in pair:
            machine.start()
            clients.append(LedgerClient(machine.url, str(tmp_path / f"{machine.instance_id}.client.jsonl"), rate=200))
        for client in clients:
            client.start()
        for client in clients:
            await_acknowledged(client, 20)
        for client in clients:
            client.stop()
        verdict = verdict_on(tmp_path / "i-a.client.jsonl", pair)
        assert verdict.primaries_at_once_max == 2
        assert not verdict.epochs_in_order


def test_an_unknown_outcome_is_asked_again_under_the_same_id(tmp_path: Path) -> None:
    """The first answer to each entry gets lost on the way, as when an address moves between commit and answer."""
    with machines(tmp_path) as [machine], socket.create_server(("127.0.0.1", 0)) as front:
        machine.start()
        asked: dict[str, int] = {}

        def forward() -> None:
            while True:
                try:
                    connection, _ = front.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as stream:
                    length = 0
                    while (line := stream.readline()) not in (b"\r\n", b""):
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    entry = json.loads(stream.read(length))
                    status, body, _ = machine.ask("POST", "/entries", entry)
                    asked[entry["id"]] = asked.get(entry["id"], 0) + 1
                    if asked[entry["id"]] > 1:
                        data = json.dumps(body).encode()
                        head = f"HTTP/1.1 {status} OK\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
                        connection.sendall(head.encode() + data)

        forwarding = threading.Thread(target=forward, daemon=True)
        forwarding.start()
        url = f"http://127.0.0.1:{front.getsockname()[1]}"
        client = LedgerClient(url, str(tmp_path / "client.jsonl"), rate=100)
        client.start()
        await_acknowledged(client, 5)
        client.stop()
        front.shutdown(socket.SHUT_RDWR)
        forwarding.join(timeout=5)
        entries = machine.ask("GET", "/entries?limit=1000")[1]["entries"]
    assert len(entries) == len({entry["id"] for entry in entries}) == len(asked)
    assert client.failed_attempts >= client.acknowledged >= 5


def test_a_silent_server_is_given_up_within_the_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = LedgerClient(url, str(tmp_path / "client.jsonl"), timeout_seconds=0.05)
        client.start()
        time.sleep(0.3)
        client.stop()
    assert client.acknowledged == 0
    assert client.failed_attempts >= 2
    assert client.last_error is not None
    assert "TimeoutError" in client.last_error


def test_an_answer_about_another_entry_acknowledges_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as front:

        def lie() -> None:
            connection, _ = front.accept()
            with connection:
                connection.recv(65536)
                body = b'{"seq":1,"id":"another","amount":1,"epoch":1,"serving_epoch":1}'
                connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                time.sleep(0.1)

        lying = threading.Thread(target=lie)
        lying.start()
        client = LedgerClient(
            f"http://127.0.0.1:{front.getsockname()[1]}", str(tmp_path / "client.jsonl"), timeout_seconds=0.1
        )
        client.start()
        lying.join()
        client.stop()
    assert client.acknowledged == 0
    assert "another entry" in (tmp_path / "client.jsonl").read_text()


def test_the_command_stops_cleanly_and_its_log_is_complete(tmp_path: Path) -> None:
    with machines(tmp_path) as [machine]:
        machine.start()
        command = [sys.executable, "-m", "examples.ledger", "client", "--url", machine.url]
        process = subprocess.Popen(
            [*command, "--log", str(tmp_path / "client.jsonl"), "--rate", "100"],
            env=machine.environment(),
            stdout=subprocess.PIPE,
        )
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=5)
        summary = json.loads(output)
        log = read_client_log(tmp_path / "client.jsonl")
        assert process.returncode == 0
        assert (log[0].event, log[-1].event) == ("started", "stopped")
        in_log = {event.entry_id for event in log if event.event == "acknowledged"}
        assert summary["acknowledged"] == len(in_log) > 3
        assert in_log == machine.entry_ids()


def test_the_client_keeps_its_rate(tmp_path: Path) -> None:
    with machines(tmp_path) as [machine]:
        machine.start()
        client = LedgerClient(machine.url, str(tmp_path / "client.jsonl"), rate=50)
        client.start()
        time.sleep(0.6)
        client.stop()
        client.stop()
    assert 10 <= client.acknowledged <= 32
    since = client.seconds_since_acknowledged
    assert since is not None
    assert since < 5


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "https://127.0.0.1", "http://"])
def test_a_client_is_told_what_a_url_looks_like(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingRefused, match="expected one such as http"):
        LedgerClient(url, str(tmp_path / "client.jsonl"))


def test_the_audit_says_when_no_ledger_is_left() -> None:
    with pytest.raises(NotServing):
        entries_of_server(f"http://127.0.0.1:{a_free_port()}", timeout_seconds=0.5)


def test_the_agent_understands_the_configuration(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "examples" / "ledger" / "agent.env"
    environment = {"CENTRAL_SERVER_URL": "http://127.0.0.1:1/api", "TRAFFIC_TARGET": "eipalloc-0123"}
    settings = read_settings(file=file, environment=environment, user_data=None, folder=tmp_path)
    assert settings.watched_paths == (tmp_path / "ledger" / "image",)
    for verb in ("start", "freeze", "thaw", "quiesce", "restore", "health"):
        served_by = "serve" if verb == "start" else verb
        assert getattr(settings.hooks, verb) == f'exec "$PYTHON" -m examples.ledger {served_by}'
