"""Measures the price pipeline on real spot markets: `make bench-prices` writes build/bench/prices.json.

The recorded prices are read from the folder that SPOT_DATA_DIR names (default ../shared/data beside the repository); a
set that is missing is skipped, and the answer says so. What needs the deployed ingest is measured on a local AWS;
with `--pure` it is left out, and `null`: nothing is estimated.
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from operator import ne
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from bench import deployed_prices
from bench.recorded import true_prices
from spot_optimizer.domain.gaps import GapClass, Method, fill, find_gaps, guesses
from spot_optimizer.domain.price_submissions import Limits, Refusal, screen
from spot_optimizer.domain.prices import (
    Observation,
    PriceChange,
    Slot,
    Source,
    StepFunction,
    backfill,
    bucket_of,
    clean,
    pools_of,
)

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench" / "prices.json"
SETS = {
    "2021": "prices_multiaz_us_east_1_2021.csv.gz",
    "2022": "prices_recent_eu_west_1_2022.csv.gz",
    "2015": "prices_stress_us_east_1_2015.csv.gz",
}
SEED = 5
BATCH_ROWS = 1_000
RANDOM_GAPS = {"2021": 8_000, "2022": 8_000, "2015": 8_000}
LENGTHS = {GapClass.SHORT: (1, 2), GapClass.MEDIUM: (3, 6), GapClass.LONG: (7, 48)}
SEEDS_RULES = {GapClass.SHORT: Method.LINEAR, GapClass.MEDIUM: Method.TIME_DECAY, GapClass.LONG: Method.PEER_CHANGE}


@dataclass(frozen=True)
class Market:
    """One recorded market."""

    name: str
    changes: Mapping[str, Sequence[PriceChange]]

    @property
    def rows(self) -> int:
        """How many rows were recorded."""
        return sum(map(len, self.changes.values()))


def read_market(name: str, path: Path) -> Market:
    """Read one recorded set."""
    changes: dict[str, list[PriceChange]] = defaultdict(list)
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            moment = datetime.fromisoformat(row["timestamp"])
            pool_id = f"{row['availability_zone']}.{row['instance_type']}"
            changes[pool_id].append(PriceChange(moment, Decimal(row["spot_price"])))
    return Market(name, changes)


def submitted(market: Market, coin: random.Random) -> list[tuple[str, list[dict[str, object]]]]:
    """The set as batches of rows: 5 % twice, everything shuffled."""
    rows: list[dict[str, object]] = [
        {"pool_id": pool_id, "observed_at": change.changed_at, "usd_per_hour": change.usd_per_hour}
        for pool_id, changes in market.changes.items()
        for change in changes
    ]
    rows += coin.sample(rows, len(rows) // 20)
    coin.shuffle(rows)
    return [
        (f"sub-{start // BATCH_ROWS:05d}", rows[start : start + BATCH_ROWS])
        for start in range(0, len(rows), BATCH_ROWS)
    ]


def observed(market: Market, coin: random.Random) -> tuple[list[Observation], dict[Refusal, int]]:
    """Screen all batches; returns what counts, and how often what was refused."""
    last = max(changes[-1].changed_at for changes in market.changes.values())
    # The old market's prices went far above on-demand; what is too much is not what is measured here.
    on_demand = dict.fromkeys(market.changes, Decimal(1_000))
    limits = Limits(rows=BATCH_ROWS, oldest=last - datetime(2000, 1, 1, tzinfo=UTC))
    seen: list[Observation] = []
    refused: dict[Refusal, int] = defaultdict(int)
    for submission_id, rows in submitted(market, coin):
        result = screen(
            rows,
            source=Source.AWS_HISTORY,
            submission_id=submission_id,
            on_demand=on_demand,
            now=last,
            limits=limits,
        )
        seen += result.observations
        for refusal, count in result.refusals().items():
            refused[refusal] += count
    return seen, refused


def span(market: Market) -> range:
    """All buckets of a set, with one before and a day after."""
    first = min(changes[0].changed_at for changes in market.changes.values())
    last = max(changes[-1].changed_at for changes in market.changes.values())
    return range(bucket_of(first) - 1, bucket_of(last) + 288)


def replay_differences(market: Market, seen: Sequence[Observation]) -> tuple[int, int]:
    """Compare every bucket of the clean result with the step function of the input.

    Returns:
        How many differ, of how many.
    """
    buckets = span(market)
    differences = 0
    series = pools_of(clean(seen))
    for pool_id, changes in market.changes.items():
        have = StepFunction.of_rows(series[pool_id].values()).over(buckets)
        want = list(true_prices(changes, buckets))
        # Equal lists are by far the fastest to find out.
        differences += 0 if have == want else sum(map(ne, have, want))
    return differences, len(buckets) * len(market.changes)


@dataclass
class Series:
    """A pool's prices per bucket, where they are known."""

    pool_id: str
    first: int
    prices: list[Decimal]

    def around(self, start: int, stop: int, without: range = range(0)) -> dict[int, Decimal]:
        """The prices of some buckets, as if those of a gap were unknown."""
        start, stop = max(start, self.first), min(stop, self.first + len(self.prices))
        return {bucket: self.prices[bucket - self.first] for bucket in range(start, stop) if bucket not in without}


def series_of(market: Market) -> dict[str, Series]:
    """Every pool from its first to its last change."""
    found = {}
    for pool_id, changes in market.changes.items():
        buckets = range(bucket_of(changes[0].changed_at), bucket_of(changes[-1].changed_at) + 1)
        prices = [price for price in StepFunction(changes).over(buckets) if price is not None]
        if len(prices) > 100:
            found[pool_id] = Series(pool_id, buckets.start, prices)
    return found


def gap_errors(
    series: Mapping[str, Series], gaps: int, coin: random.Random
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, float]], dict[str, int]]:
    """Cut random gaps and fill them by every method.

    A gap counts once per bucket. Where a method has nothing to go by, as without a peer or over an hour away from any
    price, it is not judged; what share of the buckets it filled stands beside its error.

    Returns:
        MAPE in percent by class and method, the share of buckets filled likewise, and the number of gaps by class.
    """
    peers: dict[str, list[Series]] = defaultdict(list)
    for each in series.values():
        peers[each.pool_id.partition(".")[2]].append(each)
    pools = list(series.values())
    totals: dict[tuple[GapClass, Method], list[float]] = {
        (gap_class, method): [0.0, 0] for gap_class in LENGTHS for method in Method
    }
    counts: dict[str, int] = defaultdict(int)
    for number in range(gaps):
        gap_class = list(LENGTHS)[number % len(LENGTHS)]
        length = coin.randint(*LENGTHS[gap_class])
        pool = coin.choice(pools)
        first = pool.first + coin.randrange(12, len(pool.prices) - length - 12)
        missing = range(first, first + length)
        around = pool.around(first - 12, first + length + 12, missing)
        (gap,) = find_gaps(around, missing)
        others = [
            other.around(first - 1, first + length)
            for other in peers[pool.pool_id.partition(".")[2]]
            if other is not pool
        ]
        counts[gap_class] += 1
        for method in Method:
            total = totals[gap_class, method]
            for bucket, guess in zip(missing, guesses(gap, method, around, others), strict=True):
                if guess is not None:
                    truth = pool.prices[bucket - pool.first]
                    total[0] += 0.0 if guess.usd_per_hour == truth else abs(float(guess.usd_per_hour / truth) - 1)
                    total[1] += 1
    errors = {
        gap_class.value: {method.value: _mean_percent(*totals[gap_class, method]) for method in Method}
        for gap_class in LENGTHS
    }
    shares = {
        gap_class.value: {
            method.value: round(100 * totals[gap_class, method][1] / totals[gap_class, Method.CARRY_FORWARD][1], 2)
            for method in Method
        }
        for gap_class in LENGTHS
    }
    return errors, shares, dict(counts)


def _mean_percent(total: float, judged: float) -> float | None:
    return round(100 * total / judged, 5) if judged else None


def backfill_differences(market: Market, coin: random.Random) -> tuple[int, int]:
    """Lose buckets at random, blackouts among them, and get them back from the history.

    Returns:
        How many buckets differ afterwards, of how many that were lost.
    """
    differences = lost = 0
    buckets = span(market)
    for pool_id in coin.sample(sorted(market.changes), min(60, len(market.changes))):
        changes = market.changes[pool_id]
        missing: set[int] = set()
        for _ in range(40):
            start = coin.choice(buckets)
            missing |= set(range(start, min(start + coin.randint(1, 96), buckets.stop)))
        rows = clean(backfill(pool_id, changes, sorted(missing), submission_id="backfill"))
        for bucket, want in zip(buckets, true_prices(changes, buckets), strict=True):
            if bucket in missing:
                row = rows.get(Slot(pool_id, bucket))
                lost += 1
                differences += (None if row is None else row.usd_per_hour) != want
    return differences, lost


def fastest(run: Callable[[], object], times: int = 5) -> float:
    """Seconds of processor time of the fastest of several runs, without the collector's pauses.

    What else the machine does takes wall-clock time from one of two runs that are compared, not from both.
    """
    best = float("inf")
    gc.collect()
    gc.disable()
    try:
        for _ in range(times):
            begun = time.process_time()
            run()
            best = min(best, time.process_time() - begun)
    finally:
        gc.enable()
    return best


def dedup_times(seen: Sequence[Observation]) -> tuple[float, float]:
    """Seconds of cleaning, and of a bare dict of the same rows by the same key."""
    return fastest(lambda: clean(seen)), fastest(lambda: {row.slot: row for row in seen})


def fill_times(series: Mapping[str, Series], coin: random.Random) -> tuple[float, float]:
    """Seconds of finding and filling the gaps of twenty pools, and of pandas' `interpolate` on the same numbers."""
    ours: list[tuple[dict[int, Decimal], range]] = []
    theirs: list[pd.Series] = []
    for pool in coin.sample(list(series.values()), min(20, len(series))):
        kept = {pool.first + position: price for position, price in enumerate(pool.prices) if coin.random() > 0.02}
        buckets = range(min(kept), max(kept) + 1)
        ours.append((kept, buckets))
        theirs.append(pd.Series([float(kept[bucket]) if bucket in kept else float("nan") for bucket in buckets]))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        fastest(lambda: [fill("pool", kept, buckets, at=at) for kept, buckets in ours], times=3),
        fastest(lambda: [numbers.interpolate() for numbers in theirs], times=3),
    )


def measure(folder: Path, console: Console, *, deployed: bool) -> dict[str, Any]:
    """Measure everything that the pure rules can show, and what only the deployed pipeline can."""
    markets: dict[str, Market] = {}
    result: dict[str, Any] = {
        "replay_differences": {},
        "replay_differences_deployed": None,
        "write_units_ratio_to_floor": None,
        "gap_mape": {},
        "gap_filled_percent": {},
        "gaps_cut": {},
        "better_rules": [],
        "backfill_differences": {},
        "dedup_time_ratio": {},
        "fill_time_ratio": {},
        "sizes": {},
        "skipped": [],
        "deployed": None,
    }
    for name, file in SETS.items():
        if not (folder / file).is_file():
            result["skipped"].append(f"{name}: SPOT_DATA_DIR holds no {file}")
            console.print(f"[yellow]{name} skipped[/]: {folder} holds no {file}")
            continue
        console.print(f"{name}: reading and replaying")
        coin = random.Random(SEED)  # noqa: S311  # repeatable on purpose
        market = markets[name] = read_market(name, folder / file)
        seen, refused = observed(market, coin)
        differing, compared = replay_differences(market, seen)
        result["replay_differences"][name] = differing
        console.print(f"{name}: cutting and filling gaps")
        errors, shares, result["gaps_cut"][name] = gap_errors(series_of(market), RANDOM_GAPS[name], coin)
        result["gap_mape"][name], result["gap_filled_percent"][name] = errors, shares
        result["backfill_differences"][name], lost = backfill_differences(market, coin)
        console.print(f"{name}: timing")
        ours, bare = dedup_times(seen)
        result["dedup_time_ratio"][name] = round(ours / bare, 2)
        ours_filling, pandas_filling = fill_times(series_of(market), coin)
        result["fill_time_ratio"][name] = round(ours_filling / pandas_filling, 1)
        result["sizes"][name] = {
            "rows": market.rows,
            "pools": len(market.changes),
            "buckets_compared": compared,
            "buckets_lost_and_backfilled": lost,
            "rows_cleaned": len(seen),
            "rows_refused": {refusal.value: count for refusal, count in refused.items()},
            "dedup_seconds": round(ours, 4),
            "fill_seconds": round(ours_filling, 4),
        }
        result["better_rules"] += better_rules(name, errors, shares)
    if deployed and markets:
        console.print("deploying to the local AWS, replaying through the API, counting write units")
        found = deployed_prices.measure({name: market.changes for name, market in markets.items()}, SEED)
        result["deployed"] = found
        result["replay_differences_deployed"] = found["replay"]["differences"]
        if found["write_units"] is not None:
            result["write_units_ratio_to_floor"] = found["write_units"]["ratio_to_floor"]
    return result


def better_rules(
    name: str, errors: Mapping[str, Mapping[str, float | None]], shares: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Where another method does better than the default and fills no less; `gaps.Rules` takes it as a setting."""
    said = []
    for gap_class, default in SEEDS_RULES.items():
        least = shares[gap_class][default]
        judged = {
            method: error
            for method, error in errors[gap_class].items()
            if error is not None and shares[gap_class][method] >= least
        }
        if not judged:
            continue
        best = min(judged, key=judged.__getitem__)
        if best != default:
            said.append(f"{name} {gap_class}: {best} {judged[best]} % beats {default} {judged.get(default)} %")
    return said


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the figures as tables."""
    figures = Table(title="The price pipeline on recorded markets")
    figures.add_column("set")
    names = ("replay_differences", "backfill_differences", "dedup_time_ratio", "fill_time_ratio")
    for name in names:
        figures.add_column(name, justify="right")
    for market in result["replay_differences"]:
        figures.add_row(market, *(str(result[name][market]) for name in names))
    console.print(figures)
    errors = Table(title="MAPE % of gap filling (bold: the default)")
    errors.add_column("set, class")
    for method in Method:
        errors.add_column(method.value, justify="right")
    for market, classes in result["gap_mape"].items():
        for gap_class, methods in classes.items():
            default = SEEDS_RULES[GapClass(gap_class)]
            cells = [f"[bold]{error}[/]" if method == default else str(error) for method, error in methods.items()]
            errors.add_row(f"{market}, {gap_class}", *cells)
    console.print(errors)
    if result["deployed"] is not None:
        for name, found in result["deployed"].items():
            console.print(f"{name}: {found}")
    for line in (*result["better_rules"], *result["skipped"]):
        console.print(line)


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(prog="python -m bench.prices", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pure", action="store_true", help="leave out what needs the local AWS")
    chosen = parser.parse_args()
    console = Console()
    folder = Path(os.environ.get("SPOT_DATA_DIR", ROOT.parent / "shared" / "data"))
    result = measure(folder, console, deployed=not chosen.pure)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    show(result, console)
    console.print(f"written to {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
