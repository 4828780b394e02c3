"""Prices on the deployed product: what agents and the collector report, what is inferred, and what replaces it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from local.rehearsal import LedgerWorkload, Tenancy
from local.rehearsal.workload import wait_for
from spot_agent.control_plane import ControlPlane
from spot_agent.logs import UnsentReports
from spot_agent.price_history import PublishedPrice
from spot_agent.pricing import PriceReports
from spot_optimizer.domain.prices import bucket_of, bucket_start
from tests.e2e.conftest import LaunchWorkload

#: Of no other test: what is known of its prices is what this test says.
INSTANCE_TYPE = "r5.large"
POOL = f"us-east-1a.{INSTANCE_TYPE}"
PEER = f"us-east-1b.{INSTANCE_TYPE}"
PROFILE = "prices"


@pytest.fixture
def workload(tenancy: Tenancy, launch_workload: LaunchWorkload) -> LedgerWorkload:
    """A ledger whose instances may ask what spot instances cost, in a pool whose history begins now."""
    tenancy.aws.market.set_price(POOL.replace(".", "/", 1), Decimal("0.05"))
    iam = tenancy.aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    iam.create_role(
        RoleName=PROFILE,
        Path="/spot-optimizer/",
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )
    allowed = {"Effect": "Allow", "Action": "ec2:DescribeSpotPriceHistory", "Resource": "*"}
    iam.put_role_policy(
        RoleName=PROFILE,
        PolicyName="prices",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )
    iam.create_instance_profile(InstanceProfileName=PROFILE)
    iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)
    workload = launch_workload(
        instance_types=(INSTANCE_TYPE,), instance_profile=PROFILE, settings=("PRICING_REPORT_INTERVAL=1",)
    )
    collected = collect(tenancy)
    assert (collected["on_demand_failed"], collected["advisor_failed"]) == (0, 0)
    # What the agent reported before anybody knew its pools was refused, and is left out for a while: begin anew.
    workload.kill_agent(workload.primary_id)
    return workload


def collect(tenancy: Tenancy) -> dict[str, int]:
    """Run the collector, as its schedule does."""
    answer = tenancy.aws.client("lambda").invoke(
        FunctionName=tenancy.outputs["CollectPricesFunctionName"], Payload=b"{}"
    )
    done: dict[str, int] = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, done
    return done


def fill_gaps(tenancy: Tenancy) -> dict[str, Any]:
    """Fill gaps, as the schedule does, and wait for the end."""
    machines = tenancy.aws.client("stepfunctions")
    started = machines.start_execution(stateMachineArn=tenancy.outputs["FillGapsStateMachineArn"], input="{}")
    return await_end(tenancy, started["executionArn"])


def await_end(tenancy: Tenancy, execution: str) -> dict[str, Any]:
    machines = tenancy.aws.client("stepfunctions")

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = machines.describe_execution(executionArn=execution)
        return found if found["status"] != "RUNNING" else None

    found = wait_for("the gaps are filled", ended, seconds=60)
    assert found["status"] == "SUCCEEDED", found
    record: dict[str, Any] = json.loads(found["output"])["record"]["value"]
    return record


def points(tenancy: Tenancy, pool_id: str, buckets: range) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tenancy.get(
        f"/api/pools/{pool_id}/prices",
        **{"from": bucket_start(buckets.start).isoformat(), "to": bucket_start(buckets.stop).isoformat()},
    )["points"]
    return found


def test_an_agent_that_was_offline_for_twenty_minutes_replaces_what_was_inferred(
    tenancy: Tenancy, workload: LedgerWorkload, tmp_path: Path
) -> None:
    shown = tenancy.get(f"/api/agents/{workload.agent_id}/pools")["pools"]
    assert {pool["on_demand_usd_per_hour"] for pool in shown} == {"0.126"}
    assert all(pool["saving_percent"] is not None for pool in shown)

    end = bucket_of(datetime.now(UTC))
    # The real agent, with the role of its instance, has asked the market and reported what it said.
    reported = wait_for(
        "the agent's own report is shown",
        lambda: [
            point for point in points(tenancy, PEER, range(end - 1, end + 2)) if point["source"] == "primary-agent"
        ],
        seconds=30,
        stands=lambda: workload.log_of(workload.primary_id),
    )
    [in_force, *_] = tenancy.aws.client("ec2").describe_spot_price_history(
        StartTime=datetime.now(UTC),
        InstanceTypes=[INSTANCE_TYPE],
        ProductDescriptions=["Linux/UNIX"],
        AvailabilityZone="us-east-1b",
    )["SpotPriceHistory"]
    assert Decimal(reported[-1]["usd_per_hour"]) == Decimal(in_force["SpotPrice"])

    # The same reports, as the agent makes them, on the clock of the hour before.
    offline = range(end - 8, end - 4)
    begun = bucket_start(offline.start)
    history = [
        PublishedPrice(POOL, begun + timedelta(minutes=minutes), price)
        for minutes, price in ((-300, "0.040000"), (7, "0.041200"), (16, "0.040500"))
    ]
    now = begun - timedelta(minutes=25)

    def look(since: datetime, until: datetime) -> Sequence[PublishedPrice]:
        return [price for price in history if price.changed_at <= until]

    control_plane = ControlPlane(tenancy.api_url)
    control_plane.authenticate(workload.agent_id, workload.agent_token(workload.primary_id))
    unsent = UnsentReports(tmp_path / "unsent-prices.jsonl")
    reports = PriceReports(
        look,
        instance_id=workload.primary_id,
        submit=control_plane.submit,
        unsent=unsent,
        every_seconds=150,
        clock=lambda: now,
    )

    def report_until(until: datetime) -> None:
        nonlocal now
        while now < until:
            reports.report()
            now += timedelta(seconds=150)

    report_until(begun)
    tenancy.aws.market.set_api_reachable(False)
    try:
        report_until(begun + timedelta(minutes=20))
        assert len(unsent) == 8
        fill_gaps(tenancy)
    finally:
        tenancy.aws.market.set_api_reachable(True)
    inferred = points(tenancy, POOL, offline)
    assert [point["is_inferred"] for point in inferred] == [True] * 4
    assert all(Decimal(point["confidence"]) < 1 for point in inferred)

    report_until(begun + timedelta(minutes=22))
    assert len(unsent) == 0
    replaced = points(tenancy, POOL, offline)
    assert [point["source"] for point in replaced] == ["primary-agent"] * 4
    assert [Decimal(point["usd_per_hour"]) for point in replaced] == [
        Decimal("0.04"),
        Decimal("0.0412"),
        Decimal("0.0412"),
        Decimal("0.0405"),
    ]
    quality = tenancy.get(
        f"/api/pools/{POOL}/quality",
        **{"from": bucket_start(offline.start).isoformat(), "to": bucket_start(offline.stop).isoformat()},
    )
    assert (quality["measured_percent"], quality["inferred_percent"]) == ("100.00", "0.00")

    # What nobody reported and AWS knows is exact again after one call; a peer's history goes back further than a day.
    long_ago = range(end - 600, end - 500)
    assert points(tenancy, PEER, long_ago) == []
    started = tenancy.post(
        f"/api/pools/{PEER}/gaps/fill",
        {"from": bucket_start(long_ago.start).isoformat(), "to": bucket_start(long_ago.stop).isoformat()},
    )
    assert await_end(tenancy, started["look"])["backfilled"] == len(long_ago)
    filled = points(tenancy, PEER, long_ago)
    assert {point["source"] for point in filled} == {"aws-history"}
    assert len(filled) == len(long_ago)
