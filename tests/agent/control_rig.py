"""A control plane for agents under test: the real decisions on tables in memory, behind the real calls' bodies."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from spot_optimizer.api import problems
from spot_optimizer.api.agents import HeartbeatAnswer, HeartbeatRequest, LogTailRequest, RegisterRequest
from spot_optimizer.api.replicas import (
    AbortRequest,
    CommitRequest,
    EmergencyReplicaRequest,
    HandoverAnswer,
    ReplicaAnswer,
    SyncStatusRequest,
    TerminationRequest,
    UnreadyRequest,
)
from spot_optimizer.control import heartbeats, replication
from spot_optimizer.domain import former_primaries, handover
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, InstanceRole, TrafficAdapter
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.tokens import Caller, TokenKind
from spot_optimizer.errors import SpotOptimizerError
from spot_optimizer.ports import TrafficPath
from tests.fakes.compute import FakeCompute
from tests.fakes.fleet import FakeFleet
from tests.fakes.joining import FakeJoining
from tests.fakes.records import FakeRecords
from tests.fakes.workflows import FakeWorkflows
from tests.loopback import Loopback, Reply, Request

AGENT = "agt-1"
REPLICA = "rep-1"


@dataclass(frozen=True)
class RigPlane:
    records: FakeRecords
    fleet: FakeFleet
    compute: FakeCompute
    workflows: FakeWorkflows
    joining: FakeJoining
    paths: Mapping[TrafficAdapter, TrafficPath] = field(default_factory=dict)

    def clock(self) -> datetime:
        return datetime.now(UTC)


class ControlRig(Loopback):
    """`calls` are all calls of agents, in order; `down` answers each with 503; `uploads` are what was put."""

    def __init__(self) -> None:
        self.records = FakeRecords()
        self.plane = RigPlane(self.records, FakeFleet(self.records), FakeCompute(), FakeWorkflows(), FakeJoining())
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.uploads: list[tuple[Mapping[str, str], bytes]] = []
        self.down = False
        self._lock = threading.RLock()
        super().__init__(self._take)

    def _take(self, request: Request) -> Reply:
        if request.method == "PUT":
            self.uploads.append((request.headers, request.content))
            return Reply(200)
        status, answer = self.answer(
            request.path, json.loads(request.content), request.headers.get("authorization", "")
        )
        return Reply(status, json.dumps(answer, default=str).encode())

    # -- what a test does or looks at

    @property
    def agent(self) -> Agent:
        with self._lock:
            return self.records.agent(AGENT)

    @property
    def replica(self) -> Replica:
        """The agent's active replica; where there is none, the one that was launched."""
        with self._lock:
            return self.records.replica(AGENT, self.agent.active_replica_id or REPLICA)

    def serves(self, epoch: int) -> bool:
        """Whether the primary says that it serves under this epoch."""
        with self._lock:
            if not any(self.records.rows.values()) or self.agent.epoch != epoch:
                return False
            beat = self.records.heartbeat(AGENT, self.agent.primary_instance_id)
            return beat is not None and beat.serving and beat.epoch == epoch

    def expect_replica(self) -> None:
        """Make the row of a replica that is being launched."""
        with self._lock:
            agent = self.agent
            self.records.put(
                Replica(
                    agent_id=AGENT,
                    replica_id=REPLICA,
                    type=ReplicaType.MANUAL,
                    status=ReplicaState.LAUNCHING,
                    epoch=agent.epoch,
                    created_by="test",
                    created_at=datetime.now(UTC),
                ),
                replace(agent, active_replica_id=REPLICA),
            )

    def open_handover(self, *, primary_dead: bool = False) -> None:
        """Do what a failover does: claim, and open a handover to the replica."""
        with self._lock:
            self.records.put(replace(self.agent, claim_open=True, claim_epoch=self.agent.epoch, claim_attempt=1))
            self.records.commit(
                handover.open_handover(
                    self.agent, self.replica, attempt=1, primary_dead=primary_dead, now=datetime.now(UTC)
                )
            )

    def demote_old_primary(self) -> None:
        """Do what a failover does once the new primary serves: the old one is its standby."""
        with self._lock:
            agent = self.agent
            switch = self.records.switch(AGENT, handover.switch_id_for(agent.epoch))
            assert switch is not None
            former = self.records.instance(switch.from_instance_id)
            self.records.commit(former_primaries.demote(agent, switch, former, now=datetime.now(UTC)))

    def abort_handover(self) -> None:
        with self._lock:
            agent = self.agent
            self.records.commit(handover.abort(agent, handover_id=str(agent.handover_id)))

    def calls_to(self, ending: str) -> list[Mapping[str, Any]]:
        return [body for path, body in list(self.calls) if path.endswith(ending)]

    # -- what agents ask

    def answer(self, path: str, body: Mapping[str, Any], authorization: str) -> tuple[int, Any]:
        if self.down:
            return 503, {"title": "down"}
        with self._lock:
            self.calls.append((path, body))
            try:
                answer = self._answer(path.removeprefix("/api/").split("/"), dict(body), authorization)
            except SpotOptimizerError as error:
                status, document, _ = problems.problem_of(error, request_id="test")
                return int(status), document
            return 200, json.loads(answer.model_dump_json()) if isinstance(answer, BaseModel) else answer

    def _answer(self, path: list[str], body: dict[str, Any], authorization: str) -> object:
        if path == ["agents", "register"]:
            return self._register(RegisterRequest.model_validate_json(json.dumps(body)), authorization)
        instance_id = authorization.removeprefix("Bearer token-of-")
        text = json.dumps(body)
        match path[2:]:
            case ["heartbeat"]:
                return self._heartbeat(HeartbeatRequest.model_validate_json(text), instance_id)
            case ["replicas", replica_id, "sync-status"]:
                return self._sync_status(SyncStatusRequest.model_validate_json(text), replica_id, instance_id)
            case ["replicas", replica_id, "unready"]:
                unready = UnreadyRequest.model_validate_json(text)
                return ReplicaAnswer.of(
                    replication.report_unready(
                        self.plane,
                        AGENT,
                        replica_id,
                        instance_id=instance_id,
                        epoch=unready.epoch,
                        readiness=unready.readiness,
                    )
                )
            case ["handovers", handover_id, "commit"]:
                commit = CommitRequest.model_validate_json(text)
                promoted = replication.commit_handover(
                    self.plane,
                    AGENT,
                    handover_id,
                    instance_id=instance_id,
                    epoch=commit.epoch,
                    basis=commit.basis,
                    readiness=commit.readiness,
                    covered_until=commit.covered_until,
                    lag_seconds=commit.lag_seconds,
                )
                return HandoverAnswer.of(promoted)
            case ["handovers", handover_id, "abort"]:
                epoch = AbortRequest.model_validate_json(text).own_epoch
                return HandoverAnswer.of(replication.abort_handover(self.plane, AGENT, handover_id, epoch=epoch))
            case ["termination-imminent"]:
                TerminationRequest.model_validate_json(text)
                return {"execution": "fail-over"}
            case ["create-emergency-replica"]:
                EmergencyReplicaRequest.model_validate_json(text)
                return {"execution": None}
            case ["log-tail"]:
                LogTailRequest.model_validate_json(text)
                return {"url": f"{self.url}/tail/{instance_id}", "headers": {"Content-Type": "text/plain"}}
        raise AssertionError(f"no such call: {path}")

    def _register(self, request: RegisterRequest, authorization: str) -> object:
        document = json.loads(request.identity_document)
        instance_id = document["instanceId"]
        is_replica = authorization == "Bearer join"
        assert is_replica or authorization == "Bearer client"
        if not is_replica and not self.records.rows[next(iter(self.records.rows))]:
            self.records.put(_an_agent(request, instance_id))
        if is_replica and self.replica.status is ReplicaState.LAUNCHING:
            self.records.put(replace(self.replica, status=ReplicaState.SYNCING, instance_id=instance_id))
        self.records.put(
            Instance(
                instance_id=instance_id,
                agent_id=AGENT,
                client_id="acme",
                role=InstanceRole.STANDBY if is_replica else InstanceRole.PRIMARY,
                pool_id=f"{document['availabilityZone']}.{document['instanceType']}",
                epoch=self.agent.epoch,
                private_address=request.private_address,
                sync_port=request.sync_port,
                certificate=request.certificate,
                joined_at=datetime.now(UTC),
                replica_id=REPLICA if is_replica else None,
            )
        )
        role = "standby" if is_replica else "primary"
        token = f"token-of-{instance_id}"
        return {"agent_id": AGENT, "agent_token": token, "epoch": self.agent.epoch, "role": role}

    def _heartbeat(self, request: HeartbeatRequest, instance_id: str) -> object:
        beat = Heartbeat(
            agent_id=AGENT,
            instance_id=instance_id,
            epoch=request.epoch,
            role=request.role,
            serving=request.serving,
            healthy=request.healthy,
            at=datetime.now(UTC),
        )
        caller = Caller(
            kind=TokenKind.AGENT,
            token_id="token",
            expires_at=datetime.now(UTC) + timedelta(days=30),
            agent_id=AGENT,
            instance_id=instance_id,
        )
        told = heartbeats.take_heartbeat(self.plane, beat, caller=caller, reconciling=_Reconciling())
        return HeartbeatAnswer.of(told.orders, told.agent)

    def _sync_status(self, request: SyncStatusRequest, replica_id: str, instance_id: str) -> object:
        if request.status == "ready":
            assert request.readiness is not None and request.lag_seconds is not None
            assert request.covered_until is not None
            return ReplicaAnswer.of(
                replication.report_ready(
                    self.plane,
                    AGENT,
                    replica_id,
                    instance_id=instance_id,
                    epoch=request.epoch,
                    readiness=request.readiness,
                    lag_seconds=request.lag_seconds,
                    covered_until=request.covered_until,
                )
            )
        return ReplicaAnswer.of(
            replication.report_progress(
                self.plane,
                AGENT,
                replica_id,
                epoch=request.epoch,
                generation=request.generation,
                sync_percent=request.sync_percent,
                lag_seconds=request.lag_seconds,
                covered_until=request.covered_until,
            )
        )


class _Reconciling:
    def reconcile_traffic(self, agent_id: str) -> None:
        pass


def _an_agent(request: RegisterRequest, instance_id: str) -> Agent:
    return Agent(
        agent_id=AGENT,
        client_id="acme",
        name=request.name,
        epoch=1,
        primary_instance_id=instance_id,
        primary_pool_id="us-east-1a.m5.large",
        registered_at=datetime.now(UTC),
        launch_template_id="lt-00000000",
        instance_types=("m5.large",),
        subnet_ids=("subnet-a",),
        traffic_epoch=1,
        sync_interval_seconds=request.sync_interval_seconds,
    )
