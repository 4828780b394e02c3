"""The spot market's levers, for tests, the demo and the command line."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from local.market.views import InstanceView

_TIMEOUT_SECONDS = 30.0


class LeverRefused(Exception):
    """The market cannot do that now.

    Attributes:
        code: An EC2 error code, such as `InvalidInstanceID.NotFound`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Market:
    """What only Amazon can do to an instance, done on request."""

    def __init__(self, endpoint_url: str, token: str, images: Path) -> None:
        self._endpoint_url = endpoint_url
        self._token = token
        self._images = images

    def register_image(
        self,
        image_id: str,
        boot: Sequence[str],
        env: Mapping[str, str] = {},
        files: Mapping[str, Path | str] = {},
    ) -> None:
        """Say what an instance of this image runs; instances that already run keep what they have.

        Args:
            image_id: The AMI id that launches name.
            boot: The argv that starts with the instance, in its disk folder; `python` is this interpreter.
            env: Added to the instance's environment.
            files: Path on the instance's disk -> a file or folder to copy there (Path), or the text to write (str).
        """
        content = Path(tempfile.mkdtemp(prefix=f"{image_id}-", dir=self._images))
        for name, source in files.items():
            target = content / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, str):
                target.write_text(source)
            elif source.is_dir():
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)
        self._pull(
            "register-image",
            image_id=image_id,
            boot=[os.fspath(each) for each in boot],
            env=dict(env),
            content=str(content),
        )

    def interrupt(
        self, instance_id: str, *, action: str = "terminate", notice_seconds: float = 120.0, publish: bool = True
    ) -> datetime:
        """Give notice, then take the instance back with SIGKILL exactly at the notice's time.

        Args:
            instance_id: A running spot instance.
            action: `terminate` or `stop`.
            notice_seconds: From now; rounded up, as a notice names a whole second.
            publish: Whether EventBridge hears of it; the instance's metadata always does.

        Returns:
            The time at which the instance is killed.

        Raises:
            LeverRefused: It is not a running spot instance.
        """
        answer = self._pull(
            "interrupt", instance_id=instance_id, action=action, notice_seconds=notice_seconds, publish=publish
        )
        return datetime.fromisoformat(answer["at"])

    def publish_warning(self, instance_id: str) -> None:
        """Publish the interruption warning once more, as EventBridge may; a notice must be out."""
        self._pull("publish-warning", instance_id=instance_id)

    def recommend_rebalance(self, instance_id: str) -> None:
        """Recommend a rebalance in the instance's metadata and on EventBridge."""
        self._pull("recommend-rebalance", instance_id=instance_id)

    def kill(self, instance_id: str) -> None:
        """Let the instance die at once, without notice; returns when none of its processes is left."""
        self._pull("kill", instance_id=instance_id)

    def stall(self, instance_id: str) -> None:
        """Stop every process of an instance where it is, as a host that hangs does; their clocks go on."""
        self._pull("stall", instance_id=instance_id)

    def resume(self, instance_id: str) -> None:
        """Let a stalled instance go on as if nothing had been."""
        self._pull("resume", instance_id=instance_id)

    def set_api_reachable(self, reachable: bool, *, bearer: str | None = None) -> None:
        """Let every API Gateway API answer 503, or serve again; the rest of AWS stays up.

        Args:
            reachable: Whether calls get through.
            bearer: Whose token: only that caller is cut off. None for everybody.
        """
        self._pull("set-api-reachable", reachable=reachable, bearer=bearer)

    def instances(self) -> list[InstanceView]:
        """Every instance the market knows, terminated ones too, oldest first."""
        return [_view(each) for each in self._pull("instances")]

    def instance(self, instance_id: str) -> InstanceView:
        """One instance.

        Raises:
            LeverRefused: There is none of that id.
        """
        return _view(self._pull("instance", instance_id=instance_id))

    def set_capacity(
        self,
        pool: str | None,
        *,
        available: bool | int,
        error_code: str = "InsufficientInstanceCapacity",
        lifecycle: str = "spot",
    ) -> None:
        """Decide how many instances more a pool takes.

        Args:
            pool: Such as `us-east-1a/m5.large`; shell patterns are fine; None for every pool.
            available: False for none, True for any number, or a number.
            error_code: What a launch beyond that is refused with, such as `MaxSpotInstanceCountExceeded`.
            lifecycle: `spot` or `on-demand`.
        """
        self._pull("set-capacity", pool=pool, available=available, error_code=error_code, lifecycle=lifecycle)

    def set_price(self, pool: str, usd_per_hour: Decimal | float, *, changed_at: datetime | None = None) -> None:
        """Change a pool's spot price for Linux, now or at a time; its generated walk ends there."""
        self._pull(
            "set-price",
            pool=pool,
            usd_per_hour=str(usd_per_hour),
            changed_at=(changed_at or datetime.now(UTC)).isoformat(),
        )

    def set_boot_seconds(self, seconds: float) -> None:
        """Let the instances launched from now on stay `pending` for so long (1 s unless set)."""
        self._pull("set-times", boot_seconds=seconds)

    def set_shutdown_seconds(self, *, grace: float, shutting_down: float) -> None:
        """Choose how long an orderly shutdown waits before SIGKILL, and how long a dead host shows `shutting-down`."""
        self._pull("set-times", shutdown_grace_seconds=grace, shutting_down_seconds=shutting_down)

    def set_public_ports(self, ports: Sequence[int]) -> None:
        """Choose the TCP ports that public addresses forward besides those of security groups (8080 unless set)."""
        self._pull("set-public-ports", ports=list(ports))

    def stop(self) -> None:
        """Stop the whole local AWS."""
        self._pull("stop")

    def _pull(self, lever: str, **arguments: object) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the URL is ours
            f"{self._endpoint_url}/_local/{lever}",
            data=json.dumps(arguments).encode(),
            headers={"Content-Type": "application/json", "X-Local-Token": self._token},
            method="POST",
        )
        # Never through a proxy that the environment names: this is loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            refusal = json.loads(error.read() or b"{}")
            raise LeverRefused(refusal.get("error", str(error.code)), refusal.get("message", "")) from None


def _view(fields: Mapping[str, Any]) -> InstanceView:
    return InstanceView(
        **{
            **fields,
            "pids": tuple(fields["pids"]),
            "disk": Path(fields["disk"]),
            "log": Path(fields["log"]),
            "launched_at": datetime.fromisoformat(fields["launched_at"]),
            "interrupts_at": datetime.fromisoformat(fields["interrupts_at"]) if fields["interrupts_at"] else None,
        }
    )
