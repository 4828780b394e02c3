"""Agents and the rows around them: what the control plane knows of one protected workload."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from spot_optimizer.domain.pauses import Pause


class TrafficAdapter(enum.StrEnum):
    """How clients reach the primary."""

    EIP = "eip"
    TARGET_GROUP = "target-group"
    ROUTE53 = "route53"
    NONE = "none"


class HandoverState(enum.StrEnum):
    """The life of a handover: it is opened once, and then either committed or aborted, for good."""

    NONE = "none"
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


NOT_OPEN = (HandoverState.NONE, HandoverState.COMMITTED, HandoverState.ABORTED)


class Urgency(enum.IntEnum):
    """How soon a failover must be through; a later signal can raise it, never lower it."""

    PLANNED = 0
    RISK = 1
    NOTICED = 2
    DEAD = 3


class InstanceRole(enum.StrEnum):
    """What an instance is to its agent."""

    PRIMARY = "primary"
    STANDBY = "standby"
    RETIRED_PENDING = "retired-pending"
    RETIRED = "retired"


class AgentStatus(enum.StrEnum):
    """What an operator sees of an agent."""

    ONLINE = "online"
    OFFLINE = "offline"
    FAILING_OVER = "failing-over"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One protected workload. Its row is the only place where its epoch, its primary and its handover are decided.

    Attributes:
        epoch: The fencing number; +1 per promotion, from 1.
        primary_instance_id: The one instance that may serve under `epoch`.
        active_replica_id: The one replica that is being prepared or is ready; none has been chosen otherwise.
        claim_epoch: The epoch that the latest failover execution set out from; a promotion leaves the claim as it is.
        claim_attempt: Number of that execution within its epoch, from 1; 0 when there was none.
        claim_open: Whether that execution is still at work.
        claim_handovers_before: Handovers that had been opened in this epoch when the claim was made.
        claimed_at: When that execution was first asked for.
        claim_deadline: When AWS takes the primary back, if that is known.
        claim_demotes: Of a planned handover: whether the old primary becomes the standby; False retires it.
        handover_id: The latest handover's id; it stays after the handover ended, so that its outcome can be read back.
        handover_readiness: The replica's readiness number that the handover was opened on.
        handover_primary_dead: EC2 itself says that the primary is stopped or terminated.
        handover_snapshot_id: Behind a dead primary: the newest snapshot when that was proven; it may be restored.
        handover_count: Handovers opened so far in this epoch.
        traffic_epoch: The epoch whose primary the traffic path points at; it never falls.
        task_token: Wakes the failover execution that waits on this agent.
        snapshot_id: The newest complete snapshot; it only goes forwards.
        snapshot_taken_at: The state up to here is in it, by its primary's clock.
        snapshot_expires_at: From then on it is not restored any more.
        lost: Every copy of the state is gone.
        rebalance_threshold: Above this probability of an interruption, a rebalance recommendation makes a standby.
        quiet_seconds: After so long without a further sign, that standby is released.
        paused_at: Since when an operator wants nothing changed.
        paused_because: In the operator's words.
        switch_minimum_saving: Share of the present cost that a move for money must save; see `domain.switching`.
        switch_dwell_seconds: How long the workload stays after any move, however cheap elsewhere is.
        switch_hysteresis: What coming back must save on top.
        switches_per_day: Moves for money within 24 hours.
        maintenance_windows: When those may be made; see `domain.maintenance`. Always, where there is none.
        usd_per_outage_second: What a second in which clients wait is worth to whoever runs the workload.
    """

    agent_id: str
    client_id: str
    name: str
    epoch: int
    primary_instance_id: str
    primary_pool_id: str
    registered_at: datetime
    launch_template_id: str
    instance_types: tuple[str, ...]
    subnet_ids: tuple[str, ...]
    traffic_adapter: TrafficAdapter = TrafficAdapter.NONE
    traffic_target: str | None = None
    traffic_epoch: int = 0
    auto_switch: bool = True
    auto_replica: bool = True
    manual_replica: bool = True
    sync_interval_seconds: float = 1.0
    replica_count: int = 0
    active_replica_id: str | None = None
    claim_epoch: int = 0
    claim_attempt: int = 0
    claim_open: bool = False
    claim_urgency: int = 0
    claim_handovers_before: int = 0
    claim_signal: str | None = None
    claim_signal_at: datetime | None = None
    claim_deadline: datetime | None = None
    claim_demotes: bool | None = None
    claimed_at: datetime | None = None
    handover_id: str | None = None
    handover_state: HandoverState = HandoverState.NONE
    handover_replica_id: str | None = None
    handover_readiness: int | None = None
    handover_opened_at: datetime | None = None
    handover_primary_dead: bool = False
    handover_snapshot_id: str | None = None
    handover_count: int = 0
    task_token: str | None = None
    last_failover_at: datetime | None = None
    snapshot_id: str | None = None
    snapshot_taken_at: datetime | None = None
    snapshot_expires_at: datetime | None = None
    lost: bool = False
    rebalance_threshold: float = 0.30
    quiet_seconds: int = 43_200
    paused_at: datetime | None = None
    paused_because: str | None = None
    switch_minimum_saving: float = 0.05
    switch_dwell_seconds: int = 1800
    switch_hysteresis: float = 0.05
    switches_per_day: int = 4
    maintenance_windows: tuple[str, ...] = ()
    usd_per_outage_second: float = 0.01

    @property
    def pause(self) -> Pause | None:
        """The agent's own pause, if there is one."""
        return None if self.paused_at is None else Pause(self.paused_at, self.paused_because or "")

    @property
    def handover_open(self) -> bool:
        """Whether a handover is under way."""
        return self.handover_state is HandoverState.OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An EC2 instance that carries, or carried, an agent.

    Attributes:
        certificate: PEM of the self-signed certificate that its peer pins.
    """

    instance_id: str
    agent_id: str
    client_id: str
    role: InstanceRole
    pool_id: str
    epoch: int
    private_address: str
    sync_port: int
    certificate: str
    joined_at: datetime
    replica_id: str | None = None
    launched_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The last sign of life of one instance of an agent; on a row of its own, which no promotion touches.

    Attributes:
        protection: How well its state is protected, in the agent's words; None if it does not say.
        state_bytes: How much state there is.
        state_bytes_per_second: How fast it was measured to be carried.
        changed_bytes_per_second: How fast it changes, compressed.
        snapshot_usd_per_day: What its snapshots cost.
    """

    agent_id: str
    instance_id: str
    epoch: int
    role: str
    serving: bool
    healthy: bool
    at: datetime
    agent_version: str = ""
    protection: str | None = None
    state_bytes: int | None = None
    state_bytes_per_second: float | None = None
    changed_bytes_per_second: float | None = None
    snapshot_usd_per_day: float | None = None

    def serves_under(self, epoch: int) -> bool:
        """Whether it says that its instance serves under this epoch."""
        return self.serving and self.epoch == epoch


FAIL_OVER = "fail-over"
"""The response to a signal that a failover answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """One signal that concerned an instance, and what came of it.

    Attributes:
        rto_seconds: From the signal's publication to the new primary's first passed health check.
        rpo_seconds: How much of the primary's time is missing at most.
        lag_seconds: How much of it the standby was behind when it last heard its primary; None if nobody can tell.
        rpo_bytes: About how much `rpo_seconds` is; None if the rate of change was never measured.
        steps: Where the time went; see `domain.timeline`.
    """

    agent_id: str
    event_id: str
    instance_id: str
    pool_id: str
    signal_type: str
    detected_at: datetime
    termination_time: datetime | None = None
    response_action: str | None = None
    replica_id: str | None = None
    epoch: int | None = None
    failover_completed: bool = False
    failover_time_ms: int | None = None
    failure: str | None = None
    client_id: str | None = None
    rto_seconds: float | None = None
    rpo_seconds: float | None = None
    lag_seconds: float | None = None
    rpo_bytes: int | None = None
    steps: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One promotion: which instance handed over to which, why, and what it cost.

    Attributes:
        signal_at: When that signal was published.
        claimed_at: When a failover was at work on it.
        handover_opened_at: When a replica was handed to; None where a former primary was promoted back.
        replica_id: That replica.
        served_at: When the new primary was first known to serve; None if it was replaced before.
        rpo_breached: The standby was further behind than is promised, or nobody can tell how far.
        rto_seconds: As `Interruption.rto_seconds`; so are `rpo_seconds`, `lag_seconds`, `rpo_bytes` and `steps`.
        demote_old_primary: Of a planned one: whether the old primary was to become the standby; False retires it.
        old_primary: What became of it; see `former_primaries.Fate`. None while that is open.
        switch_reason: The signal that it answered.
        explanation: For people: why somebody, or a rule, wanted it; None where a signal says it all.
        to_lifecycle: How the new primary was bought; None where it is not known.
        old_usd_per_hour: Of the old primary's place, when the switch was asked for, or else at the switch.
        new_usd_per_hour: Of the new one's.
        estimated_savings: USD/hour: old minus new; negative where it got dearer.
        realised_savings: USD/hour, what it came to: the same from the prices really in force, over `realised_seconds`.
        realised_seconds: From the switch to the next one, or to when it was looked at.
    """

    agent_id: str
    switch_id: str
    epoch: int
    from_instance_id: str
    to_instance_id: str
    from_pool_id: str
    to_pool_id: str
    switch_reason: str
    basis: str
    switched_at: datetime
    signal_at: datetime | None = None
    claimed_at: datetime | None = None
    handover_opened_at: datetime | None = None
    replica_id: str | None = None
    served_at: datetime | None = None
    rpo_seconds: float | None = None
    lag_seconds: float | None = None
    rpo_breached: bool = False
    client_id: str | None = None
    rto_seconds: float | None = None
    rpo_bytes: int | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    demote_old_primary: bool | None = None
    old_primary: str | None = None
    explanation: str | None = None
    to_lifecycle: str | None = None
    old_usd_per_hour: Decimal | None = None
    new_usd_per_hour: Decimal | None = None
    estimated_savings: Decimal | None = None
    realised_savings: Decimal | None = None
    realised_seconds: int | None = None

    @property
    def concluded(self) -> bool:
        """Whether it is on record what came of it."""
        return self.served_at is not None or bool(self.steps)


def agent_status(
    agent: Agent, heartbeat: Heartbeat | None, *, now: datetime, heartbeat_timeout: timedelta
) -> AgentStatus:
    """Tell how an agent stands: `lost` over `failing-over` over `offline` over `online`.

    Args:
        agent: The agent's row.
        heartbeat: The primary's last sign of life; none yet counts from the registration.
        now: The control plane's clock.
        heartbeat_timeout: Silence longer than this is `offline`.
    """
    if agent.lost:
        return AgentStatus.LOST
    if agent.claim_open or agent.handover_open:
        return AgentStatus.FAILING_OVER
    last_sign = heartbeat.at if heartbeat is not None else agent.registered_at
    return AgentStatus.OFFLINE if now - last_sign > heartbeat_timeout else AgentStatus.ONLINE
