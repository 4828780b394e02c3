"""When it is decided for all agents."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.clock import invoke_every
from infra.constructs.function import Function

DECIDED_EVERY: Final = "rate(5 minutes)"

#: The next run does the work of one that could not be started.
_RUN_IS_OLD_SECONDS: Final = 240


class DecisionSchedule(Construct):
    """A rule on the clock."""

    def __init__(self, scope: Construct, construct_id: str, *, decider: Function, undeliverable: sqs.Queue) -> None:
        """Define the rule.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            decider: Invoked each five minutes with `{}`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        invoke_every(
            self,
            "Decide",
            DECIDED_EVERY,
            function=decider,
            undeliverable=undeliverable,
            old_after_seconds=_RUN_IS_OLD_SECONDS,
        )
