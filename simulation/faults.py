"""What goes wrong in a run: a plan drawn from the seed, item by item, so that a failing run can be shrunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens to a run.

    Attributes:
        kind: What; see `simulation.world.World.FAULTS` and `WEATHER`.
        at: When it begins; for a strike, from when on it is armed.
        what: Which instance, process, message, port or place it is about.
        lasts: For how long.
        chance: For weather: how often, of the occasions it concerns.
        nth: For a strike: at which passing of the marker `what`.
        rival: For a pause of a write: what somebody else does at that very moment; see `RIVALS`.
    """

    kind: str
    at: float
    what: str = ""
    lasts: float = 0.0
    chance: float = 1.0
    nth: int = 1
    rival: str = ""

    def __str__(self) -> str:
        text = f"{self.at:7.2f}  {self.kind} {self.what}".rstrip()
        if self.lasts:
            text += f" for {self.lasts:.2f} s"
        if self.kind in WEATHER and self.chance < 1.0:
            text += f", {self.chance:.0%} of the time"
        if self.kind in STRIKES:
            text += f", passing {self.nth}"
        if self.rival:
            text += f", rival: {self.rival}"
        return text


WEATHER = ("lose", "delay", "repeat", "throttle", "unknown", "slow", "fail", "duplicate", "capacity")
STRIKES = ("strike-kill", "strike-pause")
ORPHANS = ("orphan", "orphan-standby")
"""Runs with one of these are swept for orphans."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before a run begins.

    Attributes:
        with_standby: A standby has joined and syncs when the run begins.
        calm_at: From here on nothing goes wrong any more.
        fair: Nothing goes wrong but one interruption: the promised times are held to the letter.
        sweeps_orphans: The sweep for orphans runs, too.
        busy_steps: After so many the run is left in peace early, so that it can come to rest within its steps.
    """

    seed: int
    with_standby: bool
    faults: tuple[Fault, ...]
    calm_at: float
    fair: bool = False
    sweeps_orphans: bool = False
    busy_steps: int = 1000


class Weather:
    """Which misfortunes are likely at this moment.

    Attributes:
        active: Some are.
        counted: How often each struck, for coverage.
    """

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.active = False
        self._kinds: dict[str, list[Fault]] = {}
        self._chance: Random | None = None

    def bind(self, kernel: Kernel) -> None:
        self._chance = kernel.chance

    def begin(self, fault: Fault) -> None:
        self._kinds.setdefault(fault.kind, []).append(fault)
        self.active = True

    def end(self, fault: Fault) -> None:
        faults = self._kinds.get(fault.kind, [])
        if fault in faults:
            faults.remove(fault)
            if not faults:
                del self._kinds[fault.kind]
        self.active = bool(self._kinds)

    def clear(self) -> None:
        self._kinds.clear()
        self.active = False

    def hits(self, kind: str, what: str) -> bool:
        """Whether this occasion is struck."""
        faults = self._kinds.get(kind)
        if not faults or self._chance is None:
            return False
        for fault in faults:
            meant = fault.what in ("*", what) or (fault.what.endswith("*") and what.startswith(fault.what[:-1]))
            if meant and self._chance.random() < fault.chance:
                return True
        return False

    def count(self, kind: str, what: str) -> None:
        self.counted[f"{kind}: {what}"] += 1


MESSAGES = (
    "*",
    "heartbeat",
    "answer to heartbeat",
    "ready",
    "answer to ready",
    "unready",
    "answer to unready",
    "commit",
    "answer to commit",
    "abort",
    "answer to abort",
    "notice",
    "silent",
    "progress",
    "join",
    "answer to join",
    "lease",
    "lease answer",
    "generation",
    "acknowledgement",
    "event",
    "answer*",
)
PORTS = (
    "*",
    "commit*",
    "commit promote",
    "commit open handover",
    "commit abort handover",
    "commit claim",
    "commit release claim",
    "commit report ready",
    "commit report unready",
    "commit create replica",
    "commit end replica",
    "commit give up launch",
    "commit decline handover",
    "commit begin launch",
    "commit end launch",
    "commit join",
    "commit store task token",
    "commit traffic moved",
    "commit mark lost",
    "agent",
    "replica",
    "states",
    "launch",
    "terminate",
    "move_address",
    "address_holders",
    "start*",
    "wake",
    "put_heartbeat",
    "prices",
)
TRANSACTIONS = (
    "abort handover",
    "begin launch",
    "claim",
    "conclude interruption",
    "create replica",
    "decline handover",
    "end launch",
    "end replica",
    "fall back",
    "give up launch",
    "join",
    "mark lost",
    "open handover",
    "promote",
    "prove primary dead",
    "raise urgency",
    "record interruption",
    "record switch",
    "record sync",
    "release claim",
    "report ready",
    "report unready",
    "store task token",
    "traffic moved",
)
RIVALS = (
    "",
    "twin",
    "abort",
    "retake",
    "redrive",
    "death",
    "standby-death",
    "notice",
    "operator-promote",
    "operator-create",
    "operator-terminate",
    "sweep",
    "shut-down",
)
RACES = (
    ("abort handover", ""),
    ("abort handover", "twin"),
    ("begin launch", "operator-terminate"),
    ("begin launch", "twin"),
    ("claim", "death"),
    ("claim", "operator-promote"),
    ("claim", "twin"),
    ("create replica", "operator-create"),
    ("create replica", "twin"),
    ("create replica", "death"),
    ("decline handover", "abort"),
    ("decline handover", "twin"),
    ("end launch", "operator-terminate"),
    ("end launch", "twin"),
    ("end replica", "operator-promote"),
    ("end replica", "notice"),
    ("end replica", "twin"),
    ("fall back", "operator-create"),
    ("fall back", "retake"),
    ("fall back", "twin"),
    ("give up launch", "notice"),
    ("give up launch", "twin"),
    ("join", "operator-terminate"),
    ("join", "twin"),
    ("mark lost", "operator-create"),
    ("mark lost", "retake"),
    ("mark lost", "twin"),
    ("open handover", "abort"),
    ("open handover", "operator-terminate"),
    ("open handover", "retake"),
    ("open handover", "standby-death"),
    ("open handover", "twin"),
    ("promote", "abort"),
    ("promote", "abort"),
    ("promote", "twin"),
    ("prove primary dead", "abort"),
    ("prove primary dead", "twin"),
    ("raise urgency", "retake"),
    ("raise urgency", "twin"),
    ("raise urgency", "death"),
    ("raise urgency", ""),
    ("record sync", "operator-terminate"),
    ("release claim", "retake"),
    ("report ready", "operator-terminate"),
    ("report ready", ""),
    ("report unready", "operator-terminate"),
    ("report unready", ""),
    ("store task token", "retake"),
    ("traffic moved", "death"),
    ("traffic moved", "death"),
    ("traffic moved", "death"),
    ("traffic moved", "twin"),
)
"""Pairs of a write that is held up and of somebody who is at the same rows meanwhile."""

AGENT_MARKERS = (
    "Remember",
    "ReportReady",
    "ReportUnready",
    "Commit",
    "Abort",
    "Freeze",
    "ShipFinal",
    "Thaw",
    "Start",
    "Stop",
    "SetFence",
    "AskLease",
    "AnswerLease",
    "ReportNotice",
    "ReportSilent",
    "Connect",
    "Listen",
    "Beat",
    "generation durable",
)
TASK_MARKERS = (
    "RecordInterruption",
    "SelectStandby",
    "LaunchReplacement",
    "AwaitReady",
    "OpenHandover",
    "AwaitServing",
    "AssessHandover",
    "SwitchTraffic",
    "ConfirmServing",
    "RecordSwitch",
    "MarkLost",
    "AbortHandover",
    "RecordFailure",
    "SelectPool",
    "LaunchInstance",
    "AwaitAgent",
    "AwaitSync",
    "ConfirmReady",
    "FailReplica",
    "NoteSignal",
    "SweepSilentAgents",
    "ReconcileTraffic",
    "heartbeat",
    "ready",
    "unready",
    "commit",
    "abort",
    "notice",
    "silent",
    "join",
    "progress",
)


def draw_plan(seed: int) -> Plan:
    """Draw what will go wrong; it has a source of chance of its own, so that the world's stays the same."""
    chance = Random(f"plan {seed}")
    with_standby = chance.random() < 0.8
    if chance.random() < 0.06:
        kind = chance.choice(("notice", "notice", "death")) if with_standby else "notice"
        return Plan(seed, with_standby, (Fault(kind, chance.uniform(9.0, 14.0), "primary"),), 20.0, fair=True)
    if seed % 100 in STAGES:
        return STAGES[seed % 100](chance, seed)
    faults = _interruptions(chance, with_standby=with_standby)
    main_at = faults[0].at
    for _ in range(int(chance.expovariate(0.28)) + 1 if chance.random() < 0.95 else 0):
        faults.append(_draw_fault(chance, around=main_at))
    if chance.random() < 0.5:
        faults = faults[:6] + _race(chance, around=main_at)
    faults = _but_two_notices(sorted(faults[:14], key=lambda fault: fault.at))
    latest = max(min(fault.at + fault.lasts, main_at + 45.0) for fault in faults)
    return Plan(seed, with_standby, tuple(faults), max(latest, main_at + 10.0) + chance.uniform(0.0, 10.0))


def _but_two_notices(faults: list[Fault]) -> list[Fault]:
    """Each notice is two minutes of failover, and a pause puts that off: with three of these a run would be long."""
    late = [index for index, fault in enumerate(faults) if fault.kind == "notice"][2:]
    notices = sum(fault.kind == "notice" for fault in faults)
    return [
        fault
        for index, fault in enumerate(faults)
        if index not in late and not (notices > 1 and fault.kind == "operator-pause")
    ]


def _held(write: str, lasts: float, rival: str = "") -> Fault:
    """Hold the next such write for so long; what was read for it may be over by then."""
    return Fault("strike-pause", 0.0, f"*:commit {write}", lasts, rival=rival)


def _promotion_held(chance: Random, seed: int) -> Plan:
    at = chance.uniform(9.0, 13.0)
    if seed % 200 == 59:
        # The handover is aborted and the next one opened while a promotion under the first is on its way.
        faults = [Fault("notice", at, "primary"), _held("promote", chance.uniform(0.3, 2.9), "abort")]
    else:
        # The primary wakes, takes readiness back and serves while a promotion on its expired lease is on its way.
        faults = [
            Fault("pause-agent", at, "primary", chance.uniform(4.2, 6.5)),
            _held("promote", chance.uniform(0.3, 2.9)),
            # It does not hear of the handover, which would hold it still.
            Fault("lose", at + 3.8, "answer to heartbeat", 8.0, chance.choice((0.7, 1.0))),
        ]
    return Plan(seed, True, tuple(faults), at + 20.0)


def _promotion_held_beyond_readiness(chance: Random, seed: int) -> Plan:
    """The same, until the standby, restarted, grants again and is ready under the next number."""
    at = chance.uniform(9.0, 12.0)
    faults = (
        Fault("pause-agent", at, "primary", chance.uniform(4.2, 6.0)),
        _held("promote", chance.uniform(4.0, 9.0)),
        Fault("strike-kill", 0.0, "agent:Commit!", chance.uniform(0.1, 0.5)),
        Fault("lose", at + 3.5, "answer to heartbeat@primary", 12.0),
    )
    return Plan(seed, True, faults, at + 25.0)


def _opening_held_beyond_a_handover(chance: Random, seed: int) -> Plan:
    """Another copy of the task opens the handover, which is aborted, before this copy's write comes through."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("notice", at, "primary"),
        _held("open handover", chance.uniform(0.6, 3.0), "twin"),
        _held("promote", chance.uniform(0.2, 1.0), "abort"),
    )
    return Plan(seed, True, faults, at + 20.0)


def _opening_held_beyond_readiness(chance: Random, seed: int) -> Plan:
    """The replica is ready, not ready, and ready again before the write comes through."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("notice", at, "primary"),
        _held("open handover", chance.uniform(3.0, 7.0)),
        Fault("partition", max(0.0, at - chance.uniform(-0.5, 0.3)), "primary standby", chance.uniform(0.5, 2.0)),
    )
    return Plan(seed, True, faults, at + 20.0)


def _opening_held_beyond_its_claim(chance: Random, seed: int) -> Plan:
    """The execution gives up, and releases its claim, before the other copy's write comes through."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("throttle", at - 0.5, "commit open handover", 26.0),
        Fault("operator-promote", at),
        _held("open handover", 0.05, "twin"),
        _held("open handover", chance.uniform(27.0, 40.0)),
    )
    return Plan(seed, True, faults, at + 45.0)


def _abort_held_beyond_a_handover(chance: Random, seed: int) -> Plan:
    """A request to abort one handover arrives while the next one is open."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("notice", at, "primary"),
        _held("promote", chance.uniform(0.3, 1.0), "abort"),
        _held("abort handover", chance.uniform(1.5, 4.5), "abort"),
        _held("promote", chance.uniform(1.5, 5.0)),
    )
    return Plan(seed, True, faults, at + 20.0)


def _fall_back_held(chance: Random, seed: int) -> Plan:
    """There is no way but back; at that moment an operator creates a replica, or stops the execution and asks anew."""
    at = chance.uniform(9.0, 11.0)
    faults = [Fault("operator-promote", at), Fault("death", at + chance.uniform(5.5, 8.0), "primary")]
    if chance.random() < 0.6:
        faults += [_held("fall back", chance.uniform(0.4, 1.5), "retake"), _held("fall back", 4.0)]
        return Plan(seed, True, tuple(faults), at + 75.0)
    faults.append(_held("fall back", chance.uniform(0.03, 0.4), "operator-create"))
    if chance.random() < 0.6:
        faults.append(_held("create replica", chance.uniform(0.3, 2.0)))
    return Plan(seed, True, tuple(faults), at + 75.0)


def _loss_held(chance: Random, seed: int) -> Plan:
    """Every copy is gone; at that moment an operator asks for a replica, or stops the execution and asks anew."""
    at = chance.uniform(3.0, 8.0)
    faults = [Fault("death", at, "primary")]
    draw = chance.random()
    if draw < 0.35:
        faults.append(_held("mark lost", chance.uniform(0.25, 0.9), "retake"))
    elif draw < 0.7:
        faults.append(_held("mark lost", chance.uniform(0.3, 1.5), "operator-create"))
    else:
        faults.append(_held("mark lost", chance.uniform(0.03, 0.3), "operator-create"))
        faults.append(_held("create replica", chance.uniform(0.3, 1.5)))
    return Plan(seed, False, tuple(faults), at + 75.0)


def _loss_held_beyond_a_snapshot(chance: Random, seed: int) -> Plan:
    """No copy is left; then the dead primary's first snapshot is found complete, just before or just after the look."""
    at = chance.uniform(2.5, 3.5)
    where = chance.choice(("MarkLost:agent", "*:commit mark lost"))
    faults = (
        *_snapshots_held(chance.uniform(10.0, 20.0)),
        Fault("shut-down", at, "primary"),
        Fault("strike-pause", 0.0, where, chance.uniform(15.0, 40.0)),
    )
    return Plan(seed, False, faults, at + 75.0)


def _snapshot_held_beyond_a_loss(chance: Random, seed: int) -> Plan:
    """A snapshot is completed after its agent was given up."""
    at = chance.uniform(3.5, 5.0)
    faults = (*_snapshots_held(chance.uniform(12.0, 24.0)), Fault("shut-down", at, "primary"))
    return Plan(seed, False, faults, at + 40.0)


def _snapshot_held_beyond_a_fall_back(chance: Random, seed: int) -> Plan:
    """A snapshot is completed when its primary is the primary again, two epochs later."""
    at = chance.uniform(4.0, 5.0)
    faults = (
        *_snapshots_held(chance.uniform(19.0, 24.0)),
        Fault("operator-promote", at),
        Fault("shut-down", at + chance.uniform(2.2, 3.5), "primary"),
    )
    return Plan(seed, True, faults, at + 60.0)


def _snapshots_held(lasts: float) -> tuple[Fault, ...]:
    """Hold the first snapshot's completion, and those that follow when nobody answered for longer than that."""
    return (_held("complete snapshot", lasts), *(_held("complete snapshot", 24.0) for _ in range(4)))


def _opening_held_beyond_its_attempt(chance: Random, seed: int) -> Plan:
    """An operator stops the execution and asks anew before the stopped one's write comes through."""
    at = chance.uniform(8.0, 12.0)
    faults = (Fault("notice", at, "primary"), _held("open handover", chance.uniform(0.1, 1.2), "retake"))
    return Plan(seed, True, faults, at + 20.0)


def _overtaken_before_it_serves(chance: Random, seed: int) -> Plan:
    """The promoted instance dies before it serves, and the next failover goes back to the one before."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("notice", at, "primary"),
        Fault("strike-kill", at, "agent:Start", 200.0),
        Fault("shut-down", at + chance.uniform(1.5, 3.0), "primary"),
    )
    return Plan(seed, True, faults, at + 45.0)


def _redriven(chance: Random, seed: int) -> Plan:
    """An operator stops an execution, asks anew, and then has the stopped one go on from where it was."""
    at = chance.uniform(8.0, 12.0)
    where = ("RecordInterruption", "SelectStandby", "OpenHandover", "AwaitServing", "AssessHandover", "AssessHandover")
    faults = (
        Fault("notice", at, "primary"),
        # It waits in vain for five seconds, and looks again.
        Fault("lose", at, "commit", 9.0, chance.choice((0.0, 1.0))),
        Fault("strike-pause", 0.0, f"{chance.choice(where)}:", chance.uniform(0.05, 0.6), rival="redrive"),
    )
    return Plan(seed, True, faults, at + 30.0)


def _redriven_while_it_restores(chance: Random, seed: int) -> Plan:
    """The same, behind a dead primary whose snapshot is all there is."""
    at = chance.uniform(8.0, 12.0)
    where = chance.choice(("AwaitReady:", "RestoreSnapshot:", "RestoreSnapshot:"))
    faults = (
        Fault("shut-down", at, "primary"),
        Fault("strike-pause", 0.0, where, chance.uniform(0.05, 0.6), rival="redrive"),
    )
    return Plan(seed, False, faults, at + 75.0)


def _claim_released_beyond_its_attempt(chance: Random, seed: int) -> Plan:
    """A planned handover is aborted, so its execution fails; an operator stops it before it lets go, and asks anew."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("operator-promote", at),
        _held("promote", chance.uniform(0.3, 1.5), "abort"),
        _held("release claim", chance.uniform(0.8, 4.0), "retake"),
    )
    return Plan(seed, True, faults, at + 30.0)


def _await_held_beyond_a_handover(chance: Random, seed: int) -> Plan:
    """A late copy of a task opens the handover while the execution begins to wait, until the next epoch is claimed."""
    at = chance.uniform(8.0, 11.0)
    faults = (
        Fault("duplicate", at - 0.5, "OpenHandover", 8.0),
        Fault("notice", at, "primary"),
        _held("promote", chance.uniform(0.3, 1.0), "abort"),
        Fault("partition", at + chance.uniform(0.3, 1.2), "primary standby", chance.uniform(1.5, 3.0)),
        Fault("strike-pause", 0.0, "AwaitReady:agent", chance.uniform(26.0, 29.0)),
        Fault("notice", at + chance.uniform(23.0, 25.0), "primary"),
    )
    return Plan(seed, True, faults, at + 60.0)


def _signal_held_beyond_a_promotion(chance: Random, seed: int) -> Plan:
    """A notice joins a planned handover that has succeeded by the time its urgency is written."""
    at = chance.uniform(9.0, 12.0)
    faults = (
        Fault("operator-promote", at),
        _held("record interruption", chance.uniform(0.02, 0.1), "notice"),
        # Both EventBridge and the agent bring it.
        _held("raise urgency", chance.uniform(1.5, 4.0)),
        _held("raise urgency", chance.uniform(1.5, 4.0)),
        _held("record switch", chance.uniform(3.0, 6.0)),
    )
    return Plan(seed, True, faults, at + 20.0)


def _progress_held_beyond_the_next(chance: Random, seed: int) -> Plan:
    """The standby tells of a generation after it has told of a later one."""
    at = chance.uniform(6.0, 12.0)
    faults = (
        *(_held("record sync", chance.uniform(2.0, 14.0)) for _ in range(2)),
        Fault("notice", at + 35.0, "primary"),
    )
    return Plan(seed, True, faults, at + 50.0)


def _two_pause(chance: Random, seed: int) -> Plan:
    """Two operators pause the agent, or everything, at once."""
    at = chance.uniform(3.0, 8.0)
    what = chance.choice(("", "all"))
    faults = (
        Fault("operator-pause", at, what, chance.uniform(10.0, 30.0)),
        Fault("operator-pause", at + chance.uniform(0.0, 5.0), what, chance.uniform(5.0, 20.0)),
        Fault("notice", at + 8.0, "primary"),
    )
    return Plan(seed, True, faults, at + 20.0)


def _release_held(chance: Random, seed: int) -> Plan:
    """A failover begins, and may open its handover, while a standby that has been quiet for long is let go of."""
    at = chance.uniform(1.0, 4.0)
    rival, lasts = chance.choice((("notice", (0.1, 1.5)), ("notice", (1.0, 4.0)), ("operator-promote", (0.1, 1.5))))
    faults = (Fault("rebalance", at, "primary"), _held("release replica", chance.uniform(*lasts), rival))
    return Plan(seed, False, faults, at + 150.0)


def _release_held_beyond_a_claim(chance: Random, seed: int) -> Plan:
    """The same, until the failover has begun, behind a primary that was alive when it was asked, and has failed: not
    the first attempt of its epoch, or the first of the second epoch.
    """
    is_second_epoch = seed % 200 >= 100
    at = 9.0 if is_second_epoch else 1.0
    released_at = at + chance.uniform(46.0, 64.0)
    faults = (
        Fault("operator-promote", at),
        Fault("rebalance", at + 3.0, "primary"),
        # Not before the standby is ready.
        Fault("throttle", at, "commit release replica", released_at - at - 0.1),
        Fault("sweep-again", released_at),
        Fault("strike-pause", released_at, "*:commit release replica", chance.uniform(10.0, 20.0), rival="shut-down"),
        Fault("lose", released_at, "silent", 40.0),
        Fault("strike-kill", released_at, "SelectStandby:"),
    )
    return Plan(seed, is_second_epoch, faults, released_at + 70.0, busy_steps=1700)


def _decline_held_beyond_its_handover(chance: Random, seed: int) -> Plan:
    """A standby that holds nothing declines; meanwhile that handover is aborted, and the next one may be opened."""
    at = chance.uniform(4.0, 9.0)
    faults = (
        Fault("lose", 0.0, "generation", 90.0),
        Fault("shut-down", at, "primary"),
        _held("decline handover", chance.choice((chance.uniform(0.02, 0.4), chance.uniform(0.4, 6.0))), "abort"),
    )
    return Plan(seed, True, faults, at + 60.0)


def _launch_given_up_as_it_joins(chance: Random, seed: int) -> Plan:
    """Nobody can wait for the instance, so its replica is given up, which it joins as in this very moment."""
    at = chance.uniform(2.0, 6.0)
    faults = (
        Fault("throttle", at, "commit store task token", 60.0),
        Fault("operator-create", at),
        _held("give up launch", chance.uniform(10.0, 50.0)),
    )
    return Plan(seed, False, faults, at + 70.0)


def _two_create(chance: Random, seed: int) -> Plan:
    """Two operators create a replica, each for a purpose of his own."""
    at = chance.uniform(1.0, 4.0)
    faults = (Fault("operator-create", at), _held("create replica", chance.uniform(0.2, 1.5), "operator-create"))
    return Plan(seed, False, faults, at + 5.0)


def _launch_held_beyond_the_next(chance: Random, seed: int) -> Plan:
    """A pool has no capacity; one copy of the task writes that down after the other has gone on to the next pool."""
    at = chance.uniform(2.0, 6.0)
    faults = (
        Fault("capacity", at - 1.0, "us-east-1a.m5a.large", 40.0),
        Fault(chance.choice(("operator-create", "notice")), at, "primary"),
        Fault("strike-pause", 0.0, "LaunchInstance:commit begin launch", chance.uniform(0.02, 0.2), rival="twin"),
        _held("end launch", chance.uniform(1.0, 5.0)),
    )
    return Plan(seed, False, faults, at + 20.0)


def _signal_held_beyond_its_claim(chance: Random, seed: int) -> Plan:
    """A notice joins a planned handover that has failed by the time its urgency is written."""
    at = chance.uniform(2.0, 6.0)
    faults = (
        Fault("operator-promote", at),
        _held("record interruption", chance.uniform(0.02, 0.1), "notice"),
        _held("raise urgency", chance.uniform(0.6, 2.5)),
    )
    return Plan(seed, False, faults, at + 15.0)


def _traffic_held_beyond_the_next(chance: Random, seed: int) -> Plan:
    """The address is moved by a mover of the epoch before, between the next one's move and its record of it."""
    at = chance.uniform(8.0, 9.0)
    if chance.random() < 0.3:
        faults = [
            Fault("notice", at, "primary"),
            Fault("notice", at, "standby"),
            Fault("strike-pause", 0.0, "ReconcileTraffic:move_address", chance.uniform(30.0, 58.0)),
        ]
    else:
        # The primary in between lives and is cut off: nobody else moves, or records, its traffic.
        cut_at = chance.uniform(45.0, 48.0)
        faults = [
            Fault("operator-promote", at),
            Fault("rebalance", at + 2.0, "primary"),
            Fault("strike-pause", 0.0, "SwitchTraffic:move_address", chance.uniform(55.0, 58.0)),
            Fault("partition", cut_at, "primary control-plane", 40.0),
            Fault("partition", cut_at, "primary standby", 40.0),
        ]
    faults.append(Fault("strike-pause", 0.0, "SwitchTraffic:commit traffic moved", chance.uniform(15.0, 30.0)))
    return Plan(seed, True, tuple(faults), at + 90.0, busy_steps=1700)


def _traffic_taken_back_for_good(chance: Random, seed: int) -> Plan:
    """A mover of the epoch before is so late that it takes the address back, and it dies with that."""
    at = chance.uniform(8.0, 9.0)
    faults = (
        Fault("notice", at, "primary"),
        Fault("notice", at, "standby"),
        Fault("strike-pause", 0.0, "ReconcileTraffic:move_address", chance.uniform(40.0, 58.0)),
        Fault("strike-kill", at + 20.0, "ReconcileTraffic:move_address!"),
    )
    return Plan(seed, True, faults, at + 90.0)


def _restarted_behind_a_promotion(chance: Random, seed: int) -> Plan:
    """A noticed primary dies with its workload, is followed by its standby, and is restarted where it hears of nothing
    but its notice.
    """
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("partition", at, "primary control-plane", 40.0),
        Fault("kill-agent", at, "primary", chance.uniform(9.0, 15.0)),
        Fault("kill-workload", at, "primary"),
        Fault("notice", at + 0.2, "primary"),
    )
    return Plan(seed, True, faults, at + 45.0)


def _terminated_by_hand(chance: Random, seed: int) -> Plan:
    """EC2 says `shutting-down` of a silent primary that still serves."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("pause-agent", at, "primary", 10.0),
        Fault("shut-down", at + chance.uniform(2.0, 2.9), "primary"),
    )
    return Plan(seed, True, faults, at + 20.0)


def _failure_not_recorded(chance: Random, seed: int) -> Plan:
    """There is no capacity, and that the replica has failed can not be written for longer than anybody tries."""
    at = chance.uniform(2.0, 6.0)
    faults = (
        Fault("capacity", at - 1.0, "*", 360.0),
        Fault("throttle", at - 1.0, "commit give up launch", 360.0),
        Fault("operator-create", at),
    )
    return Plan(seed, False, faults, at + 360.0)


def _lease_answered_late(chance: Random, seed: int) -> Plan:
    """The answer to a question from before a pause is read after it, and nothing else reaches the primary."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("delay", at - 1.05, "lease answer", 1.1),
        Fault("pause-agent", at, "primary", chance.uniform(2.6, 3.8)),
        Fault("lose", at, "unready", 15.0),
        Fault("lose", at, "answer to heartbeat@primary", 15.0),
    )
    return Plan(seed, True, faults, at + 20.0)


def _swept_while_it_fails_over(chance: Random, seed: int) -> Plan:
    """The minute's sweep looks at an agent between two steps of its failover."""
    at = chance.uniform(8.0, 12.0)
    write = chance.choice(("claim", "open handover", "promote", "traffic moved", "record switch", "release claim"))
    faults = (Fault("notice", at, "primary"), _held(write, chance.uniform(0.05, 2.0), "sweep"))
    return Plan(seed, True, faults, at + 20.0)


def _restore_held(chance: Random, seed: int) -> Plan:
    """A snapshot is to be restored: the write does not come through for longer than anybody tries; or one copy of the
    task is so late that the restored instance is noticed before it.
    """
    at = chance.uniform(18.0, 22.0)
    faults = [Fault("shut-down", at, "primary")]
    if chance.random() < 0.4:
        faults.append(Fault("throttle", at, "commit open handover", 150.0))
    else:
        late = chance.uniform(26.0, 29.0)
        faults.append(Fault("strike-pause", 0.0, "RestoreSnapshot:agent", late, rival="twin"))
        faults.append(Fault("notice", at + chance.uniform(40.0, 90.0), "primary"))
    return Plan(seed, False, tuple(faults), at + 170.0)


def _orphans_amid_trouble(chance: Random, seed: int) -> Plan:
    """Launches that no row knows, amid whatever else may go wrong; one of them may be taken back by AWS."""
    faults = _interruptions(chance, with_standby=True)
    main_at = faults[0].at
    faults += [_draw_fault(chance, around=main_at) for _ in range(chance.randrange(4))]
    at = main_at + chance.uniform(-3.0, 40.0)
    faults.append(Fault("orphan", max(at, 0.5), chance.choice(("1", "2", "noticed"))))
    if chance.random() < 0.4:
        faults.append(Fault("operator-pause", max(at, 0.5) + chance.uniform(0.0, 30.0), "", chance.uniform(20.0, 90.0)))
    faults = _but_two_notices(sorted(faults, key=lambda fault: fault.at))
    return Plan(seed, True, tuple(faults), main_at + chance.uniform(90.0, 140.0), busy_steps=900)


def _many_orphans(chance: Random, seed: int) -> Plan:
    """So many things are nobody's that the sweep must be wrong."""
    return Plan(seed, True, (Fault("orphan", chance.uniform(1.0, 9.0), chance.choice(("3", "4", "7"))),), 120.0)


def _standby_forgotten(chance: Random, seed: int) -> Plan:
    """A standby's row is given up without a word to its instance; then the primary dies, and nothing is as new."""
    at = chance.uniform(10.0, 14.0)
    faults = (Fault("orphan-standby", at), Fault("death", at + chance.uniform(0.2, 2.0), "primary"))
    return Plan(seed, True, faults, at + 200.0)


def _two_sweep(chance: Random, seed: int) -> Plan:
    """Two sweeps for orphans look at the same things."""
    faults = (
        Fault("orphan", chance.uniform(1.0, 9.0), chance.choice(("1", "2", "3"))),
        Fault(
            "strike-pause",
            0.0,
            "*:commit report orphans",
            chance.uniform(0.5, 9.0),
            nth=chance.choice((1, 2, 3)),
            rival="twin",
        ),
        Fault("strike-pause", 0.0, "*:commit report ended orphans", chance.uniform(5.0, 40.0)),
    )
    return Plan(seed, True, faults, 150.0)


def _end_held_beyond_an_opening(chance: Random, seed: int) -> Plan:
    """A standby dies in its handover, which is aborted for that; before its replica ends, the next one is opened."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        # It neither hands over nor takes readiness back.
        Fault("pause-agent", at, "primary", 30.0),
        Fault("notice", at, "primary"),
        Fault("shut-down", at + chance.uniform(0.3, 1.0), "standby"),
        Fault("strike-pause", 0.0, "NoteSignal:commit end replica", chance.uniform(2.0, 8.0)),
    )
    return Plan(seed, True, faults, at + 20.0)


def _two_promote(chance: Random, seed: int) -> Plan:
    """Two operators ask for a promotion at once, and there is nobody to promote; it is not the first time."""
    at = chance.uniform(2.0, 6.0)
    faults = (
        Fault("operator-promote", 1.0),
        Fault("operator-promote", at),
        Fault("strike-pause", at, "*:commit claim", chance.uniform(0.2, 2.0), rival="operator-promote"),
    )
    return Plan(seed, False, faults, at + 10.0)


def _report_held_beyond_a_withdrawal(chance: Random, seed: int) -> Plan:
    """A standby is reported ready, and not ready any more, before the report comes through."""
    faults = (
        _held("report ready", chance.uniform(3.0, 9.0)),
        Fault("lose", chance.uniform(2.0, 6.0), "lease answer", 6.0),
    )
    return Plan(seed, True, faults, 20.0)


def _token_held_beyond_its_execution(chance: Random, seed: int) -> Plan:
    """One copy of a task leaves its token after the other's has been used, and the execution has ended."""
    at = chance.uniform(8.0, 12.0)
    faults = (Fault("notice", at, "primary"), _held("store task token", chance.uniform(2.0, 9.0), "twin"))
    return Plan(seed, True, faults, at + 20.0)


def _launch_never_answered(chance: Random, seed: int) -> Plan:
    """EC2 launches and does not answer for so long that the preparation gives up: no row knows of what runs."""
    at = chance.uniform(2.0, 6.0)
    faults = (Fault("operator-create", at), Fault("unknown", at, "launch", 900.0))
    return Plan(seed, False, faults, at + 905.0, sweeps_orphans=True)


def _launched_after_an_interruption(chance: Random, seed: int) -> Plan:
    """The cheapest pool has interrupted us two minutes ago."""
    at = chance.uniform(8.0, 12.0)
    faults = (Fault("notice", at, "primary"), Fault("operator-create", at + chance.uniform(125.0, 140.0)))
    return Plan(seed, True, faults, at + 145.0)


def _begun_beyond_the_epoch(chance: Random, seed: int) -> Plan:
    """A second attempt is slow to begin, while the first one's handover goes through and the next notice comes."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("notice", at, "primary"),
        _held("store task token", 0.05, "retake"),
        Fault("strike-pause", 0.0, "RecordInterruption:agent", chance.uniform(5.0, 9.5), nth=2),
        Fault("notice", at + chance.uniform(1.5, 4.0), "primary"),
    )
    return Plan(seed, True, faults, at + 25.0)


def _failure_not_told(chance: Random, seed: int) -> Plan:
    """A failover fails, and dies as it writes that down."""
    at = chance.uniform(2.0, 6.0)
    faults = (Fault("operator-promote", at), Fault("strike-kill", 0.0, "RecordFailure:"))
    return Plan(seed, False, faults, at + 10.0)


def _promotion_held_beyond_a_restart(chance: Random, seed: int) -> Plan:
    """A standby forgets that it asked, while its primary, awake again, can not take readiness back."""
    at = chance.uniform(8.0, 11.0)
    faults = (
        Fault("pause-agent", at, "primary", chance.uniform(4.2, 6.0)),
        Fault("lose", at + 2.0, "unready", 30.0),
        Fault("lose", at + 3.5, "answer to heartbeat@primary", 12.0),
        _held("promote", chance.uniform(3.0, 9.0)),
        Fault("strike-kill", 0.0, "agent:Commit!", chance.uniform(0.1, 0.5)),
    )
    return Plan(seed, True, faults, at + 35.0)


def _two_join(chance: Random, seed: int) -> Plan:
    """A request to join comes through twice, or after an operator has ended the replica."""
    at = chance.uniform(2.0, 6.0)
    rival = chance.choice(("twin", "operator-terminate"))
    faults = (Fault("operator-create", at), _held("join", chance.uniform(0.3, 3.0), rival))
    return Plan(seed, False, faults, at + 75.0)


def _withdrawal_held_beyond_the_end(chance: Random, seed: int) -> Plan:
    """An operator lets go of a standby whose readiness is being taken back."""
    at = chance.uniform(7.0, 10.0)
    faults = (
        Fault("lose", at, "lease answer", 6.0),
        Fault("strike-pause", at, "*:commit report unready", chance.uniform(1.0, 5.0), rival="operator-terminate"),
    )
    return Plan(seed, True, faults, at + 20.0)


def _token_held_beyond_the_epoch(chance: Random, seed: int) -> Plan:
    """One copy of a task leaves its token after the other's has been used, and the next epoch has been claimed."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("notice", at, "primary"),
        _held("store task token", chance.uniform(5.0, 9.0), "twin"),
        Fault("notice", at + chance.uniform(2.0, 4.5), "primary"),
    )
    return Plan(seed, True, faults, at + 30.0)


def _opened_again_beyond_the_epoch(chance: Random, seed: int) -> Plan:
    """The task dies as its write comes through; when it is run again, the next epoch has been claimed."""
    at = chance.uniform(8.0, 12.0)
    faults = (
        Fault("notice", at, "primary"),
        Fault("strike-kill", 0.0, "OpenHandover:commit open handover!"),
        Fault("strike-pause", 0.0, "OpenHandover:agent", chance.uniform(6.0, 12.0), nth=2),
        Fault("notice", at + chance.uniform(3.0, 5.0), "primary"),
    )
    return Plan(seed, True, faults, at + 30.0)


def _retirement_held(chance: Random, seed: int) -> Plan:
    """An old primary is given up; at that moment its successor is noticed, or the other copy's standby ends."""
    at = chance.uniform(8.0, 10.0)
    faults = [Fault("operator-promote", at)]
    if seed % 2:
        # A snapshot is the other copy.
        faults.append(_held("retire", chance.uniform(0.3, 3.0), "notice"))
    else:
        faults.append(Fault("operator-create", at + 4.0))
        faults.append(_held("retire", chance.uniform(0.3, 3.0), chance.choice(("operator-terminate", "standby-death"))))
    return Plan(seed, True, tuple(faults), at + 130.0)


def _demoted(chance: Random, seed: int) -> Plan:
    """An old primary is demoted; then its successor is taken, now before it has sent anything, now long after."""
    at = chance.uniform(8.0, 10.0)
    after = chance.choice((chance.uniform(1.5, 4.5), chance.uniform(4.0, 30.0)))
    faults = [Fault("operator-promote", at, "demote")]
    draw = chance.random()
    if draw < 0.3:
        faults.append(Fault("operator-promote", at + after + 12.0, "demote"))
        faults.append(Fault("operator-promote", at + after + 30.0, "demote"))
    elif draw < 0.7:
        faults.append(Fault(chance.choice(("shut-down", "death", "notice")), at + after, "primary"))
    else:
        faults.append(Fault("strike-kill", 0.0, chance.choice(("agent:HoldState", "agent:state held")), 0.5))
        faults.append(Fault("shut-down", at + after, "primary"))
    return Plan(seed, True, tuple(faults), at + 60.0)


def _demotion_held(chance: Random, seed: int) -> Plan:
    """An old primary is demoted; before the write comes through another replica is made, or every copy is gone, or the
    next primary is promoted.
    """
    at = chance.uniform(8.0, 9.0)
    faults = [Fault("operator-promote", at, "demote")]
    draw = chance.random()
    if draw < 0.3:
        faults.append(_held("demote", chance.uniform(0.3, 3.0), chance.choice(("operator-create", "twin"))))
    elif draw < 0.6:
        faults.append(_held("demote", chance.uniform(14.0, 19.0)))
        faults.append(Fault("shut-down", at + chance.uniform(2.0, 3.0), "old"))
        faults.append(Fault("shut-down", at + chance.uniform(3.0, 4.0), "primary"))
    else:
        # The task is cut off in its first try, and the second is held.
        faults.append(_held("demote", chance.uniform(50.0, 58.0)))
        faults.append(Fault("operator-create", at + 3.0))
        faults.append(Fault("notice", at + chance.uniform(32.0, 40.0), "primary"))
    return Plan(seed, True, tuple(faults), at + 80.0)


def _abort_of_a_plan_held(chance: Random, seed: int) -> Plan:
    """An operator aborts a planned handover; before that comes through AWS gives notice, or it was aborted and
    the next one is open.
    """
    at = chance.uniform(8.0, 10.0)
    faults = [
        Fault("operator-promote", at, chance.choice(("", "demote"))),
        _held("promote", chance.uniform(3.0, 6.0)),
        Fault("operator-abort", at + chance.uniform(0.8, 1.4)),
    ]
    if seed % 100 == 97:
        faults.append(_held("abort planned handover", chance.uniform(0.1, 1.0), "notice"))
    else:
        faults.append(_held("abort planned handover", chance.uniform(3.5, 6.0), "abort"))
        faults.append(Fault("operator-promote", at + chance.uniform(3.0, 4.0)))
        faults.append(_held("promote", chance.uniform(3.0, 6.0)))
    return Plan(seed, True, tuple(faults), at + 20.0)


def _two_conclude(chance: Random, seed: int) -> Plan:
    """Two sweeps conclude what became of a primary that AWS took."""
    at = chance.uniform(8.0, 10.0)
    faults = (Fault("death", at, "primary"), _held("conclude switch", chance.uniform(0.3, 3.0), "sweep"))
    return Plan(seed, True, faults, at + 130.0)


def _switched(chance: Random, seed: int) -> Plan:
    """An operator moves the workload: a replica is launched, and takes over when it is ready; or AWS takes one of the
    two back before, or he thinks better of it.
    """
    at = chance.uniform(2.0, 6.0)
    faults = [Fault("operator-switch", at)]
    amid = at + chance.uniform(1.0, 75.0)
    draw = chance.random()
    if draw < 0.5:
        kind, who = chance.choice(("notice", "death", "shut-down")), chance.choice(("primary", "standby"))
        faults.append(Fault(kind, amid, who))
    elif draw < 0.7:
        faults.append(Fault(chance.choice(("operator-terminate", "operator-promote", "rebalance")), amid, "primary"))
    elif draw < 0.8:
        faults.append(Fault("operator-pause", amid, "", chance.uniform(20.0, 60.0)))
    return Plan(seed, False, tuple(faults), at + 90.0)


def _switch_aborted(chance: Random, seed: int) -> Plan:
    """The standby that is there takes over for a switch; its handover is aborted, and later tried once more."""
    at = chance.uniform(8.0, 12.0)
    faults = [Fault("operator-switch", at), _held("promote", chance.uniform(0.3, 2.0), "abort")]
    if chance.random() < 0.5:
        faults.append(Fault("notice", at + chance.uniform(0.1, 30.0), "primary"))
    return Plan(seed, True, tuple(faults), at + 30.0)


def _switch_held(chance: Random, seed: int) -> Plan:
    """Two operators switch at once; or one does while the standby ends, or is promoted."""
    at = chance.uniform(8.0, 12.0)
    rival = chance.choice(("operator-switch", "operator-switch", "operator-terminate", "standby-death", "notice"))
    faults = (Fault("operator-switch", at), _held("ask switch", chance.uniform(0.2, 4.0), rival))
    return Plan(seed, True, faults, at + 30.0)


def _restore_refused(chance: Random, seed: int) -> Plan:
    """What lies in S3 can not be used for a while: a standby comes, tries, and declines."""
    at = chance.uniform(14.0, 18.0)
    faults = (Fault("shut-down", at, "primary"), Fault("fail", at, "restorable", chance.uniform(110.0, 170.0)))
    return Plan(seed, False, faults, at + 230.0)


STAGES: dict[int, Callable[[Random, int], Plan]] = {
    1: _opening_held_beyond_a_handover,
    8: _redriven,
    9: _redriven_while_it_restores,
    2: _demoted,
    3: _opening_held_beyond_readiness,
    4: _claim_released_beyond_its_attempt,
    5: _opening_held_beyond_its_claim,
    6: _demotion_held,
    7: _abort_held_beyond_a_handover,
    10: _loss_held,
    11: _retirement_held,
    12: _two_create,
    13: _two_conclude,
    14: _launch_held_beyond_the_next,
    15: _snapshot_held_beyond_a_loss,
    16: _overtaken_before_it_serves,
    18: _traffic_held_beyond_the_next,
    19: _loss_held_beyond_a_snapshot,
    21: _overtaken_before_it_serves,
    22: _signal_held_beyond_its_claim,
    24: _traffic_held_beyond_the_next,
    25: _snapshot_held_beyond_a_fall_back,
    26: _promotion_held_beyond_readiness,
    28: _terminated_by_hand,
    30: _lease_answered_late,
    34: _failure_not_recorded,
    35: _restore_held,
    36: _swept_while_it_fails_over,
    38: _fall_back_held,
    40: _release_held,
    44: _release_held_beyond_a_claim,
    46: _signal_held_beyond_a_promotion,
    48: _decline_held_beyond_its_handover,
    50: _opening_held_beyond_its_attempt,
    52: _launch_given_up_as_it_joins,
    54: _progress_held_beyond_the_next,
    58: _two_pause,
    59: _promotion_held,
    60: _end_held_beyond_an_opening,
    61: _retirement_held,
    62: _await_held_beyond_a_handover,
    64: _two_promote,
    66: _retirement_held,
    68: _retirement_held,
    70: _restarted_behind_a_promotion,
    71: _standby_forgotten,
    72: _report_held_beyond_a_withdrawal,
    74: _many_orphans,
    76: _token_held_beyond_its_execution,
    77: _orphans_amid_trouble,
    78: _two_sweep,
    80: _launch_never_answered,
    81: _launched_after_an_interruption,
    82: _switched,
    83: _switched,
    84: _opened_again_beyond_the_epoch,
    85: _begun_beyond_the_epoch,
    86: _switch_aborted,
    87: _two_join,
    88: _traffic_taken_back_for_good,
    89: _withdrawal_held_beyond_the_end,
    90: _switch_held,
    91: _failure_not_told,
    92: _traffic_held_beyond_the_next,
    93: _token_held_beyond_the_epoch,
    94: _promotion_held_beyond_a_restart,
    96: _traffic_held_beyond_the_next,
    95: _restore_refused,
    97: _abort_of_a_plan_held,
    98: _abort_of_a_plan_held,
}
"""Races that plain chance brings about too seldom, by the last two digits of the seed: each lies between what was read
for a write and the write itself, and is what one condition of that write is there for. The number matters: an agent
takes snapshots in odd seeds only, and lets go of quiet standbys in multiples of four.
"""


def _interruptions(chance: Random, *, with_standby: bool) -> list[Fault]:
    at = chance.uniform(3.0, 13.0)
    draw = chance.random()
    faults: list[Fault] = []
    if not with_standby and draw < 0.35:
        faults.append(Fault("rebalance", at, "primary"))
        at += chance.uniform(1.0, 60.0)
        faults.append(Fault(chance.choice(("notice", "notice", "death")), at, "primary"))
    elif draw < 0.5:
        faults.append(Fault("notice", at, "primary"))
    elif draw < 0.66:
        faults.append(Fault("death", at, "primary"))
    elif draw < 0.74:
        faults.append(Fault("operator-promote", at))
    elif draw < 0.82:
        faults.append(Fault("notice", at, "primary"))
        faults.append(Fault("notice", at + chance.choice((0.0, chance.uniform(0.0, 5.0))), "standby"))
    elif draw < 0.87:
        faults.append(Fault(chance.choice(("death", "notice")), at, "standby"))
    elif draw < 0.92:
        faults.append(Fault("notice", at, "primary"))
        faults.append(Fault("death", at + chance.expovariate(0.4), chance.choice(("standby", "primary"))))
    else:
        faults.append(Fault(chance.choice(("operator-create", "operator-terminate", "rebalance")), at, "primary"))
    if chance.random() < 0.2:
        # A second interruption, during or after the first's failover.
        at += chance.expovariate(0.12)
        faults.append(Fault(chance.choice(("notice", "death")), at, chance.choice(("primary", "primary", "standby"))))
    return faults


def _race(chance: Random, *, around: float) -> list[Fault]:
    """Hold a write between what was read for it and its effect, while somebody else is at the same rows."""
    faults: list[Fault] = []
    if chance.random() < 0.12:
        # A promotion that is slow on its way, from a standby that forgot that it asked.
        faults.append(Fault("pause-agent", around, "primary", chance.uniform(4.0, 9.0)))
        faults.append(Fault("strike-pause", 0.0, "*:commit promote", chance.uniform(1.0, 12.0)))
        faults.append(Fault("strike-kill", 0.0, "agent:Commit!", chance.uniform(0.1, 0.6)))
        return faults
    draw = chance.random()
    if draw < 0.08:
        # A second attempt is slow to begin, while the first one's handover goes through and the next notice comes.
        slow = chance.choice((("RecordInterruption:", 3), ("SelectStandby:", 3), ("SelectStandby:", 4)))
        faults.append(Fault("strike-pause", 0.0, "*:commit store task token", 0.05, rival="retake"))
        faults.append(Fault("strike-pause", 0.0, slow[0], chance.uniform(4.0, 9.5), nth=slow[1]))
        faults.append(Fault("notice", around + chance.uniform(1.5, 4.0), "primary"))
        return faults
    if draw < 0.16:
        faults.append(Fault("strike-kill", 0.0, chance.choice(("MarkLost:", "AbortHandover:")), 1.0))
    for _ in range(chance.choice((1, 2, 2, 3))):
        held, rival = (
            chance.choice(RACES) if chance.random() < 0.8 else (chance.choice(TRANSACTIONS), chance.choice(RIVALS))
        )
        lasts = chance.choice((chance.uniform(0.02, 0.15), chance.uniform(0.1, 1.5), chance.uniform(1.0, 12.0)))
        if held == "traffic moved":
            lasts = chance.choice((chance.uniform(0.1, 5.0), chance.uniform(25.0, 58.0)))
        if held == "prove primary dead":
            faults.append(Fault("strike-pause", 0.0, "*:commit open handover", 0.05, rival="death"))
            faults.append(Fault("pause-agent", around + 1.0, "standby", chance.uniform(20.0, 60.0)))
        faults.append(
            Fault("strike-pause", 0.0, f"*:commit {held}", lasts, nth=chance.choice((1, 1, 1, 1, 2)), rival=rival)
        )
    if chance.random() < 0.6:
        return faults
    at = around + chance.uniform(-2.0, 8.0)
    draw = chance.random()
    if draw < 0.35:
        faults.append(Fault("duplicate", max(0.0, around - 5.0), "*", 45.0, 1.0))
    elif draw < 0.6:
        faults.append(Fault("repeat", max(0.0, around - 8.0), chance.choice(("*", "*", *MESSAGES)), 40.0, 1.0))
    elif draw < 0.75:
        faults.append(Fault("partition", max(0.0, at), "primary standby", chance.uniform(1.0, 15.0)))
    elif draw < 0.85:
        faults.append(Fault(chance.choice(("death", "notice", "operator-promote")), max(0.0, at), "primary"))
    else:
        kind = chance.choice(("operator-create", "operator-terminate", "operator-promote"))
        faults.append(Fault(kind, max(0.0, at)))
        faults.append(Fault(kind, max(0.0, at) + chance.uniform(0.0, 0.05)))
    return faults


WEIGHTS: dict[str, float] = {
    "message": 14,
    "call": 12,
    "slow": 5,
    "duplicate": 3,
    "partition": 12,
    "kill-agent": 6,
    "pause-agent": 6,
    "kill-workload": 3,
    "pause-workload": 3,
    "fail": 2,
    "capacity": 3,
    "wall-jump": 4,
    "operator": 3,
    "operator-pause": 1,
    "interruption": 3,
    "strike-agent": 9,
    "strike-task": 12,
}
"""How often each sort of additional fault is drawn, against the others."""


def _draw_fault(chance: Random, *, around: float) -> Fault:  # noqa: C901 - one flat case per sort
    at = max(0.2, around + chance.choice((chance.uniform(-8.0, 25.0), chance.uniform(-1.0, 6.0))))
    who = chance.choice(("primary", "standby", "primary", "standby", "old"))
    (sort,) = chance.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))
    match sort:
        case "message":
            kind = chance.choice(("lose", "delay", "delay", "repeat", "repeat"))
            often = chance.choice((0.1, 0.3, 1.0))
            return Fault(kind, at, chance.choice(MESSAGES), chance.uniform(1.0, 30.0), often)
        case "call":
            kind = chance.choice(("unknown", "unknown", "throttle"))
            return Fault(kind, at, chance.choice(PORTS), chance.uniform(1.0, 40.0), chance.choice((0.1, 0.5, 1.0)))
        case "slow":
            return Fault("slow", at, "*", chance.uniform(2.0, 30.0), chance.choice((0.1, 0.4)))
        case "duplicate":
            return Fault("duplicate", at, "*", chance.uniform(5.0, 40.0), chance.choice((0.3, 1.0)))
        case "partition":
            one, other = chance.choice(
                (
                    ("primary", "standby"),
                    ("standby", "primary"),
                    ("primary", "control-plane"),
                    ("standby", "control-plane"),
                    ("control-plane", "primary"),
                    ("control-plane", "standby"),
                    ("old", "control-plane"),
                    ("control-plane", "old"),
                )
            )
            kind = chance.choice(("partition", "partition", "one-way"))
            lasts = chance.choice((chance.uniform(0.5, 10.0), chance.uniform(5.0, 60.0)))
            return Fault(kind, at, f"{one} {other}", lasts)
        case "kill-agent":
            return Fault(sort, at, who, chance.choice((0.3, chance.uniform(0.1, 30.0))))
        case "pause-agent":
            return Fault(sort, at, who, chance.choice((chance.uniform(0.3, 6.0), chance.uniform(3.0, 40.0))))
        case "kill-workload":
            return Fault(sort, at, who)
        case "pause-workload":
            return Fault(sort, at, who, chance.uniform(0.3, 20.0))
        case "fail":
            return Fault(sort, at, chance.choice(("start", "quiesce")), chance.uniform(1.0, 15.0), 0.7)
        case "capacity":
            where = chance.choice(("*", "us-east-1b.m5.large", "us-east-1b.m5.large/spot", "us-east-1a.m5a.large"))
            return Fault(sort, at - 3.0, where, chance.uniform(10.0, 90.0))
        case "wall-jump":
            return Fault(sort, at, chance.choice((who, "control-plane")))
        case "operator-pause":
            return Fault(sort, at, chance.choice(("", "all")), chance.uniform(1.0, 60.0))
        case "operator":
            return Fault(chance.choice(("operator-promote", "operator-create", "operator-terminate")), at)
        case "interruption":
            return Fault(chance.choice(("notice", "death", "rebalance")), at, who)
        case "strike-agent":
            kind = "strike-kill" if chance.random() < 0.7 else "strike-pause"
            marker = chance.choice(AGENT_MARKERS)
            what = f"agent:{marker}{chance.choice(('', '!'))}"
            return Fault(kind, max(0.0, at - 6.0), what, chance.uniform(0.2, 12.0), nth=chance.choice((1, 1, 2, 3)))
        case _:
            kind = "strike-kill" if chance.random() < 0.6 else "strike-pause"
            what = f"{chance.choice(TASK_MARKERS)}:"
            return Fault(
                kind, max(0.0, at - 8.0), what, chance.uniform(0.5, 20.0), nth=chance.choice((1, 1, 2, 2, 3, 4, 6))
            )
