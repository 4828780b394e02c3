"""When workloads are considered for a move, and when it is looked at what their moves came to."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.clock import invoke_every, start_every
from infra.constructs.function import Function
from infra.constructs.state_machine import StateMachine

CONSIDERED_EVERY: Final = "rate(15 minutes)"
REALISED_EVERY: Final = "rate(1 hour)"

#: The next run does the work of one that could not be started.
_RUN_IS_OLD_SECONDS = 600


class SwitchSchedule(Construct):
    """Two rules on the clock."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        switching: StateMachine,
        switcher: Function,
        undeliverable: sqs.Queue,
    ) -> None:
        """Define the rules.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            switching: Started each quarter hour with `{}`.
            switcher: Invoked each hour with the task `RealiseSavings`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        start_every(
            self,
            "Consider",
            CONSIDERED_EVERY,
            machine=switching,
            undeliverable=undeliverable,
            old_after_seconds=_RUN_IS_OLD_SECONDS,
        )
        invoke_every(
            self,
            "Realise",
            REALISED_EVERY,
            function=switcher,
            undeliverable=undeliverable,
            old_after_seconds=_RUN_IS_OLD_SECONDS,
            sent='{"task": "RealiseSavings"}',
        )
