"""Labelled examples: an instance that is held at a moment, and whether it was interrupted soon after.

Only traces that tracked a held instance can label anything; a failed launch probe says nothing about instances that
already run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer_ml.features import PoolHistory, row
from training.recorded import Trace

EVERY = timedelta(minutes=5)
HORIZON_HOURS = (1, 6)


@dataclass(frozen=True)
class Examples:
    """Examples by rising time.

    Attributes:
        features: (examples, features), float32.
        times: (examples,), seconds since 1970.
        labels: By horizon in hours, (examples,): 1 interrupted within it, 0 not, NaN where the recording ended before
            it was known.
        own_rate: (examples,), interruptions per hour, the pool's own recent rate drawn towards its band.
        band_rate: (examples,), that of the last known advisor band.
        block: (examples,), number of the pool's six-hour block; what lies in one is not independent.
        pools: How many pools they come from.
        interruptions: How many interruptions lie behind the labels.
    """

    features: NDArray[np.float32]
    times: NDArray[np.float64]
    labels: Mapping[int, NDArray[np.float64]]
    own_rate: NDArray[np.float64]
    band_rate: NDArray[np.float64]
    block: NDArray[np.int64]
    pools: int
    interruptions: int


def histories(
    traces: Iterable[Trace], bands: Mapping[tuple[str, str], Sequence[tuple[datetime, AdvisorBand]]]
) -> dict[str, PoolHistory]:
    """What is recorded of each trace's pool, by trace id."""
    found = {}
    for trace in traces:
        changes = trace.price_changes()
        found[trace.trace_id] = PoolHistory(
            pool_id=trace.pool_id,
            held=trace.held(),
            price_times=np.array([moment.timestamp() for moment, _ in changes]),
            price_shares=np.array([float(usd / trace.on_demand_usd_per_hour) for _, usd in changes]),
            bands=bands.get((trace.region, trace.instance_type), ()),
        )
    return found


def label(traces: Sequence[Trace], history: Mapping[str, PoolHistory]) -> Examples:
    """Take an example every five minutes from every instance that was held.

    Raises:
        ValueError: A trace did not track a held instance.
    """
    wrong = [trace.trace_id for trace in traces if trace.kind != "preemption"]
    if wrong:
        raise ValueError(f"{wrong} tracked launches, not held instances; expected traces of kind preemption")
    markets: dict[tuple[str, str, str, str], list[Trace]] = defaultdict(list)
    for trace in traces:
        markets[trace.market].append(trace)
    rows: list[tuple[float, list[float], list[float], float, str]] = []
    for trace in traces:
        pool = history[trace.trace_id]
        peers = [history[other.trace_id] for other in markets[trace.market] if other is not trace]
        for held in pool.held:
            until = held.until if held.until is not None else trace.end
            moment = held.since
            while moment < until:
                labels = [_label(moment, until, held.interrupted, timedelta(hours=hours)) for hours in HORIZON_HOURS]
                values = row(pool, peers, launched_at=held.since, now=moment)
                band = pool.band(moment).interruptions_per_hour
                block = f"{trace.trace_id}#{int(moment.timestamp() // 21_600)}"
                rows.append((moment.timestamp(), values, labels, band, block))
                moment += EVERY
    rows.sort(key=lambda one: (one[0], one[4]))
    features = np.array([values for _, values, *_ in rows], dtype=np.float32)
    blocks = {block: number for number, block in enumerate(dict.fromkeys(block for *_, block in rows))}
    return Examples(
        features=features,
        times=np.array([at for at, *_ in rows]),
        labels={
            hours: np.array([labels[position] for _, _, labels, _, _ in rows])
            for position, hours in enumerate(HORIZON_HOURS)
        },
        own_rate=features[:, 5].astype(np.float64),
        band_rate=np.array([band for _, _, _, band, _ in rows]),
        block=np.array([blocks[block] for *_, block in rows]),
        pools=len(traces),
        interruptions=sum(held.interrupted for trace in traces for held in history[trace.trace_id].held),
    )


def _label(moment: datetime, until: datetime, interrupted: bool, horizon: timedelta) -> float:
    if interrupted and until - moment <= horizon:
        return 1.0
    return 0.0 if until - moment > horizon else float("nan")
