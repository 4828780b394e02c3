"""One agent's world: its instances, its control plane, AWS around them, its clients, and what goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from simulation import api
from simulation.agent import AgentProcess, State
from simulation.cloud import NOTICE_SECONDS, Ec2, Ec2Instance
from simulation.faults import ORPHANS, STRIKES, WEATHER, Fault, Plan, Weather
from simulation.invariants import ORPHAN_GRACE_SECONDS, Invariants
from simulation.kernel import Kernel, TooManySteps, Violation
from simulation.ledger import Ledger
from simulation.machine import Machine
from simulation.network import CONTROL_PLANE, Link, Network
from simulation.plane import START, Calls, SimulatedInventory, SimulatedPlane
from simulation.snapshots import Bucket
from simulation.tables import ConditionName, RowWritten, Tables
from simulation.tasks import Invocation, current
from simulation.workflows import RETRYABLE_CRASH, Answer, StepFunctions
from spot_optimizer.control import orphans
from spot_optimizer.domain import handover
from spot_optimizer.domain.agents import Agent, Instance, InstanceRole, TrafficAdapter
from spot_optimizer.domain.orders import Role
from spot_optimizer.domain.protocol import AskLease, Event
from spot_optimizer.domain.replicas import AGENT_TAG, REPLICA_TAG, Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.writes import Change, Missing, Table, Transaction
from spot_optimizer.errors import OutcomeUnknown, SpotOptimizerError

AGENT_ID = "agt-1"
ADDRESS = "eipalloc-1"
FIRST, SECOND = "i-00000000000000001", "i-00000000000000002"
ZONES = {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b", "us-east-1c": "subnet-c"}
TYPES = ("m5.large", "m5a.large")

ORPHAN_GRACE = timedelta(seconds=ORPHAN_GRACE_SECONDS)
ORPHANS_SWEPT_EVERY_SECONDS = 20.0

MOST_STEPS = 3000
PROMISED_REST_SECONDS = 600.0
"""So long after the last fault everything must be in order again: sweeps, boots and syncs included."""

FAIR_SECONDS = 15.0
"""From a notice, or a sudden death, to serving where a standby is ready."""

FAIR_LOSS_SECONDS = 2.0
"""Two sync intervals, at a sudden death with a ready standby."""

ALARMING = ("FAILED", "TIMED_OUT", "ABORTED")
"""How an execution ends that an alarm rings for; see infra/stacks/workflow.py."""

TOO_LONG = "a run ends within its steps"
CRASHES = (RETRYABLE_CRASH, "Lambda.Unknown", "Sandbox.Timedout")


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    seed: int
    steps: int = 0
    failovers: int = 0
    lost: bool = False
    violation: str | None = None
    message: str = ""
    seconds: float = 0.0
    slowest_promotion: float = 0.0
    greatest_loss: float = 0.0
    writes: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)


class World:
    """Runs one plan."""

    def __init__(self, plan: Plan, *, recording: bool = False, removed: frozenset[ConditionName] = frozenset()) -> None:
        self.plan = plan
        self.kernel = Kernel(Random(f"world {plan.seed}"), most_steps=MOST_STEPS, recording=recording)
        self.agent_id = AGENT_ID
        self.weather = Weather()
        self.weather.bind(self.kernel)
        self.tables = Tables()
        self.tables.removed = removed
        self.ec2 = Ec2(self.kernel, ZONES, epoch_of_time=START)
        self.step_functions = StepFunctions(self.kernel)
        self.network = Network(self.kernel, self.weather)
        self.calls = Calls(self.kernel, self.weather)
        self.plane = SimulatedPlane(self.calls, self.tables, self.ec2, self.step_functions)
        self.inventory = SimulatedInventory(self.calls, self.ec2)
        self.strays: dict[str, float] = {}
        self.invariants = Invariants(self)
        self.ledger = Ledger(self)
        self.bucket = Bucket()
        # In every other run: the rest is the protocol where snapshots are switched off, and nothing but copies help.
        self.takes_snapshots = plan.seed % 2 == 1
        self.processes: dict[str, AgentProcess] = {}
        self.lease_asks: dict[int, tuple[Link, AskLease]] = {}
        self.reached: Counter[str] = Counter()
        self.epochs_served: dict[str, int] = {}
        self.last_moved_to: dict[str, str] = {}
        self.last_mover: Invocation | None = None
        self.last_heard_at: dict[str, float] = {}
        self.claimed_at = float("-inf")
        self.promoted_at: list[tuple[float, int]] = []
        self.served_at: dict[int, float] = {}
        self.signalled_at: float | None = None
        self.greatest_loss = 0.0
        self._armed: list[tuple[Fault, list[int]]] = []
        self._calm = False
        self._number = 0
        self._settled_check_at = 0.0
        self._wire()

    # --- building ---

    def _wire(self) -> None:
        self.tables.on_written = self._note_written
        self.step_functions.invoke = self._invoke_task
        self.step_functions.note_state = lambda machine, state: self.reach(f"state {machine}.{state}")
        self.step_functions.note_catch = lambda machine, state, caught, error: self._note_catch(
            machine, state, caught, error
        )
        self.step_functions.note_choice = lambda machine, state, chosen: self.reach(
            f"choice {machine}.{state} {chosen}"
        )
        self.step_functions.note_retry = lambda machine, state, error: self.reach(f"retry {machine}.{state} {error}")
        self.ec2.on_boot = self._boot
        self.ec2.on_death = self._bury
        self.ec2.on_notice = self._note_notice
        self.ec2.on_terminate = self.invariants.check_terminate
        self.ec2.on_address = self._note_address
        self.ec2.deliver = self._deliver_event
        self.calls.on_call = self._strike_invocation
        self.kernel.after_step = self._after_step

    def _note_catch(self, machine: str, state: str, caught: str, _error: str) -> None:
        self.reach(f"catch {machine}.{state} {caught}")

    def _populate(self) -> None:
        first = self._add_machine(FIRST, "us-east-1a.m5.large", log=[])
        agent = Agent(
            agent_id=AGENT_ID,
            client_id="acme",
            name="ledger",
            epoch=1,
            primary_instance_id=FIRST,
            primary_pool_id=first.pool_id,
            registered_at=START,
            launch_template_id="lt-1",
            instance_types=TYPES,
            subnet_ids=tuple(ZONES.values()),
            traffic_adapter=TrafficAdapter.EIP,
            traffic_target=ADDRESS,
            traffic_epoch=1,
            # In every fourth run a standby is released, or not replaced, after some seconds already.
            quiet_seconds=15 if self.plan.seed % 4 == 0 else 43_200,
        )
        instance = Instance(
            instance_id=FIRST,
            agent_id=AGENT_ID,
            client_id="acme",
            role=InstanceRole.PRIMARY,
            pool_id=first.pool_id,
            epoch=1,
            private_address=FIRST,
            sync_port=7443,
            certificate=f"certificate of {FIRST}",
            joined_at=START,
        )
        self.epochs_served[FIRST] = 1
        self.tables.commit(handover.register(agent, instance))
        self.ec2.associate(ADDRESS, FIRST)
        self.last_moved_to[ADDRESS] = FIRST
        self._remember(first, role=Role.PRIMARY, epoch=1)
        self._begin_agent(first)
        if self.plan.with_standby:
            self._populate_standby()

    def _populate_standby(self) -> None:
        second = self._add_machine(SECOND, "us-east-1b.m5.large", log=None)
        self.ec2.instances[SECOND].tags = {AGENT_TAG: AGENT_ID, REPLICA_TAG: "rep-first"}
        replica = Replica(
            agent_id=AGENT_ID,
            replica_id="rep-first",
            type=ReplicaType.MANUAL,
            status=ReplicaState.SYNCING,
            epoch=1,
            created_by="test",
            created_at=START,
            pool_id=second.pool_id,
            lifecycle="spot",
            instance_id=SECOND,
            launch_number=1,
        )
        row = api.standby_row(
            AGENT_ID, replica.replica_id, instance_id=SECOND, pool_id=second.pool_id, epoch=1, now=START
        )
        values = {
            name: value
            for name in Replica.__dataclass_fields__
            if name not in ("agent_id", "replica_id") and (value := getattr(replica, name)) is not None
        }
        values["attempts"] = ({"number": 1, "pool_id": second.pool_id, "lifecycle": "spot", "outcome": "launched"},)
        self.tables.rows[Table.REPLICAS][AGENT_ID, replica.replica_id] = {
            "agent_id": AGENT_ID,
            "replica_id": replica.replica_id,
            **values,
        }
        add = Change(
            Table.INSTANCES,
            (SECOND,),
            "an instance joins once",
            only_if={"instance_id": Missing()},
            put={name: getattr(row, name) for name in Instance.__dataclass_fields__ if name != "instance_id"},
        )
        hold = Change(
            Table.AGENTS,
            (AGENT_ID,),
            "a standby joined",
            put={"active_replica_id": replica.replica_id, "replica_count": 1},
        )
        self.tables.commit(Transaction("join", (add, hold)))
        self._remember(second, role=Role.RETIRED, epoch=1)
        self._begin_agent(second)

    def _add_machine(self, instance_id: str, pool_id: str, *, log: list[int] | None) -> Machine:
        machine = self.ec2.add(instance_id, pool_id, "spot", state="running").machine
        machine.disk.log = log
        self._equip(machine)
        return machine

    def _equip(self, machine: Machine) -> None:
        chance = self.kernel.chance
        machine.rate = 1.0 + (chance.choice((-0.01, 0.01, chance.uniform(-0.01, 0.01))))
        machine.wall_error = chance.choice((0.0, chance.uniform(-5.0, 5.0)))
        machine.workload.on_serving_changed = self._note_serving

    @staticmethod
    def _remember(machine: Machine, *, role: Role, epoch: int) -> None:
        machine.disk.memory = replace(machine.disk.memory, agent_id=AGENT_ID, role=role, epoch=epoch)

    def _begin_agent(self, machine: Machine, *, replica_id: str | None = None) -> None:
        process = AgentProcess(self, machine, replica_id=replica_id)
        self.processes[machine.instance_id] = process
        process.begin()

    # --- running ---

    def run(self) -> Outcome:
        """Run the plan until everything is in order again; never raises what is wrong, but tells it."""
        outcome = Outcome(self.plan.seed)
        try:
            self._populate()
            for fault in self.plan.faults:
                self.kernel.after(fault.at, self._begin_fault, fault)
            self.kernel.after(self.kernel.between(5.0, 60.0), self._sweep)
            if self.plan.sweeps_orphans or any(fault.kind in ORPHANS for fault in self.plan.faults):
                self.kernel.after(self.kernel.between(1.0, ORPHANS_SWEPT_EVERY_SECONDS), self._sweep_orphans)
            self.kernel.run(self.plan.calm_at, stop=lambda: self.kernel.steps > self.plan.busy_steps)
            self._begin_calm()
            if not self.kernel.run(self.kernel.now + PROMISED_REST_SECONDS, stop=self._is_settled):
                raise Violation("everything comes to rest", "; ".join(self.unsettled()))
            self._check_end()
        except Violation as violation:
            outcome.violation, outcome.message = violation.invariant, str(violation)
        except TooManySteps as reason:
            outcome.violation = TOO_LONG
            outcome.message = f"{outcome.violation}: {reason}; " + "; ".join(self.unsettled())
        if outcome.violation is not None:
            self.kernel.tell("VIOLATION", outcome.message.replace("%", "%%"))
        outcome.steps = self.kernel.steps
        outcome.seconds = self.kernel.now
        agent = self.tables.agent(AGENT_ID)
        outcome.failovers = agent.epoch - 1
        outcome.lost = agent.lost
        outcome.writes = self.ledger.writes
        outcome.greatest_loss = self.greatest_loss
        outcome.slowest_promotion = max(
            (self.served_at[epoch] - at for at, epoch in self.promoted_at if epoch in self.served_at), default=0.0
        )
        outcome.reached = self.reached + self.weather.counted
        outcome.history = [str(happening) for happening in self.kernel.history or ()]
        return outcome

    def _after_step(self) -> None:
        serving = self.invariants.serving
        if serving:
            self.ledger.write(self.kernel, serving)

    def _begin_calm(self) -> None:
        self.kernel.tell("world", "from here on nothing goes wrong any more")
        self._calm = True
        self._armed.clear()
        self.weather.clear()
        self.network.cut.clear()
        self.ec2.without_capacity.clear()
        for process in list(self.processes.values()):
            process.pause(paused=False)
        for instance in self.ec2.instances.values():
            instance.machine.workload.pause(paused=False)

    def _is_settled(self) -> bool:
        if self.kernel.now < self._settled_check_at:
            return False
        self._settled_check_at = self.kernel.now + 0.5
        return not self.unsettled()

    def unsettled(self) -> list[str]:
        """What is not yet as it should be at the end."""
        agent = self.tables.agent(AGENT_ID)
        wrong: list[str] = []
        instances = self.ec2.instances
        running = [e.name for e in self.step_functions.executions.values() if e.ended_at is None]
        if agent.lost:
            wrong += [f"{name} runs" for name in running] + self.invariants.unconcluded()
            return self._left_of_what_is_lost(agent) + wrong + self._unowned(agent)
        primary = instances[agent.primary_instance_id]
        if not primary.machine.alive:
            wrong.append(f"the primary {agent.primary_instance_id} is dead")
        elif [one.instance_id for one in self.invariants.serving] != [agent.primary_instance_id]:
            wrong.append(f"the primary {agent.primary_instance_id} does not serve")
        if primary.going_at is not None:
            wrong.append(f"the primary {agent.primary_instance_id} is noticed")
        if agent.traffic_epoch != agent.epoch or self.ec2.addresses.get(ADDRESS) != agent.primary_instance_id:
            wrong.append(f"traffic is at epoch {agent.traffic_epoch} of {agent.epoch}")
        if agent.claim_open:
            wrong.append("a claim is open")
        if agent.handover_open:
            wrong.append("a handover is open")
        if agent.active_replica_id is not None:
            replica = self.tables.replica(AGENT_ID, agent.active_replica_id)
            if replica.status is not ReplicaState.READY:
                wrong.append(f"replica {replica.replica_id} is {replica.status}")
            holder = instances.get(replica.instance_id or "")
            if holder is not None and (not holder.machine.alive or holder.going_at is not None):
                wrong.append(f"the instance of replica {replica.replica_id} is dead or going")
        wrong += [f"{name} runs" for name in running] + self.invariants.unconcluded()
        return wrong + self._unowned(agent)

    def _left_of_what_is_lost(self, agent: Agent) -> list[str]:
        wrong = [f"{one.instance_id} serves" for one in self.invariants.serving]
        if agent.claim_open or agent.handover_open or agent.active_replica_id is not None:
            wrong.append("a claim, a handover or a replica is open")
        if ADDRESS in self.ec2.addresses:
            wrong.append(f"traffic is at {self.ec2.addresses[ADDRESS]}")
        return wrong

    def _unowned(self, agent: Agent) -> list[str]:
        """Instances that run, and nobody's."""
        rows = self.tables.rows[Table.INSTANCES]
        active = agent.active_replica_id
        owner = self.tables.replica(AGENT_ID, active).instance_id if active is not None else None
        wrong = []
        for instance_id, instance in self.ec2.instances.items():
            if not instance.machine.alive or instance.state in ("shutting-down", "terminated"):
                continue
            role = rows.get((instance_id,), {}).get("role")
            kept = instance_id in (agent.primary_instance_id, owner) or role == InstanceRole.RETIRED_PENDING
            kept = kept or (instance_id in self.strays and self.tables.orphan_report().halted_because is not None)
            if not kept and instance.going_at is None:
                wrong.append(f"instance {instance_id} is nobody's")
        return wrong

    def nobodys_since(self, instance: Ec2Instance) -> float | None:
        """Since when no row leads to an instance; None while one does."""
        instance_id = instance.machine.instance_id
        if instance_id in self.strays:
            return self.strays[instance_id]
        row = self.tables.rows[Table.REPLICAS].get((AGENT_ID, instance.tags.get(REPLICA_TAG, "")))
        if row is None or "ended_at" not in row or row.get("instance_id") == instance_id:
            return None
        ended_at: datetime = row["ended_at"]
        return max(instance.states[0][0], (ended_at - START).total_seconds())

    def _check_end(self) -> None:
        agent = self.tables.agent(AGENT_ID)
        if agent.lost:
            holders = [
                instance_id
                for instance_id, instance in self.ec2.instances.items()
                # What shuts down can not be used any more, though its disk may live on for a moment.
                if instance.state != "shutting-down" and self.newest_held(instance.machine) > 0
            ]
            self.reach("end: lost")
            ended = [one.status for one in self.step_functions.executions.values() if one.machine_name == "fail_over"]
            if not set(ended) & set(ALARMING):
                raise Violation("what is lost is alarmed", f"its failovers {', '.join(ended)}")
            if agent.snapshot_id is not None:
                raise Violation("lost means no copy is left", f"snapshot {agent.snapshot_id} can be restored")
            if holders:
                raise Violation("lost means no copy is left", f"{', '.join(holders)} holds one")
            return
        self.reach("end: serving")
        log = self.ec2.instances[agent.primary_instance_id].machine.disk.log or []
        self.ledger.check_history(log)
        if self.plan.fair:
            self._check_promised_times(agent)

    def _check_promised_times(self, agent: Agent) -> None:
        if agent.epoch != 2 or self.signalled_at is None:
            raise Violation("a fair interruption leads to one failover", f"the agent is at epoch {agent.epoch}")
        took = self.served_at[2] - self.signalled_at
        if took > (FAIR_SECONDS if self.plan.with_standby else NOTICE_SECONDS):
            raise Violation("promoted in time", f"{took:.1f} s from the signal to serving")
        is_death = any(fault.kind == "death" for fault in self.plan.faults)
        if self.ledger.lost and not is_death:
            raise Violation("a fair notice loses nothing", f"it lost {len(self.ledger.lost)} writes")
        if self.greatest_loss > FAIR_LOSS_SECONDS:
            raise Violation("a fair death loses two sync intervals", f"it lost {self.greatest_loss:.2f} s")

    # --- what the parts tell ---

    @property
    def is_troubled(self) -> bool:
        """Whether a request may stay without an answer for long."""
        return self.weather.active or bool(self.network.cut)

    def reach(self, what: str) -> None:
        self.reached[what] += 1

    def cover_event(self, state: State, event: Event) -> None:
        if not self._calm:
            self.reached[f"event {type(state).__name__} {type(event).__name__}"] += 1

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def note_loss(self, seconds: float) -> None:
        self.greatest_loss = max(self.greatest_loss, seconds)

    def wall(self, at: float) -> datetime:
        """EC2's own time."""
        return START + timedelta(seconds=at)

    def newest_held(self, machine: Machine) -> int:
        """The newest acknowledged write of which a machine still has a copy; 0 for none."""
        if not machine.alive:
            return 0
        acknowledged = self.ledger.acknowledged
        newest = 0
        for log in (machine.disk.log, None if machine.disk.image is None else machine.disk.image.entries()):
            for number in reversed(log or ()):
                if number in acknowledged:
                    newest = max(newest, number)
                    break
        return newest

    def _note_serving(self, machine: Machine) -> None:
        self.invariants.note_serving(machine)
        if machine.workload.serves:
            self.served_at.setdefault(machine.workload.epoch, self.kernel.now)

    def _note_written(self, transaction: Transaction, rows: list[RowWritten]) -> None:
        self.reach(f"written {transaction.name}")
        if transaction.name == "claim":
            self.claimed_at = self.kernel.now
        if self.kernel.history is not None:
            self._tell_written(transaction, rows)
        for row in rows:
            if row.table is Table.INTERRUPTIONS:
                self.plane.fleet.note_interruption(row.key)
            if row.table is Table.AGENTS:
                self.plane.fleet.note_agent(self.tables.agent(AGENT_ID))
                if row.before is not None and row.after["epoch"] != row.before["epoch"]:
                    self._note_promotion(transaction.name, row)
        if self.step_functions.executions or self.kernel.steps:
            self.invariants.check_written(transaction, rows)

    def _note_promotion(self, name: str, row: RowWritten) -> None:
        epoch, instance_id = row.after["epoch"], row.after["primary_instance_id"]
        self.epochs_served[instance_id] = epoch
        self.promoted_at.append((self.kernel.now, epoch))
        machine = self.ec2.instances[instance_id].machine
        if name == "fall back":
            self.reach("fall back")
            self.kernel.after(0.0, self.ledger.note_fall_back, machine)
            return
        before = self.ec2.instances[row.before["primary_instance_id"]] if row.before else None
        both = [one for one in (before, self.ec2.instances[instance_id]) if one is not None and one.lifecycle == "spot"]
        if before is not None and len(both) == 2 and machine.pool_id == before.machine.pool_id:
            raise Violation("a standby shares no pool with its primary", machine.pool_id)

    def _tell_written(self, transaction: Transaction, rows: list[RowWritten]) -> None:
        parts = []
        for row in rows:
            before = row.before or {}
            changed = {name: value for name, value in row.after.items() if before.get(name) != value}
            changed |= {name: None for name in before if name not in row.after}
            hidden = ("agent_id", "created_at", "covered_until", "attempts", "certificate")
            shown = ", ".join(f"{name}={value}" for name, value in changed.items() if name not in hidden)
            parts.append(f"{row.key[-1]}: {shown}")
        self.kernel.tell("tables", "'%s' %s", transaction.name, " | ".join(parts))

    def _note_address(self, allocation_id: str, instance_id: str) -> None:
        self.last_moved_to[allocation_id] = instance_id
        self.last_mover = current()

    # --- AWS's own doings ---

    def _boot(self, instance: Ec2Instance) -> None:
        _, replica_id, _ = (instance.user_data or "").split()
        self._equip(instance.machine)
        self._begin_agent(instance.machine, replica_id=replica_id)

    def _bury(self, machine: Machine) -> None:
        process = self.processes.get(machine.instance_id)
        if process is not None:
            process.end("its instance is gone")

    def _note_notice(self, instance: Ec2Instance) -> None:
        agent = self.tables.agent(AGENT_ID)
        if instance.going_at is not None and instance.machine.instance_id == agent.primary_instance_id:
            self.signalled_at = self.kernel.now
        process = self.processes.get(instance.machine.instance_id)
        if process is not None and process.alive:
            process.look_for_notices()

    def _deliver_event(self, event: Mapping[str, Any]) -> None:
        self.network.send("eventbridge", CONTROL_PLANE, "event", self._note_signal, event, 0)

    def _note_signal(self, event: Mapping[str, Any], tries: int) -> None:
        def ended(_result: Any, failure: SpotOptimizerError | None, killed: bool) -> None:
            if (failure is not None or killed) and tries < 2:
                self.kernel.after(self.kernel.between(5.0, 60.0), self._note_signal, event, tries + 1)

        self._invoke("NoteSignal", lambda: api.FAIL_OVER_TASKS["NoteSignal"](self.plane, {"event": event}), ended)

    def _sweep(self) -> None:
        self._invoke("SweepSilentAgents", lambda: api.FAIL_OVER_TASKS["SweepSilentAgents"](self.plane, {}))
        self.kernel.after(60.0, self._sweep)

    def _sweep_orphans(self) -> None:
        def sweep() -> None:
            done = orphans.sweep(self.plane, self.inventory, grace=ORPHAN_GRACE, volume_grace=ORPHAN_GRACE)
            if done.ended:
                self.reach("orphan swept")
            if done.halted_because:
                self.reach("sweep for orphans halted")
            self.kernel.tell("sweep for orphans", "%s", done.as_payload())

        self._invoke("SweepOrphans", sweep)
        self.kernel.after(ORPHANS_SWEPT_EVERY_SECONDS, self._sweep_orphans)

    def _sweep_again(self, _fault: Fault) -> None:
        """Its schedule delivers at least once, and late."""
        self._invoke("SweepSilentAgents", lambda: api.FAIL_OVER_TASKS["SweepSilentAgents"](self.plane, {}))

    def reconcile_traffic(self, agent_id: str) -> None:
        """Implements `Reconciling`: an asynchronous invocation."""
        payload = {"agent_id": agent_id}
        self.calls.write(
            "invoke ReconcileTraffic", lambda: self.kernel.after(self.kernel.soon(0.1), self._reconcile, payload)
        )

    def _reconcile(self, payload: Mapping[str, Any]) -> None:
        self._invoke("ReconcileTraffic", lambda: api.FAIL_OVER_TASKS["ReconcileTraffic"](self.plane, payload))

    def _invoke(
        self,
        name: str,
        work: Callable[[], Any],
        ended: Callable[[Any, SpotOptimizerError | None, bool], None] = lambda _result, _failure, _killed: None,
        *,
        attempt: tuple[int, int] | None = None,
        about: str | None = None,
        on_struck: Callable[[], None] = lambda: None,
    ) -> None:
        self.reach(f"invoked {name}")
        invocation = Invocation(self.kernel, name, work, ended)
        invocation.attempt = attempt
        invocation.about = about
        invocation.on_struck = on_struck
        # Most heartbeats are of no interest to anybody else.
        invocation.is_brisk = name == "heartbeat" and not self.is_troubled and self.kernel.chance.random() < 0.6
        invocation.begin()

    def _invoke_task(self, machine: str, payload: Mapping[str, Any], answer: Answer) -> None:
        name = payload["task"]
        task = api.MACHINES[machine][name]
        attempt = (payload["epoch"], payload["attempt"]) if "attempt" in payload else None
        begun_at = self.kernel.now

        def work() -> Any:
            return task(self.plane, payload)

        def ended(result: Any, failure: SpotOptimizerError | None, killed: bool) -> None:
            if killed:
                error: str | None = self.kernel.chance.choice(CRASHES)
            else:
                error = None if failure is None else type(failure).__name__
            if error is not None:
                self.kernel.tell(f"task {name}", "fails: %s %s", error, failure or "")
            elif isinstance(result, dict) and "decision" in result:
                self.reach(f"decision {name} {result['decision']}")
                self.kernel.tell(f"task {name}", "%s", result)
            self.kernel.after(self.kernel.soon(0.01), answer, result, error)

        def begin() -> None:
            self._invoke(name, work, ended, attempt=attempt)

        self.kernel.after(self.kernel.soon(0.03), begin)
        if self.weather.hits("duplicate", name):
            self.weather.count("run twice", name)
            late = self.kernel.between(0.0, 20.0)
            self.kernel.after(late, lambda: self._invoke(name, work, attempt=attempt))
        del begun_at

    # --- the agents' requests ---

    def serve(
        self,
        name: str,
        work: Callable[[Any], Any],
        send_back: Callable[[Any, SpotOptimizerError | None], None],
        give_up: Callable[[], None],
        about: str | None,
    ) -> None:
        """Answer a request that reached the API; `give_up` is told when that may take long."""

        def ended(result: Any, failure: SpotOptimizerError | None, killed: bool) -> None:
            send_back(result, OutcomeUnknown("502") if killed else failure)

        self._invoke(name, lambda: work(self.plane), ended, about=about, on_struck=give_up)

    # --- faults ---

    def _begin_fault(self, fault: Fault) -> None:
        if self._calm:
            return
        if fault.kind in STRIKES:
            passings = [0]
            self._armed.append((fault, passings))
            return
        self.kernel.tell("fault", str(fault)[9:].replace("%", "%%"))
        if fault.kind in WEATHER and fault.kind != "capacity":
            self.reach(f"fault {fault.kind}")
            fault = self._aim(fault)
            self.weather.begin(fault)
            self.kernel.after(fault.lasts, self.weather.end, fault)
            return
        done = getattr(self, "_" + fault.kind.replace("-", "_"))(fault)
        if done is not False:
            self.reach(f"fault {fault.kind}")

    def _aim(self, fault: Fault) -> Fault:
        """Weather on the way to one party hits whoever has that part when it begins."""
        kind, at, who = fault.what.partition("@")
        machine = self._machine(who) if at else None
        return fault if machine is None else replace(fault, what=f"{kind}@{machine.instance_id}")

    def _machine(self, who: str) -> Machine | None:
        agent = self.tables.agent(AGENT_ID)
        if who == "primary":
            instance_id: str | None = agent.primary_instance_id
        elif who == "standby":
            active = agent.active_replica_id
            instance_id = None if active is None else self.tables.replica(AGENT_ID, active).instance_id
        else:
            switch = self.tables.switch(AGENT_ID, f"{agent.epoch:010d}")
            instance_id = None if switch is None else switch.from_instance_id
        instance = self.ec2.instances.get(instance_id or "")
        return instance.machine if instance is not None and instance.machine.alive else None

    def _process(self, who: str) -> AgentProcess | None:
        machine = self._machine(who)
        process = self.processes.get(machine.instance_id) if machine is not None else None
        return process if process is not None and process.alive else None

    def _notice(self, fault: Fault) -> bool:
        machine = self._machine(fault.what)
        if machine is None:
            return False
        self.ec2.notify(self.ec2.instances[machine.instance_id])
        return True

    def _rebalance(self, fault: Fault) -> bool:
        machine = self._machine(fault.what)
        if machine is None:
            return False
        self.ec2.recommend_rebalance(self.ec2.instances[machine.instance_id])
        return True

    def _death(self, fault: Fault) -> bool:
        machine = self._machine(fault.what)
        if machine is None:
            return False
        if machine.instance_id == self.tables.agent(AGENT_ID).primary_instance_id:
            self.signalled_at = self.kernel.now
        self.ec2.kill(self.ec2.instances[machine.instance_id])
        return True

    def _shut_down(self, fault: Fault) -> bool:
        """Somebody terminates the instance by hand."""
        machine = self._machine(fault.what)
        if machine is None:
            return False
        self.ec2.shut_down(self.ec2.instances[machine.instance_id])
        return True

    def _orphan(self, fault: Fault) -> None:
        """Launches whose answers were lost, so that no row knows what runs."""
        for _ in range(1 if fault.what == "noticed" else int(fault.what)):
            instance_id = f"i-{len(self.ec2.instances) + 1:017x}"
            stray = self.ec2.add(instance_id, "us-east-1c.m5a.large", "spot", state="running")
            stray.tags = {AGENT_TAG: AGENT_ID, REPLICA_TAG: "rep-stray"}
            self.strays[instance_id] = self.kernel.now
            if fault.what == "noticed":
                self.kernel.after(self.kernel.between(0.0, 30.0), self.ec2.notify, stray)

    def _orphan_standby(self, _fault: Fault) -> bool:
        """A replica's row ends long ago, by its own word, and its instance lives on."""
        agent = self.tables.agent(AGENT_ID)
        machine = self._machine("standby")
        if agent.active_replica_id is None or machine is None or agent.handover_open or agent.claim_open:
            return False
        ended = {"status": ReplicaState.FAILED, "failure": "forgotten", "ended_at": START - timedelta(days=1)}
        self.tables.commit(
            Transaction(
                "forget replica",
                (
                    Change(Table.REPLICAS, (AGENT_ID, agent.active_replica_id), "forgotten", put=ended),
                    Change(Table.AGENTS, (AGENT_ID,), "forgotten", put={"active_replica_id": None}),
                ),
            )
        )
        self.strays[machine.instance_id] = self.kernel.now
        return True

    def _operator_promote(self, fault: Fault) -> None:
        # In every third run operators want the old primary as the standby.
        demotes = fault.what == "demote" or self.plan.seed % 3 == 0
        work = partial(api.operator_promotes, self.plane, AGENT_ID, demote_old_primary=demotes)
        self._invoke("operator promotes", work)

    def _operator_abort(self, _fault: Fault) -> bool:
        handover_id = self.tables.agent(AGENT_ID).handover_id
        if handover_id is None:
            return False
        work = partial(api.operator_aborts, self.plane, AGENT_ID, handover_id=handover_id)
        self._invoke("operator aborts", work, about=handover_id)
        return True

    def _operator_pause(self, fault: Fault) -> None:
        everything = fault.what == "all"
        work = partial(api.operator_pauses, self.plane, AGENT_ID, everything=everything)
        self._invoke("operator pauses", work)
        self.kernel.after(fault.lasts, self._resume, everything)

    def _resume(self, everything: bool) -> None:
        """An operator asks until it is resumed, and for a while after: the request to pause may still be on its way."""
        work = partial(api.operator_resumes, self.plane, AGENT_ID, everything=everything)
        for seconds in (0.0, 4.0, 12.0):
            self.kernel.after(seconds, lambda: self._invoke("operator resumes", work))
        self.kernel.after(20.0, self._resume_if_paused, everything)

    def _resume_if_paused(self, everything: bool) -> None:
        pause = self.tables.pause_of_all() if everything else self.tables.agent(AGENT_ID).pause
        if pause is not None:
            self._resume(everything)

    def _operator_create(self, _fault: Fault) -> None:
        # Half of them with an Idempotency-Key of their own.
        number = self.next_number()
        purpose = f"manual:{number}" if number % 2 else None
        work = partial(api.operator_creates_replica, self.plane, AGENT_ID, purpose=purpose)
        self._invoke("operator creates", work)

    def _operator_switch(self, _fault: Fault) -> None:
        work = partial(api.operator_switches, self.plane, AGENT_ID, on_demand=self.next_number() % 4 == 0)
        self._invoke("operator switches", work)

    def _operator_terminate(self, _fault: Fault) -> None:
        self._invoke("operator terminates", lambda: api.operator_terminates_replica(self.plane, AGENT_ID))

    def _kill_agent(self, fault: Fault) -> bool:
        process = self._process(fault.what)
        if process is None:
            return False
        self._kill(process, fault.lasts)
        return True

    def _kill(self, process: AgentProcess, dead_for: float) -> None:
        process.end("killed")
        self.kernel.after(max(dead_for, 0.1), self._restart, process)

    def _restart(self, process: AgentProcess) -> None:
        machine = process.machine
        if machine.alive and self.processes[machine.instance_id] is process:
            user_data = self.ec2.instances[machine.instance_id].user_data
            self._begin_agent(machine, replica_id=user_data.split()[1] if user_data else None)

    def _pause_agent(self, fault: Fault) -> bool:
        process = self._process(fault.what)
        if process is None:
            return False
        process.pause(paused=True)
        self.kernel.after(fault.lasts, lambda: process.pause(paused=False))
        return True

    def _kill_workload(self, fault: Fault) -> bool:
        machine = self._machine(fault.what)
        if machine is None or not machine.workload.running:
            return False
        machine.workload.end("killed")
        return True

    def _pause_workload(self, fault: Fault) -> bool:
        machine = self._machine(fault.what)
        if machine is None or not machine.workload.running:
            return False
        machine.workload.pause(paused=True)
        self.kernel.after(fault.lasts, lambda: machine.workload.pause(paused=False))
        return True

    def _capacity(self, fault: Fault) -> None:
        self.ec2.without_capacity.append(fault.what)

        def returns() -> None:
            if fault.what in self.ec2.without_capacity:
                self.ec2.without_capacity.remove(fault.what)

        self.kernel.after(fault.lasts, returns)

    def _partition(self, fault: Fault, *, both: bool = True) -> bool:
        names = []
        for who in fault.what.split():
            machine = self._machine(who) if who != CONTROL_PLANE else None
            if machine is None and who != CONTROL_PLANE:
                return False
            names.append(who if machine is None else machine.instance_id)
        one, other = names
        cuts = [(one, other), (other, one)] if both else [(one, other)]
        self.network.cut += cuts
        for process in list(self.processes.values()):
            if process.link is not None and {process.link.primary.instance_id, process.link.standby.instance_id} == set(
                names
            ):
                process.link.broken(slowly=True)

        def heals() -> None:
            for cut in cuts:
                if cut in self.network.cut:
                    self.network.cut.remove(cut)
            self.kernel.tell("fault", "the partition of %s and %s heals", one, other)

        self.kernel.after(fault.lasts, heals)
        return True

    def _one_way(self, fault: Fault) -> bool:
        return self._partition(fault, both=False)

    def _wall_jump(self, fault: Fault) -> bool:
        by = self.kernel.chance.choice((-3600.0, -30.0, -3.0, 3.0, 30.0, 3600.0))
        if fault.what == CONTROL_PLANE:
            self.plane.clock_error = by
            return True
        machine = self._machine(fault.what)
        if machine is None:
            return False
        machine.wall_error += by
        return True

    def strikes(self, process: AgentProcess, marker: str) -> bool:
        """Whether the agent dies at this very step."""
        struck = self._struck(marker)
        if struck is None:
            return False
        fault, _ = struck
        self.kernel.tell("fault", "%s at %s of %s", fault.kind, marker, process.instance_id)
        if fault.kind == "strike-kill":
            self._kill(process, fault.lasts)
            return True
        process.pause(paused=True)
        self.kernel.after(fault.lasts, lambda: process.pause(paused=False))
        return False

    def _strike_invocation(self, where: str) -> Fault | None:
        if not self._armed:
            return None
        struck = self._struck(where)
        if struck is None:
            return None
        self.kernel.tell("fault", "%s at %s %s", struck[0].kind, where, struck[0].rival)
        current().on_struck()
        if struck[0].rival:
            self.reach(f"rival {struck[0].rival}")
            self._begin_rival(struck[0].rival, current())
        return struck[0]

    def _begin_rival(self, rival: str, held: Invocation) -> None:
        """Something that could happen at any moment happens while a write is held up."""
        if rival == "twin":
            # At-least-once: the same task, or the same request, a second time.
            self.kernel.after(0.0, lambda: self._invoke(held.name, held.work, attempt=held.attempt, about=held.about))
        elif rival == "retake":
            self.kernel.after(0.0, self._stop_and_retake)
        elif rival == "redrive":
            # He has the one that he stopped go on as well, when the sweep has found it dead.
            self.kernel.after(0.0, lambda: self._stop_and_retake(redrives=True))
            self.kernel.after(self.kernel.between(0.2, 0.6), self._sweep_again, Fault("sweep-again", self.kernel.now))
        elif rival == "abort":
            self.kernel.after(0.0, self._abort_as_primary)
        elif rival == "sweep":
            task = api.FAIL_OVER_TASKS["SweepSilentAgents"]
            self.kernel.after(0.0, lambda: self._invoke("SweepSilentAgents", lambda: task(self.plane, {})))
        else:
            who = "standby" if rival == "standby-death" else "primary"
            kind = "death" if rival == "standby-death" else rival
            self.kernel.after(0.0, self._begin_fault, Fault(kind, self.kernel.now, who))

    def _stop_and_retake(self, *, redrives: bool = False) -> None:
        """An operator stops the execution that is at work, and asks anew."""
        for running in self.step_functions.executions.values():
            if running.machine_name == "fail_over" and running.ended_at is None:
                running.stop()
                self.kernel.after(self.kernel.between(0.0, 0.5), self._operator_promote, Fault("operator-promote", 0.0))
                if redrives:
                    self.kernel.after(self.kernel.between(1.0, 3.0), running.redrive)

    def _abort_as_primary(self) -> None:
        """A request to abort that the primary sent before, and that arrives now."""
        agent = self.tables.agent(AGENT_ID)
        handover_id = agent.handover_id
        if handover_id is not None:
            caller = api.Caller(AGENT_ID, agent.primary_instance_id, agent.epoch)
            work = partial(api.abort, self.plane, caller, handover_id=handover_id)
            self._invoke("abort", work, about=handover_id)

    def _struck(self, marker: str) -> tuple[Fault, list[int]] | None:
        for armed in self._armed:
            fault, passings = armed
            what = fault.what
            if (
                marker == what
                or (what.startswith("*") and marker.endswith(what[1:]))
                or (what.endswith(":") and marker.startswith(what))
            ):
                passings[0] += 1
                if passings[0] == fault.nth:
                    self._armed.remove(armed)
                    self.reach(f"fault {fault.kind}")
                    return armed
        return None


def simulate(plan: Plan, *, recording: bool = False, removed: frozenset[ConditionName] = frozenset()) -> Outcome:
    """Run one plan in a world of its own."""
    return World(plan, recording=recording, removed=removed).run()
