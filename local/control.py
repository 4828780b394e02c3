"""The market's levers over HTTP, under /_local/, for whoever holds the run's token."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from local.market.errors import Ec2Refusal
from local.market.prices import LINUX, PriceChange
from local.market.spot_market import SpotMarket

type Body = Mapping[str, Any]


class Control:
    """One method per lever; each takes the JSON body and answers JSON."""

    def __init__(self, market: SpotMarket, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        self._market = market
        self._loop = loop
        self._stop = stop
        self._is_api_reachable = True
        self._cut_off: set[str] = set()
        self._levers: dict[str, Callable[[Body], Awaitable[object]]] = {
            "register-image": self._register_image,
            "interrupt": self._interrupt,
            "publish-warning": self._publish_warning,
            "recommend-rebalance": self._recommend_rebalance,
            "kill": self._kill,
            "stall": self._stall,
            "resume": self._resume,
            "instances": self._instances,
            "instance": self._instance,
            "set-capacity": self._set_capacity,
            "set-price": self._set_price,
            "set-times": self._set_times,
            "set-public-ports": self._set_public_ports,
            "set-api-reachable": self._set_api_reachable,
            "stop": self._stop_everything,
        }

    def reaches_api(self, authorization: str) -> bool:
        """Whether a caller who presents this gets through to an API."""
        return self._is_api_reachable and authorization.removeprefix("Bearer ") not in self._cut_off

    async def answer(self, lever: str, body: bytes) -> tuple[int, bytes]:
        """Pull a lever on the market's loop.

        Returns:
            HTTP status and JSON.
        """
        act = self._levers.get(lever)
        if act is None:
            return 404, json.dumps({"error": "NotFound", "message": f"no lever {lever!r}"}).encode()

        async def on_the_markets_loop() -> object:
            with self._market.account.scope():
                return await act(json.loads(body or b"{}"))

        try:
            done = asyncio.run_coroutine_threadsafe(on_the_markets_loop(), self._loop)
            return 200, json.dumps(await asyncio.wrap_future(done), default=_plain).encode()
        except Ec2Refusal as refusal:
            return 409, json.dumps({"error": refusal.code, "message": refusal.message}).encode()

    async def _register_image(self, body: Body) -> object:
        content = Path(body["content"]) if body.get("content") else None
        self._market.register_image(body["image_id"], tuple(body["boot"]), dict(body["env"]), content)
        return {}

    async def _interrupt(self, body: Body) -> object:
        at = self._market.interrupt(
            self._market.find(body["instance_id"]),
            action=body["action"],
            notice_seconds=float(body["notice_seconds"]),
            publish=bool(body["publish"]),
        )
        return {"at": at}

    async def _publish_warning(self, body: Body) -> object:
        self._market.publish_warning(self._market.find(body["instance_id"]))
        return {}

    async def _recommend_rebalance(self, body: Body) -> object:
        self._market.recommend_rebalance(self._market.find(body["instance_id"]))
        return {}

    async def _kill(self, body: Body) -> object:
        instance = self._market.find(body["instance_id"])
        self._market.kill(instance)
        while instance.machine.pids():
            await asyncio.sleep(0.005)
        return {}

    async def _stall(self, body: Body) -> object:
        await self._market.find(body["instance_id"]).machine.stall()
        return {}

    async def _resume(self, body: Body) -> object:
        await self._market.find(body["instance_id"]).machine.resume()
        return {}

    async def _instances(self, _: Body) -> object:
        return [dataclasses.asdict(view) for view in self._market.views()]

    async def _instance(self, body: Body) -> object:
        return dataclasses.asdict(self._market.view(self._market.find(body["instance_id"])))

    async def _set_capacity(self, body: Body) -> object:
        available = body["available"]
        self._market.capacity.limit(
            body["pool"] or "*",
            lifecycle=body["lifecycle"],
            remaining=None if available is True else int(available),
            error_code=body["error_code"],
        )
        return {}

    async def _set_price(self, body: Body) -> object:
        zone, _, instance_type = str(body["pool"]).partition("/")
        self._market.prices.record(
            PriceChange(
                zone,
                instance_type,
                LINUX,
                Decimal(str(body["usd_per_hour"])),
                datetime.fromisoformat(body["changed_at"]),
            )
        )
        return {}

    async def _set_times(self, body: Body) -> object:
        for name, seconds in body.items():
            if name not in ("boot_seconds", "shutdown_grace_seconds", "shutting_down_seconds"):
                raise Ec2Refusal("InvalidParameterValue", f"no time {name!r}")
            setattr(self._market.settings, name, float(seconds))
        return {}

    async def _set_public_ports(self, body: Body) -> object:
        await self._market.set_public_ports(int(port) for port in body["ports"])
        return {}

    async def _set_api_reachable(self, body: Body) -> object:
        bearer = body.get("bearer")
        if bearer is None:
            self._is_api_reachable = bool(body["reachable"])
        elif body["reachable"]:
            self._cut_off.discard(str(bearer))
        else:
            self._cut_off.add(str(bearer))
        return {}

    async def _stop_everything(self, _: Body) -> object:
        self._stop()
        return {}


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
