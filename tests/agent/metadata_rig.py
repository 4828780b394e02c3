"""An instance metadata service that keeps IMDSv2's rules: a token by PUT, with a lifetime, or 401."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

INSTANCE_ID = "i-0123456789abcdef0"
DOCUMENT = json.dumps(
    {
        "accountId": "123456789012",
        "availabilityZone": "us-east-1a",
        "instanceId": INSTANCE_ID,
        "instanceType": "m5.large",
        "region": "us-east-1",
    },
    indent=2,
)
MAC = "02:00:00:00:00:01"


class MetadataRig:
    """`pages` is what is there, by path below /latest; `tokens` are the ones in force; `asked` is what was asked."""

    def __init__(self, address: str = "127.0.0.1", secondary: str | None = None) -> None:
        self.pages: dict[str, str] = {
            "dynamic/instance-identity/document": DOCUMENT,
            "dynamic/instance-identity/signature": "c2lnbmVk\n",
            "meta-data/local-ipv4": address,
            "meta-data/mac": MAC,
            f"meta-data/network/interfaces/macs/{MAC}/local-ipv4s": "\n".join(filter(None, [address, secondary])),
        }
        self.tokens: set[str] = set()
        self.tokens_given = 0
        self.asked: list[str] = []
        self.status: int | None = None
        rig = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                if self.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
                    return self.reply(400, "")
                rig.tokens_given += 1
                token = f"token-{rig.tokens_given}"
                rig.tokens.add(token)
                return self.reply(200, token)

            def do_GET(self) -> None:
                path = self.path.removeprefix("/latest/")
                rig.asked.append(path)
                if self.headers.get("X-aws-ec2-metadata-token") not in rig.tokens:
                    return self.reply(401, "")
                if rig.status is not None:
                    return self.reply(rig.status, "")
                page = rig.pages.get(path)
                return self.reply(404, "") if page is None else self.reply(200, page)

            def reply(self, status: int, content: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content.encode())))
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def notice(self, time: str, action: str = "terminate") -> None:
        self.pages["meta-data/spot/instance-action"] = f'{{"action": "{action}", "time": "{time}"}}'

    def rebalance(self, time: str = "2026-01-01T00:00:00Z") -> None:
        self.pages["meta-data/events/recommendations/rebalance"] = f'{{"noticeTime": "{time}"}}'

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
