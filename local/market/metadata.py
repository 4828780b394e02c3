"""What an instance reads about itself under /latest/."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from local.identity import IdentitySigner
from local.market.account import Account
from local.market.instance_types import instance_type
from local.market.records import Instance

type PublicAddressOf = Callable[[Instance, str], str | None]


class InstanceMetadata:
    """Answers metadata paths from the market's records, as they are at that moment."""

    def __init__(self, account: Account, signer: IdentitySigner, public_address_of: PublicAddressOf) -> None:
        self._account = account
        self._signer = signer
        self._public_address_of = public_address_of

    def read(self, instance: Instance, path: str) -> str | None:
        """The text at a path below `/latest/`; a folder lists its entries; None where there is nothing."""
        if path == "user-data":
            return decode_user_data(instance.specification.user_data)
        wanted = path.strip("/")
        if wanted == "dynamic/instance-identity/signature":
            return self._signer.sign(identity_document(instance, self._account).encode())
        leaves = self._leaves(instance)
        if wanted in leaves:
            return leaves[wanted]
        return _listing(leaves, wanted)

    def _leaves(self, instance: Instance) -> dict[str, str]:
        return {
            "dynamic/instance-identity/document": identity_document(instance, self._account),
            "dynamic/instance-identity/signature": "",
            **{f"meta-data/{path}": text for path, text in self._metadata(instance).items() if text is not None},
        }

    def _metadata(self, instance: Instance) -> dict[str, str | None]:
        public = self._public_address_of(instance, instance.private_address)
        secondary_public = self._public_address_of(instance, instance.secondary_private_address)
        interface = f"network/interfaces/macs/{instance.mac}"
        return {
            "ami-id": instance.specification.image_id,
            "ami-launch-index": "0",
            "hostname": _host_name(instance),
            "instance-id": instance.instance_id,
            "instance-life-cycle": instance.lifecycle,
            "instance-type": instance.instance_type,
            "local-hostname": _host_name(instance),
            "local-ipv4": instance.private_address,
            "mac": instance.mac,
            "public-ipv4": public,
            "reservation-id": instance.specification.reservation_id,
            "placement/availability-zone": instance.availability_zone,
            "placement/region": self._account.region,
            "services/domain": "amazonaws.com",
            "services/partition": "aws",
            f"{interface}/device-number": "0",
            f"{interface}/interface-id": instance.interface_id,
            f"{interface}/local-ipv4s": f"{instance.private_address}\n{instance.secondary_private_address}",
            f"{interface}/mac": instance.mac,
            f"{interface}/public-ipv4s": "\n".join(each for each in (public, secondary_public) if each) or None,
            f"{interface}/subnet-id": instance.specification.subnet_id,
            f"{interface}/vpc-id": instance.specification.vpc_id,
            **self._role(instance),
            **_signals(instance),
            **{f"tags/instance/{key}": value for key, value in self._account.tags(instance.instance_id).items()},
        }

    def _role(self, instance: Instance) -> dict[str, str | None]:
        profile = instance.specification.instance_profile
        if profile is None or not profile["Role"]:
            return {}
        return {
            "iam/info": json.dumps(
                {"Code": "Success", "InstanceProfileArn": profile["Arn"], "InstanceProfileId": profile["Id"]}
            ),
            f"iam/security-credentials/{profile['Role']}": json.dumps(
                self._account.role_credentials(profile["Role"], instance.instance_id)
            ),
        }


def _signals(instance: Instance) -> dict[str, str | None]:
    signals: dict[str, str | None] = {}
    if instance.notice is not None:
        signals["spot/instance-action"] = json.dumps(instance.notice)
        signals["spot/termination-time"] = instance.notice["time"] if instance.notice["action"] == "terminate" else None
    if instance.rebalance_at is not None:
        signals["events/recommendations/rebalance"] = json.dumps(
            {"noticeTime": instance.rebalance_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        )
    return signals


def _host_name(instance: Instance) -> str:
    return f"ip-{instance.private_address.replace('.', '-')}.ec2.internal"


def _listing(paths: Iterable[str], folder: str) -> str | None:
    prefix = f"{folder}/" if folder else ""
    entries = set()
    for path in paths:
        if path.startswith(prefix):
            name, separator, _ = path.removeprefix(prefix).partition("/")
            entries.add(name + separator)
    return "\n".join(sorted(entries)) or None


def decode_user_data(text: str) -> str | None:
    """What an instance reads back: user data travels as base64."""
    if not text:
        return None
    try:
        return base64.b64decode(text).decode()
    except (binascii.Error, UnicodeDecodeError):
        return text


def identity_document(instance: Instance, account: Account) -> str:
    """The instance identity document, byte for byte as it is signed."""
    return json.dumps(
        {
            "accountId": account.account_id,
            "architecture": instance_type(instance.instance_type).architecture,
            "availabilityZone": instance.availability_zone,
            "billingProducts": None,
            "devpayProductCodes": None,
            "marketplaceProductCodes": None,
            "imageId": instance.specification.image_id,
            "instanceId": instance.instance_id,
            "instanceType": instance.instance_type,
            "kernelId": None,
            "pendingTime": _iso(instance.launched_at),
            "privateIp": instance.private_address,
            "ramdiskId": None,
            "region": account.region,
            "version": "2017-09-30",
        },
        indent=2,
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
