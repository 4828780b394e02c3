"""What the control plane needs from the outside world. Adapters implement these on AWS, a simulator in virtual time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from spot_optimizer.domain.catalogue import INTERRUPTING

if TYPE_CHECKING:
    # Only names here: a failover starts cold with none of what prices, models and decisions are made of.
    from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, Interruption, Switch
    from spot_optimizer.domain.catalogue import InstanceKind
    from spot_optimizer.domain.claims import Execution
    from spot_optimizer.domain.gaps import Inferred
    from spot_optimizer.domain.model_comparison import Outcome
    from spot_optimizer.domain.model_sessions import ModelSession, Slots
    from spot_optimizer.domain.models import Manifest, ModelFile, Row
    from spot_optimizer.domain.orphans import Report, Resource
    from spot_optimizer.domain.pauses import Pause
    from spot_optimizer.domain.pools import LaunchTarget
    from spot_optimizer.domain.pools_of_interest import PoolOfInterest
    from spot_optimizer.domain.price_submissions import Submission
    from spot_optimizer.domain.prices import Observation, PriceChange, Slot
    from spot_optimizer.domain.replicas import Replica
    from spot_optimizer.domain.risk import AdvisorBand
    from spot_optimizer.domain.snapshots import Snapshot
    from spot_optimizer.domain.stored_decisions import StoredDecision
    from spot_optimizer.domain.writes import Change, Transaction


class Records(Protocol):
    """The tables. Every read is strongly consistent and by key; no read here uses an index."""

    def agent(self, agent_id: str) -> Agent:
        """Raises: AgentUnknown."""
        ...

    def replica(self, agent_id: str, replica_id: str) -> Replica:
        """Raises: ReplicaUnknown."""
        ...

    def replicas(self, agent_id: str) -> tuple[Replica, ...]:
        """All replicas an agent ever had, by replica id."""
        ...

    def instance(self, instance_id: str) -> Instance:
        """Raises: InstanceUnknown."""
        ...

    def heartbeat(self, agent_id: str, instance_id: str) -> Heartbeat | None:
        """The last sign of life of an instance."""
        ...

    def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Replace the instance's last sign of life."""
        ...

    def interruption(self, agent_id: str, event_id: str) -> Interruption | None:
        """One recorded signal."""
        ...

    def pause_of_all(self) -> Pause | None:
        """The pause that holds for every agent, if there is one."""
        ...

    def orphan_report(self) -> Report:
        """What the last sweep for orphans saw; empty before the first."""
        ...

    def switch(self, agent_id: str, switch_id: str) -> Switch | None:
        """One recorded promotion."""
        ...

    def snapshot(self, agent_id: str, snapshot_id: str) -> Snapshot | None:
        """One complete snapshot."""
        ...

    def snapshots(self, agent_id: str) -> tuple[Snapshot, ...]:
        """All complete snapshots of an agent, by id; a failover asks for one by its id instead."""
        ...

    def commit(self, transaction: Transaction) -> None:
        """Write all changes or none.

        Raises:
            ConditionFailed: A condition did not hold; nothing was written.
            Throttled: Nothing was written; try again.
            OutcomeUnknown: No answer came; read back.
        """
        ...


class Fleet(Protocol):
    """Agents and pools seen across agents; these reads may lag and never decide a failover."""

    def agents_with_primary(self) -> tuple[Agent, ...]:
        """Every agent that is not lost."""
        ...

    def latest_decision(self, agent_id: str) -> StoredDecision | None:
        """What was last decided for an agent; a failover never asks."""
        ...

    def interruptions_of_pools(
        self, pool_ids: Collection[str], since: datetime, *, signal_types: Collection[str] = INTERRUPTING
    ) -> Mapping[str, tuple[datetime, ...]]:
        """When each of the pools took an instance of ours back, or said that it may, at or after `since`.

        A pool that did not is absent; `signal_types` are what counts as such.
        """
        ...


@dataclass(frozen=True, slots=True)
class Launched:
    """An instance that CreateFleet started."""

    instance_id: str


class Compute(Protocol):
    """EC2."""

    def states(self, instance_ids: Sequence[str]) -> Mapping[str, str]:
        """State names by id (`pending`, `running`, `shutting-down`, `terminated`, `stopping`, `stopped`).

        An instance that EC2 does not know is absent from the answer: that is no proof of death.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: EC2 did not answer.
        """
        ...

    def subnets(self, subnet_ids: Sequence[str]) -> Mapping[str, str]:
        """Subnet id by availability zone."""
        ...

    def prices(self, zones: Collection[str], instance_types: Sequence[str]) -> Mapping[str, Decimal]:
        """Spot price in force, USD/hour, by pool id; pools without one are absent. Raises as `states`."""
        ...

    def kinds(self, instance_types: Sequence[str]) -> Mapping[str, InstanceKind]:
        """What instance types offer, by name; types that EC2 does not know are absent. Raises as `states`."""
        ...

    def launch(
        self,
        target: LaunchTarget,
        *,
        launch_template_id: str,
        client_token: str,
        user_data: str,
        tags: Mapping[str, str],
    ) -> Launched:
        """Launch one instance by CreateFleet of type instant; the same client token gives the same instance.

        Raises:
            PoolUnavailable: No capacity or no quota in this pool.
            LaunchRefused: No pool will do, for example a permission is missing.
            Throttled: Try again with the same client token.
        """
        ...

    def terminate(self, instance_id: str) -> bool:
        """Terminate an instance; terminating it again is no error. False where it is not ours, or is protected."""
        ...

    def move_address(self, allocation_id: str, instance_id: str) -> None:
        """Associate an Elastic IP with the instance's secondary private address (its only one, if it has no second).

        Raises:
            AddressNotMovable: The instance is pending, or EC2 throttles.
        """
        ...

    def address_holders(self, allocation_ids: Collection[str]) -> Mapping[str, str]:
        """Instance id by allocation id of Elastic IPs; those that are associated with none, or unknown, are absent.

        Raises as `states`.
        """
        ...


class TrafficPath(Protocol):
    """What leads clients to the primary, if it is no Elastic IP."""

    def move(self, target: str, instance_id: str, *, client_id: str) -> None:
        """Point it at the instance, and see that it came so; again is no error.

        Args:
            target: In the form of `domain.traffic`.
            instance_id: Whom clients are to reach.
            client_id: Whose agent it is: whose the target must be.

        Raises:
            AddressNotMovable: Not now; try again.
        """
        ...

    def holders(self, targets: Sequence[str]) -> Mapping[str, str | None]:
        """Which instance each target points at, and at no other; None for one that points at none, or at several.

        The services behind this allow few questions, and a failover needs them too: of many targets the first are
        answered, `control.traffic.LOOKED_AT_LEAST` at least, and the others are absent, as is one that is gone.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: The service did not answer.
        """
        ...


class Inventory(Protocol):
    """What carries our tag on EC2."""

    def ours(self) -> tuple[Resource, ...]:
        """What costs money: instances that have not ended, volumes and addresses that are attached to nothing.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: EC2 did not answer.
        """
        ...

    def is_taken_back(self, instance_id: str) -> bool:
        """Whether AWS has given notice of an interruption, by EC2's own word. Raises as `ours`."""
        ...

    def end(self, resource: Resource) -> None:
        """Terminate, delete or release it; what is gone already is no error. Raises as `ours`."""
        ...


class Workflows(Protocol):
    """Step Functions."""

    def start_fail_over(self, name: str, payload: Mapping[str, Any]) -> None:
        """Start the execution, or find it running; an execution of that name that already ended is left as it is."""
        ...

    def fail_over_state(self, name: str) -> Execution:
        """What became of the execution."""
        ...

    def fail_over_arn(self, name: str) -> str:
        """Where to look at the execution."""
        ...

    def start_prepare_replica(self, name: str, payload: Mapping[str, Any]) -> None:
        """As `start_fail_over`."""
        ...

    def prepare_replica_arn(self, name: str) -> str:
        """Where to look at the execution."""
        ...

    def prepare_replica_state(self, name: str) -> Execution:
        """What became of the execution."""
        ...

    def wake(self, task_token: str) -> None:
        """Complete a waiting task; a token that was used or has timed out is a success."""
        ...


class Joining(Protocol):
    """What a launched instance needs to join."""

    def user_data(self, *, agent_id: str, replica_id: str, launch_number: int, now: datetime) -> str:
        """User data with a one-time join token; the same for the same arguments, and only its hash is stored."""
        ...


class ModelRecords(Protocol):
    """What is known of uploaded models. Every read is strongly consistent and by key."""

    def slots(self) -> Slots:
        """What serves, and what is under way."""
        ...

    def session(self, session_id: str) -> ModelSession:
        """Raises: ModelSessionUnknown."""
        ...

    def commit(self, transaction: Transaction) -> None:
        """As `Records.commit`."""
        ...


@dataclass(frozen=True, slots=True)
class Upload:
    """Where one file goes: a PUT with these headers, and with exactly the bytes that were announced."""

    name: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime


class ModelFiles(Protocol):
    """The files of uploaded models."""

    def put_manifest(self, session_id: str, manifest: Manifest) -> None:
        """Keep the manifest."""
        ...

    def manifest(self, session_id: str) -> Manifest:
        """Raises: ModelRejected."""
        ...

    def sign_upload(self, session_id: str, file: ModelFile, *, now: datetime) -> Upload:
        """Sign one upload, bound to the file's size and checksum."""
        ...

    def missing(self, session_id: str, names: Collection[str]) -> tuple[str, ...]:
        """Those of the files that are not there."""
        ...

    def read(self, session_id: str, name: str, *, at_most_bytes: int) -> bytes:
        """A file's content, cut off behind `at_most_bytes`.

        Raises:
            UploadIncomplete: It is not there.
        """
        ...

    def delete(self, session_id: str) -> None:
        """Delete all of a session's files; again is no error."""
        ...

    def session_ids(self) -> tuple[str, ...]:
        """Sessions that have files, some thousand at most."""
        ...


class Activations(Protocol):
    """The state machine that activates models."""

    def start(self, name: str, payload: Mapping[str, Any]) -> None:
        """Start the execution, or find it."""
        ...

    def state(self, name: str) -> Execution:
        """What became of it."""
        ...

    def arn(self, name: str) -> str:
        """Where to look at it."""
        ...


class LoadedModel(Protocol):
    """A model in memory."""

    @property
    def features(self) -> tuple[str, ...]:
        """The columns it takes, in order."""
        ...

    def score(self, rows: Sequence[Row], *, features: Sequence[str] | None = None) -> list[list[float]]:
        """One probability per horizon for each row; `features` names the columns if they are not the model's own."""
        ...


class LoadModel(Protocol):
    """Makes a model of files that were found to be in order."""

    def __call__(self, manifest: Manifest, files: Mapping[str, bytes]) -> LoadedModel:
        """Raises: ModelRejected."""
        ...


class Outcomes(Protocol):
    """What was scored, and what became of it."""

    def recent(self, *, now: datetime) -> tuple[Outcome, ...]:
        """Rows that were scored lately, and long enough ago for their outcome to be known."""
        ...


class Prices(Protocol):
    """The tables of prices. Reads are by key and may lag behind; writes are conditional: no writer reads first."""

    def pools(self) -> tuple[PoolOfInterest, ...]:
        """Every pool of interest, by id."""
        ...

    def known_pools(self, pool_ids: Iterable[str]) -> Mapping[str, PoolOfInterest]:
        """Those of these pools that are of interest, by id."""
        ...

    def note_pools(self, changes: Iterable[Change]) -> None:
        """Write pools' rows; a pool that was taken up by somebody else meanwhile is left as it is."""
        ...

    def keep(self, submission: Submission) -> None:
        """Keep what was submitted for 30 days; keeping it again changes nothing."""
        ...

    def submitted(self, submitter: str, pool_id: str, since: datetime, until: datetime) -> Iterator[Observation]:
        """What a submitter said of a pool in submissions whose latest price was seen between two moments."""
        ...

    def offer(self, rows: Iterable[Observation]) -> frozenset[Slot]:
        """Write clean rows, each where nothing is or what is there ranks lower.

        Returns:
            Where as good a row or a better one was, and is left.

        Raises:
            Transient: Some row could not be written; every other one was. Offering them all again is harmless.
        """
        ...

    def measured(self, pool_id: str, buckets: range) -> tuple[Observation, ...]:
        """The clean rows of a pool, in order."""
        ...

    def latest_of(self, pool_ids: Sequence[str]) -> Mapping[str, Observation]:
        """The clean row of the latest bucket that has one, by pool id; a pool without any is absent."""
        ...

    def inferred(self, pool_id: str, buckets: range) -> tuple[Inferred, ...]:
        """The inferred rows of a pool, in order."""
        ...

    def put_inferred(self, rows: Sequence[Inferred]) -> None:
        """Write inferred rows, each where nothing is or what is there ranks lower; raises as `offer`."""
        ...

    def withdraw(self, rows: Sequence[Inferred]) -> None:
        """Delete inferred rows, unless they were replaced since they were read; raises as `offer`."""
        ...


class PriceHistory(Protocol):
    """AWS's own spot price history."""

    def changes(
        self, pool_ids: Collection[str], since: datetime, until: datetime
    ) -> Mapping[str, Sequence[PriceChange]]:
        """What AWS published of these pools, with the price in force at `since`; by pool id, in no order.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: EC2 did not answer.
        """
        ...

    def zones(self, subnet_ids: Collection[str]) -> Mapping[str, str]:
        """Availability zone by subnet id; a subnet that is gone is absent. Raises as `changes`."""
        ...


class PriceList(Protocol):
    """What AWS asks for instances on demand."""

    def on_demand_usd_per_hour(self, instance_type: str) -> Decimal | None:
        """Price of a Linux instance of shared tenancy in this region; none where the list has none.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: The list did not answer, or refused to.
        """
        ...


class Advisor(Protocol):
    """AWS's Spot Instance Advisor."""

    def bands(self) -> Mapping[str, AdvisorBand]:
        """How often instances were interrupted, by type of this region; a type that it does not know is absent.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: It did not answer, refused to, or is none.
        """
        ...


class Filling(Protocol):
    """The workflow that fills gaps in prices."""

    def start(self, name: str, payload: Mapping[str, Any]) -> str:
        """Start filling, or find it started under this name; tell where to look at it."""
        ...


class Decisions(Protocol):
    """What was decided for agents. Reads are by key and may lag behind; a row is written once, whole."""

    def latest(self, agent_id: str) -> StoredDecision | None:
        """The last decision for an agent."""
        ...

    def made_at(self, agent_id: str, decided_at: datetime) -> StoredDecision | None:
        """One decision, read consistently."""
        ...

    def keep(self, decisions: Sequence[StoredDecision]) -> int:
        """Keep decisions; one that can not be kept holds up no other.

        Returns:
            How many could not be kept; the next decision for their agents makes up for it.
        """
        ...


class Decider(Protocol):
    """What decides with a model, asked for one agent."""

    def decide_now(self, agent_id: str) -> datetime:
        """Have it decided; under which moment the decision is kept.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: No answer came in time, or it failed.
        """
        ...
