"""How instances join: the first as its agent's primary, by a client token; launched ones by a join token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spot_optimizer.control.plane import Plane, find_instance
from spot_optimizer.domain import claims, handover, identity, replicas, tokens, traffic
from spot_optimizer.domain.agents import Agent, Instance, InstanceRole, TrafficAdapter, Urgency
from spot_optimizer.domain.identity import IdentityDocument
from spot_optimizer.domain.orders import Role
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.tokens import Caller, Presented, Token, TokenKind
from spot_optimizer.domain.writes import Change, Transaction
from spot_optimizer.errors import (
    ConditionFailed,
    ControlPlaneUnavailable,
    Forbidden,
    JoinTokenSpent,
    OutcomeUnknown,
    PrimaryAlreadyRegistered,
    ReplicaNotReady,
    ResourceNotAllowed,
)

TRIES = 3


class Tokens(Protocol):
    """The tokens' rows; they are written by transactions."""

    def token(self, token_id: str) -> Token | None:
        """One token's row, read consistently."""
        ...


class Proofs(Protocol):
    """Who signs what EC2 says of an instance."""

    def verify(self, document: str, signature: str) -> None:
        """Raises: InstanceUnproven."""
        ...


class Allowances(Protocol):
    """What an admin has allowed a client to use."""

    def not_allowed(
        self,
        client_id: str,
        *,
        launch_template_id: str,
        subnet_ids: Sequence[str],
        traffic_adapter: TrafficAdapter,
        traffic_target: str | None,
    ) -> tuple[str, ...]:
        """Those of the resources that the client may not use."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this control plane runs; it protects instances of the same region and account only."""

    region: str
    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a new agent protects, and with what."""

    name: str
    launch_template_id: str
    instance_types: tuple[str, ...]
    subnet_ids: tuple[str, ...]
    traffic_adapter: TrafficAdapter
    traffic_target: str | None
    auto_switch: bool
    auto_replica: bool
    manual_replica: bool
    sync_interval_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """An instance that registers.

    Attributes:
        instance_id: What it claims to be, if it says so; its identity document tells.
        agent_id: Of a replica, if it says so: the agent it was launched for.
        replica_id: Of a replica, if it says so: its id.
        registration_key: Something random that the instance made and keeps: repeating a registration with the same key
            gets the same answer.
    """

    instance_id: str | None
    agent_id: str | None
    replica_id: str | None
    identity_document: str
    identity_signature: str
    registration_key: str
    certificate: str
    private_address: str
    sync_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What an instance is told when it has registered."""

    agent_id: str
    agent_token: str
    role: Role
    epoch: int
    replica_id: str | None


def agent_id_for(instance_id: str) -> str:
    """The id of the agent whose first primary this instance is; the same however often it registers."""
    return f"agt-{hashlib.sha256(instance_id.encode()).hexdigest()[:17]}"


def register(
    plane: Plane,
    newcomer: Newcomer,
    workload: Callable[[], Workload],
    *,
    caller: Caller,
    presented: Presented,
    token_rows: Tokens,
    proofs: Proofs,
    allowances: Allowances,
    place: Place,
) -> Registered:
    """Let an instance join: a client's token makes a new agent, a join token the replica it was made for.

    Raises:
        Forbidden: Any other token.
        InstanceUnproven: EC2 does not say that the newcomer is what it claims to be.
        Rejected: As `register_primary` and `register_replica` say.
    """
    if caller.kind not in (TokenKind.CLIENT, TokenKind.JOIN):
        raise Forbidden(f"a token of kind '{caller.kind}' registers nothing; expected a client or join token")
    proofs.verify(newcomer.identity_document, newcomer.identity_signature)
    document = identity.read(newcomer.identity_document)
    identity.check(
        document,
        instance_id=newcomer.instance_id or document.instance_id,
        region=place.region,
        account_id=place.account_id,
        now=plane.clock(),
    )
    if caller.kind is TokenKind.JOIN:
        return register_replica(
            plane, newcomer, document, caller=caller, presented=presented, token_rows=token_rows, place=place
        )
    return register_primary(
        plane,
        newcomer,
        workload(),
        document,
        caller=caller,
        presented=presented,
        token_rows=token_rows,
        allowances=allowances,
    )


def register_primary(
    plane: Plane,
    newcomer: Newcomer,
    workload: Workload,
    document: IdentityDocument,
    *,
    caller: Caller,
    presented: Presented,
    token_rows: Tokens,
    allowances: Allowances,
) -> Registered:
    """Register a new agent with its first primary. Repeating it with the same key gets the same answer.

    Raises:
        Forbidden: Not a client token.
        InvalidRequest: What the traffic adapter is to move is none of its targets.
        ResourceNotAllowed: The client may not use one of the resources.
        PrimaryAlreadyRegistered: The instance registered before, with another key.
    """
    client_id = caller.client_id
    if caller.kind is not TokenKind.CLIENT or client_id is None:
        raise Forbidden(f"a token of kind '{caller.kind}' registers no agent; expected a client or join token")
    traffic.check_target(workload.traffic_adapter, workload.traffic_target)
    agent_id = agent_id_for(document.instance_id)
    key = tokens.agent_token(presented, instance_id=document.instance_id, registration_key=newcomer.registration_key)
    for _ in range(TRIES):
        now = plane.clock()
        issued = tokens.issued(key, now=now, client_id=client_id, agent_id=agent_id, instance_id=document.instance_id)
        known = find_instance(plane, document.instance_id)
        if known is not None:
            if known.client_id != client_id:
                raise PrimaryAlreadyRegistered(
                    f"{document.instance_id} is registered; expected an instance that is not"
                )
            try:
                _renew(plane, token_rows, issued, now=now)
            except ConditionFailed:
                continue
            return _answer(plane.records.agent(known.agent_id), known, key)
        _check_allowed(allowances, client_id, workload)
        agent, instance = _first_rows(newcomer, workload, document, agent_id=agent_id, client_id=client_id, now=now)
        rows = handover.register(agent, instance)
        try:
            plane.records.commit(Transaction("register", (*rows.changes, tokens.create(issued))))
        except (ConditionFailed, OutcomeUnknown):
            # Read back: a repetition of ours may have been first.
            continue
        return _answer(agent, instance, key)
    raise OutcomeUnknown(f"the registration of {document.instance_id} has no known outcome yet; register again")


def register_replica(
    plane: Plane,
    newcomer: Newcomer,
    document: IdentityDocument,
    *,
    caller: Caller,
    presented: Presented,
    token_rows: Tokens,
    place: Place,
) -> Registered:
    """Let a launched instance join as the replica it was launched for. Repeating it with the same key is no error.

    Raises:
        InstanceUnproven: Not the instance that was launched.
        JoinTokenSpent: The token was redeemed before, with another key.
        ReplicaNotReady: The replica's life is over, or its epoch.
        ControlPlaneUnavailable: The launch is still being recorded; try again.
    """
    if caller.agent_id is None or caller.replica_id is None:
        raise Forbidden("the join token names no replica; expected the token of the instance's user data")
    if newcomer.agent_id not in (None, caller.agent_id) or newcomer.replica_id not in (None, caller.replica_id):
        raise Forbidden(
            f"the join token is for replica {caller.replica_id} of agent {caller.agent_id}, not for "
            f"{newcomer.replica_id} of {newcomer.agent_id}; expected agent_id and replica_id of the same user data"
        )
    key = tokens.agent_token(presented, instance_id=document.instance_id, registration_key=newcomer.registration_key)
    for _ in range(TRIES):
        now = plane.clock()
        replica = plane.records.replica(caller.agent_id, caller.replica_id)
        agent = plane.records.agent(caller.agent_id)
        _check_launched(replica, document, place=place, now=now)
        known = find_instance(plane, document.instance_id)
        if known is not None:
            held = token_rows.token(key.token_id)
            if held is None or held.secret_hash != tokens.hash_of(key.secret):
                raise JoinTokenSpent(
                    f"the join token of replica {caller.replica_id} was redeemed with another registration key; "
                    f"expected the key of that registration, or a new replica"
                )
            _wake(plane, replica)
            return _answer(agent, known, key)
        if replica.status is not ReplicaState.LAUNCHING or agent.epoch != replica.epoch:
            raise ReplicaNotReady(
                f"replica {replica.replica_id} is '{replica.status}' for epoch {replica.epoch}; the agent is at epoch "
                f"{agent.epoch}; expected a launching replica of the present epoch"
            )
        instance = Instance(
            instance_id=document.instance_id,
            agent_id=agent.agent_id,
            client_id=agent.client_id,
            role=InstanceRole.STANDBY,
            pool_id=document.pool.pool_id,
            epoch=agent.epoch,
            private_address=newcomer.private_address,
            sync_port=newcomer.sync_port,
            certificate=newcomer.certificate,
            joined_at=now,
            replica_id=replica.replica_id,
            launched_at=document.pending_time,
        )
        issued = tokens.issued(
            key, now=now, client_id=agent.client_id, agent_id=agent.agent_id, instance_id=document.instance_id
        )
        changes: tuple[Change, ...] = (
            *replicas.join(agent, replica, instance).changes,
            tokens.redeem_join(caller, instance_id=document.instance_id),
            tokens.create(issued),
        )
        try:
            plane.records.commit(Transaction("join", changes))
        except (ConditionFailed, OutcomeUnknown):
            continue
        _wake(plane, plane.records.replica(agent.agent_id, replica.replica_id))
        _wake_behind_a_dead_primary(plane, plane.records.agent(agent.agent_id))
        return _answer(agent, instance, key)
    raise OutcomeUnknown(f"joining as replica {caller.replica_id} has no known outcome yet; register again")


def _check_launched(replica: Replica, document: IdentityDocument, *, place: Place, now: datetime) -> None:
    if replica.instance_id is None and not replica.active:
        raise ReplicaNotReady(
            f"replica {replica.replica_id} is '{replica.status}', and no instance is its; expected a launching replica"
        )
    if replica.instance_id is None:
        raise ControlPlaneUnavailable(
            f"the launch of replica {replica.replica_id} is still being recorded; register again in a second"
        )
    identity.check(
        document,
        instance_id=replica.instance_id,
        region=place.region,
        account_id=place.account_id,
        now=now,
        launched_after=replica.created_at,
    )


def _check_allowed(allowances: Allowances, client_id: str, workload: Workload) -> None:
    refused = allowances.not_allowed(
        client_id,
        launch_template_id=workload.launch_template_id,
        subnet_ids=workload.subnet_ids,
        traffic_adapter=workload.traffic_adapter,
        traffic_target=workload.traffic_target,
    )
    if refused:
        raise ResourceNotAllowed(
            f"client '{client_id}' may not use {', '.join(refused)}; expected ones that an admin has tagged "
            f"spot-optimizer:client = {client_id}"
        )


def _first_rows(
    newcomer: Newcomer,
    workload: Workload,
    document: IdentityDocument,
    *,
    agent_id: str,
    client_id: str,
    now: datetime,
) -> tuple[Agent, Instance]:
    pool_id = document.pool.pool_id
    agent = Agent(
        agent_id=agent_id,
        client_id=client_id,
        name=workload.name,
        epoch=1,
        primary_instance_id=document.instance_id,
        primary_pool_id=pool_id,
        registered_at=now,
        launch_template_id=workload.launch_template_id,
        instance_types=workload.instance_types,
        subnet_ids=workload.subnet_ids,
        traffic_adapter=workload.traffic_adapter,
        traffic_target=workload.traffic_target,
        auto_switch=workload.auto_switch,
        auto_replica=workload.auto_replica,
        manual_replica=workload.manual_replica,
        sync_interval_seconds=workload.sync_interval_seconds,
    )
    instance = Instance(
        instance_id=document.instance_id,
        agent_id=agent_id,
        client_id=client_id,
        role=InstanceRole.PRIMARY,
        pool_id=pool_id,
        epoch=1,
        private_address=newcomer.private_address,
        sync_port=newcomer.sync_port,
        certificate=newcomer.certificate,
        joined_at=now,
        launched_at=document.pending_time,
    )
    return agent, instance


def _renew(plane: Plane, token_rows: Tokens, issued: Token, *, now: datetime) -> None:
    """Let the instance that registered with this key have its token; one that is over gives way to another key.

    Raises:
        PrimaryAlreadyRegistered: It registered with another key, whose token is in force.
        ConditionFailed: The token's row has changed.
    """
    held = token_rows.token(issued.token_id)
    if held is None:
        plane.records.commit(Transaction("issue token", (tokens.create(issued),)))
    elif held.expires_at <= now:
        plane.records.commit(Transaction("replace token", (tokens.replace_expired(issued, held),)))
    elif held.secret_hash != issued.secret_hash:
        raise PrimaryAlreadyRegistered(
            f"{issued.instance_id} registered before with another registration key; expected that key; if it is lost, "
            f"revoke token {held.token_id} first"
        )


def _answer(agent: Agent, instance: Instance, key: Presented) -> Registered:
    if instance.instance_id == agent.primary_instance_id:
        role = Role.PRIMARY
    elif instance.replica_id is not None and instance.role is InstanceRole.STANDBY:
        role = Role.STANDBY
    else:
        role = Role.RETIRED
    return Registered(
        agent_id=agent.agent_id,
        agent_token=tokens.write(key),
        role=role,
        epoch=agent.epoch,
        replica_id=instance.replica_id,
    )


def _wake(plane: Plane, replica: Replica) -> None:
    """Wake whoever waits for this replica to join; the row was written before, and read after that."""
    if replica.task_token is not None:
        plane.workflows.wake(replica.task_token)


def _wake_behind_a_dead_primary(plane: Plane, agent: Agent) -> None:
    """Wake the failover that waits for a standby which has nobody to sync from: it can restore at once."""
    if claims.claim_stands(agent) and agent.claim_urgency >= Urgency.DEAD and agent.task_token is not None:
        plane.workflows.wake(agent.task_token)
