"""A standby that is killed at any moment comes back with exactly one complete generation."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spot_agent.sync.errors import LinkDown
from spot_agent.sync.frames import Frame
from spot_agent.sync.generations import GenerationStore
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import Peer, PrimaryLink
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from tests.agent.sync.trees import Pair, Picture, a_folder, frames_of, picture, receive

# Whatever touches the disk through Python announces itself with one of these.
_DISK_EVENTS = frozenset(
    {
        "open",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.listdir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.symlink",
        "os.truncate",
        "os.utime",
        "shutil.rmtree",
    }
)


def killed_before_disk_event(number: int, action: Callable[[], None]) -> bool:
    """Run an action in a process that dies just before it touches the disk for the so-manieth time.

    Returns:
        Whether it died; False means that the action was done before.
    """

    def watch_the_disk() -> None:
        left = number

        def count(event: str, _: tuple[Any, ...]) -> None:
            nonlocal left
            if event in _DISK_EVENTS:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)

    return killed(watch_the_disk, action)


def killed_at_byte(number: int, action: Callable[[], None]) -> bool:
    """Run an action in a process that the kernel kills when it has written so many bytes into any one file."""

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

    return killed(limit_files, action)


def killed_after(seconds: float, action: Callable[[], None]) -> bool:
    """Run an action in a process that is sent SIGKILL after a while, whatever it is doing then."""

    def die_later() -> None:
        def kill() -> None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()

    return killed(die_later, action)


def killed(prepare: Callable[[], None], action: Callable[[], None]) -> bool:
    """Run an action in a process of its own, after `prepare`; whether something killed it."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            action()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def fill(root: Path) -> None:
    (root / "folder" / "deeper").mkdir(parents=True)
    for number in range(6):
        (root / "folder" / f"file{number}").write_bytes(os.urandom(9000))
    (root / "database").write_bytes(os.urandom(200_000))
    (root / "link").symlink_to("database")
    (root / "becomes a folder").write_bytes(b"file")
    (root / "becomes a file").mkdir()
    (root / "becomes a file" / "inside").write_bytes(b"inside")


def change(root: Path) -> None:
    with (root / "database").open("r+b") as file:
        file.seek(50_000)
        file.write(os.urandom(10_000))
        file.truncate(150_000)
    (root / "folder" / "file0").rename(root / "moved")
    (root / "folder" / "file1").unlink()
    (root / "folder" / "file2").rename(root / "folder" / "file3")
    (root / "folder" / "deeper").chmod(0o500)
    (root / "new").write_bytes(os.urandom(5000))
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    (root / "becomes a folder").unlink()
    (root / "becomes a folder").mkdir()
    (root / "becomes a folder" / "inside").write_bytes(b"inside")
    shutil.rmtree(root / "becomes a file")
    (root / "becomes a file").write_bytes(b"file")


class Standby:
    """The standby's side of a pair, on which the same generation can arrive again and again."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._saved = pair.folder / "saved"
        self._saved.mkdir()
        self.image = pair.there
        self._copy(pair.folder, self._saved)

    def start_over(self) -> None:
        for name in ("there", "store"):
            shutil.rmtree(self._pair.folder / name)
        self._copy(self._saved, self._pair.folder)

    def _copy(self, source: Path, target: Path) -> None:
        subprocess.run(["cp", "-a", str(source / "there"), str(source / "store"), str(target)], check=True)

    def open(self) -> GenerationStore:
        return GenerationStore.open(self._pair.folder / "store", WatchedPaths.of([self.image]))

    def recover(self) -> None:
        self.open()

    def take(self, frames: list[Frame]) -> None:
        store = self.open()
        receive(store, frames)
        store.apply_pending(check_all=True)


_CRASHES = 250  # of each kind of generation: 500 in all


@pytest.mark.parametrize("first", [True, False], ids=["the first generation", "a later generation"])
def test_dying_at_250_random_points_leaves_one_complete_generation_each_time(first: bool) -> None:
    chance = random.Random(f"crash {first}")
    with a_folder() as folder:
        pair = Pair(folder)
        pair.here.mkdir()
        fill(pair.here)
        pictures: dict[int, Picture] = {0: {}}
        if not first:
            pair.carry()
            pictures = {1: picture(pair.here)}
            change(pair.here)
        frames = frames_of(pair.take())
        newest = pair.number
        pictures[newest] = picture(pair.here)
        standby = Standby(pair)

        def take() -> None:
            standby.take(frames)

        began = time.monotonic()
        standby.start_over()
        assert not killed(lambda: None, take)
        whole_seconds = time.monotonic() - began
        standby.start_over()
        touches = 1
        while killed_before_disk_event(touches, take):
            standby.start_over()
            touches *= 2
        held: list[tuple[int, int]] = []
        crashes = dict.fromkeys(("event", "byte", "moment"), 0)
        while sum(crashes.values()) < _CRASHES:
            standby.start_over()
            way = chance.choice(("event", "event", "event", "byte", "moment"))
            touch = chance.randrange(1, touches)
            if way == "event":
                died = killed_before_disk_event(touch, take)
            elif way == "byte":
                died = killed_at_byte(chance.randrange(200_000), take)
            else:
                died = killed_after(chance.uniform(0, whole_seconds), take)
            if not died:
                continue
            crashes[way] += 1
            # And once more, while it recovers.
            killed_before_disk_event(chance.randrange(1, 25), standby.recover)
            store = standby.open()
            current = store.current()
            if current is None:
                assert first
                assert store.manifest() is None
            else:
                assert picture(standby.image) == pictures[current.number]
                store.verify()
            if way == "event":
                held.append((touch, 0 if current is None else current.number))
        assert all(crashes.values())
        numbers = [number for _, number in sorted(held)]
        assert numbers == sorted(numbers), "once committed, a generation is never lost again"
        assert {numbers[0], numbers[-1]} == {newest - 1, newest}


def test_dying_while_an_applied_journal_is_removed_leaves_a_store_that_opens(folder: Path) -> None:
    pair = Pair(folder)
    pair.here.mkdir()
    fill(pair.here)
    receive(pair.store, frames_of(pair.take()))
    committed = folder / "store" / "committed"
    shutil.copytree(committed, folder / "kept")
    pair.store.apply_pending()
    for touch in range(1, 500):
        # As if it had died when the image was noted, and before the journal was let go of.
        shutil.copytree(folder / "kept", committed, dirs_exist_ok=True)
        died = killed_before_disk_event(touch, pair.reopen)
        pair.reopen()
        assert not committed.exists()
        current = pair.store.current()
        assert current is not None
        assert current.number == pair.number
        assert picture(pair.there) == picture(pair.here)
        if not died:
            return
    pytest.fail("opening it never came to an end")


def test_nobody_who_is_shut_out_sees_anything_new_whenever_it_dies(folder: Path) -> None:
    pair = Pair(folder)
    (pair.here / "folder").mkdir(parents=True)
    (pair.here / "file").write_bytes(b"public")
    pair.carry()
    (pair.here / "file").chmod(0o600)
    (pair.here / "file").write_bytes(b"secret" * 2000)
    (pair.here / "folder").chmod(0o700)
    (pair.here / "folder" / "new").write_bytes(b"secret")
    frames = frames_of(pair.take())
    standby = Standby(pair)
    for touch in range(1, 200):
        died = killed_before_disk_event(touch, lambda: standby.take(frames))
        file, inside = standby.image / "file", standby.image / "folder"
        assert b"secret" not in file.read_bytes() or file.stat().st_mode & 0o077 == 0
        assert not (inside / "new").exists() or inside.stat().st_mode & 0o077 == 0
        if not died:
            assert picture(standby.image) == picture(pair.here)
            return
        standby.start_over()
    pytest.fail("it never came to an end")


@pytest.fixture
def folder() -> Iterator[Path]:
    with a_folder() as made:
        yield made


def test_a_standby_killed_at_random_moments_always_holds_a_complete_generation(folder: Path) -> None:
    chance = random.Random(2)
    here, there = folder / "here", folder / "there"
    primary = Identity.load_or_create(folder / "primary", name="primary")
    standby = Identity.load_or_create(folder / "standby", name="standby")
    (folder / "peer.pem").write_text(primary.certificate)
    here.mkdir()
    (here / "database").write_bytes(os.urandom(4 << 20))
    source = GenerationSource(WatchedPaths.of([here]))
    pictures: dict[int, Picture] = {}
    acknowledged = number = 0

    def keep_shipping(port: int, killer: threading.Timer, *, after: int) -> None:
        """Ship until the standby is dead; it is killed a moment after so many acknowledgements."""
        nonlocal acknowledged, number
        acknowledgements = 0
        link = PrimaryLink.connect(
            Peer("127.0.0.1", port, standby.certificate),
            identity=primary,
            agent_id="agent",
            replica_id="replica",
            epoch=1,
            on_link=lambda _: None,
            recall=source.recall,
        )
        try:
            while True:
                if acknowledgements >= after and killer.ident is None:
                    killer.start()
                edit(here, chance)
                number += 1
                pictures[number] = picture(here)
                acknowledged = link.ship(source.take(number, epoch=1, held=link.held), timeout_seconds=20).number
                acknowledgements += 1
        finally:
            link.close()

    for after in (0, 1, 0, 3, 2, 4):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.agent.sync.standby_process", str(folder)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        port = int(process.stdout.readline())
        killer = threading.Timer(chance.uniform(0, 0.05), process.kill)
        try:
            with pytest.raises(LinkDown):
                keep_shipping(port, killer, after=after)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        store = GenerationStore.open(folder / "store", WatchedPaths.of([there]))
        current = store.current()
        if current is None:
            assert not acknowledged
        else:
            assert acknowledged <= current.number <= number
            assert picture(there) == pictures[current.number]
            store.verify()
    assert acknowledged >= 10


def edit(here: Path, chance: random.Random) -> None:
    with (here / "database").open("r+b") as file:
        for _ in range(50):
            file.seek(chance.randrange(4 << 20))
            file.write(chance.randbytes(100))
    name = here / f"file{chance.randrange(20)}"
    if name.exists() and chance.random() < 0.5:
        name.rename(here / f"file{chance.randrange(20)}")
    else:
        name.write_bytes(chance.randbytes(chance.randrange(200_000)))
    time.sleep(0.001)
