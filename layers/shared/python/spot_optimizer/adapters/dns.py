"""Route 53: an A record that names the primary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from botocore.exceptions import ClientError

from spot_optimizer.adapters.compute import instances_at
from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.clients import OWNER_TAG
from spot_optimizer.domain.traffic import record_of
from spot_optimizer.errors import AddressNotMovable, ControlPlaneUnavailable, Throttled

_SERVICE = "Route 53"
TTL_SECONDS = 5
"""Whoever resolved the name keeps the old primary's address for so long; a longer time would be an outage."""

RECORDS_AT_ONCE = 300
"""So many records one question tells [Route 53 API reference: ListResourceRecordSets]."""

LOOKS = 4
"""So often Route 53 is asked where records lead. It takes five requests a second from an account
[Route 53 developer guide: quotas]; one of them is left to a failover."""

NOT_MOVABLE_CODES = frozenset({"PriorRequestNotComplete"})
GONE_CODES = frozenset({"AccessDenied", "InvalidInput", "NoSuchHostedZone"})
"""A zone that was deleted, or was given to another account."""


class DnsRecords:
    """Implements `TrafficPath`. In a private zone the record holds the private address, else the public one."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._private: dict[str, bool] = {}

    def move(self, target: str, instance_id: str, *, client_id: str) -> None:
        """Write the instance's address into the record, and read it back.

        IAM knows no tags of hosted zones, so that the zone is the client's is asked here, before each change.

        Raises:
            AddressNotMovable: Not now, or the zone is not the client's any more.
        """
        zone_id, name = record_of(target)
        try:
            with service_failures(_SERVICE):
                if owner_of_zone(self._clients, zone_id) != client_id:
                    raise AddressNotMovable(
                        f"hosted zone {zone_id} is not tagged {OWNER_TAG} = {client_id}; tag it, or give the agent "
                        f"another traffic path"
                    )
                address = self._address_of(zone_id, instance_id)
                if self._address_in(zone_id, name) == address:
                    return
                record = {
                    "Name": name,
                    "Type": "A",
                    "TTL": TTL_SECONDS,
                    "ResourceRecords": [{"Value": address}],
                }
                self._clients.route53.change_resource_record_sets(
                    HostedZoneId=zone_id,
                    ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]},
                )
                written = self._address_in(zone_id, name)
        except (Throttled, ControlPlaneUnavailable) as error:
            raise AddressNotMovable(f"{target} can not be moved now: {error}") from error
        except ClientError as error:
            if error_code(error) in NOT_MOVABLE_CODES:
                raise AddressNotMovable(f"{target} can not be moved now: {error}") from error
            raise
        if written != address:
            raise AddressNotMovable(f"{name} leads to {written}; expected {address}; try again")

    def holders(self, targets: Sequence[str]) -> Mapping[str, str | None]:
        """The instance whose address is in each record; None if there is none. Zones that are gone are absent.

        One question tells what is in a record and in the 299 behind it, so that the records of a fleet that shares a
        zone are a few questions. After `LOOKS` of them the rest is absent.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: A service did not answer.
        """
        pending = {target: record_of(target) for target in targets}
        held: dict[str, tuple[bool, str | None]] = {}
        looks = LOOKS
        while pending:
            zone_id, name = next(iter(pending.values()))
            needed = 1 if zone_id in self._private else 2
            if looks < needed:
                break
            looks -= needed
            with service_failures(_SERVICE):
                try:
                    is_private = self._is_private(zone_id)
                    addresses = self._addresses_from(zone_id, name)
                except ClientError as error:
                    if error_code(error) not in GONE_CODES:
                        raise
                    pending = {target: record for target, record in pending.items() if record[0] != zone_id}
                    continue
            addresses.setdefault(name, None)
            told = [target for target, (zone, of) in pending.items() if zone == zone_id and of in addresses]
            held |= {target: (is_private, addresses[pending.pop(target)[1]]) for target in told}
        with service_failures("EC2"):
            at = {
                is_private: instances_at(
                    self._clients,
                    [a for private, a in held.values() if a and private is is_private],
                    private=is_private,
                )
                for is_private in (False, True)
            }
        return {target: at[is_private].get(address or "") for target, (is_private, address) in held.items()}

    def _is_private(self, zone_id: str) -> bool:
        # A zone is made private or public, and stays so.
        if zone_id not in self._private:
            zone = self._clients.route53.get_hosted_zone(Id=zone_id)["HostedZone"]
            self._private[zone_id] = bool(zone.get("Config", {}).get("PrivateZone", False))
        return self._private[zone_id]

    def _address_in(self, zone_id: str, name: str) -> str | None:
        return self._addresses_from(zone_id, name, at_most=1).get(name)

    def _addresses_from(self, zone_id: str, name: str, *, at_most: int = RECORDS_AT_ONCE) -> dict[str, str | None]:
        """What is in the A records of a zone, from this name on, by name."""
        found = self._clients.route53.list_resource_record_sets(
            HostedZoneId=zone_id, StartRecordName=name, StartRecordType="A", MaxItems=str(at_most)
        )["ResourceRecordSets"]
        return {
            record["Name"].rstrip("."): str(record["ResourceRecords"][0]["Value"])
            for record in found
            if record["Type"] == "A" and record.get("ResourceRecords")
        }

    def _address_of(self, zone_id: str, instance_id: str) -> str:
        found = self._clients.ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": [instance_id]}])
        is_private = self._is_private(zone_id)
        for reservation in found["Reservations"]:
            for instance in reservation["Instances"]:
                address = instance.get("PrivateIpAddress") if is_private else instance.get("PublicIpAddress")
                if address and instance["State"]["Name"] == "running":
                    return address
        kind = "private" if is_private else "public"
        raise AddressNotMovable(f"{instance_id} has no {kind} address, or does not run; expected one; try again")


def owner_of_zone(clients: Clients, zone_id: str) -> str | None:
    """The client that an admin has allowed to use a hosted zone."""
    answer = clients.route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id)
    tags = answer["ResourceTagSet"]["Tags"]
    return next((tag["Value"] for tag in tags if tag.get("Key") == OWNER_TAG), None)
