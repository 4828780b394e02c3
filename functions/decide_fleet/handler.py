"""Decides for all agents on schedule, or at once for those that are named: where each should run, and what for.

It alone asks a model to decide. Without one, or with one that fails, the rule's risks stand, and each decision says so.
Nothing on the failover path waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from spot_optimizer import wiring
from spot_optimizer.control import deciding
from spot_optimizer.domain.risk import MODEL_FEATURES
from spot_optimizer.domain.stored_decisions import is_sampled
from spot_optimizer.errors import SpotOptimizerError, Transient
from spot_optimizer_ml.deciding import Questions, Risks, by_model, by_rule, decide_fleet, questions
from spot_optimizer_ml.scoring import RiskModel


@wiring.logger.inject_lambda_context
def handle(event: Mapping[str, Any], _context: Any) -> dict[str, Any]:
    """Decide once. `{}` is for all agents; `{"agent_ids": [...]}` for some."""
    plane, asked_for = wiring.deciding_plane(), event.get("agent_ids")
    gathered = deciding.gather(plane, deciding.agents_named(plane, asked_for))
    asked = questions(gathered.standings, deciding.pool_pasts(plane, gathered), now=gathered.now)
    risks = _judge(asked, gathered)
    decided = decide_fleet(gathered.standings, risks, now=gathered.now)
    not_kept = plane.decisions.keep(decided)
    if asked_for is None:
        wiring.count("FleetDecisions", 1)
        wiring.count("DecisionsNotKept", not_kept)
        wiring.count("DecisionsWithoutModel", 0 if risks.model_version else len(decided))
    return {
        "decided_at": gathered.now.isoformat(),
        "agents": len(decided),
        "not_kept": not_kept,
        "verdicts": Counter(decision.verdict.value for decision in decided),
        "model_version": risks.model_version,
        "without_model_because": risks.without_model_because,
    }


def _judge(asked: Questions, gathered: deciding.Gathered) -> Risks:
    try:
        served = wiring.live_model(RiskModel.load).current()
        answers = served.model.score(asked.rows, features=MODEL_FEATURES) if asked.rows else []
    except SpotOptimizerError as failure:
        return by_rule(f"{type(failure).__name__}: {failure}")
    if is_sampled(gathered.now):
        _keep_for_comparison(asked, gathered)
    return by_model(asked, answers, version=served.session_id, now=gathered.now)


def _keep_for_comparison(asked: Questions, gathered: deciding.Gathered) -> None:
    """Keep what was asked of instances that are held: only of them it will be known whether AWS took them back."""
    own = asked.rows[len(asked.pool_ids) :]
    if not own:
        return
    try:
        wiring.outcomes().keep(
            asked.own_pool_ids, own, features=MODEL_FEATURES, now=gathered.now, call_id=wiring.new_id()
        )
    except Transient as failure:
        wiring.logger.warning("what was asked could not be kept", extra={"cause": str(failure)})
