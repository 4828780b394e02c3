"""The spot market's levers, for tests, the demo and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from local.market.views import InstanceView


class Market:
    """What only Amazon can do to an instance, done on request."""

    def register_image(
        self,
        image_id: str,
        boot: Sequence[str],
        env: Mapping[str, str] = {},
        files: Mapping[str, Path | str] = {},
    ) -> None:
        """Say what an instance of this image runs.

        Args:
            image_id: The AMI id that launches name.
            boot: The argv that starts with the instance, in its disk folder.
            env: Added to the instance's environment.
            files: Path on the instance's disk -> a file or folder to copy there, or the text to write.
        """
        raise NotImplementedError

    def interrupt(
        self, instance_id: str, *, action: str = "terminate", notice_seconds: float = 120.0, publish: bool = True
    ) -> datetime:
        """Give notice, then take the instance back with SIGKILL exactly at the returned time."""
        raise NotImplementedError

    def publish_warning(self, instance_id: str) -> None:
        """Publish the interruption warning once more, as EventBridge may."""
        raise NotImplementedError

    def recommend_rebalance(self, instance_id: str) -> None:
        """Recommend a rebalance in the instance's metadata and on EventBridge."""
        raise NotImplementedError

    def kill(self, instance_id: str) -> None:
        """Let the instance die at once, without notice."""
        raise NotImplementedError

    def instances(self) -> list[InstanceView]:
        """Every instance the market knows, terminated ones too, oldest first."""
        raise NotImplementedError

    def set_capacity(
        self,
        pool: str | None,
        *,
        available: bool | int,
        error_code: str = "InsufficientInstanceCapacity",
        lifecycle: str = "spot",
    ) -> None:
        """Let a pool (None: all of them) have no capacity, unlimited capacity, or so many instances more."""
        raise NotImplementedError

    def set_boot_seconds(self, seconds: float) -> None:
        """Let the instances launched from now on stay `pending` for so long."""
        raise NotImplementedError

    def set_public_ports(self, ports: Sequence[int]) -> None:
        """Choose the TCP ports that a public address forwards besides those its security groups open."""
        raise NotImplementedError
