"""What AWS asks for instances on demand, from its Price List."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from botocore.exceptions import BotoCoreError, ClientError

from spot_optimizer.adapters.sessions import Clients, service_failures
from spot_optimizer.errors import ControlPlaneUnavailable

_SERVICE = "The Price List"
_LINUX_ON_SHARED_HARDWARE = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    # Not what an unused capacity reservation costs, which is another product of the same type.
    "capacitystatus": "Used",
}


class AwsPriceList:
    """Implements `PriceList`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def on_demand_usd_per_hour(self, instance_type: str) -> Decimal | None:
        """Price of a Linux instance of shared tenancy in this region; none where the list has none.

        Of several that the list has, the lowest: a saving is never made out to be more than it is.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: The list did not answer, or refused to.
        """
        wanted = {"regionCode": self._clients.region, "instanceType": instance_type, **_LINUX_ON_SHARED_HARDWARE}
        try:
            with service_failures(_SERVICE):
                answer = self._clients.pricing.get_products(
                    ServiceCode="AmazonEC2",
                    FormatVersion="aws_v1",
                    Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
                )
        except (BotoCoreError, ClientError) as error:
            # Nobody depends on it: a missing permission, or a partition without the list, is no reason to crash.
            raise ControlPlaneUnavailable(f"{_SERVICE} refused: {error}") from error
        return min((usd for product in answer["PriceList"] for usd in _hourly_usd(product)), default=None)


def _hourly_usd(product: str) -> Iterator[Decimal]:
    """Prices above zero in one product of the list, a text of JSON; none where it can not be read."""
    try:
        for term in json.loads(product)["terms"].get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                # Of a partition that is paid for otherwise there is no price in USD.
                usd = Decimal(dimension["pricePerUnit"].get("USD", "0"))
                if dimension["unit"] == "Hrs" and usd.is_finite() and usd > 0:
                    yield usd.normalize()
    except (ValueError, InvalidOperation, KeyError, AttributeError, TypeError):
        return
