"""IAM: nobody is root but the run's own administrator; the emulator would believe any caller that says `test`."""

from __future__ import annotations

import os
from collections.abc import Callable

import ministack.core.iam_evaluator as iam_evaluator

from local.patches.rewriting import wrap


def apply() -> None:
    """Patch the evaluator. The administrator's key id is random, so knowing it is being the administrator."""
    wrap(
        "only the administrator is root",
        iam_evaluator,
        "is_root_access_key",
        "(access_key_id: str) -> bool",
        _administrator_only,
    )


def _administrator_only(_original: object) -> Callable[[str], bool]:
    administrator = os.environ["AWS_ACCESS_KEY_ID"]
    return lambda access_key_id: not access_key_id or access_key_id == administrator
