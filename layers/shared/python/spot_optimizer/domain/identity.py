"""Instance identity documents: what EC2 says of an instance, and whether that is the instance a caller claims to be.

The document is public to every process on its instance, so it proves where a caller runs and nothing more: it is asked
for together with a token, never instead of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spot_optimizer.domain.pools import Pool
from spot_optimizer.errors import InstanceUnproven

CLOCK_TOLERANCE = timedelta(minutes=5)
"""EC2's clock and ours may differ by so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityDocument:
    """What EC2 says of an instance.

    Attributes:
        pending_time: When the instance was last launched or started.
    """

    instance_id: str
    region: str
    account_id: str
    availability_zone: str
    instance_type: str
    pending_time: datetime
    private_address: str | None = None

    @property
    def pool(self) -> Pool:
        """The capacity pool the instance lives on."""
        return Pool(self.availability_zone, self.instance_type)


def read(document: str) -> IdentityDocument:
    """Read a document whose signature has been verified.

    Raises:
        InstanceUnproven: It is not an instance identity document.
    """
    try:
        fields = json.loads(document)
    except ValueError:
        fields = None
    if not isinstance(fields, Mapping):
        raise InstanceUnproven("identity_document is not JSON; expected the bytes that the instance metadata serves")
    pending_time = _instant(fields)
    return IdentityDocument(
        instance_id=_text(fields, "instanceId"),
        region=_text(fields, "region"),
        account_id=_text(fields, "accountId"),
        availability_zone=_text(fields, "availabilityZone"),
        instance_type=_text(fields, "instanceType"),
        pending_time=pending_time,
        private_address=str(fields["privateIp"]) if fields.get("privateIp") else None,
    )


def check(
    document: IdentityDocument,
    *,
    instance_id: str,
    region: str,
    account_id: str,
    now: datetime,
    launched_after: datetime | None = None,
) -> None:
    """Hold a document against what a caller claims and where we are.

    Args:
        document: As read.
        instance_id: What the caller claims to run on.
        region: Ours.
        account_id: Ours.
        now: When.
        launched_after: The instance was asked for at this time, so it can not be older.

    Raises:
        InstanceUnproven: It is another instance's, another region's or account's, or of an impossible time.
    """
    for name, found, expected in (
        ("instanceId", document.instance_id, instance_id),
        ("region", document.region, region),
        ("accountId", document.account_id, account_id),
    ):
        if found != expected:
            raise InstanceUnproven(f"the identity document's {name} is '{found}'; expected '{expected}'")
    if document.pending_time > now + CLOCK_TOLERANCE:
        raise InstanceUnproven(
            f"the identity document is of {document.pending_time.isoformat()}, which is in the future"
        )
    if launched_after is not None and document.pending_time < launched_after - CLOCK_TOLERANCE:
        raise InstanceUnproven(
            f"the instance was launched at {document.pending_time.isoformat()}; the replica was asked for at "
            f"{launched_after.isoformat()}; expected an instance launched for it"
        )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise InstanceUnproven(f"the identity document has no {name}; expected the document that EC2 signed")
    return value


def _instant(fields: Mapping[str, Any]) -> datetime:
    text = _text(fields, "pendingTime")
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InstanceUnproven(f"the identity document's pendingTime is '{text}'; expected ISO 8601 with a zone")
    return instant
