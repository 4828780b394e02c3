"""Asks the failover function, without waiting for it, to point an agent's traffic at its primary."""

from __future__ import annotations

import json
from collections.abc import Callable

from spot_optimizer.adapters.sessions import Clients, service_failures


class LambdaReconciling:
    """Implements `Reconciling`.

    Args:
        clients: SDK clients.
        function_name: Tells the failover function's name; asked when it is first used.
    """

    def __init__(self, clients: Clients, *, function_name: Callable[[], str]) -> None:
        self._clients = clients
        self._function_name = function_name

    def reconcile_traffic(self, agent_id: str) -> None:
        """Have the traffic path moved soon; asking again is harmless, because it only moves towards a higher epoch."""
        with service_failures("Lambda"):
            self._clients.functions.invoke(
                FunctionName=self._function_name(),
                InvocationType="Event",
                Payload=json.dumps({"task": "ReconcileTraffic", "agent_id": agent_id}).encode(),
            )
