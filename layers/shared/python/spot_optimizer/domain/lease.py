"""The lease by which a ready standby keeps its primary from serving unseen.

While a standby is `ready` it is the lessor: the primary may serve only until `held_until`, and the standby asks for
promotion no earlier than `safe_after`. Both count on a monotonic clock that also runs while the machine sleeps
(CLOCK_BOOTTIME); wall clocks play no part. The primary counts from before it sent its request, the standby from when
it granted, so time on the wire only makes the primary stop earlier.

What is acknowledged under a lease that is not renewed can not reach the standby any more. So the workload is *held*
from `hold_at` on: it lives, and acknowledges nothing until the lease is renewed. That bounds what a promotion without
the primary can lose, whatever became of it: `longest_loss`.

Gray and Cheriton, "Leases", SOSP 1989, is the source of the idea and of the drift term.
"""

from __future__ import annotations

LEASE_SECONDS = 4.0
RENEW_EVERY_SECONDS = 1.0

CLOCK_DRIFT = 0.01
"""How far two monotonic clocks may differ in rate from true time, each."""

FENCE_LATENCY_SECONDS = 0.5
"""What the independent fence may take until the workload is held, or dead, when its moment has come."""

HOLD_SECONDS = 2.0
"""A workload whose lease was asked for so long ago, and not since, is held: one renewal may come late, not two."""

STOP_EARLY_SECONDS = 0.75
"""So long before its lease ends, a primary that can not renew it begins to stop by itself."""

SILENCE_SECONDS = 2.5
"""A ready standby that was not asked for the lease for so long takes its primary for silent."""


def held_until(asked_at: float) -> float:
    """Until when a lease holds that was asked for at `asked_at`, on the primary's clock, in seconds."""
    return asked_at + LEASE_SECONDS


def hold_at(lease_until: float) -> float:
    """From when on a workload is held whose lease ends at `lease_until`, on the primary's clock, in seconds."""
    return lease_until - LEASE_SECONDS + HOLD_SECONDS


def longest_loss(lag_seconds: float) -> float:
    """What a standby can miss at most of a primary that is not heard any more, in seconds of the primary's time.

    Args:
        lag_seconds: How far behind it was when the primary last asked for the lease, by the primary's clock, which may
            be slow by the drift.
    """
    return (lag_seconds + HOLD_SECONDS) / (1 - CLOCK_DRIFT) + FENCE_LATENCY_SECONDS


def safe_after(granted_at: float) -> float:
    """From when on a lease granted at `granted_at` can protect nobody any more, on the standby's clock, in seconds.

    The primary's clock may be slow by the drift, so that its lease really lasts longer; then comes the fence; and the
    standby's own clock may be fast by the drift.
    """
    longest_real = LEASE_SECONDS / (1 - CLOCK_DRIFT) + FENCE_LATENCY_SECONDS
    return granted_at + longest_real * (1 + CLOCK_DRIFT)
