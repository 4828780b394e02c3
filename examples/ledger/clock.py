# ruff: noqa: PTH123
# pathlib would lengthen every hook by a fifth, and hooks are part of the outage; see settings.py.
"""The two clocks every log line carries, and when this process began."""

import os
import time


def boot_ns() -> int:
    """CLOCK_BOOTTIME: one clock for all processes of a host, never set back, running on through a suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def process_started_boot_ns() -> int:
    """When this process was started, on CLOCK_BOOTTIME, to the kernel's tick of 10 ms."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        # The second field is the program's name in brackets and may hold anything, so counting starts behind it.
        after_name = stat.read().rpartition(")")[2].split()
    return int(after_name[19]) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
