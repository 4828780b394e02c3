"""The control plane's real decisions about snapshots, and a bucket that refuses what S3 refuses, behind HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from spot_optimizer.api import problems
from spot_optimizer.api.snapshots import (
    CompleteRequest,
    RestoreAnswer,
    SnapshotAnswer,
    SnapshotRequest,
    SnapshotUploadAnswer,
)
from spot_optimizer.control import snapshots
from spot_optimizer.control.snapshots import Download, Part, PartUpload, UploadedPart
from spot_optimizer.domain.snapshots import Snapshot, SnapshotKind
from spot_optimizer.errors import SnapshotIncomplete, SnapshotUnknown, SpotOptimizerError
from tests.agent.control_rig import RigPlane
from tests.builders import an_agent
from tests.fakes.compute import FakeCompute
from tests.fakes.fleet import FakeFleet
from tests.fakes.joining import FakeJoining
from tests.fakes.records import FakeRecords
from tests.fakes.workflows import FakeWorkflows

AGENT = "agt-1"
PRIMARY = "i-primary"


@dataclass
class Bucket:
    """Implements `control.snapshots.SnapshotObjects`; its parts are put, and its objects read, over HTTP."""

    url: str = ""
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    puts: list[tuple[str, int]] = field(default_factory=list)
    refuses: Callable[[int], bool] = lambda number: False

    def begin(self, agent_id: str, snapshot_id: str, kind: SnapshotKind) -> str:
        upload_id = f"upload-{len(self.uploads) + 1}"
        self.uploads[upload_id] = {}
        return upload_id

    def sign_parts(
        self,
        agent_id: str,
        snapshot_id: str,
        kind: SnapshotKind,
        *,
        upload_id: str,
        parts: Sequence[Part],
        now: datetime,
    ) -> tuple[PartUpload, ...]:
        return tuple(
            PartUpload(
                part.number,
                f"{self.url}/bucket/{snapshot_id}?uploadId={upload_id}&partNumber={part.number}",
                {"content-length": str(part.size_bytes), "x-amz-checksum-sha256": part.sha256},
                now + timedelta(minutes=15),
            )
            for part in parts
        )

    def complete(
        self, agent_id: str, snapshot_id: str, kind: SnapshotKind, *, upload_id: str, parts: Sequence[UploadedPart]
    ) -> int:
        there = self.uploads.get(upload_id)
        if there is None and snapshot_id not in self.objects:
            raise SnapshotUnknown("no such upload")
        if there is not None:
            if sorted(there) != [part.number for part in parts]:
                raise SnapshotIncomplete("a part is missing")
            self.objects[snapshot_id] = b"".join(content for _, content in sorted(there.items()))
            del self.uploads[upload_id]
        return len(self.objects[snapshot_id])

    def sign_download(self, agent_id: str, snapshot_id: str, kind: SnapshotKind, *, now: datetime) -> Download:
        return Download(f"{self.url}/bucket/{snapshot_id}", now + timedelta(hours=1))

    def put(self, upload_id: str, number: int, checksum: str, content: bytes) -> int:
        self.puts.append((upload_id, number))
        if self.refuses(number):
            return 503
        if upload_id not in self.uploads:
            return 404
        if base64.b64encode(hashlib.sha256(content).digest()).decode() != checksum:
            return 400
        self.uploads[upload_id][number] = content
        return 200


class Cloud:
    """The control plane's calls about snapshots, and the bucket."""

    def __init__(self) -> None:
        self.records = FakeRecords().put(an_agent(agent_id=AGENT, epoch=1, primary_instance_id=PRIMARY))
        self.plane = RigPlane(self.records, FakeFleet(self.records), FakeCompute(), FakeWorkflows(), FakeJoining())
        self.bucket = Bucket()
        self.begun: list[SnapshotRequest] = []
        cloud, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(lambda: cloud.post(self.path.split("/")[4:], content))

            def do_GET(self) -> None:
                if self.path.startswith("/api/"):
                    self.answer(cloud.latest)
                    return
                whole = cloud.bucket.objects[self.path.rpartition("/")[2]]
                begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                self.reply(206 if begin else 200, whole[begin:])

            def do_PUT(self) -> None:
                said = {name: value for name, [value] in parse_qs(urlsplit(self.path).query).items()}
                content = self.rfile.read(int(self.headers["Content-Length"]))
                checksum = self.headers["x-amz-checksum-sha256"]
                with lock:
                    status = cloud.bucket.put(said["uploadId"], int(said["partNumber"]), checksum, content)
                self.reply(status, b"", etag="etag")

            def answer(self, decide: Callable[[], Any]) -> None:
                with lock:
                    try:
                        status, document = 200, json.loads(decide().model_dump_json())
                    except SpotOptimizerError as error:
                        status, document, _ = problems.problem_of(error, request_id="test")
                self.reply(int(status), json.dumps(document, default=str).encode())

            def reply(self, status: int, content: bytes, *, etag: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if etag:
                    self.send_header("ETag", etag)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.bucket.url = self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # -- what agents ask

    def post(self, path: list[str], content: bytes) -> Any:
        if path == ["snapshots"]:
            request = SnapshotRequest.model_validate_json(content)
            self.begun.append(request)
            return SnapshotUploadAnswer.of(
                snapshots.begin(
                    self.plane,
                    self.records,
                    self.bucket,
                    AGENT,
                    instance_id=PRIMARY,
                    epoch=request.epoch,
                    generation=request.generation,
                    previous_id=request.previous_id,
                    upload_id=request.upload_id,
                    parts=[part.part() for part in request.parts],
                )
            )
        done = CompleteRequest.model_validate_json(content)
        return SnapshotAnswer.of(
            snapshots.complete(
                self.plane,
                self.records,
                self.bucket,
                AGENT,
                path[1],
                instance_id=PRIMARY,
                taken=done.taken(),
                upload_id=done.upload_id,
                parts=[part.part() for part in done.parts],
            )
        )

    def latest(self) -> Any:
        return RestoreAnswer.of(snapshots.find(self.plane, self.records, self.bucket, AGENT, at=None))

    @property
    def rows(self) -> tuple[Snapshot, ...]:
        return tuple(sorted(self.records.snapshots(AGENT), key=lambda row: row.snapshot_id))
