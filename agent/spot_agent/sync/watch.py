"""Notices that something in the watched paths changed: by the kernel's inotify, asked and not listened to.

All that matters is whether anything happened since the last look, so no thread waits for events and none is
interpreted: a quiet watch is one `read` that finds nothing. The kernel queues an event before the write that causes it
returns to the workload, so what was acknowledged before that `read` is known to it. The queue running over is itself an
event, and any event leads to a walk, which watches each folder before it lists it. So neither lost events nor folders
that come and go need a case of their own.

Only the kernel's side can fail, and then there is no watch: limits on watches, instances, or no inotify at all. Half of
what one user may watch is left to others. After a while it is tried again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x002, 0x004, 0x008
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x040, 0x080, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _DONT_FOLLOW = 0x400, 0x800, 0x02000000
_MASK: Final = (
    _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
) | _DONT_FOLLOW
_READ_BYTES: Final = 1 << 18
_MOST_WATCHES: Final = Path("/proc/sys/fs/inotify/max_user_watches")
_UNKNOWN_LIMIT: Final = 8192
_TRY_AGAIN_SECONDS: Final = 600.0


class Watch:
    """Watches folders, and answers whether anything happened in them since it was last asked.

    Not safe to use from several threads at once.
    """

    def __init__(self, *, most: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch nothing yet.

        Args:
            most: How many folders may be watched; None takes half of what the kernel allows one user.
            clock: Seconds that only go forwards.
        """
        self._most = _allowed() // 2 if most is None else most
        self._clock = clock
        self._descriptor: int | None = None
        self._watches: set[int] = set()
        self._seen: set[int] = set()
        self._roots: dict[bytes, tuple[int, int] | None] = {}
        self._failed_at: float | None = None
        self._distrusted = False

    def begin(self) -> bool:
        """A walk begins: forget what happened before, it will be seen. Opens the watch if there is none.

        Returns:
            Whether it was quiet until now; see `is_quiet`.
        """
        was_quiet = self.is_quiet()
        self._seen = set()
        self._roots = {}
        if self._descriptor is None and self._may_try():
            self._open()
        return was_quiet

    def add_root(self, place: bytes) -> None:
        """Watch a watched path itself, whether it is a folder, a file, or missing, which others notice too late."""
        self._roots[place] = _identity(place)
        self.add(place)

    def add(self, place: bytes) -> None:
        """Watch a folder, or a file by itself, from now on; list or look at it afterwards.

        Raises:
            FileNotFoundError: It is gone.
        """
        if self._descriptor is None:
            return
        number = _add_watch(self._descriptor, place, _MASK)
        if number >= 0:
            self._watches.add(number)
            self._seen.add(number)
            if len(self._seen) > self._most:
                self._fail(f"more than {self._most} folders; raise {_MOST_WATCHES}")
            return
        code = ctypes.get_errno()
        if code in (errno.ENOENT, errno.ENOTDIR):
            raise FileNotFoundError(code, os.strerror(code), place)
        self._fail(os.strerror(code))

    def complete(self) -> bool:
        """A walk is over: lets go of what it did not find; whether all it found is watched."""
        if self._descriptor is None:
            return False
        for number in self._watches - self._seen:
            # Mostly it went with its folder. A folder that was moved away would be heard of for ever.
            _remove_watch(self._descriptor, number)
        self._watches = self._seen
        return True

    def is_quiet(self) -> bool:
        """Whether everything is watched and nothing has happened since the last time this, or `begin`, was called."""
        if self._descriptor is None or not self._roots:
            return False
        nothing_happened = not self._drain(self._descriptor)
        return nothing_happened and all(_identity(place) == known for place, known in self._roots.items())

    def distrust(self) -> None:
        """It has missed something: never watch again."""
        self._distrusted = True
        self._fail("it misses changes: of a memory map, native asynchronous I/O, or a shared file system")

    def close(self) -> None:
        """Watch nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._watches, self._seen = set(), set()

    def _may_try(self) -> bool:
        if self._distrusted:
            return False
        return self._failed_at is None or self._clock() - self._failed_at >= _TRY_AGAIN_SECONDS

    def _open(self) -> None:
        descriptor = _init(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor >= 0:
            self._descriptor = descriptor
        else:
            self._fail(os.strerror(ctypes.get_errno()))

    def _fail(self, why: str) -> None:
        self.close()
        self._failed_at = self._clock()
        log.warning("changes are not watched, the tree is walked for each generation", extra={"error": why})

    def _drain(self, descriptor: int) -> bool:
        """Whether anything had happened."""
        happened = False
        with contextlib.suppress(BlockingIOError):
            # Bounded, so that a workload that never rests does not hold this up: what is left counts the next time.
            for _ in range(64):
                os.read(descriptor, _READ_BYTES)
                happened = True
        return happened


def _identity(place: bytes) -> tuple[int, int] | None:
    try:
        status = os.lstat(place)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _allowed() -> int:
    try:
        return int(_MOST_WATCHES.read_text())
    except (OSError, ValueError):
        return _UNKNOWN_LIMIT


def _missing(*_: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


_libc = ctypes.CDLL(None, use_errno=True)
_init: Callable[[int], int] = getattr(_libc, "inotify_init1", _missing)
_add_watch: Callable[[int, bytes, int], int] = getattr(_libc, "inotify_add_watch", _missing)
_remove_watch: Callable[[int, int], int] = getattr(_libc, "inotify_rm_watch", _missing)
