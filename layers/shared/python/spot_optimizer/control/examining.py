"""Examines an agent before it matters. What can not be found out is a finding too; nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Protocol

from spot_optimizer.domain import examination
from spot_optimizer.domain.agents import Agent, Heartbeat, Instance, TrafficAdapter
from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.examination import (
    Finding,
    GroupFacts,
    Outcome,
    QuotaFacts,
    QuotaName,
    RehearsedLaunch,
    SubnetFacts,
    TemplateFacts,
)
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.errors import SpotOptimizerError

SYNC_PORT = 7443
"""Where an agent listens unless it is told otherwise."""


class Rows(Protocol):
    """An agent's own rows."""

    def heartbeat(self, agent_id: str, instance_id: str) -> Heartbeat | None:
        """The last sign of life of an instance."""
        ...

    def instance(self, instance_id: str) -> Instance:
        """Raises: InstanceUnknown."""
        ...


class Surroundings(Protocol):
    """What AWS says of the account that an agent lives in; what it refuses to tell raises `ControlPlaneUnavailable`."""

    def subnets(self, subnet_ids: Sequence[str]) -> tuple[SubnetFacts, ...]:
        """Those that exist."""
        ...

    def template(self, launch_template_id: str) -> TemplateFacts | None:
        """Its default version; None if it does not exist."""
        ...

    def groups(self, group_ids: Sequence[str], *, vpc_id: str | None) -> tuple[GroupFacts, ...]:
        """These groups; of none, the VPC's default group."""
        ...

    def groups_of(self, instance_id: str) -> tuple[str, ...]:
        """Groups that an instance is in; none if EC2 does not know it."""
        ...

    def path_owner(self, adapter: TrafficAdapter, target: str) -> str | None:
        """Whom a traffic path's target is tagged for; None if for nobody, or if it is gone."""
        ...

    def kinds(self, instance_types: Sequence[str]) -> Mapping[str, InstanceKind]:
        """What instance types offer."""
        ...

    def vcpus_running(self) -> Mapping[tuple[QuotaName, Lifecycle], int] | None:
        """Count the vCPUs of running instances, by the quota they count against; None if they are too many to count."""
        ...

    def quota(self, quota: QuotaName) -> Decimal | None:
        """Its value; None if it can not be asked."""
        ...


class Rehearsing(Protocol):
    """Has the function that launches rehearse it."""

    def launches(self, agent_id: str) -> tuple[RehearsedLaunch, ...]:
        """The first ways to launch a standby, as dry runs."""
        ...


def examine(rows: Rows, surroundings: Surroundings, rehearsing: Rehearsing, agent: Agent) -> tuple[Finding, ...]:
    """Look at all that the agent's next failover depends on, each for itself.

    Returns:
        One or more findings per check, in the order in which they are to be mended.
    """
    looks: Mapping[str, Callable[[], Iterable[Finding]]] = {
        "state": lambda: examination.look_at_state(agent, rows.heartbeat(agent.agent_id, agent.primary_instance_id)),
        "launch template": lambda: examination.look_at_template(agent, surroundings.template(agent.launch_template_id)),
        "subnets": lambda: examination.look_at_subnets(agent, surroundings.subnets(agent.subnet_ids)),
        "security groups": lambda: _look_at_groups(rows, surroundings, agent),
        "quotas": lambda: _look_at_quotas(surroundings, agent),
        "dry-run launch": lambda: examination.look_at_launches(rehearsing.launches(agent.agent_id)),
        "traffic": lambda: _look_at_traffic(surroundings, agent),
    }
    return tuple(finding for check, look in looks.items() for finding in _carefully(check, look))


def _carefully(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """One look; if it can not be taken, that is what was found."""
    try:
        yield from tuple(look())
    except SpotOptimizerError as error:
        yield Finding(check, Outcome.UNKNOWN, str(error), "try again; if it stays, name it when asking for help")


def _look_at_groups(rows: Rows, surroundings: Surroundings, agent: Agent) -> Iterator[Finding]:
    template = surroundings.template(agent.launch_template_id)
    subnets = surroundings.subnets(agent.subnet_ids)
    vpc_id = subnets[0].vpc_id if subnets else None
    standbys: tuple[GroupFacts, ...] = ()
    if template is not None and (template.security_group_ids or vpc_id is not None):
        standbys = surroundings.groups(template.security_group_ids, vpc_id=vpc_id)
    of_primary = surroundings.groups_of(agent.primary_instance_id)
    primary = surroundings.groups(of_primary, vpc_id=None) if of_primary else standbys
    yield from examination.look_at_groups(
        port=rows.instance(agent.primary_instance_id).sync_port or SYNC_PORT,
        standbys=standbys,
        primary=primary,
        cidrs=[subnet.cidr for subnet in subnets],
    )


def _look_at_quotas(surroundings: Surroundings, agent: Agent) -> Iterator[Finding]:
    kinds = surroundings.kinds(agent.instance_types)
    running = surroundings.vcpus_running()
    needed = examination.quotas_needed(kinds)
    facts = [
        QuotaFacts(
            quota=quota,
            lifecycle=lifecycle,
            limit=surroundings.quota(quota),
            used=None if running is None else running.get((quota, lifecycle), 0),
            needed=vcpus,
        )
        for (quota, lifecycle), vcpus in needed.items()
    ]
    unknown = [kind for kind in agent.instance_types if examination.quota_of(kind, Lifecycle.SPOT) is None]
    yield from examination.look_at_quotas(facts, unknown)


def _look_at_traffic(surroundings: Surroundings, agent: Agent) -> Iterator[Finding]:
    owner = None
    if agent.traffic_target is not None:
        owner = surroundings.path_owner(agent.traffic_adapter, agent.traffic_target)
    yield from examination.look_at_path(agent, owner)
