"""What a warm process serves while models come, go and break; and what a model must do to get there."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.control.live_model import LiveModel, check_health
from spot_optimizer.control.model_activation import reason_of
from spot_optimizer.domain import model_checks
from spot_optimizer.domain.model_comparison import Outcome, compare, is_enough, usable
from spot_optimizer.domain.model_sessions import LOOK_EVERY, PROPAGATES_WITHIN, ModelSession, Slots
from spot_optimizer.domain.models import Golden, Row
from spot_optimizer.domain.writes import Transaction
from spot_optimizer.errors import ModelRejected, ModelUnhealthy, NoModelLive, SpotOptimizerError, Throttled
from tests.unit.models.model_builders import NOW, a_manifest

GOLDEN = a_manifest().golden


class Constant:
    """A model that answers the golden rows right, or not."""

    features: tuple[str, ...] = ("a", "b", "c")

    def __init__(self, answer: tuple[float, float] = (0.1, 0.4)) -> None:
        self.answer = answer

    def score(self, rows: Any, *, features: Any = None) -> list[list[float]]:
        return [list(self.answer) for _ in rows]


class Process:
    """A warm process, its clock, and the row and the files that it looks at."""

    def __init__(self, **slots: Any) -> None:
        self.now: datetime = NOW
        self.row: Slots | SpotOptimizerError = Slots(**slots)
        self.looks = 0
        self.broken: dict[str, SpotOptimizerError] = {}
        self.warnings: list[str] = []
        self.models: dict[str, Constant] = {}
        self.live = LiveModel(self, read=self.read, clock=lambda: self.now, warn=self.warnings.append)

    def slots(self) -> Slots:
        self.looks += 1
        if isinstance(self.row, SpotOptimizerError):
            raise self.row
        return self.row

    def session(self, session_id: str) -> ModelSession:
        raise AssertionError("serving reads one row only")

    def commit(self, transaction: Transaction) -> None:
        raise AssertionError("serving writes nothing")

    def read(self, session_id: str) -> Constant:
        if session_id in self.broken:
            raise self.broken[session_id]
        return self.models.setdefault(session_id, Constant())

    def later(self, by: timedelta = LOOK_EVERY) -> str:
        self.now += by
        return self.live.current().session_id


def test_a_warm_process_serves_what_is_live_within_ten_seconds_and_seldom_looks() -> None:
    process = Process(revision=1, live_session_id="m-1")
    assert process.live.current().session_id == "m-1"
    process.row = Slots(revision=2, live_session_id="m-2", fallback_session_id="m-1")
    assert process.later(LOOK_EVERY / 2) == "m-1"
    assert process.looks == 1
    assert process.later(LOOK_EVERY / 2) == "m-2"
    assert LOOK_EVERY < PROPAGATES_WITHIN


def test_a_model_is_loaded_once() -> None:
    process = Process(revision=1, live_session_id="m-1")
    models = {id(process.live.current().model)}
    for _ in range(5):
        process.later()
        models.add(id(process.live.current().model))
    assert len(models) == 1


def test_a_process_that_cannot_load_the_new_model_serves_on_and_tries_again() -> None:
    process = Process(revision=1, live_session_id="m-1")
    process.live.current()
    process.broken["m-2"] = ModelRejected("'risk-1h.ubj' is gone")
    process.row = Slots(revision=2, live_session_id="m-2", fallback_session_id="m-1")
    assert process.later() == "m-1"
    assert "m-2 can not be loaded: 'risk-1h.ubj' is gone" in process.warnings[-1]
    del process.broken["m-2"]
    assert process.later() == "m-2"


def test_a_process_that_comes_up_with_a_broken_model_serves_the_fallback() -> None:
    process = Process(revision=2, live_session_id="m-2", fallback_session_id="m-1")
    process.broken["m-2"] = ModelRejected("broken")
    assert process.live.current().session_id == "m-1"


def test_a_table_that_does_not_answer_changes_nothing_that_is_served() -> None:
    process = Process(revision=1, live_session_id="m-1")
    process.live.current()
    process.row = Throttled("slow down")
    assert process.later() == "m-1"


def test_without_a_model_the_advisor_band_stands_in() -> None:
    for process in (Process(), Process(revision=1, live_session_id="m-1")):
        process.broken["m-1"] = ModelRejected("broken")
        with pytest.raises(NoModelLive, match="the advisor band stands in"):
            process.live.current()


def test_a_first_model_that_was_rolled_back_is_let_go() -> None:
    process = Process(revision=1, live_session_id="m-1")
    process.live.current()
    process.row = Slots(revision=2)
    with pytest.raises(NoModelLive):
        process.later()


@given(st.lists(st.sampled_from(["next", "break", "mend", "mute"]), max_size=25))
def test_once_a_model_was_served_there_is_never_none(events: list[str]) -> None:
    process = Process(revision=1, live_session_id="m-1")
    process.live.current()
    live = 1
    for event in events:
        match event:
            case "next":
                live += 1
                process.row = Slots(revision=live, live_session_id=f"m-{live}", fallback_session_id=f"m-{live - 1}")
            case "break":
                process.broken[f"m-{live}"] = ModelRejected("broken")
            case "mend":
                process.broken.clear()
            case "mute":
                process.row = Throttled("slow down")
        assert process.later()


# --- health


def healthy(process: Process, session_id: str = "m-2") -> str:
    row = process.row
    assert isinstance(row, Slots)
    return check_health(process.live, row, GOLDEN, session_id=session_id)


def test_a_process_that_serves_the_new_model_as_it_was_trained_is_healthy() -> None:
    assert "8 golden rows reproduced" in healthy(Process(revision=2, live_session_id="m-2"))


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda process: process.broken.update({"m-2": ModelRejected("gone")}), "gone"),
        (lambda process: process.models.update({"m-2": Constant((0.2, 0.4))}), "by the trained model"),
    ],
)
def test_a_process_that_does_not_serve_it_so_is_not(prepare: Callable[[Process], None], says: str) -> None:
    for slots in ({"fallback_session_id": "m-1"}, {}):
        process = Process(revision=2, live_session_id="m-2", **slots)
        prepare(process)
        with pytest.raises(ModelUnhealthy, match=says):
            healthy(process)


def test_what_is_no_longer_live_is_not_healthy() -> None:
    with pytest.raises(ModelUnhealthy, match="m-1 is live, not m-2"):
        healthy(Process(revision=2, live_session_id="m-1"))


def test_a_failure_that_may_pass_is_no_verdict_on_the_model() -> None:
    process = Process(revision=2, live_session_id="m-2", fallback_session_id="m-1")
    process.broken["m-2"] = Throttled("slow down")
    with pytest.raises(Throttled):
        healthy(process)


# --- checks


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -0.01, 1.01])
def test_an_answer_that_is_no_probability_is_rejected(answer: float) -> None:
    with pytest.raises(ModelRejected, match="expected 0 to 1"):
        model_checks.check_answers([[0.1, 0.2], [0.2, answer]])


def test_a_model_that_predicts_constants_within_either_horizon_is_rejected() -> None:
    with pytest.raises(ModelRejected, match="within 6 h the model predicts 0.5 for everything"):
        model_checks.check_answers([[0.1, 0.5], [0.2, 0.5]])


def test_a_golden_row_that_is_answered_with_nothing_is_not_reproduced() -> None:
    with pytest.raises(ModelRejected, match="golden row 1"):
        model_checks.check_golden(Golden(((1.0,),) * 2, ((0.1, 0.2),) * 2), [[0.1, 0.2], [0.1, float("nan")]])


def test_a_model_that_is_too_slow_for_a_fleet_is_rejected() -> None:
    assert "10.0 µs a row" in model_checks.check_speed(rows=1000, seconds=0.01)
    with pytest.raises(ModelRejected, match="train fewer trees"):
        model_checks.check_speed(rows=1000, seconds=1.0)


# --- comparison


def outcomes(pools: int = 10, rows: int = 30, *, interrupted: int = 3) -> list[Outcome]:
    return [
        Outcome(f"pool-{pool}", NOW, ("a",), (float(pool),), 0.5 if pool < interrupted else None)
        for pool in range(pools)
        for _ in range(rows)
    ]


def answers(rows: list[Outcome], knows: float) -> list[list[float]]:
    """Answers that know the truth to a degree: 1 all of it, 0 nothing, -1 the opposite."""
    return [[0.5 + knows * (row.happened_within(hours) - 0.5) for hours in (1, 6)] for row in rows]


def test_a_model_that_knows_less_in_every_pool_is_clearly_worse() -> None:
    rows = outcomes()
    assert compare(rows, answers(rows, -0.5), answers(rows, 0.8)).is_clearly_worse
    assert not compare(rows, answers(rows, 0.8), answers(rows, -0.5)).is_clearly_worse


@given(st.floats(-1, 1))
def test_no_model_is_clearly_worse_than_itself(knows: float) -> None:
    rows = outcomes(rows=2)
    assert not compare(rows, answers(rows, knows), answers(rows, knows)).is_clearly_worse


def test_worse_in_one_pool_of_ten_is_not_beyond_doubt() -> None:
    rows = outcomes()
    candidate = answers(rows, 0.5)
    for number in range(30):
        candidate[number] = [0.0, 0.0]
    comparison = compare(rows, candidate, answers(rows, 0.5))
    assert not comparison.is_clearly_worse, comparison.finding


def test_few_rows_or_few_pools_say_nothing() -> None:
    assert is_enough(outcomes())
    assert not is_enough(outcomes(rows=5))
    assert not is_enough(outcomes(pools=4, rows=100))


def test_rows_without_a_feature_that_either_model_needs_are_passed_over() -> None:
    row: Row = (1.0, 2.0)
    both, one = (Outcome("p", NOW, names, row[: len(names)], None) for names in (("a", "b"), ("a",)))
    assert usable([both, one], ("b", "a"), ("a",)) == (both,)
    assert both.values(("b", "a")) == (2.0, 1.0)


# --- reasons


def test_the_reason_is_our_own_message_where_there_is_one() -> None:
    cause = {"Error": "ModelRejected", "Cause": json.dumps({"errorMessage": "too deep", "stackTrace": ["x"]})}
    assert reason_of(json.dumps(cause)) == "ModelRejected: too deep"
    assert reason_of(json.dumps({"Error": "States.Timeout", "Cause": ""})) == "States.Timeout: "
    assert reason_of(json.dumps({"Error": "Lambda.Unknown", "Cause": "it ended"})) == "Lambda.Unknown: it ended"
    assert reason_of("no JSON") == "no JSON"
