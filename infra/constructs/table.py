"""A DynamoDB table: on demand, encrypted, restorable to any second, and hard to delete outside dev."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.settings import Settings

#: What a conditional write needs, alone or in a transaction, with the read-back that settles an unknown outcome.
CONDITIONAL_WRITES: Final = ("GetItem", "UpdateItem", "ConditionCheckItem")


@dataclass(frozen=True, slots=True)
class Index:
    """A second way into a table. It is eventually consistent: nothing that decides a failover reads one."""

    name: str
    hash_key: str
    range_key: str | None = None


class Table(Construct):
    """One aggregate's rows.

    Attributes:
        name: The physical name, chosen by CloudFormation.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        hash_key: str,
        range_key: str | None = None,
        indexes: tuple[Index, ...] = (),
        expires_by: str | None = None,
    ) -> None:
        """Define the table.

        Args:
            scope: The stack.
            construct_id: The aggregate, in CamelCase.
            settings: The deployment.
            hash_key: A string attribute.
            range_key: A string attribute, or None for one row per hash key.
            indexes: Further access paths.
            expires_by: Attribute with the epoch second after which DynamoDB may delete a row, within days.
        """
        super().__init__(scope, construct_id)
        self._table = dynamodb.Table(
            self,
            "Table",
            partition_key=_string(hash_key),
            sort_key=_string(range_key) if range_key else None,
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.AWS_MANAGED,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            time_to_live_attribute=expires_by,
            deletion_protection=settings.keeps_data,
            removal_policy=settings.removal_policy,
        )
        for index in indexes:
            self._table.add_global_secondary_index(
                index_name=index.name,
                partition_key=_string(index.hash_key),
                sort_key=_string(index.range_key) if index.range_key else None,
                projection_type=dynamodb.ProjectionType.ALL,
            )

    @property
    def name(self) -> str:
        return self._table.table_name

    def allow(self, grantee: iam.IGrantable, *actions: str) -> None:
        """Allow single-row actions and queries by the table's own key.

        Args:
            grantee: Who may.
            actions: Names without the service, such as `GetItem`. A transaction needs the actions of its parts.
        """
        self._grant(grantee, self._table.table_arn, *actions)

    def allow_query_by(self, grantee: iam.IGrantable, *indexes: str) -> None:
        """Allow queries through these indexes, and no others."""
        for index in indexes:
            self._grant(grantee, f"{self._table.table_arn}/index/{index}", "Query")

    @staticmethod
    def _grant(grantee: iam.IGrantable, resource_arn: str, *actions: str) -> None:
        iam.Grant.add_to_principal(
            grantee=grantee, actions=[f"dynamodb:{action}" for action in actions], resource_arns=[resource_arn]
        )


def _string(name: str) -> dynamodb.Attribute:
    return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)
