"""Where settings come from, and which are refused with what words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_agent.settings import SettingRefused, Settings, TrafficAdapter, parse_lines, read_settings

FOLDER = Path("/srv/instance")
NEEDED = "CENTRAL_SERVER_URL=https://spot.example.org/\nHOOK_START=exec serve\nWATCHED_PATHS=image:/var/lib/more\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.env"


def read(file: Path, text: str = "", *, user_data: str | None = None, **environment: str) -> Settings:
    file.write_text(NEEDED + text)
    return read_settings(file=file, environment=environment, user_data=user_data, folder=FOLDER)


def test_defaults_hold_where_nothing_is_said(file: Path) -> None:
    settings = read(file)
    assert settings.central_server_url == "https://spot.example.org"
    assert settings.watched_paths == (FOLDER / "image", Path("/var/lib/more"))
    assert settings.heartbeat_interval_seconds == 30
    assert settings.interruption_check_interval_seconds == 5
    assert settings.sync_interval_seconds == 1
    assert settings.sync_port == 7443
    assert settings.auto_replica_enabled
    assert settings.traffic_adapter is TrafficAdapter.NONE


def test_the_environment_wins_over_the_file_and_user_data_over_both(file: Path) -> None:
    user_data = "# spot-agent\nHEARTBEAT_INTERVAL=30\nJOIN_TOKEN=one-time\n"
    settings = read(
        file, "HEARTBEAT_INTERVAL=10\nSYNC_PORT=1\n", HEARTBEAT_INTERVAL="20", SYNC_PORT="2", user_data=user_data
    )
    assert settings.heartbeat_interval_seconds == 30
    assert settings.sync_port == 2
    assert settings.join_token == "one-time"


def test_user_data_that_is_not_for_the_agent_is_passed_over(file: Path) -> None:
    assert read(file, user_data="#!/bin/sh\nAGENT_NAME=other\n").agent_name == "agent"


def test_an_empty_value_takes_an_earlier_one_back(file: Path) -> None:
    assert read(file, "AGENT_NAME=ledger\n", AGENT_NAME="").agent_name == "agent"


def test_names_of_the_environment_that_are_no_settings_are_passed_over(file: Path) -> None:
    assert read(file, PATH="/bin", INSTANCE_DISK="/disk").agent_name == "agent"


def test_values_may_be_quoted(file: Path) -> None:
    assert read(file, "HOOK_HEALTH=\"curl -f 'http://localhost'\"\n").hooks.health == "curl -f 'http://localhost'"


def test_what_a_newer_control_plane_adds_to_user_data_is_passed_over(file: Path) -> None:
    assert read(file, user_data="# spot-agent\nNOT_KNOWN_YET=1\nAGENT_NAME=a\n").agent_name == "a"


@pytest.mark.parametrize("name", ["HOOK_START", "HOOK_STOP", "HOOK_RESTORE"])
def test_hooks_are_refused_anywhere_but_in_the_file(file: Path, name: str) -> None:
    with pytest.raises(SettingRefused, match=f"{name}: found in the instance's user data; expected only in the conf"):
        read(file, user_data=f"# spot-agent\n{name}=rm -rf /\n")
    with pytest.raises(SettingRefused, match=f"{name}: found in the environment"):
        read(file, **{name: "rm -rf /"})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "HEARTBEAT_INTERVAL=soon",
            "HEARTBEAT_INTERVAL: found 'soon' in the configuration file; expected seconds, 1 to",
        ),
        ("HEARTBEAT_INTERVAL=0", "expected seconds, 1 to 120"),
        ("HEARTBEAT_INTERVAL=nan", "expected seconds, 1 to 120"),
        ("SYNC_PORT=70000", "SYNC_PORT: found '70000' in the configuration file; expected a port, 0 to 65535"),
        (
            "AUTO_REPLICA_ENABLED=maybe",
            "AUTO_REPLICA_ENABLED: found 'maybe' in the configuration file; expected true or",
        ),
        ("SYNC_BANDWIDTH=9", "SYNC_BANDWIDTH: found .9. in the configuration file; expected bytes per second"),
        ("CENTRAL_SERVER_URL=example.org", "CENTRAL_SERVER_URL: found 'example.org'"),
        ("LAUNCH_TEMPLATE_ID=mine", "LAUNCH_TEMPLATE_ID: found 'mine'"),
        ("INSTANCE_TYPES=m5.large,,c5.large", "INSTANCE_TYPES: found 'm5.large,,c5.large'"),
        ("WATCHED_PATHS=a:a", "WATCHED_PATHS: found 'a:a'"),
        (
            "TRAFFIC_ADAPTER=dns",
            "TRAFFIC_ADAPTER: found 'dns' in the configuration file; expected 'eip', 'target-group', 'route53' or",
        ),
        ("TRAFFIC_ADAPTER=eip", "TRAFFIC_TARGET: found nowhere"),
        ("REPLICA_ID=rep-1", "AGENT_ID: found nowhere"),
        ("HOOK_FREEZE=freeze", "HOOK_FREEZE and HOOK_THAW: found one of them"),
        ("HEARTBEAT_INTERVALL=3", "HEARTBEAT_INTERVALL: found in .*; expected one of AGENT_ID, AGENT_NAME"),
        ("just words", "line 4 of .*: found 'just words'; expected NAME=value"),
        ('AGENT_NAME="a" b', "expected one quoted value"),
    ],
)
def test_a_refusal_names_the_setting_what_was_found_and_what_was_expected(file: Path, line: str, said: str) -> None:
    with pytest.raises(SettingRefused, match=said):
        read(file, line + "\n")


@pytest.mark.parametrize("name", ["CENTRAL_SERVER_URL", "HOOK_START", "WATCHED_PATHS"])
def test_a_needed_setting_that_is_nowhere_is_refused(file: Path, name: str) -> None:
    file.write_text("".join(line + "\n" for line in NEEDED.splitlines() if not line.startswith(name)))
    with pytest.raises(SettingRefused, match=f"{name}: found nowhere; expected "):
        read_settings(file=file, environment={}, user_data=None, folder=FOLDER)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingRefused, match="--config: found .*/missing, which cannot be read"):
        read_settings(file=tmp_path / "missing", environment={}, user_data=None, folder=FOLDER)


def test_tokens_are_not_shown(file: Path) -> None:
    assert "secret" not in repr(read(file, "CLIENT_TOKEN=secret\nJOIN_TOKEN=secret\n"))


values = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="'\"\\#"), min_size=1)


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True), values))
def test_what_is_written_as_lines_is_read_back(written: dict[str, str]) -> None:
    text = "# a comment\n\n" + "".join(f"{name} = {value}\n" for name, value in written.items())
    assert parse_lines(text, source="here") == written
