"""One activation at a time, and live and fallback change places together or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_optimizer.domain import model_sessions
from spot_optimizer.domain.model_sessions import MODEL, ModelSession, SessionStatus, Slots
from spot_optimizer.domain.writes import Table
from spot_optimizer.errors import (
    ActivationInProgress,
    ActivationLost,
    ConditionFailed,
    ModelNotActivatable,
    NoFallbackModel,
    Rejected,
)
from tests.fakes import FakeRecords
from tests.unit.models.model_builders import NOW, a_session


class Models:
    """The two tables, and the operations on them."""

    def __init__(self) -> None:
        self.records = FakeRecords()

    @property
    def slots(self) -> Slots:
        row = self.records.rows[Table.MODEL_SLOTS].get((MODEL,))
        return Slots(**row) if row else Slots()

    def session(self, session_id: str) -> ModelSession:
        return ModelSession(**self.records.rows[Table.MODEL_SESSIONS][session_id,])

    def status(self, session_id: str) -> SessionStatus:
        return self.session(session_id).status

    def upload(self, session_id: str) -> None:
        self.records.commit(model_sessions.open_session(a_session(session_id)))

    def begin(self, session_id: str) -> None:
        self.records.commit(
            model_sessions.begin_activation(
                self.slots, self.session(session_id), key=None, forced_because=None, now=NOW
            )
        )

    def make_live(self, session_id: str) -> None:
        self.records.commit(model_sessions.make_live(self.slots, session_id, now=NOW))

    def confirm(self, session_id: str) -> None:
        self.records.commit(model_sessions.confirm(self.slots, session_id, now=NOW))

    def roll_back(self, session_id: str) -> None:
        self.records.commit(model_sessions.roll_back(self.slots, session_id, reason="unhealthy", now=NOW))

    def reject(self, session_id: str) -> None:
        self.records.commit(model_sessions.reject(self.slots, session_id, reason="bad", now=NOW))

    def put_back(self, session_id: str) -> None:
        self.records.commit(model_sessions.put_back(self.slots, session_id, reason="worse", now=NOW))

    def fall_back(self) -> None:
        self.records.commit(model_sessions.fall_back(self.slots, key=None, now=NOW))

    def activate(self, session_id: str) -> None:
        self.upload(session_id)
        self.begin(session_id)
        self.make_live(session_id)
        self.confirm(session_id)


@pytest.fixture
def models() -> Models:
    return Models()


def test_the_first_model_becomes_live_without_a_fallback(models: Models) -> None:
    models.activate("m-1")
    assert (models.slots.live_session_id, models.slots.fallback_session_id) == ("m-1", None)
    assert models.session("m-1").is_live
    with pytest.raises(NoFallbackModel):
        models.fall_back()


def test_the_second_pushes_the_first_to_fallback_and_the_third_pushes_it_out(models: Models) -> None:
    models.activate("m-1")
    models.activate("m-2")
    assert models.status("m-1") is SessionStatus.FALLBACK
    models.activate("m-3")
    assert (models.slots.live_session_id, models.slots.fallback_session_id) == ("m-3", "m-2")
    assert models.status("m-1") is SessionStatus.SUPERSEDED
    assert models.session("m-1").is_forgotten(NOW)


def test_falling_back_twice_is_where_one_was(models: Models) -> None:
    models.activate("m-1")
    models.activate("m-2")
    before = models.slots
    models.fall_back()
    assert (models.slots.live_session_id, models.slots.fallback_session_id) == ("m-1", "m-2")
    assert models.session("m-1").is_live and models.session("m-2").is_fallback
    models.fall_back()
    assert models.slots.live_session_id == before.live_session_id
    assert models.slots.revision == before.revision + 2


def test_a_roll_back_restores_what_was_displaced_too(models: Models) -> None:
    for session_id in ("m-1", "m-2"):
        models.activate(session_id)
    models.upload("m-3")
    models.begin("m-3")
    models.make_live("m-3")
    assert not models.session("m-1").is_forgotten(NOW), "its files are needed until the new model serves"
    models.roll_back("m-3")
    assert (models.slots.live_session_id, models.slots.fallback_session_id) == ("m-2", "m-1")
    assert [models.status(each) for each in ("m-1", "m-2", "m-3")] == ["fallback", "live", "rejected"]
    assert models.session("m-3").reason == "unhealthy"
    assert models.slots.activating_session_id is None


def test_a_roll_back_of_the_first_model_leaves_none(models: Models) -> None:
    models.upload("m-1")
    models.begin("m-1")
    models.make_live("m-1")
    models.roll_back("m-1")
    assert models.slots.live_session_id is None


def test_of_two_activations_that_read_the_same_one_wins(models: Models) -> None:
    models.upload("m-1")
    models.upload("m-2")
    both = [
        model_sessions.begin_activation(models.slots, models.session(each), key=None, forced_because=None, now=NOW)
        for each in ("m-1", "m-2")
    ]
    models.records.commit(both[0])
    with pytest.raises(ConditionFailed):
        models.records.commit(both[1])
    with pytest.raises(ActivationInProgress, match="m-1 is being activated"):
        models.begin("m-2")
    assert models.status("m-2") is SessionStatus.PENDING


def test_no_fall_back_while_what_is_live_may_change(models: Models) -> None:
    models.activate("m-1")
    models.activate("m-2")
    stale = model_sessions.fall_back(models.slots, key=None, now=NOW)
    models.upload("m-3")
    models.begin("m-3")
    with pytest.raises(ActivationInProgress):
        models.fall_back()
    with pytest.raises(ConditionFailed):
        models.records.commit(stale)


def test_a_rejected_model_changes_nothing_that_is_live(models: Models) -> None:
    models.activate("m-1")
    models.upload("m-2")
    models.begin("m-2")
    models.reject("m-2")
    assert models.slots.live_session_id == "m-1"
    assert models.slots.revision == 1
    session = models.session("m-2")
    assert (session.status, session.reason) == (SessionStatus.REJECTED, "bad")
    assert session.is_forgotten(NOW + timedelta(days=30))
    with pytest.raises(ModelNotActivatable, match="upload it as a new session"):
        models.begin("m-2")


def test_a_model_that_was_put_back_may_be_activated_again(models: Models) -> None:
    models.upload("m-1")
    models.begin("m-1")
    models.put_back("m-1")
    assert (models.status("m-1"), models.session("m-1").reason) == (SessionStatus.PENDING, "worse")
    models.begin("m-1")
    assert models.session("m-1").reason is None


def test_the_fallback_is_not_activated_but_fallen_back_to(models: Models) -> None:
    models.activate("m-1")
    models.activate("m-2")
    with pytest.raises(ModelNotActivatable, match="ml-models/fallback"):
        models.begin("m-1")


@pytest.mark.parametrize("step", [Models.make_live, Models.confirm, Models.roll_back, Models.reject, Models.put_back])
def test_an_activation_that_was_given_up_changes_nothing(models: Models, step: Callable[[Models, str], None]) -> None:
    models.upload("m-1")
    models.begin("m-1")
    models.put_back("m-1")
    with pytest.raises(ActivationLost):
        step(models, "m-1")


def test_a_step_that_is_repeated_has_one_finding(models: Models) -> None:
    models.upload("m-1")
    models.begin("m-1")
    for finding in ("first", "second"):
        models.records.commit(model_sessions.note(models.session("m-1"), "VerifyFiles", finding))
    models.records.commit(model_sessions.note(models.session("m-1"), "CheckContract", "fits"))
    assert models.session("m-1").findings == (
        {"step": "VerifyFiles", "finding": "second"},
        {"step": "CheckContract", "finding": "fits"},
    )


STEPS = ("upload", "begin", "make_live", "confirm", "roll_back", "reject", "put_back", "fall_back")


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 4)), max_size=30))
def test_whatever_is_tried_in_whatever_order_the_rows_agree(steps: list[tuple[str, int]]) -> None:
    models = Models()
    for name, number in steps:
        with contextlib.suppress(Rejected, KeyError):
            getattr(models, name)(*(() if name == "fall_back" else (f"m-{number}",)))
        rows = models.records.rows[Table.MODEL_SESSIONS]
        slots = models.slots
        by_status = {
            status: {key for (key,), row in rows.items() if row["status"] is status} for status in SessionStatus
        }
        assert by_status[SessionStatus.LIVE] == {slots.live_session_id} - {None}
        assert by_status[SessionStatus.FALLBACK] == {slots.fallback_session_id} - {None}
        validating = set() if slots.unconfirmed else {slots.activating_session_id} - {None}
        assert by_status[SessionStatus.VALIDATING] == validating
        assert {row["session_id"] for row in rows.values() if row["is_live"]} == by_status[SessionStatus.LIVE]
        for key in slots.kept_session_ids:
            assert not models.session(key).is_forgotten(NOW), "what may be needed keeps its files"
