"""What is kept, and how hard it is to lose."""

from __future__ import annotations

from datetime import timedelta

import pytest

from spot_optimizer.domain import snapshots
from tests.infra.conftest import Deployment

KEYS = {
    "Clients": ("client_id", None),
    "Tokens": ("token_id", None),
    "Agents": ("agent_id", None),
    "Heartbeats": ("agent_id", "instance_id"),
    "InstancesTable": ("instance_id", None),
    "ReplicaInstances": ("agent_id", "replica_id"),
    "SpotInterruptionEvents": ("agent_id", "event_id"),
    "InstanceSwitches": ("agent_id", "switch_id"),
    "FleetControls": ("control_id", None),
    "ModelUploadSessions": ("session_id", None),
    "ModelSlots": ("model", None),
    "StateSnapshots": ("agent_id", "snapshot_id"),
    "Decisions": ("agent_id", "decided_at"),
    "Pools": ("pool_id", None),
    "PricingSubmissionsRaw": ("submitter", "kept_under"),
    "PricingSnapshotsClean": ("pool_id", "bucket_start"),
    "PricingSnapshotsInterpolated": ("pool_id", "bucket_start"),
}


@pytest.mark.parametrize(("table", "keys"), KEYS.items())
def test_each_aggregate_has_its_table_and_key(dev: Deployment, table: str, keys: tuple[str, str | None]) -> None:
    schema = dev.only("AWS::DynamoDB::Table", table)["KeySchema"]
    assert [(key["AttributeName"], key["KeyType"]) for key in schema] == [
        (name, kind) for name, kind in zip(keys, ("HASH", "RANGE"), strict=True) if name
    ]


def test_there_is_no_table_beside_those(dev: Deployment) -> None:
    assert len(dev.resources("AWS::DynamoDB::Table")) == len(KEYS)


def test_every_table_is_encrypted_on_demand_and_restorable_to_any_second(dev: Deployment) -> None:
    for table in dev.properties("AWS::DynamoDB::Table").values():
        assert table["SSESpecification"] == {"SSEEnabled": True}
        assert table["BillingMode"] == "PAY_PER_REQUEST"
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_every_index_carries_whole_rows(dev: Deployment) -> None:
    for table in dev.properties("AWS::DynamoDB::Table").values():
        for index in table.get("GlobalSecondaryIndexes", ()):
            assert index["Projection"] == {"ProjectionType": "ALL"}


@pytest.mark.parametrize(
    ("table", "attribute"),
    [
        ("Tokens", "expires_at"),
        ("Heartbeats", "forget_at"),
        ("StateSnapshots", "expires_at"),
        ("ModelUploadSessions", "forget_at"),
        ("PricingSubmissionsRaw", "forget_at"),
        ("Decisions", "forget_at"),
    ],
)
def test_rows_that_expire_are_forgotten(dev: Deployment, table: str, attribute: str) -> None:
    expiry = dev.only("AWS::DynamoDB::Table", table)["TimeToLiveSpecification"]
    assert expiry == {"AttributeName": attribute, "Enabled": True}


def test_outside_dev_nothing_that_holds_data_can_be_deleted_by_accident(prod: Deployment) -> None:
    for table in prod.resources("AWS::DynamoDB::Table").values():
        assert table["Properties"]["DeletionProtectionEnabled"] is True
        assert table["DeletionPolicy"] == "Retain"
        assert table["UpdateReplacePolicy"] == "Retain"
    for bucket in prod.resources("AWS::S3::Bucket").values():
        assert bucket["DeletionPolicy"] == "Retain"


def test_dev_can_be_thrown_away(dev: Deployment) -> None:
    for table in dev.resources("AWS::DynamoDB::Table").values():
        assert table["Properties"]["DeletionProtectionEnabled"] is False
        assert table["DeletionPolicy"] == "Delete"


def test_every_bucket_is_private_and_encrypted(dev: Deployment) -> None:
    for bucket in dev.properties("AWS::S3::Bucket").values():
        [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}


def test_every_bucket_refuses_plain_http(dev: Deployment) -> None:
    policies = dev.properties("AWS::S3::BucketPolicy").values()
    assert len(policies) == len(dev.resources("AWS::S3::Bucket"))
    for policy in policies:
        assert any(
            statement["Effect"] == "Deny" and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
            for statement in policy["PolicyDocument"]["Statement"]
        )


def test_snapshots_survive_being_overwritten_and_old_ones_go(dev: Deployment) -> None:
    bucket = dev.only("AWS::S3::Bucket", "SnapshotsBucket")
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = bucket["LifecycleConfiguration"]["Rules"]
    assert any("NoncurrentVersionExpiration" in rule and "AbortIncompleteMultipartUpload" in rule for rule in rules)
    assert all(rule["Status"] == "Enabled" for rule in rules)


def test_a_base_is_kept_longer_than_its_deltas_and_both_longer_than_their_rows(dev: Deployment) -> None:
    bucket = dev.only("AWS::S3::Bucket", "SnapshotsBucket")
    kept = {
        rule["Prefix"]: timedelta(days=rule["ExpirationInDays"])
        for rule in bucket["LifecycleConfiguration"]["Rules"]
        if rule.get("Prefix", "").startswith("snapshots/")
    }
    bases, deltas = (kept[f"{snapshots.prefix(kind)}/"] for kind in snapshots.SnapshotKind)
    assert (bases, deltas) == (snapshots.BASE_OBJECTS_KEPT, snapshots.DELTA_OBJECTS_KEPT)
    youngest_delta = snapshots.BASE_AFTER + snapshots.BASE_GRACE
    assert bases > deltas + youngest_delta
    assert deltas > snapshots.KEPT_FOR
