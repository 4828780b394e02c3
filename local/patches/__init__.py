"""Where the emulator differs from AWS and the product would notice. Each patch names itself when it no longer fits."""

from __future__ import annotations

from local.patches import (
    administrator,
    cloudformation,
    events,
    lambda_workers,
    launch_templates,
    step_functions,
    transport,
)


def apply_all() -> None:
    """Apply every patch that needs no market; call once, before the emulator serves.

    Raises:
        local.patches.rewriting.MinistackChanged: The emulator is not the version that the patches were written for.
    """
    administrator.apply()
    lambda_workers.apply()
    step_functions.apply()
    events.apply()
    cloudformation.apply()
    launch_templates.apply()
    transport.apply()
