"""Who ran for an agent, from when to when, and as what."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spot_optimizer.domain.agents import Agent, Instance, Interruption, Switch
from spot_optimizer.domain.pools import Lifecycle
from spot_optimizer.domain.replicas import Replica, ReplicaState
from spot_optimizer.domain.savings import Part, Ran
from spot_optimizer.domain.stretches import presumed_spot, stretches
from tests.builders import NOON, a_replica, a_switch, an_agent, an_instance, an_interruption

MINUTE = timedelta(minutes=1)
POOLS = ("us-east-1a.m5.large", "us-east-1b.m5.large", "us-east-1c.m5.large")


def at(minutes: float) -> datetime:
    return NOON + minutes * MINUTE


def name(number: int) -> str:
    return f"i-{number:017x}"


def pool_of(number: int) -> str:
    return POOLS[number % 3]


def history(*minutes: float) -> tuple[Agent, list[Switch], list[Replica]]:
    """An agent that was handed over at these minutes, each time to a replica launched a minute before."""
    switches, replicas = [], []
    for number, minute in enumerate(minutes, start=1):
        switches.append(
            a_switch(
                switch_id=f"{number + 1:010d}",
                epoch=number + 1,
                from_instance_id=name(number - 1),
                to_instance_id=name(number),
                from_pool_id=pool_of(number - 1),
                to_pool_id=pool_of(number),
                switched_at=at(minute),
            )
        )
        replicas.append(
            a_replica(
                replica_id=f"rep-{number}",
                instance_id=name(number),
                pool_id=pool_of(number),
                status=ReplicaState.PROMOTED,
                created_at=at(minute - 1),
                ended_at=at(minute),
            )
        )
    last = len(minutes)
    return an_agent(primary_instance_id=name(last), primary_pool_id=pool_of(last), epoch=last + 1), switches, replicas


def ran(agent: Agent, switches: list[Switch], replicas: list[Replica], **more: Any) -> tuple[Ran, ...]:
    known: dict[str, Any] = {"instances": {}, "interruptions": (), "now": at(600)}
    return stretches(agent, switches=switches, replicas=replicas, **(known | more))


def primaries(found: tuple[Ran, ...]) -> list[Ran]:
    return [one for one in found if one.part is Part.PRIMARY]


def a_notice(number: int, minutes: float) -> Interruption:
    return an_interruption(instance_id=name(number), event_id=str(number), termination_time=at(minutes))


@given(st.lists(st.integers(1, 599), unique=True, max_size=8).map(sorted), st.randoms(use_true_random=False))
def test_one_primary_follows_the_other_without_a_hole(minutes: list[int], chance: Any) -> None:
    agent, switches, replicas = history(*minutes)
    chance.shuffle(switches)
    found = primaries(ran(agent, switches, replicas))
    assert [one.instance_id for one in found] == [name(number) for number in range(len(minutes) + 1)]
    edges = [NOON, *map(at, minutes), at(600)]
    assert [(one.since, one.until) for one in found] == list(itertools.pairwise(edges))


def test_a_standby_costs_from_its_launch_until_it_is_promoted_or_ends() -> None:
    agent, switches, replicas = history(60)
    replicas.append(a_replica(replica_id="ended", instance_id="i-e", created_at=at(100), ended_at=at(130)))
    replicas.append(a_replica(replica_id="active", instance_id="i-a", created_at=at(200)))
    replicas.append(a_replica(replica_id="never-launched", instance_id=None, created_at=at(200)))
    booted: dict[str, Instance] = {"i-e": an_instance(instance_id="i-e", launched_at=at(101))}
    standbys = [one for one in ran(agent, switches, replicas, instances=booted) if one.part is Part.STANDBY]
    assert [(one.instance_id, one.since, one.until) for one in standbys] == [
        (name(1), at(59), at(60)),
        ("i-e", at(101), at(130)),
        ("i-a", at(200), at(600)),
    ]


def test_a_former_primary_that_stands_by_costs_as_standby_from_then_on() -> None:
    """It was launched long before it became a replica."""
    agent, switches, replicas = history(60)
    replicas.append(a_replica(replica_id="demoted", instance_id=name(0), pool_id=pool_of(0), created_at=at(60)))
    booted = {name(0): an_instance(instance_id=name(0), launched_at=at(-5))}
    found = [one for one in ran(agent, switches, replicas, instances=booted) if one.instance_id == name(0)]
    assert [(one.part, one.since, one.until) for one in found] == [
        (Part.PRIMARY, at(0), at(60)),
        (Part.STANDBY, at(60), at(600)),
    ]


def test_both_instances_of_a_handover_cost_until_aws_takes_the_old_one() -> None:
    agent, switches, replicas = history(90)
    found = ran(agent, switches, replicas, interruptions=[a_notice(0, 91.5)])
    old = [one for one in found if one.instance_id == name(0)]
    assert [(one.part, one.until) for one in old] == [(Part.PRIMARY, at(90)), (Part.STANDBY, at(91.5))]
    assert not any(one.interrupted for one in found), "AWS gives nothing back after the first hour"


def test_all_of_an_instance_is_free_that_a_notice_ends_within_its_first_hour() -> None:
    agent, switches, replicas = history(50)
    found = ran(agent, switches, replicas, interruptions=[a_notice(0, 52)])
    assert {one.is_free for one in found if one.instance_id == name(0)} == {True}
    assert not any(one.is_free for one in found if one.instance_id == name(1))
    older = {name(0): an_instance(instance_id=name(0), launched_at=at(-10))}
    found = ran(agent, switches, replicas, interruptions=[a_notice(0, 52)], instances=older)
    assert not any(one.is_free for one in found), "it ran for 62 minutes, 50 of them before it handed over"


def test_a_death_without_a_notice_ends_an_instance_and_gives_nothing_back() -> None:
    agent, switches, replicas = history(40)
    death = an_interruption(instance_id=name(0), signal_type="state-change", detected_at=at(39))
    found = ran(agent, switches, replicas, interruptions=[death])
    [old] = [one for one in found if one.instance_id == name(0)]
    assert (old.until, old.is_free) == (at(40), False)


def test_a_lost_agent_costs_nothing_after_its_last_primary_went() -> None:
    agent, *_ = history()
    death = an_interruption(instance_id=name(0), signal_type="state-change", detected_at=at(30))
    lost = an_agent(primary_instance_id=agent.primary_instance_id, lost=True)
    [only] = ran(lost, [], [], interruptions=[death])
    assert (only.since, only.until) == (NOON, at(30))


def test_how_a_replica_was_bought_is_known_and_of_a_first_primary_presumed() -> None:
    agent, switches, replicas = history(60)
    replicas[0] = a_replica(
        instance_id=name(1), lifecycle="on-demand", created_at=at(59), ended_at=at(60), pool_id=pool_of(1)
    )
    found = ran(agent, switches, replicas)
    assert {(one.instance_id, one.lifecycle) for one in primaries(found)} == {
        (name(0), Lifecycle.SPOT),
        (name(1), Lifecycle.ON_DEMAND),
    }
    assert presumed_spot(found, replicas) == (name(0),)
