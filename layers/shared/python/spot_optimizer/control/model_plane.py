"""The ports that models are handled through, in one value."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from spot_optimizer.ports import Activations, ModelFiles, ModelRecords, Outcomes


class ModelPlane(Protocol):
    """Everything outside that handling models needs; a port that is not asked for need not be built."""

    @property
    def models(self) -> ModelRecords:
        """The two tables."""
        ...

    @property
    def model_files(self) -> ModelFiles:
        """The bucket."""
        ...

    @property
    def activations(self) -> Activations:
        """The state machine."""
        ...

    @property
    def outcomes(self) -> Outcomes:
        """What was scored, and what became of it."""
        ...

    def clock(self) -> datetime:
        """The time, with its zone."""
        ...
