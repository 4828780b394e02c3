"""Risk models on the whole product: made live, left, broken, and never without one that answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from local.rehearsal import Tenancy, wait_for
from local.rehearsal.tenancy import ApiRefused
from tests.trained_models import FEATURES, TrainedModel, a_trained_model, some_rows

SESSIONS = "/api/admin/ml-models/sessions"
ACTIVATE = "/api/admin/ml-models/activate"
FALLBACK = "/api/admin/ml-models/fallback"
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
    """An admin who handles models on the deployed product."""

    def __init__(self, tenancy: Tenancy) -> None:
        self.tenancy = tenancy
        self.function_name = tenancy.outputs["ScoreRiskFunctionName"]

    def upload(self, model: TrainedModel) -> str:
        opened = self.tenancy.post(SESSIONS, model.body)
        for upload in opened["uploads"]:
            content = model.files[upload["name"]]
            answer = httpx.put(upload["url"], content=content, headers=upload["headers"], trust_env=False)
            assert answer.is_success, answer.text
        return str(opened["session_id"])

    def session(self, session_id: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.tenancy.get(SESSIONS)["sessions"]
        [session] = [one for one in found if one["session_id"] == session_id]
        return session

    def health(self) -> dict[str, Any]:
        model: dict[str, Any] = self.tenancy.get("/api/health")["model"]
        return model

    def await_end(self, session_id: str) -> dict[str, Any]:
        wait_for(
            f"the activation of {session_id} has ended",
            lambda: self.health()["activating"] is None,
            seconds=120,
            stands=lambda: json.dumps(self.session(session_id)),
        )
        return self.session(session_id)

    def make_live(self, session_id: str) -> None:
        self.tenancy.post(ACTIVATE, {"sessionId": session_id})
        session = self.await_end(session_id)
        assert session["status"] == "live", session

    def score(self) -> dict[str, Any]:
        event = {"task": "Score", "features": list(FEATURES), "rows": some_rows(4).tolist()}
        answer = self.tenancy.aws.client("lambda").invoke(FunctionName=self.function_name, Payload=json.dumps(event))
        scored: dict[str, Any] = json.loads(answer["Payload"].read())
        return scored

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
            pool.submit(poll, lambda: self.health()["live"], polled.live)
            running = [
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
            "Resource": f"arn:aws:s3:::{self.tenancy.outputs['ModelsBucket']}/sessions/{session_id}/risk-*",
        }
        iam = self.tenancy.aws.client("iam")
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName=role, PolicyName="broken", PolicyDocument=document)
        try:
            yield
        finally:
            iam.delete_role_policy(RoleName=role, PolicyName="broken")


@pytest.fixture
def models(tenancy: Tenancy) -> Models:
    return Models(tenancy)


def test_models_come_and_go_and_one_always_answers(models: Models) -> None:
    first = models.upload(a_trained_model(seed=1))
    assert models.session(first)["status"] == "pending"
    models.make_live(first)
    assert (models.health()["live"], models.health()["fallback"]) == (first, None)
    assert models.score()["model_version"] == first

    with models.polled() as polled:
        winner = assert_one_of_two_wins(models)
        assert (models.health()["live"], models.health()["fallback"]) == (winner, first)
        models.tenancy.post(FALLBACK, {})
        assert (models.health()["live"], models.health()["fallback"]) == (first, winner)
        assert_served_within_ten_seconds(polled, first)

        broken = models.upload(a_trained_model(seed=4))
        began = time.monotonic()
        with models.unreadable_to_the_scorer(broken):
            models.tenancy.post(ACTIVATE, {"sessionId": broken})
            session = models.await_end(broken)
        assert session["status"] == "rejected", session
        assert "ModelUnhealthy" in session["reason"]
        assert (models.health()["live"], models.health()["fallback"]) == (first, winner)

    meanwhile = polled.since(began)
    assert (len(meanwhile.live), len(meanwhile.scored)) > (20, 60)
    assert {version for _, version in meanwhile.live} == {first, broken}, "it was live, and was rolled back"
    assert {version for _, version in meanwhile.scored} == {first}, "what can not be loaded never served"
    assert {version for _, version in polled.live} <= {first, winner, broken}
    assert {version for _, version in polled.scored} == {first, winner}


def assert_one_of_two_wins(models: Models) -> str:
    """Activate two at once; the one that is live then."""
    rivals = [models.upload(a_trained_model(seed=seed)) for seed in (2, 3)]

    def activate(session_id: str) -> int:
        try:
            models.tenancy.post(ACTIVATE, {"sessionId": session_id})
        except ApiRefused as refused:
            return refused.status
        return 202

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(activate, rivals))
    assert sorted(answers) == [202, 409], answers
    winner, loser = (rivals[answers.index(status)] for status in (202, 409))
    assert models.await_end(winner)["status"] == "live", models.session(winner)
    assert models.session(loser)["status"] == "pending"
    return winner


def assert_served_within_ten_seconds(polled: Polled, session_id: str) -> None:
    """Whatever is asked ten seconds after it went live is answered by it, by every warm process."""
    changed = time.monotonic()
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
