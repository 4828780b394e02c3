"""What AWS's Spot Instance Advisor publishes: how often instances of a type were interrupted in the trailing month.

The page at https://aws.amazon.com/ec2/spot/instance-advisor/ reads it from this public object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from botocore.exceptions import BotoCoreError, ClientError

from spot_optimizer.adapters.sessions import Clients, service_failures
from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.errors import ControlPlaneUnavailable

BUCKET = "spot-bid-advisor"
KEY = "spot-advisor-data.json"
LARGEST_BYTES = 16 * 1024 * 1024
_SERVICE = "The Spot Instance Advisor"


class AwsAdvisor:
    """Implements `Advisor`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def bands(self) -> Mapping[str, AdvisorBand]:
        """The band of every instance type of this region, for Linux; what can not be read as one is absent.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: The feed did not answer, refused to, or is none.
        """
        try:
            with service_failures(_SERVICE):
                answer = self._clients.advisor.get_object(Bucket=BUCKET, Key=KEY)
                with answer["Body"] as body:
                    content = body.read(LARGEST_BYTES + 1)
        except (BotoCoreError, ClientError) as error:
            # Nobody depends on it: another partition has no such feed.
            raise ControlPlaneUnavailable(f"{_SERVICE} refused: {error}") from error
        if len(content) > LARGEST_BYTES:
            raise ControlPlaneUnavailable(f"{_SERVICE} has more than {LARGEST_BYTES} bytes; expected its usual feed")
        try:
            rates = json.loads(content)["spot_advisor"][self._clients.region]["Linux"]
            return {
                str(instance_type): AdvisorBand(rate["r"])
                for instance_type, rate in rates.items()
                if rate["r"] in set(AdvisorBand)
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ControlPlaneUnavailable(f"{_SERVICE} has another form ({type(error).__name__}: {error})") from error
