"""The tables as the data stack defines them, for tests in process."""

from __future__ import annotations

from typing import Any

import botocore.session

REGION = "us-east-1"
ACCOUNT = "123456789012"

# name of the setting: hash key, range key, indexes as (name, hash key, range key)
TABLES: dict[str, tuple[str, str | None, tuple[tuple[str, str, str | None], ...]]] = {
    "CLIENTS_TABLE": ("client_id", None, (("listing-index", "listing", "client_id"),)),
    "TOKENS_TABLE": ("token_id", None, (("agent-index", "agent_id", None),)),
    "AGENTS_TABLE": (
        "agent_id",
        None,
        (("client-index", "client_id", "agent_id"), ("listing-index", "listing", "agent_id")),
    ),
    "HEARTBEATS_TABLE": ("agent_id", "instance_id", ()),
    "INSTANCES_TABLE": (
        "instance_id",
        None,
        (("agent-index", "agent_id", "joined_at"), ("client-index", "client_id", "joined_at")),
    ),
    "REPLICAS_TABLE": ("agent_id", "replica_id", ()),
    "INTERRUPTIONS_TABLE": (
        "agent_id",
        "event_id",
        (
            ("agent-index", "agent_id", "detected_at"),
            ("client-index", "client_id", "detected_at"),
            ("listing-index", "listing", "detected_at"),
            ("pool-index", "pool_id", "detected_at"),
        ),
    ),
    "FLEET_CONTROLS_TABLE": ("control_id", None, ()),
    "POOLS_TABLE": ("pool_id", None, (("listing-index", "listing", "pool_id"),)),
    "PRICING_SUBMISSIONS_RAW_TABLE": ("submitter", "kept_under", ()),
    "PRICING_SNAPSHOTS_CLEAN_TABLE": ("pool_id", "bucket_start", ()),
    "PRICING_SNAPSHOTS_INTERPOLATED_TABLE": ("pool_id", "bucket_start", ()),
    "SWITCHES_TABLE": (
        "agent_id",
        "switch_id",
        (
            ("agent-index", "agent_id", "switched_at"),
            ("client-index", "client_id", "switched_at"),
            ("listing-index", "listing", "switched_at"),
        ),
    ),
    "MODEL_SESSIONS_TABLE": ("session_id", None, (("listing-index", "listing", "session_id"),)),
    "MODEL_SLOTS_TABLE": ("model", None, ()),
    "DECISIONS_TABLE": ("agent_id", "decided_at", ()),
    "STATE_SNAPSHOTS_TABLE": ("agent_id", "snapshot_id", ()),
}

ENVIRONMENT: dict[str, str] = {setting: f"test-{setting.removesuffix('_TABLE').lower()}" for setting in TABLES}


def _schema(hash_key: str, range_key: str | None) -> list[dict[str, str]]:
    keys = [{"AttributeName": hash_key, "KeyType": "HASH"}]
    if range_key:
        keys.append({"AttributeName": range_key, "KeyType": "RANGE"})
    return keys


def make_tables() -> None:
    """Create every table, empty."""
    dynamodb: Any = botocore.session.get_session().create_client("dynamodb", region_name=REGION)
    for setting, (hash_key, range_key, indexes) in TABLES.items():
        names = {hash_key, range_key, *(name for _, first, second in indexes for name in (first, second))} - {None}
        more: dict[str, Any] = {}
        if indexes:
            more["GlobalSecondaryIndexes"] = [
                {"IndexName": name, "KeySchema": _schema(first, second), "Projection": {"ProjectionType": "ALL"}}
                for name, first, second in indexes
            ]
        dynamodb.create_table(
            TableName=ENVIRONMENT[setting],
            KeySchema=_schema(hash_key, range_key),
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in sorted(map(str, names))],
            BillingMode="PAY_PER_REQUEST",
            **more,
        )
