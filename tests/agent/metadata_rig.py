"""An instance metadata service that keeps IMDSv2's rules: a token by PUT, with a lifetime, or 401."""

import json

from tests.loopback import Loopback, Reply, Request

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


class MetadataRig(Loopback):
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
        super().__init__(self._answer)

    def _answer(self, request: Request) -> Reply:
        if request.method == "PUT":
            return self._give_token(request)
        path = request.path.removeprefix("/latest/")
        self.asked.append(path)
        if request.headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return Reply(401)
        if self.status is not None:
            return Reply(self.status)
        page = self.pages.get(path)
        return Reply(404) if page is None else Reply(200, page.encode())

    def _give_token(self, request: Request) -> Reply:
        seconds = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if request.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            return Reply(400)
        self.tokens_given += 1
        token = f"token-{self.tokens_given}"
        self.tokens.add(token)
        return Reply(200, token.encode())

    def notice(self, time: str, action: str = "terminate") -> None:
        self.pages["meta-data/spot/instance-action"] = f'{{"action": "{action}", "time": "{time}"}}'

    def rebalance(self, time: str = "2026-01-01T00:00:00Z") -> None:
        self.pages["meta-data/events/recommendations/rebalance"] = f'{{"noticeTime": "{time}"}}'
