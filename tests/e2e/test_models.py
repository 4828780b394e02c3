"""Risk models on the whole product: made live, left, broken, and never without one that answers."""

from __future__ import annotations

import json
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import joblib
import pytest
import xgboost
from sklearn.preprocessing import StandardScaler

from local.rehearsal import Tenancy, wait_for
from local.rehearsal.tenancy import ApiRefused
from spotctl.failures import ExitCode
from tests.e2e.conftest import LaunchWorkload
from tests.e2e.operator import Operator
from tests.trained_models import FEATURES, TrainedModel, a_trained_model, some_rows

SESSIONS = "/api/admin/ml-models/sessions"
ACTIVATE = "/api/admin/ml-models/activate"
POLLED_EVERY_SECONDS = 0.1
PROPAGATES_WITHIN_SECONDS = 10
POLLERS = 3
"""At once, so that several warm processes serve."""


@dataclass
class Polled:
    """What was answered, while it was asked every 100 ms.

    Attributes:
        live: (when, what health named as live).
        scored: (when it was asked, which version answered).
    """

    live: list[tuple[float, str | None]] = field(default_factory=list)
    scored: list[tuple[float, str | None]] = field(default_factory=list)

    def since(self, began: float) -> Polled:
        return Polled(
            [(at, version) for at, version in self.live if at >= began],
            [(at, version) for at, version in self.scored if at >= began],
        )


class Models:
    """An admin who handles models on the deployed product, with the command line."""

    def __init__(self, tenancy: Tenancy, operator: Operator, folder: Path) -> None:
        self.tenancy = tenancy
        self.operator = operator
        self.folder = folder
        self.function_name = tenancy.outputs["ScoreRiskFunctionName"]

    def convert(self, *, seed: int) -> Path:
        """A model and its scaler, pickled as a training script leaves them, turned into files that hold data alone."""
        seeds, out = self.folder / f"seeds-{seed}", self.folder / f"model-{seed}"
        seeds.mkdir()
        rows = some_rows(400, seed=seed)
        scaler = StandardScaler().fit(rows)
        model = xgboost.XGBClassifier(n_estimators=5, max_depth=2)
        model.fit(scaler.transform(rows), (rows[:, 1] > 5).astype(int))
        (seeds / "xgboost_model.pkl").write_bytes(pickle.dumps(model))
        joblib.dump(scaler, seeds / "scaler.joblib")
        spans = ("--trained-from", "2025-01-01", "--trained-until", "2025-03-01", "--tested-until", "2025-04-01")
        named = ("--features", ",".join(FEATURES), "--out", str(out), "--yes")
        files = (str(seeds / "xgboost_model.pkl"), str(seeds / "scaler.joblib"))
        assert self.operator.json("models", "convert", *files, *spans, *named)["trees"] == 5
        return out

    def write(self, model: TrainedModel) -> Path:
        """A trained model as `make train` leaves it."""
        out = Path(tempfile.mkdtemp(dir=self.folder))
        (out / "manifest.json").write_text(json.dumps(model.body["manifest"]))
        for name, content in model.files.items():
            (out / name).write_bytes(content)
        return out

    def upload(self, folder: Path) -> str:
        uploaded = self.operator.json("models", "upload", str(folder))
        assert uploaded["status"] == "pending"
        return str(uploaded["session_id"])

    def session(self, session_id: str) -> dict[str, Any]:
        [session] = [one for one in self.operator.json("models", "list") if one["session_id"] == session_id]
        return dict(session)

    def health(self) -> dict[str, Any]:
        model: dict[str, Any] = self.tenancy.get("/api/health")["model"]
        return model

    def slots(self) -> tuple[str | None, str | None]:
        """What health shows as live, and as fallback."""
        health = self.health()
        return health["live"], health["fallback"]

    def make_live(self, session_id: str) -> None:
        ended = self.operator.run("models", "activate", session_id, "--wait")
        assert ended.returncode == 0, (ended.stderr, self.session(session_id))
        assert self.session(session_id)["status"] == "live"

    def fall_back(self) -> None:
        ended = self.operator.run("models", "fallback", "--yes")
        assert ended.returncode == 0, ended.stderr

    def score(self) -> dict[str, Any]:
        event = {"task": "Score", "features": list(FEATURES), "rows": some_rows(4).tolist()}
        return self.invoke(self.function_name, event)

    def invoke(self, function_name: str, event: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.tenancy.aws.client("lambda").invoke(FunctionName=function_name, Payload=json.dumps(event))
        answered: dict[str, Any] = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, answered
        return answered

    @contextmanager
    def polled(self) -> Iterator[Polled]:
        """Ask health, and several scorers, every 100 ms."""
        polled, stop = Polled(), threading.Event()

        def poll(ask: Callable[[], str | None], into: list[tuple[float, str | None]]) -> None:
            while not stop.is_set():
                asked_at = time.monotonic()
                into.append((asked_at, ask()))
                stop.wait(POLLED_EVERY_SECONDS)

        with ThreadPoolExecutor(POLLERS + 1) as pool:
            running = [pool.submit(poll, lambda: self.health()["live"], polled.live)]
            running += [
                pool.submit(poll, lambda: self.score().get("model_version"), polled.scored) for _ in range(POLLERS)
            ]
            try:
                yield polled
            finally:
                stop.set()
        for each in running:
            each.result()

    @contextmanager
    def unreadable_to_the_scorer(self, session_id: str) -> Iterator[None]:
        """Take from the function that scores, and from it alone, the right to read one model's files."""
        configuration = self.tenancy.aws.client("lambda").get_function_configuration(FunctionName=self.function_name)
        role = configuration["Role"].rpartition("/")[2]
        statement = {
            "Effect": "Deny",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{self.tenancy.outputs['ModelsBucket']}/sessions/{session_id}/risk*",
        }
        iam = self.tenancy.aws.client("iam")
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName=role, PolicyName="broken", PolicyDocument=document)
        try:
            yield
        finally:
            iam.delete_role_policy(RoleName=role, PolicyName="broken")


@pytest.fixture
def models(tenancy: Tenancy, operator: Operator, tmp_path: Path) -> Models:
    return Models(tenancy, operator, tmp_path)


def test_models_come_and_go_by_command_and_one_always_answers(models: Models, launch_workload: LaunchWorkload) -> None:
    first = models.upload(models.convert(seed=1))
    assert models.session(first)["status"] == "pending"
    models.make_live(first)
    assert models.slots() == (first, None)
    assert models.score()["model_version"] == first

    with models.polled() as polled:
        winner = assert_one_of_two_wins(models)
        assert models.slots() == (winner, first)
        models.fall_back()
        changed = time.monotonic()
        assert models.slots() == (first, winner), "the version before, under its own name"
        assert_decisions_rest_on(models, first, launch_workload().agent_id)
        assert_served_within_ten_seconds(polled, first, changed)

        broken = models.upload(models.write(a_trained_model(seed=4)))
        began = time.monotonic()
        with models.unreadable_to_the_scorer(broken):
            refused = models.operator.run("models", "activate", broken, "--wait")
        assert refused.returncode == ExitCode.UNFINISHED, refused.stderr
        assert "ModelUnhealthy" in refused.stderr
        assert models.session(broken)["status"] == "rejected"
        assert models.slots() == (first, winner)

    meanwhile = polled.since(began)
    assert (len(meanwhile.live), len(meanwhile.scored)) > (20, 60)
    assert {version for _, version in meanwhile.live} == {first, broken}, "it was live, and was rolled back"
    assert {version for _, version in meanwhile.scored} == {first}, "what can not be loaded never served"
    assert {version for _, version in polled.live} <= {first, winner, broken}, "health never named none"
    assert {version for _, version in polled.scored} == {first, winner}, "no answer was without a version"


def assert_one_of_two_wins(models: Models) -> str:
    """Activate two at once; the one that is live then."""
    rivals = [models.upload(models.write(a_trained_model(seed=seed))) for seed in (2, 3)]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda session_id: models.operator.run("models", "activate", session_id), rivals))
    assert sorted(one.returncode for one in ended) == [0, ExitCode.CONFLICT], [one.stderr for one in ended]
    winner, loser = sorted(rivals, key=lambda session_id: ended[rivals.index(session_id)].returncode)
    wait_for(
        f"the activation of {winner} has ended",
        lambda: models.health()["activating"] is None,
        seconds=120,
        stands=lambda: json.dumps(models.session(winner)),
    )
    assert models.session(winner)["status"] == "live", models.session(winner)
    assert models.session(loser)["status"] == "pending"
    return winner


def assert_decisions_rest_on(models: Models, session_id: str, agent_id: str | None) -> None:
    """Decided on schedule for all, and anew for one who asks; what is told is what was stored."""
    path = f"/api/agents/{agent_id}/switch-recommendation"

    def told(**query: str) -> dict[str, Any]:
        recommendation: dict[str, Any] = models.tenancy.get(path, **query)
        return recommendation

    decided = models.invoke(models.tenancy.outputs["DecideFleetFunctionName"], {})
    assert (decided["not_kept"], decided["model_version"]) == (0, session_id)
    stored = told()
    assert (stored["model_version"], stored["risk_basis"], stored["without_model_because"]) == (session_id, "model", "")
    at, scheduled_at = (datetime.fromisoformat(one["decided_at"]) for one in (stored, decided))
    assert at == scheduled_at
    assert stored["explanation"] and stored["offers"]
    anew = told(anew="true")
    assert anew["model_version"] == session_id
    assert datetime.fromisoformat(anew["decided_at"]) > at


def assert_served_within_ten_seconds(polled: Polled, session_id: str, changed: float) -> None:
    """Whatever is asked ten seconds after it went live is answered by it, by every warm process."""
    wait_for(
        "the scorers were asked again",
        lambda: len([at for at, _ in polled.scored if at > changed + PROPAGATES_WITHIN_SECONDS]) > 10 * POLLERS,
        seconds=60,
    )
    late = {version for at, version in polled.scored if at > changed + PROPAGATES_WITHIN_SECONDS}
    assert late == {session_id}


def test_an_upload_takes_exactly_the_announced_bytes(models: Models) -> None:
    model = a_trained_model(seed=5)
    opened = models.tenancy.post(SESSIONS, model.body)
    upload = opened["uploads"][0]
    content = model.files[upload["name"]]
    for wrong in (content[:-1] + b"!", content[:-1]):
        headers = {**upload["headers"], "content-length": str(len(wrong))}
        assert httpx.put(upload["url"], content=wrong, headers=headers, trust_env=False).status_code in (400, 403)
    with pytest.raises(ApiRefused, match="UploadIncomplete|Upload incomplete"):
        models.tenancy.post(ACTIVATE, {"sessionId": opened["session_id"]})
