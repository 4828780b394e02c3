"""Three months of recorded prices, with interruptions drawn at the rates that the advisor published for those pools."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backtest.market import Market, with_generated_interruptions
from training.recorded import read_bands, read_on_demand, read_prices_2021

START = datetime(2021, 3, 3, tzinfo=UTC)
END = datetime(2021, 5, 31, tzinfo=UTC)
REGION = "us-east-1"
AGENTS = 40
FEWEST_ZONES = 3
OTHER_TYPES = 3
AWAY_SECONDS = 3_600.0
"""For how long a pool has no capacity after an interruption; assumed, nothing was recorded."""

_ARM = re.compile(r"^(a1|[a-z]+\d+g[a-z]*)$")
_GENERAL = ("m", "c", "r", "t")


def read_markets(folder: Path, *, seed: int) -> list[Market]:
    """One market per agent: an instance type's zones, and types that hold the same workload.

    Args:
        folder: Of the recorded markets.
        seed: Of the interruptions.
    """
    changes = read_prices_2021(folder)
    on_demand = {kind: usd for (_, kind), usd in read_on_demand(folder, "multiaz_us_east_1_2021").items()}
    bands = read_bands(folder)
    sizes = json.loads((folder / "advisor.json").read_text())["instance_types"]
    pools: dict[str, list[str]] = defaultdict(list)
    for pool_id in sorted(changes):
        pools[pool_id.partition(".")[2]].append(pool_id)
    usable = [kind for kind in sorted(pools) if kind in on_demand and len(pools[kind]) >= FEWEST_ZONES]
    coin = random.Random(seed)  # noqa: S311  # repeatable on purpose
    markets = []
    for kind in usable[:: max(1, len(usable) // AGENTS)]:
        seconds = (END - START) / timedelta(seconds=1)
        tracks = []
        for pool_id in [pool_id for one in (kind, *_like(kind, usable, sizes)) for pool_id in pools[one]]:
            published = bands.get((REGION, pool_id.partition(".")[2]), ())
            known = [band for moment, band in published if moment <= START]
            tracks.append(
                with_generated_interruptions(
                    pool_id,
                    changes[pool_id],
                    start=START,
                    seconds=seconds,
                    band=known[-1] if known else None,
                    away_seconds=AWAY_SECONDS,
                    coin=coin,
                )
            )
        markets.append(
            Market(
                name=f"{kind} {REGION} 2021",
                kind="prices",
                tick_seconds=300.0,
                start=START,
                seconds=seconds,
                tracks=tracks,
                on_demand_usd_per_hour=on_demand[kind],
            )
        )
    return markets


def _like(kind: str, usable: Sequence[str], sizes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Other general-purpose types of the same vCPU, memory and architecture."""
    family = kind.partition(".")[0]
    wanted = sizes.get(kind)
    if wanted is None or not family.startswith(_GENERAL):
        return []

    def fits(other: str) -> bool:
        size, its_family = sizes.get(other), other.partition(".")[0]
        return (
            size is not None
            and other != kind
            and its_family.startswith(_GENERAL)
            and (size["cores"], size["ram_gb"]) == (wanted["cores"], wanted["ram_gb"])
            and bool(_ARM.match(its_family)) == bool(_ARM.match(family))
        )

    return [other for other in usable if fits(other)][:OTHER_TYPES]
