"""A supervisor in a process of its own, over an agent that does what the test says.

The agent of the rig is a process that only passes lines: from the test to its supervisor, and back.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from spot_agent.fence import children, descendants, end
from spot_agent.workload import (
    HoldWorkload,
    LookAtWorkload,
    MoveFence,
    Order,
    StartWorkload,
    StopWorkload,
    WorkloadStatus,
    decode_status,
    encode_order,
)

_PATHS = [path for path in sys.path if path]

_SUPERVISE = "import sys; from spot_agent.supervisor import Supervisor; sys.exit(Supervisor(sys.argv[1:]).run())"

_PASS_LINES = """
import os, signal, socket, subprocess, sys, threading
hook = subprocess.Popen(["setsid", "sleep", "600"])
supervisor = socket.socket(fileno=int(os.environ["SPOT_SUPERVISOR_FD"]))
test = socket.socket(socket.AF_UNIX)
test.connect(sys.argv[1])
test.sendall(b"%d\\n" % os.getpid())
def leave(*_):
    test.sendall(b"SIGTERM\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
def carry(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    hook.kill()
    os._exit(0)
threading.Thread(target=carry, args=(supervisor, test), daemon=True).start()
thread = threading.Thread(target=carry, args=(test, supervisor), daemon=True)
thread.start()
while True:
    thread.join(0.05)
"""


class FenceRig:
    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._listener = socket.socket(socket.AF_UNIX)
        # A path under pytest's own folders can be longer than a socket address may be.
        self._address_folder = tempfile.TemporaryDirectory()
        address = f"{self._address_folder.name}/s"
        self._listener.bind(address)
        self._listener.listen()
        self._listener.settimeout(10)
        self.supervisor = subprocess.Popen(
            [sys.executable, "-c", _SUPERVISE, sys.executable, "-c", _PASS_LINES, address],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_PATHS), **environment},
            cwd=folder,
        )
        self.await_agent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_tree(self.supervisor)
        self._agent.close()
        self._listener.close()
        self._address_folder.cleanup()

    def await_agent(self) -> WorkloadStatus:
        """Wait for the (next) agent to come up and hear what it is told first."""
        self._agent, _ = self._listener.accept()
        self._agent.settimeout(10)
        self._lines = self._agent.makefile("rb")
        self.agent_pid = int(self._lines.readline())
        (self.hook_pid,) = children(self.agent_pid)
        return self.hear()

    def hear(self) -> WorkloadStatus:
        return decode_status(self.hear_line())

    def hear_line(self) -> bytes:
        return self._lines.readline()

    def order(self, order: Order) -> WorkloadStatus:
        """Send an order and hear its answer; what was told before it is passed over."""
        self.send(order)
        while (status := self.hear()).answers is None:
            pass
        return status

    def send(self, order: Order) -> None:
        self._agent.sendall(encode_order(order))

    def start(self, command: str, *, epoch: int = 1, deadline: float | None = None) -> WorkloadStatus:
        environment: Mapping[str, str] = {"PATH": os.environ["PATH"], "SPOT_EPOCH": str(epoch)}
        return self.order(StartWorkload(epoch=epoch, command=command, environment=environment, deadline=deadline))

    def fence(self, deadline: float | None, *, epoch: int = 1) -> WorkloadStatus:
        return self.order(MoveFence(epoch=epoch, deadline=deadline))

    def hold(self, at: float | None, *, epoch: int = 1) -> WorkloadStatus:
        return self.order(HoldWorkload(epoch=epoch, at=at))

    def stop(self, grace_seconds: float = 5.0) -> WorkloadStatus:
        return self.order(StopWorkload(grace_seconds=grace_seconds))

    def look(self) -> WorkloadStatus:
        return self.order(LookAtWorkload())

    def pids_in(self, name: str) -> int:
        """The pid that the workload wrote into a file, as soon as it is there."""
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        return int(path.read_text())


def end_tree(root: subprocess.Popen[bytes]) -> None:
    """Kill a supervisor and everything below it. Stopped first, it starts nothing more, and inherits all orphans."""
    if root.poll() is None:
        root.send_signal(signal.SIGSTOP)
        while living := [pid for pid in descendants(root.pid) if is_alive(pid)]:
            end(living)
        root.kill()
    root.wait()


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def moment_of_death(*pids: int) -> float:
    """Wait for all of them to be gone; the boot clock at that moment."""
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "this never happened"
        time.sleep(0.001)
