"""Two pools with prices, one of them cheaper than where the agent is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from spot_optimizer import wiring
from spot_optimizer.domain import pools_of_interest
from spot_optimizer.domain.prices import Observation, Source
from spot_optimizer.domain.writes import Change, Table
from tests.api.conftest import Http, Registration
from tests.api.test_agents import put

HERE, THERE = "us-east-1a.m5.large", "us-east-1b.m5.large"


@pytest.fixture
def market(http: Http, agent: Registration) -> None:
    """The agent has been where it is for a day; the other pool costs half, and on demand more."""
    seen_at = datetime.now(UTC) - timedelta(minutes=4)
    for pool_id, usd_per_hour in ((HERE, "0.04"), (THERE, "0.02")):
        taken_up = pools_of_interest.want(pool_id, (agent.agent_id,), None)
        assert taken_up is not None
        priced = Change(Table.POOLS, (pool_id,), "price", put={"on_demand_usd_per_hour": Decimal("0.096")})
        wiring.prices().note_pools([taken_up])
        wiring.prices().note_pools([priced])
        wiring.prices().offer([Observation(pool_id, seen_at, Decimal(usd_per_hour), Source.AWS_HISTORY, "aws-history")])
    put(Table.AGENTS, agent.agent_id, registered_at=datetime.now(UTC) - timedelta(days=1))
