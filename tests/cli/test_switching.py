"""Moving a workload from the command line: asked for, watched, refused; and the rules by which it moves by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.writes import Table
from spotctl.failures import ExitCode
from tests.api.conftest import STANDBY, Registration
from tests.api.test_agents import a_token_for, an_active_replica, put
from tests.api.test_replicas import commit, open_handover
from tests.cli.conftest import Rows, Spotctl
from tests.cli.served import ServedApi
from tests.cli.test_commands import await_call, meanwhile, serve_on

THERE = "us-east-1b.m5.large"
A_REASON = ("--reason", "a cheaper zone")


def switch(spotctl: Spotctl, agent: Registration, *more: str) -> tuple[str, ...]:
    return ("switch", agent.agent_id, *A_REASON, "--yes", *more)


def test_a_switch_is_asked_for_and_says_where_to_what_for_and_from_what(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    ended = spotctl(*switch(spotctl, agent, "--to", THERE))
    assert ended.status == 0, ended.err
    [asked] = served.calls("POST")
    assert asked.body == {"pool_id": THERE, "exclude_zones": [], "reason": "a cheaper zone"}
    assert asked.headers["idempotency-key"]
    told = dict(line.strip().split(None, 1) for line in ended.out.splitlines() if len(line.split()) > 1)
    assert told["from"] == "us-east-1a.m5.large"
    assert "a cheaper zone" in ended.out
    assert "the primary runs there" in ended.out, "the pools that were considered say why not"
    again = spotctl(*switch(spotctl, agent, "--to", THERE, "--json"))
    assert (again.status, again.problem["type"].rpartition(":")[2]) == (ExitCode.CONFLICT, "SwitchInProgress")


def test_the_other_way_to_buy_is_asked_for_with_the_key_that_was_given(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    more = ("--on-demand", "--exclude-zone", "us-east-1b", "--key", "one", "--json")
    first, again = (spotctl(*switch(spotctl, agent, *more)).document for _ in range(2))
    assert first["to_lifecycle"] == "on-demand"
    assert first["replica_id"] == again["replica_id"]
    assert served.calls("POST")[0].body == {
        "pool_id": None,
        "exclude_zones": ["us-east-1b"],
        "reason": "a cheaper zone",
        "lifecycle": "on-demand",
    }


def it_takes_over(served: ServedApi, agent: Registration) -> None:
    """What the agents and Step Functions would do, once the switch was asked for."""
    await_call(served, "/issue-switch-command")
    await_call(served, "/replicas", times=2)
    with served.one_at_a_time:
        put(Table.REPLICAS, agent.agent_id, "rep-1", status=ReplicaState.READY, readiness=1, sync_percent=100.0)
        open_handover(agent, claim_open=True)
        standby = a_token_for(agent, STANDBY)
    await_call(served, "/replicas", times=4)
    with served.one_at_a_time:
        assert commit(agent, standby).status == 200
        serve_on(agent, standby)


def test_a_switch_is_watched_until_the_new_primary_serves(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    an_active_replica(agent)
    agent.beat()
    with meanwhile(lambda: it_takes_over(served, agent)):
        ended = spotctl(*switch(spotctl, agent, "--to", THERE, "--wait"))
    assert ended.status == 0, ended.err
    assert "rep-1: syncing in us-east-1b.m5.large" in ended.err
    assert f"online at epoch 2, served by {STANDBY}" in ended.err


def test_a_switch_whose_replica_fails_ends_with_why_and_status_nine(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    an_active_replica(agent)

    def it_fails() -> None:
        await_call(served, "/issue-switch-command")
        with served.one_at_a_time:
            put(
                Table.REPLICAS,
                agent.agent_id,
                "rep-1",
                status=ReplicaState.FAILED,
                failure="InsufficientInstanceCapacity",
                ended_at=datetime.now(UTC),
            )

    with meanwhile(it_fails):
        ended = spotctl(*switch(spotctl, agent, "--wait"))
    assert ended.status == ExitCode.UNFINISHED
    assert "InsufficientInstanceCapacity" in ended.err
    assert "serves on, nothing was lost" in ended.err


def test_a_switch_that_takes_longer_than_one_waits_goes_on_without_one(spotctl: Spotctl, agent: Registration) -> None:
    an_active_replica(agent)
    ended = spotctl(*switch(spotctl, agent, "--wait", "--within", "1"))
    assert ended.status == ExitCode.UNFINISHED
    assert "it goes on without you" in ended.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), ExitCode.USAGE, "a switch needs a reason"),
        (("--as-recommended", *A_REASON), ExitCode.USAGE, "expected it alone"),
        ((*A_REASON, "--to", "us-east-1a.m5.large"), ExitCode.INVALID, "already"),
        ((*A_REASON, "--to", "eu-west-1a.m5.large"), ExitCode.INVALID, "out of scope"),
        ((*A_REASON, "--exclude-zone", "us-east-1b"), ExitCode.CONFLICT, "exclude fewer zones"),
    ],
)
def test_what_can_not_be_done_changes_nothing_and_says_why(
    spotctl: Spotctl, agent: Registration, rows: Rows, arguments: tuple[str, ...], status: ExitCode, said: str
) -> None:
    before = rows()
    ended = spotctl("switch", agent.agent_id, *arguments, "--yes")
    assert ended.status == status, ended.err
    assert said in " ".join(ended.err.split())
    assert rows() == before


def test_nobody_is_moved_unasked(spotctl: Spotctl, served: ServedApi, agent: Registration) -> None:
    ended = spotctl("switch", agent.agent_id, *A_REASON)
    assert ended.status == ExitCode.USAGE
    assert served.calls("POST") == []


def test_what_is_recommended_is_told_and_followed_only_within_the_rules(
    spotctl: Spotctl, served: ServedApi, agent: Registration
) -> None:
    put(Table.AGENTS, agent.agent_id, registered_at=datetime.now(UTC) - timedelta(days=1))
    told = spotctl("recommend", agent.agent_id)
    assert told.status == 0, told.err
    assert "verdict" in told.out and THERE in told.out
    ended = spotctl("switch", agent.agent_id, "--as-recommended", "--yes")
    assert served.calls("POST")[0].body == {"source": "engine"}
    assert ended.status in (0, ExitCode.CONFLICT), ended.err
    spotctl("agents", "config", "set", agent.agent_id, "--no-auto-switch")
    off = spotctl("switch", agent.agent_id, "--as-recommended", "--yes")
    assert off.status == ExitCode.CONFLICT
    assert "turns it on" in off.err or "agents watch" in off.err


def test_the_rules_of_moving_by_itself_are_set_and_windows_are_cleared(spotctl: Spotctl, agent: Registration) -> None:
    config = ("agents", "config", "set", agent.agent_id)
    windows = ("--window", "sat,sun 02:00-06:00", "--window", "daily 03:00-04:00")
    rules = ("--minimum-saving", "0.1", "--dwell", "3600", "--hysteresis", "0.02", "--switches-per-day", "2")
    changed = spotctl(*config, *rules, *windows, "--json").document
    assert changed["maintenance_windows"] == ["sat,sun 02:00-06:00", "daily 03:00-04:00"]
    assert (changed["switch_minimum_saving"], changed["switch_hysteresis"]) == (0.1, 0.02)
    assert (changed["switch_dwell_seconds"], changed["switches_per_day"]) == (3600, 2)
    shown = spotctl("agents", "config", "get", agent.agent_id).out
    assert "sat,sun 02:00-06:00, daily 03:00-04:00" in shown
    assert "10.00 %" in shown
    assert spotctl(*config, "--window", "always", "--json").document["maintenance_windows"] == []
    refused = spotctl(*config, "--window", "at night")
    assert refused.status == ExitCode.INVALID
    assert "days and hours in UTC" in refused.err
