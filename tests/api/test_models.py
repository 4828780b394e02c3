"""Models from upload to activation and back, as the API, the state machine's definition and its functions have it.

The definition is walked here state by state, with the real handlers, tables and files in process, and models that
XGBoost really trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from functions.activate_model import handler as activate_model
from functions.decide_fleet import handler as decide_fleet
from functions.score_risk import handler as score_risk
from spot_optimizer import bootstrap, wiring
from spot_optimizer.domain.agents import Interruption
from spot_optimizer.domain.models import LARGEST_FILE_BYTES, Span
from spot_optimizer.domain.tokens import OperatorRole
from spot_optimizer.domain.writes import Change, Table, Transaction
from spot_optimizer.errors import NoModelLive
from tests.api.conftest import Answered, Http, Registration
from tests.trained_models import FEATURES, TRAINED_UNTIL, TrainedModel, a_trained_model, some_rows

BUCKET = "test-models"
DEFINITION: Mapping[str, Any] = json.loads(
    (Path(__file__).parents[2] / "statemachines" / "activate_model.asl.json").read_text()
)
FUNCTIONS = {"${ActivateModelFunction}": activate_model, "${ScoreRiskFunction}": score_risk}
SESSIONS = "/api/admin/ml-models/sessions"
ACTIVATE = "/api/admin/ml-models/activate"
FALLBACK = "/api/admin/ml-models/fallback"


class Models:
    """An admin who handles models."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.s3 = boto3.client("s3")
        self.before: Mapping[str, Callable[[], object]] = {}

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answered:
        return self.http.call(method, path, body, token=more.pop("token", self.http.admin), **more)

    def open(self, model: TrainedModel, **more: Any) -> str:
        answer = self.call("POST", SESSIONS, model.body, **more)
        assert (answer.status, answer.body.get("status")) == (201, "pending"), answer.body
        return str(answer.body["session_id"])

    def upload(self, model: TrainedModel, **more: Any) -> str:
        session_id = self.open(model, **more)
        for name, content in model.files.items():
            self.s3.put_object(Bucket=BUCKET, Key=f"sessions/{session_id}/{name}", Body=content)
        return session_id

    def begin(self, session_id: str, *, key: str | None = None, **more: Any) -> Answered:
        headers = {"idempotency-key": key} if key else {}
        return self.call("POST", ACTIVATE, {"sessionId": session_id, **more}, headers=headers)

    def walk(self, session_id: str) -> list[str]:
        """Run the state machine; the names of the states it went through."""
        payload: dict[str, Any] = {"session_id": session_id}
        name, passed = DEFINITION["StartAt"], []
        while True:
            state = DEFINITION["States"][name]
            passed.append(name)
            self.before.get(name, lambda: None)()
            if state["Type"] in ("Succeed", "Fail"):
                return passed
            if state["Type"] == "Wait":
                wiring.live_model.cache_clear()  # ten seconds later, another process
                name = state["Next"]
                continue
            name = self._run(state, payload)

    def _run(self, state: Mapping[str, Any], payload: dict[str, Any]) -> str:
        parameters = state["Parameters"]
        event = {"task": parameters["Payload"]["task"], "session_id": payload["session_id"]}
        if "cause.$" in parameters["Payload"]:
            event["cause"] = json.dumps(payload["failure"])
        try:
            answer = FUNCTIONS[parameters["FunctionName"]].handle(event, self.http.context)
            json.dumps(answer)
        except Exception as error:  # noqa: BLE001 - as Step Functions does
            names = (type(error).__name__, "States.ALL")
            catcher = next(each for each in state["Catch"] if any(name in each["ErrorEquals"] for name in names))
            payload["failure"] = {"Error": names[0], "Cause": json.dumps({"errorMessage": str(error)})}
            return str(catcher["Next"])
        return str(state["Next"])

    def activate(self, session_id: str, **more: Any) -> list[str]:
        answer = self.begin(session_id, **more)
        assert (answer.status, answer.body.get("activating")) == (202, session_id), answer.body
        assert answer.body["look"].endswith(f":activate-model:activation-{wiring.models().slots().activation}")
        return self.walk(session_id)

    def make_live(self, model: TrainedModel) -> str:
        session_id = self.upload(model)
        passed = self.activate(session_id)
        assert passed[-1] == "ReportLive", (passed, self.session(session_id))
        return session_id

    def sessions(self) -> dict[str, dict[str, Any]]:
        return {one["session_id"]: one for one in self.call("GET", SESSIONS).body["sessions"]}

    def session(self, session_id: str) -> dict[str, Any]:
        return self.sessions()[session_id]

    def health(self) -> dict[str, Any]:
        model: dict[str, Any] = self.call("GET", "/api/health").body["model"]
        return model

    def files(self, session_id: str) -> set[str]:
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"sessions/{session_id}/").get("Contents", [])
        return {each["Key"].rpartition("/")[2] for each in found}

    def score(self, **more: Any) -> Any:
        event = {"task": "Score", "features": list(FEATURES), "rows": some_rows(3).tolist()} | more
        return score_risk.handle(event, self.http.context)


@pytest.fixture
def models(http: Http) -> Iterator[Models]:
    wiring.live_model.cache_clear()
    models = Models(http)
    yield models
    wiring.live_model.cache_clear()
    for each in models.s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        models.s3.delete_object(Bucket=BUCKET, Key=each["Key"])


def test_from_upload_to_live_to_fallback_and_back(models: Models) -> None:
    assert models.health() == {"live": None, "fallback": None, "activating": None, "revision": 0, "changed_at": None}
    first = models.upload(a_trained_model(seed=1))
    assert models.session(first)["status"] == "pending"
    passed = models.activate(first)
    assert passed == [
        *("VerifyFiles", "CheckContract", "ReproducePredictions", "ProbePredictions", "CompareWithLive"),
        *("MakeLive", "AwaitPropagation", "CheckHealth", "ConfirmLive", "ReportLive"),
    ]
    assert (models.health()["live"], models.health()["fallback"]) == (first, None)
    second = models.make_live(a_trained_model(seed=2, kind="json"))
    assert (models.health()["live"], models.health()["fallback"]) == (second, first)
    assert models.score()["model_version"] == second
    answer = models.call("POST", FALLBACK)
    assert (answer.status, answer.body["live"], answer.body["fallback"]) == (200, first, second)
    assert models.health()["live"] == first
    assert models.session(first)["is_live"] and models.session(second)["is_fallback"]
    assert models.call("POST", FALLBACK).body["live"] == second


def test_what_each_step_found_can_be_read(models: Models) -> None:
    session = models.session(models.make_live(a_trained_model()))
    steps = [one["step"] for one in session["findings"]]
    assert steps == ["VerifyFiles", "CheckContract", "ReproducePredictions", "ProbePredictions", "CompareWithLive"]
    assert "12 golden rows reproduced" in session["findings"][2]["finding"]
    assert session["metrics"] == {"auc_1h": 0.9}


def test_older_models_are_deleted_with_their_files(models: Models) -> None:
    first, second, third = (models.make_live(a_trained_model(seed=seed)) for seed in (1, 2, 3))
    assert models.sessions().keys() == {second, third}
    assert models.files(first) == set()
    assert models.files(second) and models.files(third)


def test_uploads_that_were_forgotten_are_deleted_with_the_next_activation(models: Models) -> None:
    pending, forgotten = models.upload(a_trained_model(seed=1)), models.upload(a_trained_model(seed=2))
    over = Change(Table.MODEL_SESSIONS, (forgotten,), "age", put={"forget_at": datetime.now(UTC) - timedelta(days=1)})
    wiring.models().commit(Transaction("age", (over,)))
    models.s3.put_object(Bucket=BUCKET, Key="sessions/long-gone/risk.ubj", Body=b"1")
    assert models.sessions().keys() == {pending}
    assert models.begin(forgotten).problem == "ModelSessionUnknown"
    models.make_live(a_trained_model(seed=3))
    assert models.files(pending) and not models.files(forgotten) and not models.files("long-gone")


# --- what cannot be used


def _nested(_: bytes) -> bytes:
    return b'{"a":' * 500 + b"1" + b"}" * 500


def _zip_bomb(_: bytes) -> bytes:
    import gzip

    return gzip.compress(b"0" * 10_000_000)


def _nan_in_scaler(content: bytes) -> bytes:
    scaler = json.loads(content)
    scaler["mean"][2] = float("nan")
    return json.dumps(scaler).encode()


def _cycle(content: bytes) -> bytes:
    model = json.loads(content)
    model["learner"]["gradient_booster"]["model"]["trees"][0]["left_children"][0] = 0
    return json.dumps(model).encode()


GOOD = a_trained_model(seed=9)
AS_JSON = a_trained_model(seed=9, kind="json")
UNUSABLE: Mapping[str, tuple[TrainedModel, str]] = {
    "truncated": (
        GOOD.with_file("risk-1h.ubj", lambda content: content[:-40], announced=False),
        "the manifest announces",
    ),
    "truncated as announced": (GOOD.with_file("risk-1h.ubj", lambda content: content[:-40]), "truncated"),
    "truncated JSON": (AS_JSON.with_file("risk-1h.json", lambda content: content[:-40]), "may be truncated"),
    "oversized": (
        GOOD.with_file("risk-1h.ubj", lambda content: content + b"N" * 10, announced=False),
        "bytes; the manifest announces",
    ),
    "wrong checksum": (
        GOOD.with_file("risk-6h.ubj", lambda content: content[:-1] + b"!", announced=False),
        "has the SHA-256",
    ),
    "wrong feature count": (GOOD.announced_as(features=FEATURES[:5]), "golden row 0 has 6 values; expected 5"),
    "wrong feature order": (
        GOOD.announced_as(features=(FEATURES[1], FEATURES[0], *FEATURES[2:])),
        "expected the same, in order",
    ),
    "unknown feature": (a_trained_model(features=("tomorrows_price", *FEATURES[1:])), "no feature tomorrows_price"),
    "NaN in the scaler": (GOOD.with_file("scaler.json", _nan_in_scaler), "holds NaN"),
    "a zip bomb": (AS_JSON.with_file("risk-1h.json", _zip_bomb), "gzip archive"),
    "500 levels deep": (AS_JSON.with_file("risk-1h.json", _nested), "500 levels deep"),
    "a scaler 500 levels deep": (GOOD.with_file("scaler.json", _nested), "500 levels deep"),
    "a tree that runs in a circle": (AS_JSON.with_file("risk-6h.json", _cycle), "has the child 0"),
    "a pickle in disguise": (GOOD.with_file("risk-1h.ubj", lambda _: b"\x80\x04\x95"), "spotctl models convert"),
    "constants": (a_trained_model(learns="nothing"), "for everything"),
    "trained on the future of its test": (
        GOOD.announced_as(training_span=Span(TRAINED_UNTIL, TRAINED_UNTIL + timedelta(days=1))),
        "has seen the future",
    ),
    "other golden predictions": (
        GOOD.announced_as(golden=a_trained_model(learns="opposite", seed=9).manifest.golden),
        "by the trained model",
    ),
    "another format": (GOOD.announced_as(format_version=2), "format_version is 2"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_model_that_cannot_be_used_is_rejected_and_the_live_one_stays(models: Models, what: str) -> None:
    live = models.make_live(a_trained_model(seed=1))
    before = models.health()
    model, says = UNUSABLE[what]
    session_id = models.upload(model)
    passed = models.activate(session_id)
    assert passed[-2:] == ["RejectModel", "ReportRejected"]
    assert "MakeLive" not in passed
    session = models.session(session_id)
    assert session["status"] == "rejected"
    assert says in session["reason"]
    assert models.health() == before
    assert models.score()["model_version"] == live
    assert models.files(session_id) == set()
    assert models.begin(session_id).problem == "ModelNotActivatable"


def test_a_file_that_is_deleted_before_it_is_verified_is_missed(models: Models) -> None:
    session_id = models.upload(GOOD)
    models.before = {
        "CheckContract": lambda: models.s3.delete_object(Bucket=BUCKET, Key=f"sessions/{session_id}/risk-1h.ubj")
    }
    assert "RejectModel" in models.activate(session_id)
    assert "'risk-1h.ubj' is gone" in models.session(session_id)["reason"]


# --- rolled back


def test_a_model_that_is_live_but_does_not_serve_is_rolled_back_by_itself(models: Models) -> None:
    first, second = (models.make_live(a_trained_model(seed=seed)) for seed in (1, 2))
    broken = models.upload(a_trained_model(seed=3))
    models.before = {
        "AwaitPropagation": lambda: models.s3.delete_object(Bucket=BUCKET, Key=f"sessions/{broken}/risk-6h.ubj"),
        "CheckHealth": lambda: served.append((models.health()["live"], models.score()["model_version"])),
    }
    served: list[tuple[str, str]] = []
    passed = models.activate(broken)
    assert passed[-3:] == ["CheckHealth", "RollBack", "ReportFailure"]
    assert served == [(broken, second)], "a process that comes up meanwhile serves the fallback"
    assert (models.health()["live"], models.health()["fallback"]) == (second, first)
    session = models.session(broken)
    assert (session["status"], session["is_live"]) == ("rejected", False)
    assert "ModelUnhealthy" in session["reason"]
    assert models.files(first) and models.files(second)
    assert models.files(broken) == set()


def test_an_activation_that_was_stopped_by_hand_is_ended_by_the_next(models: Models) -> None:
    live = models.make_live(a_trained_model(seed=1))
    stopped, waiting = models.upload(a_trained_model(seed=2)), models.upload(a_trained_model(seed=3))
    execution = models.begin(stopped).body["look"]
    activate_model.handle({"task": "MakeLive", "session_id": stopped}, models.http.context)
    assert models.health()["live"] == stopped
    boto3.client("stepfunctions").stop_execution(executionArn=execution)
    assert models.begin(waiting).status == 202
    assert models.health()["live"] == live, "nobody has seen it serve"
    assert models.session(stopped)["status"] == "rejected"
    assert models.walk(waiting)[-1] == "ReportLive"


# --- one at a time


def test_of_two_activations_at_once_the_second_gets_409(models: Models) -> None:
    first, second = models.upload(a_trained_model(seed=1)), models.upload(a_trained_model(seed=2))
    assert models.begin(first).status == 202
    answer = models.begin(second)
    assert (answer.status, answer.problem) == (409, "ActivationInProgress")
    assert first in answer.body["detail"]
    assert (models.begin(first).status, models.call("POST", FALLBACK).status) == (409, 409)
    assert models.session(second)["status"] == "pending"
    assert models.walk(first)[-1] == "ReportLive"
    assert models.begin(second).status == 202


def test_a_repeated_call_with_the_same_key_is_the_same_call(models: Models) -> None:
    opened = {models.upload(GOOD, headers={"idempotency-key": "a"}) for _ in range(2)}
    [session_id] = opened
    answers = [models.begin(session_id, key="b") for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 202]
    assert answers[0].body == answers[1].body
    models.walk(session_id)
    models.make_live(a_trained_model(seed=2))
    assert models.begin("m-absent", key="b").status == 404, "the key belongs to the call with that session"
    for _ in range(2):
        answer = models.call("POST", FALLBACK, headers={"idempotency-key": "c"})
        assert answer.body["live"] == session_id


# --- compared


def an_interruption(pool_id: str, at: datetime) -> None:
    event = Interruption(
        agent_id="agt-1",
        event_id=f"{pool_id}-{at:%H%M%S}",
        instance_id="i-1",
        pool_id=pool_id,
        signal_type="termination-notice",
        detected_at=at,
    )
    values = {name: getattr(event, name) for name in ("instance_id", "pool_id", "signal_type", "detected_at")}
    change = Change(Table.INTERRUPTIONS, ("agt-1", event.event_id), "put", put=values)
    wiring.records().commit(Transaction("put", (change,)))


def scored_yesterday() -> None:
    """Rows of eight pools; those in which the risk was high were interrupted soon."""
    at = datetime.now(UTC) - timedelta(days=1)
    for number in range(8):
        pool_id = f"us-east-1a.m{number}.large"
        rows = some_rows(40, seed=number)
        rows[:, 1] = 9.5 if number < 3 else 1.0
        wiring.outcomes().keep(
            [pool_id] * len(rows), [tuple(row) for row in rows.tolist()], features=FEATURES, now=at, call_id=str(number)
        )
        if number < 3:
            an_interruption(pool_id, at + timedelta(minutes=30))


def test_a_model_that_does_clearly_worse_waits_until_it_is_forced_for_a_reason(models: Models) -> None:
    live = models.make_live(a_trained_model(seed=1))
    scored_yesterday()
    worse = models.upload(a_trained_model(seed=1, learns="opposite"))
    assert models.activate(worse)[-2:] == ["KeepLive", "ReportKept"]
    session = models.session(worse)
    assert session["status"] == "pending"
    assert f"clearly worse than the live model {live}" in session["reason"]
    assert models.health()["live"] == live
    assert models.activate(worse, force=True, reason="a rehearsal of falling back")[-1] == "ReportLive"
    assert models.session(worse)["forced_because"] == "a rehearsal of falling back"
    assert models.health()["live"] == worse


def test_a_model_that_does_as_well_needs_no_force(models: Models) -> None:
    models.make_live(a_trained_model(seed=1))
    scored_yesterday()
    session = models.session(models.make_live(a_trained_model(seed=2)))
    assert "not clearly worse: Brier score" in session["findings"][-1]["finding"]
    assert "320 rows of 8 pools" in session["findings"][-1]["finding"]


# --- scoring


def test_without_a_model_scoring_says_what_stands_in(models: Models) -> None:
    with pytest.raises(NoModelLive, match="the advisor band stands in"):
        models.score()


def test_rows_are_scored_by_name_of_their_features(models: Models) -> None:
    models.make_live(a_trained_model())
    rows = some_rows(3).tolist()
    shuffled = {"features": [*FEATURES[::-1], "more"], "rows": [[*row[::-1], 1.0] for row in rows]}
    assert models.score(rows=rows)["predictions"] == models.score(**shuffled)["predictions"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"features": list(FEATURES[:3]), "rows": [[1.0, 2.0, 3.0]]}, "features"),
        ({"features": "age"}, "features"),
        ({"rows": []}, "rows"),
        ({"rows": [[1.0]]}, "rows.0"),
        ({"rows": [[float("nan")] * len(FEATURES)]}, "rows.0"),
        ({"pool_ids": ["a"]}, "pool_ids"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(models: Models, changes: dict[str, Any], field: str) -> None:
    from spot_optimizer.errors import InvalidRequest

    models.make_live(a_trained_model())
    with pytest.raises(InvalidRequest) as refused:
        models.score(**changes)
    assert refused.value.field == field


# --- bad calls


def changed(path: str, value: Any) -> dict[str, Any]:
    """A request with one field of its manifest set."""
    body: dict[str, Any] = json.loads(json.dumps(GOOD.body))
    at: Any = body["manifest"]
    *parts, last = path.split(".")
    for part in parts:
        at = at[int(part)] if part.isdigit() else at[part]
    at[int(last) if last.isdigit() else last] = value
    return body


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("files.0.name", "xgboost_model.pkl"),
        ("files.0.name", "../../secrets.json"),
        ("files.0.size_bytes", LARGEST_FILE_BYTES + 1),
        ("files.0.size_bytes", 0),
        ("files.0.sha256", "0" * 63),
        ("features", []),
        ("features.0", "a b"),
        ("metrics", {"auc_1h": "high"}),
        ("training_span.start", "2026-01-01T00:00:00"),
        ("golden.rows", [[1.0]] * 65),
        ("more", 1),
    ],
)
def test_a_manifest_of_another_shape_is_422_and_opens_nothing(
    models: Models, rows: Callable[[], dict[str, Any]], path: str, value: Any
) -> None:
    before = rows()
    answer = models.call("POST", SESSIONS, changed(path, value))
    assert (answer.status, answer.problem) == (422, "InvalidRequest"), answer.body
    assert answer.body["field"].startswith(f"manifest.{path}"), answer.body
    assert rows() == before


@pytest.mark.parametrize("name", ["xgboost_model.pkl", "scaler.joblib", "model.pickle"])
def test_a_pickle_is_refused_with_the_command_to_run(models: Models, name: str) -> None:
    answer = models.call("POST", SESSIONS, changed("files.1.name", name))
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", "manifest.files.1.name")
    assert "spotctl models convert xgboost_model.pkl scaler.joblib" in answer.body["detail"]


def test_nothing_is_activated_before_its_files_are_there(models: Models) -> None:
    session_id = models.open(GOOD)
    answer = models.begin(session_id)
    assert (answer.status, answer.problem) == (409, "UploadIncomplete")
    assert "risk-1h.ubj, risk-6h.ubj, scaler.json" in answer.body["detail"]
    assert models.session(session_id)["status"] == "pending"


def test_an_unknown_session_is_404_and_no_fallback_is_409(models: Models) -> None:
    assert (models.begin("m-absent").status, models.begin("m-absent").problem) == (404, "ModelSessionUnknown")
    assert models.call("POST", FALLBACK).problem == "NoFallbackModel"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "sessionId"),
        ({"sessionId": "a/b"}, "sessionId"),
        ({"sessionId": "a", "force": True}, "reason"),
        ({"sessionId": "a", "reason": "because"}, "reason"),
        ({"sessionId": "a", "force": "yes", "reason": "because"}, "force"),
        ({"sessionId": "a", "more": 1}, "more"),
    ],
)
def test_an_activation_that_is_not_well_asked_for_is_422(models: Models, body: dict[str, Any], field: str) -> None:
    answer = models.call("POST", ACTIVATE, body)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", SESSIONS), ("GET", SESSIONS), ("POST", ACTIVATE), ("POST", FALLBACK)]
)
def test_models_are_for_admins(models: Models, method: str, path: str) -> None:
    body = {SESSIONS: GOOD.body if method == "POST" else None, ACTIVATE: {"sessionId": "a"}}.get(path)
    operator = bootstrap.create_operator_token(OperatorRole.OPERATOR)
    for token, status in ((operator, 403), (models.http.client_token, 403), ("nonsense", 401)):
        assert models.call(method, path, body, token=token).status == status


# --- deciding


def decide(models: Models, monkeypatch: pytest.MonkeyPatch, *, minute: int) -> dict[str, Any]:
    """Decide for all agents, at a minute of this hour."""
    now = datetime.now(UTC).replace(minute=minute) + timedelta(hours=1)
    monkeypatch.setattr(wiring, "clock", lambda: now)
    told: dict[str, Any] = decide_fleet.handle({}, models.http.context)
    assert (told["agents"], told["not_kept"]) == (1, 0)
    return told


def kept_rows(models: Models) -> list[dict[str, Any]]:
    found = models.s3.list_objects_v2(Bucket=BUCKET, Prefix="scored/").get("Contents", [])
    return [json.loads(models.s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read()) for each in found]


def test_every_decision_rests_on_the_live_model_and_once_an_hour_its_rows_are_kept_to_compare_by(
    models: Models, agent: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = models.make_live(a_trained_model())
    assert decide(models, monkeypatch, minute=30)["model_version"] == session_id
    decision = wiring.decisions().latest(agent.agent_id)
    assert decision is not None
    assert (decision.model_version, decision.risk_basis, decision.without_model_because) == (session_id, "model", "")
    assert decision.risk_note == f"model {session_id}"
    assert kept_rows(models) == []
    decide(models, monkeypatch, minute=3)
    [kept] = kept_rows(models)
    assert kept["pool_ids"] == ["us-east-1a.m5.large"], "of pools where nothing is held nobody learns what becomes"
    assert [len(row) for row in kept["rows"]] == [len(kept["features"])]


@pytest.mark.parametrize("broken", ["no model is live", "can not be loaded"])
def test_without_a_model_or_with_one_that_fails_the_rule_decides_and_every_decision_says_so(
    models: Models, agent: Registration, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "can not be loaded":
        session_id = models.make_live(a_trained_model())
        for name in models.files(session_id):
            models.s3.put_object(Bucket=BUCKET, Key=f"sessions/{session_id}/{name}", Body=b"{}")
        wiring.live_model.cache_clear()
    told = decide(models, monkeypatch, minute=3)
    assert told["model_version"] is None
    decision = wiring.decisions().latest(agent.agent_id)
    assert decision is not None
    assert decision.risk_basis == "worst-band"
    assert decision.without_model_because == told["without_model_because"]
    assert "NoModelLive" in decision.without_model_because
    assert "NoModelLive" in decision.risk_note
    assert kept_rows(models) == []
