"""Requests and answers of the agents' calls."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from spot_optimizer.api.fields import (
    Address,
    Answer,
    Body,
    Certificate,
    Epoch,
    Flag,
    InstanceId,
    InstanceType,
    LaunchTemplateId,
    Moment,
    Name,
    Number,
    Port,
    SubnetId,
    SyncInterval,
    TrafficTarget,
    Version,
    Word,
)
from spot_optimizer.control.registration import Newcomer, Registered, Workload
from spot_optimizer.domain.agents import Agent, AgentStatus, Heartbeat, TrafficAdapter
from spot_optimizer.domain.maintenance import Window
from spot_optimizer.domain.orders import Orders, Role
from spot_optimizer.domain.snapshots import Protection
from spot_optimizer.errors import InvalidRequest

SHORTEST_KEY = 32
LARGEST_TAIL = 2**20

SwitchShare = Annotated[float, Field(ge=0.01, le=0.45, allow_inf_nan=False)]


def _check_window(text: str) -> str:
    Window.parse(text)
    return text


WindowText = Annotated[str, Field(max_length=60, examples=["sat,sun 02:00-06:00"]), AfterValidator(_check_window)]

Rate = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]


class RegisterRequest(Body):
    """An instance registers: with a client token as a new agent's primary, with a join token as the replica it is."""

    identity_document: Annotated[str, Field(min_length=2, max_length=4096, description="As IMDS serves it.")]
    identity_signature: Annotated[str, Field(min_length=16, max_length=1024, description="IMDS' `signature`.")]
    certificate: Certificate
    private_address: Address
    sync_port: Port
    instance_id: InstanceId | None = None
    registration_key: Annotated[
        str | None,
        Field(
            min_length=SHORTEST_KEY,
            max_length=128,
            description="Random and kept; else the Idempotency-Key header is taken.",
        ),
    ] = None
    agent_version: Version = ""
    protocol_version: Annotated[int, Field(strict=True, ge=1, le=1)] = 1
    agent_id: Word | None = Field(default=None, description="Of a replica: the agent it was launched for.")
    replica_id: Word | None = Field(default=None, description="Of a replica: its id.")
    name: Name = "agent"
    launch_template_id: LaunchTemplateId | None = None
    instance_types: Annotated[tuple[InstanceType, ...], Field(max_length=20)] = ()
    subnet_ids: Annotated[tuple[SubnetId, ...], Field(max_length=20)] = ()
    traffic_adapter: TrafficAdapter = TrafficAdapter.NONE
    traffic_target: TrafficTarget | None = None
    auto_switch: Flag = True
    auto_replica: Flag = True
    manual_replica: Flag = True
    sync_interval_seconds: SyncInterval = 1.0

    def newcomer(self, *, idempotency_key: str | None) -> Newcomer:
        """The instance, in the domain's words.

        Raises:
            InvalidRequest: There is no registration key, or it is too short to be a secret.
        """
        key = self.registration_key or idempotency_key or ""
        if len(key) < SHORTEST_KEY:
            raise InvalidRequest(
                "the registration has no key; expected a random one that the instance keeps, to repeat it with",
                field="registration_key",
                expected=f"at least {SHORTEST_KEY} characters, here or as Idempotency-Key",
            )
        return Newcomer(
            instance_id=self.instance_id,
            agent_id=self.agent_id,
            replica_id=self.replica_id,
            identity_document=self.identity_document,
            identity_signature=self.identity_signature,
            registration_key=key,
            certificate=self.certificate,
            private_address=self.private_address,
            sync_port=self.sync_port,
        )

    def workload(self) -> Workload:
        """What it carries, in the domain's words.

        Raises:
            InvalidRequest: A new agent needs to say what its replicas are launched from, as what, and where.
        """
        for name in ("launch_template_id", "instance_types", "subnet_ids"):
            if not getattr(self, name):
                raise InvalidRequest(
                    f"'{name}' is missing; a new agent says from what, and where, replicas launch",
                    field=name,
                    expected="a launch template id, and at least one instance type and one subnet id",
                )
        return Workload(
            name=self.name,
            launch_template_id=str(self.launch_template_id),
            instance_types=self.instance_types,
            subnet_ids=self.subnet_ids,
            traffic_adapter=self.traffic_adapter,
            traffic_target=self.traffic_target,
            auto_switch=self.auto_switch,
            auto_replica=self.auto_replica,
            manual_replica=self.manual_replica,
            sync_interval_seconds=self.sync_interval_seconds,
        )


class RegisterAnswer(Answer):
    """Whom the instance speaks for from now on."""

    agent_id: str
    agent_token: str
    role: Role
    epoch: int
    replica_id: str | None = None

    @classmethod
    def of(cls, registered: Registered) -> RegisterAnswer:
        """From the domain's words."""
        return cls.model_validate(registered)


class HeartbeatRequest(Body):
    """How an instance is."""

    epoch: Epoch
    role: Role
    serving: Flag
    healthy: Flag
    instance_id: InstanceId | None = None
    sent_at: Moment | None = Field(default=None, description="By the instance's clock; for people.")
    agent_version: Version = ""
    protection: Protection | None = None
    state_bytes: Number | None = None
    state_bytes_per_second: Rate | None = None
    changed_bytes_per_second: Rate | None = None
    snapshot_usd_per_day: Rate | None = None


class Peer(Answer):
    """The other end of the replication link."""

    replica_id: str
    instance_id: str
    status: str
    readiness: int
    address: str
    port: int
    certificate: str


class Handover(Answer):
    """The agent's latest handover."""

    handover_id: str
    state: str
    replica_id: str
    readiness: int
    primary_dead: bool
    snapshot_taken_at: Moment | None = Field(
        default=None, description="Behind a dead primary: the state up to here is in the newest snapshot."
    )
    snapshot_epoch: int | None = None


class Configuration(Answer):
    """What people may change of an agent while it runs."""

    auto_switch: bool
    auto_replica: bool
    manual_replica: bool
    sync_interval_seconds: float
    rebalance_threshold: float
    quiet_seconds: int
    switch_minimum_saving: float
    switch_dwell_seconds: int
    switch_hysteresis: float
    switches_per_day: int
    maintenance_windows: tuple[str, ...]
    usd_per_outage_second: float

    @classmethod
    def of(cls, agent: Agent) -> Configuration:
        """From the agent's row."""
        return cls.model_validate(agent)


class Command(Answer):
    """Something the agent is asked to do."""

    command_id: str
    name: str


class HeartbeatAnswer(Answer):
    """What the instance is to be."""

    role: Role
    epoch: int
    peer: Peer | None
    handover: Handover | None
    under_way: bool
    heartbeat_every_seconds: float
    sync_interval_seconds: float
    lost: bool
    configuration: Configuration
    commands: tuple[Command, ...] = ()

    @classmethod
    def of(cls, orders: Orders, agent: Agent) -> HeartbeatAnswer:
        """From the domain's words."""
        return cls(
            role=orders.role,
            epoch=orders.epoch,
            peer=None if orders.peer is None else Peer.model_validate(orders.peer),
            handover=None if orders.handover is None else Handover.model_validate(orders.handover),
            under_way=orders.under_way,
            heartbeat_every_seconds=orders.heartbeat_every_seconds,
            sync_interval_seconds=orders.sync_interval_seconds,
            lost=orders.lost,
            configuration=Configuration.of(agent),
        )


class ConfigurationRequest(Body):
    """Settings to change; what is not named stays."""

    auto_switch: Flag | None = None
    auto_replica: Flag | None = None
    manual_replica: Flag | None = None
    sync_interval_seconds: SyncInterval | None = None
    rebalance_threshold: Annotated[
        float | None,
        Field(ge=0, le=1, description="Above this probability a rebalance recommendation makes a standby."),
    ] = None
    quiet_seconds: Annotated[
        int | None,
        Field(strict=True, ge=60, le=30 * 86_400, description="After so long that standby is released."),
    ] = None
    switch_minimum_saving: SwitchShare | None = Field(
        default=None, description="Share of the present cost that a move for money must save."
    )
    switch_dwell_seconds: Annotated[
        int | None,
        Field(strict=True, ge=300, le=7 * 86_400, description="How long the workload stays after any move."),
    ] = None
    switch_hysteresis: SwitchShare | None = Field(
        default=None, description="What coming back to an offer that was left within a week must save on top."
    )
    switches_per_day: Annotated[
        int | None, Field(strict=True, ge=1, le=24, description="Moves for money within 24 hours.")
    ] = None
    maintenance_windows: Annotated[
        tuple[WindowText, ...] | None,
        Field(max_length=14, description="When those may be made, in UTC; always, where there is none."),
    ] = None
    usd_per_outage_second: Annotated[
        float | None,
        Field(
            ge=0,
            le=10_000,
            allow_inf_nan=False,
            description="What a second of waiting is worth in USD: decisions weigh failovers by it.",
        ),
    ] = None

    @model_validator(mode="after")
    def _names_something(self) -> ConfigurationRequest:
        if not self.changes():
            raise ValueError(f"at least one of {', '.join(type(self).model_fields)}")
        return self

    def changes(self) -> dict[str, Any]:
        """What is to change."""
        return self.model_dump(exclude_none=True)


class AgentAnswer(Answer):
    """One agent, as people see it."""

    agent_id: str
    client_id: str
    name: str
    status: AgentStatus
    epoch: int
    primary_instance_id: str
    primary_pool_id: str
    registered_at: Moment
    last_heartbeat_at: Moment | None
    serving: bool
    healthy: bool
    agent_version: str
    traffic_adapter: TrafficAdapter
    traffic_target: str | None
    traffic_epoch: int
    replica_count: int
    active_replica_id: str | None
    handover_id: str | None
    handover_state: str
    last_failover_at: Moment | None
    protection: str | None = Field(description="As its primary says; `unprotected without standby` wants one.")
    state_bytes: int | None
    state_bytes_per_second: float | None
    snapshot_id: str | None = Field(description="The newest complete snapshot.")
    snapshot_taken_at: Moment | None
    snapshot_usd_per_day: float | None
    paused_at: Moment | None
    paused_because: str | None
    configuration: Configuration

    @classmethod
    def of(cls, agent: Agent, heartbeat: Heartbeat | None, status: AgentStatus) -> AgentAnswer:
        """From the rows."""
        return cls(
            agent_id=agent.agent_id,
            client_id=agent.client_id,
            name=agent.name,
            status=status,
            epoch=agent.epoch,
            primary_instance_id=agent.primary_instance_id,
            primary_pool_id=agent.primary_pool_id,
            registered_at=agent.registered_at,
            last_heartbeat_at=heartbeat.at if heartbeat else None,
            serving=heartbeat.serving if heartbeat else False,
            healthy=heartbeat.healthy if heartbeat else False,
            agent_version=heartbeat.agent_version if heartbeat else "",
            traffic_adapter=agent.traffic_adapter,
            traffic_target=agent.traffic_target,
            traffic_epoch=agent.traffic_epoch,
            replica_count=agent.replica_count,
            active_replica_id=agent.active_replica_id,
            handover_id=agent.handover_id,
            handover_state=agent.handover_state,
            last_failover_at=agent.last_failover_at,
            protection=heartbeat.protection if heartbeat else None,
            state_bytes=heartbeat.state_bytes if heartbeat else None,
            state_bytes_per_second=heartbeat.state_bytes_per_second if heartbeat else None,
            snapshot_id=agent.snapshot_id,
            snapshot_taken_at=agent.snapshot_taken_at,
            snapshot_usd_per_day=heartbeat.snapshot_usd_per_day if heartbeat else None,
            paused_at=agent.paused_at,
            paused_because=agent.paused_because,
            configuration=Configuration.of(agent),
        )


class AgentsAnswer(Answer):
    """A page of agents."""

    agents: tuple[AgentAnswer, ...]
    next_cursor: str | None = None


class CommandResultRequest(Body):
    """How a command ended."""

    outcome: Literal["done", "failed"]
    detail: Annotated[str, Field(max_length=2000)] = ""


class LogTailRequest(Body):
    """The agent wants to put the tail of its log somewhere."""

    size_bytes: Annotated[Number, Field(le=LARGEST_TAIL, description="Exactly so many bytes may be put there.")]


class LogTailAnswer(Answer):
    """Where to put it, by PUT, with these headers."""

    url: str
    headers: dict[str, str]
    expires_at: Moment
