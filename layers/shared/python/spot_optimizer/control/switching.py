"""Switches: a workload is moved to another offer by a replica there and a planned handover to it, so that nothing is
lost. An operator asks for one, with a reason; or it is found to pay, and the rules of `domain.switching` allow it.

Here it is only asked for. The replica is prepared like any other, and whoever makes it ready has the handover begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from spot_optimizer.control import pausing, replication, selecting
from spot_optimizer.control.plane import MarketPlane, Plane, active_replica
from spot_optimizer.domain import offers, replicas, switching
from spot_optimizer.domain.agents import Agent, Switch
from spot_optimizer.domain.catalogue import Candidate
from spot_optimizer.domain.decisions import OfferId
from spot_optimizer.domain.handover import switch_id_for
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.replicas import Replica, ReplicaState, ReplicaType
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.switching import REMEMBERED, History, Hold, HoldReason, Move, Proposal, SwitchRules
from spot_optimizer.errors import (
    AgentLost,
    ConditionFailed,
    HandoverInProgress,
    InvalidRequest,
    NoPoolQualifies,
    OutcomeUnknown,
    ReplicaAlreadyActive,
    SwitchHeld,
    SwitchInProgress,
    ToggledOff,
)

TRIES = 4

AGENTS_AT_ONCE = 100
"""So many fit into a state machine's payload of 256 KiB, with what is said of each."""

MOVES_READ = 40
"""So many of the latest moves are looked at; `switches_per_day` allows no more than 24 by itself in any day."""


class SwitchingPlane(Plane, MarketPlane, Protocol):
    """Everything outside that switches need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A switch that somebody asks for.

    Attributes:
        trigger: `operator` or `auto-switch`.
        by: Who asks.
        pool_id: Where to; None takes the standby that is there, or the cheapest pool that qualifies.
        key: The same key, in the same epoch, is the same switch.
        old_usd_per_hour: What the present place was weighed at; None takes what it costs now.
        new_usd_per_hour: The same of the target.
    """

    trigger: SignalType
    by: str
    reason: str
    pool_id: str | None
    lifecycle: Lifecycle
    exclude_zones: tuple[str, ...] = ()
    key: str | None = None
    old_usd_per_hour: Decimal | None = None
    new_usd_per_hour: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A switch that is under way.

    Attributes:
        replica: That takes over as soon as it is ready.
        current: Where the workload runs until then.
        considered: The agent's pools as they stood.
    """

    replica: Replica
    current: OfferId
    considered: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """An agent's pools, and where it runs."""

    current: OfferId
    known: tuple[Candidate, ...]
    moves: tuple[Switch, ...]

    def usd_per_hour(self, offer: OfferId) -> Decimal | None:
        candidate = next((one for one in self.known if one.pool.pool_id == offer.pool_id), None)
        if candidate is None:
            return None
        on_demand = offer.lifecycle is Lifecycle.ON_DEMAND
        return candidate.on_demand_usd_per_hour if on_demand else candidate.usd_per_hour


def issue(plane: SwitchingPlane, agent_id: str, wanted: Wanted) -> Issued:
    """Begin a switch that an operator asks for, with no toggle and no saving; or, for `auto-switch`, the one that
    is recommended now, if the agent's toggle and rules allow it.

    Raises:
        AgentUnknown: No such agent.
        AgentLost: Nothing may be started for it.
        Paused: Nothing is to be changed.
        HandoverInProgress: A failover is under way.
        SwitchInProgress: So is another switch.
        ReplicaAlreadyActive: A standby stands by elsewhere.
        InvalidRequest: The workload runs there already, or can not run there.
        NoPoolQualifies: Nothing is left.
        ToggledOff: `auto_switch` is off.
        SwitchHeld: The rules forbid what is recommended, or nothing is.
        Transient: What the pools are could not be found out; ask again.
    """
    agent = plane.records.agent(agent_id)
    _check_at_rest(plane, agent)
    if wanted.trigger is SignalType.AUTO_SWITCH:
        return _issue_recommended(plane, agent, by=wanted.by)
    return _begin(plane, agent, wanted, _place(plane, agent, excluded_zones=wanted.exclude_zones))


def _issue_recommended(plane: SwitchingPlane, agent: Agent, *, by: str) -> Issued:
    active = active_replica(plane, agent)
    if active is not None and switching.is_under_way(agent, active, now=plane.clock()):
        raise _in_progress(active)
    if not agent.auto_switch:
        raise ToggledOff(
            "auto_switch is off for this agent; expected it on; switch it on in the configuration, or ask as an "
            "operator, with a reason"
        )
    outcome = _consider(plane, agent, by=by)
    if isinstance(outcome, Hold):
        raise SwitchHeld(
            f"{outcome.reason}: {outcome.explanation}; expected a switch that the agent's rules allow; wait, change "
            f"its configuration, or ask as an operator, with a reason"
        )
    return outcome


# --- the schedule


@dataclass(frozen=True, slots=True)
class Considered:
    """What came of one agent in a round of the schedule."""

    agent_id: str
    outcome: Issued | Hold

    def as_payload(self) -> dict[str, Any]:
        """The form that the state machine shows."""
        match self.outcome:
            case Hold(reason, explanation):
                return {"agent_id": self.agent_id, "begun": False, "reason": reason, "explanation": explanation}
            case Issued(replica=replica):
                return {
                    "agent_id": self.agent_id,
                    "begun": True,
                    "replica_id": replica.replica_id,
                    "reason": replica.switch_reason,
                    "explanation": replica.switch_explanation,
                }


def plan_round(plane: Plane, *, after: int) -> dict[str, Any]:
    """Tell which agents are to be considered.

    Args:
        plane: Ports.
        after: How many agents earlier pages of the plan held.

    Returns:
        `agents`, at most `AGENTS_AT_ONCE` ids, and `next`: the `after` of the next page, -1 without one.
    """
    wanted = sorted(agent.agent_id for agent in plane.fleet.agents_with_primary() if agent.auto_switch)
    page = wanted[after : after + AGENTS_AT_ONCE]
    end = after + len(page)
    return {"agents": page, "next": end if end < len(wanted) else -1}


def consider(plane: SwitchingPlane, agent_id: str) -> Considered:
    """Move an agent if that pays and its rules allow it; or tell why not now.

    Raises:
        Transient: Something could not be found out; the next round asks again.
    """
    agent = plane.records.agent(agent_id)
    pause = pausing.pause_of(plane, agent)
    outcome: Issued | Hold
    if not agent.auto_switch:
        outcome = Hold(HoldReason.TOGGLED_OFF, "auto_switch is off for this agent")
    elif pause is not None:
        outcome = Hold(HoldReason.PAUSED, pause.explanation)
    elif agent.lost or agent.claim_open or agent.handover_open:
        outcome = Hold(HoldReason.UNDER_WAY, "a failover is under way, or over for good")
    else:
        try:
            outcome = _consider(plane, agent, by=SignalType.AUTO_SWITCH)
        except (HandoverInProgress, SwitchInProgress, ReplicaAlreadyActive) as overtaken:
            outcome = Hold(HoldReason.UNDER_WAY, str(overtaken))
    return Considered(agent_id, outcome)


def record_round(
    outcomes: Sequence[Mapping[str, Any]], *, following: int, earlier: Mapping[str, Any] | None
) -> dict[str, int]:
    """Add up what a page of agents came to.

    Returns:
        The sums over this page and those before, and `next` of the plan.
    """
    before = earlier or {}
    return {
        "considered": int(before.get("considered", 0)) + len(outcomes),
        "begun": int(before.get("begun", 0)) + sum(bool(outcome.get("begun")) for outcome in outcomes),
        "failed": int(before.get("failed", 0)) + sum(bool(outcome.get("failed")) for outcome in outcomes),
        "next": following,
    }


def _consider(plane: SwitchingPlane, agent: Agent, *, by: str) -> Issued | Hold:
    standby = active_replica(plane, agent)
    now = plane.clock()
    if standby is not None and (
        standby.status is ReplicaState.LAUNCHING or switching.is_under_way(agent, standby, now=now)
    ):
        return Hold(HoldReason.UNDER_WAY, f"replica {standby.replica_id} is '{standby.status}'")
    place = _place(plane, agent)
    proposal = _propose(plane, agent, place, standby)
    if isinstance(proposal, Hold):
        return proposal
    if standby is not None and _offer_of(standby) != proposal.target:
        return Hold(
            HoldReason.STANDBY_HELD,
            f"{proposal.explanation}; but {standby.replica_id} stands by in {_offer_of(standby)}; one is active at a "
            f"time",
        )
    history = History(
        registered_at=agent.registered_at,
        moves=_moves(place.moves),
        failed_at=switching.failures(agent, plane.records.replicas(agent.agent_id), now=now),
    )
    judged = switching.judge(proposal, SwitchRules.of(agent), history, now=now)
    if isinstance(judged, Hold):
        return judged
    wanted = Wanted(
        trigger=SignalType.AUTO_SWITCH,
        by=by,
        reason=judged.explanation,
        pool_id=judged.target.pool_id,
        lifecycle=judged.target.lifecycle,
        old_usd_per_hour=judged.current_usd_per_hour,
        new_usd_per_hour=judged.target_usd_per_hour,
    )
    try:
        return _begin(plane, agent, wanted, place)
    except (InvalidRequest, NoPoolQualifies) as refused:
        # It was decided a while ago; the pool may have been ruled out since.
        return Hold(HoldReason.NOTHING_CHEAPER, str(refused))


def _propose(plane: SwitchingPlane, agent: Agent, place: _Place, standby: Replica | None) -> Proposal | Hold:
    decision = plane.decisions.latest(agent.agent_id)
    if decision is not None and not decision.stale_because(agent, now=plane.clock()):
        proposal = switching.propose_by_decision(decision)
        if not (isinstance(proposal, Proposal) and proposal.target == OfferId(agent.primary_pool_id)):
            return proposal
        # On spot where it runs on demand: a standby shares no pool with its primary, so the next best has to do.
    known: Sequence[Candidate] = place.known
    if standby is not None:
        # It is paid for already, and it is where the workload could go.
        known, overlap = [one for one in known if one.pool.pool_id == standby.pool_id], timedelta(0)
    else:
        heartbeat = plane.records.heartbeat(agent.agent_id, agent.primary_instance_id)
        overlap = offers.launch_and_sync(heartbeat)
    return switching.propose_by_price(place.current, place.usd_per_hour(place.current), known, overlap=overlap)


def _begin(plane: Plane, agent: Agent, wanted: Wanted, place: _Place) -> Issued:
    for _ in range(TRIES):
        purpose = f"switch:{wanted.key}" if wanted.key else f"switch:#{agent.replica_count}"
        replica_id = replicas.replica_id_for(agent.agent_id, epoch=agent.epoch, purpose=purpose)
        standby = active_replica(plane, agent)
        if standby is not None and standby.replica_id == replica_id:
            return Issued(replica=standby, current=place.current, considered=place.known)
        now = plane.clock()
        if standby is not None and switching.is_under_way(agent, standby, now=now):
            if wanted.key and _is_what_was_asked(standby, wanted):
                return Issued(replica=standby, current=place.current, considered=place.known)
            raise _in_progress(standby)
        switching.check_target(
            place.known,
            place.current,
            pool_id=wanted.pool_id,
            lifecycle=wanted.lifecycle,
            excluded_zones=wanted.exclude_zones,
        )
        if standby is not None:
            asked = _asked(agent, _taken(standby, wanted), wanted, place, now=now)
            change = replicas.ask_switch(standby, asked)
        else:
            fresh = Replica(
                agent_id=agent.agent_id,
                replica_id=replica_id,
                type=ReplicaType.SWITCH,
                status=ReplicaState.LAUNCHING,
                epoch=agent.epoch,
                created_by=wanted.by,
                created_at=now,
                requested_pool_id=wanted.pool_id,
                requested_lifecycle=wanted.lifecycle,
                exclude_zones=wanted.exclude_zones,
            )
            asked = _asked(agent, fresh, wanted, place, now=now)
            change = replicas.create(agent, asked)
        try:
            plane.records.commit(change)
        except (ConditionFailed, OutcomeUnknown):
            agent = plane.records.agent(agent.agent_id)
            _check_at_rest(plane, agent)
            continue
        if standby is None:
            replication.start_preparing(plane, asked)
        return Issued(replica=asked, current=place.current, considered=place.known)
    raise OutcomeUnknown(f"agent {agent.agent_id} changed while a switch was being begun; try again")


def _asked(agent: Agent, replica: Replica, wanted: Wanted, place: _Place, *, now: datetime) -> Replica:
    pool_id = replica.pool_id or replica.requested_pool_id
    # Where the pool is yet to be found, its price is looked up afterwards.
    there = None if pool_id is None else place.usd_per_hour(OfferId(pool_id, wanted.lifecycle))
    return replace(
        replica,
        switch_reason=wanted.trigger,
        switch_explanation=wanted.reason,
        switch_asked_at=now,
        switch_handovers_before=agent.handover_count,
        old_usd_per_hour=wanted.old_usd_per_hour or place.usd_per_hour(place.current),
        new_usd_per_hour=wanted.new_usd_per_hour or there,
    )


def _is_what_was_asked(standby: Replica, wanted: Wanted) -> bool:
    """Whether a switch to a standby that was there is the one that is asked for again.

    One that was launched for a switch carries the request's key in its id; this one can only be compared.
    """
    if standby.type is ReplicaType.SWITCH:
        return False
    there = _offer_of(standby)
    same_place = wanted.pool_id in (None, there.pool_id) and there.lifecycle is wanted.lifecycle
    return same_place and (standby.switch_reason, standby.switch_explanation) == (wanted.trigger, wanted.reason)


def _taken(standby: Replica, wanted: Wanted) -> Replica:
    """The standby, if it is what is wanted."""
    there = _offer_of(standby)
    pool_fits = wanted.pool_id in (None, there.pool_id) and there.lifecycle is wanted.lifecycle
    if not pool_fits or any(there.pool_id.startswith(f"{zone}.") for zone in wanted.exclude_zones):
        raise ReplicaAlreadyActive(
            f"replica {standby.replica_id} stands by in {there}; one is active at a time; switch there, or terminate "
            f"it first"
        )
    return standby


def _offer_of(standby: Replica) -> OfferId:
    pool_id = standby.pool_id or standby.requested_pool_id or "a pool that is being looked for"
    return OfferId(pool_id, Lifecycle(standby.lifecycle or standby.requested_lifecycle or Lifecycle.SPOT))


def _in_progress(replica: Replica) -> SwitchInProgress:
    return SwitchInProgress(
        f"replica {replica.replica_id} is to take over for a switch already; expected none under way; wait until it "
        f"has ended, or terminate the replica"
    )


def _check_at_rest(plane: Plane, agent: Agent) -> None:
    if agent.lost:
        raise AgentLost(f"agent {agent.agent_id} is lost: every copy of its state is gone; register a new agent")
    pausing.refuse_while_paused(plane, agent)
    if agent.claim_open or agent.handover_open:
        raise HandoverInProgress(f"a failover of {agent.agent_id} is under way; wait until it has ended")


def _place(plane: SwitchingPlane, agent: Agent, *, excluded_zones: Sequence[str] = ()) -> _Place:
    zones = tuple(plane.compute.subnets(agent.subnet_ids))
    told = selecting.types_told(plane.prices, zones, agent.instance_types)
    known = selecting.candidates(plane, agent, zones, excluded_zones=excluded_zones, told=told)
    moves = _latest_moves(plane, agent)
    current = OfferId(agent.primary_pool_id, _lifecycles(moves).get(agent.primary_instance_id, Lifecycle.SPOT))
    return _Place(current, known, moves)


def _latest_moves(plane: Plane, agent: Agent) -> tuple[Switch, ...]:
    """The agent's switches that are remembered, and the one that led to its present epoch; the latest first."""
    since = plane.clock() - REMEMBERED
    found: list[Switch] = []
    for epoch in range(agent.epoch, max(1, agent.epoch - MOVES_READ), -1):
        switch = plane.records.switch(agent.agent_id, switch_id_for(epoch))
        if switch is None or (found and switch.switched_at < since):
            break
        found.append(switch)
    return tuple(found)


def _lifecycles(switches: Sequence[Switch]) -> dict[str, Lifecycle]:
    """How instances were bought; one that never took over, an agent's first, is taken for spot."""
    return {one.to_instance_id: Lifecycle(one.to_lifecycle) for one in switches if one.to_lifecycle is not None}


def _moves(switches: Sequence[Switch]) -> tuple[Move, ...]:
    bought = _lifecycles(switches)
    return tuple(
        Move(
            at=one.switched_at,
            left=OfferId(one.from_pool_id, bought.get(one.from_instance_id, Lifecycle.SPOT)),
            entered=OfferId(one.to_pool_id, bought.get(one.to_instance_id, Lifecycle.SPOT)),
            by_itself=one.switch_reason == SignalType.AUTO_SWITCH,
        )
        for one in switches
    )
