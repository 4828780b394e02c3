"""Builders: a value that is right in every way, in which a test names only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, InstanceRole, Interruption, Switch
from spot_optimizer.domain.pools import Pool
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.snapshots import KEPT_FOR, Snapshot, SnapshotKind
from spot_optimizer.domain.tokens import Token, TokenKind

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AGENT = "agt-0123456789abcdef0"
REPLICA = "rep-0123456789abcdef0123"
PRIMARY = "i-0aaaaaaaaaaaaaaa1"
STANDBY = "i-0bbbbbbbbbbbbbbb2"
CLIENT = "acme"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def a_pool(**changes: Any) -> Pool:
    return Pool(**({"availability_zone": "us-east-1a", "instance_type": "m5.large"} | changes))


def an_agent(**changes: Any) -> Agent:
    """An agent at epoch 1 with a primary, no replica and nothing under way."""
    values: dict[str, Any] = {
        "agent_id": AGENT,
        "client_id": CLIENT,
        "name": "ledger",
        "epoch": 1,
        "primary_instance_id": PRIMARY,
        "primary_pool_id": "us-east-1a.m5.large",
        "registered_at": NOON,
        "launch_template_id": "lt-0123456789abcdef0",
        "instance_types": ("m5.large", "m5a.large"),
        "subnet_ids": ("subnet-a", "subnet-b", "subnet-c"),
        "traffic_epoch": 1,
    }
    return Agent(**(values | changes))


def a_replica(**changes: Any) -> Replica:
    """A replica of `an_agent` that syncs."""
    values: dict[str, Any] = {
        "agent_id": AGENT,
        "replica_id": REPLICA,
        "type": ReplicaType.AUTOMATIC_REBALANCE,
        "status": ReplicaState.SYNCING,
        "epoch": 1,
        "created_by": "test",
        "created_at": NOON,
        "pool_id": "us-east-1b.m5.large",
        "lifecycle": "spot",
        "instance_id": STANDBY,
        "launch_number": 1,
        "attempts": ({"number": 1, "pool_id": "us-east-1b.m5.large", "lifecycle": "spot", "outcome": "launched"},),
    }
    return Replica(**(values | changes))


def a_ready_replica(**changes: Any) -> Replica:
    """A replica of `an_agent` that is ready, at readiness 1."""
    ready: dict[str, Any] = {
        "status": ReplicaState.READY,
        "readiness": 1,
        "generation": 3,
        "sync_percent": 100.0,
        "lag_seconds": 0.5,
        "covered_until": NOON,
        "ready_at": NOON,
    }
    return a_replica(**(ready | changes))


def an_instance(**changes: Any) -> Instance:
    """The primary of `an_agent`."""
    values: dict[str, Any] = {
        "instance_id": PRIMARY,
        "agent_id": AGENT,
        "client_id": CLIENT,
        "role": InstanceRole.PRIMARY,
        "pool_id": "us-east-1a.m5.large",
        "epoch": 1,
        "private_address": "10.0.1.10",
        "sync_port": 7443,
        "certificate": CERTIFICATE,
        "joined_at": NOON,
    }
    return Instance(**(values | changes))


def a_standby(**changes: Any) -> Instance:
    """The instance of `a_replica`."""
    standby: dict[str, Any] = {
        "instance_id": STANDBY,
        "role": InstanceRole.STANDBY,
        "pool_id": "us-east-1b.m5.large",
        "private_address": "10.0.2.10",
        "replica_id": REPLICA,
    }
    return an_instance(**(standby | changes))


def a_heartbeat(**changes: Any) -> Heartbeat:
    values: dict[str, Any] = {
        "agent_id": AGENT,
        "instance_id": PRIMARY,
        "epoch": 1,
        "role": "primary",
        "serving": True,
        "healthy": True,
        "at": NOON,
        "agent_version": "0.1.0",
    }
    return Heartbeat(**(values | changes))


def an_interruption(**changes: Any) -> Interruption:
    values: dict[str, Any] = {
        "agent_id": AGENT,
        "event_id": f"{PRIMARY}#termination-notice",
        "instance_id": PRIMARY,
        "pool_id": "us-east-1a.m5.large",
        "signal_type": "termination-notice",
        "detected_at": NOON,
    }
    return Interruption(**(values | changes))


def a_switch(**changes: Any) -> Switch:
    values: dict[str, Any] = {
        "agent_id": AGENT,
        "switch_id": "0000000002",
        "epoch": 2,
        "from_instance_id": PRIMARY,
        "to_instance_id": STANDBY,
        "from_pool_id": "us-east-1a.m5.large",
        "to_pool_id": "us-east-1b.m5.large",
        "switch_reason": "termination-notice",
        "basis": "final-generation",
        "switched_at": NOON,
        "rpo_seconds": 0.0,
    }
    return Switch(**(values | changes))


def a_token(**changes: Any) -> Token:
    values: dict[str, Any] = {
        "token_id": "0123456789abcdef0123",
        "kind": TokenKind.AGENT,
        "secret_hash": "0" * 64,
        "created_at": NOON,
        "expires_at": datetime(2026, 3, 31, 12, 0, tzinfo=UTC),
        "client_id": CLIENT,
        "agent_id": AGENT,
        "instance_id": PRIMARY,
    }
    return Token(**(values | changes))


def a_snapshot(**changes: Any) -> Snapshot:
    """The first base of `an_agent`'s primary."""
    values: dict[str, Any] = {
        "agent_id": AGENT,
        "snapshot_id": "0000000001-0000000000000001",
        "kind": SnapshotKind.BASE,
        "epoch": 1,
        "generation": 1,
        "instance_id": PRIMARY,
        "base_id": "0000000001-0000000000000001",
        "previous_id": None,
        "taken_at": NOON,
        "completed_at": NOON,
        "frozen": False,
        "root_hash": "0" * 64,
        "size_bytes": 10,
        "state_bytes": 20,
        "expires_at": NOON + KEPT_FOR,
    }
    return Snapshot(**(values | changes))
