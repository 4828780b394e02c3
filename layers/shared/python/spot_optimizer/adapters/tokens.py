"""The tokens' table; DynamoDB forgets a row some time after its expiry, which is why expiry is checked on read."""

from __future__ import annotations

from pynamodb.attributes import UnicodeAttribute
from pynamodb.models import Model

from spot_optimizer.adapters.database import (
    BoundTable,
    Database,
    EpochSecondsAttribute,
    Index,
    InstantAttribute,
    WordAttribute,
)
from spot_optimizer.domain.tokens import OperatorRole, Token, TokenKind

AGENT_INDEX = Index("agent-index", "agent_id")


class TokenRow(Model):
    """One token; attributes are those of `Token`."""

    token_id = UnicodeAttribute(hash_key=True)
    kind = WordAttribute(TokenKind)
    secret_hash = UnicodeAttribute()
    created_at = InstantAttribute()
    expires_at = EpochSecondsAttribute()
    role = WordAttribute(OperatorRole, null=True)
    client_id = UnicodeAttribute(null=True)
    agent_id = UnicodeAttribute(null=True)
    instance_id = UnicodeAttribute(null=True)
    replica_id = UnicodeAttribute(null=True)
    redeemed_by = UnicodeAttribute(null=True)
    name = UnicodeAttribute(null=True)


def tokens_table(database: Database, table_name: str) -> BoundTable[Token]:
    """Bind the tokens' table."""
    return BoundTable(database, table_name, row=TokenRow, value=Token, indexes=(AGENT_INDEX,))
