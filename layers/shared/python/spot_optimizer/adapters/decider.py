"""Asks the function that decides, and waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from spot_optimizer.adapters.sessions import Clients, service_failures
from spot_optimizer.errors import ControlPlaneUnavailable


class LambdaDecider:
    """Implements `Decider`.

    Args:
        clients: SDK clients.
        function_name: Tells the function's name; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, function_name: Callable[[], str]) -> None:
        self._clients = clients
        self._function_name = function_name

    def decide_now(self, agent_id: str) -> datetime:
        """Have it decided for one agent; under which moment the decision is kept.

        Raises:
            Throttled: Lambda asked to slow down.
            ControlPlaneUnavailable: No answer came in time, or it failed.
        """
        with service_failures("Lambda"):
            answer = self._clients.deciding.invoke(
                FunctionName=self._function_name(), Payload=json.dumps({"agent_ids": [agent_id]}).encode()
            )
        told = json.loads(answer["Payload"].read())
        if answer.get("FunctionError") or told["not_kept"]:
            raise ControlPlaneUnavailable(f"nothing was decided for {agent_id}; the function's log says why")
        return datetime.fromisoformat(told["decided_at"])
