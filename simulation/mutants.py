"""Mutants: the protocol with one rule taken away. Each must break an invariant within a bounded number of seeds.

A condition of a write is data, so a mutant leaves it out of the write. A rule of the agents or of the pools is replaced
by one that forgot it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from simulation.campaign import spread
from simulation.faults import draw_plan
from simulation.tables import EVERY, ConditionName
from simulation.world import TOO_LONG, World
from spot_optimizer.control import failover, interruptions, replication, signals
from spot_optimizer.domain import former_primaries, handover, lease, orphans, pools, primary, retired, standby
from spot_optimizer.domain.primary import Primary
from spot_optimizer.domain.protocol import (
    AnswerLease,
    Commit,
    Event,
    LeaseAnswered,
    LeaseAsked,
    Remember,
    SetFence,
    ShipFinal,
    Start,
    StateHeld,
    Stop,
)
from spot_optimizer.domain.retired import Retired
from spot_optimizer.domain.standby import Standby

MOST_SEEDS = 2000


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule less.

    Attributes:
        name: What is missing.
        removed: Conditions that are left out.
        rule: Name of the patch that forgets a rule.
    """

    name: str
    removed: frozenset[ConditionName] = frozenset()
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Caught:
    """How a mutant was found out; `seed` is None if it was not."""

    mutant: str
    seed: int | None
    invariant: str = ""
    seeds: int = 0


def condition(transaction: str, change: str, attribute: str) -> ConditionName:
    return ConditionName(transaction, change, attribute)


# --- rules ---


def _ignoring_epoch(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    if isinstance(following, Primary):
        return following, actions
    return state, tuple(action for action in actions if not isinstance(action, Stop))


def _thawing_on_a_timer(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    if isinstance(following, Primary) and following.frozen_for is not None and now - following.frozen_at > 3.0:
        following = replace(
            following, frozen_for=None, ended_handovers=(*following.ended_handovers, following.frozen_for)
        )
    return following, actions


def _shipping_before_frozen(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    if (
        isinstance(following, Primary)
        and following.workload is primary.Workload.FREEZING
        and not following.final_sent
        and following.frozen_for is not None
        and following.bound is not None
        and following.link_up
    ):
        final = ShipFinal(following.bound, following.frozen_for, following.readiness)
        return replace(following, final_sent=True), (*actions, final)
    return following, actions


def _promoting_before_committed(state: Standby, event: Event, now: float) -> Any:
    """Takes an open handover for the final generation."""
    following, actions = _DECIDE_STANDBY(state, event, now)
    if isinstance(following, Standby) and following.final_for is None and following.generation:
        handover = following.handover
        if handover is not None and handover.state == "open" and handover.replica_id == following.replica_id:
            following = replace(following, final_for=handover.handover_id)
    return following, actions


def _starting_before_promoted(state: Standby, event: Event, now: float) -> Any:
    following, actions = _DECIDE_STANDBY(state, event, now)
    if isinstance(following, Standby) and any(isinstance(action, Commit) for action in actions):
        return following, (*actions, Start(state.epoch + 1, restore=True))
    return following, actions


def _without_fence(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    return following, tuple(action for action in actions if not isinstance(action, SetFence))


def _without_hold(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    return following, tuple(
        replace(action, hold_at=None) if isinstance(action, SetFence) else action for action in actions
    )


def _committing_without_waiting(state: Standby, event: Event, now: float) -> Any:
    following, actions = _DECIDE_STANDBY(state, event, now)
    if isinstance(following, Standby) and not following.granting:
        following = replace(following, granted_at=float("-inf"))
    return following, actions


def _forgetting_that_it_stopped(state: Standby, event: Event, now: float) -> Any:
    following, actions = _DECIDE_STANDBY(state, event, now)
    return following, tuple(
        action for action in actions if not (isinstance(action, Remember) and action.granting is not None)
    )


def _granting_while_it_waits(state: Standby, event: Event, now: float) -> Any:
    if isinstance(event, LeaseAsked) and event.epoch == state.epoch:
        return state, (AnswerLease(event.request, granted=True, reason=""),)
    return _DECIDE_STANDBY(state, event, now)


def _ready_without_a_lease(state: Primary, event: Event, now: float) -> Any:
    if state.bound is None and state.standby is not None and state.link_up:
        state = replace(state, lease_until=now + 4.0)
    return _DECIDE_PRIMARY(state, event, now)


def _unready_by_itself(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    if isinstance(following, Primary) and following.withdrawing and following.bound is not None:
        unbound = replace(following, bound=None, withdrawing=False)
        return unbound, (*actions, SetFence(None))
    return following, actions


def _starting_unconfirmed(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    if isinstance(following, Primary) and not following.confirmed and following.workload is primary.Workload.STOPPED:
        start = Start(following.epoch, restore=following.restore)
        return replace(following, workload=primary.Workload.STARTING), (*actions, start)
    return following, actions


def _numbering_nothing(state: Primary, event: Event, now: float) -> Any:
    following, actions = _DECIDE_PRIMARY(state, event, now)
    if isinstance(following, Primary) and following.readiness > state.readiness > 0:
        following = replace(following, readiness=state.readiness)
    return following, actions


def _counting_from_the_answer(state: Primary, event: Event, now: float) -> Any:
    if isinstance(event, LeaseAnswered):
        event = replace(event, asked_at=now)
    return _DECIDE_PRIMARY(state, event, now)


def _without_cooldown(*arguments: Any, **options: Any) -> Any:
    return _LAUNCH_ORDER(
        *arguments, **(options | {"cooling_pool_ids": (), "struck_pool_ids": (), "interruptions": None})
    )


def _any_pool(*arguments: Any, **options: Any) -> Any:
    return _LAUNCH_ORDER(*arguments, **(options | {"primary_pool_id": ""}))


_DECIDE_PRIMARY = primary.decide
_DECIDE_STANDBY = standby.decide
_LAUNCH_ORDER = pools.launch_order

Patch = Callable[[], AbstractContextManager[Any]]


_RELEASE_REPLICA = replication.release_replica


def _terminating_first(plane: Any, agent: Any, replica: Any, *, reason: str) -> bool:
    if replica.active and replica.instance_id is not None:
        plane.compute.terminate(replica.instance_id)
    return _RELEASE_REPLICA(plane, agent, replica, reason=reason)


@contextmanager
def _patch_lease() -> Iterator[None]:
    with (
        patch.object(primary, "may_serve", lambda state, _now: state.confirmed and state.frozen_for is None),
        patch.object(primary, "decide", _without_fence),
    ):
        yield


@contextmanager
def _patch_dead_states() -> Iterator[None]:
    states = ("stopped", "terminated", "shutting-down")
    with ExitStack() as patches:
        from spot_optimizer.control import plane

        for module in (plane, failover, signals):
            patches.enter_context(patch.object(module, "DEAD_STATES", states))
        yield


def _heeding_no_notice(*arguments: Any, **options: Any) -> Any:
    return _JUDGE_FORMER(*arguments, **(options | {"is_noticed": False}))


def _forgetting_its_state(state: Retired, event: Event, now: float) -> Any:
    return _DECIDE_RETIRED(state, StateHeld(0) if isinstance(event, StateHeld) else event, now)


_JUDGE_FORMER = former_primaries.judge
_DECIDE_RETIRED = retired.decide

RULES: dict[str, Patch] = {
    "the lease: the primary heeds neither its end nor the fence": _patch_lease,
    "the fence: nothing kills the workload when the lease ends": lambda: patch.object(
        primary, "decide", _without_fence
    ),
    "the hold: a workload whose lease is not renewed goes on to its end": lambda: patch.object(
        primary, "decide", _without_hold
    ),
    "the loss: what is served between the last word and the hold is left out": lambda: patch.object(
        lease, "longest_loss", lambda lag_seconds: lag_seconds
    ),
    "the sweep: nothing concludes what its execution did not": lambda: patch.object(
        interruptions, "conclude_left_behind", lambda *_arguments, **_options: 0
    ),
    "the lease: the standby does not wait it out": lambda: patch.object(standby, "decide", _committing_without_waiting),
    "the lease: the standby goes on granting while it waits": lambda: patch.object(
        standby, "decide", _granting_while_it_waits
    ),
    "the lease: that granting stopped is not durable": lambda: patch.object(
        standby, "decide", _forgetting_that_it_stopped
    ),
    "the lease's margin: no clock drift": lambda: patch.object(
        lease, "safe_after", lambda at: at + lease.LEASE_SECONDS + lease.FENCE_LATENCY_SECONDS
    ),
    "the lease's margin: no fence latency": lambda: patch.object(
        lease, "safe_after", lambda at: at + lease.LEASE_SECONDS / (1 - lease.CLOCK_DRIFT) * (1 + lease.CLOCK_DRIFT)
    ),
    "the lease: counted from the answer, not from the question": lambda: patch.object(
        primary, "decide", _counting_from_the_answer
    ),
    "the thaw rule: on a timer": lambda: patch.object(primary, "decide", _thawing_on_a_timer),
    "the readiness rule: ready without its lease": lambda: patch.object(primary, "decide", _ready_without_a_lease),
    "the readiness rule: taken back without the control plane": lambda: patch.object(
        primary, "decide", _unready_by_itself
    ),
    "the readiness rule: any lag will do": lambda: patch.object(primary, "LAG_INTERVALS", 1000),
    "readiness numbers: withdrawals are not numbered": lambda: patch.object(primary, "decide", _numbering_nothing),
    "the epoch: a primary serves on after it is over": lambda: patch.object(primary, "decide", _ignoring_epoch),
    "the epoch: a restarted primary starts before it is confirmed": lambda: patch.object(
        primary, "decide", _starting_unconfirmed
    ),
    "the order: the final generation is taken before the freeze": lambda: patch.object(
        primary, "decide", _shipping_before_frozen
    ),
    "the order: the standby promotes before the final generation is committed": lambda: patch.object(
        standby, "decide", _promoting_before_committed
    ),
    "the order: the standby starts before it is promoted": lambda: patch.object(
        standby, "decide", _starting_before_promoted
    ),
    "the pool rule: a standby may share its primary's pool": lambda: patch.object(pools, "launch_order", _any_pool),
    "the pool rule: no cooldown for pools that interrupted us": lambda: patch.object(
        pools, "launch_order", _without_cooldown
    ),
    "proof of death: `shutting-down` is taken for death": _patch_dead_states,
    "the sweep: nothing compares an address with its row": lambda: patch.object(
        signals, "_astray", lambda _plane, _agents: frozenset()
    ),
    "former primaries: one that AWS gave notice to is terminated": lambda: patch.object(
        former_primaries, "judge", _heeding_no_notice
    ),
    "former primaries: one that is demoted forgets what it holds": lambda: patch.object(
        retired, "decide", _forgetting_its_state
    ),
    "former primaries: the copy is given up where there is no other": lambda: patch.object(
        former_primaries, "is_copied", lambda *_arguments, **_options: True
    ),
    "the order: an instance is terminated before its row has ended": lambda: patch.object(
        replication, "release_replica", _terminating_first
    ),
}


def _sweeping_without(**forgotten: Any) -> Patch:
    def judge(resource: Any, claims: Any, circumstances: Any, *, now: Any) -> Any:
        return _JUDGE(resource, claims, replace(circumstances, **forgotten), now=now)

    return lambda: patch.object(orphans, "judge", judge)


def _planning_with(**changed: Any) -> Patch:
    return lambda: patch.object(
        orphans, "plan_sweep", lambda judged, report, **given: _PLAN_SWEEP(judged, report, **(given | changed))
    )


_JUDGE = orphans.judge
_PLAN_SWEEP = orphans.plan_sweep

RULES |= {
    "restoring: given up at the first refusal": lambda: patch.object(handover, "RESTORES", 1),
    "orphans: ended at first sight": _planning_with(grace=timedelta(0)),
    "orphans: any number at once": lambda: patch.object(orphans, "most_ended", lambda _instances: 1000),
    "orphans: the newest copy may be among them": lambda: patch.object(
        orphans, "newer_copy_exists", lambda *_arguments, **_options: True
    ),
    "orphans: a notice is not asked for": _sweeping_without(is_taken_back=False),
    "orphans: a replica's claim is not asked for": lambda: patch.object(orphans, "claim_on", lambda *_arguments: None),
}


@dataclass(frozen=True, slots=True)
class Implied:
    """Why a condition never decides alone.

    Attributes:
        by: Conditions of the same write, as `attribute` or `change / attribute`: one of them fails whenever it fails.
            The survey holds every refusal that it sees against that. Empty where the condition can not fail at all.
        why: The proof.
    """

    by: tuple[str, ...]
    why: str


_EPOCH_NAMES_PRIMARY = Implied(("epoch",), "an epoch has one primary: one transaction changes both")
_CLAIM_EPOCH = Implied(("epoch",), "a claim of another epoch is only made when the agent has reached that epoch")
_OPEN_HANDOVER = Implied(
    ("handover_id", "handover_state"),
    "an open handover is of the present epoch, which its id names: a promotion commits it, a fall back needs it ended",
)
_ROLES = Implied(("epoch",), "roles change in the transaction that moves the epoch, and nowhere else")

IMPLIED: dict[str, Implied] = {
    "abort handover / only an open handover is aborted / epoch": _OPEN_HANDOVER,
    "abort planned handover / an operator aborts what is planned / epoch": _OPEN_HANDOVER,
    "claim / one claim per attempt / epoch": Implied(
        ("primary_instance_id", "claim_epoch"),
        "a promotion changes the primary; the one before is the primary again only after a claim of the epoch between",
    ),
    "claim / one claim per attempt / primary_instance_id": _EPOCH_NAMES_PRIMARY,
    "claim / one claim per attempt / lost": Implied(
        ("claim_attempt", "claim_open", "claim_epoch"), "an agent is lost under its open claim, which that closes"
    ),
    "complete snapshot / only the present primary's snapshots count, one after the other / primary_instance_id": (
        _EPOCH_NAMES_PRIMARY
    ),
    "complete snapshot / a snapshot is complete once / snapshot_id": Implied(
        ("only the present primary's snapshots count, one after the other / snapshot_id",),
        "its row was missing after the pointer was read, and whatever writes it moves the pointer forwards",
    ),
    "complete snapshot / never a delta without what it changes / base_id": Implied(
        (), "it was read before, never changes, and is forgotten only days after the last delta that may follow it"
    ),
    "conclude switch / a fate is recorded once / switch_id": Implied(
        (), "it was read before, and no switch is ever deleted"
    ),
    "decline handover / a standby declines the handover that it names, while that is open / epoch": _OPEN_HANDOVER,
    "decline handover / a replica that declines has joined, and has not ended / status": Implied(
        (
            "a standby declines the handover that it names, while that is open / handover_state",
            "a standby declines the handover that it names, while that is open / handover_id",
        ),
        "a handover leads to a replica that has joined, which does not end while it is open",
    ),
    "demote / a replica id is used once / replica_id": Implied(
        ("only a former primary is demoted / role", "one active replica per agent / epoch"),
        "its row is written as the former primary becomes a standby, which it is not again within the epoch",
    ),
    "demote / only a former primary is demoted / role": Implied(
        (
            "a replica id is used once / replica_id",
            "one active replica per agent / epoch",
            "one active replica per agent / active_replica_id",
        ),
        "it is demoted already, or the primary again; it is retired only while another replica is ready",
    ),
    "end replica / a promoted replica is not ended / status": Implied(
        ("no replica ends while a handover to it is open / active_replica_id",),
        "whatever ends a replica, or promotes it, lets the agent go of it in the same transaction",
    ),
    "end replica / no replica ends while a handover to it is open / active_replica_id": Implied(
        ("a promoted replica is not ended / status",),
        "the agent lets go of a replica only in the transaction that ends or promotes it",
    ),
    "fall back / back only where no way forward is left / epoch": Implied(
        ("one switch per epoch / switch_id",), "every epoch but the first begins with its switch, in one transaction"
    ),
    "fall back / one switch per epoch / switch_id": Implied(
        ("back only where no way forward is left / epoch",), "a switch is written with the epoch that it begins"
    ),
    "fall back / back only where no way forward is left / claim_epoch": _CLAIM_EPOCH,
    "fall back / back only where no way forward is left / handover_state": Implied(
        ("active_replica_id",), "an open handover leads to the active replica, which can not end before it"
    ),
    "fall back / back only where no way forward is left / lost": Implied(
        ("claim_open", "claim_attempt"), "an agent is lost under its open claim, which that closes"
    ),
    "fall back / the dead primary steps down / role": Implied(
        ("back only where no way forward is left / epoch",), _ROLES.why
    ),
    "fall back / a former primary steps up again / role": Implied(
        ("back only where no way forward is left / epoch",), _ROLES.why
    ),
    "give up launch / the agent lets go of it / active_replica_id": Implied(
        ("what has joined may hold the newest copy / status",), "a replica that is launching is the active one"
    ),
    "join / a standby joins the epoch it was launched for / epoch": Implied(
        ("only a launching replica joins / status",), "a promotion leaves no replica of its epoch launching"
    ),
    "join / a standby joins the epoch it was launched for / active_replica_id": Implied(
        ("only a launching replica joins / status",), "a replica that is launching is the active one"
    ),
    "join / an instance joins once / instance_id": Implied(
        ("only a launching replica joins / status",), "an instance's row is written when its replica begins to sync"
    ),
    "join / only a launching replica joins / status": Implied(
        ("an instance joins once / instance_id", "a standby joins the epoch it was launched for / active_replica_id"),
        "a replica leaves `launching` by joining, which writes the instance's row, or by its end",
    ),
    "mark lost / an agent is lost only while no handover can still succeed, and no snapshot has come / claim_epoch": (
        _CLAIM_EPOCH
    ),
    "mark lost / an agent is lost only while no handover can still succeed, and no snapshot has come / handover_state": Implied(  # noqa: E501 - a name
        ("active_replica_id",), "an open handover leads to the active replica, which can not end before it"
    ),
    "open handover / one handover at a time, under an own claim / epoch": Implied(
        ("active_replica_id",), "a promotion leaves no replica active, and later ones have other ids"
    ),
    "open handover / one handover at a time, under an own claim / primary_instance_id": _EPOCH_NAMES_PRIMARY,
    "open handover / one handover at a time, under an own claim / claim_epoch": _CLAIM_EPOCH,
    "open handover / one handover at a time, under an own claim / handover_state": Implied(
        ("handover_count", "epoch"), "whoever opens a handover counts it"
    ),
    "open handover / one handover at a time, under an own claim / active_replica_id": Implied(
        ("only a replica that can take over is handed to / status",),
        "the agent lets go of a replica only in the transaction that ends or promotes it",
    ),
    "open handover / only a replica that can take over is handed to / status": Implied(
        ("readiness", "one handover at a time, under an own claim / active_replica_id"),
        "between `syncing` and `ready` lies a new readiness number; every other way is the replica's end",
    ),
    "pause agent / the first pause stands / agent_id": Implied((), "it was read before, and no agent is ever deleted"),
    "promote / one promotion per epoch and handover / epoch": _OPEN_HANDOVER,
    "promote / one promotion per epoch and handover / primary_instance_id": _EPOCH_NAMES_PRIMARY,
    "promote / one promotion per epoch and handover / handover_replica_id": Implied(
        ("handover_id",), "a handover is opened to one replica, for good"
    ),
    "promote / one promotion per epoch and handover / handover_primary_dead": Implied(
        ("handover_id",), "a proof of death is only ever added to a handover"
    ),
    "promote / one promotion per epoch and handover / lost": Implied(
        ("handover_state",), "an agent is lost only while no handover is open, and opens none after that"
    ),
    "promote / only the readiness that was asked on is promoted / status": Implied(
        ("readiness", "one promotion per epoch and handover / handover_state"),
        "between `syncing` and `ready` lies a new readiness number; no replica ends while a handover to it is open",
    ),
    "promote / one switch per epoch / switch_id": Implied(
        ("one promotion per epoch and handover / epoch",), "a switch is written with the epoch that it begins"
    ),
    "promote / the old primary steps down / role": Implied(
        ("one promotion per epoch and handover / epoch",), _ROLES.why
    ),
    "promote / the standby's instance steps up / role": Implied(
        ("one promotion per epoch and handover / epoch",), _ROLES.why
    ),
    "prove primary dead / a proof belongs to the open handover of this epoch / epoch": _OPEN_HANDOVER,
    "prove primary dead / a proof belongs to the open handover of this epoch / primary_instance_id": (
        _EPOCH_NAMES_PRIMARY
    ),
    "raise urgency / urgency only rises / claim_epoch": _CLAIM_EPOCH,
    "record switch / concluded once / switch_id": Implied((), "it was read before, and no switch is ever deleted"),
    "release replica / a promoted replica is not released / status": Implied(
        ("a standby is released only if nothing has begun since its primary was found well / active_replica_id",),
        "whatever ends a replica, or promotes it, lets the agent go of it in the same transaction",
    ),
    "release replica / a standby is released only if nothing has begun since its primary was found well / active_replica_id": Implied(  # noqa: E501 - a name
        ("a promoted replica is not released / status",),
        "the agent lets go of a replica only in the transaction that ends or promotes it",
    ),
    "release replica / a standby is released only if nothing has begun since its primary was found well / claim_open": Implied(  # noqa: E501 - a name
        ("claim_attempt", "claim_epoch"), "it was closed when the agent was read, and whatever opens one numbers it"
    ),
    "release replica / a standby is released only if nothing has begun since its primary was found well / handover_state": Implied(  # noqa: E501 - a name
        ("claim_attempt", "claim_epoch"), "none was open when the agent was read, and one is opened under an open claim"
    ),
    "report ready / only the current primary makes a standby ready / epoch": Implied(
        ("a delayed readiness report is void / status",), "a promotion leaves no replica of its epoch syncing"
    ),
    "report ready / only the current primary makes a standby ready / primary_instance_id": _EPOCH_NAMES_PRIMARY,
    "report ready / only the current primary makes a standby ready / active_replica_id": Implied(
        ("a delayed readiness report is void / status",),
        "the agent lets go of a replica only in the transaction that ends or promotes it",
    ),
    "report ready / a delayed readiness report is void / status": Implied(
        ("readiness", "only the current primary makes a standby ready / active_replica_id"),
        "it is ready already by a report of this number or of a higher one, or it has ended",
    ),
    "report unready / only the current primary takes readiness back / epoch": Implied(
        ("readiness reports are in order / status",), "a promotion leaves no replica of its epoch syncing or ready"
    ),
    "report unready / only the current primary takes readiness back / primary_instance_id": _EPOCH_NAMES_PRIMARY,
    "resume agent / only an agent that exists is resumed / agent_id": Implied(
        (), "it was read before, and no agent is ever deleted"
    ),
    "store task token / a token waits on a row that exists / replica_id": Implied(
        (), "it was read before, and no replica is ever deleted"
    ),
}
"""Conditions that say in an agent's or an operator's terms what others say of the rows: kept, because who reads a write
should see what it rests on, and because a later write may break the tie.
"""

EFFECTLESS: dict[str, str] = {
    "abort handover / only an open handover is aborted / handover_state": (
        "a committed handover has moved the epoch on, which is asked too; an aborted one is aborted again, to no effect"
    ),
    "abort planned handover / an operator aborts what is planned / handover_state": (
        "a committed handover has moved the epoch on, which is asked too; an aborted one is aborted again, to no effect"
    ),
    "claim / one claim per attempt / claim_open": (
        "a claim is only ever closed within its attempt, and the next attempt is claimed over a closed one anyway"
    ),
    "fall back / back only where no way forward is left / claim_open": (
        "an attempt that has ended, and was not followed by another, finds what the next one would: the primary is "
        "dead and nobody follows it"
    ),
    "mark lost / an agent is lost only while no handover can still succeed, and no snapshot has come / claim_open": (
        "an attempt that has ended, and was not followed by another, finds what the next one would: no copy is left"
    ),
    "mark lost / an agent is lost only while no handover can still succeed, and no snapshot has come / epoch": (
        "under an open claim and without a replica the epoch moves only by a fall back of this very attempt, to an "
        "instance that another copy of its task has seen gone; what is gone does not come back"
    ),
    "prove primary dead / a proof belongs to the open handover of this epoch / handover_id": (
        "within an epoch a proof of death stays true, whichever handover it is written to"
    ),
    "prove primary dead / a proof belongs to the open handover of this epoch / handover_state": (
        "a committed handover has moved the epoch on, which is asked too; on an aborted one the proof decides nothing, "
        "and the next one is opened with a proof of its own"
    ),
    "prove primary dead / a proof belongs to the open handover of this epoch / *": (
        "within an epoch a proof stays true; in the next it could only mislead about a handover that is open by then, "
        "and a fresh standby takes longer to launch and sync than a function may run"
    ),
    "raise urgency / urgency only rises / claim_attempt": (
        "the signal is about this epoch's primary, whichever attempt is at work; refused, it is raised on the next one"
    ),
    "report ended orphans / a sweep reports for itself / sweep_number": (
        "what an earlier sweep ended is ended; the list is for people, and a later sweep's replaces it anyway"
    ),
    "retire / a copy is given up only while nothing is under way / epoch": (
        "whoever became the primary since then began with a copy that is at least as new"
    ),
    "retire / only a former primary retires / role": (
        "one that is retired is retired again, to no effect; one that is the primary again has moved the epoch on"
    ),
    "release claim / only the own claim is released / claim_open": "a closed claim is closed again, to no effect",
    "traffic moved / traffic follows the epoch upwards / traffic_epoch": (
        "under an unchanged epoch it is written with the value that it has at most"
    ),
}
"""Conditions that do decide alone, and whose decision changes nothing; each with the reason."""


def run_mutant(mutant: Mutant, seeds: Sequence[int]) -> tuple[int, str] | None:
    """The first seed, in order, that finds the mutant out, and the invariant that it breaks."""
    with RULES[mutant.rule]() if mutant.rule is not None else ExitStack():
        for seed in seeds:
            try:
                outcome = World(draw_plan(seed), removed=mutant.removed).run()
            except Exception as error:  # noqa: BLE001 - a mutant may well break the code itself
                return seed, f"{type(error).__name__}: {error}"
            if outcome.violation is not None and outcome.violation != TOO_LONG:
                return seed, outcome.violation
    return None


def hunt(job: tuple[Mutant, tuple[int, ...]]) -> Caught:
    """Run a mutant on the seeds where it can make a difference, until it is caught."""
    mutant, seeds = job
    found = run_mutant(mutant, seeds)
    return Caught(mutant.name, None, seeds=len(seeds)) if found is None else Caught(mutant.name, *found)


@dataclass(frozen=True, slots=True)
class Survey:
    """What one run tells of conditions."""

    seed: int
    seen: frozenset[ConditionName]
    decisive: frozenset[ConditionName]
    refusals: frozenset[frozenset[ConditionName]]
    violation: str | None


def survey(seed: int) -> Survey:
    """Run a seed as it is and note which conditions it met, and which of them, together or alone, refused a write."""
    world = World(draw_plan(seed))
    world.tables.collecting = True
    outcome = world.run()
    tables = world.tables
    return Survey(
        seed, frozenset(tables.seen), frozenset(tables.decisive), frozenset(tables.refusals), outcome.violation
    )


@dataclass(slots=True)
class Hunt:
    """All mutants, and what there is to know before they are run.

    Attributes:
        jobs: Each mutant with the seeds on which its run can differ from the run of the whole protocol.
        unproven: Conditions that no run was ever decided by alone, without a proof that this must be so; and those
            whose proof a run has refuted.
        broken: Seeds on which the whole protocol fails; no mutant is caught by these.
    """

    jobs: list[tuple[Mutant, tuple[int, ...]]]
    unproven: list[str]
    broken: list[int]


def prepare(seeds: int = MOST_SEEDS, *, progress: Callable[[int], None] = lambda _: None) -> Hunt:
    """Survey the seeds: a run without a condition is the same run until that condition alone would have refused."""
    seen: set[ConditionName] = set()
    unproven: set[str] = set()
    where: dict[ConditionName, list[int]] = {}
    broken: list[int] = []
    for surveyed in spread(survey, range(seeds)):
        progress(surveyed.seed + 1)
        seen |= surveyed.seen | surveyed.decisive
        unproven |= {str(one) for refusal in surveyed.refusals for one in refusal if not _is_as_proven(one, refusal)}
        if surveyed.violation:
            broken.append(surveyed.seed)
            continue
        for one in sorted(surveyed.decisive):
            where.setdefault(one, []).append(surveyed.seed)
    transactions = {replace(one, change=EVERY, attribute=EVERY) for one in seen}
    jobs: list[tuple[Mutant, tuple[int, ...]]] = []
    for name in sorted(seen | transactions):
        if name.transaction == "register" or str(name) in EFFECTLESS or _stands_for_one(name, seen):
            continue
        if name in where:
            jobs.append((Mutant(f"condition: {name}", removed=frozenset({name})), tuple(where[name])))
        elif name.change == EVERY:
            jobs.append((Mutant(f"condition: {name}", removed=frozenset({name})), ()))
        elif str(name) not in IMPLIED:
            unproven.add(str(name))
    every = tuple(seed for seed in range(seeds) if seed not in broken)
    jobs += [(Mutant(f"rule: {name}", rule=name), every) for name in RULES]
    return Hunt(jobs, sorted(unproven), broken)


def _is_as_proven(name: ConditionName, refusal: frozenset[ConditionName]) -> bool:
    """Whether a condition that refused was not alone with that, if it is said that it never is."""
    implied = IMPLIED.get(str(name))
    if implied is None:
        return True
    by = {f"{name.transaction} / {name.change} / {other}" for other in implied.by if "/" not in other}
    by |= {f"{name.transaction} / {other}" for other in implied.by if "/" in other}
    return any(str(other) in by for other in refusal)


def _stands_for_one(name: ConditionName, seen: set[ConditionName]) -> bool:
    """Whether a mutant of a whole write only repeats that of its one condition."""
    if name.attribute != EVERY:
        return False
    meant = {
        one
        for one in seen
        if one.attribute != EVERY and one.transaction == name.transaction and name.change in (EVERY, one.change)
    }
    if name.change != EVERY:
        return len(meant) <= 1 or all(str(one) in EFFECTLESS for one in meant)
    return len({one.change for one in meant}) == 1
