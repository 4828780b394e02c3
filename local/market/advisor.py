"""The Spot Instance Advisor's feed as the local AWS serves it: where AWS has it, and in the same form."""

from __future__ import annotations

import json
from typing import Any

from local.market.instance_types import INSTANCE_TYPES

BUCKET = "spot-bid-advisor"
KEY = "spot-advisor-data.json"
_LABELS = ("<5%", "5-10%", "10-15%", "15-20%", ">20%")


def publish(s3: Any, *, region: str) -> None:
    """Put the feed; again is harmless."""
    if BUCKET not in {each["Name"] for each in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=json.dumps(feed(region)).encode(), ContentType="application/json")


def feed(region: str) -> dict[str, Any]:
    """What it says of one region: GPUs are taken back often, burstable instances hardly ever."""
    rates = {name: {"r": _band(name), "s": 60} for name in INSTANCE_TYPES}
    return {
        "ranges": [{"index": index, "dots": index, "label": label} for index, label in enumerate(_LABELS)],
        "spot_advisor": {region: {"Linux": rates, "Windows": rates}},
    }


def _band(instance_type: str) -> int:
    return {"t": 0, "g": 4, "p": 4}.get(instance_type[0], 1)
