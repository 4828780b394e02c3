# ruff: noqa: PTH100, PTH118
# pathlib would lengthen every hook by a fifth, and hooks are part of the outage; see settings.py.
"""What the environment decides.

Hooks run between freeze and serving, so whatever they import is part of an outage: this module, `control` and `clock`
stay with imports that cost a few milliseconds, which is why these records are named tuples and the paths are strings.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

from examples.ledger.errors import SettingRefused

DEFAULT_PORT = 8080


class Settings(NamedTuple):
    """Where one ledger lives and under which epoch it serves."""

    live_folder: str
    image_folder: str
    log_path: str
    address: str
    port: int
    epoch: int
    instance_id: str

    @property
    def database_path(self) -> str:
        return os.path.join(self.live_folder, "ledger.db")

    @property
    def image_path(self) -> str:
        return os.path.join(self.image_folder, "ledger.db")


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the ledger's settings.

    Args:
        environment: `LEDGER_LIVE`, `LEDGER_IMAGE`, `LEDGER_LOG`, `PORT`, and what the agent gives its hooks:
            `SPOT_SERVICE_ADDRESS`, `SPOT_EPOCH`, `SPOT_INSTANCE_ID`, `SPOT_STATE_DIR`. All have defaults. The folders
            default to `ledger/` below `INSTANCE_DISK`, or below `SPOT_STATE_DIR`.

    Returns:
        Settings with absolute folders. A `LEDGER_LOG` that ends in "/" is a folder, which gets one log per instance.

    Raises:
        SettingRefused: A number is none, or the image folder and the live folder are the same or lie in one another.
    """
    disk = environment.get("INSTANCE_DISK") or environment.get("SPOT_STATE_DIR") or "."
    instance_id = environment.get("SPOT_INSTANCE_ID") or "i-unnamed"
    live = os.path.abspath(environment.get("LEDGER_LIVE") or os.path.join(disk, "ledger", "live"))
    image = os.path.abspath(environment.get("LEDGER_IMAGE") or os.path.join(disk, "ledger", "image"))
    if os.path.commonpath([live, image]) in (live, image):
        # A live SQLite that is copied file by file arrives corrupt, so it must never lie in the watched folder.
        raise SettingRefused(
            f"LEDGER_LIVE={live} and LEDGER_IMAGE={image}: expected two folders, neither inside the other"
        )
    log = environment.get("LEDGER_LOG") or os.path.join(disk, "ledger", "log.jsonl")
    if log.endswith("/"):
        log = os.path.join(log, f"{instance_id}.jsonl")
    return Settings(
        live_folder=live,
        image_folder=image,
        log_path=os.path.abspath(log),
        address=environment.get("SPOT_SERVICE_ADDRESS") or "127.0.0.1",
        port=_number(environment, "PORT", DEFAULT_PORT, 65535),
        epoch=_number(environment, "SPOT_EPOCH", 0, 2**62),
        instance_id=instance_id,
    )


def _number(environment: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise SettingRefused(f"{name}={text}: expected a whole number from 0 to {most}")
    return int(text)
