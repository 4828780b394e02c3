"""Tokens for people and tenants: issued once, shown once, rotated, revoked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from spot_optimizer.domain import tokens
from spot_optimizer.domain.tokens import OperatorRole, Presented, Token, TokenKind
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import ConditionFailed, Forbidden, TokenUnknown


class TokenRecords(Protocol):
    """The tokens' rows."""

    def token(self, token_id: str) -> Token | None:
        """One token's row, read consistently."""
        ...

    def commit(self, transaction: Transaction) -> None:
        """Write all changes or none."""
        ...


def issue(
    records: TokenRecords,
    kind: TokenKind,
    *,
    token_id: str,
    secret: str,
    now: datetime,
    role: OperatorRole | None = None,
    client_id: str | None = None,
    name: str | None = None,
    lifetime: timedelta | None = None,
) -> tuple[Token, Presented]:
    """Issue a token.

    Args:
        records: The tokens' rows.
        kind: `operator`, with a role, or `client`, with a client.
        token_id: The same for a repeated request, so that it issues nothing twice.
        secret: Long and random.
        now: When.
        role: Of an operator token.
        client_id: Of a client token.
        name: For people.
        lifetime: Until it expires; the kind's own without.

    Raises:
        ConditionFailed: The request was made before: its token exists, and its secret can not be shown again.
    """
    presented = Presented(kind, token_id, secret)
    token = tokens.issued(presented, now=now, role=role, client_id=client_id, name=name, lifetime=lifetime)
    try:
        records.commit(Transaction("issue token", (tokens.create(token),)))
    except ConditionFailed:
        raise ConditionFailed(
            f"this request issued token {token_id} before, and a secret is shown once; rotate that token, or use "
            f"another Idempotency-Key"
        ) from None
    return token, presented


def rotate(records: TokenRecords, token_id: str, *, secret: str, now: datetime) -> tuple[Token, Presented]:
    """Give a token a new secret and a new life; the old secret is void at once.

    Raises:
        TokenUnknown: No such token, or it was revoked.
        Forbidden: It is an agent's or a replica's, to whom a new secret could not be told.
        ConditionFailed: It was rotated at the same moment.
    """
    token = _known(records, token_id)
    if token.kind not in (TokenKind.OPERATOR, TokenKind.CLIENT):
        raise Forbidden(
            f"a token of kind '{token.kind}' can not be rotated; revoke it, and its instance must register anew"
        )
    presented = Presented(token.kind, token_id, secret)
    try:
        records.commit(tokens.rotate(token, presented, now=now))
    except ConditionFailed:
        # What the condition was names the old secret's hash, which is nobody's business.
        raise ConditionFailed(
            f"token {token_id} was rotated, or revoked, at the same moment; look which, and rotate it again if need be"
        ) from None
    return _known(records, token_id), presented


def revoke(records: TokenRecords, token_id: str, *, now: datetime) -> None:
    """End a token now. Revoking it again is no error.

    Raises:
        TokenUnknown: There never was such a token, or it was forgotten since.
    """
    try:
        records.commit(tokens.revoke(token_id, now=now))
    except ConditionFailed:
        raise TokenUnknown(f"no token '{token_id}'") from None


def _known(records: TokenRecords, token_id: str) -> Token:
    token = records.token(token_id)
    if token is None or not token.secret_hash:
        raise TokenUnknown(f"no token '{token_id}' is in force")
    return token
