"""The agent's reports of prices: what they hold, what is kept while nobody listens, and how EC2 is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch
from urllib.parse import parse_qs, urlencode

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from spot_agent.control_plane import Answer, Answered, OutcomeUnknown, Rejected
from spot_agent.imds import Credentials, Imds, MetadataUnreachable
from spot_agent.logs import Report, UnsentReports
from spot_agent.price_history import PriceHistory, PriceHistoryUnavailable, PublishedPrice, signed_headers
from spot_agent.pricing import InstancePrices, PriceReports
from tests.agent.metadata_rig import MetadataRig
from tests.loopback import Loopback, Reply, Request

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
POOL = "us-east-1a.m5.large"
CREDENTIALS = Credentials("ASIAEXAMPLE", "secret/example", "token+with/special=", NOON + timedelta(hours=6))


def published(minutes: float, usd_per_hour: str, pool_id: str = POOL) -> PublishedPrice:
    return PublishedPrice(pool_id, NOON + timedelta(minutes=minutes), usd_per_hour)


class Rig:
    """An agent's reports on a clock of their own; `answers` is what the control plane says, `sent` what it was told."""

    def __init__(self, folder: Path, seen: Sequence[PublishedPrice] | None) -> None:
        self.now = NOON
        self.seen = seen
        self.asked: list[tuple[datetime, datetime]] = []
        self.answer: Answer = Answered({"rows": []})
        self.sent: list[Report] = []
        self.failure: Exception | None = None
        self.folder = folder
        self.reports = self.started_again()

    def started_again(self) -> PriceReports:
        self.reports = PriceReports(
            self._look,
            instance_id="i-1",
            submit=self._submit,
            unsent=UnsentReports(self.folder / "unsent-prices.jsonl"),
            every_seconds=150,
            clock=lambda: self.now,
        )
        return self.reports

    def report(self, minutes: float) -> None:
        self.now = NOON + timedelta(minutes=minutes)
        self.reports.report()

    def rows(self) -> list[tuple[float, str]]:
        """Minutes after noon and price of every row that arrived, in order."""
        return [
            ((datetime.fromisoformat(row["observed_at"]) - NOON) / timedelta(minutes=1), row["usd_per_hour"])
            for report in self.sent
            for row in report.body["rows"]
        ]

    def _look(self, since: datetime, now: datetime) -> Sequence[PublishedPrice] | None:
        self.asked.append((since, now))
        if self.failure is not None:
            raise self.failure
        if self.seen is None:
            return None
        before = [price for price in self.seen if price.changed_at <= since][-1:]
        return [*before, *(price for price in self.seen if since < price.changed_at <= now)]

    def _submit(self, report: Report) -> Answer:
        if not isinstance(self.answer, OutcomeUnknown):
            self.sent.append(report)
        return self.answer


def test_a_report_holds_the_price_in_force_and_each_change_since_the_last_at_its_moment(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [published(-600, "0.03"), published(1, "0.04"), published(2, "0.05")])
    rig.report(0)
    rig.report(2.5)
    rig.report(5)
    assert rig.rows() == [(0, "0.03"), (1, "0.04"), (2, "0.05"), (2.5, "0.05"), (5, "0.05")]
    assert len({report.key for report in rig.sent}) == 3


def test_what_does_not_get_through_is_kept_on_disk_and_submitted_once_later_oldest_first(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [published(-600, "0.03"), published(4, "0.04")])
    rig.answer = OutcomeUnknown("no connection")
    for minutes in (0, 2.5, 5):
        rig.report(minutes)
    assert rig.sent == []
    rig.started_again()
    rig.answer = Answered({"rows": []})
    rig.report(7.5)
    first, second, third, after_the_restart = rig.sent
    assert [report.key for report in (first, second, third)] == sorted(report.key for report in (first, second, third))
    assert rig.rows() == [(0, "0.03"), (2.5, "0.03"), (4, "0.04"), (5, "0.04"), (4, "0.04"), (7.5, "0.04")]
    assert after_the_restart.body["rows"][-1]["observed_at"] == rig.now.isoformat()
    count = len(rig.sent)
    rig.report(10)
    assert len(rig.sent) == count + 1
    assert (tmp_path / "unsent-prices.jsonl").read_text() == ""


def test_while_ec2_is_silent_what_is_kept_is_still_submitted_and_changes_are_made_up_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [published(-600, "0.03"), published(1, "0.04"), published(6, "0.03")])
    rig.answer = OutcomeUnknown("no connection")
    rig.report(0)
    rig.answer, rig.failure = Answered({"rows": []}), PriceHistoryUnavailable("EC2 answered 503")
    rig.report(2.5)
    assert rig.rows() == [(0, "0.03")]
    rig.failure = MetadataUnreachable("no answer")
    rig.report(5)
    rig.failure = None
    rig.report(7.5)
    assert rig.rows()[1:] == [(1, "0.04"), (6, "0.03"), (7.5, "0.03")]


def test_a_refused_report_keeps_back_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [published(-600, "0.03")])
    rig.answer = Rejected(422, {"title": "Invalid request"})
    rig.report(0)
    rig.report(2.5)
    assert len(rig.sent) == 2
    assert not (tmp_path / "unsent-prices.jsonl").exists()


def test_a_pool_of_no_interest_is_left_out_for_a_while(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [published(-600, "0.03")])
    rig.answer = Answered({"rows": [{"row": 0, "outcome": "refused", "refusal": "unknown-pool"}, {"row": "x"}, 7]})
    rig.report(0)
    rig.report(2.5)
    rig.report(9)
    assert rig.rows() == [(0, "0.03")]
    rig.report(11)
    assert rig.rows() == [(0, "0.03"), (11, "0.03")]


def test_without_an_instance_profile_prices_are_skipped_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rig = Rig(tmp_path, None)
    for minutes in (0, 2.5, 5):
        rig.report(minutes)
    assert rig.sent == []
    assert [record.message for record in caplog.records] == ["no instance profile: prices are not reported"]


def test_the_last_hour_is_what_was_in_force_within_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [published(-600, "0.03"), published(-90, "0.04"), published(-30, "0.05")])
    assert rig.reports.last_hour == {}
    rig.report(0)
    assert rig.reports.last_hour == {
        POOL: (
            ((NOON - timedelta(minutes=90)).isoformat(), "0.04"),
            ((NOON - timedelta(minutes=30)).isoformat(), "0.05"),
        )
    }
    json.dumps(rig.reports.last_hour)


def test_after_a_notice_nothing_is_reported(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [published(-600, "0.03")])
    rig.reports.stop()
    rig.reports.begin()
    for thread in threading.enumerate():
        if thread.name == "pricing":
            thread.join(10)
    assert rig.asked == []


def test_a_full_disk_does_not_bring_the_agent_down(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "gone", [published(-600, "0.03")])
    rig.answer = OutcomeUnknown("no connection")
    rig.report(0)


# --- EC2


@given(
    st.dictionaries(st.text("abcXYZ.", min_size=1, max_size=8), st.text(max_size=20), max_size=4),
    st.text("ABCDEFabcdef0123456789/+=", min_size=1, max_size=40),
    st.integers(1_577_836_800, 2_208_988_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.sampled_from(["us-east-1", "eu-central-1"]),
)
def test_a_request_is_signed_as_botocore_signs_it(
    parameters: Mapping[str, str], secret: str, now: datetime, region: str
) -> None:
    body = urlencode(parameters)
    url = f"https://ec2.{region}.amazonaws.com/"
    credentials = Credentials("ASIAEXAMPLE", secret, "token", now)
    ours = signed_headers(url, body, region=region, credentials=credentials, now=now)
    request = AWSRequest("POST", url, {"Content-Type": ours["content-type"]}, body)
    with patch("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None)):
        SigV4Auth(BotocoreCredentials("ASIAEXAMPLE", secret, "token"), "ec2", region).add_auth(request)
    assert ours["authorization"] == request.headers["Authorization"]


PAGE = """<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<spotPriceHistorySet><item><instanceType>m5.large</instanceType><productDescription>Linux/UNIX</productDescription>
<spotPrice>{price}</spotPrice><timestamp>2026-03-01T11:59:00.000Z</timestamp>
<availabilityZone>us-east-1a</availabilityZone></item></spotPriceHistorySet><nextToken>{following}</nextToken>
</DescribeSpotPriceHistoryResponse>"""


class Ec2(Loopback):
    """Answers what it is told to, page by page; `asked` are the parameters of each request."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.answers: list[tuple[int, str]] = []
        super().__init__(self._answer)
        self.history = PriceHistory(self.url, "us-east-1")

    def _answer(self, request: Request) -> Reply:
        self.asked.append(parse_qs(request.content.decode()))
        status, text = self.answers.pop(0)
        return Reply(status, text.encode())


@pytest.fixture
def ec2() -> Iterator[Ec2]:
    with Ec2() as rig:
        yield rig
        rig.history.close()


def ask(ec2: Ec2) -> list[PublishedPrice]:
    return ec2.history.published(["m5.large", "c5.large"], since=NOON, credentials=CREDENTIALS, now=NOON)


def test_every_page_of_the_history_is_read_for_linux_alone(ec2: Ec2) -> None:
    ec2.answers = [
        (200, PAGE.format(price="0.0345", following="next")),
        (200, PAGE.format(price="0.0350", following="")),
    ]
    assert ask(ec2) == [published(-1, "0.0345"), published(-1, "0.0350")]
    first, second = ec2.asked
    assert first["ProductDescription.1"] == ["Linux/UNIX"]
    assert (first["InstanceType.1"], first["InstanceType.2"]) == (["m5.large"], ["c5.large"])
    assert first["StartTime"] == ["2026-03-01T12:00:00Z"]
    assert "NextToken" not in first
    assert second["NextToken"] == ["next"]


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (
            403,
            "<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>",
            "Unauthorized",
        ),
        (503, "try later", "no XML"),
        (200, PAGE.format(price="", following=""), "missing"),
        (200, PAGE.replace("2026-03-01T11:59:00.000Z", "noon").format(price="1", following=""), "'noon'"),
    ],
)
def test_an_answer_that_cannot_be_used_says_what_was_found(ec2: Ec2, status: int, text: str, said: str) -> None:
    ec2.answers = [(status, text)]
    with pytest.raises(PriceHistoryUnavailable, match=said):
        ask(ec2)


def test_nobody_there_is_unavailable_too(ec2: Ec2) -> None:
    ec2.close()
    with pytest.raises(PriceHistoryUnavailable, match="no answer"):
        ask(ec2)


# --- the role


ROLE = "meta-data/iam/security-credentials/"


def give_role(rig: MetadataRig, *, expires_at: datetime, key: str = "ASIAEXAMPLE") -> None:
    rig.pages[ROLE] = "prices"
    rig.pages[f"{ROLE}prices"] = json.dumps(
        {"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": f"{expires_at:%Y-%m-%dT%H:%M:%SZ}"}
    )


def test_the_roles_credentials_are_kept_until_shortly_before_they_expire(ec2: Ec2) -> None:
    with MetadataRig() as rig:
        give_role(rig, expires_at=NOON + timedelta(hours=6))
        look = InstancePrices(Imds(rig.url), ec2.history, ["m5.large", "m5.large"])
        ec2.answers = [(200, PAGE.format(price="0.03", following=""))] * 3
        for hours in (0, 1, 5.95):
            assert look(NOON, NOON + timedelta(hours=hours)) == [published(-1, "0.03")]
        assert rig.asked.count(f"{ROLE}prices") == 2
    assert "InstanceType.2" not in ec2.asked[0]


def test_an_instance_without_a_profile_asks_nobody(ec2: Ec2) -> None:
    with MetadataRig() as rig:
        assert InstancePrices(Imds(rig.url), ec2.history, ["m5.large"])(NOON, NOON) is None
    assert ec2.asked == []


def test_credentials_that_are_not_understood_tell_no_secret() -> None:
    with MetadataRig() as rig:
        rig.pages[ROLE] = "prices"
        rig.pages[f"{ROLE}prices"] = '{"SecretAccessKey": "very secret"}'
        with pytest.raises(MetadataUnreachable) as refused:
            Imds(rig.url).role_credentials()
    assert "secret" not in str(refused.value).lower().replace("secretaccesskey", "")
