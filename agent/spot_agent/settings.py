"""What the agent is told before it starts: by its file, the environment, and the instance's user data; the later wins.

Hooks are commands that run on this machine, so they are taken from the local file and from nowhere else.
"""

from __future__ import annotations

import enum
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

USER_DATA_HEADER: Final = "# spot-agent"


class SettingRefused(Exception):
    """A setting cannot be used; the message names it, where it was found, what it is and what was expected."""


class Source(enum.StrEnum):
    """Where a setting was found."""

    FILE = "the configuration file"
    ENVIRONMENT = "the environment"
    USER_DATA = "the instance's user data"


class TrafficAdapter(enum.StrEnum):
    """How clients are led to the primary."""

    EIP = "eip"
    TARGET_GROUP = "target-group"
    ROUTE53 = "route53"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Hooks:
    """Shell commands of the workload; only `start` is needed.

    Attributes:
        start: The workload itself, in the foreground, until it is stopped.
        health: Exits 0 when the workload serves. None: it serves as soon as it runs.
        freeze: Returns when the workload acknowledges nothing any more. None: it is stopped instead.
        thaw: Lets a frozen workload serve again.
        quiesce: Runs before each generation is read.
        restore: Runs once on promotion, before the start.
        stop: Runs before the workload is sent SIGTERM.
    """

    start: str
    stop: str | None = None
    freeze: str | None = None
    thaw: str | None = None
    quiesce: str | None = None
    restore: str | None = None
    health: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The agent's settings, checked.

    Attributes:
        central_server_url: The control plane, without a trailing slash.
        client_token: Lets a new agent be registered; a replica has `join_token` instead.
        agent_id: Given to a replica, or to an agent that shall have a certain id.
        replica_id: Set on a replica only.
        rebalance_threshold: Risk, 0 to 1, from which a rebalance recommendation prepares a standby.
        sync_update_interval_seconds: How often the state of synchronisation is reported.
        sync_interval_seconds: How often a generation is taken.
        sync_bandwidth: Bytes per second that go to the standby at most while nobody is in a hurry; None for no limit.
        sync_watch: Whether inotify is believed when it says that nothing changed. Off: a file that is written through a
            memory map, as some databases do, changes without it noticing.
        sync_port: Where a standby listens; 0 takes a free one.
        snapshot_interval_seconds: How often a snapshot is taken while no standby is ready; 0 for none before a notice.
        snapshot_noticed_interval_seconds: The same once this instance was given notice.
        watched_paths: What the workload keeps; the same list, in the same order, on each of its instances.
    """

    central_server_url: str
    state_dir: Path
    watched_paths: tuple[Path, ...]
    hooks: Hooks
    client_token: str | None = field(default=None, repr=False)
    join_token: str | None = field(default=None, repr=False)
    agent_id: str | None = None
    replica_id: str | None = None
    agent_name: str = "agent"
    heartbeat_interval_seconds: float = 30.0
    auto_replica_enabled: bool = True
    manual_replica_enabled: bool = True
    interruption_check_interval_seconds: float = 5.0
    pricing_report_interval_seconds: float = 150.0
    rebalance_threshold: float = 0.0
    sync_update_interval_seconds: float = 10.0
    sync_interval_seconds: float = 1.0
    sync_bandwidth: float | None = None
    sync_watch: bool = False
    sync_port: int = 7443
    snapshot_interval_seconds: float = 300.0
    snapshot_noticed_interval_seconds: float = 5.0
    launch_template_id: str | None = None
    instance_types: tuple[str, ...] = ()
    subnet_ids: tuple[str, ...] = ()
    traffic_adapter: TrafficAdapter = TrafficAdapter.NONE
    traffic_target: str | None = None
    hook_timeout_seconds: float = 30.0


def read_settings(
    *, file: Path | None, environment: Mapping[str, str], user_data: str | None, folder: Path
) -> Settings:
    """Merge the three sources and check the result.

    Args:
        file: KEY=VALUE lines; None if there is none.
        environment: The process environment; names that are not settings are passed over.
        user_data: The instance's user data; anything that does not begin with `# spot-agent` is not for us.
        folder: What relative paths are relative to.

    Raises:
        SettingRefused: A value is missing, malformed, out of bounds, unknown, or at a place it must not be.
    """
    found: dict[str, tuple[str, Source]] = {}
    if file is not None:
        for name, value in _read_file(file).items():
            if name not in _READERS:
                raise SettingRefused(f"{name}: found in {file}; expected one of {', '.join(sorted(_READERS))}")
            found[name] = (value, Source.FILE)
    inherited = {name: value for name, value in environment.items() if name in _READERS}
    given = {name: value for name, value in _lines_of_user_data(user_data).items() if name in _READERS}
    for source, values in ((Source.ENVIRONMENT, inherited), (Source.USER_DATA, given)):
        for name, value in values.items():
            if name.startswith("HOOK_") and name != "HOOK_TIMEOUT":
                raise SettingRefused(
                    f"{name}: found in {source}; expected only in {Source.FILE}, as a command for this machine"
                )
            found[name] = (value, source)
    # An empty value unsets: `NAME=` in a later source takes back what an earlier one said.
    values = {name: _read(name, *said, folder=folder) for name, said in found.items() if said[0] != ""}
    return _build(values, folder)


def parse_lines(text: str, *, source: str) -> dict[str, str]:
    """Read KEY=VALUE lines; blank lines and lines that begin with `#` are passed over, values may be quoted.

    Raises:
        SettingRefused: A line is something else.
    """
    values = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SettingRefused(f"line {number} of {source}: found {stripped!r}; expected NAME=value")
        values[name] = _unquoted(value, f"{name}, line {number} of {source}")
    return values


def _unquoted(value: str, where: str) -> str:
    if value[:1] not in {"'", '"'}:
        return value
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if len(words) != 1:
        raise SettingRefused(f"{where}: found {value!r}; expected one quoted value and nothing after it")
    return words[0]


def _read_file(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingRefused(f"--config: found {file}, which cannot be read ({error}); expected a text file") from error
    return parse_lines(text, source=str(file))


def _lines_of_user_data(user_data: str | None) -> dict[str, str]:
    if user_data is None or user_data.lstrip().partition("\n")[0].strip() != USER_DATA_HEADER:
        return {}
    return parse_lines(user_data, source=Source.USER_DATA)


def _read(name: str, value: str, source: Source, *, folder: Path) -> Any:
    reader, expected = _READERS[name]
    try:
        return reader(value, folder)
    except ValueError:
        shown = "a value that is not shown" if name.endswith("_TOKEN") else repr(value)
        raise SettingRefused(f"{name}: found {shown} in {source}; expected {expected}") from None


def _build(values: Mapping[str, Any], folder: Path) -> Settings:
    for name, why in (
        ("CENTRAL_SERVER_URL", "the address of the control plane, such as https://example.org"),
        ("HOOK_START", "the command that runs the workload in the foreground"),
        ("WATCHED_PATHS", "the folders that the workload keeps its state in, separated by ':'"),
    ):
        if name not in values:
            raise SettingRefused(f"{name}: found nowhere; expected {why}")
    if "REPLICA_ID" in values and "AGENT_ID" not in values:
        raise SettingRefused("AGENT_ID: found nowhere; expected the agent that REPLICA_ID belongs to")
    # A replica is not asked how clients reach its agent: that was settled when the agent was registered.
    moves_traffic = values.get("TRAFFIC_ADAPTER", TrafficAdapter.NONE) is not TrafficAdapter.NONE
    if "REPLICA_ID" not in values and moves_traffic and "TRAFFIC_TARGET" not in values:
        raise SettingRefused(f"TRAFFIC_TARGET: found nowhere; expected {_TRAFFIC_TARGETS}")
    hooks = {name.removeprefix("HOOK_").lower(): values[name] for name in _HOOKS if name in values}
    if ("freeze" in hooks) != ("thaw" in hooks):
        raise SettingRefused("HOOK_FREEZE and HOOK_THAW: found one of them; expected both or neither")
    fields = {_FIELDS[name]: value for name, value in values.items() if name in _FIELDS}
    return Settings(hooks=Hooks(**hooks), **{"state_dir": folder / "spot-agent", **fields})


_TRAFFIC_TARGETS = (
    "an Elastic IP's allocation id, eipalloc-…, a target group's ARN, or a hosted zone's id/a record's name"
)


def _text(value: str, _: Path) -> str:
    return value


def _identifier(value: str, _: Path) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
        raise ValueError
    return value


def _matching(pattern: str) -> Callable[[str, Path], str]:
    def read(value: str, _: Path) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return read


def _url(value: str, _: Path) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    return value.rstrip("/")


def _number(least: float, most: float) -> Callable[[str, Path], float]:
    def read(value: str, _: Path) -> float:
        number = float(value)
        if not least <= number <= most:  # also refuses nan
            raise ValueError
        return number

    return read


def _port(value: str, _: Path) -> int:
    number = int(value)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def _truth(value: str, _: Path) -> bool:
    match value.lower():
        case "true" | "yes" | "on" | "1":
            return True
        case "false" | "no" | "off" | "0":
            return False
    raise ValueError


def _paths(value: str, folder: Path) -> tuple[Path, ...]:
    paths = tuple(_path(path, folder) for path in value.split(":"))
    if len(set(paths)) != len(paths):
        raise ValueError
    return paths


def _path(value: str, folder: Path) -> Path:
    if not value.strip():
        raise ValueError
    return Path(os.path.normpath(folder / value.strip()))


def _words(value: str, _: Path) -> tuple[str, ...]:
    words = tuple(word.strip() for word in value.split(","))
    if not all(words):
        raise ValueError
    return words


_HOOKS: Final = (
    "HOOK_START",
    "HOOK_STOP",
    "HOOK_FREEZE",
    "HOOK_THAW",
    "HOOK_QUIESCE",
    "HOOK_RESTORE",
    "HOOK_HEALTH",
)
_COMMAND: Final = (_text, "a shell command")
_IDENTIFIER: Final = (_identifier, "an id: letters, digits, '.', '_' and '-'")
_BOOLEAN: Final = (_truth, "true or false")

_READERS: Final[Mapping[str, tuple[Callable[[str, Path], Any], str]]] = {
    "CENTRAL_SERVER_URL": (_url, "an http or https address without query"),
    "CLIENT_TOKEN": (_text, "a client token"),
    "JOIN_TOKEN": (_text, "a join token"),
    "AGENT_ID": _IDENTIFIER,
    "REPLICA_ID": _IDENTIFIER,
    "AGENT_NAME": _IDENTIFIER,
    "HEARTBEAT_INTERVAL": (_number(1, 120), "seconds, 1 to 120"),
    "AUTO_REPLICA_ENABLED": _BOOLEAN,
    "MANUAL_REPLICA_ENABLED": _BOOLEAN,
    "INTERRUPTION_CHECK_INTERVAL": (_number(0.2, 30), "seconds, 0.2 to 30: a notice leaves only two minutes"),
    "PRICING_REPORT_INTERVAL": (_number(1, 300), "seconds, 1 to 300: a price of each five minutes is kept"),
    "REBALANCE_THRESHOLD": (_number(0, 1), "a risk, 0 to 1"),
    "SYNC_UPDATE_INTERVAL": (_number(1, 60), "seconds, 1 to 60"),
    "SYNC_INTERVAL": (_number(0.1, 60), "seconds, 0.1 to 60"),
    "SYNC_BANDWIDTH": (_number(10_000, 1e12), "bytes per second, at least 10000"),
    "SYNC_WATCH": _BOOLEAN,
    "SYNC_PORT": (_port, "a port, 0 to 65535"),
    "SNAPSHOT_INTERVAL": (_number(0, 86_400), "seconds, 0 to 86400; 0 for none before a notice"),
    "SNAPSHOT_NOTICED_INTERVAL": (_number(0.5, 60), "seconds, 0.5 to 60"),
    "WATCHED_PATHS": (_paths, "different paths, separated by ':'"),
    "STATE_DIR": (_path, "a path"),
    "LAUNCH_TEMPLATE_ID": (_matching(r"lt-[0-9a-f]+"), "a launch template's id, lt-…"),
    "INSTANCE_TYPES": (_words, "instance types, separated by ','"),
    "SUBNET_IDS": (_words, "subnet ids, separated by ','"),
    "TRAFFIC_ADAPTER": (lambda value, _: TrafficAdapter(value), "'eip', 'target-group', 'route53' or 'none'"),
    "TRAFFIC_TARGET": (_matching(r"eipalloc-[0-9a-f]+|arn:\S{1,200}|Z[A-Z0-9]{1,31}/\S{1,253}"), _TRAFFIC_TARGETS),
    "HOOK_TIMEOUT": (_number(0.1, 600), "seconds, 0.1 to 600"),
    **dict.fromkeys(_HOOKS, _COMMAND),
}

_SECONDS: Final = {
    "HEARTBEAT_INTERVAL",
    "INTERRUPTION_CHECK_INTERVAL",
    "PRICING_REPORT_INTERVAL",
    "SYNC_UPDATE_INTERVAL",
    "SYNC_INTERVAL",
    "SNAPSHOT_INTERVAL",
    "SNAPSHOT_NOTICED_INTERVAL",
    "HOOK_TIMEOUT",
}
_FIELDS: Final = {
    name: name.lower() + ("_seconds" if name in _SECONDS else "") for name in _READERS if name not in _HOOKS
}
