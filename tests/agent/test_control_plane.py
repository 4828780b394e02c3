"""How the end of each call is told apart: done, refused, over, or unknown; and that no call is repeated in secret."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from spot_agent.control_plane import Answered, ControlPlane, OutcomeUnknown, Registration, Rejected, StaleEpoch
from spot_agent.logs import Report, UnsentReports, read_tail
from spot_agent.parting import Parting
from tests.loopback import Loopback, Reply, Request


class Server(Loopback):
    """Answers with what `answers` holds, by the end of the path; notes every request."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []
        super().__init__(self._answer)

    def _answer(self, request: Request) -> Reply:
        self.requests.append((request.path, request.headers, request.content))
        status, body = self.answers.get(request.path.rpartition("/")[2], (200, "{}"))
        return Reply(status, body.encode())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def control_plane(server: Server) -> Iterator[ControlPlane]:
    control_plane = ControlPlane(server.url)
    control_plane.authenticate("agt-1", "the-token")
    yield control_plane
    control_plane.close()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, {"epoch": 2}, Answered({"epoch": 2})),
        (202, {"execution": None}, Answered({"execution": None})),
        (409, {"title": "Stale epoch", "current_epoch": 7}, StaleEpoch(7)),
        (409, {"title": "Handover not open"}, Rejected(409, {"title": "Handover not open"})),
        (404, {"title": "Handover unknown"}, Rejected(404, {"title": "Handover unknown"})),
        (422, {"title": "Invalid request"}, Rejected(422, {"title": "Invalid request"})),
    ],
)
def test_an_answer_with_a_word_on_the_question_is_taken_at_its_word(
    server: Server, control_plane: ControlPlane, status: int, body: Mapping[str, Any], outcome: object
) -> None:
    server.answers["commit"] = (status, json.dumps(body))
    assert control_plane.commit("h-1", {"epoch": 1}) == outcome


@pytest.mark.parametrize("status", [301, 401, 403, 408, 429, 500, 502, 503, 504])
def test_any_other_answer_leaves_the_outcome_unknown(server: Server, control_plane: ControlPlane, status: int) -> None:
    server.answers["commit"] = (status, '{"title": "no"}')
    assert isinstance(control_plane.commit("h-1", {"epoch": 1}), OutcomeUnknown)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["", "<html>", "[]"])
def test_a_success_that_is_not_understood_leaves_the_outcome_unknown(
    server: Server, control_plane: ControlPlane, body: str
) -> None:
    server.answers["commit"] = (200, body)
    assert isinstance(control_plane.commit("h-1", {"epoch": 1}), OutcomeUnknown)


def test_a_server_that_hangs_up_leaves_the_outcome_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        control_plane = ControlPlane(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert isinstance(control_plane.commit("h-1", {}), OutcomeUnknown)


def test_a_server_that_is_not_there_leaves_the_outcome_unknown() -> None:
    assert isinstance(ControlPlane("http://127.0.0.1:9").commit("h-1", {}), OutcomeUnknown)


def test_calls_carry_the_agents_token_and_registrations_their_own_and_a_key(
    server: Server, control_plane: ControlPlane
) -> None:
    control_plane.heartbeat({"epoch": 1})
    control_plane.register(Registration(token="client", key="the-key", details={}))
    (path, beat, _), (_, registration, _) = server.requests
    assert path == "/api/agents/agt-1/heartbeat"
    assert beat["authorization"] == "Bearer the-token"
    assert registration["authorization"] == "Bearer client"
    assert registration["idempotency-key"] == "the-key"


def a_parting(control_plane: ControlPlane, folder: Path, log: str = "") -> tuple[Parting, UnsentReports]:
    (folder / "agent.log").write_text(log)
    unsent = UnsentReports(folder / "unsent.jsonl")
    return Parting(control_plane, unsent, folder / "agent.log", pause=lambda _: False), unsent


def test_at_the_end_kept_reports_and_the_logs_tail_are_handed_in(
    server: Server, control_plane: ControlPlane, tmp_path: Path
) -> None:
    server.answers["log-tail"] = (200, json.dumps({"url": f"{server.url}/bucket/tail", "headers": {"x-amz-a": "b"}}))
    parting, unsent = a_parting(control_plane, tmp_path, log='{"message": "retired"}\n')
    unsent.add(Report("pricing", "key-1", {"prices": [1]}))
    assert parting.flush()
    report, destination, upload = server.requests
    assert report[0] == "/api/agents/agt-1/pricing"
    assert report[1]["idempotency-key"] == "key-1"
    assert json.loads(destination[2]) == {"size_bytes": 23}
    assert upload[0] == "/bucket/tail"
    assert upload[1]["x-amz-a"] == "b"
    assert "authorization" not in upload[1]
    assert upload[2] == b'{"message": "retired"}\n'
    assert len(unsent) == 0


def test_what_does_not_get_through_is_kept_and_tried_again(
    server: Server, control_plane: ControlPlane, tmp_path: Path
) -> None:
    server.answers["pricing"] = (503, "{}")
    parting, unsent = a_parting(control_plane, tmp_path)
    unsent.add(Report("pricing", "key-1", {}))
    assert not parting.flush()
    assert len(UnsentReports(tmp_path / "unsent.jsonl")) == 1
    assert sum(path.endswith("pricing") for path, _, _ in server.requests) > 1


def test_what_is_refused_does_not_hold_back_what_comes_after(
    server: Server, control_plane: ControlPlane, tmp_path: Path
) -> None:
    server.answers["pricing"] = (422, "{}")
    parting, unsent = a_parting(control_plane, tmp_path)
    unsent.add(Report("pricing", "key-1", {}))
    unsent.add(Report("pricing", "key-2", {}))
    parting.flush()
    assert len(unsent) == 0


def test_a_report_that_a_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    UnsentReports(tmp_path / "unsent").add(Report("pricing", "key-1", {}))
    with (tmp_path / "unsent").open("a") as file:
        file.write('{"path": "pri')
    assert len(UnsentReports(tmp_path / "unsent")) == 1


def test_the_tail_is_made_of_whole_lines_and_reaches_into_the_file_before(tmp_path: Path) -> None:
    (tmp_path / "agent.log.1").write_text("first\nsecond\n")
    (tmp_path / "agent.log").write_text("third\n")
    log = tmp_path / "agent.log"
    assert read_tail(log, limit_bytes=1000) == b"first\nsecond\nthird\n"
    assert read_tail(log, limit_bytes=15) == b"second\nthird\n"
    assert read_tail(log, limit_bytes=3) == b""
