"""The agent's process: `python -m spot_agent --config agent.env`, started by the supervisor."""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from spot_agent import __version__, restore_command
from spot_agent.control_plane import ControlPlane
from spot_agent.fence import boot_clock
from spot_agent.holding import Holding
from spot_agent.hooks import workload_environment
from spot_agent.imds import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, Imds, MetadataUnreachable
from spot_agent.joining import Leaving, may_go_on, new_memory, register, resume
from spot_agent.journal import AgentAlreadyRuns, Journal
from spot_agent.logs import UnsentReports, write_logs
from spot_agent.notices import NoticeWatch
from spot_agent.parting import Parting
from spot_agent.price_history import ENDPOINT_VARIABLES, PriceHistory
from spot_agent.pricing import InstancePrices, PriceReports
from spot_agent.receiving import LiveImage, Receiver, as_event
from spot_agent.restoring import Restoring
from spot_agent.runtime import Parts, Runtime
from spot_agent.serving import Serving
from spot_agent.settings import SettingRefused, Settings, read_settings
from spot_agent.shipping import Shipper
from spot_agent.snapshots import Snapshots
from spot_agent.supervisor import CANNOT_BE_CONFIGURED
from spot_agent.switches import CARRIED_AS
from spot_agent.sync.errors import PathNotWatchable
from spot_agent.sync.identity import Identity
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_agent.sync.spool import Spool
from spot_agent.sync.throttle import Throttle
from spot_agent.sync.watch import Watch
from spot_agent.workload import SUPERVISOR_DESCRIPTOR, LookAtWorkload, WorkloadLink, WorkloadStatus
from spot_optimizer.domain.protocol import Event
from spot_optimizer.domain.snapshots import Cadence

log = logging.getLogger("spot_agent")

_METADATA_PAUSE_SECONDS: Final = 1.0
_NUMBERS_AT_ONCE: Final = 1000


def main() -> int:
    """Run the agent until SIGTERM.

    Returns:
        The exit status: 78 (EX_CONFIG) where starting again will not help.
    """
    parser = argparse.ArgumentParser(prog="python -m spot_agent", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings (KEY=VALUE lines)")
    restore_command.offer(parser.add_subparsers(dest="command", metavar="restore"))
    arguments = parser.parse_args()
    if arguments.command == "restore":
        return restore_command.run(arguments)
    descriptor = os.environ.pop(SUPERVISOR_DESCRIPTOR, None)
    if descriptor is None:
        parser.error("started without its supervisor; run: python -m spot_agent.supervisor --config FILE")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    agent = Agent(socket.socket(fileno=int(descriptor)), stopping)
    try:
        agent.run(arguments.config)
    except (SettingRefused, PathNotWatchable) as error:
        print(f"spot-agent: {error}", file=sys.stderr)
        return CANNOT_BE_CONFIGURED
    except (AgentAlreadyRuns, MetadataUnreachable) as error:
        print(f"spot-agent: {error}", file=sys.stderr)
        return 1
    except Leaving:
        log.info("told to end before there was a role to leave")
    return 0


class Agent:
    """Puts the agent's parts together, in the order in which what they need becomes known."""

    def __init__(self, supervisor: socket.socket, stopping: threading.Event) -> None:
        """Keep what is given.

        Args:
            supervisor: The socket inherited from the supervisor.
            stopping: Set when the agent is to leave in good order.
        """
        self._stopping = stopping
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._serving: Serving | None = None
        self._link = WorkloadLink(supervisor, on_status=self._take_status, on_lost=self._end_without_supervisor)

    def run(self, config: Path | None) -> None:
        """Read the settings, register, and drive the protocol until told to end.

        Args:
            config: The settings' file.

        Raises:
            SettingRefused: A setting cannot be used.
            PathNotWatchable: Neither can a watched path.
            AgentAlreadyRuns: Another agent uses the state folder.
            Leaving: Told to end before there was a role.
        """
        imds = Imds(os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT)
        user_data = self._ask_metadata(imds.user_data)
        settings = read_settings(file=config, environment=os.environ, user_data=user_data, folder=Path.cwd())
        watched = WatchedPaths.of(settings.watched_paths, state_dir=settings.state_dir)
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_file = write_logs(settings.state_dir)
        identity = self._ask_metadata(imds.identity)
        addresses = self._ask_metadata(imds.addresses)
        log.info("agent begins", extra={"instance_id": identity.instance_id, "version": __version__})

        # All that is about this instance lies under its id: on another one, a copied disk means nothing.
        folder = settings.state_dir / identity.instance_id
        journal = Journal(folder)
        memory = journal.load() or journal.begin(new_memory())
        if memory.sync_port is None or settings.sync_port not in (0, memory.sync_port):
            memory = journal.remember(sync_port=settings.sync_port or _free_port(addresses.control))
        sync_port = memory.sync_port or settings.sync_port
        own = Identity.load_or_create(folder, name=identity.instance_id)
        control_plane = ControlPlane(settings.central_server_url)
        memory = register(
            settings,
            identity,
            addresses,
            certificate=own.certificate,
            sync_port=sync_port,
            journal=journal,
            control_plane=control_plane,
            pause=self._pause,
        )
        agent_id = memory.agent_id or ""
        control_plane.authenticate(agent_id, memory.agent_token or "")

        receiver = Receiver(
            folder / "generations",
            watched,
            address=addresses.control,
            port=sync_port,
            identity=own,
            emit=self._events.put,
        )
        source = GenerationSource(watched, watch=Watch() if settings.sync_watch else None)
        image = LiveImage(receiver, journal, instance_id=identity.instance_id, adopt=source.adopt)

        def environment(epoch: int) -> Mapping[str, str]:
            return workload_environment(
                os.environ,
                epoch=epoch,
                agent_id=agent_id,
                instance_id=identity.instance_id,
                private_address=addresses.control,
                service_address=addresses.serving,
                state_dir=settings.state_dir,
            )

        def remember_frozen(frozen: bool) -> None:
            journal.remember(frozen=frozen)

        reading = threading.Lock()
        throttle = Throttle(settings.sync_bandwidth)
        serving = self._serving = Serving(
            settings.hooks,
            environment=environment,
            image=image,
            remember_frozen=remember_frozen,
            emit=self._events.put,
            timeout_seconds=settings.hook_timeout_seconds,
        )
        status = serving.begin(self._link.order, frozen=memory.frozen)
        if status.running and not may_go_on(memory, status):
            serving.stop("it runs under an epoch that is over")
            serving.await_stopped(settings.hook_timeout_seconds)
        if memory.restored_epoch is not None and memory.restored_epoch == memory.epoch:
            image.let_go()
        held = receiver.image
        endpoint = next((url for name in ENDPOINT_VARIABLES if (url := os.environ.get(name))), None)
        pricing = PriceReports(
            InstancePrices(
                imds,
                PriceHistory(
                    endpoint or f"https://ec2.{identity.region}.{self._ask_metadata(imds.domain)}", identity.region
                ),
                (identity.instance_type, *settings.instance_types),
            ),
            instance_id=identity.instance_id,
            submit=control_plane.submit,
            unsent=UnsentReports(folder / "unsent-prices.jsonl"),
            every_seconds=settings.pricing_report_interval_seconds,
        )
        next_number = _numbers(journal, at_least=0 if held is None else held.number)

        def extra() -> Mapping[str, Any]:
            return {
                **_configuration(settings),
                "prices": pricing.last_hour,
                CARRIED_AS: list(journal.memory.switches),
            }

        shipper = Shipper(
            source,
            identity=own,
            agent_id=agent_id,
            emit=self._events.put,
            quiesce=serving.quiesce,
            must_settle=settings.hooks.quiesce is not None,
            reading=reading,
            next_number=next_number,
            extra=extra,
            every_seconds=settings.sync_interval_seconds,
            throttle=throttle,
        )
        snapshots = Snapshots(
            Spool(folder / "snapshots", roots=len(watched.roots)),
            source,
            control_plane,
            cadence=Cadence(
                every_seconds=settings.snapshot_interval_seconds,
                noticed_every_seconds=settings.snapshot_noticed_interval_seconds,
            ),
            quiesce=serving.quiesce,
            must_settle=settings.hooks.quiesce is not None,
            reading=reading,
            next_number=next_number,
            extra=extra,
            throttle=throttle,
        )
        restoring = Restoring(
            folder / "restoring", control_plane, receiver, emit=self._events.put, pause=self._stopping.wait
        )
        holding = Holding(
            journal,
            receiver,
            source,
            serving,
            reading=reading,
            next_number=next_number,
            extra=extra,
            emit=self._events.put,
            pause=self._stopping.wait,
        )
        unsent = UnsentReports(folder / "unsent.jsonl")
        notices = NoticeWatch(imds, emit=self._events.put, every_seconds=settings.interruption_check_interval_seconds)
        state = resume(memory, status, None if held is None else as_event(held), now=boot_clock())
        runtime = Runtime(
            state,
            self._events,
            Parts(
                instance_id=identity.instance_id,
                control_plane=control_plane,
                journal=journal,
                serving=serving,
                shipper=shipper,
                receiver=receiver,
                snapshots=snapshots,
                restoring=restoring,
                holding=holding,
                notices=notices,
                pricing=pricing,
                parting=Parting(control_plane, unsent, log_file, pause=self._stopping.wait),
                heartbeat_seconds=settings.heartbeat_interval_seconds,
                sync_report_seconds=settings.sync_update_interval_seconds,
            ),
            stopping=self._stopping,
            give_life_sign=self._give_life_sign,
        )
        threading.excepthook = lambda broken: runtime.fail(broken.exc_value or RuntimeError("a thread broke"))
        runtime.run()
        control_plane.close()
        journal.close()

    def _take_status(self, status: WorkloadStatus) -> None:
        if self._serving is not None:
            self._serving.take_status(status)

    def _end_without_supervisor(self) -> None:
        """The supervisor is dead, and the keeper has killed the workload: what is left to end is the agent."""
        if self._serving is not None:
            self._serving.close()
        os._exit(1)

    def _give_life_sign(self) -> None:
        self._link.order(LookAtWorkload())

    def _pause(self, seconds: float) -> bool:
        self._give_life_sign()
        return self._stopping.wait(seconds)

    def _ask_metadata[Answer](self, ask: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return ask()
            except MetadataUnreachable as error:
                print(f"spot-agent: {error}; trying again", file=sys.stderr)
            if self._pause(_METADATA_PAUSE_SECONDS):
                raise Leaving


def _numbers(journal: Journal, *, at_least: int) -> Callable[[], int]:
    """Numbers for generations, each used once on this instance, without a write for each."""
    number = reserved = max(journal.memory.generation, at_least)

    def next_number() -> int:
        nonlocal number, reserved
        number += 1
        if number > reserved:
            reserved = number + _NUMBERS_AT_ONCE
            journal.remember(generation=reserved)
        return number

    return next_number


def _configuration(settings: Settings) -> Mapping[str, Any]:
    """What travels along with each generation, so that a standby that is alone still knows it."""
    return {
        "configuration": {
            "name": settings.agent_name,
            "auto_replica": settings.auto_replica_enabled,
            "manual_replica": settings.manual_replica_enabled,
            "rebalance_threshold": settings.rebalance_threshold,
            "sync_interval_seconds": settings.sync_interval_seconds,
        }
    }


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
