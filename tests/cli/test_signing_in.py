from __future__ import annotations

from pathlib import Path

import pytest

from spotctl import signing_in
from spotctl.failures import NotSignedIn, NotUnderstood
from spotctl.signing_in import SignIn

TOKEN = "spo_operator_0123456789abcdef0123_" + "5e" * 32


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
