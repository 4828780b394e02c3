"""The first token of a fresh deployment: `python -m spot_optimizer.bootstrap --role admin` prints it.

Run it with an operator's own AWS credentials, AWS_REGION, and CLIENTS_TABLE and TOKENS_TABLE as the data stack's
outputs name them. From then on tokens come from the API.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import timedelta

from spot_optimizer import wiring
from spot_optimizer.control import issuing
from spot_optimizer.domain import tokens
from spot_optimizer.domain.clients import Client
from spot_optimizer.domain.tokens import OperatorRole, TokenKind


def create_operator_token(role: OperatorRole, *, name: str = "bootstrap", lifetime: timedelta | None = None) -> str:
    """Issue an operator's token, and return it as its bearer carries it."""
    _, presented = issuing.issue(
        wiring.records(),
        TokenKind.OPERATOR,
        token_id=wiring.new_id(),
        secret=wiring.new_secret(),
        now=wiring.clock(),
        role=role,
        name=name,
        lifetime=lifetime,
    )
    return tokens.write(presented)


def create_client(client_id: str, name: str) -> str:
    """Create a client, or find it, and return a token that its agents register with."""
    client = wiring.clients().create(Client(client_id=client_id, name=name, created_at=wiring.clock()))
    _, presented = issuing.issue(
        wiring.records(),
        TokenKind.CLIENT,
        token_id=wiring.new_id(),
        secret=wiring.new_secret(),
        now=wiring.clock(),
        client_id=client.client_id,
        name="bootstrap",
    )
    return tokens.write(presented)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one token."""
    parser = argparse.ArgumentParser(
        prog="python -m spot_optimizer.bootstrap", description=(__doc__ or "").split("\n")[0]
    )
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument(
        "--role", choices=[role.value for role in OperatorRole], help="an operator's token of this role"
    )
    wanted.add_argument("--client", metavar="CLIENT_ID", help="a token with which this client's agents register")
    parser.add_argument("--valid-hours", type=float, help="until the operator's token expires; 90 days without")
    chosen = parser.parse_args(arguments)
    if chosen.client is not None:
        print(create_client(chosen.client, chosen.client))
        return
    lifetime = timedelta(hours=chosen.valid_hours) if chosen.valid_hours else None
    print(create_operator_token(OperatorRole(chosen.role), lifetime=lifetime))


if __name__ == "__main__":
    main()
