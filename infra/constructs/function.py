"""One Lambda function: a folder of functions/, the shared layer, a log that ends, a trace, and a role of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from aws_cdk import Duration, IgnoreMode
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_lambda_destinations import SqsDestination
from constructs import Construct

from infra.constructs.nag import acknowledge, acknowledge_wildcard
from infra.constructs.shared_layer import ARCHITECTURES, MlLayer, SharedLayer
from infra.settings import ROOT, Settings

METRICS_NAMESPACE: Final = "SpotOptimizer"


class Function(Construct):
    """A function whose role may do nothing but write its own log and traces until it is granted more.

    Attributes:
        function: For integrations and targets.
        folder: Below functions/; what it counts carries this name.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        layer: SharedLayer,
        ml_layer: MlLayer | None = None,
        environment: Mapping[str, str],
        timeout_seconds: int,
        memory_megabytes: int,
        failures: sqs.IQueue | None = None,
    ) -> None:
        """Define the function.

        Args:
            scope: The stack.
            construct_id: In CamelCase, the name of a folder below functions/, with a handler.py that has `handle`.
            settings: The deployment.
            layer: What it imports.
            ml_layer: What it scores models with.
            environment: Beside stage and logging; `spot_optimizer.config` is what reads it.
            timeout_seconds: After which Lambda ends it.
            memory_megabytes: Also its share of a CPU, hence of a cold start.
            failures: Where an asynchronous event goes that failed to the end.
        """
        super().__init__(scope, construct_id)
        folder = re.sub(r"(?<!^)(?=[A-Z])", "_", construct_id).lower()
        log_group = logs.LogGroup(
            self,
            "Log",
            retention=logs.RetentionDays.THREE_MONTHS if settings.keeps_data else logs.RetentionDays.ONE_WEEK,
            removal_policy=settings.removal_policy,
        )
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group.grant_write(role)
        self.function = lambda_.Function(
            self,
            "Function",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=ARCHITECTURES[settings.architecture],
            handler="handler.handle",
            code=lambda_.Code.from_asset(
                str(ROOT / "functions" / folder), exclude=["__pycache__"], ignore_mode=IgnoreMode.GLOB
            ),
            layers=[layer.version, ml_layer.version] if ml_layer else [layer.version],
            role=role,
            log_group=log_group,
            logging_format=lambda_.LoggingFormat.JSON,
            tracing=lambda_.Tracing.ACTIVE,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=memory_megabytes,
            retry_attempts=2 if failures else None,
            max_event_age=Duration.minutes(10) if failures else None,
            on_failure=SqsDestination(failures) if failures else None,
            environment={
                "STAGE": settings.stage,
                "POWERTOOLS_SERVICE_NAME": folder,
                "POWERTOOLS_METRICS_NAMESPACE": METRICS_NAMESPACE,
                "POWERTOOLS_LOG_LEVEL": "INFO",
                **environment,
            },
        )
        self._role = role
        self.folder = folder
        acknowledge_wildcard(role, "*", "X-Ray takes segments for no narrower resource.")
        for rule in ("AwsSolutions-L1", "Serverless-LambdaLatestVersion"):
            acknowledge(self.function, rule, "3.13 is what the layer's wheels, every test and the embedded AWS run on.")
        acknowledge(
            self.function,
            "Serverless-LambdaDLQ",
            "Its failure destination keeps more than a dead-letter queue would: the event and the error."
            if failures
            else "It is only ever called synchronously; its caller sees the failure.",
        )

    @property
    def arn(self) -> str:
        return self.function.function_arn

    @property
    def name(self) -> str:
        return self.function.function_name

    @property
    def grantee(self) -> iam.IGrantable:
        """Whom the table and the key grant to."""
        return self.function

    def allow(
        self,
        *actions: str,
        on: str,
        when: Mapping[str, Mapping[str, object]] | None = None,
        wildcard_because: str | None = None,
    ) -> None:
        """Allow actions on one resource.

        Args:
            actions: With their service, such as `states:StartExecution`.
            on: The resource's ARN.
            when: IAM conditions.
            wildcard_because: Needed where `on` has a wildcard: why nothing narrower will do.
        """
        self.function.add_to_role_policy(
            iam.PolicyStatement(actions=list(actions), resources=[on], conditions=dict(when) if when else None)
        )
        if wildcard_because:
            acknowledge_wildcard(self._role, on, wildcard_because)
