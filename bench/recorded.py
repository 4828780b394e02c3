"""What recorded prices say, found out by nothing that the product uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from spot_optimizer.domain.prices import PriceChange


def true_prices(changes: Sequence[PriceChange], buckets: range) -> Iterator[Decimal | None]:
    """The step function of the input, bucket by bucket."""
    following = iter(sorted((change.changed_at.timestamp(), change.usd_per_hour) for change in changes))
    upcoming = next(following, None)
    price: Decimal | None = None
    for end in range((buckets.start + 1) * 300, (buckets.stop + 1) * 300, 300):
        while upcoming is not None and upcoming[0] < end:
            price = upcoming[1]
            upcoming = next(following, None)
        yield price
