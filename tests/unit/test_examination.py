"""What an examination finds in facts that are right in every way but one."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest

from spot_optimizer.domain.agents import TrafficAdapter
from spot_optimizer.domain.catalogue import InstanceKind
from spot_optimizer.domain.examination import (
    Finding,
    GroupFacts,
    Outcome,
    QuotaFacts,
    RehearsedLaunch,
    Rule,
    SubnetFacts,
    TemplateFacts,
    look_at_groups,
    look_at_launches,
    look_at_path,
    look_at_quotas,
    look_at_state,
    look_at_subnets,
    look_at_template,
    quota_of,
    quotas_needed,
)
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.snapshots import Protection
from tests.builders import CLIENT, NOON, a_heartbeat, an_agent

AGENT = an_agent(subnet_ids=("subnet-a", "subnet-b"))


def outcomes(findings: Iterable[Finding]) -> list[Outcome]:
    found = list(findings)
    assert all(finding.advice for finding in found if finding.outcome is not Outcome.OK), "each says what to do"
    return [finding.outcome for finding in found]


def a_template(**changes: Any) -> TemplateFacts:
    values: dict[str, Any] = {
        "owner": CLIENT,
        "image_id": "ami-1",
        "instance_profile": None,
        "security_group_ids": ("sg-1",),
        "spot_max_price": None,
        "has_user_data": False,
    }
    return TemplateFacts(**(values | changes))


def a_subnet(name: str, **changes: Any) -> SubnetFacts:
    values: dict[str, Any] = {
        "subnet_id": f"subnet-{name}",
        "zone": f"us-east-1{name}",
        "vpc_id": "vpc-1",
        "cidr": "10.0.1.0/24",
        "free_addresses": 200,
        "owner": CLIENT,
    }
    return SubnetFacts(**(values | changes))


ANYWHERE = Rule(protocol="-1", from_port=None, to_port=None, cidrs=("0.0.0.0/0",))


def a_group(group_id: str = "sg-1", *ingress: Rule, egress: tuple[Rule, ...] = (ANYWHERE,)) -> GroupFacts:
    return GroupFacts(group_id=group_id, ingress=ingress, egress=egress)


def on_port(first: int, last: int, **of: Any) -> Rule:
    return Rule(protocol="tcp", from_port=first, to_port=last, **of)


@pytest.mark.parametrize(
    ("protection", "outcome"),
    [
        (Protection.STANDBY, Outcome.OK),
        (Protection.FITS, Outcome.OK),
        (Protection.UNKNOWN, Outcome.UNKNOWN),
        (Protection.UNPROTECTED, Outcome.FAILED),
        (None, Outcome.UNKNOWN),
    ],
)
def test_state_is_held_against_the_notice(protection: Protection | None, outcome: Outcome) -> None:
    told = a_heartbeat(protection=protection, state_bytes=2**40, state_bytes_per_second=1e8)
    assert outcomes(look_at_state(AGENT, told)) == [outcome]


def test_a_lost_or_paused_agent_and_one_that_never_spoke_are_said() -> None:
    assert outcomes(look_at_state(an_agent(lost=True), None)) == [Outcome.FAILED]
    assert outcomes(look_at_state(AGENT, None)) == [Outcome.UNKNOWN]
    paused = an_agent(paused_at=NOON, paused_because="audit")
    assert outcomes(look_at_state(paused, a_heartbeat(protection=Protection.FITS))) == [Outcome.FAILED, Outcome.OK]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, Outcome.OK),
        ({"owner": None}, Outcome.FAILED),
        ({"owner": "globex"}, Outcome.FAILED),
        ({"image_id": None}, Outcome.FAILED),
        ({"spot_max_price": "0.05"}, Outcome.WARNING),
        ({"has_user_data": True}, Outcome.WARNING),
        ({"instance_profile": "arn:aws:iam::1:instance-profile/admin"}, Outcome.WARNING),
        ({"instance_profile": "arn:aws:iam::1:instance-profile/spot-optimizer/prices"}, Outcome.OK),
    ],
)
def test_a_launch_template_is_found_fit_or_not(changes: dict[str, Any], outcome: Outcome) -> None:
    assert outcomes(look_at_template(AGENT, a_template(**changes))) == [outcome]


def test_a_launch_template_that_is_gone_fails() -> None:
    assert outcomes(look_at_template(AGENT, None)) == [Outcome.FAILED]


def test_subnets_need_free_addresses_in_two_zones() -> None:
    assert outcomes(look_at_subnets(AGENT, [a_subnet("a"), a_subnet("b")])) == [Outcome.OK]
    full = a_subnet("b", free_addresses=0)
    assert outcomes(look_at_subnets(AGENT, [a_subnet("a"), full])) == [Outcome.WARNING, Outcome.WARNING]
    others = a_subnet("b", owner="globex")
    assert outcomes(look_at_subnets(AGENT, [a_subnet("a"), others])) == [Outcome.FAILED, Outcome.WARNING]
    assert outcomes(look_at_subnets(AGENT, [a_subnet("a")])) == [Outcome.WARNING, Outcome.WARNING]
    assert outcomes(look_at_subnets(AGENT, [])) == [Outcome.WARNING, Outcome.FAILED]
    assert Outcome.WARNING in outcomes(look_at_subnets(AGENT, [a_subnet("a"), a_subnet("b", vpc_id="vpc-2")]))


@pytest.mark.parametrize(
    ("rule", "reached"),
    [
        (on_port(7443, 7443, group_ids=("sg-1",)), True),
        (on_port(7000, 8000, cidrs=("10.0.0.0/16",)), True),
        (ANYWHERE, True),
        (on_port(7443, 7443, group_ids=("sg-2",)), False),
        (on_port(22, 22, group_ids=("sg-1",)), False),
        (on_port(7443, 7443, cidrs=("10.0.1.0/28",)), False),
        (on_port(7443, 7443, cidrs=("::/0",)), False),
        (Rule(protocol="udp", from_port=7443, to_port=7443, group_ids=("sg-1",)), False),
    ],
)
def test_agents_in_one_group_reach_each_other_or_not(rule: Rule, reached: bool) -> None:
    groups = [a_group("sg-1", rule)]
    found = outcomes(look_at_groups(port=7443, standbys=groups, primary=groups, cidrs=["10.0.1.0/24"]))
    assert found == ([Outcome.OK] if reached else [Outcome.FAILED, Outcome.FAILED])


def test_each_direction_between_two_groups_is_looked_at() -> None:
    primary = [a_group("sg-p", on_port(7443, 7443, group_ids=("sg-s",)))]
    standby = [a_group("sg-s", on_port(7443, 7443, group_ids=("sg-other",)))]
    [finding] = look_at_groups(port=7443, standbys=standby, primary=primary, cidrs=["10.0.1.0/24"])
    assert finding.outcome is Outcome.FAILED
    assert finding.found.startswith("the primary (sg-p) does not reach a standby (sg-s)")
    assert "from sg-p in sg-s" in finding.advice


def test_what_may_be_sent_is_looked_at_too() -> None:
    own = on_port(7443, 7443, group_ids=("sg-1",))
    shut = [a_group("sg-1", own, egress=(own,))]
    found = outcomes(look_at_groups(port=7443, standbys=shut, primary=shut, cidrs=["10.0.1.0/24"]))
    assert found == [Outcome.FAILED, Outcome.FAILED], "neither reaches the API"
    mute = [a_group("sg-1", own, egress=(on_port(443, 443, cidrs=("0.0.0.0/0",)),))]
    found = outcomes(look_at_groups(port=7443, standbys=mute, primary=mute, cidrs=["10.0.1.0/24"]))
    assert found == [Outcome.FAILED, Outcome.FAILED], "neither may send to the other"
    assert outcomes(look_at_groups(port=7443, standbys=[], primary=[], cidrs=[])) == [Outcome.UNKNOWN]


def test_quotas_count_by_family_and_apart_for_spot() -> None:
    spot, on_demand = Lifecycle.SPOT, Lifecycle.ON_DEMAND
    codes = {
        kind: quota.code
        for kind in ("m5.large", "g5.xlarge", "vt1.3xlarge", "p4d.24xlarge")
        if (quota := quota_of(kind, spot))
    }
    assert codes == {
        "m5.large": "L-34B43A08",
        "g5.xlarge": "L-3819A6DF",
        "vt1.3xlarge": "L-3819A6DF",
        "p4d.24xlarge": "L-7212CCBC",
    }
    assert quota_of("mac1.metal", spot) is None, "it begins like a standard family, and is none"
    assert quota_of("inf2.xlarge", on_demand) is None
    kinds = {name: InstanceKind(name, ("x86_64",), vcpus, 1024) for name, vcpus in (("m5.large", 2), ("c5.xlarge", 4))}
    needed = quotas_needed(kinds)
    assert {(quota.code, lifecycle): vcpus for (quota, lifecycle), vcpus in needed.items()} == {
        ("L-34B43A08", spot): 4,
        ("L-1216C47A", on_demand): 4,
    }


@pytest.mark.parametrize(
    ("lifecycle", "limit", "used", "outcome"),
    [
        (Lifecycle.SPOT, Decimal(64), 60, Outcome.OK),
        (Lifecycle.SPOT, Decimal(64), 61, Outcome.FAILED),
        (Lifecycle.ON_DEMAND, Decimal(64), 61, Outcome.WARNING),
        (Lifecycle.SPOT, None, 0, Outcome.UNKNOWN),
        (Lifecycle.SPOT, Decimal(64), None, Outcome.UNKNOWN),
    ],
)
def test_one_more_instance_fits_into_a_quota_or_not(
    lifecycle: Lifecycle, limit: Decimal | None, used: int | None, outcome: Outcome
) -> None:
    quota = quota_of("m5.large", lifecycle)
    assert quota is not None
    facts = QuotaFacts(quota=quota, lifecycle=lifecycle, limit=limit, used=used, needed=4)
    assert outcomes(look_at_quotas([facts], [])) == [outcome]


def test_a_quota_that_is_not_known_here_is_said() -> None:
    assert outcomes(look_at_quotas([], ["inf2.xlarge"])) == [Outcome.UNKNOWN]


def test_a_launch_that_would_be_refused_says_why() -> None:
    fine = RehearsedLaunch(pool_id="us-east-1b.m5.large", lifecycle=Lifecycle.SPOT)
    denied = RehearsedLaunch(
        pool_id="us-east-1c.m5.large", lifecycle=Lifecycle.SPOT, refused_because="UnauthorizedOperation: no"
    )
    first, second = look_at_launches([fine, denied])
    assert (first.outcome, second.outcome) == (Outcome.OK, Outcome.FAILED)
    assert "us-east-1c.m5.large (spot): UnauthorizedOperation" in second.found
    assert "tags" in second.advice
    assert outcomes(look_at_launches([])) == [Outcome.FAILED]


def test_the_traffic_path_must_be_tagged_where_there_is_one() -> None:
    assert outcomes(look_at_path(AGENT, None)) == []
    moved = an_agent(traffic_adapter=TrafficAdapter.EIP, traffic_target="eipalloc-1")
    assert outcomes(look_at_path(moved, CLIENT)) == [Outcome.OK]
    assert outcomes(look_at_path(moved, None)) == [Outcome.FAILED]
    [foreign] = look_at_path(moved, "globex")
    assert foreign.outcome is Outcome.FAILED
    assert "globex" not in foreign.found + foreign.advice, "one client is not told of another"
