"""A state machine drawn in statemachines/, which may invoke the functions that its definition names, and no other."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Arn, ArnComponents, ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.nag import acknowledge_wildcard
from infra.settings import ROOT, Settings


class StateMachine(Construct):
    """A Standard workflow: an execution's name makes a start idempotent, which Express does not offer.

    Attributes:
        machine: For alarms.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        definition: str,
        substitutes: Mapping[str, Function],
    ) -> None:
        """Define the machine.

        Args:
            scope: The stack.
            construct_id: The definition's name in CamelCase.
            settings: The deployment.
            definition: Name of the file below statemachines/, without `.asl.json`.
            substitutes: Functions that run its tasks, by the name that the definition has for them.
        """
        super().__init__(scope, construct_id)
        log_group = logs.LogGroup(
            self,
            "Log",
            # the prefix spares one entry per machine in the account's log resource policy, which is small
            log_group_name=f"/aws/vendedlogs/states/{_machine_name(settings, definition)}",
            retention=logs.RetentionDays.THREE_MONTHS if settings.keeps_data else logs.RetentionDays.ONE_WEEK,
            removal_policy=settings.removal_policy,
        )
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        arns = {name: function.arn for name, function in substitutes.items()}
        role.add_to_policy(iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=list(arns.values())))
        acknowledge_wildcard(
            role, "*", "Log delivery and X-Ray are granted to a state machine on no narrower resource."
        )
        self.machine = sfn.StateMachine(
            self,
            "Machine",
            state_machine_name=_machine_name(settings, definition),
            definition_body=sfn.DefinitionBody.from_string(
                (ROOT / "statemachines" / f"{definition}.asl.json").read_text()
            ),
            definition_substitutions=arns,
            role=role,
            logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL, include_execution_data=False),
            tracing_enabled=True,
        )


def state_machine_arn(scope: Construct, settings: Settings, definition: str) -> str:
    """Name a machine before it exists: its function starts it, and it invokes its function."""
    return Arn.format(
        ArnComponents(
            service="states",
            resource="stateMachine",
            resource_name=_machine_name(settings, definition),
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        ),
        Stack.of(scope),
    )


def allow_waking_tasks(function: Function) -> None:
    """Allow a function to complete tasks that wait for a token it holds."""
    function.allow(
        "states:SendTaskSuccess",
        on="*",
        wildcard_because="The call names only a task's token, which nobody can guess and which names the execution.",
    )


def allow_following_executions(function: Function, settings: Settings, definition: str) -> None:
    """Allow a function to look what became of any execution of a machine."""
    function.allow(
        "states:DescribeExecution",
        on=Arn.format(
            ArnComponents(
                service="states",
                resource="execution",
                resource_name=f"{_machine_name(settings, definition)}:*",
                arn_format=ArnFormat.COLON_RESOURCE_NAME,
            ),
            Stack.of(function),
        ),
        wildcard_because="An execution has no name before it is started.",
    )


def _machine_name(settings: Settings, definition: str) -> str:
    return settings.physical_name(definition.replace("_", "-"))
