"""What goes over the control plane's API: the bodies of requests, and the orders in the answer to a heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from spot_agent import __version__
from spot_agent.imds import Addresses, InstanceIdentity
from spot_agent.settings import Settings
from spot_agent.sync.source import Progress
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.orders import HandoverView, Orders, Peer, Role
from spot_optimizer.domain.protocol import Commit, ReportReady
from spot_optimizer.domain.replicas import ReplicaState
from spot_optimizer.domain.signals import SignalType

UNKNOWN: Final[Mapping[str, Any]] = {"outcome": "failed", "detail": "this version of the agent knows no such command"}


class AnswerNotUnderstood(ValueError):
    """The control plane's answer is not what this version of the agent expects."""


def termination(instance_id: str, deadline: str, replica_id: str | None, *, epoch: int) -> dict[str, Any]:
    """AWS takes this instance back."""
    body = {"instance_id": instance_id, "termination_time": deadline, "epoch": epoch}
    return body if replica_id is None else {**body, "replica_id": replica_id}


def signal(instance_id: str, signal_type: SignalType, *, epoch: int) -> dict[str, Any]:
    """Something else about an instance calls for a replica, or for a failover."""
    return {"instance_id": instance_id, "signal_type": signal_type, "epoch": epoch}


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to a registration."""

    agent_id: str
    agent_token: str = field(repr=False)
    epoch: int


def registration(
    settings: Settings, identity: InstanceIdentity, addresses: Addresses, *, certificate: str, sync_port: int
) -> dict[str, Any]:
    """What an instance says of itself once, when it registers."""
    instance = {
        "identity_document": identity.document,
        "identity_signature": identity.signature,
        "private_address": addresses.control,
        "sync_port": sync_port,
        "certificate": certificate,
        "agent_version": __version__,
    }
    if settings.replica_id is not None:
        return {**instance, "agent_id": settings.agent_id, "replica_id": settings.replica_id}
    agent = {
        "name": settings.agent_name,
        "launch_template_id": settings.launch_template_id,
        "instance_types": list(settings.instance_types),
        "subnet_ids": list(settings.subnet_ids),
        "traffic_adapter": settings.traffic_adapter,
        "traffic_target": settings.traffic_target,
        "auto_replica": settings.auto_replica_enabled,
        "manual_replica": settings.manual_replica_enabled,
        "sync_interval_seconds": settings.sync_interval_seconds,
    }
    return {**instance, **{name: value for name, value in agent.items() if value is not None}}


def heartbeat(
    *,
    instance_id: str,
    epoch: int,
    role: Role,
    serving: bool,
    healthy: bool,
    beat_at: datetime,
    protected: Mapping[str, Any],
) -> dict[str, Any]:
    """What an instance says of itself again and again, and of a primary how well its state is protected."""
    return {
        "instance_id": instance_id,
        "epoch": epoch,
        "role": role,
        "serving": serving,
        "healthy": healthy,
        "sent_at": beat_at.astimezone(UTC).isoformat(),
        "agent_version": __version__,
        **protected,
    }


def ready(report: ReportReady, *, epoch: int) -> dict[str, Any]:
    """The replica is close behind, and its primary holds its lease."""
    return {
        "epoch": epoch,
        "status": ReplicaState.READY,
        "readiness": report.readiness,
        "generation": report.generation,
        "sync_percent": 100.0,
        "lag_seconds": report.lag_seconds,
        "covered_until": report.covered_until,
    }


def progress(
    *,
    epoch: int,
    generation: int,
    percent: float,
    lag_seconds: float | None,
    covered_until: str | None,
    under_way: Progress | None,
) -> dict[str, Any]:
    """How far a replica is, and how fast the generation goes that is under way, or was last."""
    bytes_of = (
        {
            "done_bytes": under_way.done_bytes,
            "total_bytes": under_way.total_bytes,
            "bytes_per_second": round(under_way.bytes_per_second, 1),
        }
        if under_way is not None
        else {}
    )
    return {
        "epoch": epoch,
        "status": ReplicaState.SYNCING,
        "generation": generation,
        "sync_percent": round(percent, 1),
        "lag_seconds": lag_seconds,
        "covered_until": covered_until,
        **bytes_of,
    }


def commit(asked: Commit, *, epoch: int) -> dict[str, Any]:
    """A standby asks for promotion."""
    body = {
        "epoch": epoch,
        "basis": asked.basis,
        "readiness": asked.readiness,
        "generation": asked.generation,
        "covered_until": asked.covered_until,
    }
    return body if asked.lag_seconds is None else {**body, "lag_seconds": asked.lag_seconds}


def parse_registered(answer: Mapping[str, Any]) -> Registered:
    """Read the answer to a registration.

    Raises:
        AnswerNotUnderstood: Something is missing.
    """
    try:
        return Registered(str(answer["agent_id"]), str(answer["agent_token"]), int(answer["epoch"]))
    except (LookupError, TypeError, ValueError) as error:
        raise AnswerNotUnderstood(f"the answer to a registration is not understood: {error!r}") from error


def parse_orders(answer: Mapping[str, Any]) -> Orders:
    """Read the answer to a heartbeat; what a newer control plane adds is passed over.

    Raises:
        AnswerNotUnderstood: Something that is needed is missing, or has an unknown value.
    """
    try:
        peer, handover = answer.get("peer"), answer.get("handover")
        return Orders(
            role=Role(answer["role"]),
            epoch=int(answer["epoch"]),
            peer=None if peer is None else _parse_peer(peer),
            handover=None if handover is None else _parse_handover(handover),
            under_way=bool(answer["under_way"]),
            heartbeat_every_seconds=float(answer["heartbeat_every_seconds"]),
            sync_interval_seconds=float(answer["sync_interval_seconds"]),
            lost=bool(answer.get("lost", False)),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise AnswerNotUnderstood(f"the answer to a heartbeat is not understood: {error!r}") from error


def parse_command_ids(answer: Mapping[str, Any]) -> tuple[str, ...]:
    """The commands that the answer to a heartbeat says are pending; malformed ones are passed over."""
    commands = answer.get("commands")
    if not isinstance(commands, list):
        return ()
    return tuple(
        str(command["command_id"]) for command in commands if isinstance(command, dict) and "command_id" in command
    )


def parse_refusals(answer: Mapping[str, Any], *, rows: int) -> tuple[tuple[str, int], ...]:
    """Which rows of a report of prices were refused, and why; what is not understood is passed over."""
    said = answer.get("rows")
    if not isinstance(said, list):
        return ()
    return tuple(
        (str(row["refusal"]), row["row"])
        for row in said
        if isinstance(row, dict) and row.get("refusal") and isinstance(row.get("row"), int) and 0 <= row["row"] < rows
    )


def _parse_peer(said: Mapping[str, Any]) -> Peer:
    return Peer(
        replica_id=str(said["replica_id"]),
        instance_id=str(said["instance_id"]),
        status=ReplicaState(said["status"]),
        readiness=int(said["readiness"]),
        address=str(said["address"]),
        port=int(said["port"]),
        certificate=str(said["certificate"]),
    )


def _parse_handover(said: Mapping[str, Any]) -> HandoverView:
    return HandoverView(
        handover_id=str(said["handover_id"]),
        state=HandoverState(said["state"]),
        replica_id=str(said["replica_id"]),
        readiness=int(said["readiness"]),
        primary_dead=bool(said["primary_dead"]),
        snapshot_taken_at=None if said.get("snapshot_taken_at") is None else str(said["snapshot_taken_at"]),
        snapshot_epoch=None if said.get("snapshot_epoch") is None else int(said["snapshot_epoch"]),
    )
