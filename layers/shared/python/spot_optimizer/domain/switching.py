"""Switching: when a workload is moved for money, and why that can not become flapping.

Whoever proposes a move, the decision engine or the price rule below, passes through one gate, `judge`. It lets a
proposal through only if, whatever the market did,

* the workload has been where it is for `dwell`, however it came there;
* it saves at least `minimum_saving`, and, where it leads back to an offer that was left within `REMEMBERED`, at least
  `minimum_saving + hysteresis`;
* fewer than `most_per_day` such moves were made within a day;
* a maintenance window is open.

So a workload that comes back by itself to where it was has multiplied its price by less than
(1 - minimum_saving)^(n-1) x (1 - minimum_saving - hysteresis) over the n moves of that circle, which only prices that
moved by as much can bring about: on a market whose prices stay within a factor of 1 / (1 - minimum_saving) of
themselves, nobody ever comes back, and nowhere does anybody move more often than once in a dwell or `most_per_day`
times a day. `docs/adr` has the proof; a property test looks for a counterexample.

Nothing here concerns an emergency.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from spot_optimizer.domain import catalogue, maintenance
from spot_optimizer.domain.agents import Agent, HandoverState
from spot_optimizer.domain.catalogue import Candidate
from spot_optimizer.domain.decisions import OfferId, Verdict
from spot_optimizer.domain.maintenance import Window
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.signals import SignalType
from spot_optimizer.domain.stored_decisions import StoredDecision
from spot_optimizer.errors import InvalidRequest

DAY = timedelta(days=1)

REMEMBERED = timedelta(days=7)
"""An offer that was left longer ago is entered as if it were new: coming back once a week is no flapping."""

PAYBACK = timedelta(hours=24)
"""Within this time a switch must have earned what it costs."""

FIRST_RETRY = timedelta(minutes=30)
"""After a switch that failed the next one waits so long, and twice as long after each further one."""

HANDOVERS_PER_SWITCH = 2
"""Each that is aborted has clients wait for nothing."""

BETWEEN_HANDOVERS = timedelta(minutes=5)

SWITCH_PATIENCE = timedelta(hours=12)
"""A switch that has not come about by then is given up; 1 TB at 30 MB/s is on its way for nine hours."""

_TICK = Decimal("0.000001")


class HoldReason(enum.StrEnum):
    """Why nothing is moved now; people read the explanation."""

    TOGGLED_OFF = "toggled-off"
    PAUSED = "paused"
    UNDER_WAY = "under-way"
    STANDBY_HELD = "standby-held"
    OUTSIDE_WINDOW = "outside-window"
    STAYED_TOO_SHORTLY = "stayed-too-shortly"
    MOVED_TOO_OFTEN = "moved-too-often"
    FAILED_LATELY = "failed-lately"
    NOTHING_CHEAPER = "nothing-cheaper"
    CURRENT_PRICE_UNKNOWN = "current-price-unknown"
    SAVES_TOO_LITTLE = "saves-too-little"
    RETURNS_FOR_TOO_LITTLE = "returns-for-too-little"
    PAYS_BACK_TOO_LATE = "pays-back-too-late"
    DECIDED_TO_STAY = "decided-to-stay"


@dataclass(frozen=True, slots=True)
class Hold:
    """Stay, for this reason."""

    reason: HoldReason
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRules:
    """What an operator may set of moves for money.

    Attributes:
        minimum_saving: Share of what the current place costs; above 0.
        dwell: How long the workload stays after any move.
        hysteresis: What a return must save on top, as a share of the same; above 0.
        most_per_day: Moves of this kind within 24 hours.
        windows: When they may be made; always, where there is none.
    """

    minimum_saving: Decimal = Decimal("0.05")
    dwell: timedelta = timedelta(minutes=30)
    hysteresis: Decimal = Decimal("0.05")
    most_per_day: int = 4
    windows: tuple[Window, ...] = ()

    @classmethod
    def of(cls, agent: Agent) -> SwitchRules:
        """From the agent's row."""
        return cls(
            minimum_saving=Decimal(str(agent.switch_minimum_saving)),
            dwell=timedelta(seconds=agent.switch_dwell_seconds),
            hysteresis=Decimal(str(agent.switch_hysteresis)),
            most_per_day=agent.switches_per_day,
            windows=tuple(map(Window.parse, agent.maintenance_windows)),
        )


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the past, whatever it was for.

    Attributes:
        by_itself: It was made for money, and nobody asked for it.
    """

    at: datetime
    left: OfferId
    entered: OfferId
    by_itself: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is remembered of an agent.

    Attributes:
        registered_at: Before its first move, it has been where it is since then.
        moves: In any order; what is older than `REMEMBERED` may be left out.
        failed_at: When switches ended that did not come about.
    """

    registered_at: datetime
    moves: tuple[Move, ...] = ()
    failed_at: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A move that somebody thinks would pay.

    Attributes:
        current_usd_per_hour: Price in force where the workload runs; None where none is known.
        target_usd_per_hour: Price in force where it would go.
        saving_usd_per_hour: What it is expected to save, in the proposer's terms.
        saving: The same as a share of what the current place costs, in the same terms.
        switch_usd: What the switch itself costs.
        explanation: For people.
    """

    current: OfferId
    target: OfferId
    current_usd_per_hour: Decimal | None
    target_usd_per_hour: Decimal
    saving_usd_per_hour: Decimal
    saving: Decimal
    switch_usd: Decimal = Decimal(0)
    explanation: str


def propose_by_price(
    current: OfferId,
    current_usd_per_hour: Decimal | None,
    candidates: Iterable[Candidate],
    *,
    overlap: timedelta = timedelta(0),
) -> Proposal | Hold:
    """The price rule, for when nothing better was decided: to the cheapest spot pool that qualifies, out of cooldown.

    A workload on demand goes to spot also where nobody knows what on-demand costs: unless one asks for it, nobody pays
    more for spot (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/how-spot-instances-work.html).

    Args:
        current: Where the workload runs.
        current_usd_per_hour: What that costs.
        candidates: The agent's catalogue.
        overlap: For how long two instances would be paid.
    """
    found = [
        (candidate.usd_per_hour, candidate.pool.pool_id)
        for candidate in candidates
        if candidate.usd_per_hour is not None and not candidate.excluded_because and candidate.cooling_until is None
    ]
    if not found:
        return Hold(HoldReason.NOTHING_CHEAPER, "no other pool qualifies now, with a known price and out of cooldown")
    usd_per_hour, pool_id = min(found)
    target = OfferId(pool_id)
    if current_usd_per_hour is None and not _on_demand(current):
        return Hold(HoldReason.CURRENT_PRICE_UNKNOWN, f"no price is known for {current}, where the workload runs")
    if current_usd_per_hour is None:
        saving_usd_per_hour, saving = usd_per_hour, Decimal(1)
        said = f"{target} at {usd_per_hour:.4f} USD/h is on spot, and the workload runs on demand"
    else:
        saving_usd_per_hour = current_usd_per_hour - usd_per_hour
        saving = saving_usd_per_hour / current_usd_per_hour if current_usd_per_hour else Decimal(0)
        said = f"{target} at {usd_per_hour:.4f} USD/h against {current} at {current_usd_per_hour:.4f} USD/h"
    if saving_usd_per_hour <= 0:
        return Hold(HoldReason.NOTHING_CHEAPER, f"nothing is cheaper than where the workload runs: {said}")
    return Proposal(
        current=current,
        target=target,
        current_usd_per_hour=current_usd_per_hour,
        target_usd_per_hour=usd_per_hour,
        saving_usd_per_hour=saving_usd_per_hour,
        saving=saving.quantize(_TICK),
        switch_usd=usd_per_hour * (overlap // timedelta(seconds=1)) / 3600,
        explanation=said,
    )


def propose_by_decision(decision: StoredDecision) -> Proposal | Hold:
    """What was decided, as a proposal: prices, risks and standbys are weighed in it already."""
    if decision.verdict is not Verdict.SWITCH:
        return Hold(HoldReason.DECIDED_TO_STAY, f"{decision.reason}: {decision.explanation}")
    current = OfferId(decision.current_pool_id, decision.current_lifecycle)
    prices = {OfferId(one.pool_id, one.lifecycle): one.usd_per_hour for one in decision.offers}
    target_usd_per_hour = prices.get(decision.target)
    if target_usd_per_hour is None:
        return Hold(HoldReason.NOTHING_CHEAPER, f"no price is known for {decision.target}, where it was decided to go")
    return Proposal(
        current=current,
        target=decision.target,
        current_usd_per_hour=prices.get(current),
        target_usd_per_hour=target_usd_per_hour,
        saving_usd_per_hour=decision.saving_usd_per_hour,
        saving=decision.saving,
        explanation=decision.explanation,
    )


def check_target(
    candidates: Sequence[Candidate],
    current: OfferId,
    *,
    pool_id: str | None,
    lifecycle: Lifecycle,
    excluded_zones: Sequence[str] = (),
) -> None:
    """Refuse a switch that could never be made as it is asked for.

    On demand the primary's own pool will do, because its capacity is another one; on spot it never does.

    Raises:
        InvalidRequest: The workload runs there already, or the pool is unknown, of another region, or does not fit.
        NoPoolQualifies: Nothing is left.
    """
    if lifecycle is current.lifecycle and (pool_id == current.pool_id or (pool_id is None and _on_demand(current))):
        raise InvalidRequest(
            f"the workload runs in {current} already; expected another pool, or the other way to buy",
            field="pool_id" if pool_id is not None else "lifecycle",
            expected=f"anything but {current}",
        )
    if lifecycle is Lifecycle.ON_DEMAND:
        candidates = [
            replace(one, excluded_because=one.unfit_because)
            if one.pool.pool_id == current.pool_id and one.pool.availability_zone not in excluded_zones
            else one
            for one in candidates
        ]
    catalogue.check_wanted(candidates, pool_id=pool_id, excluded_zones=excluded_zones)


def _on_demand(offer: OfferId) -> bool:
    return offer.lifecycle is Lifecycle.ON_DEMAND


def judge(proposal: Proposal, rules: SwitchRules, history: History, *, now: datetime) -> Proposal | Hold:
    """The gate that every move for money passes that nobody asked for.

    Returns:
        The proposal itself, to be carried out; or why not now.
    """
    if not maintenance.is_open(rules.windows, now):
        return Hold(HoldReason.OUTSIDE_WINDOW, "no maintenance window is open")
    since = max((move.at for move in history.moves), default=history.registered_at)
    if now - since < rules.dwell:
        return Hold(HoldReason.STAYED_TOO_SHORTLY, f"it has been there since {_at(since)}, less than {rules.dwell}")
    made = [move.at for move in history.moves if move.by_itself and now - move.at < DAY]
    if len(made) >= rules.most_per_day:
        return Hold(HoldReason.MOVED_TOO_OFTEN, f"it was moved {len(made)} times within a day, as often as it may be")
    retry_at = retry_after(history.failed_at, since=since, now=now)
    if retry_at > now:
        return Hold(HoldReason.FAILED_LATELY, f"a switch failed lately; the next is tried at {_at(retry_at)}")
    left = [move.at for move in history.moves if move.left == proposal.target and now - move.at < REMEMBERED]
    wanted = rules.minimum_saving + (rules.hysteresis if left else 0)
    if proposal.saving < wanted:
        saves = f"{proposal.explanation}: it saves {proposal.saving:.1%}"
        if left and proposal.saving >= rules.minimum_saving:
            return Hold(
                HoldReason.RETURNS_FOR_TOO_LITTLE,
                f"{saves}; {proposal.target} was left at {_at(max(left))}, so that coming back must save {wanted:.1%}",
            )
        return Hold(HoldReason.SAVES_TOO_LITTLE, f"{saves}, less than {rules.minimum_saving:.1%}")
    if proposal.saving_usd_per_hour * Decimal(PAYBACK / timedelta(hours=1)) < proposal.switch_usd:
        return Hold(
            HoldReason.PAYS_BACK_TOO_LATE,
            f"{proposal.explanation}: the switch costs {proposal.switch_usd:.4f} USD, more than it earns in {PAYBACK}",
        )
    return proposal


def retry_after(failed_at: Iterable[datetime], *, since: datetime, now: datetime) -> datetime:
    """From when on another switch is tried: at once, or after as long as the failures since the last move ask for."""
    failed = [at for at in failed_at if since < at and now - at < DAY]
    if not failed:
        return now
    delay = FIRST_RETRY
    for _ in failed[1:]:
        delay = min(2 * delay, DAY)
    return max(failed) + delay


# --- the switch that is under way


@dataclass(frozen=True, slots=True)
class Begin:
    """Hand over to the replica now."""

    signal: SignalType
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The switch does not come about; the primary serves on."""

    reason: str


NextStep = Begin | Wait | GiveUp


def next_step(agent: Agent, replica: Replica, *, now: datetime) -> NextStep:
    """What becomes of a replica that was made, or taken, for a switch. Whoever looks decides the same.

    Args:
        agent: Its row; nothing of it is paused.
        replica: Its active replica.
        now: When.
    """
    if replica.switch_reason is None or replica.switch_asked_at is None:
        return Wait("no switch was asked for")
    if agent.lost or agent.claim_open or agent.handover_open:
        return Wait("a failover is under way, or over for good")
    if now - replica.switch_asked_at > SWITCH_PATIENCE:
        return GiveUp(f"the switch has not come about within {SWITCH_PATIENCE}")
    tried = agent.handover_count - replica.switch_handovers_before
    if tried >= HANDOVERS_PER_SWITCH:
        return GiveUp(f"{tried} handovers were aborted; the primary serves on")
    if replica.status is not ReplicaState.READY:
        return Wait(f"the replica is '{replica.status}'")
    by_itself = replica.switch_reason is SignalType.AUTO_SWITCH
    if by_itself and not agent.auto_switch:
        return Wait("auto_switch was switched off meanwhile")
    if by_itself and not maintenance.is_open(SwitchRules.of(agent).windows, now):
        return Wait("no maintenance window is open")
    opened_at = agent.handover_opened_at
    if tried and agent.handover_state is HandoverState.ABORTED and opened_at and now - opened_at < BETWEEN_HANDOVERS:
        return Wait("a handover was aborted a moment ago")
    return Begin(replica.switch_reason, replica.switch_explanation or "")


def is_under_way(agent: Agent, replica: Replica, *, now: datetime) -> bool:
    """Whether an active replica is to take over for a switch that is not given up."""
    return replica.switch_reason is not None and not isinstance(next_step(agent, replica, now=now), GiveUp)


def failures(agent: Agent, replicas: Sequence[Replica], *, now: datetime) -> tuple[datetime, ...]:
    """When switches ended that nobody asked for and that did not come about."""
    failed = []
    for replica in replicas:
        if replica.switch_reason is not SignalType.AUTO_SWITCH or replica.status is ReplicaState.PROMOTED:
            continue
        if not replica.active:
            failed.append(replica.ended_at)
        elif not is_under_way(agent, replica, now=now):
            # A standby that was there before, and goes on standing by.
            failed.append(replica.switch_asked_at)
    return tuple(at for at in failed if at is not None)


def _at(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
