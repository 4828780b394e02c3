from __future__ import annotations

import stat
from pathlib import Path

import pytest

from spotctl import signing_in
from spotctl.failures import NotSignedIn, NotUnderstood
from spotctl.signing_in import SignIn
from tests.api.conftest import Http
from tests.cli.conftest import Spotctl
from tests.cli.served import ServedApi

TOKEN = "spo_operator_0123456789abcdef0123_" + "5e" * 32


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


def test_a_kept_token_is_never_presented_to_another_api(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    signing_in.keep(SignIn("https://one.example", TOKEN), environment)
    assert signing_in.current(environment) == SignIn("https://one.example", TOKEN)
    with pytest.raises(NotSignedIn, match=r"no token is known for https://two\.example"):
        signing_in.current({**environment, "SPOTCTL_API_URL": "https://two.example"})
    elsewhere = {**environment, "SPOTCTL_API_URL": "https://two.example", "SPOTCTL_TOKEN": "t"}
    assert signing_in.current(elsewhere) == SignIn("https://two.example", "t")


def test_a_file_that_others_can_read_is_not_trusted(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    file = signing_in.keep(SignIn("https://one.example", TOKEN), environment)
    file.chmod(0o640)
    with pytest.raises(NotSignedIn, match="0640"):
        signing_in.current(environment)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"api_url": "https://one.example"}', "null"])
def test_a_file_that_holds_no_sign_in_says_so(tmp_path: Path, content: str) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    signing_in.keep(SignIn("https://one.example", TOKEN), environment).write_text(content)
    with pytest.raises(NotSignedIn, match="holds no sign-in"):
        signing_in.current(environment)


def test_without_a_configuration_folder_it_is_the_homes(tmp_path: Path) -> None:
    assert signing_in.location({"HOME": str(tmp_path)}) == tmp_path / ".config" / "spotctl" / "sign-in.json"


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com", "http://example.com", "http://10.0.0.1"])
def test_an_address_that_would_show_the_token_to_the_network_is_refused(url: str) -> None:
    with pytest.raises(NotUnderstood):
        signing_in.checked_url(url)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.example.com/", "https://api.example.com"),
        ("https://api.example.com/prod/api", "https://api.example.com/prod"),
        ("http://127.0.0.1:4566/_aws/execute-api/abc", "http://127.0.0.1:4566/_aws/execute-api/abc"),
        ("http://localhost:80", "http://localhost:80"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_address_is_kept_without_its_end(url: str, kept: str) -> None:
    assert signing_in.checked_url(url) == kept
