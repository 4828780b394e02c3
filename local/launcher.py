"""Start AWS on this machine, and leave nothing of it behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from local.market.client import Market


class LocalAws:
    """An AWS account on loopback: ministack, the spot market and its instances, in a session of their own."""

    endpoint_url: str
    region: str
    account_id: str
    identity_certificate: str
    market: Market

    def client(self, service: str) -> Any:
        """A boto3 client with administrator credentials."""
        raise NotImplementedError

    def deploy(self, assembly: Path, *, parameters: Mapping[str, str] = {}) -> dict[str, str]:
        """Deploy a CDK cloud assembly and return the outputs of all its stacks, merged."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop everything that was started and remove every folder that was made."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
