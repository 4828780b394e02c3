"""Route 53: an A record that names the primary."""

from __future__ import annotations

from botocore.exceptions import ClientError

from spot_optimizer.adapters.sessions import Clients, error_code, service_failures
from spot_optimizer.domain.clients import OWNER_TAG
from spot_optimizer.domain.traffic import record_of
from spot_optimizer.errors import AddressNotMovable, ControlPlaneUnavailable, Throttled

_SERVICE = "Route 53"
TTL_SECONDS = 5
"""Whoever resolved the name keeps the old primary's address for so long; a longer time would be an outage."""

NOT_MOVABLE_CODES = frozenset({"PriorRequestNotComplete"})


class DnsRecords:
    """Implements `TrafficPath`. In a private zone the record holds the private address, else the public one."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def move(self, target: str, instance_id: str, *, client_id: str) -> None:
        """Write the instance's address into the record, and read it back.

        IAM knows no tags of hosted zones, so that the zone is the client's is asked here, before each change.

        Raises:
            AddressNotMovable: Not now, or the zone is not the client's any more.
        """
        zone_id, name = record_of(target)
        try:
            with service_failures(_SERVICE):
                if owner_of(self._clients, zone_id) != client_id:
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

    def holder(self, target: str) -> str | None:
        """The instance whose address is in the record; None if there is none.

        Raises:
            Throttled: Try again.
            ControlPlaneUnavailable: The service did not answer.
        """
        zone_id, name = record_of(target)
        with service_failures(_SERVICE):
            address = self._address_in(zone_id, name)
            if address is None:
                return None
            kind = "private-ip-address" if self._is_private(zone_id) else "ip-address"
            found = self._clients.ec2.describe_instances(
                Filters=[
                    {"Name": kind, "Values": [address]},
                    {"Name": "instance-state-name", "Values": ["running"]},
                ]
            )
        ids = [instance["InstanceId"] for one in found["Reservations"] for instance in one["Instances"]]
        return ids[0] if len(ids) == 1 else None

    def _is_private(self, zone_id: str) -> bool:
        zone = self._clients.route53.get_hosted_zone(Id=zone_id)["HostedZone"]
        return bool(zone.get("Config", {}).get("PrivateZone", False))

    def _address_in(self, zone_id: str, name: str) -> str | None:
        found = self._clients.route53.list_resource_record_sets(
            HostedZoneId=zone_id, StartRecordName=name, StartRecordType="A", MaxItems="1"
        )["ResourceRecordSets"]
        for record in found:
            if record["Name"].rstrip(".") == name and record["Type"] == "A" and record.get("ResourceRecords"):
                return str(record["ResourceRecords"][0]["Value"])
        return None

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


def owner_of(clients: Clients, zone_id: str) -> str | None:
    """The client that an admin has allowed to use a hosted zone."""
    answer = clients.route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id)
    tags = answer["ResourceTagSet"]["Tags"]
    return next((tag["Value"] for tag in tags if tag.get("Key") == OWNER_TAG), None)
