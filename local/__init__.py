"""AWS on one machine: an embedded AWS, a spot market, and instances that are real processes."""

from local.launcher import LocalAws
from local.market.client import Market
from local.market.views import InstanceView

__all__ = ["InstanceView", "LocalAws", "Market"]
