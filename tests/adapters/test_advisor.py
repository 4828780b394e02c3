"""What the Spot Instance Advisor's feed says, in its own shape, and what becomes of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import boto3
import pytest

from spot_optimizer.adapters.advisor import BUCKET, KEY, AwsAdvisor
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.errors import ControlPlaneUnavailable

RECORDED = Path(os.environ.get("SPOT_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
FEED = {
    "ranges": [{"index": 0, "label": "<5%", "dots": 0, "max": 5}],
    "spot_advisor": {
        "us-east-1": {
            "Linux": {"m5.large": {"r": 1, "s": 60}, "p3.2xlarge": {"r": 4, "s": 70}, "odd.large": {"r": 9, "s": 1}},
            "Windows": {"m5.large": {"r": 3, "s": 20}},
        },
        "eu-west-1": {"Linux": {"m5.large": {"r": 0, "s": 50}}},
    },
}


def publish(content: str) -> None:
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=content.encode())


@pytest.mark.parametrize(
    ("region", "bands"),
    [
        (
            "us-east-1",
            {"m5.large": AdvisorBand.FROM_5_TO_10_PERCENT, "p3.2xlarge": AdvisorBand.OVER_20_PERCENT},
        ),
        ("eu-west-1", {"m5.large": AdvisorBand.UNDER_5_PERCENT}),
    ],
)
def test_the_bands_are_those_of_linux_in_the_own_region(aws: None, region: str, bands: dict[str, AdvisorBand]) -> None:
    publish(json.dumps(FEED))
    assert AwsAdvisor(Clients(region)).bands() == bands


@pytest.mark.parametrize(
    "content", ["", "no JSON", "{}", "[]", json.dumps({"spot_advisor": {"us-east-1": None}}), '{"a":' * 5_000]
)
def test_a_feed_of_another_form_is_no_feed(clients: Clients, content: str) -> None:
    publish(content)
    with pytest.raises(ControlPlaneUnavailable, match="has another form"):
        AwsAdvisor(clients).bands()


def test_where_there_is_no_feed_nothing_crashes(clients: Clients) -> None:
    with pytest.raises(ControlPlaneUnavailable, match="NoSuchBucket"):
        AwsAdvisor(clients).bands()


def test_the_recorded_feed_is_read(aws: None) -> None:
    if not (RECORDED / "advisor.json").exists():
        pytest.skip(f"{RECORDED} holds no recorded feed; SPOT_DATA_DIR names the folder")
    publish((RECORDED / "advisor.json").read_text())
    bands = AwsAdvisor(Clients("us-east-1")).bands()
    assert len(bands) > 500
    assert set(bands.values()) == set(AdvisorBand)
