"""What the demo tells: four tenants, each with one workload at another point of its life. Values only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from spot_optimizer.demo_data.price_model import DemoPool
from spot_optimizer.domain.agents import Agent, HandoverState, Heartbeat, Instance, InstanceRole, Interruption, Switch
from spot_optimizer.domain.clients import Client
from spot_optimizer.domain.model_sessions import PENDING_FOR, REJECTED_FOR, ModelSession, SessionStatus
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.snapshots import Protection

PREFIX = "demo-"
"""Of the names of all demo clients."""

AGENT_PREFIX = "agt-demo-"

_TYPES = (
    ("a", "m5.4xlarge", Decimal("0.768")),
    ("b", "m5.4xlarge", Decimal("0.768")),
    ("c", "m5.4xlarge", Decimal("0.768")),
    ("a", "m5a.4xlarge", Decimal("0.688")),
    ("b", "r5.4xlarge", Decimal("1.008")),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Every row of the demo, except prices.

    Attributes:
        pools: Five.
        clients: Four.
        agents: One per client.
        instances: Their primaries, standbys and one retired primary.
        replicas: Four: one ready, one syncing, one promoted, one failed.
        interruptions: Three.
        switches: The promotion that one of them led to.
        model_sessions: Three: one superseded, one rejected, one pending. None is live, for there are no files.
    """

    pools: tuple[DemoPool, ...]
    clients: tuple[Client, ...]
    agents: tuple[Agent, ...]
    instances: tuple[Instance, ...]
    replicas: tuple[Replica, ...]
    interruptions: tuple[Interruption, ...]
    switches: tuple[Switch, ...]
    model_sessions: tuple[ModelSession, ...]


def demo_pools(region: str) -> tuple[DemoPool, ...]:
    """The pools, in a region's first three zones."""
    return tuple(DemoPool(f"{region}{zone}.{kind}", price) for zone, kind, price in _TYPES)


def is_demo_agent(agent_id: str) -> bool:
    """Whether an agent is one of the demo's. Registered agents are named `agt-` and hexadecimal digits."""
    return agent_id.startswith(AGENT_PREFIX)


def set_scene(region: str, now: datetime) -> Scene:
    """Write the demo's rows down as they are when they are loaded at `now`.

    Everything happened at a fixed distance before `now`; ids depend on nothing.
    """
    pools = demo_pools(region)
    m5_a, m5_b, m5_c, m5a_a, r5_b = (pool.pool_id for pool in pools)
    recommended, yesterday, noticed = now - timedelta(hours=5), now - timedelta(days=1), now - timedelta(days=2)
    promoted = noticed + timedelta(seconds=59)
    ledger, orders, search, reports = (
        _agent("ledger", m5_a, registered_at=now - timedelta(days=30), active_replica_id="rep-demo-ledger-1"),
        _agent(
            "orders",
            m5_c,
            registered_at=now - timedelta(days=21),
            epoch=2,
            primary_instance_id=_instance_id("orders", 2),
            last_failover_at=noticed,
            handover_id="agt-demo-orders-1-1",
            handover_state=HandoverState.COMMITTED,
            handover_replica_id="rep-demo-orders-1",
            handover_readiness=1,
            handover_count=1,
            claim_epoch=1,
            claim_attempt=1,
            claim_signal=SignalType.TERMINATION_NOTICE,
            claim_signal_at=noticed,
        ),
        _agent("search", m5a_a, registered_at=now - timedelta(days=9), active_replica_id="rep-demo-search-1"),
        _agent("reports", r5_b, registered_at=now - timedelta(days=3)),
    )
    replicas = (
        _replica(
            ledger,
            m5_b,
            ReplicaType.AUTOMATIC_REBALANCE,
            ReplicaState.READY,
            recommended,
            created_by="signal:rebalance-recommendation",
            readiness=1,
            generation=18_000,
            sync_percent=100.0,
            lag_seconds=0.4,
            covered_until=now,
            ready_at=recommended + timedelta(seconds=74),
        ),
        _replica(
            orders,
            m5_c,
            ReplicaType.AUTOMATIC_TERMINATION,
            ReplicaState.PROMOTED,
            noticed,
            created_by="signal:termination-notice",
            readiness=1,
            launch_number=2,
            attempts=(_attempt(1, m5a_a, f"{m5a_a} has no capacity"), _attempt(2, m5_c, "launched")),
            generation=61,
            sync_percent=100.0,
            lag_seconds=0.3,
            covered_until=noticed + timedelta(seconds=58),
            ready_at=noticed + timedelta(seconds=51),
            ended_at=promoted,
        ),
        _replica(
            search,
            m5_b,
            ReplicaType.MANUAL,
            ReplicaState.SYNCING,
            now - timedelta(minutes=3),
            requested_pool_id=m5_b,
            generation=7,
            sync_percent=64.0,
            lag_seconds=21.5,
        ),
        _replica(
            reports,
            m5_a,
            ReplicaType.MANUAL,
            ReplicaState.FAILED,
            yesterday,
            ended_at=yesterday + timedelta(minutes=10),
            failure="its instance was terminated before it had synced",
        ),
    )
    interruptions = (
        _interruption(
            ledger,
            m5_a,
            SignalType.REBALANCE_RECOMMENDATION,
            recommended,
            response_action="prepare-replica",
            replica_id="rep-demo-ledger-1",
        ),
        _interruption(
            orders,
            m5_b,
            SignalType.TERMINATION_NOTICE,
            noticed,
            termination_time=noticed + timedelta(minutes=2),
            response_action="fail-over",
            replica_id="rep-demo-orders-1",
            failover_completed=True,
            failover_time_ms=61_380,
            **_COST,
        ),
        _interruption(
            reports,
            m5_a,
            SignalType.TERMINATION_NOTICE,
            yesterday + timedelta(minutes=8),
            number=2,
            termination_time=yesterday + timedelta(minutes=10),
            response_action="note-standby",
            replica_id="rep-demo-reports-1",
        ),
    )
    switches = (
        Switch(
            agent_id=orders.agent_id,
            client_id=orders.client_id,
            switch_id="0000000002",
            epoch=2,
            from_instance_id=_instance_id("orders", 1),
            to_instance_id=_instance_id("orders", 2),
            from_pool_id=m5_b,
            to_pool_id=m5_c,
            switch_reason=SignalType.TERMINATION_NOTICE,
            basis="final-generation",
            switched_at=promoted,
            served_at=promoted + timedelta(seconds=2),
            to_lifecycle="spot",
            old_usd_per_hour=Decimal("0.2917"),
            new_usd_per_hour=Decimal("0.2804"),
            estimated_savings=Decimal("0.0113"),
            realised_savings=Decimal("0.0098"),
            realised_seconds=86_400,
            **_COST,
        ),
    )
    instances = (
        *(
            _instance(agent, 2 if agent is orders else 1, InstanceRole.PRIMARY, agent.primary_pool_id)
            for agent in (ledger, orders, search, reports)
        ),
        _instance(orders, 1, InstanceRole.RETIRED, m5_b),
        _instance(ledger, 2, InstanceRole.STANDBY, m5_b, replica_id="rep-demo-ledger-1"),
        _instance(search, 2, InstanceRole.STANDBY, m5_b, replica_id="rep-demo-search-1"),
    )
    return Scene(
        pools=pools,
        clients=tuple(
            Client(client_id=agent.client_id, name=name, created_at=agent.registered_at)
            for agent, name in zip(
                (ledger, orders, search, reports),
                ("Demo Bank", "Demo Shop", "Demo Library", "Demo Clinic"),
                strict=True,
            )
        ),
        agents=(ledger, orders, search, reports),
        instances=instances,
        replicas=replicas,
        interruptions=interruptions,
        switches=switches,
        model_sessions=_model_sessions(now),
    )


#: Of the one failover there was, which had to launch its replacement first.
_COST: Mapping[str, Any] = {
    "rto_seconds": 61.0,
    "rpo_seconds": 0.0,
    "rpo_bytes": 0,
    "steps": (
        {"step": "claim", "ms": 140},
        {"step": "open-handover", "ms": 57_210},
        {"step": "promote", "ms": 1_650},
        {"step": "serve", "ms": 2_000},
        {"step": "move-traffic", "ms": 380},
    ),
}

_CLIENTS = {"ledger": "demo-bank", "orders": "demo-shop", "search": "demo-library", "reports": "demo-clinic"}
_NUMBERS = {name: number for number, name in enumerate(_CLIENTS, start=1)}


def _instance_id(name: str, number: int) -> str:
    # EC2 has never given out an id with so many zeros.
    return f"i-{_NUMBERS[name]:08x}{number:09x}"


def _agent(name: str, pool_id: str, *, registered_at: datetime, **changes: object) -> Agent:
    agent = Agent(
        agent_id=f"{AGENT_PREFIX}{name}",
        client_id=_CLIENTS[name],
        name=name,
        epoch=1,
        primary_instance_id=_instance_id(name, 1),
        primary_pool_id=pool_id,
        registered_at=registered_at,
        launch_template_id=f"lt-{0:017x}",
        instance_types=("m5.4xlarge", "m5a.4xlarge", "r5.4xlarge"),
        subnet_ids=("subnet-demoa", "subnet-demob", "subnet-democ"),
        replica_count=1,
        # What acts by itself would act in vain here.
        auto_switch=False,
        auto_replica=False,
        paused_at=registered_at,
        paused_because="demo data: none of its instances exists",
    )
    changed = replace(agent, **changes)  # type: ignore[arg-type]
    # Traffic points where it should, so that there is nothing to move.
    return replace(changed, traffic_epoch=changed.epoch)


def _replica(
    agent: Agent, pool_id: str, kind: ReplicaType, status: ReplicaState, created_at: datetime, **changes: object
) -> Replica:
    replica = Replica(
        agent_id=agent.agent_id,
        replica_id=f"rep-demo-{agent.name}-1",
        type=kind,
        status=status,
        epoch=1,
        created_by="operator:demo",
        created_at=created_at,
        pool_id=pool_id,
        lifecycle="spot",
        instance_id=_instance_id(agent.name, 2),
        launch_number=1,
        attempts=(_attempt(1, pool_id, "launched"),),
    )
    return replace(replica, **changes)  # type: ignore[arg-type]


def _attempt(number: int, pool_id: str, outcome: str) -> dict[str, object]:
    return {"number": number, "pool_id": pool_id, "lifecycle": "spot", "outcome": outcome}


def _instance(
    agent: Agent, number: int, role: InstanceRole, pool_id: str, *, replica_id: str | None = None
) -> Instance:
    return Instance(
        instance_id=_instance_id(agent.name, number),
        agent_id=agent.agent_id,
        client_id=agent.client_id,
        role=role,
        pool_id=pool_id,
        epoch=agent.epoch,
        private_address=f"192.0.2.{10 * _NUMBERS[agent.name] + number}",
        sync_port=7443,
        certificate="none: the instance does not exist",
        joined_at=agent.registered_at,
        replica_id=replica_id,
    )


def _interruption(
    agent: Agent, pool_id: str, signal: SignalType, at: datetime, *, number: int = 1, **changes: object
) -> Interruption:
    instance_id = _instance_id(agent.name, number)
    event = Interruption(
        agent_id=agent.agent_id,
        client_id=agent.client_id,
        event_id=f"{instance_id}#{signal}",
        instance_id=instance_id,
        pool_id=pool_id,
        signal_type=signal,
        detected_at=at,
        epoch=1,
    )
    return replace(event, **changes)  # type: ignore[arg-type]


def _model_sessions(now: datetime) -> tuple[ModelSession, ...]:
    older = _model_session("demo-1", now - timedelta(days=20), auc=0.58, brier=0.0121)
    worse = _model_session("demo-2", now - timedelta(days=6), auc=0.51, brier=0.0163)
    return (
        replace(
            older, status=SessionStatus.SUPERSEDED, activated_at=older.created_at + timedelta(minutes=2), forget_at=None
        ),
        replace(
            worse,
            status=SessionStatus.REJECTED,
            reason="clearly worse than the live model: Brier score 0.0163, expected at most 0.0127",
            findings=(
                {"step": "VerifyFiles", "finding": "2 files, as announced"},
                {"step": "CompareWithLive", "finding": "Brier score 0.0163 against 0.0121"},
            ),
            forget_at=worse.created_at + REJECTED_FOR,
        ),
        _model_session("demo-3", now - timedelta(hours=4), auc=0.61, brier=0.0117),
    )


def _model_session(session_id: str, at: datetime, **metrics: float) -> ModelSession:
    return ModelSession(
        session_id=session_id,
        status=SessionStatus.PENDING,
        created_at=at,
        created_by="operator:demo",
        file_names=("risk-1h.ubj", "scaler.json"),
        trained_from=at - timedelta(days=120),
        trained_until=at - timedelta(days=1),
        metrics=json.dumps(metrics, sort_keys=True),
        forget_at=at + PENDING_FOR,
    )


_PROTECTION = {"ledger": Protection.STANDBY, "reports": Protection.UNPROTECTED}


def heartbeats(scene: Scene, now: datetime) -> tuple[Heartbeat, ...]:
    """A sign of life of each demo primary; that of `reports` has been silent for an hour, and has more state than a
    notice leaves time for.
    """
    return tuple(
        Heartbeat(
            agent_id=agent.agent_id,
            instance_id=agent.primary_instance_id,
            epoch=agent.epoch,
            role="primary",
            serving=True,
            healthy=True,
            at=now - timedelta(hours=1) if agent.name == "reports" else now,
            agent_version="demo",
            protection=_PROTECTION.get(agent.name, Protection.FITS),
            state_bytes=2**41 if agent.name == "reports" else 2**31,
            state_bytes_per_second=180e6,
            changed_bytes_per_second=60e3,
            snapshot_usd_per_day=0.2871 if agent.name == "reports" else 0.0021,
        )
        for agent in scene.agents
    )
