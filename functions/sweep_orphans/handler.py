"""The scheduled sweep for orphans: what carries our tag on EC2 and is nobody's is reported, and ended after a grace."""

from __future__ import annotations

from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import orphans


@wiring.logger.inject_lambda_context
def handle(_event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Sweep once. `OrphanSweeps` is what its alarm waits for; `OrphanSweepsHalted` calls a person."""
    config = wiring.settings()
    swept = orphans.sweep(
        wiring.plane(), wiring.inventory(), grace=config.orphan_grace, volume_grace=config.orphan_volume_grace
    )
    wiring.count("OrphansFound", swept.found)
    wiring.count("OrphansKept", swept.kept)
    wiring.count("OrphansEnded", len(swept.ended))
    wiring.count("OrphanSweepsHalted", int(swept.halted_because is not None))
    wiring.count("OrphanSweeps", 1)
    payload = swept.as_payload()
    wiring.logger.info("swept for orphans", extra={"swept": payload})
    return payload
