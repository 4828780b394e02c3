"""Carry one instance's process tree, and take it down whole.

The guard is the "hardware" of an instance. It adopts every orphan of the tree (PR_SET_CHILD_SUBREAPER), so that a
process which changes its session or daemonises still descends from it. It reads orders on stdin, one word a line; when
its stdin closes, the launcher is gone, and the instance dies with it.

Standard library only, and no import of ours: it is run by path, isolated, so that it starts in some 15 ms.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Boot the tree that the first line of stdin describes; obey until it is dead."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Ctrl-C and a polite kill are for the launcher; the tree falls only with an order or with the launcher itself.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    orders = _Lines(0)
    boot = json.loads(orders.wait_for_one())
    os.chdir(boot["folder"])
    try:
        first = _start(boot)
        _report(started=first)
    except OSError as error:
        first = 0
        _report(failed=str(error))

    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
        for pid, code in _reap():
            if pid == first:
                # The machine outlives its first program, as an EC2 instance does.
                _report(exited=code)
        if 0 in readable:
            for order in orders.read():
                _obey(order)
            if orders.closed:
                _kill_all()
                return


def _obey(order: str) -> None:
    if order == "kill":
        _kill_all()
        _report(dead=True)
    else:
        _signal_all({"terminate": signal.SIGTERM, "stall": signal.SIGSTOP, "resume": signal.SIGCONT}[order])


class _Lines:
    """Lines from a file descriptor, without a buffer that select cannot see."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.closed = False

    def read(self) -> list[str]:
        chunk = os.read(self._descriptor, 1 << 16)
        self.closed = not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line.decode() for line in lines]

    def wait_for_one(self) -> str:
        while not self.closed:
            lines = self.read()
            if lines:
                return lines[0]
        raise SystemExit(0)


def _start(boot: dict) -> int:  # type: ignore[type-arg]
    os.environ["PATH"] = boot["environment"].get("PATH", os.defpath)
    log = os.open(boot["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    return os.posix_spawnp(
        boot["argv"][0],
        boot["argv"],
        boot["environment"],
        file_actions=[
            (os.POSIX_SPAWN_DUP2, nothing, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )


def _report(**fact: object) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more; the closed stdin will say so
        os.write(1, json.dumps(fact).encode() + b"\n")


def _reap() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def _signal_all(number: int) -> int:
    signalled = 0
    for pid in _descendants():
        try:
            os.kill(pid, number)
            signalled += 1
        except ProcessLookupError:
            pass
    return signalled


def _kill_all() -> None:
    """SIGKILL until nothing is left: a fork may slip in between the listing and the signal."""
    while _signal_all(signal.SIGKILL):
        _reap()
        time.sleep(0.001)
    _reap()


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the guard's start
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            continue
        state, parent = text[text.rindex(b")") + 2 :].split()[:2]
        # A zombie may still have living children, if only for the moment until they are adopted.
        children.setdefault(int(parent), []).append(int(entry) if state != b"Z" else -int(entry))
    found = []
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(abs(child))
            if child > 0:
                found.append(child)
    return found


if __name__ == "__main__":
    main()
    sys.exit(0)
