"""How clients reach the primary, as an agent names it when it registers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from spot_optimizer.domain.agents import TrafficAdapter
from spot_optimizer.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Form:
    """What a target looks like.

    Attributes:
        expected: For people.
    """

    pattern: re.Pattern[str]
    expected: str


FORMS: Mapping[TrafficAdapter, Form] = {
    TrafficAdapter.EIP: Form(
        re.compile(r"eipalloc-[0-9a-f]{8,17}"), "an Elastic IP's allocation id, such as eipalloc-0123456789abcdef0"
    ),
    TrafficAdapter.TARGET_GROUP: Form(
        re.compile(
            r"arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]{5,25}:\d{12}:targetgroup/[A-Za-z0-9-]{1,32}/[0-9a-f]{16}"
        ),
        "the ARN of a target group of this region, for instances or addresses",
    ),
    TrafficAdapter.ROUTE53: Form(
        re.compile(r"Z[A-Z0-9]{1,31}/(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}"),
        "a hosted zone's id and the name of an A record in it, such as Z0123456789ABCDEFGHIJ/db.example.com",
    ),
}
"""One form for each adapter that has a target."""


def check_target(adapter: TrafficAdapter, target: str | None) -> None:
    """Refuse what the adapter could not move.

    Raises:
        InvalidRequest: There is no target, it is none of the adapter's, or the adapter has none.
    """
    form = FORMS.get(adapter)
    if form is None:
        if target is not None:
            raise InvalidRequest(
                f"traffic_adapter '{adapter}' moves nothing, and '{target}' is named to be moved",
                field="traffic_target",
                expected=f"no target, or a traffic_adapter that moves it: {', '.join(FORMS)}",
            )
        return
    if target is None or form.pattern.fullmatch(target) is None:
        found = "nothing" if target is None else f"'{target}'"
        raise InvalidRequest(
            f"traffic_adapter '{adapter}' can not move {found}", field="traffic_target", expected=form.expected
        )


def record_of(target: str) -> tuple[str, str]:
    """The hosted zone and the record's name in a `route53` target."""
    zone_id, _, name = target.partition("/")
    return zone_id, name
