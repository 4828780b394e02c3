"""Where the API is and which token opens it: the environment first, then what `spotctl sign-in` has kept."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from spotctl.failures import NotSignedIn, NotUnderstood

API_URL = "SPOTCTL_API_URL"
TOKEN = "SPOTCTL_TOKEN"  # noqa: S105 -- the name of a variable


@dataclass(frozen=True, slots=True)
class SignIn:
    """What to present, and to whom.

    Attributes:
        api_url: Without the `/api` at the end; paths begin with it.
        token: A bearer token.
    """

    api_url: str
    token: str

    @property
    def kind(self) -> str:
        """Whom the token speaks for, as it says itself: `operator`, `client` or `agent`."""
        parts = self.token.split("_")
        return parts[1] if len(parts) > 2 else "unknown"

    @property
    def token_id(self) -> str:
        """The token's id, which is no secret."""
        parts = self.token.split("_")
        return parts[2] if len(parts) > 3 else "unknown"


def location(environment: Mapping[str, str]) -> Path:
    """The file that keeps the sign-in, in the user's configuration folder (XDG)."""
    configured = environment.get("XDG_CONFIG_HOME")
    folder = Path(configured) if configured else Path(environment.get("HOME") or Path.home()) / ".config"
    return folder / "spotctl" / "sign-in.json"


def checked_url(text: str) -> str:
    """Accept the address of an API.

    Raises:
        NotUnderstood: It is none, or it would carry the token over a network in the clear.
    """
    given = text.strip().rstrip("/").removesuffix("/api")
    parts = urlsplit(given)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise NotUnderstood(
            f"'{text}' is not the address of an API; expected https://…, the stack's output ApiUrl",
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise NotUnderstood(
            f"'{text}' would carry the token over the network in the clear; expected https:// for any host but this one"
        )
    return given


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def current(environment: Mapping[str, str]) -> SignIn:
    """What to present now.

    The token that was kept is presented only to the API it was kept for: with another address in the environment, the
    token must come from there as well.

    Raises:
        NotSignedIn: There is no token, or no address.
        NotUnderstood: The address is none.
    """
    api_url, token = environment.get(API_URL), environment.get(TOKEN)
    kept = None if api_url and token else read(environment)
    url = checked_url(api_url) if api_url else kept.api_url if kept else None
    if url is None:
        raise NotSignedIn(f"no API is known; expected `spotctl sign-in` first, or {API_URL} and {TOKEN} set")
    if token is None:
        if kept is None or kept.api_url != url:
            raise NotSignedIn(f"no token is known for {url}; expected `spotctl sign-in` first, or {TOKEN} set")
        token = kept.token
    return SignIn(url, token)


def read(environment: Mapping[str, str]) -> SignIn | None:
    """What was kept.

    Raises:
        NotSignedIn: Others could read or change the file, or it holds no sign-in.
    """
    file = location(environment)
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        content = file.read_text()
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise NotSignedIn(
            f"{file} has mode {mode:04o}, so others may have read the token; expected 0600: rotate the token, sign in"
        )
    try:
        document = json.loads(content)
        return SignIn(str(document["api_url"]), str(document["token"]))
    except (ValueError, KeyError, TypeError):
        raise NotSignedIn(f"{file} holds no sign-in; expected what `spotctl sign-in` writes") from None


def keep(sign_in: SignIn, environment: Mapping[str, str]) -> Path:
    """Keep a sign-in where nobody else can read it; the file is whole at every moment."""
    file = location(environment)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A temporary file has mode 0600 from its first byte.
    with NamedTemporaryFile("w", dir=file.parent, prefix=".sign-in-", delete=False) as draft:
        json.dump({"api_url": sign_in.api_url, "token": sign_in.token}, draft)
        draft.write("\n")
    os.replace(draft.name, file)  # noqa: PTH105 -- one call, one guarantee
    return file


def forget(environment: Mapping[str, str]) -> bool:
    """Remove what was kept; whether there was something."""
    try:
        location(environment).unlink()
    except FileNotFoundError:
        return False
    return True
