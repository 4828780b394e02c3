"""SSM parameters that the deployment wrote; they are read once per process."""

from __future__ import annotations

from spot_optimizer.adapters.sessions import Clients, service_failures


class Parameters:
    """Reads parameters, and keeps them while the process is warm."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._known: dict[str, str] = {}

    def read(self, name: str) -> str:
        """A parameter's value."""
        if name not in self._known:
            with service_failures("SSM"):
                answer = self._clients.ssm.get_parameter(Name=name)
            self._known[name] = answer["Parameter"]["Value"]
        return self._known[name]
