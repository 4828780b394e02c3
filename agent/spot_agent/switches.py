"""The switches an agent went through, as its instances know them: each new primary adds its own and carries all on.

The control plane has the whole history. This is what is left of it where the control plane cannot be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

CARRIED_AS: Final = "switches"
"""Under this name it travels along with each generation."""

_REMEMBERED: Final = 50


def carried(extra: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The switches in what travelled along with a generation; none where an older primary sent none.

    Args:
        extra: From a peer, so what does not look like a switch is left out.
    """
    found = extra.get(CARRIED_AS)
    return tuple(each for each in found if _is_switch(each)) if isinstance(found, list) else ()


def add(
    switches: Sequence[Mapping[str, Any]], *, epoch: int, instance_id: str, at: datetime
) -> tuple[Mapping[str, Any], ...]:
    """The history with the switch that began an epoch, at most the newest 50, by rising epoch.

    Args:
        switches: Before; what it says of this epoch or a later one was never true, and is dropped.
        epoch: Which began.
        instance_id: The new primary.
        at: When its state became the live one.
    """
    before = [each for each in switches if each["epoch"] < epoch]
    new = {"epoch": epoch, "instance_id": instance_id, "at": at.isoformat()}
    return (*before, new)[-_REMEMBERED:]


def _is_switch(said: object) -> bool:
    return (
        isinstance(said, dict)
        and said.keys() == {"epoch", "instance_id", "at"}
        and isinstance(said["epoch"], int)
        and all(isinstance(said[name], str) for name in ("instance_id", "at"))
    )
