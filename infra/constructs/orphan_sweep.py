"""When the sweep for orphans runs."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.clock import invoke_every
from infra.constructs.function import Function

SWEPT_EVERY: Final = "rate(5 minutes)"

#: The next sweep does the work of one that could not be started.
_RUN_IS_OLD_SECONDS = 240


class OrphanSweep(Construct):
    """A rule on the clock."""

    def __init__(self, scope: Construct, construct_id: str, *, sweeper: Function, undeliverable: sqs.Queue) -> None:
        """Define the rule.

        Args:
            scope: The stack.
            construct_id: Of this construct.
            sweeper: Invoked with `{}`.
            undeliverable: Keeps what EventBridge could not hand over.
        """
        super().__init__(scope, construct_id)
        invoke_every(
            self,
            "Sweep",
            SWEPT_EVERY,
            function=sweeper,
            undeliverable=undeliverable,
            old_after_seconds=_RUN_IS_OLD_SECONDS,
        )
