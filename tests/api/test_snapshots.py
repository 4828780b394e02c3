"""Snapshots over HTTP: signed uploads, completion behind the fence, and what a new instance restores."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

from spot_optimizer import wiring
from spot_optimizer.domain.writes import Change, Table, Transaction
from tests.api.conftest import Answered, Http, Registration

CONTENT = b"a generation"
ROOT = "0" * 64


def described(content: bytes, number: int = 1) -> dict[str, Any]:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return {"number": number, "size_bytes": len(content), "sha256": digest}


def begin(agent: Registration, generation: int = 1, **changes: Any) -> Answered:
    body = {"epoch": 1, "generation": generation, "parts": [described(CONTENT)]} | changes
    return agent.call("POST", "/snapshots", body)


def upload(begun: Answered, kind: str, agent: Registration, content: bytes = CONTENT) -> dict[str, Any]:
    """Put one part, as whoever holds its URL does."""
    part = described(content)
    answer = boto3.client("s3").upload_part(
        Bucket="test-snapshots",
        Key=f"snapshots/{kind}s/{agent.agent_id}/{begun.body['snapshot_id']}",
        UploadId=begun.body["upload_id"],
        PartNumber=1,
        Body=content,
        ChecksumSHA256=part["sha256"],
    )
    return part | {"etag": answer["ETag"]}


def complete(agent: Registration, begun: Answered, parts: list[dict[str, Any]], **changes: Any) -> Answered:
    body = {
        "epoch": 1,
        "generation": int(begun.body["snapshot_id"].rpartition("-")[2]),
        "upload_id": begun.body["upload_id"],
        "taken_at": datetime.now(UTC).isoformat(),
        "root_hash": ROOT,
        "state_bytes": 100,
        "parts": parts,
    } | changes
    return agent.call("POST", f"/snapshots/{begun.body['snapshot_id']}/complete", body)


def take(agent: Registration, generation: int, previous_id: str | None = None) -> Answered:
    begun = begin(agent, generation, previous_id=previous_id)
    assert begun.status == 201, begun.body
    parts = [upload(begun, "base" if previous_id is None else "delta", agent)]
    return complete(agent, begun, parts, previous_id=previous_id)


def test_an_upload_is_bound_to_number_size_and_checksum(agent: Registration) -> None:
    begun = begin(agent)
    assert begun.status == 201
    [signed] = begun.body["uploads"]
    query = parse_qs(urlsplit(signed["url"]).query)
    assert query["partNumber"] == ["1"]
    assert query["uploadId"] == [begun.body["upload_id"]]
    assert {"content-length", "x-amz-checksum-sha256"} <= set(query["X-Amz-SignedHeaders"][0].split(";"))
    assert signed["headers"]["content-length"] == str(len(CONTENT))


def test_what_goes_on_keeps_its_upload(agent: Registration) -> None:
    first = begin(agent)
    second = begin(agent, upload_id=first.body["upload_id"], parts=[described(CONTENT, 2)])
    assert second.body["upload_id"] == first.body["upload_id"]
    assert second.body["snapshot_id"] == first.body["snapshot_id"]


def test_a_complete_snapshot_is_the_newest_encrypted_and_can_be_read(agent: Registration) -> None:
    done = take(agent, 1)
    assert (done.status, done.body["kind"], done.body["size_bytes"]) == (200, "base", len(CONTENT))
    [step] = agent.call("GET", "/snapshots/latest").body["steps"]
    assert step["snapshot"]["snapshot_id"] == done.body["snapshot_id"]
    key = urlsplit(step["url"]).path.removeprefix("/")
    stored = boto3.client("s3").get_object(Bucket="test-snapshots", Key=key.removeprefix("test-snapshots/"))
    assert stored["Body"].read() == CONTENT
    assert stored["ServerSideEncryption"] == "AES256"
    assert wiring.records().agent(agent.agent_id).snapshot_id == done.body["snapshot_id"]


def test_a_base_and_its_deltas_are_restored_in_order_and_an_earlier_point_in_time_too(agent: Registration) -> None:
    base = take(agent, 1).body
    delta = take(agent, 2, base["snapshot_id"]).body
    take(agent, 3, delta["snapshot_id"])
    newest = agent.call("GET", "/snapshots/latest").body["steps"]
    assert [step["snapshot"]["kind"] for step in newest] == ["base", "delta", "delta"]
    earlier = agent.call("GET", "/snapshots/latest", query={"at": delta["taken_at"]}).body["steps"]
    assert [step["snapshot"]["snapshot_id"] for step in earlier] == [base["snapshot_id"], delta["snapshot_id"]]


def test_completing_again_gives_the_same_answer(agent: Registration) -> None:
    begun = begin(agent)
    parts = [upload(begun, "base", agent)]
    first = complete(agent, begun, parts)
    assert complete(agent, begun, parts).body == first.body


def test_a_snapshot_without_all_of_its_parts_is_not_complete(agent: Registration) -> None:
    begun = begin(agent)
    part = upload(begun, "base", agent)
    missing = complete(agent, begun, [part, part | {"number": 2}])
    assert (missing.status, missing.problem) == (409, "SnapshotIncomplete")
    assert agent.call("GET", "/snapshots/latest").status == 404


def test_without_a_snapshot_there_is_nothing_to_restore(agent: Registration) -> None:
    answer = agent.call("GET", "/snapshots/latest")
    assert (answer.status, answer.problem) == (404, "SnapshotUnknown")


def test_a_primary_whose_epoch_is_over_neither_begins_nor_completes(agent: Registration) -> None:
    begun = begin(agent)
    parts = [upload(begun, "base", agent)]
    promoted = Change(Table.AGENTS, (agent.agent_id,), "promoted", put={"epoch": 2})
    wiring.records().commit(Transaction("promote", (promoted,)))
    for answer in (begin(agent, 2), complete(agent, begun, parts)):
        assert (answer.status, answer.problem, answer.body["current_epoch"]) == (409, "StaleEpoch", 2)


def test_a_delta_follows_the_newest_or_nothing(agent: Registration) -> None:
    base = take(agent, 1).body["snapshot_id"]
    take(agent, 2, base)
    answer = begin(agent, 3, previous_id=base)
    assert (answer.status, answer.problem) == (409, "SnapshotOutOfOrder")


@pytest.mark.parametrize("path", ["/snapshots", "/snapshots/0000000001-0000000000000001/complete"])
def test_nobody_but_the_agent_itself_uploads(http: Http, agent: Registration, path: str) -> None:
    for token, status in ((http.admin, 403), (http.client_token, 403)):
        body: dict[str, Any] = {"epoch": 1, "generation": 1, "parts": [described(CONTENT)]}
        if path.endswith("complete"):
            body |= {
                "upload_id": "u",
                "taken_at": "2026-01-01T00:00:00Z",
                "root_hash": ROOT,
                "state_bytes": 1,
                "parts": [described(CONTENT) | {"etag": "e"}],
            }
        assert agent.call("POST", path, body, token=token).status == status
    assert agent.call("GET", "/snapshots/latest", token=http.admin).status == 403
