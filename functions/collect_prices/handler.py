"""The scheduled collector: every five minutes, what AWS's own price history says of every pool of interest."""

from __future__ import annotations

from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import pricing


@wiring.logger.inject_lambda_context
def handle(_event: dict[str, Any], _context: Any) -> dict[str, int]:
    """Collect once. The last line is what its alarm waits for: a collector that stands still is heard of."""
    done = pricing.collect(wiring.prices(), wiring.price_history(), wiring.fleet(), now=wiring.clock())
    wiring.count("PriceChangesCollected", done["changes"])
    wiring.count("PriceCollections", 1)
    return done
