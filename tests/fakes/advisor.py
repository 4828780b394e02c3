"""AWS's Spot Instance Advisor in memory."""

from __future__ import annotations

from collections.abc import Mapping

from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.errors import ControlPlaneUnavailable


class FakeAdvisor:
    """Implements `Advisor`.

    Attributes:
        known: Bands by instance type; None where the feed does not answer.
        asked: How often it was asked.
    """

    def __init__(self, known: Mapping[str, AdvisorBand] | None) -> None:
        self.known = known
        self.asked = 0

    def bands(self) -> Mapping[str, AdvisorBand]:
        self.asked += 1
        if self.known is None:
            raise ControlPlaneUnavailable("the advisor did not answer; try again")
        return self.known
