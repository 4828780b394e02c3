"""Reads the recorded markets that training and backtests run on.

They lie in the folder that SPOT_DATA_DIR names (default ../shared/data beside the repository); `SOURCES.md` there says
where each comes from. None of it is copied into the repository.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from spot_optimizer.domain.risk import AdvisorBand, Held

ROOT = Path(__file__).resolve().parents[1]
TRACES = "availability_aws_2022_2023.json.gz"
ADVISOR = "advisor_history_linux.csv.gz"
ON_DEMAND = "on_demand.csv"
PRICES_2021 = "prices_multiaz_us_east_1_2021.csv.gz"

SHARE_WHERE_NO_PRICE_IS_RECORDED = 0.3
"""Of on-demand. Every p3 price that is recorded in the traces is exactly this, without a change."""


class DataMissing(Exception):
    """The folder of recorded markets is not there, or not whole."""


def data_folder() -> Path:
    """Where the recorded markets lie."""
    return Path(os.environ.get("SPOT_DATA_DIR", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Trace:
    """What was recorded of one pool.

    Attributes:
        kind: `preemption`: one instance was held, and launched again after each interruption. `availability`: launches
            were tried; a failure is not an interruption.
        up: Per tick, whether an instance was up.
        prices: USD/hour per run of ticks: (price, ticks); empty where none was recorded.
        start: The day it began; the hour is not recorded.
    """

    trace_id: str
    kind: str
    region: str
    availability_zone: str
    instance_type: str
    gap_seconds: int
    start: datetime
    up: tuple[bool, ...]
    prices: tuple[tuple[Decimal, int], ...]
    on_demand_usd_per_hour: Decimal

    @property
    def pool_id(self) -> str:
        """As everywhere: `us-east-1a.m5.large`."""
        return f"{self.availability_zone}.{self.instance_type}"

    @property
    def market(self) -> tuple[str, str, str, str]:
        """Traces that ran side by side and could replace each other."""
        return (self.kind, self.start.date().isoformat(), self.region, self.instance_type)

    @property
    def end(self) -> datetime:
        """When the recording stopped."""
        return self.at(len(self.up))

    def at(self, tick: int) -> datetime:
        """When a tick was."""
        return self.start + timedelta(seconds=tick * self.gap_seconds)

    def held(self) -> list[Held]:
        """The runs of an instance that was up. The last one was not interrupted but no longer recorded."""
        runs, begun = [], None
        for tick, up in enumerate((*self.up, False)):
            if up and begun is None:
                begun = tick
            elif not up and begun is not None:
                runs.append(Held(self.at(begun), self.at(tick), interrupted=tick < len(self.up)))
                begun = None
        return runs

    def price_changes(self) -> list[tuple[datetime, Decimal]]:
        """From when on which price held; one that was never recorded is assumed constant."""
        if not self.prices:
            return [(self.start, self.on_demand_usd_per_hour * Decimal(str(SHARE_WHERE_NO_PRICE_IS_RECORDED)))]
        changes, tick = [], 0
        for usd_per_hour, ticks in self.prices:
            changes.append((self.at(tick), usd_per_hour))
            tick += ticks
        return changes


def read_traces(folder: Path) -> list[Trace]:
    """Read every availability and preemption trace.

    Raises:
        DataMissing: The folder does not hold them.
    """
    on_demand = read_on_demand(folder, "availability")
    recorded = json.loads(gzip.decompress(_file(folder, TRACES).read_bytes()))["traces"]
    return [_trace(one, on_demand[one["region"], one["instance_type"]]) for one in recorded]


def _trace(recorded: Mapping[str, Any], on_demand: Decimal) -> Trace:
    return Trace(
        trace_id=recorded["id"],
        kind=recorded["kind"],
        region=recorded["region"],
        availability_zone=recorded["availability_zone"],
        instance_type=recorded["instance_type"],
        gap_seconds=recorded["gap_seconds"],
        start=datetime.fromisoformat(recorded["start_date"]).replace(tzinfo=UTC),
        up=tuple(value > 0 for value, ticks in recorded["rle"] for _ in range(ticks)),
        prices=tuple((Decimal(str(usd)), ticks) for usd, ticks in recorded.get("price_rle", [])),
        on_demand_usd_per_hour=on_demand,
    )


def read_on_demand(folder: Path, name: str) -> dict[tuple[str, str], Decimal]:
    """On-demand USD/hour by region and instance type, of one set."""
    with _file(folder, ON_DEMAND).open(newline="") as file:
        return {
            (row["region"], row["instance_type"]): Decimal(row["on_demand_usd_hour"])
            for row in csv.DictReader(file)
            if row["set"] == name
        }


def read_bands(folder: Path) -> dict[tuple[str, str], Sequence[tuple[datetime, AdvisorBand]]]:
    """Advisor bands by region and instance type, each with the day it was published, by rising day."""
    bands: dict[tuple[str, str], list[tuple[datetime, AdvisorBand]]] = defaultdict(list)
    with gzip.open(_file(folder, ADVISOR), "rt", newline="") as file:
        for row in csv.DictReader(file):
            published = datetime.fromisoformat(row["snapshot"]).replace(tzinfo=UTC)
            bands[row["region"], row["instance_type"]].append((published, AdvisorBand(int(row["range_index"]))))
    return {key: sorted(found) for key, found in bands.items()}


def read_prices_2021(folder: Path) -> dict[str, list[tuple[datetime, Decimal]]]:
    """Price changes by pool id, by rising time."""
    changes: dict[str, list[tuple[datetime, Decimal]]] = defaultdict(list)
    with gzip.open(_file(folder, PRICES_2021), "rt", newline="") as file:
        for row in csv.DictReader(file):
            pool_id = f"{row['availability_zone']}.{row['instance_type']}"
            changes[pool_id].append((datetime.fromisoformat(row["timestamp"]), Decimal(row["spot_price"])))
    return {pool_id: sorted(found) for pool_id, found in changes.items()}


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise DataMissing(f"{folder} holds no {name}; set SPOT_DATA_DIR to the folder of recorded markets")
    return path
