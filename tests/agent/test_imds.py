"""The instance metadata, against a server that keeps IMDSv2's rules."""

import logging
import queue
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from spot_agent.imds import Imds, InterruptionNotice, MetadataUnreachable, NoticeUnreadable
from spot_agent.notices import NoticeWatch
from spot_optimizer.domain.protocol import Event, NoticeRead, RebalanceRead
from tests.agent.metadata_rig import DOCUMENT, INSTANCE_ID, MetadataRig

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def rig() -> Iterator[MetadataRig]:
    with MetadataRig(address="10.0.0.4", secondary="10.0.0.5") as rig:
        yield rig


@pytest.fixture
def imds(rig: MetadataRig) -> Iterator[Imds]:
    imds = Imds(rig.url)
    yield imds
    imds.close()


def test_404_means_that_there_is_no_notice(imds: Imds) -> None:
    assert imds.interruption_notice(now=NOW) is None
    assert imds.rebalance_recommendation() is None


def test_a_notice_is_read(rig: MetadataRig, imds: Imds) -> None:
    rig.notice("2026-01-01T12:02:00Z")
    assert imds.interruption_notice(now=NOW) == InterruptionNotice("terminate", NOW + timedelta(minutes=2))


def test_a_notice_whose_time_is_past_is_ignored(rig: MetadataRig, imds: Imds) -> None:
    rig.notice("2026-01-01T11:59:59Z")
    assert imds.interruption_notice(now=NOW) is None


@pytest.mark.parametrize(
    "page",
    [
        "",
        "no json",
        "[]",
        "null",
        '{"action": "terminate"}',
        '{"time": "2026-01-01T12:02:00Z"}',
        '{"action": "terminate", "time": "soon"}',
        '{"action": "terminate", "time": "2026-01-01T12:02:00"}',
    ],
)
def test_a_malformed_notice_is_neither_a_notice_nor_none(rig: MetadataRig, imds: Imds, page: str) -> None:
    rig.pages["meta-data/spot/instance-action"] = page
    with pytest.raises(NoticeUnreadable):
        imds.interruption_notice(now=NOW)


def test_one_token_serves_many_reads(rig: MetadataRig, imds: Imds) -> None:
    for _ in range(3):
        imds.interruption_notice(now=NOW)
    assert rig.tokens_given == 1


def test_a_token_that_is_refused_is_replaced_and_the_read_repeated_once(rig: MetadataRig, imds: Imds) -> None:
    rig.notice("2026-01-01T12:02:00Z")
    imds.interruption_notice(now=NOW)
    rig.tokens.clear()
    assert imds.interruption_notice(now=NOW) is not None
    assert rig.tokens_given == 2


def test_a_second_refusal_is_an_error_and_not_the_absence_of_a_notice(rig: MetadataRig, imds: Imds) -> None:
    rig.status = 401
    with pytest.raises(MetadataUnreachable, match="answered 401; expected 200 or 404"):
        imds.interruption_notice(now=NOW)


def test_a_server_error_is_not_the_absence_of_a_notice(rig: MetadataRig, imds: Imds) -> None:
    rig.status = 503
    with pytest.raises(MetadataUnreachable):
        imds.interruption_notice(now=NOW)


def test_a_service_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(MetadataUnreachable):
        Imds("http://127.0.0.1:9").user_data()


def test_the_identity_document_is_passed_on_byte_for_byte(imds: Imds) -> None:
    identity = imds.identity()
    assert identity.document == DOCUMENT
    assert identity.signature == "c2lnbmVk"
    assert identity.instance_id == INSTANCE_ID
    assert identity.availability_zone == "us-east-1a"


def test_the_serving_address_is_the_secondary_one(imds: Imds) -> None:
    assert (imds.addresses().control, imds.addresses().serving) == ("10.0.0.4", "10.0.0.5")


def test_without_a_secondary_address_the_primary_one_serves() -> None:
    with MetadataRig(address="10.0.0.4") as rig:
        assert Imds(rig.url).addresses().serving == "10.0.0.4"


def test_user_data_may_be_missing(rig: MetadataRig, imds: Imds) -> None:
    assert imds.user_data() is None
    rig.pages["user-data"] = "# spot-agent\n"
    assert imds.user_data() == "# spot-agent\n"


def test_the_watch_reads_a_malformed_notice_again_until_it_is_whole(
    rig: MetadataRig, imds: Imds, caplog: pytest.LogCaptureFixture
) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    rig.pages["meta-data/spot/instance-action"] = '{"action": "termin'
    rig.rebalance()
    watch = NoticeWatch(imds, emit=events.put, every_seconds=0.02)
    with caplog.at_level(logging.WARNING):
        watch.begin()
        assert events.get(timeout=5) == RebalanceRead()  # one signal that is unreadable does not hide the other
    rig.notice("2999-01-01T12:02:00Z")
    while isinstance(event := events.get(timeout=5), RebalanceRead):
        pass
    watch.close()
    assert isinstance(event, NoticeRead)
    assert event.deadline == "2999-01-01T12:02:00+00:00"
    left = datetime(2999, 1, 1, 12, 2, tzinfo=UTC) - datetime.now(UTC)
    assert event.seconds_left == pytest.approx(left.total_seconds(), abs=60)
    assert "notice unreadable; trying again" in caplog.text


def test_a_faster_pace_does_not_wait_for_the_slower_one_to_end(rig: MetadataRig, imds: Imds) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    watch = NoticeWatch(imds, emit=events.put, every_seconds=600)
    watch.begin()
    while len(rig.asked) < 2:
        pass
    rig.notice("2999-01-01T12:02:00Z")
    watch.pace(0.01)
    assert isinstance(events.get(timeout=5), NoticeRead)
    watch.close()
