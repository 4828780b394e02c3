"""What must hold after every step, whatever goes wrong.

Two kinds: promises about the world (who serves, what is lost, where traffic goes), and the lives of rows, told apart
from the conditions of the writes on purpose: a condition that is taken away must show here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulation.cloud import NOTICE_SECONDS
from simulation.kernel import Violation
from simulation.ledger import PROMISED_INTERVALS
from simulation.tables import Row, RowWritten
from simulation.tasks import Invocation, current
from spot_optimizer.domain import switching
from spot_optimizer.domain.agents import FAIL_OVER, HandoverState, InstanceRole
from spot_optimizer.domain.handover import Basis
from spot_optimizer.domain.lease import CLOCK_DRIFT, LEASE_SECONDS
from spot_optimizer.domain.pauses import ALL
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.primary import LAG_GRACE_SECONDS, Primary
from spot_optimizer.domain.protocol import Action, EpochOver, Event, ReportReady, Stop
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.writes import Table, Transaction

if TYPE_CHECKING:
    from simulation.cloud import Ec2Instance
    from simulation.machine import Machine
    from simulation.world import World
    from spot_agent.runtime import State

LONGEST_LEASE_SECONDS = LEASE_SECONDS / (1 - CLOCK_DRIFT)
"""In true time, by a primary whose clock is as slow as may be."""

ORPHAN_GRACE_SECONDS = 25.0
MOST_SWEPT = 2
"""What one sweep for orphans may end of a fleet as small as this."""
KNOWN_SECONDS = 120.0
"""What is on record for so long, every selection of a pool takes into account; one may have been made a while ago."""

UNNOTICED_SECONDS = 90.0
"""A primary that has died is heard of no more within 15 s; a function that has heard it before may act for 60 s yet."""

PROMOTIONS = ("promote", "fall back")
ACTIVE = ("launching", "syncing", "ready")
REPLICA_EDGES = {
    None: ("launching", "syncing"),
    "launching": ("syncing", "failed", "terminated"),
    "syncing": ("ready", "promoted", "failed", "terminated"),
    "ready": ("syncing", "promoted", "failed", "terminated"),
}
ROLE_EDGES = {
    "standby": ("primary",),
    "primary": ("retired-pending",),
    "retired-pending": ("primary", "standby", "retired"),
}
NEVER_EMPTY = {
    Table.AGENTS: ("epoch", "primary_instance_id"),
    Table.REPLICAS: ("status", "epoch", "created_at"),
    Table.INSTANCES: ("role", "pool_id"),
    Table.INTERRUPTIONS: ("detected_at", "signal_type"),
    Table.SWITCHES: ("epoch", "to_instance_id"),
    Table.SNAPSHOTS: ("base_id", "taken_at"),
    Table.FLEET_CONTROLS: (),
}
SWEEP = "SweepOrphans"


def demand(holds: bool, invariant: str, message: str, *details: Any) -> None:
    """Raises: Violation."""
    if not holds:
        raise Violation(invariant, message % details if details else message)


class Invariants:
    """Checks a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.serving: list[Machine] = []
        self.granted_at = float("-inf")
        self._swept: dict[Invocation, int] = {}

    # --- the world ---

    def check_decision(
        self, instance_id: str, before: State, event: Event, after: State, actions: tuple[Action, ...]
    ) -> None:
        """What an agent decides keeps to the rules that no later step would show.

        Whoever finds a stale epoch stops; a standby is reported ready only under a lease that it has granted, and only
        while it is as close behind as is promised.
        """
        if isinstance(event, EpochOver):
            demand(
                after.epoch >= event.current_epoch,
                "whoever finds a stale epoch stops",
                "%s goes on under epoch %s of %s",
                instance_id,
                after.epoch,
                event.current_epoch,
            )
            stops = any(isinstance(action, Stop) for action in actions)
            demand(
                stops or not isinstance(before, Primary) or event.current_epoch <= before.epoch,
                "whoever finds a stale epoch stops",
                "%s does not stop its workload",
                instance_id,
            )
        for action in actions:
            if isinstance(action, ReportReady):
                self._check_ready(instance_id, action)

    def _check_ready(self, instance_id: str, report: ReportReady) -> None:
        world = self._world
        since_granted = world.kernel.now - self.granted_at
        demand(
            since_granted <= LONGEST_LEASE_SECONDS,
            "ready only under its lease",
            "%s reports %s ready, which granted nothing for %.2f s",
            instance_id,
            report.replica_id,
            since_granted,
        )
        promised = PROMISED_INTERVALS * world.tables.agent(world.agent_id).sync_interval_seconds + LAG_GRACE_SECONDS
        demand(
            report.lag_seconds <= promised,
            "ready means close behind",
            "%s reports %s ready, which is %.2f s behind",
            instance_id,
            report.replica_id,
            report.lag_seconds,
        )

    def note_serving(self, machine: Machine) -> None:
        """A workload began, or ceased, to acknowledge writes."""
        if machine.workload.serves and machine not in self.serving:
            self.serving.append(machine)
        elif not machine.workload.serves and machine in self.serving:
            self.serving.remove(machine)
        demand(
            len(self.serving) <= 1,
            "one serves",
            "%s serve at the same time",
            " and ".join(f"{one.instance_id} (epoch {one.workload.epoch})" for one in self.serving),
        )
        if machine.workload.serves:
            agent = self._world.tables.agent(self._world.agent_id)
            demand(not agent.lost, "a lost agent runs nothing", "%s serves", machine.instance_id)
            demand(
                machine.workload.epoch <= agent.epoch,
                "nobody serves ahead of the epoch",
                "%s does",
                machine.instance_id,
            )

    def check_commit_asked(self, instance_id: str, handover_id: str, basis: Basis, readiness: int) -> None:
        """A standby that says the lease has run out must be right, if its word can still be taken."""
        world = self._world
        agent = world.tables.agent(world.agent_id)
        if basis is not Basis.LEASE_EXPIRED or agent.handover_id != handover_id or not agent.handover_open:
            return
        replica = world.tables.replica(world.agent_id, agent.handover_replica_id or "")
        if replica.status is ReplicaState.READY and replica.readiness == readiness:
            others = [one.instance_id for one in self.serving if one.instance_id != instance_id]
            demand(not others, "promotion is asked after the lease", "%s serves while %s asks", others, instance_id)

    def check_thaw(self, instance_id: str, ended_handovers: tuple[str, ...]) -> None:
        """A primary thaws only after the handover that it froze for was aborted."""
        agent = self._world.tables.agent(self._world.agent_id)
        open_id = agent.handover_id if agent.handover_open and agent.primary_instance_id == instance_id else None
        demand(open_id not in ended_handovers, "thaw after abort", "%s thaws while %s is open", instance_id, open_id)

    def check_terminate(self, instance: Ec2Instance) -> None:
        """A copy that is the newest is never deleted, and a notified primary is left to AWS."""
        world = self._world
        machine = instance.machine
        agent = world.tables.agent(world.agent_id)
        if current().name == SWEEP:
            self._check_swept(instance)
        demand(
            agent.primary_instance_id != machine.instance_id,
            "the primary is never terminated",
            "%s is the primary of epoch %s",
            machine.instance_id,
            agent.epoch,
        )
        owners = [
            row for row in world.tables.rows[Table.REPLICAS].values() if row.get("instance_id") == machine.instance_id
        ]
        active = [row["replica_id"] for row in owners if row["status"] in ACTIVE]
        demand(not active, "a row ends before its instance", "%s is that of %s", machine.instance_id, active)
        # Whether it might be let go of was judged when its row ended; see `_check_ended`.
        released = any(row["status"] == ReplicaState.TERMINATED for row in owners)
        if machine.alive and not agent.lost and not released:
            self._demand_older_than_another(machine)

    def _demand_older_than_another(self, machine: Machine) -> None:
        world = self._world
        mine = world.newest_held(machine)
        others = [world.newest_held(one.machine) for one in world.ec2.instances.values() if one.machine is not machine]
        others += [max(image.entries(), default=0) for image in world.bucket.images.values()]
        demand(
            mine <= max(others, default=0),
            "the newest copy is never deleted",
            "%s holds writes up to %s, the others up to %s",
            machine.instance_id,
            mine,
            max(others, default=0),
        )

    def _check_swept(self, instance: Ec2Instance) -> None:
        """A sweep ends what has been nobody's for the grace and is not taken back anyway; never many things at once."""
        world, instance_id = self._world, instance.machine.instance_id
        since = world.nobodys_since(instance)
        if since is None:
            raise Violation("only orphans are swept", f"{instance_id} is somebody's")
        waited = world.kernel.now - since
        # The grace is counted by the control plane's clock, which may have been set meanwhile.
        waits = waited >= ORPHAN_GRACE_SECONDS or world.plane.clock_error != 0.0
        demand(waits, "a sweep waits", "%s is nobody's for %.1f s", instance_id, waited)
        since_notice = 0.0 if instance.going_at is None else world.kernel.now - (instance.going_at - NOTICE_SECONDS)
        # The call that ends it may be slow on its way.
        demand(since_notice < 10.0, "a sweep leaves to AWS what AWS takes", "%s is noticed", instance_id)
        ended = self._swept[current()] = self._swept.get(current(), 0) + 1
        demand(ended <= MOST_SWEPT, "a sweep never ends many things", "this is number %d", ended)

    def unconcluded(self) -> list[str]:
        """Promotions of which it is not on record what came of them, with the signal that they answered."""
        rows = self._world.tables.rows
        found = []
        for (_, switch_id), switch in rows[Table.SWITCHES].items():
            answered = (FAIL_OVER, switch["from_instance_id"], switch["epoch"] - 1)
            concluded = [
                row
                for row in rows[Table.INTERRUPTIONS].values()
                if (row["response_action"], row["instance_id"], row.get("epoch")) == answered
                and (row.get("failover_completed") or row.get("failure"))
            ]
            if not concluded or "steps" not in switch:
                found.append(f"the failover that led to {switch_id} is not concluded")
        return found

    # --- the lives of rows ---

    def check_written(self, transaction: Transaction, rows: list[RowWritten]) -> None:
        """One transaction was written."""
        for written in rows:
            for name in NEVER_EMPTY[written.table]:
                demand(
                    name in written.after, "rows are whole", "%s of %s has no %s", written.key, transaction.name, name
                )
            match written.table:
                case Table.AGENTS:
                    self._check_agent(transaction, written)
                case Table.REPLICAS:
                    self._check_replica(transaction, written)
                case Table.INSTANCES:
                    self._check_instance(written)
                case Table.SWITCHES:
                    self._check_switch(written)
                case Table.INTERRUPTIONS:
                    self._check_interruption(written)
                case Table.SNAPSHOTS:
                    self._check_snapshot(written)
                case Table.FLEET_CONTROLS:
                    self._check_report(transaction, written)
        if transaction.name == "retire":
            self._check_retired(rows)
        if transaction.name == "demote":
            self._check_demoted(rows)
        self._check_together(transaction)

    @staticmethod
    def _check_report(transaction: Transaction, written: RowWritten) -> None:
        if written.key == (ALL,):
            paused_at = (written.before or {}).get("paused_at")
            demand(
                transaction.name != "pause all" or paused_at is None,
                "the first pause stands",
                "all is paused since %s",
                paused_at,
            )
            return
        before = (written.before or {}).get("sweep_number", 0)
        grows = written.after["sweep_number"] - before
        demand(
            grows == (transaction.name == "report orphans"),
            "each sweep reports on top of the one before",
            "'%s' moves it on by %s",
            transaction.name,
            grows,
        )

    def _check_demoted(self, rows: list[RowWritten]) -> None:
        """A standby shares no pool with its primary, whichever came first; one that AWS takes back is no standby."""
        world = self._world
        (agent,) = world.tables.rows[Table.AGENTS].values()
        demoted = next(row.key[0] for row in rows if row.table is Table.INSTANCES)
        pools = [
            world.ec2.instances[instance_id].machine.pool_id for instance_id in (demoted, agent["primary_instance_id"])
        ]
        demand(pools[0] != pools[1], "a standby shares no pool with its primary", "%s is demoted", demoted)
        notice = (agent["agent_id"], f"{demoted}#termination-notice")
        demand(notice not in world.tables.rows[Table.INTERRUPTIONS], "what AWS takes back is no standby", "%s", demoted)

    def _check_retired(self, rows: list[RowWritten]) -> None:
        """A former primary's copy is given up in peace, behind a successor that has served, beside another copy."""
        world = self._world
        (agent,) = world.tables.rows[Table.AGENTS].values()
        retired = rows[0].key[0]
        demand(not agent.get("claim_open"), "a copy is given up only in peace", "a failover is under way")
        demand(agent["epoch"] in world.served_at, "a copy is given up behind a successor that serves", "%s", retired)
        notice = (agent["agent_id"], f"{retired}#termination-notice")
        demand(notice not in world.tables.rows[Table.INTERRUPTIONS], "a notified primary is left to AWS", "%s", retired)
        if any(row["status"] == ReplicaState.READY for row in world.tables.rows[Table.REPLICAS].values()):
            # That its standby has died in this very moment, nobody could know.
            return
        copies = [
            world.newest_held(other.machine)
            for instance_id, other in world.ec2.instances.items()
            if instance_id not in (retired, agent["primary_instance_id"])
        ]
        copies += [max(image.entries(), default=0) for image in world.bucket.images.values()]
        mine = world.newest_held(world.ec2.instances[retired].machine)
        demand(
            mine <= max(copies, default=0),
            "a copy is given up only beside another",
            "%s holds writes up to %s, the others up to %s",
            retired,
            mine,
            max(copies, default=0),
        )

    def _check_agent(self, transaction: Transaction, written: RowWritten) -> None:
        before, after = written.before, written.after
        if before is None:
            return
        name = transaction.name
        promoted = after["epoch"] != before["epoch"]
        demand(
            after["epoch"] in (before["epoch"], before["epoch"] + 1) and promoted == (name in PROMOTIONS),
            "the epoch grows by one per promotion",
            "'%s' moves it from %s to %s",
            name,
            before["epoch"],
            after["epoch"],
        )
        demand(
            promoted == (after["primary_instance_id"] != before["primary_instance_id"]),
            "a new epoch has a new primary",
            "'%s' at epoch %s",
            name,
            after["epoch"],
        )
        demand(
            before.get("traffic_epoch", 0) <= after.get("traffic_epoch", 0) <= after["epoch"],
            "traffic moves upwards",
            "'%s' records %s after %s at epoch %s",
            name,
            after.get("traffic_epoch"),
            before.get("traffic_epoch"),
            after["epoch"],
        )
        if name == "traffic moved":
            self._check_traffic_recorded(after)
        # An operator may pause and resume what is lost: it says what he wants, and begins nothing.
        changes = after != before and name not in ("traffic moved", "pause agent", "resume agent")
        demand(not (before.get("lost") and changes), "a lost agent stays as it is", "'%s' changes it", name)
        self._check_pointer(name, before, after)
        self._check_handover(name, before, after, promoted=promoted)
        self._check_claim(name, before, after)
        held, holds = before.get("active_replica_id"), after.get("active_replica_id")
        demand(held is None or holds in (None, held), "one active replica", "'%s' replaces %s by %s", name, held, holds)
        if name == "mark lost":
            self._check_lost(before)
        if name == "abort planned handover":
            urgency = before.get("claim_urgency", 0)
            demand(urgency == 0, "an operator aborts what is planned", "its urgency is %s", urgency)
        if name == "pause agent":
            demand(
                before.get("paused_at") is None,
                "the first pause stands",
                "it is paused since %s",
                before.get("paused_at"),
            )
        if name == "release replica":
            demand(not before.get("claim_open"), "a standby is released only in peace", "a failover is under way")
        if promoted:
            demand(not before.get("lost"), "a lost agent is not promoted", "")
            demand(holds is None, "one active replica", "a promotion leaves %s active", holds)

    def _check_traffic_recorded(self, after: Row) -> None:
        world = self._world
        target = after.get("traffic_target")
        # Whoever records must have moved the address himself, to this epoch's primary or beyond. A mover that has taken
        # it back since has yet to read the row again; or he never will, and the sweep finds the address.
        moved_to = world.epochs_served.get(world.last_moved_to.get(str(target), ""), 0)
        is_final = world.last_mover is None or world.last_mover.returned
        demand(
            after["traffic_epoch"] <= moved_to or not is_final,
            "traffic is recorded where it went",
            "epoch %s is recorded, the address went to epoch %s",
            after["traffic_epoch"],
            moved_to,
        )

    def _check_handover(self, name: str, before: Row, after: Row, *, promoted: bool) -> None:
        old, new = before.get("handover_state", "none"), after.get("handover_state", "none")
        same = before.get("handover_id") == after.get("handover_id")
        if old == HandoverState.OPEN:
            demand(same, "one handover at a time", "'%s' replaces %s", name, before.get("handover_id"))
            meant = current().about if new == HandoverState.ABORTED else None
            demand(
                meant in (None, before.get("handover_id")),
                "a request ends the handover that it names",
                "%s ends by a request to abort %s",
                before.get("handover_id"),
                meant,
            )
        elif same:
            demand(new == old, "a handover ends once", "'%s' makes a handover that is %s %s", name, old, new)
        if name == "decline handover":
            demand(old == HandoverState.OPEN, "only an open handover is declined", "it is %s", old)
        if name == "fall back":
            self._check_fall_back(before)
        elif promoted or (new == HandoverState.COMMITTED and old != new):
            demand(
                promoted and old == HandoverState.OPEN and new == HandoverState.COMMITTED,
                "a promotion commits an open handover",
                "'%s' at %s -> %s",
                name,
                old,
                new,
            )
        if not same:
            self._check_opened(before, after)
        if after.get("handover_primary_dead") and new == HandoverState.OPEN:
            machine = self._world.ec2.instances[after["primary_instance_id"]].machine
            demand(not machine.alive, "proof of death is true", "%s lives", machine.instance_id)

    def _check_fall_back(self, before: Row) -> None:
        """Back to a former primary only where the present one is dead and nobody else can follow."""
        self._demand_own_claim("fall back", before)
        demand(
            before.get("handover_state") != HandoverState.OPEN, "back only without a way forward", "a handover is open"
        )
        demand(before.get("active_replica_id") is None, "back only without a way forward", "a replica is active")
        dead = self._world.ec2.instances[before["primary_instance_id"]].machine
        demand(not dead.alive, "back only without a way forward", "the primary %s lives", dead.instance_id)

    def _check_opened(self, before: Row, after: Row) -> None:
        row = self._world.tables.rows[Table.REPLICAS].get((after["agent_id"], after["handover_replica_id"]))
        demand(row is not None, "a handover has a replica", "%s", after["handover_replica_id"])
        if row is None:
            return
        demand(
            after.get("active_replica_id") == after["handover_replica_id"],
            "a handover goes to the active replica",
            "%s, active is %s",
            after["handover_replica_id"],
            after.get("active_replica_id"),
        )
        dead = after["handover_primary_dead"]
        takes_over = row["status"] == "ready" or (dead and row["status"] == "syncing")
        demand(takes_over, "a handover goes to one who can take over", "it is %s", row["status"])
        demand(row["epoch"] == after["epoch"], "a handover belongs to its epoch", "%s", row["epoch"])
        demand(
            row["readiness"] == after["handover_readiness"],
            "a handover names the readiness it was opened on",
            "%s, the replica is at %s",
            after["handover_readiness"],
            row["readiness"],
        )
        demand(before.get("claim_open", False), "a handover is opened under a claim", "")
        self._demand_own_claim("open handover", before)

    def _check_claim(self, name: str, before: Row, after: Row) -> None:
        was = (before.get("claim_epoch", 0), before.get("claim_attempt", 0))
        now = (after.get("claim_epoch", 0), after.get("claim_attempt", 0))
        demand(name != "claim" or now != was, "attempts are counted", "%s is claimed again", was)
        if now != was:
            demand(
                now == (was[0], was[1] + 1) or (now[0] > was[0] and now[1] == 1),
                "attempts are counted",
                "'%s' moves the claim from %s to %s",
                name,
                was,
                now,
            )
            demand(now[0] == after["epoch"], "a claim is for the present epoch", "%s at %s", now[0], after["epoch"])
            demand(not after.get("lost"), "a lost agent is not claimed", "")
            self._check_previous_attempt(before, was, now)
            return
        opened = after.get("claim_open", False) and not before.get("claim_open", False)
        demand(not opened, "a claim ends once", "'%s' opens %s again", name, was)
        urgency = before.get("claim_urgency", 0), after.get("claim_urgency", 0)
        demand(urgency[0] <= urgency[1], "urgency only rises", "'%s' lowers it", name)
        demand(name != "raise urgency" or urgency[0] < urgency[1], "urgency only rises", "it is raised to what it was")
        if after.get("claim_urgency", 0) != before.get("claim_urgency", 0):
            demand(before.get("claim_open", False), "only an open claim is raised", "")
            demand(before["claim_epoch"] == before["epoch"], "only the present epoch's claim is raised", "")
        if before.get("claim_open") and not after.get("claim_open"):
            self._demand_own_claim(name, before)
        token = after.get("task_token")
        if token is not None and token != before.get("task_token"):
            demand(bool(after.get("claim_open")), "a token waits under an open claim", "'%s'", name)
            self._demand_own_claim(name, before)

    def _check_previous_attempt(self, before: Row, was: tuple[int, int], now: tuple[int, int]) -> None:
        if not before.get("claim_open") or was[0] != now[0]:
            return
        execution = self._world.step_functions.executions.get(f"{before['agent_id']}-{was[0]}-{was[1]}")
        demand(
            execution is not None and execution.ended_at is not None,
            "one execution at a time",
            "attempt %s is claimed while %s runs",
            now,
            was,
        )

    def _demand_own_claim(self, name: str, row: Row) -> None:
        """Tasks of an attempt touch its claim only."""
        attempt = current().attempt
        if attempt is not None:
            demand(
                attempt == (row.get("claim_epoch", 0), row.get("claim_attempt", 0)),
                "only the own claim is touched",
                "'%s' of attempt %s touches the claim of %s",
                name,
                attempt,
                (row.get("claim_epoch", 0), row.get("claim_attempt", 0)),
            )

    def _check_lost(self, before: Row) -> None:
        world = self._world
        self._demand_own_claim("mark lost", before)
        demand(before.get("handover_state") != HandoverState.OPEN, "lost means no way is left", "a handover is open")
        demand(before.get("active_replica_id") is None, "lost means no way is left", "a replica is active")
        primary = world.ec2.instances[before["primary_instance_id"]].machine
        demand(not primary.alive, "lost means no copy is left", "the primary %s lives", primary.instance_id)
        demand(before.get("snapshot_id") is None, "lost means no copy is left", "%s is left", before.get("snapshot_id"))

    def _check_switch_asked(self, before: Row) -> None:
        world = self._world
        replica = Replica(**before)
        demand(replica.active, "only what lives takes over for a switch", "it is %s", replica.status)
        under_way = switching.is_under_way(world.tables.agent(replica.agent_id), replica, now=world.plane.clock())
        demand(not under_way, "one switch at a time", "one was asked for at %s", replica.switch_asked_at)

    def _check_replica(self, transaction: Transaction, written: RowWritten) -> None:
        before, after = written.before, written.after
        name = transaction.name
        was, now = None if before is None else before.get("status"), after["status"]
        demand(was is not None or (now == ReplicaState.SYNCING) == (name == "demote"), "replicas begin at launch", name)
        demand(
            was == now or now in REPLICA_EDGES.get(was, ()),
            "replicas live as they should",
            "'%s' makes a replica that is %s %s",
            name,
            was,
            now,
        )
        if before is None:
            return
        if was in ACTIVE and now in (ReplicaState.FAILED, ReplicaState.TERMINATED):
            self._check_ended(name, before, str(now))
        readiness = before.get("readiness", 0), after.get("readiness", 0)
        demand(readiness[0] <= readiness[1], "readiness only rises", "'%s': %s to %s", name, *readiness)
        if name == "ask switch":
            self._check_switch_asked(before)
        if name == "report ready":
            demand(was == ReplicaState.SYNCING, "ready is reported once", "it is %s", was)
        if now == ReplicaState.READY and was != now:
            demand(readiness[0] < readiness[1], "each readiness has its number", "'%s': %s again", name, readiness[1])
        launches = before.get("launch_number", 0), after.get("launch_number", 0)
        demand(launches[1] - launches[0] in (0, 1), "launches are counted", "'%s': %s to %s", name, *launches)
        done, did = before.get("attempts", ()), after.get("attempts", ())
        kept = [one for one in done if one["outcome"] != "asked"]
        demand(
            list(did[: len(kept)]) == kept
            and len(did) >= len(done)
            and [a["number"] for a in did] == list(range(1, len(did) + 1)),
            "launch attempts are kept",
            "'%s': %s to %s",
            name,
            done,
            did,
        )
        if name == "begin launch" and after["lifecycle"] == Lifecycle.SPOT:
            self._check_pool(before, after["pool_id"])
        held = before.get("instance_id")
        demand(
            held is None or after.get("instance_id") == held,
            "a replica keeps its instance",
            "'%s' drops %s",
            name,
            held,
        )
        demand(before.get("generation", 0) <= after.get("generation", 0), "generations only rise", "'%s'", name)
        if was not in ACTIVE:
            ended = ("status", "ended_at", "failure", "generation", "readiness", "attempts", "covered_until")
            demand(
                all(before.get(x) == after.get(x) for x in ended), "an ended replica is over", "'%s' changes it", name
            )

    def _check_pool(self, before: Row, pool_id: str) -> None:
        """On spot a standby never goes to its primary's pool, nor to one that interrupted us while another is left."""
        world = self._world
        agent = world.tables.agent(before["agent_id"])
        demand(
            pool_id != agent.primary_pool_id,
            "a standby shares no pool with its primary",
            "%s is launched in %s",
            before["replica_id"],
            pool_id,
        )
        cooling = world.plane.fleet.interrupted(before=world.kernel.now - KNOWN_SECONDS)
        if pool_id not in cooling or world.is_troubled or world.plane.clock_error != 0.0:
            return
        tried = {attempt["pool_id"] for attempt in before["attempts"]} | cooling | {agent.primary_pool_id}
        left = {f"{zone}.{kind}" for zone in world.ec2.zones for kind in agent.instance_types} - tried
        demand(not left, "a pool in cooldown comes last", "%s is tried before %s", pool_id, sorted(left))

    def _check_ended(self, name: str, row: Row, now: str) -> None:
        """A replica fails for good reason, and is let go of only while nobody can know that it is needed."""
        world = self._world
        instance = world.ec2.instances.get(row.get("instance_id", ""))
        if instance is None or not instance.machine.alive:
            return
        demand(
            now != ReplicaState.FAILED
            or row["status"] == ReplicaState.LAUNCHING
            or name in ("decline handover", "forget replica"),
            "a standby that lives has not failed",
            "'%s' ends %s, whose instance %s lives",
            name,
            row["replica_id"],
            instance.machine.instance_id,
        )
        primary_id = world.tables.agent(world.agent_id).primary_instance_id
        died_at = world.ec2.instances[primary_id].machine.died_at
        if died_at is not None and (died_at <= world.claimed_at or world.kernel.now - died_at > UNNOTICED_SECONDS):
            self._demand_older_than_another(instance.machine)

    def _check_instance(self, written: RowWritten) -> None:
        before, after = written.before, written.after
        if before is None:
            return
        demand(before["agent_id"] == after["agent_id"], "an instance keeps its agent", "%s", written.key)
        demand(before["joined_at"] == after["joined_at"], "an instance joins once", "%s", written.key)
        was, now = str(before["role"]), str(after["role"])
        demand(was == now or now in ROLE_EDGES.get(was, ()), "instances change roles forwards", "%s to %s", was, now)

    def _check_switch(self, written: RowWritten) -> None:
        before, after = written.before, written.after
        if before is not None:
            changed = {key for key in after if after.get(key) != before.get(key)}
            demand(
                (changed <= {"served_at", "rto_seconds", "rpo_bytes", "steps"} and "steps" not in before)
                or (changed == {"old_primary"} and "old_primary" not in before),
                "one switch per epoch",
                "%s",
                sorted(changed),
            )

    def _check_snapshot(self, written: RowWritten) -> None:
        """A snapshot counts once, for the present primary, on top of the newest one, and is never taken back."""
        after = written.after
        demand(written.before is None, "a snapshot is complete once", "%s is written again", written.key)
        rows = self._world.tables.rows
        agent = rows[Table.AGENTS][after["agent_id"],]
        demand(
            (after["epoch"], after["instance_id"]) == (agent["epoch"], agent["primary_instance_id"]),
            "only the present primary's snapshots count",
            "%s of epoch %s, the agent is at %s",
            after["instance_id"],
            after["epoch"],
            agent["epoch"],
        )
        demand(not agent.get("lost"), "a lost agent stays as it is", "a snapshot of it is completed")
        previous_id = after.get("previous_id")
        if previous_id is not None:
            previous = rows[Table.SNAPSHOTS].get((after["agent_id"], previous_id))
            demand(
                previous is not None and previous["base_id"] == after["base_id"],
                "never a delta without its base",
                "%s changes %s",
                written.key,
                previous_id,
            )

    def _check_pointer(self, name: str, before: Row, after: Row) -> None:
        old, new = before.get("snapshot_id"), after.get("snapshot_id")
        if old != new:
            demand(
                name == "complete snapshot" and new is not None and (old is None or old < new),
                "the newest snapshot is never deleted",
                "'%s' moves it from %s to %s",
                name,
                old,
                new,
            )

    def _check_interruption(self, written: RowWritten) -> None:
        before, after = written.before, written.after
        if before is None:
            return
        fixed = ("detected_at", "signal_type", "instance_id", "pool_id", "response_action")
        demand(
            all(before.get(x) == after.get(x) for x in fixed), "one record per signal", "%s is replaced", written.key
        )
        if before.get("failover_completed"):
            demand(before == after, "a success is concluded once", "%s changes", written.key)

    def _check_basis(self, agent: Row) -> None:
        """What a promotion rests on is true at that moment, of this very handover."""
        world = self._world
        switch = world.tables.rows[Table.SWITCHES][agent["agent_id"], f"{agent['epoch']:010d}"]
        machine = world.ec2.instances[agent["primary_instance_id"]].machine
        former = world.ec2.instances[switch["from_instance_id"]].machine
        image = machine.disk.image
        if switch["basis"] == Basis.FINAL_GENERATION and machine.alive:
            held = set() if image is None else set(image.entries())
            missing = [number for number in world.ledger.acknowledged if number not in held]
            demand(
                not missing,
                "no write is lost in a handover",
                "%s is promoted on a final generation without %s acknowledged writes",
                machine.instance_id,
                len(missing),
            )
        if switch["basis"] in (Basis.PRIMARY_DEAD, Basis.SNAPSHOT):
            demand(not former.alive, "proof of death is true", "%s lives", former.instance_id)
        demand(
            not former.workload.serves,
            "the old primary is silent before the promotion",
            "%s serves",
            former.instance_id,
        )

    def _check_together(self, transaction: Transaction) -> None:
        """What must hold between rows."""
        rows = self._world.tables.rows
        (agent,) = rows[Table.AGENTS].values()
        active = [row for row in rows[Table.REPLICAS].values() if row["status"] in ACTIVE]
        demand(len(active) <= 1, "one active replica", "after '%s' there are %s", transaction.name, len(active))
        if active:
            held = agent.get("active_replica_id")
            demand(
                held == active[0]["replica_id"],
                "the agent knows its replica",
                "'%s': it holds %s",
                transaction.name,
                held,
            )
            demand(
                active[0]["epoch"] == agent["epoch"],
                "a replica follows the present epoch",
                "after '%s' %s follows %s, the agent is at %s",
                transaction.name,
                active[0]["replica_id"],
                active[0]["epoch"],
                agent["epoch"],
            )
        elif agent.get("active_replica_id") is not None:
            raise Violation("the agent knows its replica", f"after '{transaction.name}' it holds one that has ended")
        if agent.get("handover_state") == HandoverState.OPEN:
            handed_to = rows[Table.REPLICAS][agent["agent_id"], agent["handover_replica_id"]]
            demand(
                handed_to["status"] in ACTIVE, "a handover leads to a living replica", "it is %s", handed_to["status"]
            )
        if transaction.name == "promote":
            self._check_basis(agent)
        primaries = [key[0] for key, row in rows[Table.INSTANCES].items() if row["role"] == InstanceRole.PRIMARY]
        demand(
            primaries == [agent["primary_instance_id"]], "one primary", "after '%s': %s", transaction.name, primaries
        )
