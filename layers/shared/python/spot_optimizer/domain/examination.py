"""What stands in the way of an agent's next failover, found before it matters: facts in; findings with advice out.

Quotas count vCPUs, by class of instance families and apart for spot and on-demand
(https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html).
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from spot_optimizer.domain.agents import Agent, Heartbeat
from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.clients import OWNER_TAG
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.snapshots import Protection

HTTPS = 443
FEW_ADDRESSES = 8
"""A subnet with fewer free addresses than that fills up before anybody looks again."""

INSTANCE_ROLES_PATH = ":instance-profile/spot-optimizer/"


class Outcome(enum.StrEnum):
    """What a look came to."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What: `state`, `subnets`, `security groups` and so on.
        outcome: `failed` is what a failover would fail on.
        found: What was found.
        advice: What to do; empty where nothing is to be done.
    """

    check: str
    outcome: Outcome
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetFacts:
    """A subnet as EC2 describes it."""

    subnet_id: str
    zone: str
    vpc_id: str
    cidr: str
    free_addresses: int
    owner: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFacts:
    """The default version of a launch template.

    Attributes:
        owner: The client that an admin has tagged it for.
        instance_profile: ARN or name.
        security_group_ids: What its instances are in; none: the VPC's default group.
        spot_max_price: A price that it sets.
    """

    owner: str | None
    image_id: str | None
    instance_profile: str | None
    security_group_ids: tuple[str, ...]
    spot_max_price: str | None
    has_user_data: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a security group. Protocol `-1` is all of them, and ports None are all of them."""

    protocol: str
    from_port: int | None
    to_port: int | None
    cidrs: tuple[str, ...] = ()
    group_ids: tuple[str, ...] = ()

    def covers(self, port: int) -> bool:
        """Whether it speaks of this TCP port."""
        if self.protocol == "-1":
            return True
        return self.protocol == "tcp" and (self.from_port or 0) <= port <= (
            65535 if self.to_port is None else self.to_port
        )

    def reaches(self, group_ids: Iterable[str], cidrs: Iterable[str]) -> bool:
        """Whether it lets in, or out to, members of one of the groups, or all of the networks."""
        if set(self.group_ids) & set(group_ids):
            return True
        allowed = [ipaddress.ip_network(cidr) for cidr in self.cidrs]
        networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
        return bool(networks) and all(
            any(network.version == wide.version and network.subnet_of(wide) for wide in allowed)  # type: ignore[arg-type]
            for network in networks
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A security group."""

    group_id: str
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class QuotaName:
    """A quota of vCPUs as Service Quotas knows it."""

    code: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaFacts:
    """A quota and what is used of it.

    Attributes:
        limit: vCPUs; None if it could not be asked.
        used: vCPUs that run; None if they could not be counted.
        needed: vCPUs of one more instance, of the largest type that the agent allows.
    """

    quota: QuotaName
    lifecycle: Lifecycle
    limit: Decimal | None
    used: int | None
    needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedLaunch:
    """A launch that was asked for as a dry run, by the function that would make it.

    Attributes:
        refused_because: In EC2's words; empty if it would have been made.
    """

    pool_id: str
    lifecycle: Lifecycle
    refused_because: str = ""


_STANDARD = frozenset("acdhimrtz")
_QUOTAS: Mapping[str, Mapping[Lifecycle, QuotaName]] = {
    "standard": {
        Lifecycle.SPOT: QuotaName("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"),
        Lifecycle.ON_DEMAND: QuotaName(
            "L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"
        ),
    },
    "g": {
        Lifecycle.SPOT: QuotaName("L-3819A6DF", "All G and VT Spot Instance Requests"),
        Lifecycle.ON_DEMAND: QuotaName("L-DB2E81BA", "Running On-Demand G and VT instances"),
    },
    "p": {
        Lifecycle.SPOT: QuotaName("L-7212CCBC", "All P Spot Instance Requests"),
        Lifecycle.ON_DEMAND: QuotaName("L-417A185B", "Running On-Demand P instances"),
    },
}


def quota_of(instance_type: str, lifecycle: Lifecycle) -> QuotaName | None:
    """The quota that an instance counts against; None for families whose quota is not known here."""
    letters = ""
    for letter in instance_type.partition(".")[0]:
        if letter.isdigit():
            break
        letters += letter
    family = "standard" if letters in _STANDARD else {"vt": "g"}.get(letters, letters)
    return _QUOTAS.get(family, {}).get(lifecycle)


def quotas_needed(kinds: Mapping[str, InstanceKind]) -> Mapping[tuple[QuotaName, Lifecycle], int]:
    """The quotas that an agent's instance types count against, and the vCPUs of the largest type of each."""
    needed: dict[tuple[QuotaName, Lifecycle], int] = {}
    for kind in kinds.values():
        for lifecycle in Lifecycle:
            quota = quota_of(kind.instance_type, lifecycle)
            if quota is not None:
                needed[quota, lifecycle] = max(needed.get((quota, lifecycle), 0), kind.vcpus)
    return needed


def look_at_state(agent: Agent, heartbeat: Heartbeat | None) -> Iterator[Finding]:
    """Whether it lives, and whether its state would come through a notice."""
    check = "state"
    if agent.lost:
        yield Finding(check, Outcome.FAILED, "the agent is lost: no copy of its state is left", "register it anew")
        return
    if agent.pause is not None:
        yield Finding("pause", Outcome.FAILED, agent.pause.explanation, "spotctl resume AGENT, when the reason is gone")
    if heartbeat is None or heartbeat.protection is None:
        yield Finding(
            check, Outcome.UNKNOWN, "its primary has not said how much state there is", "look at the agent's log there"
        )
    elif heartbeat.protection == Protection.UNPROTECTED:
        size, rate = heartbeat.state_bytes or 0, heartbeat.state_bytes_per_second or 1
        yield Finding(
            check,
            Outcome.FAILED,
            f"{size / 2**30:.1f} GiB take {size / rate:.0f} s at the measured {rate / 2**20:.1f} MiB/s: no notice "
            "lasts so long, and no standby is ready",
            "keep a standby (spotctl replicas create AGENT), carry less, or choose instances with a faster network",
        )
    elif heartbeat.protection == Protection.UNKNOWN:
        yield Finding(
            check,
            Outcome.UNKNOWN,
            "the rate at which its state is carried was not measured yet",
            "prepare a standby once (spotctl replicas create AGENT); that measures it",
        )
    else:
        yield Finding(check, Outcome.OK, str(heartbeat.protection))


def look_at_template(agent: Agent, template: TemplateFacts | None) -> Iterator[Finding]:
    """Whether an instance can be made of the launch template, and be used by us."""
    check, name = "launch template", agent.launch_template_id
    if template is None:
        yield Finding(check, Outcome.FAILED, f"{name} does not exist", "register the agent anew with one that does")
        return
    troubles = []
    if template.owner != agent.client_id:
        troubles.append(_untagged(check, name, template.owner, agent))
    if template.image_id is None:
        troubles.append(
            Finding(
                check, Outcome.FAILED, f"{name} names no image", "add an image with the agent to its default version"
            )
        )
    profile = template.instance_profile
    if profile is not None and profile.startswith("arn:") and INSTANCE_ROLES_PATH not in profile:
        troubles.append(
            Finding(
                check,
                Outcome.WARNING,
                f"the instance profile {profile} is not under the path /spot-optimizer/",
                "its role must be, or the launch is refused: put profile and role under that path",
            )
        )
    if template.spot_max_price is not None:
        troubles.append(
            Finding(
                check,
                Outcome.WARNING,
                f"{name} sets a maximum price, {template.spot_max_price} USD/hour: interruptions get more frequent",
                "leave it out: on-demand's price is the limit then",
            )
        )
    if template.has_user_data:
        troubles.append(
            Finding(
                check,
                Outcome.WARNING,
                f"{name} has user data, which a launch replaces by the token to join with",
                "put what it does into the image",
            )
        )
    yield from troubles or [Finding(check, Outcome.OK, f"{name} is there and tagged for {agent.client_id}")]


def look_at_subnets(agent: Agent, subnets: Sequence[SubnetFacts]) -> Iterator[Finding]:
    """Whether there is room in at least two zones."""
    check = "subnets"
    missing = sorted(set(agent.subnet_ids) - {subnet.subnet_id for subnet in subnets})
    usable = [subnet for subnet in subnets if subnet.free_addresses > 0 and subnet.owner == agent.client_id]
    if missing:
        yield Finding(
            check, Outcome.WARNING, f"{', '.join(missing)} does not exist", "register the agent anew without it"
        )
    for subnet in subnets:
        where = f"{subnet.subnet_id} in {subnet.zone}"
        if subnet.owner != agent.client_id:
            yield _untagged(check, where, subnet.owner, agent)
        elif subnet.free_addresses < FEW_ADDRESSES:
            yield Finding(
                check,
                Outcome.WARNING,
                f"{where} has {subnet.free_addresses} free addresses",
                "free some, or give the agent a larger subnet there",
            )
    if len({subnet.vpc_id for subnet in subnets}) > 1:
        yield Finding(
            check,
            Outcome.WARNING,
            "they lie in several VPCs: agents reach each other over private addresses",
            "use subnets of one VPC, or peer them",
        )
    zones = sorted({subnet.zone for subnet in usable})
    if not zones:
        yield Finding(
            check, Outcome.FAILED, "no subnet has a free address", "give the agent a subnet that has, in another zone"
        )
    elif len(zones) == 1:
        yield Finding(
            check,
            Outcome.WARNING,
            f"only {zones[0]} can be launched in: when that zone is short of capacity, so is everything",
            "give the agent a subnet in a second zone",
        )
    else:
        yield Finding(check, Outcome.OK, f"room in {', '.join(zones)}")


def look_at_groups(
    *, port: int, standbys: Sequence[GroupFacts], primary: Sequence[GroupFacts], cidrs: Sequence[str]
) -> Iterator[Finding]:
    """Whether agents reach each other, either way, and the API.

    Args:
        port: Where an agent listens for the other.
        standbys: Groups that a launched instance is in.
        primary: Groups that the primary is in.
        cidrs: Of the agent's subnets.
    """
    check = "security groups"
    troubles = []
    ends = {"a standby": standbys, "the primary": primary}
    for (from_name, from_groups), (to_name, to_groups) in (
        (("the primary", primary), ("a standby", standbys)),
        (("a standby", standbys), ("the primary", primary)),
    ):
        if not to_groups or not from_groups:
            continue
        from_ids = [group.group_id for group in from_groups]
        to_ids = [group.group_id for group in to_groups]
        if not _lets(to_groups, "ingress", port, from_ids, cidrs):
            troubles.append(
                Finding(
                    check,
                    Outcome.FAILED,
                    f"{from_name} ({', '.join(from_ids)}) does not reach {to_name} ({', '.join(to_ids)}) on TCP {port}",
                    f"allow TCP {port} from {from_ids[0]} in {to_ids[0]}",
                )
            )
        if not _lets(from_groups, "egress", port, to_ids, cidrs):
            troubles.append(
                Finding(
                    check,
                    Outcome.FAILED,
                    f"{from_name} ({', '.join(from_ids)}) may send nothing to TCP {port}",
                    f"allow it out to {to_ids[0]} in {from_ids[0]}",
                )
            )
    for name, groups in ends.items():
        if groups and not any(rule.covers(HTTPS) for group in groups for rule in group.egress):
            troubles.append(
                Finding(
                    check,
                    Outcome.FAILED,
                    f"{name} may send nothing to TCP {HTTPS}, where the API and S3 are",
                    "allow it out, to anywhere or to their endpoints",
                )
            )
    if not standbys:
        troubles.append(
            Finding(check, Outcome.UNKNOWN, "the launch template's groups are not known", "see the launch template")
        )
    yield from troubles or [Finding(check, Outcome.OK, f"agents reach each other on TCP {port}, and the API")]


def look_at_quotas(quotas: Sequence[QuotaFacts], unknown_types: Sequence[str]) -> Iterator[Finding]:
    """Whether one more instance is within the account's quotas."""
    check = "quotas"
    for facts in quotas:
        name = f"{facts.quota.name} ({facts.quota.code})"
        if facts.limit is None or facts.used is None:
            yield Finding(
                check, Outcome.UNKNOWN, f"{name} could not be asked", "look at it in Service Quotas, under Amazon EC2"
            )
            continue
        told = f"{name}: {facts.used} of {facts.limit:f} vCPUs are used; one more instance takes {facts.needed}"
        if facts.limit - facts.used >= facts.needed:
            yield Finding(check, Outcome.OK, told)
        else:
            # On-demand is the last way out, not the first: without it there is a failover less, not none.
            outcome = Outcome.FAILED if facts.lifecycle is Lifecycle.SPOT else Outcome.WARNING
            yield Finding(check, outcome, told, f"ask for more in Service Quotas, under Amazon EC2, {facts.quota.code}")
    if unknown_types:
        yield Finding(
            check,
            Outcome.UNKNOWN,
            f"which quota {', '.join(unknown_types)} counts against is not known here",
            "look at it in Service Quotas, under Amazon EC2",
        )


def look_at_launches(launches: Sequence[RehearsedLaunch]) -> Iterator[Finding]:
    """Whether the first ways to launch a standby would be allowed."""
    check = "dry-run launch"
    if not launches:
        yield Finding(check, Outcome.FAILED, "no pool is left to launch in", "spotctl agents pools AGENT says why")
    for launch in launches:
        where = f"{launch.pool_id} ({launch.lifecycle})"
        if launch.refused_because:
            yield Finding(check, Outcome.FAILED, f"{where}: {launch.refused_because}", _advice(launch.refused_because))
        else:
            yield Finding(check, Outcome.OK, f"{where}: permitted; whether there is capacity, only a launch tells")


def look_at_path(agent: Agent, owner: str | None) -> Iterator[Finding]:
    """Whether the traffic path may be moved."""
    if agent.traffic_target is None:
        return
    if owner != agent.client_id:
        yield _untagged("traffic", agent.traffic_target, owner, agent)
    else:
        yield Finding("traffic", Outcome.OK, f"{agent.traffic_target} is there and tagged for {agent.client_id}")


def _untagged(check: str, resource: str, owner: str | None, agent: Agent) -> Finding:
    # Whose it is, is nobody else's business.
    tagged = "tagged for another client" if owner else f"not tagged {OWNER_TAG}, or is gone"
    return Finding(
        check,
        Outcome.FAILED,
        f"{resource} is {tagged}; what is not tagged for {agent.client_id} is never touched",
        f"have an admin tag it {OWNER_TAG} = {agent.client_id}",
    )


def _lets(groups: Sequence[GroupFacts], direction: str, port: int, ids: Sequence[str], cidrs: Sequence[str]) -> bool:
    rules: Iterable[Rule] = (rule for group in groups for rule in getattr(group, direction))
    return any(rule.covers(port) and rule.reaches(ids, cidrs) for rule in rules)


def _advice(refusal: str) -> str:
    if refusal.startswith("UnauthorizedOperation"):
        return (
            "an admin tags what may be used, or changes the policy that denies it; see the launch template and subnets"
        )
    if "Template" in refusal:
        return "mend the launch template's default version"
    return "see what EC2 says; the next pool is tried if this is one pool's alone"
