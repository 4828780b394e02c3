"""The processes of one instance: a guard outside, the booted tree inside."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local.processes import Census, ProcessIdentity, carrying, end_all

_log = logging.getLogger(__name__)

INSTANCE_VARIABLE = "LOCAL_AWS_INSTANCE"
RUN_VARIABLE = "LOCAL_AWS_RUN"
"""Every process of a local AWS inherits this, so that its leftovers can be found."""


@dataclass(frozen=True)
class Image:
    """What an AMI means here.

    Attributes:
        boot: The argv that starts with the instance.
        environment: Added to the instance's environment.
        content: Folder whose content each new instance finds on its disk, or None.
    """

    boot: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    content: Path | None = None


class Machine:
    """One running instance as the operating system sees it."""

    def __init__(self, run_id: str, instance_id: str, disk: Path, log: Path) -> None:
        self._run_id = run_id
        self._instance_id = instance_id
        self.disk = disk
        self._log_file = log
        self._guard: asyncio.subprocess.Process | None = None
        self._dead = asyncio.Event()
        self._started = asyncio.Event()
        self._unplugged = False
        self._booting = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    async def boot(self, image: Image, environment: Mapping[str, str]) -> None:
        """Lay out the disk and start the image's boot program under a guard.

        Once begun it runs to its end, whoever is cancelled: a guard that nobody remembers would be left behind.
        """
        await asyncio.shield(asyncio.ensure_future(self._boot(image, environment)))

    async def _boot(self, image: Image, environment: Mapping[str, str]) -> None:
        async with self._booting:
            if not self._unplugged:
                await self._start_guard(image, environment)

    async def _start_guard(self, image: Image, environment: Mapping[str, str]) -> None:
        self.disk.mkdir(parents=True, exist_ok=True)
        if image.content is not None:
            await asyncio.to_thread(shutil.copytree, image.content, self.disk, symlinks=True, dirs_exist_ok=True)
        (self.disk / "tmp").mkdir(exist_ok=True)
        search = os.pathsep.join(
            part for part in (str(Path(sys.executable).parent), os.environ.get("PATH", "")) if part
        )
        self._guard = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("guard.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            env={"PATH": search, RUN_VARIABLE: self._run_id},
        )
        await self._order(
            json.dumps(
                {
                    "argv": list(image.boot),
                    "folder": str(self.disk),
                    "log": str(self._log_file),
                    "environment": {
                        "PATH": search,
                        "LANG": "C.UTF-8",
                        "HOME": str(self.disk),
                        "TMPDIR": str(self.disk / "tmp"),
                        "INSTANCE_DISK": str(self.disk),
                        **environment,
                        **image.environment,
                        RUN_VARIABLE: self._run_id,
                        INSTANCE_VARIABLE: self._instance_id,
                    },
                }
            )
        )
        self._listener = asyncio.create_task(self._listen(self._guard))
        await self._started.wait()

    @property
    def guard(self) -> ProcessIdentity | None:
        """The guard's identity, while it lives."""
        return ProcessIdentity.of(self._guard.pid) if self._guard is not None and not self._dead.is_set() else None

    def pids(self, census: Census | None = None) -> tuple[int, ...]:
        """Every live process of the instance, now or at a census."""
        if self._guard is None or self._dead.is_set():
            return ()
        return tuple((census or Census()).descendants(self._guard.pid))

    async def shut_down(self, *, grace_seconds: float) -> None:
        """Ask every process to end, as an orderly shutdown does, then pull the plug."""
        async with self._booting:
            if self._guard is None:
                self._unplugged = True
                return
        await self._order("terminate")
        deadline = asyncio.get_running_loop().time() + grace_seconds
        while self.pids() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        await self.pull_the_plug()

    async def stall(self) -> None:
        """Stop every process where it is, as a host that hangs does; their clocks go on."""
        await self._order("stall")

    async def resume(self) -> None:
        """Let a stalled instance go on as if nothing had been."""
        await self._order("resume")

    async def pull_the_plug(self) -> None:
        """SIGKILL the whole tree; returns when nothing of it is left."""
        async with self._booting:
            self._unplugged = True
            if self._guard is None:
                return
        await self._order("kill")
        await self._dead.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        await self._guard.wait()

    async def _order(self, line: str) -> None:
        if self._guard is None or self._guard.stdin is None:
            return
        try:
            self._guard.stdin.write(line.encode() + b"\n")
            await self._guard.stdin.drain()
        except ConnectionError:
            _log.debug("the guard of %s is gone", self._instance_id)

    async def _listen(self, guard: asyncio.subprocess.Process) -> None:
        assert guard.stdout is not None  # noqa: S101 - asked for above
        async for line in guard.stdout:
            fact = json.loads(line)
            self._started.set()  # whichever it is, the program was tried
            if "failed" in fact:
                _log.error("%s cannot boot: %s", self._instance_id, fact["failed"])
            elif "exited" in fact:
                _log.info("the boot program of %s ended with %s", self._instance_id, fact["exited"])
            elif "dead" in fact:
                self._dead.set()
        self._started.set()
        if not self._dead.is_set():
            # Somebody killed the guard itself. Its orphans are elsewhere now, but they still carry the mark.
            _log.warning("the guard of %s died; ending its orphans", self._instance_id)
            await asyncio.to_thread(lambda: end_all(carrying(INSTANCE_VARIABLE, self._instance_id)))
            self._dead.set()
