"""Bearer tokens: `spo_<kind>_<id>_<secret>`. Only a secret's hash is stored, and expiry is checked on every read."""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from spot_optimizer.domain.writes import Change, Equals, Missing, Present, Table, Transaction
from spot_optimizer.errors import Forbidden, TokenInvalid

PREFIX = "spo"
EXPECTED = "expected 'Authorization: Bearer spo_<kind>_<id>_<secret>' with a token that was issued and has not expired"


class TokenKind(enum.StrEnum):
    """Whom a token speaks for."""

    OPERATOR = "operator"
    CLIENT = "client"
    AGENT = "agent"
    JOIN = "join"


class OperatorRole(enum.StrEnum):
    """What an operator may do; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANKS = {role: rank for rank, role in enumerate(OperatorRole)}

LIFETIMES = {
    TokenKind.OPERATOR: timedelta(days=90),
    TokenKind.CLIENT: timedelta(days=365),
    TokenKind.AGENT: timedelta(days=30),
    TokenKind.JOIN: timedelta(minutes=15),
}
"""An agent's token is renewed by its heartbeats, so that it outlives a silent month only, and no instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token's row.

    Attributes:
        secret_hash: SHA-256 of the secret, in hex.
        role: Of an operator token.
        client_id: Of a client's token, and of everything issued on the strength of one.
        agent_id: Of an agent or join token.
        instance_id: The one instance an agent token speaks for.
        replica_id: The replica a join token was made for.
        redeemed_by: Of a join token: the instance that redeemed it.
        name: What people call it.
    """

    token_id: str
    kind: TokenKind
    secret_hash: str
    created_at: datetime
    expires_at: datetime
    role: OperatorRole | None = None
    client_id: str | None = None
    agent_id: str | None = None
    instance_id: str | None = None
    replica_id: str | None = None
    redeemed_by: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Presented:
    """A token as a caller presents it."""

    kind: TokenKind
    token_id: str
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as their token proves."""

    kind: TokenKind
    token_id: str
    expires_at: datetime
    role: OperatorRole | None = None
    client_id: str | None = None
    agent_id: str | None = None
    instance_id: str | None = None
    replica_id: str | None = None

    def has_role(self, role: OperatorRole) -> bool:
        """Whether the caller is an operator of this role or a higher one."""
        return self.kind is TokenKind.OPERATOR and self.role is not None and _RANKS[self.role] >= _RANKS[role]


def write(token: Presented) -> str:
    """Write a token as its bearer carries it."""
    return f"{PREFIX}_{token.kind}_{token.token_id}_{token.secret}"


def parse(text: str) -> Presented:
    """Read a presented token.

    Raises:
        TokenInvalid: Not of the form of a token.
    """
    prefix, _, rest = text.strip().partition("_")
    kind, _, rest = rest.partition("_")
    token_id, _, secret = rest.partition("_")
    if prefix != PREFIX or kind not in tuple(TokenKind) or not token_id or not secret:
        raise TokenInvalid(f"this is not a token; {EXPECTED}")
    return Presented(TokenKind(kind), token_id, secret)


def bearer(authorization: str | None) -> Presented:
    """Read the token of an Authorization header.

    Raises:
        TokenInvalid: There is none, or it is malformed.
    """
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise TokenInvalid(f"no bearer token was presented; {EXPECTED}")
    return parse(text)


def hash_of(secret: str) -> str:
    """What is stored of a secret. Secrets are long and random, so a plain hash can not be searched backwards."""
    return hashlib.sha256(secret.encode()).hexdigest()


def admit(presented: Presented, token: Token | None, *, now: datetime) -> Caller:
    """Tell who presents a token.

    Unknown and wrong look alike from outside. An expired token says so: its bearer proved to hold it.

    Raises:
        TokenInvalid: Unknown, wrong or expired.
    """
    known = token is not None and hmac.compare_digest(token.secret_hash, hash_of(presented.secret))
    if token is None or not known or token.kind is not presented.kind:
        raise TokenInvalid(f"the token is unknown or was revoked; {EXPECTED}")
    if token.expires_at <= now:
        expiry = token.expires_at.isoformat()
        raise TokenInvalid(f"the token expired at {expiry}; expected one in force; ask an operator for a new one")
    return Caller(
        kind=token.kind,
        token_id=token.token_id,
        expires_at=token.expires_at,
        role=token.role,
        client_id=token.client_id,
        agent_id=token.agent_id,
        instance_id=token.instance_id,
        replica_id=token.replica_id,
    )


def require_role(caller: Caller, role: OperatorRole) -> None:
    """Let only operators of a role, or a higher one, pass.

    Raises:
        Forbidden: Anybody else.
    """
    if not caller.has_role(role):
        held = caller.kind if caller.role is None else f"{caller.kind} ({caller.role})"
        raise Forbidden(
            f"a token of kind {held} does not allow this; expected an operator token of role '{role}' or higher"
        )


def derived_id(purpose: str, *parts: str) -> str:
    """An id that is the same for the same parts, so that a repeated request finds the token it made before."""
    return hashlib.sha256("\0".join((purpose, *parts)).encode()).hexdigest()[:20]


def agent_token(presented: Presented, *, instance_id: str, registration_key: str) -> Presented:
    """Derive an instance's agent token from the token it registers with and the key it made.

    The id is the instance's, so that there is one token per instance. Nobody stores the secret in the clear, and yet a
    repeated registration with the same key gets the same token.
    """
    secret = hmac.new(presented.secret.encode(), registration_key.encode(), hashlib.sha256).hexdigest()
    return Presented(TokenKind.AGENT, derived_id("agent", instance_id), secret)


def join_token_id(*, replica_id: str, launch_number: int) -> str:
    """Id of the one-time token of one launch."""
    return derived_id("join", replica_id, str(launch_number))


def issued(
    presented: Presented,
    *,
    now: datetime,
    role: OperatorRole | None = None,
    client_id: str | None = None,
    agent_id: str | None = None,
    instance_id: str | None = None,
    replica_id: str | None = None,
    name: str | None = None,
    lifetime: timedelta | None = None,
) -> Token:
    """The row of a new token."""
    return Token(
        token_id=presented.token_id,
        kind=presented.kind,
        secret_hash=hash_of(presented.secret),
        created_at=now,
        expires_at=now + (lifetime or LIFETIMES[presented.kind]),
        role=role,
        client_id=client_id,
        agent_id=agent_id,
        instance_id=instance_id,
        replica_id=replica_id,
        name=name,
    )


def token_values(token: Token) -> dict[str, object]:
    """The attributes of a token's row, without its key and without what is unset."""
    return {
        field.name: value
        for field in fields(token)
        if field.name != "token_id" and (value := getattr(token, field.name)) is not None
    }


def create(token: Token) -> Change:
    """Store a new token."""
    return Change(
        Table.TOKENS,
        (token.token_id,),
        "a token is issued once",
        only_if={"token_id": Missing()},
        put=token_values(token),
    )


def replace_expired(token: Token, old: Token) -> Change:
    """Store a token in place of one that is over."""
    return Change(
        Table.TOKENS,
        (token.token_id,),
        "only the token that was read is replaced",
        only_if={"secret_hash": Equals(old.secret_hash), "expires_at": Equals(old.expires_at)},
        put=token_values(token),
    )


def offer_join(token: Token) -> Transaction:
    """Store a join token, again with every retry of its launch; one that was redeemed stays redeemed."""
    return Transaction(
        "offer join token",
        (
            Change(
                Table.TOKENS,
                (token.token_id,),
                "a redeemed join token is not offered again",
                only_if={"redeemed_by": Missing()},
                put=token_values(token),
            ),
        ),
    )


def redeem_join(caller: Caller, *, instance_id: str) -> Change:
    """Spend a join token."""
    return Change(
        Table.TOKENS,
        (caller.token_id,),
        "a join token is redeemed once",
        only_if={"token_id": Present(), "redeemed_by": Missing()},
        put={"redeemed_by": instance_id},
    )


def renew(caller: Caller, *, now: datetime) -> Transaction | None:
    """Prolong an agent's token when half of its life is over."""
    lifetime = LIFETIMES[caller.kind]
    if caller.kind is not TokenKind.AGENT or caller.expires_at - now > lifetime / 2:
        return None
    return Transaction(
        "renew token",
        (
            Change(
                Table.TOKENS,
                (caller.token_id,),
                "a revoked token is not renewed",
                only_if={"token_id": Present()},
                put={"expires_at": now + lifetime},
            ),
        ),
    )


def rotate(token: Token, presented: Presented, *, now: datetime) -> Transaction:
    """Give a token a new secret and a new life; the old secret is void at once."""
    return Transaction(
        "rotate token",
        (
            Change(
                Table.TOKENS,
                (token.token_id,),
                "only the secret that was read is replaced",
                only_if={"secret_hash": Equals(token.secret_hash)},
                put={"secret_hash": hash_of(presented.secret), "expires_at": now + LIFETIMES[token.kind]},
            ),
        ),
    )


def revoke(token_id: str, *, now: datetime) -> Transaction:
    """End a token now; the row stays until its expiry is swept away."""
    return Transaction(
        "revoke token",
        (
            Change(
                Table.TOKENS,
                (token_id,),
                "only a token that exists is revoked",
                only_if={"token_id": Present()},
                put={"expires_at": now, "secret_hash": ""},
            ),
        ),
    )
