"""The scheduled collector: every five minutes, what AWS's own price history says of every pool of interest.

And, at once or daily, what its price list and its Spot Instance Advisor say of their instance types.
"""

from __future__ import annotations

from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import pricing


@wiring.logger.inject_lambda_context
def handle(_event: dict[str, Any], _context: Any) -> dict[str, int]:
    """Collect once. `PriceCollections` is what its alarm waits for: a collector that stands still is heard of."""
    done = pricing.collect(wiring.prices(), wiring.price_history(), wiring.fleet(), now=wiring.clock())
    wiring.count("PriceChangesCollected", done["changes"])
    wiring.count("PriceCollections", 1)
    # Only then: no trouble with the price list holds up the prices.
    on_demand = pricing.ask_on_demand(wiring.prices(), wiring.price_list(), now=wiring.clock())
    wiring.count("OnDemandPriceFailures", on_demand["failed"])
    bands = pricing.ask_bands(wiring.prices(), wiring.advisor(), now=wiring.clock())
    wiring.count("AdvisorFailures", bands["failed"])
    return {
        **done,
        **{f"on_demand_{name}": number for name, number in on_demand.items()},
        **{f"advisor_{name}": number for name, number in bands.items()},
    }
