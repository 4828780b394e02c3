"""The process that is AWS: ministack with our patches, the market beside it, the front door before it.

Started by the launcher with a listening socket, a complete environment and a pipe; when the pipe closes, the launcher
is gone, and so is this AWS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack import app as ministack_app

from local import patches
from local.control import Control
from local.front_door import Application, FrontDoor
from local.leftovers import RunFolder
from local.market import price_list, quotas
from local.market.account import Account
from local.market.facade import Ec2Facade
from local.market.prices import SpotPrices, read_price_file
from local.market.spot_market import Folders, SpotMarket
from local.market.wire import ec2_model
from local.patches import ec2_permissions
from local.processes import ProcessIdentity

_log = logging.getLogger("local.server")


@dataclass(frozen=True)
class Order:
    """What the launcher asks for, as JSON on the command line."""

    folder: Path
    socket: int
    endpoint_url: str
    region: str
    account_id: str
    token: str
    price_file: Path | None

    @classmethod
    def read(cls, text: str) -> Order:
        """Read the order."""
        fields: dict[str, Any] = json.loads(text)
        price_file = fields.pop("price_file")
        return cls(
            **{**fields, "folder": Path(fields["folder"])},
            price_file=Path(price_file) if price_file else None,
        )


class MarketThread:
    """The market's own event loop: nothing that ministack does can delay a notice or a metadata answer."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="market")
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine there and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stop(self) -> None:
        """Stop the loop; pending tasks are dropped with the process."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=2)


def main(order: Order) -> None:
    """Serve until the launcher's pipe closes or somebody says stop."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("local").setLevel(logging.INFO)
    run = RunFolder.join(order.folder)
    run.record(server=ProcessIdentity.of(os.getpid()))
    patches.apply_all()
    account = Account(order.account_id, order.region)
    prices = SpotPrices(account.availability_zones(), read_price_file(order.price_file) if order.price_file else ())
    thread = MarketThread()
    # Half a second of CPU time that the first EC2 call need not wait for.
    threading.Thread(target=ec2_model, daemon=True).start()

    async def open_the_market() -> SpotMarket:
        def remember_guards() -> None:
            guards = [instance.machine.guard for instance in market.instances.values()]
            run.record(guards=[guard for guard in guards if guard is not None])

        folders = Folders(order.folder / "disks", order.folder / "images", order.folder / "logs", remember_guards)
        folders.logs.mkdir(exist_ok=True)
        market = SpotMarket(account, folders, run.run_id, order.endpoint_url, prices)
        return market

    market: SpotMarket = thread.run(open_the_market())
    facade = Ec2Facade(market, thread.loop, ministack_app.SERVICE_HANDLERS["ec2"])
    ministack_app.SERVICE_HANDLERS["ec2"] = facade.handle
    price_list.serve()
    quotas.serve()
    ec2_permissions.apply(market)
    try:
        asyncio.run(_serve(order, market, thread.loop))
    finally:
        thread.run(market.close())
        thread.stop()
        _end_functions()
        run.remove()
        # Worker threads of the emulator may still sleep in a Wait state; nothing of theirs is worth waiting for.
        os._exit(0)


async def _serve(order: Order, market: SpotMarket, market_loop: asyncio.AbstractEventLoop) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_reader(sys.stdin.fileno(), stopping.set)
    config = Config()
    config.bind = [f"fd://{order.socket}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 0.1
    config.shutdown_timeout = 1
    config.loglevel = "WARNING"

    def stop() -> None:
        loop.call_soon_threadsafe(stopping.set)

    control = Control(market, market_loop, stop)
    door = FrontDoor(cast("Application", ministack_app.app), control, order.token)

    async def until_told() -> None:
        await stopping.wait()

    serving = asyncio.create_task(serve(cast("Any", door), config, shutdown_trigger=until_told))
    ready = {"identity_certificate": market.signer.certificate}
    print(json.dumps(ready), flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _end_functions() -> None:
    from ministack.core import lambda_runtime

    lambda_runtime._REAP_GRACE = 0.3  # noqa: SLF001 - nobody waits for a function's last words
    lambda_runtime.reset()


if __name__ == "__main__":
    main(Order.read(sys.argv[1]))
