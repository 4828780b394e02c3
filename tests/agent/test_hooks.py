"""Hooks: their environment, their time limit, and what they leave behind."""

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from spot_agent.hooks import Cancellation, HookRunner, workload_environment
from tests.agent.fence_rig import is_alive, wait_until

ENVIRONMENT = {"PATH": os.environ["PATH"]}


def test_a_hook_that_exits_with_0_succeeded() -> None:
    outcome = HookRunner().run("freeze", "echo frozen; echo why >&2", environment=ENVIRONMENT, timeout_seconds=5)
    assert outcome.succeeded
    assert outcome.output == "frozen\nwhy"


def test_a_failing_hook_is_an_outcome_and_its_output_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = HookRunner().run("freeze", "echo cannot; exit 3", environment=ENVIRONMENT, timeout_seconds=5)
    assert (outcome.succeeded, outcome.code) == (False, 3)
    assert [(record.message, record.__dict__["output"]) for record in caplog.records] == [("hook failed", "cannot")]


def test_a_hook_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    command = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    began = time.monotonic()
    outcome = HookRunner().run("quiesce", command, environment=ENVIRONMENT, timeout_seconds=1)
    assert outcome.code is None
    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_alive(child))


def test_what_a_hook_leaves_running_is_killed_when_it_ends(tmp_path: Path) -> None:
    HookRunner().run("stop", f"sleep 600 & echo $! > {tmp_path}/child", environment=ENVIRONMENT, timeout_seconds=5)
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_alive(child))


def test_a_cancelled_hook_is_killed_at_once() -> None:
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()
    began = time.monotonic()
    outcome = HookRunner().run(
        "freeze", "sleep 600", environment=ENVIRONMENT, timeout_seconds=60, cancellation=cancellation
    )
    assert outcome.code is None
    assert time.monotonic() - began < 2


def test_a_closed_runner_kills_what_runs_and_runs_nothing_more(tmp_path: Path) -> None:
    runner = HookRunner()
    threading.Timer(0.1, runner.close).start()
    assert not runner.run("start", "sleep 600", environment=ENVIRONMENT, timeout_seconds=60).succeeded
    runner.run("start", f"touch {tmp_path}/ran", environment=ENVIRONMENT, timeout_seconds=60)
    assert not (tmp_path / "ran").exists()


def test_hooks_are_told_who_and_where_they_are_and_no_secret() -> None:
    inherited = {
        "PATH": "/bin",
        "CLIENT_TOKEN": "x",
        "JOIN_TOKEN": "x",
        "NOTIFY_SOCKET": "x",
        "SPOT_SUPERVISOR_FD": "3",
    }
    environment = workload_environment(
        inherited,
        epoch=7,
        agent_id="agent-1",
        instance_id="i-1",
        private_address="10.0.0.4",
        service_address="10.0.0.5",
        state_dir=Path("/var/lib/spot-agent"),
    )
    assert environment == {
        "PATH": "/bin",
        "SPOT_EPOCH": "7",
        "SPOT_AGENT_ID": "agent-1",
        "SPOT_INSTANCE_ID": "i-1",
        "SPOT_PRIVATE_ADDRESS": "10.0.0.4",
        "SPOT_SERVICE_ADDRESS": "10.0.0.5",
        "SPOT_STATE_DIR": "/var/lib/spot-agent",
    }
