"""Every command against the API's real handlers."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spot_optimizer import wiring
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.orphans import Finding, Kind, Plan, Report, Sighting, write_report
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.writes import Table
from spotctl.failures import ExitCode
from spotctl.main import app
from tests.api.conftest import PRIMARY, STANDBY, Http, Registration
from tests.api.test_agents import a_token_for, an_active_replica, put
from tests.api.test_models import Models, models
from tests.api.test_replicas import a_ready_standby, commit, make_ready, open_handover, ready
from tests.cli.conftest import Rows, Spotctl
from tests.cli.served import ServedApi
from tests.trained_models import a_trained_model

__all__ = ["models"]

TOKEN = "spo_operator_0123456789abcdef0123_" + "5e" * 32


@contextmanager
def meanwhile(play: Callable[[], None]) -> Iterator[None]:
    """Have something happen beside the command; what went wrong there fails the test."""
    failures: list[BaseException] = []

    def played() -> None:
        try:
            play()
        except BaseException as failure:  # noqa: BLE001 -- it is raised again below
            failures.append(failure)

    thread = threading.Thread(target=played)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def await_call(served: ServedApi, suffix: str, *, times: int = 1) -> None:
    until = time.monotonic() + 60
    while sum(asked.path.endswith(suffix) for asked in served.asked) < times:
        assert time.monotonic() < until, f"{suffix} was not asked {times} times"
        time.sleep(0.02)


# --- signing in


@pytest.fixture
def stranger(spotctl: Spotctl) -> Spotctl:
    """Nothing in the environment, nothing kept."""
    spotctl.environment |= {"SPOTCTL_API_URL": None, "SPOTCTL_TOKEN": None}
    return spotctl


def test_signing_in_keeps_what_later_commands_use(
    stranger: Spotctl, served: ServedApi, http: Http, tmp_path: Path
) -> None:
    ended = stranger("sign-in", served.url, say=f"{http.admin}\n")
    assert ended.status == 0, ended.err
    assert "stage test" in ended.err
    file = tmp_path / "config" / "spotctl" / "sign-in.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [left.name for left in file.parent.iterdir()] == ["sign-in.json"]
    assert stranger("agents", "list", "--json").document[0]["client_id"] == "acme"


def test_the_token_is_never_shown_or_passed_on_the_command_line(
    stranger: Spotctl, served: ServedApi, http: Http
) -> None:
    ended = stranger("sign-in", served.url, "--json", say=f"{http.admin}\n")
    secret = http.admin.rpartition("_")[2]
    assert secret not in ended.out + ended.err
    assert ended.document["token_id"] in http.admin


def test_a_clients_token_signs_in_too(stranger: Spotctl, served: ServedApi, http: Http) -> None:
    assert stranger("sign-in", served.url, say=f"{http.client_token}\n").status == 0
    assert len(stranger("agents", "list", "--json").document) == 1
    assert stranger("clients", "list").status == 4


def test_a_token_that_is_not_in_force_is_not_kept(stranger: Spotctl, served: ServedApi, tmp_path: Path) -> None:
    ended = stranger("sign-in", served.url, say=f"{TOKEN}\n")
    assert ended.status == 3
    assert "unknown or was revoked" in ended.err
    assert not (tmp_path / "config" / "spotctl" / "sign-in.json").exists()


@pytest.mark.parametrize("given", ["", "\n", "hello\n", "spo_agent_1_2\n"])
def test_what_is_no_token_of_a_person_is_refused_before_anything_is_asked(
    stranger: Spotctl, served: ServedApi, given: str
) -> None:
    assert stranger("sign-in", served.url, say=given).status == 2
    assert served.asked == []


def test_signing_out_forgets(stranger: Spotctl, served: ServedApi, http: Http) -> None:
    stranger("sign-in", served.url, say=f"{http.admin}\n")
    assert "Signed out" in stranger("sign-out").err
    assert "Nobody" in stranger("sign-out").err
    assert stranger("agents", "list").status == 3


def test_the_environment_goes_before_what_was_kept(stranger: Spotctl, served: ServedApi, http: Http) -> None:
    stranger("sign-in", served.url, say=f"{http.admin}\n")
    stranger.environment["SPOTCTL_TOKEN"] = http.client_token
    assert stranger("clients", "list").status == 4


# --- agents


def test_agents_are_listed_as_a_table_and_for_machines(spotctl: Spotctl, agent: Registration) -> None:
    ended = spotctl("agents", "list")
    assert ended.status == 0, ended.err
    [heading, _, row] = [line for line in ended.out.splitlines() if line.strip()]
    assert heading.split("  ")[0] == "agent"
    assert row.startswith(agent.agent_id)
    assert "online" in row
    [document] = spotctl("agents", "list", "--json").document
    assert (document["agent_id"], document["status"]) == (agent.agent_id, "online")


def test_a_list_is_read_to_its_end(spotctl: Spotctl, http: Http, served: ServedApi) -> None:
    for number in range(104):
        body = {"client_id": f"client-{number:03d}", "name": "x"}
        assert http.call("POST", "/api/clients", body, token=http.admin).status == 201
    listed = spotctl("clients", "list", "--json").document
    assert len({client["client_id"] for client in listed}) == len(listed) == 105
    assert [asked.query["limit"] for asked in served.asked] == ["100", "100"]
    assert len(spotctl("clients", "list", "--limit", "103", "--json").document) == 103
    assert served.asked[-1].query["limit"] == "3"


def test_filters_reach_the_api_or_are_applied(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    assert spotctl("agents", "list", "--client", "nobody", "--json").document == []
    assert served.asked[-1].query["client_id"] == "nobody"
    assert spotctl("agents", "list", "--status", "lost", "--json").document == []
    both = spotctl("agents", "list", "--status", "lost", "--status", "online", "--json").document
    assert [one["agent_id"] for one in both] == [agent.agent_id]


def test_an_empty_list_says_so_to_people_and_stays_a_list_for_machines(spotctl: Spotctl) -> None:
    ended = spotctl("agents", "list", "--client", "nobody")
    assert (ended.status, ended.out) == (0, "")
    assert "There is no agent yet" in ended.err
    assert spotctl("agents", "list", "--client", "nobody", "--json").document == []


def test_an_agent_is_shown_with_the_replicas_it_has_now(spotctl: Spotctl, agent: Registration) -> None:
    an_active_replica(agent)
    agent.beat()
    ended = spotctl("agents", "show", agent.agent_id)
    assert ended.status == 0, ended.err
    shown = dict(line.split(None, 1) for line in ended.out.splitlines() if len(line.split(None, 1)) == 2)
    assert shown["primary"].strip() == PRIMARY
    assert shown["serving"].strip() == "yes"
    assert "rep-1" in ended.out
    document = spotctl("agents", "show", agent.agent_id, "--json").document
    assert [replica["replica_id"] for replica in document["replicas"]] == ["rep-1"]
    put(Table.REPLICAS, agent.agent_id, "rep-1", status=ReplicaState.FAILED, ended_at=datetime.now(UTC))
    assert spotctl("agents", "show", agent.agent_id, "--json").document["replicas"] == []


def test_a_toggle_is_changed_and_the_others_stay(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    before = spotctl("agents", "config", "get", agent.agent_id, "--json").document
    changed = spotctl(
        "agents", "config", "set", agent.agent_id, "--no-auto-switch", "--sync-interval", "2.5", "--json"
    ).document
    assert changed == before | {"auto_switch": False, "sync_interval_seconds": 2.5}
    assert served.calls("PATCH")[0].body == {"auto_switch": False, "sync_interval_seconds": 2.5}
    shown = dict(line.split(None, 1) for line in spotctl("agents", "config", "get", agent.agent_id).out.splitlines())
    assert shown["auto_switch"].strip() == "no"


def test_changing_nothing_is_not_understood(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    assert spotctl("agents", "config", "set", agent.agent_id).status == ExitCode.USAGE
    assert served.calls("PATCH") == []


# --- replicas


def test_a_replica_is_created_where_it_was_asked_for(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    created = spotctl(
        *("replicas", "create", agent.agent_id, "--pool", "us-east-1b.m5.large"),
        *("--exclude-zone", "us-east-1c", "--exclude-zone", "us-east-1d", "--json"),
    ).document
    assert (created["type"], created["status"]) == ("manual", "launching")
    asked = served.calls("POST")[0]
    assert asked.body == {"pool_id": "us-east-1b.m5.large", "exclude_zones": ["us-east-1c", "us-east-1d"]}
    assert len(asked.headers["idempotency-key"]) == 32
    assert created["replica_id"] in spotctl("replicas", "list", agent.agent_id).out


def test_the_same_key_gives_the_same_replica(spotctl: Spotctl, agent: Registration) -> None:
    first = spotctl("replicas", "create", agent.agent_id, "--key", "k", "--json").document
    assert spotctl("replicas", "create", agent.agent_id, "--key", "k", "--json").document == first
    assert spotctl("replicas", "create", agent.agent_id).status == ExitCode.CONFLICT


def test_replicas_that_ended_are_listed_when_asked_for(spotctl: Spotctl, agent: Registration) -> None:
    an_active_replica(agent, status=ReplicaState.FAILED)
    ended = spotctl("replicas", "list", agent.agent_id)
    assert ended.out == ""
    assert "--all" in ended.err
    assert "rep-1" in spotctl("replicas", "list", agent.agent_id, "--all").out


def test_waiting_for_a_replica_shows_its_way_and_ends_when_it_is_ready(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    def the_instance_comes() -> None:
        await_call(served, "/replicas", times=2)
        with served.one_at_a_time:
            created = wiring.records().replicas(agent.agent_id)[0].replica_id
            an_instance_joins(agent, created)
            assert agent.call("POST", f"/replicas/{created}/sync-status", ready()).status == 200

    with meanwhile(the_instance_comes):
        ended = spotctl("replicas", "create", agent.agent_id, "--wait")
    assert ended.status == 0, ended.err
    assert "launching in - (0 %)" in ended.err
    assert "status         ready" in ended.out


def an_instance_joins(agent: Registration, replica_id: str) -> None:
    put(Table.REPLICAS, agent.agent_id, replica_id, status=ReplicaState.SYNCING, instance_id=STANDBY)


def test_waiting_for_a_replica_that_fails_ends_with_its_own_status(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    def the_launch_fails() -> None:
        await_call(served, "/replicas", times=2)
        with served.one_at_a_time:
            created = wiring.records().replicas(agent.agent_id)[0].replica_id
            put(Table.REPLICAS, agent.agent_id, created, status=ReplicaState.FAILED, failure="no capacity anywhere")

    with meanwhile(the_launch_fails):
        ended = spotctl("replicas", "create", agent.agent_id, "--wait")
    assert (ended.status, ended.out) == (ExitCode.UNFINISHED, "")
    assert "no capacity anywhere" in ended.err


def test_waiting_has_an_end(spotctl: Spotctl, agent: Registration) -> None:
    problem = spotctl("replicas", "create", agent.agent_id, "--wait", "--within", "1", "--json").problem
    assert problem["exit_code"] == ExitCode.UNFINISHED
    assert "goes on without you" in problem["detail"]


def test_a_replica_is_terminated_and_a_handover_forbids_it(spotctl: Spotctl, agent: Registration, rows: Rows) -> None:
    an_active_replica(agent, status=ReplicaState.LAUNCHING, joined=False)
    ended = spotctl("replicas", "terminate", agent.agent_id, "rep-1", "--yes", "--json").document
    assert ended["status"] == "terminated"
    assert ended["failure"].startswith("terminated by operator:")
    an_active_replica(agent)
    put(Table.AGENTS, agent.agent_id, handover_state=HandoverState.OPEN, handover_id="h-1", handover_replica_id="rep-1")
    before = rows()
    assert spotctl("replicas", "terminate", agent.agent_id, "rep-1", "--yes").status == ExitCode.CONFLICT
    assert rows() == before


# --- handing over


def test_a_replica_that_is_not_ready_is_not_promoted(spotctl: Spotctl, agent: Registration, rows: Rows) -> None:
    an_active_replica(agent)
    before = rows()
    ended = spotctl("replicas", "promote", agent.agent_id, "rep-1", "--yes")
    assert ended.status == ExitCode.CONFLICT
    assert "ReplicaNotReady" in ended.err
    assert "request-1" in ended.err
    assert rows() == before


def test_nobody_is_asked_where_nobody_can_answer(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    an_active_replica(agent)
    for command in (
        ("replicas", "promote", agent.agent_id, "rep-1"),
        ("emergencies", "termination", agent.agent_id),
        ("tokens", "rotate", "t"),
        ("tokens", "revoke", "t"),
    ):
        ended = spotctl(*command)
        assert ended.status == ExitCode.USAGE, command
        assert "--yes" in ended.err
    assert served.calls("POST") == served.calls("DELETE") == []


def serve_on(agent: Registration, standby: str) -> None:
    """Let the promoted standby serve, and its failover end."""
    assert agent.beat(epoch=2, token=standby).status == 200
    put(Table.AGENTS, agent.agent_id, claim_open=False, traffic_epoch=2)


def hand_over(served: ServedApi, agent: Registration) -> None:
    """Do what the state machine and the two agents do once a failover was started."""
    await_call(served, "/promote")
    await_call(served, agent.agent_id, times=3)
    with served.one_at_a_time:
        open_handover(agent)
    await_call(served, agent.agent_id, times=5)
    with served.one_at_a_time:
        standby = a_token_for(agent, STANDBY)
        assert commit(agent, standby).status == 200
    await_call(served, agent.agent_id, times=7)
    with served.one_at_a_time:
        serve_on(agent, standby)


def test_a_promotion_is_watched_until_the_new_primary_serves(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    a_ready_standby(agent)
    agent.beat()
    with meanwhile(lambda: hand_over(served, agent)):
        ended = spotctl("replicas", "promote", agent.agent_id, "rep-1", "--reason", "patch day", "--yes", "--wait")
    assert ended.status == 0, ended.err
    steps = [line.split("  ", 1)[1] for line in ended.err.splitlines() if line[2:3] == ":"]
    assert steps[0] == "handover h-1 opened"
    assert steps[1] == "replica rep-1 is promoted"
    assert steps[2] == f"promoted: epoch 1 -> 2, primary {STANDBY} in us-east-1b.m5.large"
    assert f"{STANDBY} serves" in steps
    assert "the agent is online" in steps
    assert served.calls("POST")[0].body == {"reason": "patch day"}
    assert "online at epoch 2" in ended.err


@pytest.mark.parametrize(("said", "wish"), [("--demote", True), ("--retire", False)])
def test_what_becomes_of_the_old_primary_is_said_with_the_promotion(
    spotctl: Spotctl, served: ServedApi, agent: Registration, said: str, wish: bool
) -> None:
    a_ready_standby(agent)
    ended = spotctl("replicas", "promote", agent.agent_id, "rep-1", said, "--yes")
    assert ended.status == 0, ended.err
    assert served.calls("POST")[-1].body == {"reason": "", "demote_old_primary": wish}


def test_a_planned_handover_is_called_off(spotctl: Spotctl, agent: Registration) -> None:
    an_active_replica(agent)
    put(
        Table.AGENTS,
        agent.agent_id,
        handover_id="h-1",
        handover_state=HandoverState.OPEN,
        handover_replica_id="rep-1",
        claim_open=True,
        claim_signal="operator",
    )
    ended = spotctl("handovers", "abort", agent.agent_id, "--yes", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["handover_state"] == "aborted"
    put(Table.AGENTS, agent.agent_id, handover_state=HandoverState.OPEN, claim_urgency=2)
    refused = spotctl("handovers", "abort", agent.agent_id, "--handover", "h-1", "--yes")
    assert refused.status == ExitCode.CONFLICT
    assert "HandoverNeeded" in refused.err


def test_watching_tells_machines_a_step_a_line(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    an_active_replica(agent)
    agent.beat()

    def it_becomes_ready_and_the_agent_is_lost() -> None:
        await_call(served, agent.agent_id, times=2)
        with served.one_at_a_time:
            make_ready(agent)
        await_call(served, agent.agent_id, times=4)
        with served.one_at_a_time:
            put(Table.AGENTS, agent.agent_id, lost=True)

    put(Table.AGENTS, agent.agent_id, claim_open=True)
    with meanwhile(it_becomes_ready_and_the_agent_is_lost):
        ended = spotctl("agents", "watch", agent.agent_id, "--every", "0.2", "--until-settled", "--json")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["step"] for line in lines[:-1]] == ["replica rep-1 is ready", "the agent is lost"]
    assert all(datetime.fromisoformat(line["at"]).tzinfo for line in lines[:-1])
    assert lines[-1] == {"settled": "lost", "epoch": 1}
    assert ended.status == ExitCode.UNFINISHED


def test_an_aborted_handover_ends_the_watch_and_says_that_nothing_was_lost(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    a_ready_standby(agent)
    agent.beat()

    def it_is_aborted() -> None:
        await_call(served, "/promote")
        with served.one_at_a_time:
            put(
                Table.AGENTS,
                agent.agent_id,
                handover_id="h-9",
                handover_state=HandoverState.ABORTED,
                claim_open=False,
            )

    with meanwhile(it_is_aborted):
        ended = spotctl("replicas", "promote", agent.agent_id, "rep-1", "--yes", "--wait")
    assert ended.status == ExitCode.UNFINISHED
    assert f"{PRIMARY} serves on" in ended.err


def test_a_control_plane_that_is_away_for_a_while_does_not_end_the_watch(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    agent.beat()
    put(Table.AGENTS, agent.agent_id, claim_open=True)

    def it_fails_and_comes_back() -> None:
        await_call(served, agent.agent_id, times=2)
        served.instead += [(500, {}, b"{}")] * 2
        await_call(served, agent.agent_id, times=4)
        with served.one_at_a_time:
            put(Table.AGENTS, agent.agent_id, claim_open=False)

    with meanwhile(it_fails_and_comes_back):
        ended = spotctl("agents", "watch", agent.agent_id, "--every", "0.2", "--until-settled")
    assert ended.status == 0, ended.err
    assert "the agent is online" in ended.err


# --- on a terminal


def on_a_terminal(spotctl: Spotctl, *arguments: str, when: str = "", say: str = "") -> tuple[int, str]:
    """Run the command as `make setup` installs it, on a terminal of its own; its exit status and what was on it.

    Args:
        spotctl: Whose environment it gets.
        *arguments: The command.
        when: What it asks.
        say: What is answered then.
    """
    terminal, theirs = pty.openpty()
    known = {name: value for name, value in spotctl.environment.items() if value is not None}
    with subprocess.Popen(
        [Path(sys.executable).parent / "spotctl", *arguments],
        env={"PATH": os.environ.get("PATH", os.defpath), "TERM": "xterm", "COLUMNS": "120", "LINES": "40", **known},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as command:
        os.close(theirs)
        seen = bytearray()
        with suppress(OSError):  # the terminal is gone when its last user is
            while piece := os.read(terminal, 4096):
                seen += piece
                if say and when.encode() in seen:
                    # Not before: asking for a secret throws away what was typed ahead, then writes the last space.
                    os.write(terminal, say.encode())
                    say = ""
    os.close(terminal)
    return command.returncode, seen.decode()


def test_on_a_terminal_the_watch_is_a_picture_that_is_drawn_anew(spotctl: Spotctl, agent: Registration) -> None:
    an_active_replica(agent)
    agent.beat()
    status, seen = on_a_terminal(spotctl, "agents", "watch", agent.agent_id, "--every", "0.2", "--within", "2")
    assert status == 0, seen
    assert seen.count("Ctrl-C ends") > 2
    assert seen.count("rep-1") > 2


def test_on_a_terminal_a_question_is_asked_and_no_means_no(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    an_active_replica(agent)
    status, seen = on_a_terminal(spotctl, "replicas", "promote", agent.agent_id, "rep-1", when="[y/N]: ", say="n\n")
    assert status == ExitCode.USAGE
    assert "nothing was changed" in seen
    assert served.calls("POST") == []


def test_on_a_terminal_the_token_is_not_echoed(spotctl: Spotctl, served: ServedApi, http: Http) -> None:
    status, seen = on_a_terminal(spotctl, "sign-in", served.url, when="Token: ", say=f"{http.admin}\n")
    assert status == 0, seen
    assert http.admin.rpartition("_")[2] not in seen


# --- emergencies


def test_a_termination_is_announced_for_the_primary(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    started = spotctl("emergencies", "termination", agent.agent_id, "--in", "90", "--yes", "--json").document
    assert started["execution"] == f"{agent.agent_id}-1-1"
    told = served.calls("POST")[0].body
    assert told["instance_id"] == PRIMARY
    left = datetime.fromisoformat(told["termination_time"]) - datetime.now(UTC)
    assert timedelta(seconds=0) < left <= timedelta(seconds=90)


def test_an_emergency_replica_is_called_for(spotctl: Spotctl, agent: Registration) -> None:
    ended = spotctl("emergencies", "replica", agent.agent_id)
    assert ended.status == 0, ended.err
    assert wiring.records().replicas(agent.agent_id)[0].replica_id in ended.out


# --- tenants


def test_a_client_is_created_and_gets_a_token_that_is_alone_on_its_line(spotctl: Spotctl, http: Http) -> None:
    assert spotctl("clients", "create", "globex", "--name", "Globex", "--json").document["name"] == "Globex"
    ended = spotctl("tokens", "issue", "globex", "--days", "7")
    token = ended.out.splitlines()[-1]
    assert http.call("GET", "/api/agents", token=token).status == 200
    rotated = spotctl("tokens", "rotate", token.split("_")[2], "--yes", "--json").document
    assert http.call("GET", "/api/agents", token=token).status == 401
    assert http.call("GET", "/api/agents", token=rotated["token"]).status == 200
    assert spotctl("tokens", "revoke", token.split("_")[2], "--yes").status == 0
    assert http.call("GET", "/api/agents", token=rotated["token"]).status == 401


def test_a_persons_token_is_issued_for_a_role(spotctl: Spotctl) -> None:
    ended = spotctl("tokens", "issue-operator", "viewer", "--name", "Kim", "--days", "3")
    spotctl.environment["SPOTCTL_TOKEN"] = ended.out.splitlines()[-1]
    assert spotctl("agents", "list").status == 0
    assert spotctl("clients", "create", "globex").status == ExitCode.FORBIDDEN
    assert spotctl("tokens", "issue-operator", "emperor", "--name", "Kim").status == ExitCode.INVALID


# --- looking


def test_the_pools_of_an_agent_say_why_not(spotctl: Spotctl, agent: Registration) -> None:
    pools = spotctl("agents", "pools", agent.agent_id, "--json").document
    assert all(pool["qualifies"] or pool["explanation"] for pool in pools)
    shown = spotctl("agents", "pools", agent.agent_id).out
    assert all(pool["pool_id"] in shown for pool in pools)


def test_filters_of_what_happened_reach_the_api(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    filters = ("--agent", agent.agent_id, "--from", "2026-03-01", "--to", "2026-03-02")
    assert spotctl("switches", *filters, "--reason", "manual", "--json").document == []
    assert served.asked[-1].query | {"limit": ""} == {
        "agent_id": agent.agent_id,
        "since": "2026-03-01T00:00:00+00:00",
        "until": "2026-03-02T00:00:00+00:00",
        "switch_reason": "manual",
        "limit": "",
    }
    assert spotctl("interruptions", *filters, "--signal", "termination-notice", "--json").document == []
    assert served.asked[-1].query["signal_type"] == "termination-notice"
    assert "no interruption" in spotctl("interruptions").err


def test_the_instances_of_a_client_are_listed(spotctl: Spotctl, agent: Registration) -> None:
    listed = spotctl("clients", "instances", "acme", "--role", "primary", "--json").document
    assert [instance["instance_id"] for instance in listed] == [PRIMARY]
    assert PRIMARY in spotctl("clients", "instances", "acme").out
    assert spotctl("clients", "instances", "acme", "--role", "king").status == ExitCode.INVALID


# --- pausing


def test_an_agent_is_paused_seen_paused_and_resumed(spotctl: Spotctl, agent: Registration) -> None:
    paused = spotctl("pause", agent.agent_id, "--reason", "patch day", "--yes", "--json").document
    assert paused["paused_because"] == "patch day"
    assert "patch day" in spotctl("agents", "show", agent.agent_id).out
    assert spotctl("replicas", "create", agent.agent_id).status == ExitCode.CONFLICT
    assert spotctl("resume", agent.agent_id, "--json").document["paused_at"] is None


def test_everything_is_paused_only_when_it_is_meant(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    assert spotctl("pause", "--reason", "audit").status == ExitCode.USAGE
    assert served.calls("POST") == []
    assert spotctl("pause", "--reason", "audit", "--yes", "--json").document["paused_because"] == "audit"
    assert served.asked[-1].path == "/api/pause"
    assert spotctl("resume", "--json").document["paused_at"] is None


# --- orphans


def test_what_nobody_claims_is_listed_with_the_reason_and_why_a_sweep_halted(spotctl: Spotctl) -> None:
    assert "is somebody's" in spotctl("orphans").err
    seen = Sighting(
        resource_id="i-0stray",
        kind=Kind.INSTANCE,
        agent_id="agt-1",
        finding=Finding.ORPHAN,
        reason="nobody knows it",
        first_seen_at=datetime.now(UTC),
    )
    wiring.records().commit(write_report(Report(), Plan((), (seen,), "too many at once"), now=datetime.now(UTC)))
    shown = " ".join(spotctl("orphans").both.split())
    assert "i-0stray" in shown and "nobody knows it" in shown and "too many at once" in shown
    assert spotctl("orphans", "--json").document[0]["resource_id"] == "i-0stray"


# --- models


def test_a_model_is_made_live_and_left_again(spotctl: Spotctl, served: ServedApi, models: Models) -> None:
    assert "advisor's band" in spotctl("models", "list").err
    session_id = models.upload(a_trained_model())

    def step_functions() -> None:
        await_call(served, "/activate")
        with served.one_at_a_time:
            assert models.walk(session_id)[-1] == "ReportLive"

    with meanwhile(step_functions):
        ended = spotctl("models", "activate", session_id, "--wait")
    assert ended.status == 0, ended.err
    assert "12 golden rows reproduced" in ended.out
    assert "live" in spotctl("models", "list").out
    with_nothing_before = spotctl("models", "fallback", "--yes", "--json").problem
    assert with_nothing_before["exit_code"] == ExitCode.CONFLICT
    assert "two activations before" in with_nothing_before["detail"]


def test_a_model_that_is_rejected_says_why(spotctl: Spotctl, served: ServedApi, models: Models) -> None:
    session_id = models.upload(a_trained_model().with_file("risk-1h.ubj", lambda _: b"\x80\x04\x95"))

    def step_functions() -> None:
        await_call(served, "/activate")
        with served.one_at_a_time:
            models.walk(session_id)

    with meanwhile(step_functions):
        ended = spotctl("models", "activate", session_id, "--wait")
    assert ended.status == ExitCode.UNFINISHED
    assert "Model rejected" in ended.err
    assert "what was live still is" in ended.err


def test_a_folder_is_held_to_its_manifest_before_anything_is_sent(
    spotctl: Spotctl, served: ServedApi, tmp_path: Path
) -> None:
    model = a_trained_model()
    folder = tmp_path / "model"
    folder.mkdir()
    assert "is no manifest" in spotctl("models", "upload", str(folder)).err
    (folder / "manifest.json").write_text(json.dumps(model.body["manifest"]))
    assert "has no file" in spotctl("models", "upload", str(folder)).err
    for name, content in model.files.items():
        (folder / name).write_bytes(content)
    (folder / "risk-1h.ubj").write_bytes(b"another")
    ended = spotctl("models", "upload", str(folder))
    assert ended.status == ExitCode.USAGE
    assert "its SHA-256 is another" in ended.err
    assert served.asked == []


# --- what goes wrong


@pytest.mark.parametrize(
    ("command", "status", "name"),
    [
        (("agents", "show", "agt-nobody"), ExitCode.UNKNOWN, "AgentUnknown"),
        (("agents", "config", "set", "AGENT", "--sync-interval", "0"), ExitCode.INVALID, "InvalidRequest"),
        (("replicas", "create", "AGENT", "--pool", "x"), ExitCode.INVALID, "InvalidRequest"),
        (("replicas", "promote", "AGENT", "rep-x", "--yes"), ExitCode.UNKNOWN, "ReplicaUnknown"),
        (("clients", "create", "No Such Name"), ExitCode.INVALID, "InvalidRequest"),
        (("tokens", "issue", "nobody"), ExitCode.UNKNOWN, "ClientUnknown"),
        (("tokens", "revoke", "nothing", "--yes"), ExitCode.UNKNOWN, "TokenUnknown"),
    ],
)
def test_what_the_api_refuses_ends_with_its_own_status_and_changes_nothing(
    spotctl: Spotctl, agent: Registration, rows: Rows, command: tuple[str, ...], status: ExitCode, name: str
) -> None:
    before = rows()
    given = [agent.agent_id if word == "AGENT" else word for word in command]
    problem = spotctl(*given, "--json").problem
    assert problem["exit_code"] == status
    assert problem["type"].endswith(f":{name}")
    assert problem["request_id"] == "request-1"
    told = spotctl(*given)
    assert (told.status, told.out) == (status, "")
    assert name in told.err
    assert rows() == before


def test_a_refusal_names_the_field_what_was_expected_and_the_request(spotctl: Spotctl, agent: Registration) -> None:
    told = spotctl("agents", "config", "set", agent.agent_id, "--sync-interval", "1000").err
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert "HTTP 422 InvalidRequest" in told
    assert "sync_interval_seconds" in lines["field"]
    assert "less than or equal to 300" in lines["expected"]
    assert "request-1" in lines["request"]


def test_a_viewer_may_look_and_not_touch(spotctl: Spotctl, agent: Registration) -> None:
    from spot_optimizer import bootstrap
    from spot_optimizer.domain.tokens import OperatorRole

    spotctl.environment["SPOTCTL_TOKEN"] = bootstrap.create_operator_token(OperatorRole.VIEWER)
    assert spotctl("agents", "list").status == 0
    ended = spotctl("agents", "config", "set", agent.agent_id, "--no-auto-switch")
    assert ended.status == ExitCode.FORBIDDEN
    assert "role 'operator' or higher" in ended.err


def test_an_api_that_is_not_there_says_which_and_ends_with_its_own_status(spotctl: Spotctl) -> None:
    spotctl.environment["SPOTCTL_API_URL"] = "http://127.0.0.1:9"
    ended = spotctl("health")
    assert ended.status == ExitCode.UNAVAILABLE
    assert "http://127.0.0.1:9" in ended.err


def test_a_read_is_tried_again_when_the_api_asks_for_it(spotctl: Spotctl, served: ServedApi) -> None:
    served.instead.append((503, {"retry-after": "0"}, b"{}"))
    assert spotctl("agents", "list", "--json").status == 0
    assert len(served.asked) == 2


def test_a_write_without_a_key_is_never_sent_twice(spotctl: Spotctl, served: ServedApi) -> None:
    served.instead.append((503, {"retry-after": "0"}, b"{}"))
    assert spotctl("clients", "create", "globex").status == ExitCode.UNAVAILABLE
    assert len(served.asked) == 1


def test_a_write_with_a_key_is_sent_again_with_the_same_key(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    served.instead.append((503, {"retry-after": "0"}, b"{}"))
    assert spotctl("replicas", "create", agent.agent_id).status == 0
    first, second = (asked.headers["idempotency-key"] for asked in served.asked)
    assert first == second


@pytest.mark.parametrize("content", [b"<html>", b"", b"[1]", b'"x"'])
@pytest.mark.parametrize("status", [403, 500])
def test_an_answer_that_is_no_problem_document_still_ends_well(
    spotctl: Spotctl, served: ServedApi, status: int, content: bytes
) -> None:
    served.instead.append((status, {"content-type": "text/html"}, content))
    ended = spotctl("health")
    assert ended.status == (ExitCode.FORBIDDEN if status == 403 else ExitCode.FAILED)
    assert f"HTTP {status}" in ended.err


def test_a_page_that_is_no_api_is_not_taken_for_one(spotctl: Spotctl, served: ServedApi) -> None:
    served.instead.append((200, {"content-type": "text/html"}, b"<html>"))
    ended = spotctl("health")
    assert ended.status == ExitCode.UNAVAILABLE
    assert "text/html" in ended.err


def test_health_needs_no_token_and_sends_none(spotctl: Spotctl, served: ServedApi) -> None:
    spotctl.environment["SPOTCTL_TOKEN"] = None
    assert spotctl("health", "--json").document["status"] == "ok"
    assert "authorization" not in served.asked[0].headers


def test_an_id_can_not_leave_its_place_in_the_path(spotctl: Spotctl, served: ServedApi) -> None:
    assert spotctl("agents", "show", "../clients?limit=1").status in (ExitCode.UNKNOWN, ExitCode.INVALID)
    assert served.asked[0].path == "/api/agents/../clients?limit=1"
    assert served.asked[0].query == {}


# --- the shell


def test_ids_are_completed_from_the_api(spotctl: Spotctl, agent: Registration) -> None:
    environment = {
        **{name: value for name, value in spotctl.environment.items() if value is not None},
        "_SPOTCTL_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": f"spotctl agents show {agent.agent_id[:6]}",
    }
    ended = CliRunner().invoke(app, prog_name="spotctl", env=environment)
    assert f'"{agent.agent_id}":"ledger"' in ended.stdout


def test_completion_is_silent_when_the_api_is_not_there(spotctl: Spotctl) -> None:
    environment = {
        **{name: value for name, value in spotctl.environment.items() if value is not None},
        "SPOTCTL_API_URL": "http://127.0.0.1:9",
        "_SPOTCTL_COMPLETE": "complete_bash",
        "_TYPER_COMPLETE_ARGS": "spotctl agents show ",
        "COMP_WORDS": "spotctl agents show ",
        "COMP_CWORD": "3",
    }
    ended = CliRunner().invoke(app, prog_name="spotctl", env=environment)
    assert (ended.stdout.strip(), ended.stderr) == ("", "")
