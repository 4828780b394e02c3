"""The lease by which a ready standby keeps its primary from serving unseen.

While a standby is `ready` it is the lessor: the primary may serve only until `held_until`, and the standby asks for
promotion no earlier than `safe_after`. Both count on a monotonic clock that also runs while the machine sleeps
(CLOCK_BOOTTIME); wall clocks play no part. The primary counts from before it sent its request, the standby from when
it granted, so time on the wire only makes the primary stop earlier.

Gray and Cheriton, "Leases", SOSP 1989, is the source of the idea and of the drift term.
"""

from __future__ import annotations

LEASE_SECONDS = 4.0
RENEW_EVERY_SECONDS = 1.0

CLOCK_DRIFT = 0.01
"""How far two monotonic clocks may differ in rate from true time, each."""

FENCE_LATENCY_SECONDS = 0.5
"""What the independent fence may take, after the lease ended, until the workload is dead."""

STOP_EARLY_SECONDS = 0.75
"""So long before its lease ends, a primary that can not renew it begins to stop by itself."""

SILENCE_SECONDS = 2.5
"""A ready standby that was not asked for the lease for so long takes its primary for silent."""


def held_until(asked_at: float) -> float:
    """Until when a lease holds that was asked for at `asked_at`, on the primary's clock, in seconds."""
    return asked_at + LEASE_SECONDS


def safe_after(granted_at: float) -> float:
    """From when on a lease granted at `granted_at` can protect nobody any more, on the standby's clock, in seconds.

    The primary's clock may be slow by the drift, so that its lease really lasts longer; then comes the fence; and the
    standby's own clock may be fast by the drift.
    """
    longest_real = LEASE_SECONDS / (1 - CLOCK_DRIFT) + FENCE_LATENCY_SECONDS
    return granted_at + longest_real * (1 + CLOCK_DRIFT)
