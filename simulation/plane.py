"""The control plane's ports in virtual time: what it calls takes time, fails, and is interrupted in between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from simulation.tasks import Killed, current
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, Interruption, Switch, TrafficAdapter
from spot_optimizer.domain.catalogue import INTERRUPTING, InstanceKind
from spot_optimizer.domain.claims import Execution
from spot_optimizer.domain.orphans import Kind, Report, Resource
from spot_optimizer.domain.pauses import Pause
from spot_optimizer.domain.pools import LaunchTarget
from spot_optimizer.domain.pools_of_interest import PoolOfInterest
from spot_optimizer.domain.replicas import AGENT_TAG, REPLICA_TAG, Replica
from spot_optimizer.domain.snapshots import Snapshot
from spot_optimizer.domain.stored_decisions import StoredDecision
from spot_optimizer.domain.writes import Table, Transaction
from spot_optimizer.errors import AddressNotMovable, ControlPlaneUnavailable, OutcomeUnknown, Throttled
from spot_optimizer.ports import Launched, TrafficPath

if TYPE_CHECKING:
    from simulation.cloud import Ec2
    from simulation.faults import Fault, Weather
    from simulation.kernel import Kernel
    from simulation.tables import Tables
    from simulation.workflows import StepFunctions

START = datetime.fromisoformat("2026-03-01T12:00:00+00:00")


class Calls:
    """Every call from an invocation to a port passes here.

    Attributes:
        weather: Which calls fail, hang or die at this moment.
        on_call: Told of every call, as `port` (before its effect) and `port!` (after it); faults strike there.
    """

    def __init__(self, kernel: Kernel, weather: Weather) -> None:
        self.kernel = kernel
        self.weather = weather
        self.on_call: Callable[[str], Fault | None] = lambda _: None

    def read(self, port: str, effect: Callable[[], Any]) -> Any:
        """A call that changes nothing: it is answered, or it is throttled."""
        invocation = current()
        invocation.calls += 1
        self._strike(f"{invocation.name}:{port}")
        kernel = self.kernel
        if self.weather.hits("throttle", port):
            self.weather.count("throttled", port)
            invocation.wait(kernel.soon(0.2))
            raise Throttled(f"{port} was throttled")
        result = effect()
        # Not every read needs to be a point of interruption of its own; those that are not take no time.
        often = 0.15 if invocation.name == "heartbeat" else 0.35
        if kernel.chance.random() < often or self.weather.hits("slow", port):
            invocation.wait(self._latency())
        return result

    def write(self, port: str, effect: Callable[[], Any], *, unknown: type[Exception] = OutcomeUnknown) -> Any:
        """A call that changes something; it may fail before that, or after it."""
        invocation = current()
        invocation.calls += 1
        self._strike(f"{invocation.name}:{port}")
        invocation.wait(self._latency())
        if self.weather.hits("throttle", port):
            self.weather.count("throttled", port)
            raise Throttled(f"{port} was throttled")
        fails = self.weather.hits("unknown", port)
        if fails and self.kernel.chance.random() < 0.5:
            self.weather.count("failed before effect", port)
            invocation.wait(self.kernel.soon(1.0))
            raise unknown(f"{port} gave no answer")
        result = effect()
        self._strike(f"{invocation.name}:{port}!")
        if fails:
            self.weather.count("failed after effect", port)
            invocation.wait(self.kernel.soon(1.0))
            raise unknown(f"{port} gave no answer")
        if invocation.name != "heartbeat" and self.kernel.chance.random() < 0.5:
            invocation.wait(self._latency())
        return result

    def _latency(self) -> float:
        if self.weather.hits("slow", "any"):
            self.weather.count("slow call", "any")
            return self.kernel.between(0.2, 8.0)
        return self.kernel.soon(0.008)

    def _strike(self, where: str) -> None:
        struck = self.on_call(where)
        if struck is not None and struck.kind == "strike-kill":
            raise Killed
        if struck is not None:
            current().wait(struck.lasts)


class SimulatedRecords:
    """Implements `Records`."""

    def __init__(self, calls: Calls, tables: Tables) -> None:
        self._calls = calls
        self._tables = tables

    def agent(self, agent_id: str) -> Agent:
        agent: Agent = self._calls.read("agent", lambda: self._tables.agent(agent_id))
        return agent

    def replica(self, agent_id: str, replica_id: str) -> Replica:
        replica: Replica = self._calls.read("replica", lambda: self._tables.replica(agent_id, replica_id))
        return replica

    def replicas(self, agent_id: str) -> tuple[Replica, ...]:
        replicas: tuple[Replica, ...] = self._calls.read("replicas", lambda: self._tables.replicas(agent_id))
        return replicas

    def instance(self, instance_id: str) -> Instance:
        instance: Instance = self._calls.read("instance", lambda: self._tables.instance(instance_id))
        return instance

    def heartbeat(self, agent_id: str, instance_id: str) -> Heartbeat | None:
        heartbeat: Heartbeat | None = self._calls.read(
            "heartbeat", lambda: self._tables.heartbeats.get((agent_id, instance_id))
        )
        return heartbeat

    def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        def put() -> None:
            self._tables.heartbeats[heartbeat.agent_id, heartbeat.instance_id] = heartbeat

        self._calls.write("put_heartbeat", put)

    def interruption(self, agent_id: str, event_id: str) -> Interruption | None:
        interruption: Interruption | None = self._calls.read(
            "interruption", lambda: self._tables.interruption(agent_id, event_id)
        )
        return interruption

    def pause_of_all(self) -> Pause | None:
        pause: Pause | None = self._calls.read("pause_of_all", self._tables.pause_of_all)
        return pause

    def orphan_report(self) -> Report:
        report: Report = self._calls.read("orphan_report", self._tables.orphan_report)
        return report

    def switch(self, agent_id: str, switch_id: str) -> Switch | None:
        switch: Switch | None = self._calls.read("switch", lambda: self._tables.switch(agent_id, switch_id))
        return switch

    def snapshot(self, agent_id: str, snapshot_id: str) -> Snapshot | None:
        found: Snapshot | None = self._calls.read("snapshot", lambda: self._tables.snapshot(agent_id, snapshot_id))
        return found

    def snapshots(self, agent_id: str) -> tuple[Snapshot, ...]:
        found: tuple[Snapshot, ...] = self._calls.read("snapshots", lambda: self._tables.snapshots(agent_id))
        return found

    def commit(self, transaction: Transaction) -> None:
        self._calls.write(f"commit {transaction.name}", lambda: self._tables.commit(transaction))


class SimulatedFleet:
    """Implements `Fleet`: index reads, which lag."""

    def __init__(self, calls: Calls, tables: Tables) -> None:
        self._calls = calls
        self._tables = tables
        self._kernel = calls.kernel
        self._listed: list[tuple[float, Agent]] = []
        self._interruptions: dict[tuple[str, ...], float] = {}

    def note_agent(self, agent: Agent) -> None:
        """Keep what the index will show some time later."""
        self._listed.append((self._kernel.now, agent))
        del self._listed[:-40]

    def note_interruption(self, key: tuple[str, ...]) -> None:
        """As well, for a record that was written for the first time."""
        self._interruptions.setdefault(key, self._kernel.now)

    def interrupted(self, *, before: float) -> frozenset[str]:
        """Pools that are known to have interrupted us, at least since then."""
        listed = frozenset(key for key, at in self._interruptions.items() if at <= before)
        rows = self._tables.rows[Table.INTERRUPTIONS]
        return frozenset(rows[key]["pool_id"] for key in listed if rows[key]["signal_type"] in INTERRUPTING)

    def agents_with_primary(self) -> tuple[Agent, ...]:
        def read() -> tuple[Agent, ...]:
            seen_at = self._kernel.now - self._kernel.soon(0.5)
            known = [agent for at, agent in self._listed if at <= seen_at]
            return tuple(agent for agent in known[-1:] if not agent.lost)

        agents: tuple[Agent, ...] = self._calls.read("agents_with_primary", read)
        return agents

    def latest_decision(self, _agent_id: str) -> StoredDecision | None:
        """None: all that it could lead to is a standby, and others lead to that here."""
        return None

    def interruptions_of_pools(
        self, pool_ids: Collection[str], since: datetime, *, signal_types: Collection[str] = INTERRUPTING
    ) -> Mapping[str, tuple[datetime, ...]]:
        def read() -> Mapping[str, tuple[datetime, ...]]:
            seen_at = self._kernel.now - self._kernel.soon(0.5)
            listed = frozenset(key for key, at in self._interruptions.items() if at <= seen_at)
            return self._tables.interruptions_of_pools(frozenset(pool_ids), since, signal_types, listed)

        times: Mapping[str, tuple[datetime, ...]] = self._calls.read("interruptions_of_pools", read)
        return times


class SimulatedCompute:
    """Implements `Compute`."""

    def __init__(self, calls: Calls, ec2: Ec2) -> None:
        self._calls = calls
        self._ec2 = ec2

    def states(self, instance_ids: Sequence[str]) -> Mapping[str, str]:
        states: Mapping[str, str] = self._calls.read("states", lambda: self._ec2.describe(instance_ids))
        return states

    def subnets(self, subnet_ids: Sequence[str]) -> Mapping[str, str]:
        subnets: Mapping[str, str] = self._calls.read("subnets", lambda: self._ec2.subnets(subnet_ids))
        return subnets

    def prices(self, zones: Collection[str], instance_types: Sequence[str]) -> Mapping[str, Decimal]:
        # The primary's own pool is the cheapest, so that only the rule keeps a standby out of it.
        prices: Mapping[str, Decimal] = self._calls.read(
            "prices",
            lambda: {
                f"{zone}.{kind}": Decimal(10 + place) / 1000
                for place, (zone, kind) in enumerate((zone, kind) for zone in zones for kind in instance_types)
            },
        )
        return prices

    def kinds(self, instance_types: Sequence[str]) -> Mapping[str, InstanceKind]:
        kinds: Mapping[str, InstanceKind] = self._calls.read(
            "kinds", lambda: {kind: InstanceKind(kind, ("x86_64",), 2, 8192) for kind in instance_types}
        )
        return kinds

    def launch(
        self,
        target: LaunchTarget,
        *,
        launch_template_id: str,  # noqa: ARG002 - the port's
        client_token: str,
        user_data: str,
        tags: Mapping[str, str],
    ) -> Launched:
        # CreateFleet without an answer is asked again under the same token, so the adapter calls it throttled.
        instance_id: str = self._calls.write(
            "launch",
            lambda: self._ec2.launch(target, client_token=client_token, user_data=user_data, tags=tags),
            unknown=Throttled,
        )
        return Launched(instance_id)

    def terminate(self, instance_id: str) -> bool:
        self._calls.write("terminate", lambda: self._ec2.terminate(instance_id), unknown=ControlPlaneUnavailable)
        return True

    def move_address(self, allocation_id: str, instance_id: str) -> None:
        self._calls.write(
            "move_address", lambda: self._ec2.move_address(allocation_id, instance_id), unknown=AddressNotMovable
        )

    def address_holders(self, allocation_ids: Collection[str]) -> Mapping[str, str]:
        holders: Mapping[str, str] = self._calls.read(
            "address_holders", lambda: self._ec2.address_holders(allocation_ids)
        )
        return holders


class SimulatedInventory:
    """Implements `Inventory`."""

    def __init__(self, calls: Calls, ec2: Ec2) -> None:
        self._calls = calls
        self._ec2 = ec2

    def ours(self) -> tuple[Resource, ...]:
        def read() -> tuple[Resource, ...]:
            live = self._ec2.describe(tuple(self._ec2.instances))
            return tuple(
                Resource(
                    resource_id=instance_id,
                    kind=Kind.INSTANCE,
                    agent_id=tags[AGENT_TAG],
                    replica_id=tags.get(REPLICA_TAG),
                )
                for instance_id, state in live.items()
                if state in ("pending", "running") and AGENT_TAG in (tags := self._ec2.instances[instance_id].tags)
            )

        resources: tuple[Resource, ...] = self._calls.read("inventory", read)
        return resources

    def is_taken_back(self, instance_id: str) -> bool:
        marked: bool = self._calls.read("is_taken_back", lambda: self._ec2.instances[instance_id].going_at is not None)
        return marked

    def end(self, resource: Resource) -> None:
        self._calls.write(
            "end orphan", lambda: self._ec2.terminate(resource.resource_id), unknown=ControlPlaneUnavailable
        )


class SimulatedWorkflows:
    """Implements `Workflows`."""

    def __init__(self, calls: Calls, step_functions: StepFunctions) -> None:
        self._calls = calls
        self._step_functions = step_functions

    def start_fail_over(self, name: str, payload: Mapping[str, Any]) -> None:
        self._start("fail_over", name, payload)

    def fail_over_state(self, name: str) -> Execution:
        state: Execution = self._calls.read("fail_over_state", lambda: self._step_functions.state(name))
        return state

    def fail_over_arn(self, name: str) -> str:
        return f"arn:{name}"

    def start_prepare_replica(self, name: str, payload: Mapping[str, Any]) -> None:
        self._start("prepare_replica", name, payload)

    def prepare_replica_arn(self, name: str) -> str:
        return f"arn:{name}"

    def prepare_replica_state(self, name: str) -> Execution:
        state: Execution = self._calls.read("prepare_replica_state", lambda: self._step_functions.state(name))
        return state

    def wake(self, task_token: str) -> None:
        self._calls.write("wake", lambda: self._step_functions.wake(task_token), unknown=ControlPlaneUnavailable)

    def _start(self, machine: str, name: str, payload: Mapping[str, Any]) -> None:
        self._calls.write(
            f"start_{machine}",
            lambda: self._step_functions.start(machine, name, payload),
            unknown=ControlPlaneUnavailable,
        )


class SimulatedJoining:
    """Implements `Joining`."""

    def user_data(self, *, agent_id: str, replica_id: str, launch_number: int, now: datetime) -> str:  # noqa: ARG002
        return f"{agent_id} {replica_id} {launch_number}"


class SimulatedPrices:
    """As much of `Prices` as switches ask for: nobody knows what on-demand costs."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def known_pools(self, _pool_ids: Collection[str]) -> Mapping[str, PoolOfInterest]:
        known: Mapping[str, PoolOfInterest] = self._calls.read("known_pools", dict)
        return known


class NothingDecided:
    """Implements `Decisions`: where to go is asked for by hand."""

    def latest(self, _agent_id: str) -> None:
        return None


class SimulatedPlane:
    """Implements `Plane`.

    Attributes:
        clock_error: How far the control plane's wall clock is off, in seconds.
    """

    def __init__(self, calls: Calls, tables: Tables, ec2: Ec2, step_functions: StepFunctions) -> None:
        self.records = SimulatedRecords(calls, tables)
        self.fleet = SimulatedFleet(calls, tables)
        self.compute = SimulatedCompute(calls, ec2)
        self.workflows = SimulatedWorkflows(calls, step_functions)
        self.joining = SimulatedJoining()
        self.prices: Any = SimulatedPrices(calls)
        self.price_history: Any = None
        self.decisions: Any = NothingDecided()
        self.paths: Mapping[TrafficAdapter, TrafficPath] = {}
        self.clock_error = 0.0
        self._kernel = calls.kernel

    def clock(self) -> datetime:
        return START + timedelta(seconds=self._kernel.now + self.clock_error)
