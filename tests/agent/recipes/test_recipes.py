"""The recipes, against the real servers: what was acknowledged before a handover is there after it, and after a sudden
death all that a generation covered is.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from spot_agent.receiving import Receiver
from spot_agent.settings import parse_lines, read_settings
from spot_agent.shipping import Destination, Shipper
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import Peer as LinkPeer
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_agent.sync.throttle import Throttle
from spot_optimizer.domain.orders import Peer
from spot_optimizer.domain.protocol import Event, GenerationCommitted, ShipFinal
from spot_optimizer.domain.replicas import ReplicaState
from tests.agent.fence_rig import wait_until
from tests.agent.recipes.databases import DATABASES, PATIENCE_SECONDS, RECIPES, Database, missing
from tests.agent.sync.trees import a_folder

EVERY_SECONDS = 0.2


class Replication:
    """A primary's database, its standby's, and the agent's parts between them."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.primary, self.standby, self.next_one = (DATABASES[kind](folder / name) for name in ("one", "two", "three"))
        own, other = (Identity.load_or_create(folder / "keys" / name, name=name) for name in ("primary", "standby"))
        self._committed: list[GenerationCommitted] = []
        address = f"127.66.{random.randrange(1, 250)}.{random.randrange(1, 250)}"
        self._receiver = Receiver(
            folder / "store",
            WatchedPaths.of([self.standby.image]),
            address=address,
            port=7443,
            identity=other,
            emit=self._hear,
        )
        self._receiver.listen(
            Peer(
                replica_id="replica",
                instance_id="i-1",
                status=ReplicaState.SYNCING,
                readiness=0,
                address=address,
                port=7443,
                certificate=own.certificate,
            )
        )
        numbers = iter(range(1, 1_000_000))
        self._shipper = Shipper(
            GenerationSource(WatchedPaths.of([self.primary.image])),
            identity=own,
            agent_id="agent",
            emit=lambda _: None,
            quiesce=lambda: self.primary.hook("quiesce").succeeded,
            must_settle=True,
            reading=threading.Lock(),
            throttle=Throttle(None),
            next_number=lambda: next(numbers),
            extra=dict,
            every_seconds=EVERY_SECONDS,
        )
        self._shipper.begin()
        self._destination = Destination(LinkPeer(address, 7443, other.certificate), "replica", 1)

    def _hear(self, event: Event) -> None:
        if isinstance(event, GenerationCommitted):
            self._committed.append(event)

    def begin(self) -> None:
        """Make the database, write to it, and replicate it."""
        self.primary.begin()
        self.primary.start()
        self._shipper.connect(self._destination)
        self.primary.write_on()
        self.await_generations(2)

    def await_generations(self, count: int) -> None:
        """Wait until the standby has so many more, with something acknowledged between them."""
        for _ in range(count):
            so_far, written = len(self._committed), len(self.primary.acknowledged)
            wait_until(
                lambda so_far=so_far, written=written: (
                    len(self._committed) > so_far and len(self.primary.acknowledged) > written
                ),
                PATIENCE_SECONDS,
            )

    def hand_over(self) -> None:
        """As the agents do: nothing is acknowledged any more, the last generation, and the standby takes over."""
        self._shipper.rest(resting=True)
        if self.primary.freezes:
            self.primary.must("freeze")
        else:
            self.primary.stop()
        self._shipper.ship_final(ShipFinal("replica", "handover", 1))
        wait_until(lambda: any(each.final_for == "handover" for each in self._committed), PATIENCE_SECONDS)
        self.primary.stop()
        self.primary.rest()
        self.take_over()

    def lose_the_primary(self) -> float:
        """Cut the link and kill everything at the same moment; the moment up to which the standby covers."""
        self._shipper.disconnect()
        self.primary.kill()
        self.primary.rest()
        self._receiver.stop()
        covered_until = max(datetime.fromisoformat(each.covered_until).timestamp() for each in self._committed)
        self.take_over()
        return covered_until

    def take_over(self) -> None:
        self._receiver.prepare_image()
        self.standby.must("restore")
        self._receiver.release()
        self.standby.start()

    def close(self) -> None:
        self._shipper.disconnect()
        self._shipper.close()
        for database in (self.primary, self.standby, self.next_one):
            database.close()
        self._receiver.stop()


@pytest.fixture(params=DATABASES)
def replication(request: pytest.FixtureRequest) -> Iterator[Replication]:
    kind = request.param
    install = missing(DATABASES[kind].needs)
    if install is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the real server: {install}")
        pytest.skip(install)
    if kind == "postgresql" and os.geteuid() != 0:
        pytest.skip("needs root, to run the server as postgres")
    with a_folder() as folder:
        # PostgreSQL's user must get to its own folders.
        folder.chmod(0o755)
        replication = Replication(kind, folder)
        try:
            yield replication
        finally:
            replication.close()


def test_a_planned_failover_loses_nothing_that_was_acknowledged(replication: Replication) -> None:
    replication.begin()
    replication.hand_over()
    acknowledged = replication.primary.acknowledged
    assert len(acknowledged) > 10
    assert acknowledged.keys() <= replication.standby.entries()
    # And it is a primary like any other: what it took over and what came since goes on to the next one.
    standby, next_one = replication.standby, replication.next_one
    standby.write_on()
    wait_until(lambda: len(standby.acknowledged) > 10, PATIENCE_SECONDS)
    wait_until(lambda: standby.hook("quiesce").succeeded, PATIENCE_SECONDS)
    standby.rest()
    standby.must("quiesce")
    next_one.image.parent.mkdir(mode=0o755, exist_ok=True)
    subprocess.run(["cp", "-a", standby.image, next_one.image], check=True)
    standby.kill()
    next_one.must("restore")
    next_one.start()
    assert (acknowledged.keys() | standby.acknowledged.keys()) <= next_one.entries()
    next_one.check()


def test_a_primary_that_is_killed_loses_no_more_than_the_last_generation_did_not_cover(
    replication: Replication,
) -> None:
    replication.begin()
    replication.await_generations(1)
    time.sleep(random.uniform(0, 2 * EVERY_SECONDS))
    covered_until = replication.lose_the_primary()
    entries = replication.standby.entries()
    lost = {number: at for number, at in replication.primary.acknowledged.items() if number not in entries}
    assert all(at > covered_until for at in lost.values())
    assert any(at <= covered_until for at in replication.primary.acknowledged.values())
    replication.standby.check()


@pytest.mark.parametrize("replication", [name for name, kind in DATABASES.items() if kind.freezes], indirect=True)
def test_a_frozen_database_acknowledges_nothing_and_goes_on_when_it_is_thawed(replication: Replication) -> None:
    primary = replication.primary
    replication.begin()
    primary.must("freeze")
    primary.must("freeze")  # again, as an agent does that was restarted in between
    before = dict(primary.acknowledged)
    primary.must("quiesce")
    assert primary.acknowledged == before
    primary.must("thaw")
    primary.rest()
    primary.write_on()
    wait_until(lambda: len(primary.acknowledged) > len(before), PATIENCE_SECONDS)
    primary.rest()
    primary.check()


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "redis"])
def test_the_settings_of_a_recipe_are_settings_and_name_its_hooks(name: str) -> None:
    file = RECIPES / name / "agent.env"
    settings = read_settings(
        file=file, environment={"CENTRAL_SERVER_URL": "https://example.org"}, user_data=None, folder=Path("/")
    )
    assert settings.hooks.quiesce is not None
    hooks = {value for key, value in parse_lines(file.read_text(), source=str(file)).items() if key.startswith("HOOK_")}
    named = {Path(value.removeprefix("exec ")) for value in hooks if "/recipes/" in value}
    assert named
    for hook in named:
        assert os.access(RECIPES / name / hook.name, os.X_OK)


@pytest.mark.parametrize("name", ["redis", "postgresql"])
def test_nothing_is_started_or_restored_on_empty_state(name: str) -> None:
    with a_folder() as folder:
        database: Database = DATABASES[name](folder / "empty")
        for hook in ("start", "restore"):
            outcome = database.hook(hook)
            assert outcome.code == 1
            assert "no " in outcome.output
        database.close()
