"""A pool that was struck minutes ago is worse than on-demand."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from spot_optimizer.domain.catalogue import list_candidates
from spot_optimizer.domain.pools import Lifecycle, launch_order
from tests.unit.decisions.offers import NOW

SUBNETS = {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b", "us-east-1c": "subnet-c"}
PRICES = {f"{zone}.m5.large": Decimal(price) for zone, price in zip(SUBNETS, ("0.03", "0.04", "0.05"), strict=True)}


def test_a_struck_pool_comes_after_on_demand_and_a_cooling_one_before() -> None:
    order = launch_order(
        SUBNETS,
        ["m5.large"],
        prices=PRICES,
        primary_pool_id="us-east-1c.m5.large",
        cooling_pool_ids={"us-east-1a.m5.large", "us-east-1b.m5.large"},
        struck_pool_ids={"us-east-1a.m5.large"},
    )
    assert [(target.pool.availability_zone[-1], target.lifecycle) for target in order] == [
        ("b", Lifecycle.SPOT),
        ("a", Lifecycle.ON_DEMAND),
        ("b", Lifecycle.ON_DEMAND),
        ("c", Lifecycle.ON_DEMAND),
        ("a", Lifecycle.SPOT),
    ]


def test_a_pool_is_struck_for_ten_minutes_and_in_cooldown_for_an_hour() -> None:
    for minutes, struck, cooling in ((0, True, True), (9, True, True), (10, False, True), (60, False, False)):
        known = list_candidates(
            ["us-east-1b"],
            ["m5.large"],
            primary_pool_id="us-east-1a.m5.large",
            now=NOW,
            interruptions={"us-east-1b.m5.large": [NOW - timedelta(minutes=minutes)]},
        )
        assert [one.struck(NOW) for one in known] == [struck]
        assert [one.cooling_until is not None for one in known] == [cooling]
