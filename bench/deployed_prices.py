"""What of the price pipeline can only be measured deployed: a replay through the API, and what its writes cost.

Runs the product on the local AWS. The recorded prices are moved in time by a whole number of buckets, so that they end
an hour ago: what is older than AWS's own history is refused, as it should be.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx

from bench.recorded import true_prices
from infra.synth import host_architecture, synthesize
from local.launcher import LocalAws
from local.rehearsal import Tenancy
from local.rehearsal.tenancy import ASSEMBLY
from spot_optimizer.adapters.agents import agents_table
from spot_optimizer.adapters.database import Database
from spot_optimizer.adapters.prices import DynamoPrices
from spot_optimizer.adapters.records import DynamoRecords
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.config import Config
from spot_optimizer.control import pricing
from spot_optimizer.domain import pools_of_interest, tokens
from spot_optimizer.domain.agents import Agent
from spot_optimizer.domain.prices import (
    BUCKET_SECONDS,
    Observation,
    PriceChange,
    Source,
    StepFunction,
    bucket_of,
    bucket_start,
)
from spot_optimizer.domain.tokens import Presented, TokenKind
from spot_optimizer.domain.writes import Table, Transaction

WRITERS = 3
BATCH_ROWS = 1_000
ROWS_AT_MOST = 50_000
REPORT_EVERY = timedelta(seconds=150)
REPORTED_POOLS = 5
REPORTED_FOR = timedelta(hours=6)

type Row = dict[str, str]
type TrueSeries = Mapping[str, Sequence[PriceChange]]


@dataclass(frozen=True)
class Sample:
    """Some pools of a recorded market, over some days that end an hour ago.

    Attributes:
        changes: By pool id, in rising order; the first may lie before the buckets.
        buckets: Consecutive.
    """

    changes: TrueSeries
    buckets: range

    @classmethod
    def of(cls, recorded: TrueSeries, *, pools: int, days: int, now: datetime) -> Sample:
        """Take the pools that changed most, so that there is something to get wrong."""
        chosen = sorted(recorded, key=lambda pool_id: (-len(recorded[pool_id]), pool_id))[:pools]
        begun = max(recorded[pool_id][0].changed_at for pool_id in chosen)
        first = bucket_of(begun + timedelta(days=1))
        length = days * 86_400 // BUCKET_SECONDS
        end = bucket_of(now - timedelta(hours=1))
        moved = timedelta(seconds=(end - length - first) * BUCKET_SECONDS)
        changes = {
            pool_id: [PriceChange(change.changed_at + moved, change.usd_per_hour) for change in recorded[pool_id]]
            for pool_id in chosen
        }
        return cls(changes, range(end - length, end))

    def rows(self, coin: random.Random) -> list[Row]:
        """What agents would report: each change at its moment, and the price in force once in each bucket.

        5 % of the rows stand twice and 5 % far from where they belong.
        """
        rows: list[Row] = []
        for pool_id, changes in self.changes.items():
            step = StepFunction(changes)
            seen = [change for change in changes if bucket_of(change.changed_at) in self.buckets]
            for bucket in self.buckets:
                moment = bucket_start(bucket) + timedelta(seconds=coin.randrange(BUCKET_SECONDS))
                if (price := step.before(moment + timedelta(microseconds=1))) is not None:
                    seen.append(PriceChange(moment, price))
            rows += [
                {
                    "pool_id": pool_id,
                    "observed_at": change.changed_at.isoformat(),
                    "usd_per_hour": f"{change.usd_per_hour:f}",
                }
                for change in seen
            ]
        rows.sort(key=lambda row: row["observed_at"])
        for row in coin.sample(rows, len(rows) // 20):
            rows.insert(coin.randrange(len(rows)), row)
        for place in coin.sample(range(len(rows)), len(rows) // 20):
            rows.insert(coin.randrange(len(rows)), rows.pop(place))
        return rows

    def truth(self) -> dict[tuple[str, int], Decimal]:
        """What the clean table must hold."""
        return {
            (pool_id, bucket): price
            for pool_id, changes in self.changes.items()
            for bucket, price in zip(self.buckets, true_prices(changes, self.buckets), strict=True)
            if price is not None
        }


class Deployment:
    """The product on a local AWS, with the agents that report."""

    def __init__(self, tenancy: Tenancy) -> None:
        """Read the tables' names from where the functions have them."""
        self.tenancy = tenancy
        function = tenancy.outputs["CollectPricesFunctionName"]
        told = tenancy.aws.client("lambda").get_function_configuration(FunctionName=function)
        self.config = Config({**told["Environment"]["Variables"], "AWS_REGION": tenancy.aws.region})
        os.environ.update(tenancy.aws.environment)
        self.database = Database(Clients(tenancy.aws.region))
        self.prices = DynamoPrices(
            self.database, table_name=self.config.table, raw_table_name=lambda: self.config.raw_prices_table
        )

    def add_agent(self, number: int) -> tuple[Agent, str]:
        """Add an agent with a primary, and return it with its token."""
        now = datetime.now(UTC)
        agent = Agent(
            agent_id=f"agt-{number:017x}",
            client_id=self.tenancy.client_id,
            name=f"reporter-{number}",
            epoch=1,
            primary_instance_id=f"i-{number:017x}",
            primary_pool_id="us-east-1a.m5.large",
            registered_at=now,
            launch_template_id="lt-0123456789abcdef0",
            instance_types=("m5.large",),
            subnet_ids=(),
            traffic_epoch=1,
        )
        agents_table(self.database, self.config.table(Table.AGENTS)).put(agent)
        presented = Presented(TokenKind.AGENT, f"{number:020x}", f"{number:064x}")
        token = tokens.issued(
            presented,
            now=now,
            client_id=agent.client_id,
            agent_id=agent.agent_id,
            instance_id=agent.primary_instance_id,
        )
        records = DynamoRecords(
            self.database,
            tables=self.config.tables_given(),
            heartbeats_table_name=lambda: self.config.heartbeats_table,
        )
        records.commit(Transaction("issue token", (tokens.create(token),)))
        return agent, tokens.write(presented)

    def add_pools(self, pool_ids: Sequence[str]) -> None:
        """Take up pools, as the collector does."""
        changes = [pools_of_interest.want(pool_id, (), None) for pool_id in pool_ids]
        self.prices.note_pools([change for change in changes if change is not None])


@contextmanager
def deployed() -> Iterator[Deployment]:
    """The product on a local AWS of its own."""
    synthesize(ASSEMBLY, stage="dev", architecture=host_architecture())
    with LocalAws() as aws:
        tenancy = Tenancy.deploy(aws)
        yield Deployment(tenancy)
        tenancy.close()


def replay(deployment: Deployment, samples: Mapping[str, Sample], coin: random.Random) -> dict[str, Any]:
    """Submit the samples by several agents at once, and compare what the API shows with the truth.

    Returns:
        Per set how many buckets differ; and how much of what was submitted in how many seconds.
    """
    writers = [deployment.add_agent(number) for number in range(1, WRITERS + 1)]
    for sample in samples.values():
        deployment.add_pools(list(sample.changes))
    rows = [row for sample in samples.values() for row in sample.rows(coin)][:ROWS_AT_MOST]
    batches = list(itertools.batched(rows, BATCH_ROWS, strict=False))
    outcomes: dict[str, int] = {}
    begun = time.perf_counter()
    with httpx.Client(base_url=deployment.tenancy.api_url, timeout=60, trust_env=False) as http:

        def write(writer: int) -> list[dict[str, int]]:
            agent, token = writers[writer]
            return [
                _submit(http, agent, token, number, batch)
                for number, batch in enumerate(batches)
                if number % WRITERS == writer
            ]

        with ThreadPoolExecutor(WRITERS) as pool:
            for counts in itertools.chain.from_iterable(pool.map(write, range(WRITERS))):
                for outcome, count in counts.items():
                    outcomes[outcome] = outcomes.get(outcome, 0) + count
    seconds = time.perf_counter() - begun
    differences = {}
    compared = 0
    for name, sample in samples.items():
        want = sample.truth()
        have = {
            (pool_id, bucket): price
            for pool_id in sample.changes
            for bucket, price in _shown(deployment.tenancy, pool_id, sample.buckets).items()
        }
        differences[name] = sum(have.get(slot) != want.get(slot) for slot in have.keys() | want.keys())
        compared += len(want)
    return {
        "differences": differences,
        "buckets_compared": compared,
        "rows_submitted": len(rows),
        "outcomes": outcomes,
        "writers": WRITERS,
        "rows_per_second": round(len(rows) / seconds),
    }


def _submit(http: httpx.Client, agent: Agent, token: str, number: int, rows: Sequence[Row]) -> dict[str, int]:
    body = {"submission_id": f"replay-{number:05d}", "rows": list(rows)}
    headers = {"authorization": f"Bearer {token}"}
    for _ in range(10):
        answer = http.post(f"/api/agents/{agent.agent_id}/pricing", json=body, headers=headers)
        if not answer.is_server_error:
            break
        time.sleep(1)
    answer.raise_for_status()
    counts: dict[str, int] = answer.json()["counts"]
    return counts


def _shown(tenancy: Tenancy, pool_id: str, buckets: range) -> dict[int, Decimal]:
    found = tenancy.get(
        f"/api/pools/{pool_id}/prices",
        **{"from": bucket_start(buckets.start).isoformat(), "to": bucket_start(buckets.stop).isoformat()},
    )
    return {
        bucket_of(datetime.fromisoformat(point["bucket_start"])): Decimal(point["usd_per_hour"])
        for point in found["points"]
    }


def write_units(deployment: Deployment, recorded: TrueSeries) -> dict[str, float]:
    """What DynamoDB charges for one primary that reports five pools every 150 seconds.

    The reports are made as the agent makes them: the changes since the last one, and the prices in force. They go
    through the product's own code to the deployed tables, and the units are those that the tables say they took. A
    refused conditional write, of which DynamoDB does not tell the units, counts one.

    Returns:
        The units, the floor (raw rows, and clean rows that are new or whose price changed), and their ratio.
    """
    agent, _ = deployment.add_agent(WRITERS + 1)
    now = datetime.now(UTC)
    sample = Sample.of(recorded, pools=REPORTED_POOLS, days=1, now=now)
    # Pools of their own: nothing that the replay wrote is there.
    pool_ids = [f"{pool_id.partition('.')[0]}.w{pool_id.partition('.')[2]}" for pool_id in sample.changes]
    deployment.add_pools(pool_ids)
    steps = dict(zip(pool_ids, map(StepFunction, sample.changes.values()), strict=True))
    units = _count_units(deployment.database)
    floor = rows_submitted = 0
    held: dict[tuple[str, int], Decimal] = {}
    end = bucket_start(sample.buckets.stop)
    at = end - REPORTED_FOR
    while at < end:
        seen = []
        for pool_id, step in steps.items():
            seen += [
                Observation(pool_id, change.changed_at, change.usd_per_hour, Source.PRIMARY_AGENT, "")
                for change in step.changes
                if at - REPORT_EVERY < change.changed_at < at
            ]
            price = step.before(at)
            if price is not None:
                seen.append(Observation(pool_id, at, price, Source.PRIMARY_AGENT, ""))
        rows = [
            {
                "pool_id": row.pool_id,
                "observed_at": row.observed_at.isoformat(),
                "usd_per_hour": f"{row.usd_per_hour:f}",
            }
            for row in seen
        ]
        pricing.take_submission(
            deployment.prices,
            agent,
            rows,
            instance_id=agent.primary_instance_id,
            submission_id=f"{agent.primary_instance_id}-{at:%Y%m%dT%H%M%S%f}",
            now=now,
        )
        rows_submitted += len(rows)
        floor += len(rows)
        for row in seen:
            floor += held.get(row.slot) != row.usd_per_hour
            held[row.slot] = row.usd_per_hour
        at += REPORT_EVERY
    return {
        "units": units["consumed"],
        "floor": floor,
        "rows": rows_submitted,
        "units_per_row": round(units["consumed"] / rows_submitted, 3),
        "ratio_to_floor": round(units["consumed"] / floor, 3),
    }


def _count_units(database: Database) -> dict[str, float]:
    counted = {"consumed": 0.0}

    def ask(params: dict[str, Any], **_: Any) -> None:
        params["ReturnConsumedCapacity"] = "TOTAL"

    def count(parsed: dict[str, Any], **_: Any) -> None:
        told = parsed.get("ConsumedCapacity")
        refused = parsed.get("Error", {}).get("Code") == "ConditionalCheckFailedException"
        counted["consumed"] += 1.0 if refused else float(told["CapacityUnits"]) if told else 0.0

    events = database.connection.client.meta.events
    for operation in ("UpdateItem", "PutItem"):
        events.register(f"before-parameter-build.dynamodb.{operation}", ask)
        events.register(f"after-call.dynamodb.{operation}", count)
    return counted


def measure(markets: Mapping[str, TrueSeries], seed: int) -> dict[str, Any]:
    """Measure both.

    Args:
        markets: Changes by pool id, by the name of the set.
        seed: Of duplicates, of order, and of when prices are looked at.
    """
    sizes = {"2021": (20, 3), "2022": (15, 2), "2015": (5, 1)}
    coin = random.Random(seed)  # noqa: S311  # repeatable on purpose
    with deployed() as deployment:
        now = datetime.now(UTC)
        samples = {
            name: Sample.of(markets[name], pools=pools, days=days, now=now)
            for name, (pools, days) in sizes.items()
            if name in markets
        }
        replayed = replay(deployment, samples, coin)
        units = write_units(deployment, markets["2022"]) if "2022" in markets else None
    return {"replay": replayed, "write_units": units}
