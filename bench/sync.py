"""Measures state transfer side by side with rsync, on the same data, in one run: `make bench-sync`.

Ours is a primary and a standby in two processes, over TLS on loopback, each generation on the disk before it is
acknowledged, and applied before the clock is stopped. rsync is its daemon on loopback, `-a` and `-az --zc=zstd`, which
neither encrypts nor syncs; against the initial copy also `rsync -a --fsync` over ssh, which does both.

Writes `build/bench/sync.json` and prints a table. What is not installed here is left out, with what to install.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from spot_agent.sync.generations import GenerationStore
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import LeaseReply, Peer, PrimaryLink, StandbyListener
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from spot_agent.sync.watch import Watch

MIB: Final = 1 << 20
PAGE: Final = 4096
TIMEOUT_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Cost:
    """What one transfer took: seconds, and bytes on the wire from the sender."""

    seconds: float
    sent_bytes: int


@dataclass
class Case:
    """All transfers of one case, by contender, a pair per position."""

    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def add(self, contender: str, cost: Cost) -> None:
        self.costs.setdefault(contender, []).append(cost)

    def median(self, contender: str, what: str) -> float:
        return float(statistics.median(getattr(cost, what) for cost in self.costs[contender]))

    def summary(self) -> dict[str, Any]:
        """Medians, and ratios of ours to rsync's better one."""
        rivals = [name for name in self.costs if name.startswith("rsync") and not name.endswith("ssh")]
        found: dict[str, Any] = {
            "pairs": len(next(iter(self.costs.values()))),
            "medians": {
                name: {"seconds": self.median(name, "seconds"), "bytes": self.median(name, "sent_bytes")}
                for name in self.costs
            },
        }
        if rivals:
            best_seconds = min(self.median(name, "seconds") for name in rivals)
            best_bytes = min(self.median(name, "sent_bytes") for name in rivals)
            found["seconds_ratio"] = self.median("ours", "seconds") / best_seconds
            found["bytes_ratio"] = self.median("ours", "sent_bytes") / max(best_bytes, 1)
        if "rsync -a --fsync, ssh" in self.costs:
            found["seconds_ratio_ssh"] = self.median("ours", "seconds") / self.median(
                "rsync -a --fsync, ssh", "seconds"
            )
        return found


# --- ours ------------------------------------------------------------------------------------------------------------


def _be_standby(folder: Path, image: Path, certificate: str, pipe: Connection) -> None:
    """The standby's process: answers `pipe` when what it holds lies in the image."""
    store = GenerationStore.open(folder / "store", WatchedPaths.of([image]))
    identity = Identity.load_or_create(folder / "identity", name="standby")
    listener = StandbyListener(
        address="127.0.0.1",
        port=0,
        identity=identity,
        peer_certificate=lambda: certificate,
        store=store,
        on_lease_ask=lambda ask: LeaseReply(ask.request_id, granted=True, reason="", generation=0),
        on_committed=lambda _: None,
        on_link=lambda _: None,
        silence_seconds=60,
    )
    pipe.send((listener.start(), identity.certificate))
    while pipe.recv():
        store.settle(timeout_seconds=TIMEOUT_SECONDS)
        pipe.send(True)
    listener.stop()


class Ours:
    """A primary in this process, and its standby in another one."""

    def __init__(self, tree: Path, folder: Path, *, watching: bool = True) -> None:
        folder.mkdir()
        self._source = GenerationSource(WatchedPaths.of([tree]), watch=Watch() if watching else None)
        self._number = 0
        identity = Identity.load_or_create(folder / "primary", name="primary")
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        arguments = (folder, folder / "image", identity.certificate, theirs)
        self._process = context.Process(target=_be_standby, args=arguments, daemon=True)
        self._process.start()
        port, certificate = self._pipe.recv()
        self._link = PrimaryLink.connect(
            Peer("127.0.0.1", port, certificate),
            identity=identity,
            agent_id="agent",
            replica_id="replica",
            epoch=1,
            on_link=lambda _: None,
            silence_seconds=60,
        )

    def transfer(self) -> Cost:
        """One turn, as the agent takes it: confirm if nothing changed, otherwise ship; and applied at the other end."""
        began = time.monotonic()
        sent = 0
        if not (self._source.is_unchanged(self._link.held) and self._confirm()):
            generation = self._source.take(self._number + 1, epoch=1, held=self._link.held, must_settle=False)
            if generation.has_changes(TIMEOUT_SECONDS) or not self._confirm():
                self._link.ship(generation, timeout_seconds=TIMEOUT_SECONDS)
                self._number += 1
                progress = self._link.progress
                sent = 0 if progress is None else progress.wire_bytes
                self._pipe.send(True)
                self._pipe.recv()
        return Cost(time.monotonic() - began, sent)

    def rest(self) -> None:
        """Let what was written a moment ago be old enough to be known by its status."""
        time.sleep(0.1)
        self.transfer()

    def close(self) -> None:
        self._link.close()
        with contextlib.suppress(OSError):
            self._pipe.send(False)
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()

    def _confirm(self) -> bool:
        return self._number > 0 and self._link.confirm(self._number, taken_at=time.time())


# --- rsync -----------------------------------------------------------------------------------------------------------


class Rsync:
    """A daemon on loopback, and one module per copy."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._port = _free_port()
        configuration = folder / "rsyncd.conf"
        configuration.write_text(
            f"use chroot = no\nport = {self._port}\naddress = 127.0.0.1\npid file = {folder}/pid\n"
            f"uid = {os.getuid()}\ngid = {os.getgid()}\n[copies]\npath = {folder}\nread only = no\n"
        )
        self._daemon = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--config={configuration}"], stderr=subprocess.DEVNULL
        )
        _await_port(self._port)

    def transfer(self, tree: Path, copy: str, *options: str) -> Cost:
        (self._folder / copy).mkdir(exist_ok=True)
        target = f"rsync://127.0.0.1:{self._port}/copies/{copy}/"
        return run_rsync([*options, "--delete", f"{tree}/", target])

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(10)


def run_rsync(arguments: list[str]) -> Cost:
    began = time.monotonic()
    done = subprocess.run(["rsync", "--stats", *arguments], check=True, capture_output=True, text=True)
    seconds = time.monotonic() - began
    found = re.search(r"Total bytes sent: ([\d,]+)", done.stdout)
    return Cost(seconds, int(found[1].replace(",", "")) if found else 0)


@contextlib.contextmanager
def an_ssh_server(folder: Path) -> Iterator[list[str]]:
    """An sshd of our own on loopback; yields the options with which rsync reaches it."""
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = _free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        _await_port(port)
        shell = (
            f"ssh -p {port} -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
            "-o LogLevel=ERROR -o BatchMode=yes"
        )
        yield ["-e", shell]
    finally:
        server.terminate()
        server.wait(10)


# --- data ------------------------------------------------------------------------------------------------------------


def make_tree(tree: Path, *, mib: int, files: int, coin: random.Random) -> None:
    tree.mkdir()
    with (tree / "large").open("wb") as large:
        for _ in range(mib):
            large.write(coin.randbytes(MIB // 2) + bytes(MIB // 2))
    for number in range(files):
        folder = tree / f"folder-{number % 100:02d}"
        folder.mkdir(exist_ok=True)
        (folder / f"file-{number}").write_bytes(coin.randbytes(1024))


def dirty_pages(tree: Path, coin: random.Random) -> None:
    """Write one page of a hundred, half random bytes and half zeros each."""
    pages = (tree / "large").stat().st_size // PAGE
    with (tree / "large").open("r+b") as large:
        for page in coin.sample(range(pages), max(pages // 100, 1)):
            large.seek(page * PAGE)
            large.write(coin.randbytes(PAGE // 2) + bytes(PAGE // 2))


def append(tree: Path, coin: random.Random) -> None:
    with (tree / "large").open("ab") as large:
        large.write(coin.randbytes(PAGE))


def touch(tree: Path, _: random.Random) -> None:
    for number, file in enumerate(sorted(tree.glob("folder-*/file-*"))):
        if number < 1000:
            file.touch()


# --- the run ---------------------------------------------------------------------------------------------------------

RSYNC: Final = {"rsync -a": ("-a",), "rsync -az --zc=zstd": ("-az", "--zc=zstd")}


class Bench:
    """Runs the cases, ours and rsync's by turns."""

    def __init__(self, folder: Path, *, pairs: int, mib: int, files: int, many: int) -> None:
        self._folder = folder
        self._pairs = pairs
        self._mib, self._files, self._many = mib, files, many
        self._coin = random.Random(4)  # noqa: S311
        self._rsync = Rsync(folder / "rsync") if shutil.which("rsync") else None
        self.cases: dict[str, Case] = {}
        self.idle: dict[str, float] = {}

    def run(self, *, only: Collection[str]) -> None:
        """Measure: what changes, nothing changed, or both."""
        try:
            if "changes" in only:
                self._measure_changes()
            if "nothing" in only:
                self._measure_nothing()
        finally:
            if self._rsync is not None:
                self._rsync.close()

    def _measure_changes(self) -> None:
        tree = self._folder / "tree"
        make_tree(tree, mib=self._mib, files=self._files, coin=self._coin)
        self._measure_initial(tree)
        ours = Ours(tree, self._folder / "ours")
        try:
            ours.transfer()
            self._copy_all(tree, None)
            edits: dict[str, Callable[[Path, random.Random], None]] = {
                "dirty_pages": dirty_pages,
                "append": append,
                "touched": touch,
            }
            for name, edit in edits.items():
                for _ in range(self._pairs):
                    ours.rest()
                    edit(tree, self._coin)
                    self._case(name).add("ours", ours.transfer())
                    self._copy_all(tree, name)
                self._say(name)
        finally:
            ours.close()
        shutil.rmtree(tree)

    def _measure_initial(self, tree: Path) -> None:
        sshd = Path("/usr/sbin/sshd").exists() and self._rsync is not None
        with an_ssh_server(self._folder / "ssh") if sshd else contextlib.nullcontext() as shell:
            for number in range(self._pairs):
                folder = self._folder / f"initial-{number}"
                ours = Ours(tree, folder)
                self._case("initial").add("ours", ours.transfer())
                ours.close()
                shutil.rmtree(folder)
                if self._rsync is not None:
                    for contender, options in RSYNC.items():
                        self._case("initial").add(contender, self._rsync.transfer(tree, "first", *options))
                        shutil.rmtree(self._folder / "rsync" / "first")
                if shell is not None:
                    target = self._folder / "over-ssh"
                    cost = run_rsync(["-a", "--fsync", *shell, f"{tree}/", f"127.0.0.1:{target}/"])
                    self._case("initial").add("rsync -a --fsync, ssh", cost)
                    shutil.rmtree(target)
        self._say("initial")

    def _measure_nothing(self) -> None:
        tree = self._folder / "many"
        make_tree(tree, mib=0, files=self._many, coin=self._coin)
        for name, watching in (("nothing_changed", True), ("nothing_changed_scan", False)):
            ours = Ours(tree, self._folder / name, watching=watching)
            try:
                ours.transfer()
                ours.rest()
                self._copy_all(tree, None)
                for _ in range(self._pairs):
                    self._case(name).add("ours", ours.transfer())
                    self._copy_all(tree, name)
                self._say(name)
                self.idle[name] = idle_cpu_percent(ours)
                print(f"idle with {self._many} files, {name}: {self.idle[name]:.1f} % of one CPU", flush=True)
            finally:
                ours.close()

    def _copy_all(self, tree: Path, case: str | None) -> None:
        """Bring rsync's copies up to date; counted if a case is named."""
        if self._rsync is None:
            return
        for contender, options in RSYNC.items():
            cost = self._rsync.transfer(tree, f"{tree.name}-{contender.replace(' ', '')}", *options)
            if case is not None:
                self._case(case).add(contender, cost)

    def _case(self, name: str) -> Case:
        return self.cases.setdefault(name, Case())

    def _say(self, name: str) -> None:
        print(table(name, self.cases[name]), flush=True)


def idle_cpu_percent(ours: Ours, *, seconds: float = 10.0) -> float:
    """CPU time of this process per second, in percent, taking a turn each second while nothing changes."""
    began, used = time.monotonic(), time.process_time()
    turns = 0
    while (now := time.monotonic() - began) < seconds:
        time.sleep(max(turns - now, 0))
        ours.transfer()
        turns += 1
    return 100 * (time.process_time() - used) / (time.monotonic() - began)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    give_up_at = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.05)


def table(name: str, case: Case) -> str:
    """One line per contender: medians; and the ratios."""
    lines = []
    for contender in case.costs:
        seconds, sent = case.median(contender, "seconds"), case.median(contender, "sent_bytes") / 1e6
        lines.append(f"{name:22}{contender:24}{seconds:10.3f} s{sent:10.2f} MB")
    ratios = [f"{what} {value:.3f}" for what, value in case.summary().items() if what.endswith(("_ratio", "_ssh"))]
    return "\n".join([*lines, f"{name:22}ours / rsync's better: {', '.join(ratios)}"])


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.sync", description="State transfer beside rsync")
    parser.add_argument("--pairs", type=int, default=5, help="transfers per case and contender")
    parser.add_argument("--mib", type=int, default=1024, help="size of the large file")
    parser.add_argument("--files", type=int, default=5_000, help="small files beside it")
    parser.add_argument("--many", type=int, default=100_000, help="small files of which nothing changes")
    parser.add_argument("--only", choices=("changes", "nothing"), action="append", help="measure less than all")
    parser.add_argument("--out", type=Path, default=Path("build/bench/sync.json"))
    parser.add_argument("--within", type=Path, help="where the trees go; needs three times their size and more")
    arguments = parser.parse_args()
    if shutil.which("rsync") is None:
        print("rsync is not installed, so ours is measured alone: sudo apt-get install rsync openssh-server")
    elif not Path("/usr/sbin/sshd").exists():
        print("sshd is not installed, so rsync over ssh is left out: sudo apt-get install openssh-server")
    with tempfile.TemporaryDirectory(prefix="bench-sync-", dir=arguments.within) as folder:
        bench = Bench(
            Path(folder), pairs=arguments.pairs, mib=arguments.mib, files=arguments.files, many=arguments.many
        )
        bench.run(only=arguments.only or ("changes", "nothing"))
        result = {
            "cases": {name: case.summary() for name, case in bench.cases.items()},
            "idle_cpu_percent": bench.idle,
            "sizes": {"mib": arguments.mib, "files": arguments.files, "many": arguments.many},
            "rsync": shutil.which("rsync") is not None,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
