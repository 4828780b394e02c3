"""When prices are collected, and when their gaps are filled."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.clock import invoke_every, start_every
from infra.constructs.function import Function
from infra.constructs.state_machine import StateMachine

COLLECTED_EVERY: Final = "rate(5 minutes)"
FILLED_EVERY: Final = "rate(15 minutes)"

#: The next run does the work of one that could not be started.
_RUN_IS_OLD_SECONDS = 240


class PriceSchedule(Construct):
    """Two rules on the clock."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        collector: Function,
        filling: StateMachine,
        undeliverable: sqs.Queue,
    ) -> None:
        """Define the rules.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            collector: Invoked each five minutes.
            filling: Started each quarter hour with `{}`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        invoke_every(
            self,
            "Collect",
            COLLECTED_EVERY,
            function=collector,
            undeliverable=undeliverable,
            old_after_seconds=_RUN_IS_OLD_SECONDS,
        )
        start_every(
            self,
            "Fill",
            FILLED_EVERY,
            machine=filling,
            undeliverable=undeliverable,
            old_after_seconds=_RUN_IS_OLD_SECONDS,
        )
