"""Fakes that implement the ports in memory; tests/adapters/test_records.py holds them against DynamoDB."""

from tests.fakes.advisor import FakeAdvisor
from tests.fakes.compute import FakeCompute
from tests.fakes.fleet import FakeFleet
from tests.fakes.inventory import FakeInventory
from tests.fakes.joining import FakeJoining
from tests.fakes.price_history import FakePriceHistory
from tests.fakes.price_list import FakePriceList
from tests.fakes.records import FakeRecords
from tests.fakes.workflows import FakeWorkflows

__all__ = [
    "FakeAdvisor",
    "FakeCompute",
    "FakeFleet",
    "FakeInventory",
    "FakeJoining",
    "FakePriceHistory",
    "FakePriceList",
    "FakeRecords",
    "FakeWorkflows",
]
