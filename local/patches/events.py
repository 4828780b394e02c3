"""EventBridge: an event that a function fails on is tried again, as Lambda's asynchronous invocation does."""
# ruff: noqa: SLF001 - patches the emulator's insides, by design

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from ministack.services import eventbridge, lambda_svc

from local.patches.rewriting import rewrite

_log = logging.getLogger(__name__)

_TRIES_AFTER_AN_ERROR = 3
_TRIES_AFTER_A_THROTTLE = 60
_SECONDS_BETWEEN = 1.0
"""AWS waits a minute, then two, after an error; a newcomer's patience is shorter."""


def apply() -> None:
    """Patch EventBridge."""
    rewrite(
        "asynchronous invocation retries",
        eventbridge,
        "_dispatch_to_lambda",
        {
            "        target=lambda_svc._execute_function_with_config_scope, args=(exec_record, event), daemon=True\n": (
                "        target=_local_invoke_until_done, args=(exec_record, event), daemon=True\n"
            )
        },
        given={"_local_invoke_until_done": _invoke_until_done},
    )
    # A rule that fires every minute may not be ten seconds late.
    eventbridge._SCHEDULER_TICK_INTERVAL = 1


def _invoke_until_done(function: dict[str, Any], event: Any) -> None:
    errors = throttles = 0
    while errors < _TRIES_AFTER_AN_ERROR and throttles < _TRIES_AFTER_A_THROTTLE:
        result = lambda_svc._execute_function_with_config_scope(function, event)
        if not result.get("error"):
            return
        if result.get("throttle"):
            throttles += 1
        else:
            errors += 1
        time.sleep(_SECONDS_BETWEEN)
    _log.error(
        "an event was dropped after %d errors and %d throttles: %s", errors, throttles, threading.current_thread().name
    )
