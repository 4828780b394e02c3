"""What a launched instance needs to join: user data with a one-time token that KMS derives and nobody stores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from spot_optimizer.adapters.parameters import Parameters
from spot_optimizer.adapters.sessions import Clients, service_failures
from spot_optimizer.domain import tokens
from spot_optimizer.domain.tokens import Presented, TokenKind
from spot_optimizer.errors import ConditionFailed
from spot_optimizer.ports import Records

FIRST_LINE = "# spot-agent"


class KmsJoining:
    """Implements `Joining`.

    Args:
        clients: SDK clients.
        parameters: Reads the API's URL.
        records: Where the token's hash goes.
        join_key_id: Tells the KMS key; asked when it is first used.
        api_url_parameter: Tells the name of the parameter that holds the API's public URL.
    """

    def __init__(
        self,
        clients: Clients,
        parameters: Parameters,
        records: Records,
        *,
        join_key_id: Callable[[], str],
        api_url_parameter: Callable[[], str],
    ) -> None:
        self._clients = clients
        self._parameters = parameters
        self._records = records
        self._join_key_id = join_key_id
        self._api_url_parameter = api_url_parameter

    def user_data(self, *, agent_id: str, replica_id: str, launch_number: int, now: datetime) -> str:
        """User data with a one-time join token; the same for the same arguments, and only its hash is stored."""
        with service_failures("KMS"):
            answer = self._clients.kms.generate_mac(
                KeyId=self._join_key_id(),
                MacAlgorithm="HMAC_SHA_256",
                Message=f"join:{replica_id}:{launch_number}".encode(),
            )
        presented = Presented(
            TokenKind.JOIN,
            tokens.join_token_id(replica_id=replica_id, launch_number=launch_number),
            answer["Mac"].hex(),
        )
        agent = self._records.agent(agent_id)
        token = tokens.issued(
            presented, now=now, client_id=agent.client_id, agent_id=agent_id, replica_id=replica_id, name="join"
        )
        # Refused if the instance of this very launch has joined with it already: then it is what it is.
        with suppress(ConditionFailed):
            self._records.commit(tokens.offer_join(token))
        settings = {
            "CENTRAL_SERVER_URL": self._parameters.read(self._api_url_parameter()),
            "JOIN_TOKEN": tokens.write(presented),
            "AGENT_ID": agent_id,
            "REPLICA_ID": replica_id,
        }
        return "\n".join((FIRST_LINE, *(f"{name}={value}" for name, value in settings.items()), ""))
