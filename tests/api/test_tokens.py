"""Tokens: what they look like, whom they admit, how they are derived."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.api.callers import as_context, caller_of
from spot_optimizer.control import issuing
from spot_optimizer.domain import tokens
from spot_optimizer.domain.tokens import Caller, OperatorRole, Presented, Token, TokenKind
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import ConditionFailed, Forbidden, TokenInvalid
from tests import builders
from tests.builders import NOON

SECRETS = st.text("0123456789abcdef", min_size=32, max_size=64)
IDS = st.text("0123456789abcdef", min_size=1, max_size=20)
PRESENTED = st.builds(Presented, st.sampled_from(TokenKind), IDS, SECRETS)
INSTANCES = st.text("0123456789abcdef", min_size=17, max_size=17).map("i-{}".format)
KEYS = st.text(min_size=32, max_size=64)


@given(PRESENTED)
def test_a_token_is_read_as_it_was_written(presented: Presented) -> None:
    assert tokens.parse(tokens.write(presented)) == presented
    assert tokens.bearer(f"Bearer {tokens.write(presented)}") == presented


@given(st.text(max_size=80))
def test_whatever_is_presented_is_a_token_or_refused(text: str) -> None:
    try:
        presented = tokens.bearer(text)
    except TokenInvalid:
        return
    assert tokens.write(presented) in text


@given(PRESENTED)
def test_a_token_admits_its_bearer_until_it_expires(presented: Presented) -> None:
    token = tokens.issued(presented, now=NOON, client_id="acme", lifetime=timedelta(hours=1))
    assert presented.secret not in repr(token)
    assert tokens.admit(presented, token, now=NOON + timedelta(minutes=59)).client_id == "acme"
    with pytest.raises(TokenInvalid, match="expired"):
        tokens.admit(presented, token, now=NOON + timedelta(hours=1))


@given(PRESENTED, PRESENTED)
def test_a_token_admits_nobody_else(presented: Presented, other: Presented) -> None:
    token = tokens.issued(presented, now=NOON)
    if (other.secret, other.kind) != (presented.secret, presented.kind):
        with pytest.raises(TokenInvalid, match="unknown"):
            tokens.admit(other, token, now=NOON)
    with pytest.raises(TokenInvalid, match="unknown"):
        tokens.admit(presented, None, now=NOON)


@given(PRESENTED, INSTANCES, KEYS, PRESENTED, INSTANCES, KEYS)
def test_an_agents_token_depends_on_token_instance_and_key_alone(
    presented: Presented, instance_id: str, key: str, other: Presented, other_instance: str, other_key: str
) -> None:
    derived = tokens.agent_token(presented, instance_id=instance_id, registration_key=key)
    assert derived == tokens.agent_token(presented, instance_id=instance_id, registration_key=key)
    assert derived.kind is TokenKind.AGENT
    assert tokens.parse(tokens.write(derived)) == derived
    if (other.secret, other_key) != (presented.secret, key):
        again = tokens.agent_token(other, instance_id=instance_id, registration_key=other_key)
        assert again.secret != derived.secret
        assert again.token_id == derived.token_id
    if other_instance != instance_id:
        elsewhere = tokens.agent_token(presented, instance_id=other_instance, registration_key=key)
        assert elsewhere.token_id != derived.token_id


@pytest.mark.parametrize(
    ("held", "allowed"),
    [
        (OperatorRole.VIEWER, {OperatorRole.VIEWER}),
        (OperatorRole.OPERATOR, {OperatorRole.VIEWER, OperatorRole.OPERATOR}),
        (OperatorRole.ADMIN, set(OperatorRole)),
    ],
)
def test_each_role_may_do_what_the_ones_before_it_may(held: OperatorRole, allowed: set[OperatorRole]) -> None:
    caller = Caller(kind=TokenKind.OPERATOR, token_id="t", expires_at=NOON, role=held)
    for role in OperatorRole:
        if role in allowed:
            tokens.require_role(caller, role)
        else:
            with pytest.raises(Forbidden, match=f"role '{role}'"):
                tokens.require_role(caller, role)


@pytest.mark.parametrize("kind", [TokenKind.CLIENT, TokenKind.AGENT, TokenKind.JOIN])
def test_no_other_kind_has_a_role(kind: TokenKind) -> None:
    caller = Caller(kind=kind, token_id="t", expires_at=NOON, client_id="acme")
    with pytest.raises(Forbidden):
        tokens.require_role(caller, OperatorRole.VIEWER)


def test_only_an_agents_token_is_renewed_and_only_in_the_second_half_of_its_life() -> None:
    lifetime = tokens.LIFETIMES[TokenKind.AGENT]

    def renewed(kind: TokenKind, left: timedelta) -> bool:
        caller = Caller(kind=kind, token_id="t", expires_at=NOON + left)
        return tokens.renew(caller, now=NOON) is not None

    assert not renewed(TokenKind.AGENT, lifetime * 0.6)
    assert renewed(TokenKind.AGENT, lifetime * 0.4)
    assert not renewed(TokenKind.CLIENT, timedelta(minutes=1))


@given(
    st.builds(
        Caller,
        kind=st.sampled_from(TokenKind),
        token_id=IDS,
        expires_at=st.just(NOON),
        role=st.none() | st.sampled_from(OperatorRole),
        client_id=st.none() | IDS,
        agent_id=st.none() | IDS,
        instance_id=st.none() | INSTANCES,
        replica_id=st.none() | IDS,
    )
)
def test_the_authorizers_context_carries_the_whole_caller(caller: Caller) -> None:
    context = as_context(caller)
    assert all(isinstance(value, str) for value in context.values())
    assert caller_of({"requestContext": {"authorizer": {"lambda": context}}}) == caller


@pytest.mark.parametrize("authorizer", [None, {}, {"lambda": None}, {"lambda": {}}, {"lambda": {"problem": "no"}}])
def test_without_the_authorizers_word_nobody_calls(authorizer: object) -> None:
    with pytest.raises(TokenInvalid):
        caller_of({"requestContext": {"authorizer": authorizer}})


class Overtaken:
    """Implements `TokenRecords`: whatever is read was changed before it is written."""

    def token(self, token_id: str) -> Token:
        return builders.a_token(token_id=token_id, kind=TokenKind.OPERATOR, role=OperatorRole.ADMIN)

    def commit(self, transaction: Transaction) -> None:
        raise ConditionFailed(f"'{transaction.name}' was refused: {transaction.changes[0].only_if}")


def test_a_rotation_that_was_overtaken_says_so_and_nothing_of_the_secret() -> None:
    with pytest.raises(ConditionFailed, match="token tok-1 was rotated, or revoked") as refused:
        issuing.rotate(Overtaken(), "tok-1", secret="new" * 20, now=NOON)
    assert builders.a_token().secret_hash not in str(refused.value)
